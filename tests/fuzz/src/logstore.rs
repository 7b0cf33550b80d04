//! Stored logs after a power cut: compressed files, the state of the collection, names in a directory,
//! and sources whose beginning an attribute tells. Lines stay what they are; a position is never before
//! the beginning of what is there.

use std::{fs, path::Path};

use logfile::{Read, bound, extent, part_path, read};
use newlogd::{
    gzip::{Header, Origin, Packer, unpack, with_device},
    name::FileName,
    state::State,
};
use rustix::fs::{XattrFlags, setxattr};

use crate::input;

const DEVICE: &str = "00000000-0000-4000-8000-000000000001";

/// Takes it as each of the files.
pub fn check(bytes: &[u8]) {
    if let Some(named) = with_device(bytes, DEVICE)
        && let Ok(content) = unpack(bytes)
    {
        let again = unpack(&named).expect("the same lines");
        assert_eq!(again.text, content.text);
        assert_eq!(
            again.origin.map(|origin| origin.device),
            Some(DEVICE.to_owned())
        );
        assert_eq!(with_device(&named, DEVICE), None, "it has one now");
    }
    if let Ok(state) = serde_json::from_slice::<State>(bytes) {
        let json = serde_json::to_vec(&state).expect("JSON");
        assert_eq!(serde_json::from_slice::<State>(&json).ok(), Some(state));
    }
    let [name, mark, content, older_mark, older] = input::parts(bytes);
    let name = String::from_utf8_lossy(name);
    if let Ok(parsed) = name.parse::<FileName>() {
        let text = parsed.to_string();
        assert_eq!(text.parse::<FileName>(), Ok(parsed));
        assert!(!text.contains('/'));
    }
    source([(mark, content), (older_mark, older)]);
}

/// A source and an older part of it, with any attribute.
fn source(files: [(&[u8], &[u8]); 2]) {
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    let dir = dir.expect("a directory");
    let log = dir.path().join("a.log");
    for (path, (mark, content)) in [log.clone(), part_path(&log, 1)].iter().zip(files) {
        fs::write(path, content).expect("a file");
        // Where files have no attributes they begin at 0.
        let _ = setxattr(path, "user.eve.log", mark, XattrFlags::empty());
    }
    for round in 0..2 {
        let all = extent(&log).expect("a file");
        if let Some(all) = all {
            assert!(all.base <= all.end);
            let ends = [0, all.base, all.end, all.base / 2];
            for from in ends
                .into_iter()
                .chain([u64::MAX, all.end.saturating_add(1)])
            {
                asked(&log, from);
            }
        }
        if round == 0 {
            // What was left half done is completed by the one who cuts.
            let _ = bound(&log, 64, 2);
        }
    }
}

fn asked(log: &Path, from: u64) {
    match read(log, from, 100).expect("a file") {
        Read::Data { at, bytes } => {
            assert!(at >= from, "older than what was asked for");
            assert!(bytes.len() <= 100);
        }
        Read::Busy | Read::Absent => {}
    }
}

/// Files as they are written, and states.
pub fn seeds() -> Vec<Vec<u8>> {
    let packed = |header: Header| {
        let mut packer = Packer::new(header, 1_800_000_000);
        for line in [
            r#"{"content":"a","msgid":1}"#,
            r#"{"content":"b","msgid":2}"#,
        ] {
            assert!(packer.push(line).expect("a line").is_none());
        }
        packer.finish().expect("a file").expect("lines").bytes
    };
    let state = serde_json::to_vec(&State::default()).expect("JSON");
    let full = br#"{"Version":1,"LastMsgid":18446744073709551615,"LastMs":7,"Sources":{"nim":{"Inode":1,"Born":2,"Offset":3}},"Kernel":{"Boot":"b","Next":18446744073709551615},"Renames":[{"Temporary":"x","To":{"Dir":"devUpload","Name":"dev.log.1.gz"}}],"Removals":[],"Losses":{"dev":{"Files":1,"Lines":2,"FirstMs":3,"LastMs":4}}}"#;
    let lines = "a line of a log\n".repeat(12);
    let lines = lines.as_bytes();
    vec![
        packed(Header::Device(Origin::default())),
        packed(Header::App("web \u{e9}".to_owned())),
        state,
        full.to_vec(),
        input::join(&[b"dev.log.1800000000123.gz", b"1000", lines, b"808", lines]),
        input::join(&[
            b"app.00000000-0000-4000-8000-000000000001.log.7.gz",
            b"1000+64",
            lines,
            b"1000",
            lines,
        ]),
        input::join(&[
            b"x",
            b"18446744073709551615",
            lines,
            b"18446744073709551600",
            lines,
        ]),
        input::join(&[b"x", b"0+18446744073709551615", lines, b"", b""]),
    ]
}
