//! Where each blob is on its way, and what the downloader and the verifier are told.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use agent::Turn;
use jiff::Timestamp;
use model::{
    code::Code,
    content::{
        ContentPhase, ContentTreeConfig, DownloadPhase, DownloaderConfig, DownloaderStatus,
        VerifyImageConfig, VerifyImageStatus, VerifyPhase,
    },
    fault::Fault,
    id::Digest,
};

use crate::{
    Desired, Volumemgr,
    plan::voucher::{Voucher, voucher},
};

/// Longest time until a wrong image is fetched again.
const LONGEST_RETRY: Duration = Duration::from_hours(24);

/// A blob, and who wants it.
#[derive(Debug)]
pub struct Blob<'a> {
    /// Its digest.
    pub digest: Digest,
    /// Content trees that name it, also faulty ones, in order.
    pub trees: Vec<&'a ContentTreeConfig>,
    /// Those of them whose image may be fetched.
    pub sound: Vec<&'a ContentTreeConfig>,
    /// Number of the attempt to fetch it.
    pub attempt: u32,
    /// How far it is.
    pub state: State,
    /// A volume that does not exist yet needs it; filled in when space was found.
    pub needed: bool,
}

/// How far a blob is.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// Nothing is there.
    Absent,
    /// Between two tries of a fetch.
    Waiting {
        /// Bytes on the disk.
        done: u64,
        /// Why.
        fault: Option<Fault>,
    },
    /// Bytes are arriving.
    Downloading {
        /// Bytes on the disk.
        done: u64,
        /// Bytes in all, 0 when unknown.
        total: u64,
        /// Of an earlier try.
        fault: Option<Fault>,
    },
    /// Fetched.
    Downloaded {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// 0 to 100 of the verification.
        percent: u8,
        /// What keeps the verifier from going on.
        fault: Option<Fault>,
    },
    /// Fetched and wrong: fetched again after a while.
    Wrong {
        /// What the verifier or the downloader says, with the time of the next try.
        fault: Fault,
        /// Who found out; its row is left as it is, because it keeps the memory of what was found.
        by: Finder,
    },
    /// Verified.
    Loaded {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
}

/// Who can find that a file has another digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finder {
    /// While the bytes arrived; it has thrown them away.
    Downloader,
    /// The one whose word counts for a good digest.
    Verifier,
}

/// Every blob that a content tree names.
pub fn blobs<'a>(turn: &Turn<'a, Volumemgr>) -> BTreeMap<Digest, Blob<'a>> {
    let Turn { desired, now, .. } = *turn;
    let mut blobs: BTreeMap<Digest, Blob<'a>> = BTreeMap::new();
    for tree in desired.trees.values() {
        let digest = tree.sha256;
        let blob = blobs.entry(digest).or_insert_with(|| {
            let (attempt, state) = classify(digest, desired, now);
            Blob {
                digest,
                trees: Vec::new(),
                sound: Vec::new(),
                attempt,
                state,
                needed: false,
            }
        });
        blob.trees.push(tree);
    }
    for blob in blobs.values_mut() {
        blob.trees.sort_by_key(|tree| tree.id);
        let trees = blob.trees.iter().copied();
        blob.sound = trees
            .filter(|tree| tree.fault.is_none() && voucher(turn, tree) == Voucher::Good)
            .collect();
    }
    blobs
}

fn classify(digest: Digest, desired: &Desired, now: Timestamp) -> (u32, State) {
    let key = digest.to_string();
    let asked = desired.own.downloads.get(&key).map(|row| row.attempt);
    let fetched = desired.downloads.as_ref().and_then(|rows| rows.get(&key));
    let verified = desired.verified.as_ref().and_then(|rows| rows.get(&key));
    let attempt = [
        asked,
        fetched.map(|row| row.attempt),
        verified.and_then(mismatch),
    ]
    .into_iter()
    .flatten()
    .max();
    let attempt = attempt.unwrap_or(0);
    match verified {
        Some(VerifyImageStatus {
            phase: VerifyPhase::Verified { path, size_bytes },
            ..
        }) => {
            return (
                attempt,
                State::Loaded {
                    path: path.clone(),
                    size: *size_bytes,
                },
            );
        }
        Some(row) if mismatch(row) == Some(attempt) => {
            let retry = desired.limits.download_retry;
            return wrong(row.fault.as_ref(), Finder::Verifier, attempt, retry, now);
        }
        Some(_) | None => {}
    }
    if let Some(DownloaderStatus {
        attempt: at,
        fault: fault @ Some(Fault {
            code: Code::VerifyDigest,
            ..
        }),
        ..
    }) = fetched
        && *at == attempt
    {
        return wrong(
            fault.as_ref(),
            Finder::Downloader,
            attempt,
            desired.limits.download_retry,
            now,
        );
    }
    let state = match fetched.filter(|row| row.attempt == attempt) {
        Some(DownloaderStatus { phase, fault, .. }) => match phase {
            DownloadPhase::Waiting { done_bytes } => State::Waiting {
                done: *done_bytes,
                fault: fault.clone(),
            },
            DownloadPhase::Downloading {
                done_bytes,
                total_bytes,
            } => State::Downloading {
                done: *done_bytes,
                total: *total_bytes,
                fault: fault.clone(),
            },
            DownloadPhase::Downloaded { path, size_bytes } => {
                let (percent, fault) = match verified.filter(|row| row.attempt == attempt) {
                    Some(VerifyImageStatus {
                        phase: VerifyPhase::Verifying { percent },
                        fault,
                        ..
                    }) => (*percent, fault.clone()),
                    Some(_) | None => (0, None),
                };
                State::Downloaded {
                    path: path.clone(),
                    size: *size_bytes,
                    percent,
                    fault,
                }
            }
        },
        None => State::Absent,
    };
    (attempt, state)
}

