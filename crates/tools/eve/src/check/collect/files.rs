//! CONFIG and `/persist`.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
    time::Instant,
};

use chain::{SigningRoots, pem};
use controller::{ConfigPartition, ControllerCerts, SoftwareKey};
use jiff::Timestamp;
use serde_json::Value;

use crate::{
    Device,
    check::{
        Fact, Facts,
        facts::{Case, Identity, KeyFile, Saved, Space, Validity},
    },
};

const KEYS: [&str; 2] = ["device.key.pem", "onboard.key.pem"];

pub(super) fn look(root: &Path, device: &Device, facts: &mut Facts) {
    config(&root.join("config"), facts);
    let persist = root.join("persist");
    facts.config.chain = chain(root, device.at);
    facts.saved_config = saved(&persist.join("checkpoint/lastconfig"));
    facts.cases = cases(&persist.join("crash"));
    let why = facts.not_live.clone();
    facts.volume_files = names(&root.join(model::vault::VOLUMES));
    if let Some(why) = why {
        // The disk of a copy is another one.
        facts.persist = Fact::Skipped(why.clone());
        facts.run = Fact::Skipped(why.clone());
        facts.durable_write = Fact::Skipped(why);
    } else {
        facts.persist = space(&persist);
        facts.run = space(&root.join("run"));
        facts.durable_write = durable_write(&persist);
    }
}

/// What an error of looking at a file means for a check.
fn of<T>(path: &Path, error: &io::Error) -> Fact<T> {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            Fact::Skipped(format!("{} is not for this user", path.display()))
        }
        _ => Fact::Failed(format!("{}: {error}", path.display())),
    }
}

fn chained(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn config(dir: &Path, facts: &mut Facts) {
    let copy = facts.not_live.is_some();
    let config = &mut facts.config;
    let server = dir.join("server");
    config.server = match fs::read_to_string(&server) {
        Ok(text) => match controller::Server::parse(&text) {
            Ok(server) => Fact::Known(server.to_string()),
            Err(error) => Fact::Failed(error.to_string()),
        },
        Err(error) => of(&server, &error),
    };
    config.partition = match ConfigPartition::read(dir) {
        Ok(_) => Fact::Known(()),
        Err(controller::PartitionError::Read { path, source }) => of(&path, &source),
        Err(error) => Fact::Failed(chained(&error)),
    };
    config.root = certificates(&dir.join("root-certificate.pem"));
    let tls_roots = dir.join("v2tlsbaseroot-certificates.pem");
    config.tls_roots = if tls_roots.exists() {
        certificates(&tls_roots)
    } else {
        Fact::Skipped("CONFIG has none; the root certificate is used".to_owned())
    };
    config.onboarding = identity(dir, "onboard", copy);
    if !dir.join("onboard.cert.pem").exists() && !dir.join("onboard.key.pem").exists() {
        config.onboarding = Fact::Skipped(
            "CONFIG has none: the controller claims the device certificate".to_owned(),
        );
    }
    config.device = identity(dir, "device", copy);
    config.keys = KEYS
        .iter()
        .filter_map(|name| {
            let found = fs::metadata(dir.join(name)).ok()?;
            Some(KeyFile {
                name,
                mode: found.mode() & 0o7777,
                gid: found.gid(),
            })
        })
        .collect();
}

/// Every certificate of a PEM file.
fn certificates(path: &Path) -> Fact<Vec<Validity>> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => return of(path, &error),
    };
    let blocks = text
        .split(BEGIN)
        .skip(1)
        .map(|block| format!("{BEGIN}{block}"));
    let all: Result<Vec<Validity>, String> =
        blocks.map(|block| validity(block.as_bytes())).collect();
    match all {
        Ok(all) => Fact::Known(all),
        Err(why) => Fact::Failed(format!("{}: {why}", path.display())),
    }
}

fn validity(pem: &[u8]) -> Result<Validity, String> {
    let read = || -> Result<(i64, i64), pem::PemError> {
        let der = pem::first_certificate(pem)?;
        Ok((pem::not_before(&der)?, pem::not_after(&der)?))
    };
    let (from, until) = read().map_err(|error| error.to_string())?;
    let time = |second| Timestamp::from_second(second).map_err(|error| error.to_string());
    Ok(Validity {
        not_before: time(from)?,
        not_after: time(until)?,
    })
}

