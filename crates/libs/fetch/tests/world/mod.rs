//! A disk, ways to the outside and a healthy datastore.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fetch::partial::Paths;
use fetch::source::Common;
use fetch::{Downloaded, FetchError, HttpSource, Limits, Login, Source, download, source_for};
use model::id::Digest;
use sha2::{Digest as _, Sha256};
use uplink::reqwest::Url;
use uplink::{Attempt, Choice, Port, Roots, Settings, Tls, attempts};

use crate::support::{Request, Server, Step, answer, head, serve};

pub fn content(size: usize) -> Vec<u8> {
    (0..size)
        .map(|n| u8::try_from(n * 31 % 251).unwrap())
        .collect()
}

pub fn digest(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

pub fn limits(file: &[u8]) -> Limits {
    Limits {
        digest: Some(digest(file)),
        stall: Duration::from_secs(5),
        ..Limits::default()
    }
}

/// `eth0` from 127.0.0.2, `eth1` from 127.0.0.3, and so on.
pub fn ways(count: u8) -> Vec<Attempt> {
    let port = |n| Port::new(format!("eth{n}"), vec![[127, 0, 0, 2 + n].into()]);
    let ports: Vec<Port> = (0..count).map(port).collect();
    attempts(&ports, &Choice::any_cost(0)).unwrap()
}

pub fn source_at(url: &str) -> HttpSource {
    let settings = Settings {
        connect_timeout: Duration::from_secs(3),
        request_timeout: None,
        redirects: HttpSource::REDIRECTS,
        ..Settings::default()
    };
    let tls = Tls::new(Roots::default(), None).unwrap();
    HttpSource::new(Url::parse(url).unwrap(), None, tls, settings)
}

pub fn source(server: &Server) -> HttpSource {
    source_at(&format!("http://{}/image", server.address))
}

/// By the config of a datastore.
pub fn source_for_test(server: SocketAddr, pems: &[&str], login: Option<Login>) -> Box<dyn Source> {
    let datastore = model::content::DatastoreConfig {
        id: model::id::DatastoreId::default(),
        kind: model::content::DatastoreKind::Https,
        fqdn: server.to_string(),
        dpath: "images".into(),
        region: String::new(),
        certificates_pem: pems.iter().map(ToString::to_string).collect(),
        credentials: None,
        fault: None,
    };
    let common = Common {
        roots: Roots::default(),
        hosts: Arc::default(),
        connect_timeout: Duration::from_secs(3),
        allow_insecure_auth: false,
    };
    source_for(&datastore, "a/b.img", login, &common).unwrap()
}

/// The tag of every file here.
pub const TAG: (&str, &str) = ("ETag", "\"v1\"");

/// Over one way.
pub async fn get(server: &Server, disk: &Disk, limits: &Limits) -> Result<Downloaded, FetchError> {
    download(&source(server), &ways(1), &disk.target, limits, &mut |_| {}).await
}

/// Sends `upto` bytes of the rest, then resets; with `upto` beyond the end all of it.
pub fn broken_at(request: &Request, file: &[u8], upto: usize) -> Vec<Step> {
    let begin = range_of(request).unwrap_or(0);
    let range = format!("bytes {begin}-{}/{}", file.len() - 1, file.len());
    let head = match begin {
        0 => head(200, &[TAG], file.len()),
        _ => head(206, &[TAG, ("Content-Range", &range)], file.len() - begin),
    };
    let end = file.len().min(begin.saturating_add(upto));
    let mut steps = vec![Step::Send(head), Step::Send(file[begin..end].to_vec())];
    if end < file.len() {
        steps.extend([Step::Sleep(Duration::from_millis(300)), Step::Reset]);
    }
    steps
}

/// The first byte that a request asks for.
pub fn range_of(request: &Request) -> Option<usize> {
    let range = request.header("range")?;
    range
        .strip_prefix("bytes=")?
        .strip_suffix('-')?
        .parse()
        .ok()
}

/// A datastore without faults.
pub async fn store(file: &[u8]) -> Server {
    let file = file.to_vec();
    serve(None, move |request| match range_of(request) {
        Some(begin) if begin < file.len() => {
            let range = format!("bytes {begin}-{}/{}", file.len() - 1, file.len());
            answer(
                206,
                &[("ETag", "\"v1\""), ("Content-Range", &range)],
                &file[begin..],
            )
        }
        Some(_) => answer(
            416,
            &[("Content-Range", &format!("bytes */{}", file.len()))],
            b"",
        ),
        None => answer(200, &[("ETag", "\"v1\"")], &file),
    })
    .await
}

pub struct Disk {
    pub target: PathBuf,
    pub paths: Paths,
    dir: tempfile::TempDir,
}

impl Disk {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("image");
        Self {
            paths: Paths::of(&target),
            target,
            dir,
        }
    }

    pub fn file(&self) -> Vec<u8> {
        std::fs::read(&self.target).unwrap()
    }

    pub fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// As an earlier download would have left it.
    pub fn keep(
        &self,
        bytes: &[u8],
        source: &dyn Source,
        tag: Option<&str>,
        digest: Option<Digest>,
    ) {
        let origin = fetch::partial::Origin {
            url: source.url().to_owned(),
            validator: tag.map(|tag| fetch::Validator::ETag(tag.to_owned())),
            total: None,
            digest,
        };
        std::fs::write(&self.paths.sidecar, serde_json::to_vec(&origin).unwrap()).unwrap();
        std::fs::write(&self.paths.part, bytes).unwrap();
    }
}
