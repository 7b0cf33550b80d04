//! The files below `/persist/vault/verifier/verified`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use agent::{Boot, Failure, Progress, World};
use model::{
    code::Code,
    content::VerifyImageConfig,
    id::Digest,
    vault::{DOWNLOADS, VERIFIED},
};
use tokio::sync::Semaphore;

use crate::{
    Actual, Desired, Do, Found, Verified, Verifier,
    copy::{CopyError, copy_hashed},
    subject,
};

/// Copies at once: more would only make the disk seek.
const AT_ONCE: usize = 2;
const PARTIAL: &str = ".partial";

/// The directory of verified files, and the one that files to verify lie in.
#[derive(Debug)]
pub struct Disk {
    downloads: PathBuf,
    verified: PathBuf,
    /// Where signers' chains end.
    roots: PathBuf,
    slots: Semaphore,
    mismatches: Mutex<BTreeMap<(Digest, u32), Found>>,
    counter: AtomicU64,
}

impl Disk {
    /// Opens the directories of a device.
    #[allow(
        clippy::unused_async,
        reason = "the runtime opens worlds asynchronously"
    )]
    pub async fn open(boot: Boot) -> Result<Self, Failure> {
        let disk = Self::at(boot.root.join(DOWNLOADS), boot.root.join(VERIFIED))
            .trusting(boot.root.join("config/root-certificate.pem"));
        if !boot.dry_run {
            let made = DirBuilder::new()
                .recursive(true)
                .mode(0o750)
                .create(&disk.verified);
            made.map_err(|e| {
                Failure::of(
                    Code::AgentObserve,
                    format!("directory {}", disk.verified.display()),
                    &e,
                )
            })?;
        }
        Ok(disk)
    }

    /// Files to verify lie in `downloads`, verified ones in `verified`; both must exist by the
    /// time that they are used. Nobody's signature counts before [`Self::trusting`].
    pub fn at(downloads: PathBuf, verified: PathBuf) -> Self {
        Self {
            downloads,
            verified,
            roots: PathBuf::new(),
            slots: Semaphore::new(AT_ONCE),
            mismatches: Mutex::default(),
            counter: AtomicU64::new(0),
        }
    }

    /// Signers' certificates lead to one in this PEM file.
    #[must_use]
    pub fn trusting(self, roots: PathBuf) -> Self {
        Self { roots, ..self }
    }

    fn remember(&self) -> std::sync::MutexGuard<'_, BTreeMap<(Digest, u32), Found>> {
        self.mismatches
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    async fn verify(&self, config: VerifyImageConfig, progress: Progress) -> Result<(), Failure> {
        let VerifyImageConfig {
            sha256,
            path,
            size_bytes,
            attempt,
        } = config;
        let object = subject(sha256);
        let unreadable = |error: &io::Error| {
            let text = format!("{} can't be read", path.display());
            let mut failure = Failure::new(Code::VerifyRead, object.clone(), text).transient();
            failure.causes.push(error.to_string());
            failure
        };
        let Ok(_slot) = self.slots.acquire().await else {
            return Ok(());
        };
        let source = self.open_download(&path).map_err(|e| unreadable(&e))?;
        progress.set(0, size_bytes);

        let nonce = self.counter.fetch_add(1, Ordering::Relaxed);
        let partial = self
            .verified
            .join(format!("{sha256}.{}-{nonce}{PARTIAL}", std::process::id()));
        let cancel = CancelOnDrop::default();
        let flag = Arc::clone(&cancel.0);
        let (told, copy) = (progress.clone(), partial.clone());
        let done = tokio::task::spawn_blocking(move || {
            let told = |bytes| told.set(bytes, size_bytes);
            let result = create(&copy).map_err(CopyError::Write).and_then(|target| {
                let found = copy_hashed(&source, &target, told, &flag)?;
                target
                    .set_permissions(Permissions::from_mode(0o440))
                    .map_err(CopyError::Write)?;
                Ok(found)
            });
            if !result.as_ref().is_ok_and(|found| found.digest == sha256) {
                // What is left is garbage, and found as such at the latest after a restart.
                drop(fs::remove_file(&copy));
            }
            result
        })
        .await;
        let found = match done {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                let code = match &error {
                    CopyError::Write(cause) => write_code(cause),
                    CopyError::Read(_) | CopyError::Cancelled => Code::VerifyRead,
                };
                return Err(Failure::of(code, object, &error).transient());
            }
            Err(join) => {
                return Err(Failure::new(Code::AgentPanic, object, join.to_string()).transient());
            }
        };
        if found.digest != sha256 {
            self.remember().insert((sha256, attempt), found);
            return Ok(());
        }
        let target = self.verified.join(sha256.to_string());
        let renamed = fs::rename(&partial, &target).and_then(|()| sync_dir(&self.verified));
        renamed.map_err(|e| Failure::of(write_code(&e), object, &e).transient())
    }

    /// Opens a file of the downloader. The path comes from a service that talks to the outside, so it is
    /// held to be what it must be: a plain file in the one directory.
    fn open_download(&self, path: &Path) -> io::Result<File> {
        if path.parent() != Some(self.downloads.as_path()) {
            return Err(io::Error::other(format!(
                "it is not in {}",
                self.downloads.display()
            )));
        }
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is not a plain file"));
        }
        Ok(file)
    }

    fn remove(&self, name: &str, object: &str) -> Result<(), Failure> {
        let path = self.verified.join(name);
        let removed = match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
        removed
            .and_then(|()| sync_dir(&self.verified))
            .map_err(|e| Failure::of(Code::AgentObserve, object, &e).transient())
    }
}

