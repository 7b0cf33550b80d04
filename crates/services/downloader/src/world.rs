//! The files below `/persist/vault/downloader/downloads`, and the fetches.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use agent::{Boot, Failure, Progress, World};
use cipher::{Exchange, NoKey};
use fetch::source::Common;
use model::{code::Code, content::DatastoreConfig, id::Digest};
use tokio::sync::Semaphore;
use uplink::{Attempt, Choice, Hosts, Port, Roots};

use crate::{Actual, Desired, Do, Downloader, Files, Order, failure, subject};

/// Fetches at once: enough to use a line that one server can't fill, few enough that each gets on.
const AT_ONCE: usize = 3;
/// Roots of TLS in the CONFIG partition; the second one is there when the controller has its own.
const DEVICE_ROOTS: [&str; 2] = ["root-certificate.pem", "v2tlsbaseroot-certificates.pem"];

/// The directory of downloads and what fetches have in common.
#[derive(Debug)]
pub struct Shell {
    root: PathBuf,
    downloads: PathBuf,
    slots: Semaphore,
    /// Ports of equal cost take turns by it.
    turn: AtomicU32,
    /// Decrypts logins.
    exchange: Arc<dyn Exchange>,
}

impl Shell {
    /// Opens the directory of a device.
    #[allow(
        clippy::unused_async,
        reason = "the runtime opens worlds asynchronously"
    )]
    pub async fn open(boot: Boot) -> Result<Self, Failure> {
        let tpm = tpm::Client::connect(&boot.root)
            .map_err(|e| Failure::of(Code::CipherKey, "tpmmgr", &e))?;
        let exchange = tpm::DeviceExchange(Arc::new(tpm));
        let shell = Self::at(boot.root.clone()).with_exchange(Arc::new(exchange));
        if !boot.dry_run {
            let made = DirBuilder::new()
                .recursive(true)
                .mode(0o750)
                .create(&shell.downloads);
            made.map_err(|e| shell.failure(&e))?;
        }
        Ok(shell)
    }

    /// Downloads lie in [`model::vault::DOWNLOADS`] below `root`, which must exist by the time that one begins.
    /// It has no key: datastores with a login can't be used; see [`Self::with_exchange`].
    pub fn at(root: PathBuf) -> Self {
        Self {
            exchange: Arc::new(NoKey),
            downloads: root.join(model::vault::DOWNLOADS),
            root,
            slots: Semaphore::new(AT_ONCE),
            turn: AtomicU32::new(0),
        }
    }

    /// The same with the device's key.
    #[must_use]
    pub fn with_exchange(self, exchange: Arc<dyn Exchange>) -> Self {
        Self { exchange, ..self }
    }

    fn failure(&self, error: &io::Error) -> Failure {
        Failure::of(
            Code::AgentObserve,
            format!("directory {}", self.downloads.display()),
            error,
        )
        .transient()
    }

    /// Asks one datastore after the other over one port after the other.
    async fn fetch(&self, order: &Order, progress: &Progress) -> Result<(), Failure> {
        let Order {
            file,
            datastores,
            keys: _,
            ports,
            limits,
        } = order;
        let object = subject(file.sha256);
        let Ok(_slot) = self.slots.acquire().await else {
            return Ok(());
        };
        let iteration = self.turn.fetch_add(1, Ordering::Relaxed);
        let attempts = uplink::attempts(
            ports,
            &Choice {
                iteration,
                max_cost: limits.max_cost,
            },
        )
        .map_err(|e| Failure::of(Code::DownloadNetwork, object.clone(), &e).transient())?;
        let common = self.common(order);
        let mut failures = Vec::new();
        for datastore in datastores {
            match self
                .from(datastore, &attempts, order, &common, progress)
                .await
            {
                Ok(()) => return Ok(()),
                Err(failure) => failures.push(failure),
            }
        }
        failure::of_all(failures).map_or(Ok(()), Err)
    }

    async fn from(
        &self,
        datastore: &DatastoreConfig,
        attempts: &[Attempt],
        order: &Order,
        common: &Common,
        progress: &Progress,
    ) -> Result<(), Failure> {
        let Order { file, limits, .. } = order;
        let object = subject(file.sha256);
        let login = self.login(datastore, order).await?;
        let source = fetch::source_for(datastore, &file.relative_url, login, common)
            .map_err(|error| failure::of_source(&object, &error))?;
        let limits = fetch::Limits {
            max_bytes: Some(file.max_bytes).filter(|max| *max > 0),
            exact_bytes: None,
            digest: Some(file.sha256),
            stall: limits.stall,
        };
        let mut told = |now: fetch::Progress<'_>| {
            if progress.get().note != now.port {
                progress.note(now.port);
            }
            progress.set(now.done, now.total.unwrap_or(0));
        };
        let target = self.downloads.join(file.sha256.to_string());
        fetch::download(source.as_ref(), attempts, &target, &limits, &mut told)
            .await
            .map(|_| ())
            .map_err(|error| failure::of_fetch(&object, &error))
    }

    /// Decrypted for this fetch alone.
    async fn login(
        &self,
        datastore: &DatastoreConfig,
        order: &Order,
    ) -> Result<Option<fetch::Login>, Failure> {
        let id = datastore.id;
        let (Some(secret), Some(keys)) = (&datastore.credentials, order.keys.get(&id)) else {
            return Ok(None);
        };
        let login = cipher::login(secret, keys, self.exchange.as_ref()).await;
        let cipher::Login { user, password } =
            login.map_err(|error| failure::of_login(&subject(order.file.sha256), id, &error))?;
        Ok(Some(fetch::Login { user, password }))
    }

    /// Trust and names. Read for each fetch: they are small, and may change under a running service.
    fn common(&self, order: &Order) -> Common {
        let config = self.root.join("config");
        let mut roots = Roots::default();
        roots.add_system_pool(&self.root);
        let mut trust = |what: &str, pem: &[u8]| {
            // One unusable certificate makes no other one unusable.
            drop(roots.add_pem(what, pem));
        };
        for name in DEVICE_ROOTS {
            if let Ok(pem) = fs::read(config.join(name)) {
                trust(name, &pem);
            }
        }
        for Port {
            name, proxy_certs, ..
        } in &order.ports
        {
            for pem in proxy_certs {
                trust(name, pem);
            }
        }
        let hosts = fs::read_to_string(config.join("hosts"))
            .map(|text| Hosts::parse(&text))
            .unwrap_or_default();
        Common {
            roots,
            hosts: Arc::new(hosts),
            connect_timeout: order.limits.connect,
            allow_insecure_auth: order.limits.insecure_login,
        }
    }

    fn remove(&self, digest: Digest, keep_complete: bool) -> Result<(), Failure> {
        self.discard(digest, keep_complete)
            .map_err(|e| Failure::of(Code::DownloadWrite, subject(digest), &e).transient())
    }

    fn read(&self) -> io::Result<BTreeMap<Digest, Files>> {
        let mut files: BTreeMap<Digest, Files> = BTreeMap::new();
        let entries = match fs::read_dir(&self.downloads) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(files),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let Some((digest, suffix)) = parse(&name) else {
                continue;
            };
            // It may be gone since the directory was read.
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            let of = files.entry(digest).or_default();
            match suffix {
                "" => of.complete = Some((entry.path(), metadata.len())),
                ".part" => of.partial = Some(metadata.len()),
                _ => of.partial = of.partial.or(Some(0)),
            }
        }
        Ok(files)
    }

    /// Removes what bears the digest's name, or, with `keep_complete`, all of it but the file itself.
    fn discard(&self, digest: Digest, keep_complete: bool) -> io::Result<()> {
        for entry in fs::read_dir(&self.downloads)? {
            let entry = entry?;
            let name = entry.file_name();
            if name
                .to_str()
                .and_then(parse)
                .is_some_and(|(of, suffix)| of == digest && !(keep_complete && suffix.is_empty()))
            {
                match fs::remove_file(entry.path()) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    other => other?,
                }
            }
        }
        sync_dir(&self.downloads)
    }
}

