//! What can be asked of a controller, and under which URL. Pure.

use std::fmt;

use thiserror::Error;
use uplink::reqwest::Url;
use uuid::Uuid;

/// The version of the EVE API that is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiVersion {
    /// Bare messages over mutual TLS. Only if the CONFIG partition has `Force-API-V1`, or
    /// the controller does not know version 2.
    V1,
    /// Signed envelopes.
    V2,
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        })
    }
}

/// Where the controller is: `host[:port]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    text: String,
    base: Url,
}

/// A server text that is not `host[:port]`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the controller's address {text:?} is not host[:port]: {why}")]
pub struct BadServer {
    /// As given.
    pub text: String,
    /// What is wrong.
    pub why: String,
}

impl Server {
    /// From the text of the file `server`.
    pub fn parse(text: &str) -> Result<Self, BadServer> {
        let trimmed = text.trim();
        let bad = |why: &str| BadServer {
            text: trimmed.to_owned(),
            why: why.to_owned(),
        };
        if trimmed.is_empty() {
            return Err(bad("it is empty"));
        }
        if trimmed.contains(['/', '@', '?', '#']) || trimmed.contains(char::is_whitespace) {
            return Err(bad("it holds more than that"));
        }
        let base =
            Url::parse(&format!("https://{trimmed}/")).map_err(|error| bad(&error.to_string()))?;
        Ok(Self {
            text: trimmed.to_owned(),
            base,
        })
    }

    /// `host[:port]`.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What is asked of the controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// The controller's certificates.
    Certs,
    /// Nothing, only whether it answers.
    Ping,
    /// First contact, with the onboarding key.
    Register,
    /// The device's UUID and model.
    Uuid,
    /// The device's config.
    Config,
    /// The steps of attestation.
    Attest,
    /// State of one object.
    Info,
    /// Counters and gauges.
    Metrics,
    /// Connections of applications.
    FlowLog,
    /// Log of the device.
    NewLogs,
    /// Log of an application.
    AppNewLogs(Uuid),
    /// Memory errors and the like.
    HardwareHealth,
}

/// Why an endpoint has no URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NoUrl {
    /// The device's UUID is part of it and not known.
    #[error("the device's UUID is not known yet")]
    NoUuid,
    /// It does not exist in this version.
    #[error("API version 1 does not have it")]
    NotInV1,
}

/// Who signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignedBy {
    /// The device key.
    Device,
    /// The onboarding key.
    Onboarding,
}

const MIB: usize = 1 << 20;
const SMALL: usize = 1 << 16;

impl Endpoint {
    /// Last part of the path, as in the API's documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::Certs => "certs",
            Self::Ping => "ping",
            Self::Register => "register",
            Self::Uuid => "uuid",
            Self::Config => "config",
            Self::Attest => "attest",
            Self::Info => "info",
            Self::Metrics => "metrics",
            Self::FlowLog => "flowlog",
            Self::NewLogs | Self::AppNewLogs(_) => "newlogs",
            Self::HardwareHealth => "hardwarehealth",
        }
    }

    /// Its URL. `device` is the UUID, part of most paths of version 2.
    pub fn url(
        self,
        server: &Server,
        version: ApiVersion,
        device: Option<Uuid>,
    ) -> Result<Url, NoUrl> {
        let path = match version {
            ApiVersion::V1 => self.path_v1()?,
            ApiVersion::V2 => self.path_v2(device)?,
        };
        let mut url = server.base.clone();
        url.set_path(&path);
        Ok(url)
    }

    fn path_v1(self) -> Result<String, NoUrl> {
        match self {
            Self::Certs | Self::Attest => Err(NoUrl::NotInV1),
            Self::AppNewLogs(app) => Ok(format!(
                "/api/v1/edgedevice/apps/instanceid/id/{app}/newlogs"
            )),
            Self::Ping
            | Self::Register
            | Self::Uuid
            | Self::Config
            | Self::Info
            | Self::Metrics
            | Self::FlowLog
            | Self::NewLogs
            | Self::HardwareHealth => Ok(format!("/api/v1/edgedevice/{}", self.name())),
        }
    }

    fn path_v2(self, device: Option<Uuid>) -> Result<String, NoUrl> {
        let action = match self {
            Self::Certs | Self::Ping | Self::Register | Self::Uuid => {
                return Ok(format!("/api/v2/edgedevice/{}", self.name()));
            }
            Self::AppNewLogs(app) => format!("apps/instanceid/{app}/newlogs"),
            Self::Config
            | Self::Attest
            | Self::Info
            | Self::Metrics
            | Self::FlowLog
            | Self::NewLogs
            | Self::HardwareHealth => self.name().to_owned(),
        };
        let device = device.ok_or(NoUrl::NoUuid)?;
        Ok(format!("/api/v2/edgedevice/id/{device}/{action}"))
    }

    /// Whose key signs the request and authenticates the connection.
    pub fn signed_by(self) -> SignedBy {
        match self {
            Self::Register => SignedBy::Onboarding,
            Self::Certs
            | Self::Ping
            | Self::Uuid
            | Self::Config
            | Self::Attest
            | Self::Info
            | Self::Metrics
            | Self::FlowLog
            | Self::NewLogs
            | Self::AppNewLogs(_)
            | Self::HardwareHealth => SignedBy::Device,
        }
    }

    /// Bytes of an answer's body beyond which it is refused.
    pub(crate) fn body_limit(self) -> usize {
        match self {
            Self::Config => 32 * MIB,
            Self::Certs | Self::Attest => MIB,
            Self::Ping
            | Self::Register
            | Self::Uuid
            | Self::Info
            | Self::Metrics
            | Self::FlowLog
            | Self::NewLogs
            | Self::AppNewLogs(_)
            | Self::HardwareHealth => SMALL,
        }
    }

    /// What the body of an answer must call itself.
    pub(crate) fn content(self) -> Content {
        match self {
            Self::Config | Self::Attest => Content::Proto,
            Self::Certs | Self::Uuid | Self::Register => Content::ProtoOrText,
            Self::Ping
            | Self::Info
            | Self::Metrics
            | Self::FlowLog
            | Self::NewLogs
            | Self::AppNewLogs(_)
            | Self::HardwareHealth => Content::NoPage,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AppNewLogs(app) => write!(f, "newlogs of app {app}"),
            other => f.write_str(other.name()),
        }
    }
}

