//! Support bundles, sent by anybody. Only plain files below the bundle's own directory come out, and what
//! comes out can be looked at.

use std::{fs, io::Write as _, path::Path};

use eve::{Snapshot, bundle};
use flate2::{Compression, write::GzEncoder};

use crate::keys::now;

/// Takes it as an archive, and as one before it was compressed.
pub fn check(bytes: &[u8]) {
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    let dir = dir.expect("a directory");
    let mut encoder = GzEncoder::new(Vec::new(), Compression::none());
    encoder.write_all(bytes).expect("memory");
    let packed = encoder.finish().expect("memory");
    for (name, content) in [("a.tgz", bytes), ("b.tgz", &packed)] {
        let path = dir.path().join(name);
        fs::write(&path, content).expect("a file");
        if let Ok(opened) = bundle::open(&path) {
            assert_eq!(opened.manifest().format, 1);
            let root = opened.root();
            let mut found = 0;
            only_plain(&root, &mut found);
            assert!(
                found <= bytes.len() + 1024,
                "{found} bytes of {}",
                bytes.len()
            );
            let _ = Snapshot::load(&root, now());
            let above = root.parent().expect("it is in one");
            assert_eq!(fs::read_dir(above).expect("it").count(), 1, "a stranger");
        }
    }
}

fn only_plain(dir: &Path, found: &mut usize) {
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        let kind = fs::symlink_metadata(&path).expect("a file");
        assert!(kind.is_dir() || kind.is_file(), "{}", path.display());
        if kind.is_dir() {
            only_plain(&path, found);
        } else {
            *found += usize::try_from(kind.len()).expect("a size");
        }
    }
}

/// Bundles as `eve support-bundle` makes them, and worse ones.
pub fn seeds() -> Vec<Vec<u8>> {
    let manifest = r#"{"Format":1,"Version":"0.1.0","At":"2026-11-30T00:00:00Z","Root":"/","Device":"","Files":1,"Bytes":2,"Masked":0,"LeftOut":[]}"#;
    let row = r#"{"Number":3}"#;
    let files = |files: &[(&str, &str)]| {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            // Also names that a well-behaved writer refuses.
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_cksum();
            archive.append(&header, content.as_bytes()).expect("memory");
        }
        archive
    };
    let place = "eve-support/persist/status/zedrouter/UUIDPairToNum";
    let (ready, one) = (format!("{place}/ready"), format!("{place}/a.json"));
    let good = [
        ("eve-support/manifest.json", manifest),
        (&ready, "1\n"),
        (&one, row),
    ];
    let bad = [
        ("eve-support/manifest.json", manifest),
        ("eve-support/../x", "out"),
        ("/tmp/eve-fuzz-escape", "out"),
    ];
    let mut links = files(&good);
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    links
        .append_link(&mut link, "eve-support/run", "/")
        .expect("memory");
    let mut seeds = Vec::new();
    for archive in [files(&good), files(&bad), links] {
        seeds.push(archive.into_inner().expect("memory"));
    }
    seeds
}
