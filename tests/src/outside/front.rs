//! The device's side of the controller: TLS, and faults on request.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use agent::Clock;
use rustls::ServerConfig;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::sleep,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{
    certs,
    fault::{Fault, Shown},
    wire::{self, Request, head},
};

const PROTO: (&str, &str) = ("content-type", "application/x-proto-binary");

/// A request that came, or a connection that came to nothing (endpoint `connection`).
#[derive(Debug, Clone)]
pub struct Seen {
    /// Which endpoint.
    pub endpoint: String,
    /// The device's uptime.
    pub at: Duration,
    /// Answered by the controller itself with this code.
    pub code: Option<u16>,
}

/// A server in front of the controller.
pub struct Front {
    /// Where devices connect.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    state: Mutex<State>,
    configs: Vec<(Shown, Arc<ServerConfig>)>,
}

struct State {
    upstream: SocketAddr,
    /// Faults by endpoint; the empty one stands for all.
    faults: BTreeMap<&'static str, Fault>,
    seen: Vec<Seen>,
    clock: Clock,
    turn: u64,
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Front {
    /// Before the controller at `upstream`, whose keys are below `pki`. `clock` is the device's.
    pub async fn before(upstream: SocketAddr, pki: &Path, clock: Clock) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = State {
            upstream,
            faults: BTreeMap::new(),
            seen: Vec::new(),
            clock,
            turn: 0,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            configs: certs::configs(pki),
        });
        let serving = Arc::clone(&shared);
        let task = wire::accept(listener, move |stream| {
            let shared = Arc::clone(&serving);
            async move { shared.serve(stream).await }
        });
        Self {
            address,
            shared,
            task,
        }
    }

    /// From now on this endpoint (empty: every connection) has this fault, or none.
    pub fn fault(&self, endpoint: &'static str, fault: Option<Fault>) {
        let mut state = self.shared.state();
        match fault {
            Some(fault) => state.faults.insert(endpoint, fault),
            None => state.faults.remove(endpoint),
        };
    }

    /// The controller is now there.
    pub fn moved(&self, upstream: SocketAddr) {
        self.shared.state().upstream = upstream;
    }

    /// Requests since the last call.
    pub fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut self.shared.state().seen)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, endpoint: &str, code: Option<u16>) {
        let mut state = self.state();
        let at = state.clock.uptime();
        state.seen.push(Seen {
            endpoint: endpoint.to_owned(),
            at,
            code,
        });
    }

    async fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        let whole = self.state().faults.get("").copied();
        match whole {
            Some(Fault::Down) => {
                self.note("connection", None);
                return stream.set_zero_linger();
            }
            Some(Fault::Plain) => {
                self.note("connection", None);
                return stream.write_all(b"SSH-2.0-Nobody_1.0\r\n").await;
            }
            _ => {}
        }
        let shown = whole.map_or(Shown::Good, Fault::shown);
        if shown != Shown::Good {
            self.note("connection", None);
        }
        let config = self.configs.iter().find(|(kind, _)| *kind == shown);
        let acceptor = TlsAcceptor::from(Arc::clone(&config.unwrap().1));
        let mut stream = acceptor.accept(stream).await?;
        let Some(request) = Request::read(&mut stream).await else {
            return Ok(());
        };
        let path = request.path.split('?').next().unwrap_or_default();
        let endpoint = path.rsplit('/').next().unwrap_or_default().to_owned();
        let fault = {
            let mut state = self.state();
            state.turn += 1;
            let fault = state.faults.get(endpoint.as_str()).copied();
            fault.filter(|f| *f != Fault::Flaps || state.turn.is_multiple_of(2))
        };
        match fault {
            Some(fault) => {
                self.note(&endpoint, None);
                misbehave(&mut stream, fault, &request.path).await
            }
            None => self.forward(stream, &request, &endpoint).await,
        }
    }

    async fn forward(
        &self,
        mut stream: TlsStream<TcpStream>,
        request: &Request,
        endpoint: &str,
    ) -> io::Result<()> {
        let upstream = self.state().upstream;
        let mut controller = TcpStream::connect(upstream).await?;
        let head = format!("{}\r\nconnection: close\r\n\r\n", request.head);
        controller.write_all(head.as_bytes()).await?;
        controller.write_all(&request.body).await?;
        let mut answer = Vec::new();
        controller.read_to_end(&mut answer).await?;
        let code = String::from_utf8_lossy(answer.get(9..12).unwrap_or_default())
            .parse()
            .ok();
        self.note(endpoint, code);
        stream.write_all(&answer).await?;
        stream.shutdown().await
    }
}

async fn misbehave(stream: &mut TlsStream<TcpStream>, fault: Fault, path: &str) -> io::Result<()> {
    let page = "<html>Welcome to the Grand Hotel</html>";
    match fault {
        Fault::Code(code) => {
            stream
                .write_all(&head(code, &[("content-type", "text/plain")], 2))
                .await?;
            stream.write_all(b"no").await?;
        }
        Fault::Busy(code, seconds) => {
            let seconds = seconds.to_string();
            stream
                .write_all(&head(code, &[("retry-after", &seconds)], 0))
                .await?;
        }
        Fault::Flaps => stream.write_all(&head(503, &[], 0)).await?,
        Fault::Hangs => sleep(Duration::from_secs(60)).await,
        Fault::Drips => {
            stream.write_all(&head(200, &[PROTO], 10_000)).await?;
            loop {
                stream.write_all(b"x").await?;
                stream.flush().await?;
                sleep(Duration::from_millis(100)).await;
            }
        }
        Fault::Short => {
            stream.write_all(&head(200, &[PROTO], 1000)).await?;
            stream.write_all(&[10; 500]).await?;
            stream.flush().await?;
        }
        Fault::Huge => {
            stream
                .write_all(&head(200, &[PROTO], usize::MAX >> 1))
                .await?;
            let lines = vec![b'\n'; 65_536];
            loop {
                stream.write_all(&lines).await?;
            }
        }
        Fault::Portal => {
            let answer = head(200, &[("content-type", "text/html")], page.len());
            stream.write_all(&answer).await?;
            stream.write_all(page.as_bytes()).await?;
        }
        Fault::Garbage => {
            stream.write_all(&head(200, &[PROTO], 64)).await?;
            stream.write_all(&[0xff; 64]).await?;
        }
        Fault::Redirects => {
            stream
                .write_all(&head(302, &[("location", path)], 0))
                .await?;
        }
        Fault::Resets
        | Fault::Down
        | Fault::Plain
        | Fault::Expired
        | Fault::NotYet
        | Fault::Foreign => return stream.get_ref().0.set_zero_linger(),
    }
    stream.shutdown().await
}
