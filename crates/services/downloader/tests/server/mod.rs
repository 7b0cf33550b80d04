//! A datastore on the loopback interface that misbehaves on request.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::{TlsAcceptor, rustls};

/// How a file is delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    Well,
    /// The first answer ends in the middle.
    CutOnce,
    /// Half of it, then nothing more.
    Hang,
    /// In small pieces with pauses.
    Slowly,
    /// To whom sends this `Authorization`.
    Login(&'static str),
}

#[derive(Debug, Default)]
pub struct Store {
    files: Mutex<BTreeMap<String, (Vec<u8>, Manner)>>,
    /// Request line, a space, and the first byte that was asked for.
    pub log: Mutex<Vec<String>>,
    /// Slow answers that are under way, and the most that ever were at once.
    open: AtomicUsize,
    pub most_open: AtomicUsize,
}

impl Store {
    pub fn put(&self, path: &str, bytes: &[u8], manner: Manner) {
        self.files
            .lock()
            .unwrap()
            .insert(format!("/{path}"), (bytes.to_vec(), manner));
    }

    pub fn requests(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        mut stream: S,
    ) -> std::io::Result<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let sent = String::from_utf8_lossy(&head).into_owned();
        let head = sent.to_ascii_lowercase();
        let path = head
            .split_whitespace()
            .nth(1)
            .unwrap_or_default()
            .to_owned();
        let start: Option<usize> = head.lines().find_map(|line| {
            line.strip_prefix("range: bytes=")?
                .strip_suffix('-')?
                .parse()
                .ok()
        });
        self.log
            .lock()
            .unwrap()
            .push(format!("{path} {}", start.unwrap_or(0)));
        let found = self.files.lock().unwrap().get(&path).cloned();
        let Some((bytes, manner)) = found else {
            return stream
                .write_all(b"HTTP/1.1 404 no\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                .await;
        };
        if let Manner::Login(login) = manner
            && !sent.contains(&format!("uthorization: {login}\r\n"))
        {
            return stream
                .write_all(b"HTTP/1.1 401 no\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                .await;
        }
        let body = &bytes[start.unwrap_or(0)..];
        let status = match start {
            Some(start) => {
                let last = bytes.len() - 1;
                format!(
                    "206 part\r\ncontent-range: bytes {start}-{last}/{}",
                    bytes.len()
                )
            }
            None => "200 ok".to_owned(),
        };
        let head = format!(
            "HTTP/1.1 {status}\r\netag: \"1\"\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        match manner {
            Manner::Well | Manner::Login(_) => stream.write_all(body).await?,
            Manner::CutOnce => {
                stream.write_all(&body[..body.len() / 2]).await?;
                self.put(path.trim_start_matches('/'), &bytes, Manner::Well);
            }
            Manner::Hang => {
                stream.write_all(&body[..body.len() / 2]).await?;
                stream.flush().await?;
                tokio::time::sleep(Duration::from_secs(60)).await;
            }
            Manner::Slowly => {
                let open = self.open.fetch_add(1, Ordering::SeqCst) + 1;
                self.most_open.fetch_max(open, Ordering::SeqCst);
                let (most, last) = body.split_at(body.len() - 1);
                for piece in most.chunks(most.len().div_ceil(8)) {
                    stream.write_all(piece).await?;
                    stream.flush().await?;
                    tokio::time::sleep(Duration::from_millis(40)).await;
                }
                // The client may be done before this returns.
                self.open.fetch_sub(1, Ordering::SeqCst);
                stream.write_all(last).await?;
            }
        }
        stream.shutdown().await
    }
}

/// Serves `store` until the test ends.
pub async fn serve(store: &Arc<Store>, tls: Option<rustls::ServerConfig>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let store = Arc::clone(store);
    let tls = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (store, tls) = (Arc::clone(&store), tls.clone());
            tokio::spawn(async move {
                // A client that goes away is no concern of a server.
                let _ = match tls {
                    None => store.answer(stream).await,
                    Some(tls) => match tls.accept(stream).await {
                        Ok(stream) => store.answer(stream).await,
                        Err(error) => Err(error),
                    },
                };
            });
        }
    });
    address
}

/// A root certificate as PEM, and what a server at 127.0.0.1 shows.
pub fn pki() -> (String, rustls::ServerConfig) {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let root_key = KeyPair::generate().unwrap();
    let mut root = CertificateParams::new(Vec::<String>::new()).unwrap();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root_cert = root.self_signed(&root_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let issuer = Issuer::new(root, root_key);
    let cert = CertificateParams::new(vec!["127.0.0.1".to_owned()])
        .unwrap()
        .signed_by(&key, &issuer)
        .unwrap();
    let private = rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_no_client_auth()
    .with_single_cert(vec![cert.der().clone()], private)
    .unwrap();
    (root_cert.pem(), config)
}
