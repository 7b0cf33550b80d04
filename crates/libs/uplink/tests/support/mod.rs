//! Servers on loopback that misbehave on request: HTTP(S) with faults, a CONNECT proxy,
//! a DNS server, and certificates for them. Shared by the tests of `uplink`,
//! `controller` and `fetch`.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    unreachable_pub,
    missing_docs
)]

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use rustls::ServerConfig;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinHandle;

/// A certificate authority.
pub struct Ca {
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key.
pub struct Leaf {
    pub pem: String,
    pub der: CertificateDer<'static>,
    pub key: KeyPair,
}

impl Ca {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            pem,
            issuer: Issuer::new(params, key),
        }
    }

    /// Valid from yesterday for a year.
    pub fn leaf(&self, names: &[&str]) -> Leaf {
        self.leaf_with(names, |_| {})
    }

    pub fn expired(&self, names: &[&str]) -> Leaf {
        self.leaf_with(names, |params| {
            params.not_before = rcgen::date_time_ymd(2001, 1, 1);
            params.not_after = rcgen::date_time_ymd(2002, 1, 1);
        })
    }

    pub fn leaf_with(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Leaf {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, "leaf");
        let now = time::OffsetDateTime::now_utc();
        params.not_before = now - time::Duration::days(1);
        params.not_after = now + time::Duration::days(365);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        Leaf {
            pem: cert.pem(),
            der: cert.der().clone(),
            key,
        }
    }

    /// An intermediate authority with its certificate.
    pub fn intermediate(&self, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        Self {
            pem,
            issuer: Issuer::new(params, key),
        }
    }
}

/// TLS of a server with this certificate; `clients` decides about client certificates.
pub fn server_tls(leaf: &Leaf, clients: Option<Arc<dyn ClientCertVerifier>>) -> Arc<ServerConfig> {
    server_tls_versions(leaf, clients, rustls::ALL_VERSIONS)
}

pub fn server_tls_versions(
    leaf: &Leaf,
    clients: Option<Arc<dyn ClientCertVerifier>>,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap();
    let builder = match clients {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let key = PrivateKeyDer::try_from(leaf.key.serialize_der()).unwrap();
    Arc::new(
        builder
            .with_single_cert(vec![leaf.der.clone()], key)
            .unwrap(),
    )
}

/// Wants a client certificate, any.
#[derive(Debug)]
pub struct AnyClient(pub Arc<rustls::crypto::CryptoProvider>);

impl AnyClient {
    pub fn verifier() -> Arc<dyn ClientCertVerifier> {
        Arc::new(Self(Arc::new(rustls::crypto::ring::default_provider())))
    }
}

impl ClientCertVerifier for AnyClient {
    fn root_hint_subjects(&self) -> &[rustls::DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::server::danger::ClientCertVerified, rustls::Error> {
        Ok(rustls::server::danger::ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub peer: SocketAddr,
    pub client_cert: Option<Vec<u8>>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.as_str())
    }
}

/// What the server does next.
#[derive(Debug, Clone)]
pub enum Step {
    Send(Vec<u8>),
    Sleep(Duration),
    /// RST instead of FIN.
    Reset,
}

/// A whole answer with its length.
pub fn answer(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Vec<Step> {
    vec![
        Step::Send(head(status, headers, body.len())),
        Step::Send(body.to_vec()),
    ]
}

/// The head of an answer that promises `length` bytes.
pub fn head(status: u16, headers: &[(&str, &str)], length: usize) -> Vec<u8> {
    let mut head =
        format!("HTTP/1.1 {status} Text\r\nContent-Length: {length}\r\nConnection: close\r\n");
    for (name, value) in headers {
        write!(head, "{name}: {value}\r\n").unwrap();
    }
    head.push_str("\r\n");
    head.into_bytes()
}

/// A server that ends with the value.
pub struct Server {
    pub address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Everything that was asked so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

/// Serves every connection with one request and what `handler` says to it.
pub async fn serve<H>(tls: Option<Arc<ServerConfig>>, handler: H) -> Server
where
    H: Fn(&Request) -> Vec<Step> + Send + Sync + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let requests = Arc::new(Mutex::new(Vec::new()));
    let (seen, handler) = (Arc::clone(&requests), Arc::new(handler));
    let task = tokio::spawn(async move {
        while let Ok((stream, peer)) = listener.accept().await {
            let (tls, seen, handler) = (tls.clone(), Arc::clone(&seen), Arc::clone(&handler));
            tokio::spawn(async move {
                let run = |request: &Request| {
                    seen.lock().unwrap().push(request.clone());
                    handler(request)
                };
                match tls {
                    None => {
                        one(stream, peer, None, run, |stream| {
                            drop(stream.set_zero_linger());
                        })
                        .await;
                    }
                    Some(tls) => {
                        let Ok(stream) = tokio_rustls::TlsAcceptor::from(tls).accept(stream).await
                        else {
                            return;
                        };
                        let cert = stream
                            .get_ref()
                            .1
                            .peer_certificates()
                            .map(|c| c[0].to_vec());
                        let reset = |stream: &mut tokio_rustls::server::TlsStream<TcpStream>| {
                            drop(stream.get_ref().0.set_zero_linger());
                        };
                        one(stream, peer, cert, run, reset).await;
                    }
                }
            });
        }
    });
    Server {
        address,
        requests,
        task,
    }
}

async fn one<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    peer: SocketAddr,
    client_cert: Option<Vec<u8>>,
    handler: impl Fn(&Request) -> Vec<Step>,
    reset: impl Fn(&mut S),
) {
    let Some(mut request) = read_request(&mut stream, peer).await else {
        return;
    };
    request.client_cert = client_cert;
    for step in handler(&request) {
        match step {
            Step::Send(bytes) => {
                if stream.write_all(&bytes).await.is_err() || stream.flush().await.is_err() {
                    return;
                }
            }
            Step::Sleep(time) => tokio::time::sleep(time).await,
            Step::Reset => {
                reset(&mut stream);
                return;
            }
        }
    }
    let _ = stream.shutdown().await;
}

async fn read_request<S: AsyncRead + Unpin>(stream: &mut S, peer: SocketAddr) -> Option<Request> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let text = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = text.lines();
    let mut first = lines.next()?.split(' ');
    let (method, path) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned()))
        .collect();
    let mut request = Request {
        method,
        path,
        headers,
        body: bytes.split_off(end + 4),
        peer,
        client_cert: None,
    };
    let length: usize = request
        .header("content-length")
        .map_or(0, |l| l.parse().unwrap());
    while request.body.len() < length {
        if stream.read_buf(&mut request.body).await.ok()? == 0 {
            return None;
        }
    }
    Some(request)
}

