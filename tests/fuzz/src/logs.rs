//! Lines of services, their helpers, guests and the kernel. Every byte of a source is in exactly one
//! piece, and every entry is one line of JSON that says what was printed.

use eve::output::Output;
use newlogd::{
    entry::{Entry, Level},
    line::{KernelRecord, LONGEST, console, kernel, kernel_record, pieces, unit},
};

use crate::keys::now;

const PLAIN: Output = Output {
    json: false,
    colour: false,
    width: None,
};

/// Takes it as the output of each kind of source.
pub fn check(bytes: &[u8]) {
    for all in [false, true] {
        complete(bytes, all);
    }
    for (_, piece) in pieces(bytes, true).0 {
        if let Some((level, entry)) = unit("nim", piece, now()) {
            assert_eq!(entry.source, "nim");
            assert_eq!(Level::of_property(&entry.severity), level);
            one_line(&entry, piece);
        }
        if let Some(entry) = console("app", piece, now()) {
            assert_eq!((&*entry.source, &*entry.iid), ("guest_vm", "app"));
            one_line(&entry, piece);
        }
        let text = String::from_utf8_lossy(piece);
        let shown = eve::logline::parse("nim", &text);
        let _ = eve::logline::text(PLAIN, &shown, 80);
    }
    if let Some(record) = kernel_record(bytes) {
        let KernelRecord { severity, text, .. } = &record;
        assert!(*severity < 8 && !text.contains('\n'));
        one_line(&kernel(&record, now()).1, bytes);
    }
}

fn complete(bytes: &[u8], all: bool) {
    // Ends of lines, and blocks that a power cut took.
    let is_end = |bytes: &[u8]| bytes.iter().all(|byte| matches!(byte, b'\n' | 0));
    let (pieces, taken) = pieces(bytes, all);
    let mut next = 0;
    for (at, piece) in &pieces {
        assert!(is_end(&bytes[next..*at]), "a gap before {at}");
        assert!(piece.len() <= LONGEST && !piece.contains(&b'\n') && !piece.contains(&0));
        assert_eq!(*piece, &bytes[*at..at + piece.len()]);
        next = at + piece.len();
    }
    assert!(is_end(&bytes[next..taken]), "a gap at the end");
    assert!(taken == bytes.len() || (!all && bytes.len() - taken <= LONGEST));
}

fn one_line(entry: &Entry, piece: &[u8]) {
    let json = entry.json();
    assert!(!json.contains(['\n', '\r', '<', '>', '&']), "{json}");
    let back: Entry = serde_json::from_str(&json).expect("what was written");
    assert_eq!(back, *entry);
    // What isn't UTF-8 becomes three bytes for one; quoting makes six of one, in JSON twice.
    assert!(entry.content.len() <= 8 * piece.len() + 64);
}

/// Lines that were printed.
pub fn seeds() -> Vec<Vec<u8>> {
    let service = br#"{"timestamp":"2026-11-30T03:04:05.25Z","level":"WARN","message":"download failed","app":"web 1","n":3,"nested":{"a":[1,null]},"target":"downloader::world"}"#;
    let mut long = vec![b'x'; LONGEST + 5];
    long.extend_from_slice("€\n".as_bytes());
    vec![
        service.to_vec(),
        b"dnsmasq[12]: started, version 2.90\r\nlease 10.1.0.2\n".to_vec(),
        b"\x1b[0;32m[  OK  ]\x1b[0m Started \xff\xfe service.\r\nlogin: ".to_vec(),
        b"30,507,2501441,-;usb 1-1: new device\n SUBSYSTEM=usb\n DEVICE=+usb:1-1\n".to_vec(),
        b"6,18446744073709551615,18446744073709551615,-,caller=T1;last\n".to_vec(),
        b"a line\n\0\0\0\0\0half of one\0\nanother\n".to_vec(),
        br#"{"timestamp":"-009999-01-02T01:59:59Z","level":"ERROR"}"#.to_vec(),
        long,
    ]
}
