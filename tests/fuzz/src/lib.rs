//! Bytes from outside: every parser of the product against every byte.
//!
//! A *target* is one boundary: what comes in there, the parsers behind it, and what must hold whatever
//! comes. Each is a module with two functions, `check` (one input) and `seeds` (real objects, to begin
//! with). Besides "no panic, no overflow, bounded time and memory", which hold everywhere, each says
//! in its module what it asserts.
//!
//! Three users of the same functions:
//!
//! - `targets/*.rs`, the fuzzers of cargo-fuzz: `make fuzz` (`FUZZ=minutes` each, `TARGET=name` for one);
//! - `tests/campaign_bytes.rs`, part of `make test`: every seed, everything in `corpus/`, and a thousand
//!   seeded mutations of them, on the stable toolchain and in seconds (`CASES=n`, `SEED=n`);
//! - `src/bin/corpus.rs`: writes the seeds out and sorts new finds in.
//!
//! `corpus/<target>/` holds what the fuzzers found worth keeping, minimised; `corpus/<target>/regression-*` are
//! inputs that once broke something.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a target is a test: it reports by panicking"
)]

pub mod access;
pub mod answers;
pub mod bundle;
pub mod bus;
pub mod certs;
pub mod config;
pub mod dhcp;
pub mod download;
pub mod envelope;
pub mod images;
mod input;
mod keys;
pub mod leases;
pub mod logs;
pub mod logstore;
pub mod manifest;
pub mod mutate;
pub mod partition;
pub mod qmp;
pub mod quotes;
pub mod saved;
pub mod secrets;
pub mod signatures;
pub mod tools;
pub mod units;
pub mod upload;

use std::{fs, path::PathBuf};

/// One boundary of the product.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name; also that of its fuzzer and of its directory in `corpus/`.
    pub name: &'static str,
    /// What comes in there.
    pub what: &'static str,
    /// Takes one input; panics if something does not hold.
    pub check: fn(&[u8]),
    /// Real objects to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

macro_rules! targets {
    ($($name:ident: $what:literal;)+) => {
        /// Every target.
        pub const TARGETS: &[Target] = &[$(Target {
            name: stringify!($name),
            what: $what,
            check: $name::check,
            seeds: $name::seeds,
        }),+];
    };
}

targets! {
    envelope: "signed envelopes, read by the device and by the controller";
    certs: "the controller's certificates";
    config: "a device configuration, translated";
    secrets: "secrets of a configuration, and the certificates that they are encrypted with";
    signatures: "signatures of images, and the certificates of those who made them";
    access: "keys that are to log in, what sshd says, the kernel's lists of sockets";
    quotes: "what TPMs say: event logs, quotes, descriptions of keys";
    saved: "configurations saved on the disk";
    manifest: "manifests and YAML of operators";
    bus: "files of the bus";
    qmp: "what QEMU says";
    dhcp: "frames of DHCP servers";
    leases: "lease files of dnsmasq";
    answers: "bodies and headers of the controller's answers";
    download: "answers of datastores, and unfinished downloads on the disk";
    partition: "the CONFIG partition";
    logs: "lines of services, guests and the kernel";
    logstore: "stored log files and their state";
    units: "requests on the supervisor's socket, and its own files";
    images: "headers of disk images";
    tools: "output of helper programs";
    bundle: "support bundles";
    upload: "what devices send to the controller";
}

impl Target {
    /// The target with this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        TARGETS.iter().find(|target| target.name == name)
    }

    /// Where its kept inputs are.
    pub fn corpus_dir(&self) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(self.name)
    }

    /// The kept inputs with their names, in order.
    pub fn corpus(&self) -> Vec<(String, Vec<u8>)> {
        let entries = fs::read_dir(self.corpus_dir()).into_iter().flatten();
        let mut inputs: Vec<(String, Vec<u8>)> = entries
            .map(|entry| entry.expect("a corpus that can be listed"))
            .map(|entry| {
                let name = entry.file_name().to_string_lossy().into_owned();
                let bytes = fs::read(entry.path()).expect("a corpus that can be read");
                (name, bytes)
            })
            .collect();
        inputs.sort();
        inputs
    }
}
