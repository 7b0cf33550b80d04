//! The header of a qcow2 image, read without any tool.
//!
//! A downloaded image is input of an adversary: its header can name other files of the host as its
//! base or as the place of its data, and tools open those files when they open the image. So the
//! header is read here first, and what refers to other files is refused before `qemu-img` or QEMU
//! see it. [`Header::parse`] takes any bytes and never panics.

use thiserror::Error;

/// Bytes that [`Header::parse`] looks at, at most.
pub const HEADER_LENGTH: usize = 104;
const MAGIC: u32 = 0x5146_49fb;
const DIRTY: u64 = 1;
const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA: u64 = 1 << 2;
/// Incompatible features that QEMU 7.2 knows: the three above, compression type, extended L2.
const KNOWN: u64 = 0b1_1111;

/// What the header says.
#[allow(
    clippy::struct_excessive_bools,
    reason = "independent facts of a foreign format"
)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Version of the format, 2 or 3.
    pub version: u32,
    /// Size of the disk in bytes.
    pub virtual_size: u64,
    /// The image lies over another file, whose name it holds.
    pub has_base: bool,
    /// The data is in another file.
    pub has_data_file: bool,
    /// The content is encrypted.
    pub encrypted: bool,
    /// Writing was interrupted; reference counts may be wrong.
    pub dirty: bool,
    /// QEMU has found contradictions before.
    pub corrupt: bool,
    /// Number of snapshots inside.
    pub snapshots: u32,
}

/// A header that is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HeaderError {
    /// Too short, or no qcow2 image at all.
    #[error("not a qcow2 image")]
    NotQcow2,
    /// An image from another time.
    #[error("qcow2 version {0}, only 2 and 3 are known")]
    Version(u32),
    /// The unit of allocation is out of the format's range.
    #[error("cluster size of 2^{0} bytes, only 2^9 to 2^21 are allowed")]
    ClusterBits(u32),
    /// Reading the image needs something that QEMU doesn't have.
    #[error("unknown incompatible features {0:#x}")]
    Features(u64),
    /// The image refers to another file.
    #[error("the image needs a base image; images must be complete")]
    Base,
    /// The image refers to another file.
    #[error("the image keeps its data in another file; images must be complete")]
    DataFile,
    /// The key is not known here.
    #[error("the image is encrypted")]
    Encrypted,
    /// QEMU would refuse to write to it.
    #[error("the image is marked corrupt")]
    Corrupt,
}

impl Header {
    /// Reads the first bytes of an image ([`HEADER_LENGTH`] are enough).
    pub fn parse(bytes: &[u8]) -> Result<Self, HeaderError> {
        if u32_at(bytes, 0)? != MAGIC {
            return Err(HeaderError::NotQcow2);
        }
        let version = u32_at(bytes, 4)?;
        let features = match version {
            2 => 0,
            3 => u64_at(bytes, 72)?,
            _ => return Err(HeaderError::Version(version)),
        };
        if features & !KNOWN != 0 {
            return Err(HeaderError::Features(features & !KNOWN));
        }
        let cluster_bits = u32_at(bytes, 20)?;
        if !(9..=21).contains(&cluster_bits) {
            return Err(HeaderError::ClusterBits(cluster_bits));
        }
        Ok(Self {
            version,
            virtual_size: u64_at(bytes, 24)?,
            has_base: u64_at(bytes, 8)? != 0,
            has_data_file: features & EXTERNAL_DATA != 0,
            encrypted: u32_at(bytes, 32)? != 0,
            dirty: features & DIRTY != 0,
            corrupt: features & CORRUPT != 0,
            snapshots: u32_at(bytes, 60)?,
        })
    }

    /// Refuses what is not a complete, readable image of its own.
    pub fn require_complete(&self) -> Result<(), HeaderError> {
        if self.has_base {
            return Err(HeaderError::Base);
        }
        self.require_own_data()
    }

    /// Like [`Header::require_complete`], but lets an overlay of ours have its base.
    pub fn require_own_data(&self) -> Result<(), HeaderError> {
        if self.has_data_file {
            Err(HeaderError::DataFile)
        } else if self.encrypted {
            Err(HeaderError::Encrypted)
        } else if self.corrupt {
            Err(HeaderError::Corrupt)
        } else {
            Ok(())
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, HeaderError> {
    let field = bytes.get(at..).and_then(<[u8]>::first_chunk);
    field
        .map(|field| u32::from_be_bytes(*field))
        .ok_or(HeaderError::NotQcow2)
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, HeaderError> {
    let field = bytes.get(at..).and_then(<[u8]>::first_chunk);
    field
        .map(|field| u64::from_be_bytes(*field))
        .ok_or(HeaderError::NotQcow2)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use proptest::prelude::*;

    use super::*;

    fn bytes(version: u32, base: u64, crypt: u32, features: u64) -> Vec<u8> {
        let mut header = vec![0; HEADER_LENGTH];
        header[0..4].copy_from_slice(&MAGIC.to_be_bytes());
        header[4..8].copy_from_slice(&version.to_be_bytes());
        header[8..16].copy_from_slice(&base.to_be_bytes());
        header[20..24].copy_from_slice(&16_u32.to_be_bytes());
        header[24..32].copy_from_slice(&(1_u64 << 30).to_be_bytes());
        header[32..36].copy_from_slice(&crypt.to_be_bytes());
        header[72..80].copy_from_slice(&features.to_be_bytes());
        header
    }

    fn complete(bytes: &[u8]) -> Result<(), HeaderError> {
        Header::parse(bytes)?.require_complete()
    }

    #[test]
    fn complete_images_pass() {
        assert_eq!(complete(&bytes(3, 0, 0, 0)), Ok(()));
        assert_eq!(complete(&bytes(3, 0, 0, DIRTY)), Ok(()));
        assert_eq!(complete(&bytes(2, 0, 0, 0)[..72]), Ok(()));
        let header = Header::parse(&bytes(3, 0, 0, 0)).unwrap();
        assert_eq!(header.virtual_size, 1 << 30);
    }

    #[test]
    fn references_to_other_files_are_refused() {
        assert_eq!(complete(&bytes(3, 512, 0, 0)), Err(HeaderError::Base));
        let data_file = bytes(3, 0, 0, EXTERNAL_DATA);
        assert_eq!(complete(&data_file), Err(HeaderError::DataFile));
    }

    #[test]
    fn unreadable_images_are_refused() {
        assert_eq!(complete(&bytes(3, 0, 2, 0)), Err(HeaderError::Encrypted));
        assert_eq!(
            complete(&bytes(3, 0, 0, CORRUPT)),
            Err(HeaderError::Corrupt)
        );
        assert_eq!(complete(&bytes(4, 0, 0, 0)), Err(HeaderError::Version(4)));
        let future = bytes(3, 0, 0, 1 << 40);
        assert_eq!(complete(&future), Err(HeaderError::Features(1 << 40)));
        assert_eq!(complete(b"QFI\xfb"), Err(HeaderError::NotQcow2));
        assert_eq!(complete(b"\x7fELF"), Err(HeaderError::NotQcow2));
        let mut clusters = bytes(3, 0, 0, 0);
        clusters[23] = 60;
        assert_eq!(complete(&clusters), Err(HeaderError::ClusterBits(60)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_header_or_an_error(tail: Vec<u8>, real: bool) {
            let mut bytes = if real { bytes(3, 0, 0, 0)[..8].to_vec() } else { Vec::new() };
            bytes.extend(tail);
            let _ = Header::parse(&bytes);
        }
    }
}