/// A proxy that says `status` to CONNECT, and with 200 connects to `upstream` whatever the
/// name asked for. Other methods are answered with their own absolute URL.
pub async fn connect_proxy(status: u16, upstream: SocketAddr) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let requests = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&requests);
    let task = tokio::spawn(async move {
        while let Ok((mut stream, peer)) = listener.accept().await {
            let seen = Arc::clone(&seen);
            tokio::spawn(async move {
                let Some(request) = read_request(&mut stream, peer).await else {
                    return;
                };
                let connect = request.method == "CONNECT";
                let echo = answer(200, &[], request.path.as_bytes());
                seen.lock().unwrap().push(request);
                if !connect {
                    for step in echo {
                        let Step::Send(bytes) = step else { continue };
                        let _ = stream.write_all(&bytes).await;
                    }
                    return;
                }
                let reply = format!("HTTP/1.1 {status} Text\r\n\r\n");
                let _ = stream.write_all(reply.as_bytes()).await;
                if status == 200 {
                    let Ok(mut up) = TcpStream::connect(upstream).await else {
                        return;
                    };
                    let _ = tokio::io::copy_bidirectional(&mut stream, &mut up).await;
                }
            });
        }
    });
    Server {
        address,
        requests,
        task,
    }
}

/// A port of loopback that refuses connections.
pub async fn refusing() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
}

/// Accepts connections and says nothing, ever.
pub async fn silent() -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    Server {
        address,
        requests: Arc::default(),
        task,
    }
}

/// What a DNS server does with a question.
#[derive(Debug, Clone, Copy)]
pub enum Dns {
    /// 127.0.0.1 for every A question.
    Loopback,
    NoSuchName,
    Silent,
}

/// A DNS server over UDP; `requests` holds the asker's addresses.
pub async fn dns(kind: Dns) -> Server {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let requests = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&requests);
    let task = tokio::spawn(async move {
        let mut buffer = [0u8; 1500];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
            let question = &buffer[..length];
            let request = Request {
                method: "DNS".into(),
                path: String::new(),
                headers: Vec::new(),
                body: question.to_vec(),
                peer,
                client_cert: None,
            };
            seen.lock().unwrap().push(request);
            if let Some(reply) = dns_reply(question, kind) {
                let _ = socket.send_to(&reply, peer).await;
            }
        }
    });
    Server {
        address,
        requests,
        task,
    }
}

fn dns_reply(question: &[u8], kind: Dns) -> Option<Vec<u8>> {
    // Name ends at the zero label; type and class follow.
    let end = 12 + question[12..].iter().position(|b| *b == 0)? + 5;
    let is_a = question[end - 4..end - 2] == [0, 1];
    let (code, answers) = match kind {
        Dns::Silent => return None,
        Dns::NoSuchName => (3, 0),
        Dns::Loopback if is_a => (0, 1),
        Dns::Loopback => (0, 0),
    };
    let mut reply = question[..2].to_vec();
    reply.extend([0x81, 0x80 | code, 0, 1, 0, answers, 0, 0, 0, 0]);
    reply.extend(&question[12..end]);
    if answers == 1 {
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
    }
    Some(reply)
}