impl World<Downloader> for Shell {
    async fn observe(&self, _: &Desired) -> Result<Actual, Failure> {
        let files = self.read().map_err(|e| self.failure(&e))?;
        Ok(Actual { files })
    }

    async fn apply(&self, action: Do, progress: Progress) -> Result<(), Failure> {
        match action {
            Do::Fetch(order) => self.fetch(&order, &progress).await,
            Do::Discard(digest) => self.remove(digest, false),
            Do::Tidy(digest) => self.remove(digest, true),
        }
    }
}

/// Digest and suffix of a name of our own form.
fn parse(name: &str) -> Option<(Digest, &str)> {
    let (stem, suffix) = name.split_at(name.find('.').unwrap_or(name.len()));
    let digest: Digest = stem.parse().ok()?;
    let ours = digest.to_string() == stem
        && matches!(suffix, "" | ".part" | ".part.json" | ".part.json.tmp");
    ours.then_some((digest, suffix))
}

/// A removal is on the disk only when its directory is.
fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_names_of_our_own_form_are_ours() {
        let digest = Digest([0xab; 32]);
        for suffix in ["", ".part", ".part.json"] {
            let name = format!("{digest}{suffix}");
            assert_eq!(parse(&name), Some((digest, suffix)));
        }
        let upper = digest.to_string().to_uppercase();
        for foreign in [
            upper.as_str(),
            "notes.txt",
            "",
            ".part",
            &format!("{digest}.txt"),
            &format!("{digest}0"),
        ] {
            assert_eq!(parse(foreign), None, "{foreign}");
        }
    }
}
