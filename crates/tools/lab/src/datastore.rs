//! A file server with bad days: HTTP and HTTPS, byte ranges, and per path a trouble on request.
//! The place for downloads that stall, reset, lie about their length or carry a wrong bit.

mod reply;
mod serve;

use crate::layout::{DATASTORE, ZONE};
use crate::netns::Netns;
use crate::pki::Authority;
use crate::site::{SiteError, io};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// What is served at a path.
#[derive(Debug, Clone)]
pub enum Content {
    /// These bytes.
    Bytes(Arc<[u8]>),
    /// The file as it is when asked for.
    File(PathBuf),
}

/// What goes wrong with a path. Positions count from the content's first byte, also in answers to
/// range requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Answer with this status and no body.
    Status(u16),
    /// Send up to here, then keep the connection open and silent.
    Stall {
        /// Bytes of the content that still go out.
        after: u64,
    },
    /// Send up to here, then reset the connection.
    Reset {
        /// Bytes of the content that still go out.
        after: u64,
    },
    /// Send up to here, then close the connection in good order: a short body.
    Close {
        /// Bytes of the content that still go out.
        after: u64,
    },
    /// Claim this Content-Length, send what there is, close.
    WrongLength(u64),
    /// Send at this rate.
    Slow {
        /// Bytes per second.
        bytes_per_second: u64,
    },
    /// Answer range requests with 200 and the whole content.
    NoRange,
    /// Turn the lowest bit of one byte.
    Flip {
        /// Which byte.
        at: u64,
    },
}

/// A request that was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// The path asked for, without query.
    pub path: String,
    /// The Range header.
    pub range: Option<String>,
    /// The client's address.
    pub client: std::net::IpAddr,
    /// The status of the answer.
    pub status: u16,
    /// Bytes of the body that were handed to the kernel.
    pub sent: u64,
}

/// A running server. Dropped, it closes everything and stops.
#[derive(Debug)]
pub struct Datastore {
    shelf: Arc<Shelf>,
    root_pem: String,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Datastore {
    /// Starts the server in `netns`, which must hold the address [`DATASTORE`]: HTTP on port 80, HTTPS
    /// on port 443 for `datastore.lab.internal` and the address.
    pub fn start(netns: &Netns, authority: &Authority) -> Result<Datastore, SiteError> {
        let tls = tls(authority)?;
        let shelf = Arc::new(Shelf::default());
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (plain, secure) = netns
            .run(|| {
                let bind = |port: u16| -> std::io::Result<std::net::TcpListener> {
                    let listener = std::net::TcpListener::bind((DATASTORE, port))?;
                    listener.set_nonblocking(true)?;
                    Ok(listener)
                };
                Ok((bind(80)?, bind(443)?))
            })?
            .map_err(|source: std::io::Error| io(Path::new("the datastore's sockets"), source))?;
        let served = Arc::clone(&shelf);
        // The sockets stay in their namespace; the thread need not be there.
        let thread = std::thread::Builder::new()
            .name("datastore".into())
            .spawn(move || serve::run(plain, secure, tls, &served, stopped))
            .map_err(|source| io(Path::new("the datastore's thread"), source))?;
        Ok(Datastore {
            shelf,
            root_pem: authority.root_pem().to_owned(),
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// The root certificate that clients must trust, PEM.
    #[must_use]
    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// `https://datastore.lab.internal` and the path.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("https://datastore.{ZONE}{path}")
    }

    /// Serves `content` at `path`, which begins with a slash; replaces what was there.
    pub fn publish(&self, path: &str, content: Content) {
        let mut state = self.shelf.state();
        state.version += 1;
        let version = state.version;
        state.contents.insert(path.to_owned(), (version, content));
    }

    /// Serves these bytes at `path`.
    pub fn publish_bytes(&self, path: &str, bytes: impl Into<Arc<[u8]>>) {
        self.publish(path, Content::Bytes(bytes.into()));
    }

    /// Serves the file at `path`.
    pub fn publish_file(&self, path: &str, file: &Path) {
        self.publish(path, Content::File(file.to_owned()));
    }

    /// Nothing is served at `path` any more.
    pub fn withdraw(&self, path: &str) {
        self.shelf.state().contents.remove(path);
    }

    /// Troubles requests for `path` until [`Datastore::clear`].
    pub fn trouble(&self, path: &str, trouble: Trouble) {
        self.trouble_times(path, trouble, u32::MAX);
    }

    /// Troubles the next `times` requests for `path`.
    pub fn trouble_times(&self, path: &str, trouble: Trouble, times: u32) {
        self.shelf
            .state()
            .troubles
            .insert(path.to_owned(), (trouble, times));
    }

    /// Ends the trouble with `path` for new requests.
    pub fn clear(&self, path: &str) {
        self.shelf.state().troubles.remove(path);
    }

    /// All requests so far, in the order of their ends.
    #[must_use]
    pub fn answered(&self) -> Vec<Answered> {
        self.shelf.state().answered.clone()
    }
}

impl Drop for Datastore {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What the server and its owner share.
#[derive(Debug, Default)]
struct Shelf {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    version: u64,
    contents: BTreeMap<String, (u64, Content)>,
    troubles: BTreeMap<String, (Trouble, u32)>,
    answered: Vec<Answered>,
}

impl Shelf {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, path: &str) -> Option<(u64, Content)> {
        self.state().contents.get(path).cloned()
    }

    fn next_trouble(&self, path: &str) -> Option<Trouble> {
        let mut state = self.state();
        let (trouble, times) = state.troubles.get_mut(path)?;
        let trouble = *trouble;
        *times = match *times {
            u32::MAX => u32::MAX,
            left => left.saturating_sub(1),
        };
        if *times == 0 {
            state.troubles.remove(path);
        }
        Some(trouble)
    }
}

fn tls(authority: &Authority) -> Result<Arc<rustls::ServerConfig>, SiteError> {
    let host = format!("datastore.{ZONE}");
    let identity = authority.issue(&[&host, &DATASTORE.to_string()])?;
    let failed = |reason: String| SiteError::Certificate {
        subject: host.clone(),
        reason,
    };
    let certificate = CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes())
        .map_err(|error| failed(error.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes())
        .map_err(|error| failed(error.to_string()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(error.to_string()))?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .map_err(|error| failed(error.to_string()))?;
    Ok(Arc::new(config))
}
