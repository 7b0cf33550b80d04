//! What a datastore must be able to do.

use std::fmt;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use model::content::{DatastoreConfig, DatastoreKind};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use uplink::reqwest::Url;
use uplink::{Attempt, Hosts, Roots, Tls};

use crate::error::Problem;
use crate::http::{HttpSource, Login};

/// Proof that a file at a datastore is still the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Validator {
    /// A strong entity tag, with its quotes.
    ETag(String),
    /// The date of the last change, as the datastore wrote it.
    LastModified(String),
}

/// Where to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resume {
    /// The first byte that is missing.
    pub offset: u64,
    /// What the file must still be. None only when the caller knows the digest.
    pub validator: Option<Validator>,
}

/// A file that has begun to arrive.
pub struct Opened {
    /// Position of the body's first byte: what was asked for, or 0 if the datastore starts
    /// from the beginning.
    pub start: u64,
    /// Size of the whole file, if known.
    pub total: Option<u64>,
    /// Proof for a later resumption.
    pub validator: Option<Validator>,
    /// The bytes.
    pub body: BoxStream<'static, Result<Bytes, Problem>>,
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            start,
            total,
            validator,
            body: _,
        } = self;
        f.debug_struct("Opened")
            .field("start", start)
            .field("total", total)
            .field("validator", validator)
            .finish_non_exhaustive()
    }
}

/// One file at a datastore.
pub trait Source: fmt::Debug + Send + Sync {
    /// Its address, without secrets, for people and for telling sources apart.
    fn url(&self) -> &str;

    /// Begins to fetch it over one way. With `resume` it goes on there if the file is still
    /// the same and the datastore can do that, else it starts from 0. The caller limits the
    /// time.
    fn open<'a>(
        &'a self,
        attempt: &'a Attempt,
        resume: Option<&'a Resume>,
    ) -> BoxFuture<'a, Result<Opened, Problem>>;
}

/// Why there is no source for a datastore.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SourceError {
    /// The protocol is not built in.
    #[error("datastore {id}: the protocol {kind:?} is not supported by this version")]
    Unsupported {
        /// The datastore.
        id: String,
        /// Its protocol.
        kind: DatastoreKind,
    },
    /// Host and path make no URL.
    #[error("datastore {id}: {url:?} is not a URL: {why}")]
    Url {
        /// The datastore.
        id: String,
        /// What was made.
        url: String,
        /// The parser's words.
        why: String,
    },
    /// A password would travel in the clear.
    #[error("datastore {id} wants a login over plain http, which the config does not allow")]
    InsecureLogin {
        /// The datastore.
        id: String,
    },
    /// Its certificates can't be used.
    #[error("datastore {id}: {why}")]
    Tls {
        /// The datastore.
        id: String,
        /// Why.
        why: String,
    },
}

/// What a service's sources have in common.
#[derive(Debug, Clone)]
pub struct Common {
    /// Trusted beside the datastore's own certificates: the device's roots, the system pool
    /// and the ports' proxy certificates.
    pub roots: Roots,
    /// Names with fixed addresses.
    pub hosts: std::sync::Arc<Hosts>,
    /// For DNS, TCP and TLS of one way.
    pub connect_timeout: std::time::Duration,
    /// `datastore.http.security.allowinsecureauth`: logins over plain http.
    pub allow_insecure_auth: bool,
}

/// The source that a datastore's config means for the file at `relative_url`.
pub fn source_for(
    datastore: &DatastoreConfig,
    relative_url: &str,
    login: Option<Login>,
    common: &Common,
) -> Result<Box<dyn Source>, SourceError> {
    let id = datastore.id.to_string();
    match datastore.kind {
        DatastoreKind::Http | DatastoreKind::Https => {
            let scheme = if datastore.kind == DatastoreKind::Http {
                "http"
            } else {
                "https"
            };
            let url = url(scheme, datastore, relative_url)?;
            if scheme == "http" && login.is_some() && !common.allow_insecure_auth {
                return Err(SourceError::InsecureLogin { id });
            }
            let tls = tls(datastore, common)?;
            let settings = uplink::Settings {
                connect_timeout: common.connect_timeout,
                request_timeout: None,
                redirects: HttpSource::REDIRECTS,
                hosts: std::sync::Arc::clone(&common.hosts),
                ..uplink::Settings::default()
            };
            Ok(Box::new(HttpSource::new(url, login, tls, settings)))
        }
        kind @ (DatastoreKind::S3
        | DatastoreKind::Sftp
        | DatastoreKind::ContainerRegistry
        | DatastoreKind::AzureBlob
        | DatastoreKind::GoogleStorage) => Err(SourceError::Unsupported { id, kind }),
    }
}

