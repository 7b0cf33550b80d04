//! The CONFIG partition: a FAT file system that people edit by hand, and that loses power. A broken file
//! is an error that names it, the device's identity is never replaced.

use std::{fs, path::Path};

use controller::{
    ConfigPartition, KeyFiles, Keys as _, Server, Signer as _,
    identity::{CERT_FILE, KEY_FILE, load_or_create},
};
use uplink::Hosts;

use crate::{
    input,
    keys::{DEVICE, ROOT, now},
};

const FILES: [&str; 8] = [
    "server",
    "root-certificate.pem",
    "hosts",
    "soft_serial",
    "onboard.cert.pem",
    "onboard.key.pem",
    CERT_FILE,
    KEY_FILE,
];

/// Takes the parts as its files; an empty part is no file.
pub fn check(bytes: &[u8]) {
    let parts: [&[u8]; 8] = input::parts(bytes);
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    let dir = dir.expect("a directory");
    for (name, content) in FILES.into_iter().zip(parts) {
        if !content.is_empty() {
            fs::write(dir.path().join(name), content).expect("a file");
        }
    }
    match ConfigPartition::read(dir.path()) {
        Ok(partition) => {
            let text = partition.server.as_str();
            assert_eq!(Server::parse(text).expect("the same again").as_str(), text);
            assert_eq!(partition.roots_pem, parts[1]);
        }
        Err(error) => assert!(error.to_string().len() < 2000, "{error}"),
    }
    match KeyFiles::of(dir.path()).onboarding() {
        Ok(Some(signer)) => assert_eq!(signer.certificate().pem(), parts[4]),
        Ok(None) => {}
        Err(error) => assert!(error.to_string().len() < 2000, "{error}"),
    }
    for part in parts {
        let text = String::from_utf8_lossy(part);
        let _ = (Server::parse(&text), Hosts::parse(&text));
    }
    identity(dir.path(), parts[6], parts[7]);
}

fn identity(dir: &Path, cert: &[u8], key: &[u8]) {
    let mut random = |buffer: &mut [u8]| {
        buffer.fill(3);
        Ok(())
    };
    let result = load_or_create(dir, now(), &mut random);
    let there = |name| fs::read(dir.join(name)).unwrap_or_default();
    assert!(
        cert.is_empty() || there(CERT_FILE) == cert,
        "it had another"
    );
    assert!(key.is_empty() || there(KEY_FILE) == key, "it had another");
    match result {
        Ok((signer, made)) => {
            assert_eq!(made, cert.is_empty());
            let again = load_or_create(dir, now(), &mut random).expect("what was made");
            assert!(!again.1 && again.0.certificate() == signer.certificate());
        }
        Err(error) => assert!(error.to_string().len() < 1000, "{error}"),
    }
}

/// Partitions of devices before and after their first boot.
pub fn seeds() -> Vec<Vec<u8>> {
    let (ca, device) = (&*ROOT, &*DEVICE);
    let root = ca.cert_pem.as_bytes();
    let (cert, key) = (device.cert_pem.as_bytes(), device.key_pem.as_bytes());
    let hosts = b"10.0.0.1 evc.example EVC # the controller\n::1 evc\n";
    vec![
        input::join(&[
            b"evc.example:8443\n",
            root,
            hosts,
            b" abc\n",
            cert,
            key,
            b"",
            b"",
        ]),
        input::join(&[b"10.0.0.1", root, b"", b"", b"", b"", cert, key]),
        input::join(&[b"[fe80::1]:443", root, b"", b"", b"", b"", b"", key]),
        input::join(&[b"https://evc.example", b"", b"", b"", b"", b"", cert, b""]),
        input::join(&[
            b"evc\xff",
            &[root, root].concat(),
            b"",
            b"",
            root,
            key,
            root,
            key,
        ]),
    ]
}
