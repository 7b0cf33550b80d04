//! The decision: what to fetch from where, what to throw away, what to say. Pure.

use std::collections::BTreeMap;

use agent::{Job, Plan, Turn};
use model::{
    code::Code,
    content::{DatastoreConfig, DownloadPhase, DownloaderConfig, DownloaderStatus},
    fault::Fault,
};

use crate::{Desired, Do, Downloader, Files, Order, Published, subject};

/// See the crate's documentation for the rules.
pub fn plan(turn: &Turn<'_, Downloader>) -> Plan<Downloader> {
    let Turn {
        desired, actual, ..
    } = *turn;
    let mut plan: Plan<Downloader> = Plan::report(Published::default());
    let Some(files) = &desired.files else {
        keep_everything(turn, &mut plan.report);
        return plan;
    };
    for digest in actual
        .files
        .keys()
        .filter(|digest| !files.contains_key(&digest.to_string()))
    {
        plan.actions.push(Do::Discard(*digest));
    }
    for file in files.values() {
        let (row, action) = wanted(turn, file);
        plan.report.files.insert(file.sha256.to_string(), row);
        plan.actions.extend(action);
    }
    plan
}

/// Before volumemgr has spoken: what is there, and what was said about what is not.
fn keep_everything(turn: &Turn<'_, Downloader>, report: &mut Published) {
    let Turn {
        desired, actual, ..
    } = *turn;
    for (key, row) in desired.own.iter().filter(|(_, row)| is_wrong(row)) {
        report.files.insert(key.clone(), row.clone());
    }
    for (digest, files) in &actual.files {
        let row = DownloaderStatus {
            sha256: *digest,
            attempt: desired
                .own
                .get(&digest.to_string())
                .map_or(0, |row| row.attempt),
            phase: resting(files),
            port: String::new(),
            fault: None,
        };
        report.files.insert(digest.to_string(), row);
    }
}

fn wanted(turn: &Turn<'_, Downloader>, file: &DownloaderConfig) -> (DownloaderStatus, Option<Do>) {
    let Turn {
        desired,
        actual,
        jobs,
        now,
        ..
    } = *turn;
    let DownloaderConfig {
        sha256, attempt, ..
    } = file;
    let old = desired.own.get(&sha256.to_string());
    let nothing = Files::default();
    let files = actual.files.get(sha256).unwrap_or(&nothing);
    let mut row = DownloaderStatus {
        sha256: *sha256,
        attempt: *attempt,
        phase: resting(files),
        port: String::new(),
        fault: None,
    };
    if let Some(old) = old.filter(|old| old.attempt != *attempt && *files != nothing) {
        // Until they are gone the bytes are those of the former attempt.
        row.attempt = old.attempt;
        row.phase = DownloadPhase::Waiting { done_bytes: 0 };
        return (row, Some(Do::Discard(*sha256)));
    }
    if files.complete.is_some() {
        return (row, files.partial.map(|_| Do::Tidy(*sha256)));
    }
    if let Some(old) = old.filter(|old| old.attempt == *attempt && is_wrong(old)) {
        return (old.clone(), None);
    }
    match jobs.get(&subject(*sha256)) {
        Some(Job::Failed(fault)) if fault.code == Code::VerifyDigest => {
            // This attempt is over; the next turn finds the row.
            row.fault = Some(Fault {
                next: None,
                ..fault.clone()
            });
            return (row, None);
        }
        Some(Job::Failed(fault)) => row.fault = Some(fault.clone()),
        Some(Job::Running {
            progress, after, ..
        }) => {
            // Without a port it waits for its turn. With bytes on their way what was before is over.
            if progress.note.is_empty() {
                row.fault.clone_from(after);
            } else {
                row.port.clone_from(&progress.note);
                row.phase = DownloadPhase::Downloading {
                    done_bytes: progress.done,
                    total_bytes: progress.total,
                };
            }
        }
        None => {}
    }
    match order(desired, file) {
        Next::Fetch(order) => (row, Some(Do::Fetch(Box::new(order)))),
        Next::Wait => (row, None),
        Next::Blocked { code, text } => {
            let fault = Fault::new(code, subject(*sha256), text, now).transient(true);
            row.fault = Some(fault.continuing(old.and_then(|old| old.fault.as_ref())));
            (row, None)
        }
    }
}

/// What happens next with a file that is not there.
enum Next {
    Fetch(Order),
    /// For a service that has not spoken yet.
    Wait,
    /// For a change that somebody should know of.
    Blocked {
        code: Code,
        text: String,
    },
}

fn order(desired: &Desired, file: &DownloaderConfig) -> Next {
    let (Some(table), Some(network)) = (&desired.datastores, &desired.network) else {
        return Next::Wait;
    };
    let mut datastores: Vec<DatastoreConfig> = Vec::new();
    let mut keys = BTreeMap::new();
    let mut faulty: Option<(Code, String)> = None;
    for id in &file.datastores {
        match table.get(&id.to_string()) {
            Some(DatastoreConfig {
                fault: Some(fault), ..
            }) => faulty = faulty.or(Some((fault.code, fault.line()))),
            Some(datastore) => {
                if let Some(login) = &datastore.credentials {
                    let (Some(contexts), Some(certs)) = (&desired.contexts, &desired.certs) else {
                        return Next::Wait;
                    };
                    match cipher::Keys::find(login, contexts, certs) {
                        Ok(found) => keys.insert(*id, found),
                        Err(error) => {
                            let text = format!("login of datastore {id}: {}", chain(&error));
                            faulty = faulty.or(Some((error.code(), text)));
                            continue;
                        }
                    };
                }
                datastores.push(datastore.clone());
            }
            None => {}
        }
    }
    if datastores.is_empty() {
        let (code, text) = faulty.unwrap_or_else(|| {
            let text = "none of its datastores is in the config";
            (Code::ConfigReference, text.to_owned())
        });
        return Next::Blocked { code, text };
    }
    let limits = desired.limits;
    let (mut ports, _) = uplink::status::ports(network);
    let choice = uplink::Choice {
        iteration: 0,
        max_cost: limits.max_cost,
    };
    if let Err(none) = uplink::attempts(&ports, &choice) {
        return Next::Blocked {
            code: Code::DownloadNetwork,
            text: none.to_string(),
        };
    }
    // Ports that are of no use may change without disturbing a fetch.
    ports.retain(|port| port.is_mgmt && port.cost <= limits.max_cost);
    Next::Fetch(Order {
        file: file.clone(),
        datastores,
        keys,
        ports,
        limits,
    })
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    std::iter::once(error.to_string())
        .chain(causes.map(ToString::to_string))
        .collect::<Vec<_>>()
        .join(": ")
}

/// The phase of a file that nobody works on.
fn resting(files: &Files) -> DownloadPhase {
    match &files.complete {
        Some((path, size)) => DownloadPhase::Downloaded {
            path: path.clone(),
            size_bytes: *size,
        },
        None => DownloadPhase::Waiting {
            done_bytes: files.partial.unwrap_or(0),
        },
    }
}

fn is_wrong(row: &DownloaderStatus) -> bool {
    row.fault
        .as_ref()
        .is_some_and(|fault| fault.code == Code::VerifyDigest)
}
