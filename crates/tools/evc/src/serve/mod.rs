//! The running controller: sockets, and the path from a request to the store and back.

pub mod admin;
mod admin_edit;
mod admin_trust;
pub mod datastore;
mod desired;
pub mod device;
mod device_attest;
mod listen;
pub mod tls;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tokio::net::TcpListener;
use tokio::sync::watch;
use uuid::Uuid;

pub use desired::{Wanted, configuration};
pub use listen::{PeerCert, serve};
pub use tls::{Current, TlsError, server_config};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::admin::files::{self, AccessFileError};
use crate::decide::attest::endorsement::Makers;
use crate::pki::{self, Pki, PkiError};
use crate::store::{Store, StoreError};

/// Folder with certificates of makers of TPMs, below the controller's directory.
pub const MAKERS: &str = "tpm-makers";
/// How often the files of the PKI are looked at.
const PKI_LOOK: std::time::Duration = std::time::Duration::from_secs(2);
/// Name of the database below the controller's directory.
pub const DATABASE: &str = "evc.db";

/// Which generations of the device API are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Apis {
    /// Both.
    #[default]
    Both,
    /// Mutual TLS only; v2 paths are 404, as with an old controller.
    V1,
    /// Envelopes only.
    V2,
}

/// How to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The controller's directory, made by `evc init`.
    pub dir: PathBuf,
    /// Where devices connect.
    pub listen: SocketAddr,
    /// Where `evc` connects.
    pub admin: SocketAddr,
    /// Which generations of the device API are served.
    pub apis: Apis,
}

/// Why the controller did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its keys and certificates.
    #[error("{0} (run `evc init` first?)")]
    Pki(#[from] PkiError),
    /// Its database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A socket.
    #[error("listening on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The files that let `evc` find the controller.
    #[error(transparent)]
    Access(#[from] AccessFileError),
}

/// What all handlers share.
#[derive(Debug)]
pub struct Evc {
    /// What is remembered.
    pub store: Store,
    dir: PathBuf,
    /// Who makes TPMs.
    makers: Arc<Makers>,
    /// Keys and certificates, as they are now.
    pki: RwLock<Arc<Pki>>,
    /// Which generations of the device API are served.
    pub apis: Apis,
    /// The admin API's bearer token.
    pub token: String,
    /// Last contacts that were written, so that not every request costs a write.
    contacts: Mutex<HashMap<Uuid, i64>>,
}

impl Evc {
    /// Opens what is below `dir`.
    pub fn open(dir: &Path, apis: Apis) -> Result<Self, StartError> {
        let pki = Pki::load(dir)?;
        let store = Store::open(&dir.join(DATABASE))?;
        let token = files::token(dir)?;
        Ok(Self {
            store,
            dir: dir.to_owned(),
            makers: Arc::new(makers(&dir.join(MAKERS))),
            pki: RwLock::new(Arc::new(pki)),
            apis,
            token,
            contacts: Mutex::default(),
        })
    }
}

impl Evc {
    /// Keys and certificates, as they are now.
    pub fn pki(&self) -> Arc<Pki> {
        Arc::clone(&self.pki.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whom endorsement certificates may come from.
    pub(crate) fn makers(&self) -> Arc<Makers> {
        Arc::clone(&self.makers)
    }

    /// The controller's directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Loads keys and certificates again; what was in use stays when that fails.
    pub fn reload(&self) -> Result<Arc<Pki>, PkiError> {
        let pki = Arc::new(Pki::load(&self.dir)?);
        *self.pki.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&pki);
        Ok(pki)
    }
}

/// Certificates of makers of TPMs: every PEM file of a folder that people fill. One that is of no use makes no other so.
fn makers(folder: &Path) -> Makers {
    let mut makers = Makers::default();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(pem) = std::fs::read(&path) else {
            continue;
        };
        for der in CertificateDer::pem_slice_iter(&pem).flatten() {
            if let Err(error) = makers.add(der.into_owned()) {
                tracing::warn!(path = %path.display(), %error, "not used");
            }
        }
    }
    makers
}

/// Follows the files of the PKI, and the moment at which rotated keys come into use.
async fn follow_pki(evc: Arc<Evc>, tls: Arc<Current>, mut stop: watch::Receiver<bool>) {
    let mut known = pki::stamp(&evc.dir);
    loop {
        tokio::select! {
            _ = stop.wait_for(|stopped| *stopped) => return,
            () = tokio::time::sleep(PKI_LOOK) => {}
        }
        let found = pki::stamp(&evc.dir);
        let now = jiff::Timestamp::now().as_second();
        let is_due = evc.pki().changes.is_some_and(|from| from <= now);
        if found == known && !is_due {
            continue;
        }
        let loaded = evc
            .reload()
            .map_err(StartError::from)
            .and_then(|pki| Ok(tls.change(&pki.tls_chain, &pki.tls_key)?));
        match loaded {
            Ok(()) => {
                tracing::info!("keys and certificates are other ones now");
                known = found;
            }
            // Its files are written one after the other: the next look sees all of them.
            Err(error) => tracing::warn!(%error, "keys and certificates stay as they were"),
        }
    }
}

/// A controller whose sockets are open.
#[derive(Debug)]
pub struct Running {
    /// Where devices connect.
    pub listen: SocketAddr,
    /// Where `evc` connects.
    pub admin: SocketAddr,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Running {
    /// Waits until both sockets are closed.
    pub async fn finished(self) {
        for task in self.tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "a listener ended badly");
            }
        }
    }
}

