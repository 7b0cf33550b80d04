//! `eve put` and `eve delete`: feeding a service that runs alone.

use std::{fs, io::Read as _, path::Path};

use bus::Bus;
use model::service::ServicePhase;
use serde_json::Value;

use super::{
    Verdict,
    args::{DeleteArgs, Global, PutArgs},
};
use crate::{Device, Error, Snapshot, device, process, snapshot::IDENTITY};

/// Larger input is not an object.
const LARGEST: u64 = 64 << 20;

pub(super) fn put(global: &Global, args: &PutArgs) -> Result<Verdict, Error> {
    let PutArgs {
        service,
        topic,
        key,
        file,
        ready,
        force,
        unchecked,
    } = args;
    let value = read(file)?;
    let checked = device::check(service, topic, &value);
    match checked {
        _ if *unchecked => {}
        Some(Ok(())) => {}
        Some(Err(reason)) => {
            return Err(Error::Json {
                path: file.clone(),
                expected: format!("an object of {service}/{topic}"),
                reason: format!("{reason} (--unchecked puts it all the same)"),
            });
        }
        None => {
            return Err(Error::NotFound {
                kind: "topic".to_owned(),
                name: format!("{service}/{topic}"),
                hint: " in this version (--unchecked makes it)".to_owned(),
            });
        }
    }
    if !*force {
        idle(&global.root, service)?;
    }
    let bus = Bus::open(&global.root, IDENTITY)?;
    bus.put_raw(service, topic, key, &value)?;
    if *ready {
        bus.set_ready_raw(service, topic)?;
    }
    Ok(Verdict::Good)
}

pub(super) fn delete(global: &Global, args: &DeleteArgs) -> Result<Verdict, Error> {
    let DeleteArgs {
        service,
        topic,
        key,
        force,
    } = args;
    if !*force {
        idle(&global.root, service)?;
    }
    let bus = Bus::open(&global.root, IDENTITY)?;
    if bus.delete_raw(service, topic, key)? {
        Ok(Verdict::Good)
    } else {
        Err(Error::NotFound {
            kind: "object".to_owned(),
            name: format!("{service}/{topic}/{key}"),
            hint: String::new(),
        })
    }
}

fn read(file: &Path) -> Result<Value, Error> {
    let failed = |source| Error::Io {
        action: "read",
        path: file.to_owned(),
        source,
    };
    let mut text = Vec::new();
    if file == Path::new("-") {
        let input = std::io::stdin().lock();
        input.take(LARGEST).read_to_end(&mut text).map_err(failed)?;
    } else {
        let input = fs::File::open(file).map_err(failed)?;
        input.take(LARGEST).read_to_end(&mut text).map_err(failed)?;
    }
    serde_json::from_slice(&text).map_err(|error| Error::Json {
        path: file.to_owned(),
        expected: "JSON".to_owned(),
        reason: error.to_string(),
    })
}

/// Refuses while the service runs: it would overwrite the object, or act on a wrong one.
fn idle(root: &Path, service: &str) -> Result<(), Error> {
    let process = by_supervisor(root, service).or_else(|| process::by_hand(root, service));
    match process {
        None => Ok(()),
        Some(pid) => Err(Error::Refused {
            reason: format!(
                "{service} runs (pid {pid}) and is the only writer of its topics; stop it, or insist with --force"
            ),
        }),
    }
}

/// The process that the supervisor runs it as, if that lives.
fn by_supervisor(root: &Path, service: &str) -> Option<u32> {
    let snapshot = Snapshot::load(root, jiff::Timestamp::now()).ok()?;
    let device = Device::of(&snapshot);
    let pid = match device.services.get(service)?.phase {
        ServicePhase::Starting { pid, .. }
        | ServicePhase::Running { pid, .. }
        | ServicePhase::Stopping { pid, .. } => pid,
        ServicePhase::Waiting { .. } | ServicePhase::Backoff { .. } | ServicePhase::Stopped => {
            return None;
        }
    };
    // The row may be older than a crash of both.
    let is_it =
        process::program(&process::command_line(pid)?).is_some_and(|program| program == service);
    is_it.then_some(pid)
}