/// Media type of all bodies.
pub const CONTENT_TYPE: &str = "application/x-proto-binary";

/// Which media types of an answer's body are accepted. An empty body has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    Proto,
    ProtoOrText,
    /// What it says is not read, but a page for people is an answer of somebody else, who has not taken the message.
    NoPage,
}

impl Content {
    /// `header` is the Content-Type; what follows a `;` does not matter.
    pub(crate) fn accepts(self, header: Option<&str>) -> bool {
        let kind = header
            .and_then(|text| text.split(';').next())
            .unwrap_or_default()
            .trim();
        let is = |name: &str| kind.eq_ignore_ascii_case(name);
        match self {
            Self::NoPage => !is("text/html") && !is("application/xhtml+xml"),
            Self::Proto => is(CONTENT_TYPE),
            Self::ProtoOrText => is(CONTENT_TYPE) || is("application/json") || is("text/plain"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn urls() {
        let server = Server::parse(" evc.example:8443\n").unwrap();
        let device = Uuid::from_u128(1);
        let url = |endpoint: Endpoint, version, device| {
            endpoint
                .url(&server, version, device)
                .map(|url| url.to_string())
        };
        let v2 = |endpoint| url(endpoint, ApiVersion::V2, Some(device)).unwrap();
        let base = "https://evc.example:8443/api";
        assert_eq!(v2(Endpoint::Certs), format!("{base}/v2/edgedevice/certs"));
        assert_eq!(
            v2(Endpoint::Config),
            format!("{base}/v2/edgedevice/id/{device}/config")
        );
        assert_eq!(
            v2(Endpoint::AppNewLogs(Uuid::nil())),
            format!(
                "{base}/v2/edgedevice/id/{device}/apps/instanceid/{}/newlogs",
                Uuid::nil()
            )
        );
        assert_eq!(
            url(Endpoint::Register, ApiVersion::V2, None).unwrap(),
            format!("{base}/v2/edgedevice/register")
        );
        assert_eq!(
            url(Endpoint::Info, ApiVersion::V2, None),
            Err(NoUrl::NoUuid)
        );
        let v1 = |endpoint| url(endpoint, ApiVersion::V1, Some(device));
        assert_eq!(
            v1(Endpoint::Config).unwrap(),
            format!("{base}/v1/edgedevice/config")
        );
        assert_eq!(
            v1(Endpoint::AppNewLogs(Uuid::nil())).unwrap(),
            format!(
                "{base}/v1/edgedevice/apps/instanceid/id/{}/newlogs",
                Uuid::nil()
            )
        );
        assert_eq!(v1(Endpoint::Attest), Err(NoUrl::NotInV1));
    }

    #[test]
    fn server_texts() {
        for good in ["evc", "evc.example", "10.0.0.1:443", "[2001:db8::1]:8443"] {
            assert_eq!(Server::parse(good).unwrap().as_str(), good);
        }
        for bad in [
            "",
            "  \n",
            "https://evc",
            "evc/path",
            "user@evc",
            "evc:http",
            "a b",
            "evc:99999",
        ] {
            assert!(Server::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn content_types() {
        assert!(Content::Proto.accepts(Some("Application/X-Proto-Binary; charset=utf-8")));
        assert!(!Content::Proto.accepts(Some("text/plain")));
        assert!(!Content::Proto.accepts(None));
        assert!(Content::ProtoOrText.accepts(Some("text/plain")));
        assert!(!Content::ProtoOrText.accepts(Some("text/html")));
        assert!(!Content::NoPage.accepts(Some("text/html; charset=utf-8")));
        assert!(Content::NoPage.accepts(None));
    }
}
