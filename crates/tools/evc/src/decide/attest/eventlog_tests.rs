#![allow(clippy::unwrap_used, clippy::expect_used)]
use std::io::Write as _;

use proptest::prelude::*;

use super::*;

/// A log of these measurements (PCR, type, what was measured and said).
pub(crate) fn log(events: &[(u32, u32, &[u8])]) -> Vec<u8> {
    let mut spec = b"Spec ID Event03\0".to_vec();
    spec.extend([0, 0, 0, 0, 0, 2, 0, 2]);
    spec.extend(2_u32.to_le_bytes());
    for (alg, size) in [(0x4_u16, 20_u16), (ALG_SHA256, 32)] {
        spec.extend(alg.to_le_bytes());
        spec.extend(size.to_le_bytes());
    }
    spec.push(0);
    let mut log = [0_u32.to_le_bytes(), EV_NO_ACTION.to_le_bytes()].concat();
    log.extend([0; 20]);
    log.extend(u32::try_from(spec.len()).unwrap().to_le_bytes());
    log.extend(spec);
    for (pcr, kind, data) in events {
        log.extend(pcr.to_le_bytes());
        log.extend(kind.to_le_bytes());
        log.extend(2_u32.to_le_bytes());
        log.extend(0x4_u16.to_le_bytes());
        log.extend([7; 20]);
        log.extend(ALG_SHA256.to_le_bytes());
        log.extend(Sha256::digest(data));
        log.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
        log.extend(*data);
    }
    log
}

pub(crate) fn packed(log: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(log).unwrap();
    gzip.finish().unwrap()
}

fn utf16le(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

#[test]
fn replay_gives_what_a_tpm_has() {
    let log = log(&[
        (0, EV_NO_ACTION, b"StartupLocality\0\x03"),
        (0, 8, b"firmware 1.2"),
        (0, 4, &[0; 4]),
        (4, 0x8000_0003, b"x"),
    ]);
    let read = parse(&unpack(&packed(&log)).unwrap()).unwrap();
    assert_eq!((read.locality, read.events.len()), (3, 3));
    let mut expected = [0; 32];
    expected[31] = 3;
    for data in [&b"firmware 1.2"[..], &[0; 4]] {
        let mut hash = Sha256::new();
        hash.update(expected);
        hash.update(Sha256::digest(data));
        expected = hash.finalize().into();
    }
    let replayed = read.replay();
    assert_eq!(replayed[&0], expected);
    assert_eq!(replayed.keys().copied().collect::<Vec<_>>(), [0, 4]);
    assert_eq!(read.events[0].text, "firmware 1.2");
    assert_eq!(read.events[1].text, "4 bytes");
}

#[test]
fn events_are_told_in_words() {
    let name = utf16le("SecureBoot");
    let mut variable = vec![1; 16];
    variable.extend(10_u64.to_le_bytes());
    variable.extend(1_u64.to_le_bytes());
    variable.extend(name);
    variable.push(1);
    let file = utf16le("\\EFI\\BOOT\\BOOTX64.EFI\0");
    let mut image = vec![0; 32];
    image.extend([2, 1, 8, 0, 1, 2, 3, 4]);
    image.extend([4, 4]);
    image.extend(u16::try_from(file.len() + 4).unwrap().to_le_bytes());
    image.extend(file);
    image.extend([0x7f, 0xff, 4, 0]);
    let log = log(&[
        (7, 0x8000_0001, &variable),
        (4, 0x8000_0003, &image),
        (8, 0xd, b"grub_cmd: set root=gpt2\0"),
        (9, 0xd, b"evil \x1b[31m text"),
    ]);
    let texts: Vec<String> = parse(&log)
        .unwrap()
        .events
        .into_iter()
        .map(|e| e.text)
        .collect();
    assert_eq!(
        texts[..3],
        [
            "SecureBoot",
            "\\EFI\\BOOT\\BOOTX64.EFI",
            "grub_cmd: set root=gpt2"
        ]
    );
    assert_eq!(texts[3], "15 bytes");
    assert_eq!(kind_name(0xd), "IPL");
    assert_eq!(kind_name(0x1234), "0x1234");
}

#[test]
fn what_is_no_log_is_refused_and_the_blank_end_of_a_buffer_is_none() {
    let good = log(&[(0, 8, b"a")]);
    for cut in 1..good.len() {
        // Only between two events it is a log.
        let whole = cut == good.len() - (4 + 4 + 4 + 2 + 20 + 2 + 32 + 4 + 1);
        assert_eq!(parse(&good[..cut]).is_ok(), whole, "{cut}");
    }
    let blank = [good.clone(), vec![0; 64]].concat();
    assert_eq!(parse(&blank).unwrap().events.len(), 1);
    let erased = [good, vec![0xff; 64]].concat();
    assert_eq!(parse(&erased).unwrap().events.len(), 1);
    assert!(matches!(
        parse(&log(&[(24, 8, b"a")])),
        Err(LogError::Malformed { .. })
    ));
    assert!(matches!(unpack(b"no gzip"), Err(LogError::Packed(_))));
    let bomb = packed(&vec![0; MAX_LOG + 1]);
    assert!(matches!(unpack(&bomb), Err(LogError::Packed(_))));
    assert_eq!(parse(&unpack(b"").unwrap()).unwrap(), EventLog::default());
}

proptest! {
    #[test]
    fn no_bytes_panic(data in prop::collection::vec(any::<u8>(), 0..300), head in any::<bool>()) {
        let log = if head { [log(&[]), data].concat() } else { data };
        if let Ok(read) = parse(&log) {
            let _ = read.replay();
        }
        let _ = unpack(&log);
    }
}