/// Opens the sockets and serves until `stop` becomes true.
pub async fn start(options: &Options, stop: watch::Receiver<bool>) -> Result<Running, StartError> {
    let evc = Arc::new(Evc::open(&options.dir, options.apis)?);
    ensure_batch(&evc, &options.dir).await?;
    let pki = evc.pki();
    let current = Current::new(&pki.tls_chain, &pki.tls_key)?;
    let tls = tls::changing_config(&current)?;
    let devices = bind(options.listen).await?;
    let people = bind(options.admin).await?;
    let (listen, admin) = (
        local(&devices, options.listen),
        local(&people, options.admin),
    );
    if !admin.ip().is_loopback() {
        tracing::warn!(%admin, "the admin API is plain HTTP; keep it on a trusted network");
    }
    files::write_address(&options.dir, admin)?;
    let device_app = device::router(Arc::clone(&evc));
    let admin_app = admin::router(Arc::clone(&evc));
    tracing::info!(devices = %listen, %admin, "serving");
    let tasks = vec![
        tokio::spawn(serve(devices, Some(tls), device_app, stop.clone())),
        tokio::spawn(serve(people, None, admin_app, stop.clone())),
        tokio::spawn(follow_pki(evc, current, stop)),
    ];
    Ok(Running {
        listen,
        admin,
        tasks,
    })
}

/// The onboarding certificate that `evc init` made is known from the start; which serials it
/// admits is for the operator to say.
async fn ensure_batch(evc: &Evc, dir: &Path) -> Result<(), StartError> {
    let path = dir.join(crate::pki::DEVICE_FOLDER).join("onboard.cert.pem");
    let Ok(pem) = std::fs::read(&path) else {
        return Ok(());
    };
    match crate::cert::Certificate::from_pem(&pem) {
        Ok(cert) => {
            evc.store
                .write(move |c| crate::store::onboarding::add(c, &cert, None))
                .await?;
        }
        Err(error) => tracing::warn!(path = %path.display(), %error, "not used"),
    }
    Ok(())
}

async fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| StartError::Listen { address, source })
}

fn local(listener: &TcpListener, wanted: SocketAddr) -> SocketAddr {
    listener.local_addr().unwrap_or(wanted)
}
