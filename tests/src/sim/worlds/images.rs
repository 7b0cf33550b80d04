//! The downloader's and the verifier's directories.

use std::sync::{Mutex, MutexGuard, PoisonError};

use std::collections::BTreeMap;

use agent::{Clock, Failure, Progress, World};
use downloader::{Downloader, Files, Order};
use model::{code::Code, content::VerifyImageConfig, id::Digest};
use tokio::time::sleep;
use verifier::{Found, Verifier};

use crate::sim::{
    machine::{Machine, State, download_path, verified_path},
    wish::image_bytes,
};

/// Bytes arrive in so many pieces.
const PIECES: u64 = 6;

/// `/persist/vault/downloader/downloads`
pub(crate) struct Downloads(Machine);

/// What became of a piece.
enum Piece {
    More(u64),
    Done,
}

impl Downloads {
    pub(crate) fn open(machine: &Machine, _: &Clock) -> Self {
        Self(machine.clone())
    }

    async fn fetch(&self, order: &Order, progress: &Progress) -> Result<(), Failure> {
        let digest = order.file.sha256;
        let object = downloader::subject(digest);
        assert!(!order.ports.is_empty() && !order.datastores.is_empty());
        self.0.takes(200).await;
        progress.note("eth0");
        loop {
            let piece = self.0.with(|s| piece(s, digest, &object))?;
            match piece {
                Piece::Done => return Ok(()),
                Piece::More(done) => progress.set(done, image_bytes(digest.0[0])),
            }
            self.0.takes(400).await;
        }
    }
}

/// Delivers a piece of a file onto the disk.
fn piece(s: &mut State, digest: Digest, object: &str) -> Result<Piece, Failure> {
    let fail = |code, text: &str| Failure::new(code, object, text);
    if !s.kernel.is_connected() || s.datastore.down {
        return Err(fail(Code::DownloadNetwork, "no answer").transient());
    }
    if s.datastore.refuses {
        return Err(fail(Code::DownloadRefused, "answered 404"));
    }
    if s.chance.one_in(s.datastore.breaks_one_in) {
        return Err(fail(Code::DownloadShort, "the connection broke").transient());
    }
    let total = image_bytes(digest.0[0]);
    let entry = s.disk.downloads.entry(digest).or_default();
    if entry.complete.is_some() {
        s.violate(format!("{object} is fetched though it is there"));
        return Ok(Piece::Done);
    }
    let done = entry.partial.unwrap_or(0);
    let next = (done + total.div_ceil(PIECES)).min(total);
    if s.disk.free() < next - done {
        return Err(fail(Code::VolumeSpace, "the disk is full").transient());
    }
    let wrong = s.datastore.wrong;
    let entry = s.disk.downloads.entry(digest).or_default();
    entry.partial = Some(next);
    entry.wrong |= wrong;
    let is_wrong = entry.wrong;
    let served = s.datastore.served.entry(digest).or_default();
    *served += next - done;
    if *served > total {
        let text = format!("{object} is fetched twice: {served} of {total} bytes");
        s.violate(text);
    }
    if next < total {
        return Ok(Piece::More(next));
    }
    if is_wrong {
        // A wrong file is a reason to fetch it from scratch.
        s.datastore.served.remove(&digest);
        // What arrives is hashed; what is damaged later is found by the verifier.
        if s.chance.one_in(2) {
            s.disk.downloads.remove(&digest);
            return Err(fail(Code::VerifyDigest, "another digest"));
        }
    }
    // What it was made from goes last, and may be overtaken by the next turn.
    let left = s.chance.one_in(8).then_some(0);
    let entry = s.disk.downloads.entry(digest).or_default();
    entry.complete = std::mem::replace(&mut entry.partial, left);
    Ok(Piece::Done)
}

impl World<Downloader> for Downloads {
    async fn observe(&self, _: &downloader::Desired) -> Result<downloader::Actual, Failure> {
        let files = self.0.with(|s| {
            s.looks_into_vault("downloader");
            let files = s.disk.downloads.iter().map(|(digest, file)| {
                let complete = file.complete.map(|size| (download_path(*digest), size));
                (
                    *digest,
                    Files {
                        complete,
                        partial: file.partial,
                    },
                )
            });
            files.collect()
        });
        Ok(downloader::Actual { files })
    }

