//! A controller in this process, and devices that speak to it byte by byte.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use api::attest::{ZAttestQuote, ZAttestReq, ZAttestReqType, ZAttestResponse};
use api::auth::AuthContainer;
use api::certs::{ZCert, ZCertType, ZControllerCert};
use api::common::HashAlgorithm;
use api::config::ConfigRequest;
use api::register::ZRegisterMsg;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use evc::admin::{Client, NewAdmission};
use evc::cert::Certificate;
use evc::envelope::Signer;
use evc::pki::{self, InitOptions};
use evc::serve::{self, Apis, Options, Running};
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use prost::Message;
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use uuid::Uuid;

pub const PROTO: &str = "application/x-proto-binary";

/// A running controller with an empty database.
pub struct World {
    pub dir: TempDir,
    pub devices: SocketAddr,
    pub admin: Client,
    pub root_pem: String,
    pub batch: Identity,
    stop: watch::Sender<bool>,
    running: Running,
}

impl World {
    pub async fn new() -> Self {
        Self::with(Apis::Both).await
    }

    pub async fn with(apis: Apis) -> Self {
        let dir = tempfile::tempdir().unwrap();
        init(dir.path());
        let any = "127.0.0.1:0".parse().unwrap();
        let options = Options {
            dir: dir.path().to_owned(),
            listen: any,
            admin: any,
            apis,
        };
        let (stop, stopped) = watch::channel(false);
        let running = serve::start(&options, stopped).await.unwrap();
        Self {
            devices: running.listen,
            admin: Client::from_dir(dir.path()).unwrap(),
            root_pem: root_pem(dir.path()),
            batch: batch(dir.path()),
            dir,
            stop,
            running,
        }
    }

    pub async fn end(self) {
        self.stop.send_replace(true);
        self.running.finished().await;
    }

    pub async fn admit(&self, serial: &str, hold: bool) {
        let new = NewAdmission {
            cert: None,
            serial: serial.to_owned(),
            name: None,
            hold,
            ..NewAdmission::default()
        };
        self.admin.admit(&new).await.unwrap();
    }

    /// A device that registered and knows its UUID.
    pub async fn onboarded(&self, serial: &str) -> Device {
        self.admit(serial, false).await;
        let mut device = Device::new(serial);
        let reply = self.post("register", device.register(&self.batch)).await;
        assert_eq!(reply.status, 201, "{}", reply.text());
        device.uuid = self.admin.device(serial).await.unwrap().uuid;
        device
    }

    /// Posts to a v2 path.
    pub async fn post(&self, path: &str, body: impl Message) -> Reply {
        self.post_bytes(path, body.encode_to_vec(), PROTO).await
    }

    pub async fn post_bytes(&self, path: &str, body: Vec<u8>, kind: &str) -> Reply {
        let path = format!("/api/v2/edgedevice/{path}");
        self.call(Method::POST, &path, body, kind, None).await
    }

    /// One request on a connection of its own.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
        kind: &str,
        identity: Option<&Identity>,
    ) -> Reply {
        let config = tls(&self.root_pem, identity, rustls::DEFAULT_VERSIONS);
        let mut connection = connect(self.devices, config).await.unwrap();
        request(&mut connection, method, path, body, kind)
            .await
            .unwrap()
    }
}

pub fn init(dir: &Path) {
    let options = InitOptions {
        name: "localhost".to_owned(),
        sans: vec!["127.0.0.1".to_owned()],
    };
    pki::init(dir, &options).unwrap();
}

pub fn root_pem(dir: &Path) -> String {
    std::fs::read_to_string(dir.join("pki/root-certificate.pem")).unwrap()
}

pub fn batch(dir: &Path) -> Identity {
    let read = |name: &str| std::fs::read_to_string(dir.join("device-config").join(name)).unwrap();
    Identity::from_pem(&read("onboard.cert.pem"), &read("onboard.key.pem"))
}

/// What came back.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The message in a signed answer, after checking that the controller signed it.
    pub fn opened<M: Message + Default>(&self, signing_pem: &str) -> M {
        let container = AuthContainer::decode(self.body.as_slice()).unwrap();
        let cert = Certificate::from_pem(signing_pem.as_bytes()).unwrap();
        let hash = evc::envelope::pem_hash(signing_pem);
        let payload = evc::envelope::open_as(&container, cert.point(), &hash).unwrap();
        M::decode(payload).unwrap()
    }
}

/// A key and its self-signed certificate.
pub struct Identity {
    pub cert: Certificate,
    pub signer: Signer,
    key: PrivatePkcs8KeyDer<'static>,
}

impl Identity {
    pub fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self::from_pem(&pem, &key.serialize_pem())
    }

    pub fn from_pem(cert: &str, key: &str) -> Self {
        let key = PrivatePkcs8KeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let cert = Certificate::from_pem(cert.as_bytes()).unwrap();
        let signer = Signer::new(key.secret_pkcs8_der(), cert.hash()).unwrap();
        Self { cert, signer, key }
    }

    /// A certificate for another key, signed by this one.
    pub fn certify(&self, key: &rcgen::KeyPair) -> String {
        let own = rcgen::KeyPair::try_from(self.key.secret_pkcs8_der()).unwrap();
        let issuer = rcgen::Issuer::from_ca_cert_pem(self.cert.pem(), own).unwrap();
        let params = rcgen::CertificateParams::new(vec![]).unwrap();
        params.signed_by(key, &issuer).unwrap().pem()
    }

    pub fn seal(&self, message: &impl Message) -> AuthContainer {
        self.signer.seal(message.encode_to_vec()).unwrap()
    }
}