/// Host, the datastore's path and the file's, with one slash in between. A query of the
/// file's stays one.
fn url(scheme: &str, datastore: &DatastoreConfig, relative_url: &str) -> Result<Url, SourceError> {
    let host = datastore.fqdn.trim();
    let host = host
        .split_once("://")
        .map_or(host, |(_, rest)| rest)
        .trim_end_matches('/');
    let parts = [
        datastore.dpath.trim_matches('/'),
        relative_url.trim_start_matches('/'),
    ];
    let path: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    let url = format!("{scheme}://{host}/{}", path.join("/"));
    let bad = |why: String| SourceError::Url {
        id: datastore.id.to_string(),
        url: url.clone(),
        why,
    };
    if host.is_empty() {
        return Err(bad("it has no host".to_owned()));
    }
    Url::parse(&url).map_err(|error| bad(error.to_string()))
}

fn tls(datastore: &DatastoreConfig, common: &Common) -> Result<Tls, SourceError> {
    let bad = |error: uplink::TlsError| SourceError::Tls {
        id: datastore.id.to_string(),
        why: error.to_string(),
    };
    let mut roots = common.roots.clone();
    for pem in &datastore.certificates_pem {
        roots
            .add_pem("its certificate", pem.as_bytes())
            .map_err(bad)?;
    }
    Tls::new(roots, None).map_err(bad)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn datastore(kind: &str, fqdn: &str, dpath: &str) -> DatastoreConfig {
        let text = format!(
            r#"{{"Id": "00000000-0000-0000-0000-000000000001", "Kind": "{kind}", "Fqdn": "{fqdn}", "Dpath": "{dpath}"}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn common() -> Common {
        Common {
            roots: Roots::default(),
            hosts: std::sync::Arc::default(),
            connect_timeout: std::time::Duration::from_secs(1),
            allow_insecure_auth: false,
        }
    }

    #[test]
    fn urls() {
        let table = [
            (
                "store.example",
                "images",
                "a.qcow2",
                "https://store.example/images/a.qcow2",
            ),
            (
                "https://store.example:8443/",
                "/images/",
                "/a b.img",
                "https://store.example:8443/images/a%20b.img",
            ),
            (
                "store.example",
                "",
                "a.img?token=x",
                "https://store.example/a.img?token=x",
            ),
        ];
        for (fqdn, dpath, file, expected) in table {
            let source =
                source_for(&datastore("Https", fqdn, dpath), file, None, &common()).unwrap();
            assert_eq!(source.url().split('?').next(), expected.split('?').next());
            let url = url("https", &datastore("Https", fqdn, dpath), file).unwrap();
            assert_eq!(url.as_str(), expected);
        }
        let bad =
            |fqdn| source_for(&datastore("Https", fqdn, ""), "x", None, &common()).unwrap_err();
        assert!(matches!(bad(""), SourceError::Url { .. }));
        assert!(matches!(bad("a b"), SourceError::Url { .. }));
    }

    #[test]
    fn what_is_refused() {
        let login = || {
            Some(Login {
                user: "u".to_owned().into(),
                password: "p".to_owned().into(),
            })
        };
        let plain = datastore("Http", "store.example", "");
        let refused = source_for(&plain, "x", login(), &common()).unwrap_err();
        assert!(matches!(refused, SourceError::InsecureLogin { .. }));
        let allowing = Common {
            allow_insecure_auth: true,
            ..common()
        };
        source_for(&plain, "x", login(), &allowing).unwrap();
        source_for(&plain, "x", None, &common()).unwrap();
        let s3 =
            source_for(&datastore("S3", "store.example", ""), "x", None, &common()).unwrap_err();
        assert_eq!(
            s3.to_string(),
            "datastore 00000000-0000-0000-0000-000000000001: the protocol S3 is not supported by this version"
        );
        let mut broken = datastore("Https", "store.example", "");
        broken.certificates_pem = vec!["nothing".into()];
        let refused = source_for(&broken, "x", None, &common()).unwrap_err();
        assert!(matches!(refused, SourceError::Tls { .. }));
    }
}
