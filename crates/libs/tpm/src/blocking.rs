//! tpmmgr for code that can't wait asynchronously.
//!
//! A TLS handshake asks for its signature in the middle of a poll, on the only thread of its service. So
//! the request travels on a thread of its own, and the caller waits for it, but not for ever.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use tokio::sync::mpsc as queue;

use crate::{Client, Description, Key, Reply, SharedPoint, Signature, Tpm, TpmError};

type Job = Box<dyn FnOnce(Client) -> Reply<'static, ()> + Send>;

/// The keeper of the keys of the device below a root. Cheap to clone; the thread ends with the last clone.
#[derive(Clone, Debug)]
pub struct Blocking {
    jobs: queue::UnboundedSender<Job>,
    socket: PathBuf,
    longest: Duration,
}

impl Blocking {
    /// tpmmgr of the device below `root`; no request takes longer than `longest`.
    pub fn connect(root: &Path, longest: Duration) -> Result<Self, TpmError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|_| TpmError::NoRuntime)?;
        let client = {
            let _inside = runtime.enter();
            Client::connect(root)?.waiting(longest)
        };
        let socket = client.socket().to_owned();
        let (jobs, mut waiting) = queue::unbounded_channel::<Job>();
        std::thread::Builder::new()
            .name("tpmmgr".to_owned())
            .spawn(move || {
                runtime.block_on(async move {
                    while let Some(job) = waiting.recv().await {
                        // How it went was told to the one that waits.
                        let _ = job(client.clone()).await;
                    }
                });
            })
            .map_err(|_| TpmError::NoRuntime)?;
        Ok(Self {
            jobs,
            socket,
            longest,
        })
    }

    /// See [`Tpm::describe`].
    pub fn describe(&self) -> Result<Description, TpmError> {
        self.ask(async |client| client.describe().await)
    }

    /// See [`Tpm::sign`].
    pub fn sign(&self, key: Key, digest: [u8; 32]) -> Result<Signature, TpmError> {
        self.ask(async move |client| client.sign(key, digest).await)
    }

    /// See [`Tpm::ecdh`].
    pub fn ecdh(&self, peer: &[u8]) -> Result<SharedPoint, TpmError> {
        let peer = peer.to_vec();
        self.ask(async move |client| client.ecdh(&peer).await)
    }

    fn ask<T, F, W>(&self, request: F) -> Result<T, TpmError>
    where
        T: Send + 'static,
        F: FnOnce(Client) -> W + Send + 'static,
        W: Future<Output = Result<T, TpmError>> + Send,
    {
        let (sender, answer) = mpsc::sync_channel(1);
        let job: Job = Box::new(move |client| {
            Box::pin(async move {
                // Nobody waits any more: it took too long.
                let _ = sender.send(request(client).await);
                Ok(())
            })
        });
        let away = |reason: &str| TpmError::Unreachable {
            socket: self.socket.clone(),
            reason: reason.to_owned(),
        };
        self.jobs
            .send(job)
            .map_err(|_| away("its thread has ended"))?;
        answer
            .recv_timeout(self.longest)
            .unwrap_or_else(|_| Err(away(&format!("no answer within {:?}", self.longest))))
    }
}