fn identity(dir: &Path, owner: &str, copy: bool) -> Fact<Identity> {
    let cert = dir.join(format!("{owner}.cert.pem"));
    let key = dir.join(format!("{owner}.key.pem"));
    let text = match fs::read(&cert) {
        Ok(text) => text,
        Err(error) => return of(&cert, &error),
    };
    let validity = match validity(&text) {
        Ok(validity) => validity,
        Err(why) => return Fact::Failed(format!("{}: {why}", cert.display())),
    };
    let key = match fs::read(&key) {
        Ok(key) => match SoftwareKey::from_pem(owner, &text, &key) {
            Ok(_) => Fact::Known(()),
            Err(error) => Fact::Failed(chained(&error)),
        },
        Err(error) if copy && error.kind() == io::ErrorKind::NotFound => {
            Fact::Skipped("copies have no keys".to_owned())
        }
        // Whether there is one, and whether it answers, is another check.
        Err(error) if owner == "device" && error.kind() == io::ErrorKind::NotFound => {
            Fact::Skipped("it is not a file".to_owned())
        }
        Err(error) => of(&key, &error),
    };
    Fact::Known(Identity { validity, key })
}

fn chain(root: &Path, now: Timestamp) -> Fact<()> {
    let saved = root.join("persist/checkpoint/controllercerts");
    let bytes = match fs::read(&saved) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Fact::Skipped("no certificates were saved yet".to_owned());
        }
        Err(error) => return of(&saved, &error),
    };
    let file = root.join("config/root-certificate.pem");
    let roots = match fs::read(&file) {
        Ok(pem) => match SigningRoots::from_pem(&pem) {
            Ok(roots) => roots,
            Err(error) => return Fact::Failed(error.to_string()),
        },
        Err(error) => return of(&file, &error),
    };
    match ControllerCerts::verify(&bytes, &roots, now) {
        Ok(_) => Fact::Known(()),
        Err(error) => Fact::Failed(chained(&error)),
    }
}

fn saved(path: &Path) -> Fact<Saved> {
    match fs::metadata(path) {
        Ok(found) => match found.modified().map(Timestamp::try_from) {
            Ok(Ok(at)) => Fact::Known(Saved {
                bytes: found.len(),
                at,
            }),
            Ok(Err(_)) | Err(_) => Fact::Skipped("the file system keeps no times".to_owned()),
        },
        Err(error) => of(path, &error),
    }
}

fn names(dir: &Path) -> Fact<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) => return of(dir, &error),
    };
    let mut names: Vec<String> = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    Fact::Known(names)
}

fn space(path: &Path) -> Fact<Space> {
    match rustix::fs::statvfs(path) {
        Ok(found) => Fact::Known(Space {
            total: found.f_blocks.saturating_mul(found.f_frsize),
            available: found.f_bavail.saturating_mul(found.f_frsize),
            inodes: found.f_files,
            inodes_free: found.f_favail,
            read_only: found.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY),
        }),
        Err(error) => of(path, &error.into()),
    }
}

/// The way of every persistent object: write, sync, rename, sync the directory; then remove it.
fn durable_write(persist: &Path) -> Fact<std::time::Duration> {
    let begun = Instant::now();
    let new = persist.join(format!(".eve-check-{}", std::process::id()));
    let renamed = persist.join(format!(".eve-check-{}.done", std::process::id()));
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(b"a small file of eve check\n")?;
        file.sync_data()?;
        fs::rename(&new, &renamed)?;
        File::open(persist)?.sync_all()
    };
    let written = write();
    let took = begun.elapsed();
    let _ = fs::remove_file(&new);
    let _ = fs::remove_file(&renamed);
    match written {
        Ok(()) => Fact::Known(took),
        Err(error) => of(persist, &error),
    }
}

/// Evidence, newest first: directories of the supervisor, files of services' panics.
fn cases(dir: &Path) -> Fact<Vec<Case>> {
    match fs::read_dir(dir) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Fact::Known(Vec::new()),
        Err(error) => return of(dir, &error),
    }
    let list = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten();
    let mut cases: Vec<Case> = list(dir)
        .flat_map(|unit| {
            let name = unit.file_name().to_string_lossy().replacen('+', "/", 1);
            list(&unit.path())
                .filter_map(move |entry| case(&name, &entry.path()))
                .collect::<Vec<_>>()
        })
        .collect();
    cases.sort_by_key(|case| std::cmp::Reverse(case.at));
    Fact::Known(cases)
}

fn case(unit: &str, path: &Path) -> Option<Case> {
    let file = if path.is_dir() {
        path.join("reason.json")
    } else {
        path.to_owned()
    };
    let value: Value = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
    let text = |name: &str| value.get(name).and_then(Value::as_str);
    let reason = match (text("Reason"), text("Message")) {
        (Some(reason), _) => reason.to_owned(),
        (None, Some(message)) => format!("panic: {message}"),
        (None, None) => return None,
    };
    Some(Case {
        unit: unit.to_owned(),
        at: text("At")?.parse().ok()?,
        reason,
    })
}
