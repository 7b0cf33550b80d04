//! Headers of disk images that were downloaded. What is taken as complete leads QEMU to no other file,
//! whatever else the header says.

use vmm::qcow2::{HEADER_LENGTH, Header};

/// Reads it as the begin of an image.
pub fn check(bytes: &[u8]) {
    let field = |at: usize| {
        let field = bytes.get(at..at + 8)?;
        Some(u64::from_be_bytes(field.try_into().ok()?))
    };
    let Ok(header) = Header::parse(bytes) else {
        return;
    };
    assert!(header.version == 2 || header.version == 3);
    assert_eq!(Some(header.virtual_size), field(24));
    if bytes.len() > HEADER_LENGTH {
        // What lies behind counts for nothing.
        assert_eq!(Header::parse(&bytes[..HEADER_LENGTH]), Ok(header));
    }
    if header.require_complete().is_ok() {
        assert_eq!(field(8), Some(0), "a base image");
        let features = field(72).filter(|_| header.version == 3).unwrap_or(0);
        assert_eq!(features & 0b110, 0, "corrupt, or data elsewhere");
        assert!(header.require_own_data().is_ok());
    }
}

/// Headers as qemu-img 7.2 makes them.
pub fn seeds() -> Vec<Vec<u8>> {
    let header = |version: u32, base: u64, size: u64, crypt: u32, features: u64| {
        let mut bytes = vec![0; HEADER_LENGTH + 16];
        bytes[..4].copy_from_slice(b"QFI\xfb");
        bytes[4..8].copy_from_slice(&version.to_be_bytes());
        bytes[8..16].copy_from_slice(&base.to_be_bytes());
        bytes[20..24].copy_from_slice(&16_u32.to_be_bytes());
        bytes[24..32].copy_from_slice(&size.to_be_bytes());
        bytes[32..36].copy_from_slice(&crypt.to_be_bytes());
        bytes[72..80].copy_from_slice(&features.to_be_bytes());
        bytes[96..100].copy_from_slice(&4_u32.to_be_bytes());
        bytes[100..104].copy_from_slice(&104_u32.to_be_bytes());
        bytes
    };
    vec![
        header(3, 0, 1 << 30, 0, 0),
        header(2, 0, 1 << 30, 0, 0)[..72].to_vec(),
        header(3, 0x1_0000, u64::MAX, 2, 0b1_1111),
        b"KDMV\x01\0\0\0".to_vec(),
        b"# Disk DescriptorFile\nversion=1\nparentCID=ffffffff\n".to_vec(),
    ]
}