/// A device as the protocol sees it.
pub struct Device {
    pub identity: Identity,
    pub serial: String,
    pub soft_serial: String,
    pub uuid: Uuid,
}

impl Device {
    pub fn new(serial: &str) -> Self {
        Self {
            identity: Identity::new(),
            serial: serial.to_owned(),
            soft_serial: String::new(),
            uuid: Uuid::nil(),
        }
    }

    pub fn register_message(&self) -> ZRegisterMsg {
        ZRegisterMsg {
            pem_cert: STANDARD.encode(self.identity.cert.pem()).into_bytes(),
            serial: self.serial.clone(),
            soft_serial: self.soft_serial.clone(),
            ..ZRegisterMsg::default()
        }
    }

    pub fn register(&self, batch: &Identity) -> AuthContainer {
        let mut container = batch.seal(&self.register_message());
        container.sender_cert = STANDARD.encode(batch.cert.pem()).into_bytes();
        container
    }

    pub fn seal(&self, message: &impl Message) -> AuthContainer {
        self.identity.seal(message)
    }

    pub fn path(&self, action: &str) -> String {
        format!("id/{}/{action}", self.uuid)
    }
}

pub fn tls(
    root_pem: &str,
    identity: Option<&Identity>,
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(root_pem.as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    Arc::new(match identity {
        Some(identity) => {
            let chain = vec![CertificateDer::from(identity.cert.der().to_vec())];
            let key = PrivateKeyDer::Pkcs8(identity.key.clone_key());
            builder.with_client_auth_cert(chain, key).unwrap()
        }
        None => builder.with_no_client_auth(),
    })
}

pub type Connection = SendRequest<Full<Bytes>>;

pub async fn connect(
    address: SocketAddr,
    config: Arc<ClientConfig>,
) -> Result<Connection, Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost")?;
    let stream = TlsConnector::from(config).connect(name, stream).await?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

pub async fn request(
    connection: &mut Connection,
    method: Method,
    path: &str,
    body: Vec<u8>,
    kind: &str,
) -> Result<Reply, hyper::Error> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost");
    if !kind.is_empty() {
        request = request.header("content-type", kind);
    }
    let response = connection
        .send_request(request.body(Full::from(body)).unwrap())
        .await?;
    let (parts, body) = response.into_parts();
    let body = body.collect().await?.to_bytes().to_vec();
    Ok(Reply {
        status: parts.status.as_u16(),
        headers: parts.headers,
        body,
    })
}

pub async fn certs(world: &World) -> ZControllerCert {
    let reply = world
        .call(Method::GET, "/api/v2/edgedevice/certs", vec![], "", None)
        .await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.headers["content-type"], PROTO);
    let container = AuthContainer::decode(reply.body.as_slice()).unwrap();
    let payload = container.protected_payload.unwrap().payload;
    ZControllerCert::decode(payload.as_slice()).unwrap()
}

/// The certificate that the controller signs with.
pub async fn signing_pem(world: &World) -> String {
    let certs = certs(world).await.certs;
    let signing: Vec<_> = certs.iter().filter(|c| c.r#type == 1).collect();
    assert_eq!(signing.len(), 1);
    String::from_utf8(signing[0].cert.clone()).unwrap()
}

pub fn attest(req_type: ZAttestReqType) -> ZAttestReq {
    ZAttestReq {
        req_type: req_type.into(),
        ..ZAttestReq::default()
    }
}

pub async fn attested(world: &World, device: &Device, pem: &str) -> Vec<u8> {
    let path = device.path("attest");
    let nonce = world
        .post(&path, device.seal(&attest(ZAttestReqType::AttestReqNonce)))
        .await;
    assert_eq!(nonce.status, 201);
    assert_eq!(
        nonce
            .opened::<ZAttestResponse>(pem)
            .nonce
            .unwrap()
            .nonce
            .len(),
        32
    );
    let mut quote = attest(ZAttestReqType::AttestReqQuote);
    quote.quote = Some(ZAttestQuote::default());
    let answer = world.post(&path, device.seal(&quote)).await;
    let answer = answer.opened::<ZAttestResponse>(pem).quote_resp.unwrap();
    assert_eq!(answer.response, 1);
    answer.integrity_token
}

pub fn config_request(hash: &str, token: &[u8]) -> ConfigRequest {
    ConfigRequest {
        config_hash: hash.to_owned(),
        integrity_token: token.to_vec(),
    }
}

/// CERT with one certificate.
pub fn certs_request(pem: &str, kind: ZCertType) -> ZAttestReq {
    ZAttestReq {
        certs: vec![ZCert {
            hash_algo: HashAlgorithm::Sha25616bytes.into(),
            cert_hash: Sha256::digest(pem.as_bytes())[..16].to_vec(),
            r#type: kind.into(),
            cert: pem.as_bytes().to_vec(),
            ..ZCert::default()
        }],
        ..attest(ZAttestReqType::AttestReqCert)
    }
}