fn mismatch(row: &VerifyImageStatus) -> Option<u32> {
    match row.phase {
        VerifyPhase::Mismatch { .. } => Some(row.attempt),
        VerifyPhase::Verifying { .. } | VerifyPhase::Verified { .. } => None,
    }
}

/// Waits twice as long after each wrong image; then the next attempt begins with nothing.
fn wrong(
    fault: Option<&Fault>,
    by: Finder,
    attempt: u32,
    retry: Duration,
    now: Timestamp,
) -> (u32, State) {
    let Some(fault) = fault.cloned() else {
        return (attempt + 1, State::Absent);
    };
    let delay = retry
        .saturating_mul(1 << attempt.min(16))
        .min(LONGEST_RETRY);
    // The clock was set back since, and nobody knows how long that is ago: the next attempt begins a wait that counts.
    // A wait from now on would be another one in each turn, and never end.
    let due = fault.since.checked_add(delay).unwrap_or(now);
    if due <= now || fault.since > now {
        return (attempt + 1, State::Absent);
    }
    let fault = Fault {
        attempts: attempt + 1,
        next: Some(due),
        transient: true,
        ..fault
    };
    (attempt, State::Wrong { fault, by })
}

impl Blob<'_> {
    /// The phase as published.
    pub fn phase(&self) -> ContentPhase {
        match &self.state {
            State::Absent => ContentPhase::Waiting,
            State::Waiting { .. } if !self.needed => ContentPhase::Waiting,
            State::Waiting { done, fault: _ } => ContentPhase::Downloading {
                done_bytes: *done,
                total_bytes: 0,
            },
            State::Downloading {
                done,
                total,
                fault: _,
            } => ContentPhase::Downloading {
                done_bytes: *done,
                total_bytes: *total,
            },
            State::Downloaded { percent, .. } => ContentPhase::Verifying { percent: *percent },
            State::Wrong { .. } => ContentPhase::Failed,
            State::Loaded { .. } => ContentPhase::Loaded,
        }
    }

    /// What keeps it from going on.
    pub fn fault(&self) -> Option<&Fault> {
        match &self.state {
            State::Absent | State::Loaded { .. } => None,
            State::Waiting { fault, .. }
            | State::Downloading { fault, .. }
            | State::Downloaded { fault, .. } => fault.as_ref(),
            State::Wrong { fault, by: _ } => Some(fault),
        }
    }

    /// The verified file.
    pub fn loaded(&self) -> Option<(&PathBuf, u64)> {
        match &self.state {
            State::Loaded { path, size } => Some((path, *size)),
            State::Absent
            | State::Waiting { .. }
            | State::Downloading { .. }
            | State::Downloaded { .. }
            | State::Wrong { .. } => None,
        }
    }

    /// Bytes done and in all (0 when unknown).
    pub fn progress(&self) -> (u64, u64) {
        match &self.state {
            State::Absent | State::Wrong { .. } => (0, self.limit()),
            State::Waiting { done, .. } => (*done, self.limit()),
            State::Downloading { done, total, .. } => (*done, *total),
            State::Downloaded { size, .. } | State::Loaded { size, .. } => (*size, *size),
        }
    }

    /// Bytes that will still be written for it: the rest of the download, then as much again for
    /// the copy or, when that is more, for the `volume` that is made of the copy.
    pub fn cost(&self, volume: u64) -> u64 {
        let (done, total) = self.progress();
        let total = total.max(done);
        match &self.state {
            State::Loaded { .. } => volume,
            State::Absent
            | State::Waiting { .. }
            | State::Downloading { .. }
            | State::Downloaded { .. }
            | State::Wrong { .. } => (total - done).saturating_add(total.max(volume)),
        }
    }

    /// Bytes of it are on the disk or were asked for: it is not given up for lack of space.
    pub fn has_begun(&self, desired: &Desired) -> bool {
        match &self.state {
            State::Absent | State::Wrong { .. } => {
                desired.own.downloads.contains_key(&self.digest.to_string())
            }
            State::Waiting { .. }
            | State::Downloading { .. }
            | State::Downloaded { .. }
            | State::Loaded { .. } => true,
        }
    }

    fn limit(&self) -> u64 {
        self.trees.first().map_or(0, |tree| tree.max_download_bytes)
    }

    /// What the downloader is told.
    pub fn download(&self, desired: &Desired) -> Option<DownloaderConfig> {
        let own = desired.own.downloads.get(&self.digest.to_string());
        match &self.state {
            // The bytes are of no use any more.
            State::Loaded { .. }
            | State::Wrong {
                by: Finder::Verifier,
                ..
            } => return None,
            State::Wrong {
                by: Finder::Downloader,
                ..
            } => {
                return own.filter(|row| row.attempt == self.attempt).cloned();
            }
            State::Absent
            | State::Waiting { .. }
            | State::Downloading { .. }
            | State::Downloaded { .. } => {}
        }
        if !self.needed {
            return None;
        }
        let sound = || self.sound.iter();
        let row = |tree: &&ContentTreeConfig| DownloaderConfig {
            sha256: self.digest,
            datastores: tree.datastores.clone(),
            relative_url: tree.relative_url.clone(),
            max_bytes: tree.max_download_bytes,
            attempt: self.attempt,
        };
        // A fetch that goes on is not disturbed by another tree with the same blob.
        let same = |new: &DownloaderConfig| {
            own.is_some_and(|own| {
                own.datastores == new.datastores && own.relative_url == new.relative_url
            })
        };
        sound()
            .map(row)
            .find(same)
            .or_else(|| sound().map(row).next())
            .or_else(|| self.kept(own))
    }

    /// While no tree is in order what has come is kept: by the last good row, or, after a reboot, by one that
    /// leads nowhere.
    fn kept(&self, own: Option<&DownloaderConfig>) -> Option<DownloaderConfig> {
        let nowhere = |tree: &&ContentTreeConfig| DownloaderConfig {
            sha256: self.digest,
            datastores: Vec::new(),
            relative_url: tree.relative_url.clone(),
            max_bytes: tree.max_download_bytes,
            attempt: self.attempt,
        };
        let own = own.filter(|row| row.attempt == self.attempt).cloned();
        own.or_else(|| self.trees.first().map(nowhere))
    }

    /// What the verifier is told.
    pub fn verification(&self, desired: &Desired) -> Option<VerifyImageConfig> {
        let own = desired.own.verifications.get(&self.digest.to_string());
        match &self.state {
            State::Loaded { path, size } => {
                Some(own.cloned().unwrap_or_else(|| VerifyImageConfig {
                    sha256: self.digest,
                    path: path.clone(),
                    size_bytes: *size,
                    attempt: self.attempt,
                }))
            }
            State::Wrong {
                by: Finder::Verifier,
                ..
            } => own.filter(|row| row.attempt == self.attempt).cloned(),
            State::Downloaded { path, size, .. } if self.needed => Some(VerifyImageConfig {
                sha256: self.digest,
                path: path.clone(),
                size_bytes: *size,
                attempt: self.attempt,
            }),
            State::Downloaded { .. }
            | State::Absent
            | State::Waiting { .. }
            | State::Downloading { .. }
            | State::Wrong {
                by: Finder::Downloader,
                ..
            } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use model::code::Code;

    use super::*;

    #[test]
    fn a_clock_that_was_set_back_begins_the_next_attempt() {
        let at = |second| Timestamp::constant(second, 0);
        let hour = Duration::from_secs(3600);
        let retry = |since, now| {
            let fault = Fault::new(Code::VerifyDigest, "blob x", "another digest", at(since));
            let (attempt, state) = wrong(Some(&fault), Finder::Verifier, 0, hour, at(now));
            let next = match state {
                State::Wrong { fault, .. } => fault.next,
                _ => None,
            };
            (attempt, next)
        };
        assert_eq!(retry(10_000, 10_001), (0, Some(at(13_600))));
        assert_eq!(
            retry(10_000, 10_002),
            retry(10_000, 10_001),
            "it gets nearer"
        );
        assert_eq!(retry(10_000, 13_600), (1, None));
        assert_eq!(retry(10_000, 5), (1, None), "and does not go away for ever");
    }
}