    async fn apply(&self, action: downloader::Do, progress: Progress) -> Result<(), Failure> {
        match action {
            downloader::Do::Fetch(order) => self.fetch(&order, &progress).await,
            downloader::Do::Discard(digest) => {
                self.0.with(|s| {
                    s.disk.downloads.remove(&digest);
                    // What no volume is made of is not kept, and comes again if one is.
                    let wish = s.truth.wish.as_ref();
                    let wanted = wish.is_some_and(|wish| {
                        let mut images = wish.volumes().map(|(_, app)| app.image);
                        images.any(|image| crate::sim::wish::digest(image) == digest)
                    });
                    if !wanted {
                        s.datastore.served.remove(&digest);
                    }
                });
                Ok(())
            }
            downloader::Do::Tidy(digest) => {
                self.0.with(|s| {
                    s.disk
                        .downloads
                        .get_mut(&digest)
                        .map(|file| file.partial = None)
                });
                Ok(())
            }
        }
    }
}

/// `/persist/vault/verifier/verified`
pub(crate) struct Verified {
    machine: Machine,
    wrong: Mutex<BTreeMap<(Digest, u32), Found>>,
}

impl Verified {
    pub(crate) fn open(machine: &Machine, _: &Clock) -> Self {
        Self {
            machine: machine.clone(),
            wrong: Mutex::default(),
        }
    }

    fn wrong(&self) -> MutexGuard<'_, BTreeMap<(Digest, u32), Found>> {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn verify(&self, config: VerifyImageConfig, progress: Progress) -> Result<(), Failure> {
        let digest = config.sha256;
        let object = verifier::subject(digest);
        let (name, size) = self.machine.with(|s| {
            let complete = s.disk.downloads.get(&digest).and_then(|file| file.complete);
            let Some(size) = complete else {
                return Err(Failure::new(Code::VerifyRead, object.clone(), "not there").transient());
            };
            if s.disk.verified.contains_key(&digest) {
                s.violate(format!("{object} is verified again"));
            }
            if s.disk.free() < size {
                return Err(Failure::new(Code::VolumeSpace, object.clone(), "full").transient());
            }
            let name = s.disk.temporary(&digest.to_string());
            s.disk.verifying.insert(name.clone(), (digest, size));
            Ok((name, size))
        })?;
        // What is left when we are dropped is garbage, and found as such. A large image takes seconds, in which much can
        // happen to it.
        progress.set(size / 2, size);
        self.machine.takes(5000).await;
        let found = self.machine.with(|s| {
            // Somebody may have removed it under us.
            let Some((_, size)) = s.disk.verifying.remove(&name) else {
                return Err(Failure::new(Code::VerifyWrite, object, "the copy is gone").transient());
            };
            let wrong = s.disk.downloads.get(&digest).is_none_or(|file| file.wrong);
            if !wrong {
                s.disk.verified.insert(digest, size);
            }
            Ok(wrong.then_some(Found {
                digest: Digest([0xff; 32]),
                size_bytes: size,
            }))
        })?;
        if let Some(found) = found {
            self.wrong().insert((digest, config.attempt), found);
        }
        sleep(std::time::Duration::from_millis(1)).await;
        Ok(())
    }
}

impl World<Verifier> for Verified {
    async fn observe(&self, desired: &verifier::Desired) -> Result<verifier::Actual, Failure> {
        let mut wrong = self.wrong();
        if let Some(images) = &desired.images {
            wrong.retain(|(digest, attempt), _| {
                images
                    .get(&digest.to_string())
                    .is_some_and(|config| config.attempt == *attempt)
            });
        }
        self.machine.with(|s| s.looks_into_vault("verifier"));
        Ok(self.machine.with(|s| verifier::Actual {
            roots_pem: None,
            verified: s
                .disk
                .verified
                .iter()
                .map(|(digest, size)| {
                    let file = verifier::Verified {
                        path: verified_path(*digest),
                        size_bytes: *size,
                    };
                    (*digest, file)
                })
                .collect(),
            partials: s
                .disk
                .verifying
                .iter()
                .map(|(name, (digest, _))| (*digest, name.clone()))
                .collect(),
            mismatches: wrong.clone(),
        }))
    }

    async fn apply(&self, action: verifier::Do, progress: Progress) -> Result<(), Failure> {
        match action {
            verifier::Do::Verify(config) => return self.verify(config, progress).await,
            verifier::Do::Remove(digest) => self.machine.with(|s| {
                s.disk.verified.remove(&digest);
            }),
            verifier::Do::RemovePartial(name) => self.machine.with(|s| {
                s.disk.verifying.remove(&name);
            }),
        }
        Ok(())
    }
}