impl World<Verifier> for Disk {
    async fn observe(&self, desired: &Desired) -> Result<Actual, Failure> {
        let failed = |error: io::Error| {
            Failure::of(
                Code::AgentObserve,
                format!("directory {}", self.verified.display()),
                &error,
            )
            .transient()
        };
        let is_signed = desired
            .trees
            .iter()
            .flat_map(|trees| trees.values())
            .any(|tree| tree.signature.is_some());
        let roots_pem = is_signed.then(|| fs::read(&self.roots).ok()).flatten();
        let mut verified = BTreeMap::new();
        let mut partials = BTreeSet::new();
        let entries = match fs::read_dir(&self.verified) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Actual {
                    roots_pem,
                    ..Actual::default()
                });
            }
            Err(error) => return Err(failed(error)),
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
                continue;
            };
            match Name::parse(&name) {
                Some(Name::Verified(digest)) => {
                    // It may be gone since the directory was read.
                    if let Ok(metadata) = entry.metadata() {
                        let path = entry.path();
                        verified.insert(
                            digest,
                            Verified {
                                path,
                                size_bytes: metadata.len(),
                            },
                        );
                    }
                }
                Some(Name::Partial(digest)) => {
                    partials.insert((digest, name));
                }
                None => {}
            }
        }
        let mut known = self.remember();
        if let Some(images) = &desired.images {
            known.retain(|(digest, attempt), _| {
                images
                    .get(&digest.to_string())
                    .is_some_and(|config| config.attempt == *attempt)
            });
        }
        Ok(Actual {
            verified,
            partials,
            mismatches: known.clone(),
            roots_pem,
        })
    }

    async fn apply(&self, action: Do, progress: Progress) -> Result<(), Failure> {
        match action {
            Do::Verify(config) => self.verify(config, progress).await,
            Do::Remove(digest) => self.remove(&digest.to_string(), &subject(digest)),
            Do::RemovePartial(name) => self.remove(&name, &format!("partial {name}")),
        }
    }
}

/// Names of our own form.
enum Name {
    Verified(Digest),
    Partial(Digest),
}

impl Name {
    fn parse(name: &str) -> Option<Self> {
        let (stem, rest) = name.split_once('.').unwrap_or((name, ""));
        let digest: Digest = stem.parse().ok()?;
        if digest.to_string() != stem {
            return None;
        }
        if name == stem {
            return Some(Self::Verified(digest));
        }
        rest.ends_with("partial").then_some(Self::Partial(digest))
    }
}

fn write_code(error: &io::Error) -> Code {
    if error.kind() == io::ErrorKind::StorageFull {
        Code::VolumeSpace
    } else {
        Code::VerifyWrite
    }
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// A rename or a removal is on the disk only when its directory is.
fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Tells the thread when the task that waits for it is dropped.
#[derive(Default)]
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
