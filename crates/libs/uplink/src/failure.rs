//! What went wrong with a connection or a request: phase and reason, out of the chain of
//! errors that the HTTP client hands back.

use std::error::Error;
use std::{fmt, io};

use rustls::CertificateError;

use crate::client::RedirectRefused;
use crate::resolver::DnsError;
use crate::stage::Begun;

/// Where it happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Before anything was sent: the request or the client is wrong.
    Setup,
    /// Asking for the address of the server (or of the proxy).
    Dns,
    /// Connecting to the server.
    Connect,
    /// Connecting to the proxy, or what the proxy said to CONNECT.
    Proxy,
    /// TLS handshake.
    Tls,
    /// Request and head of the answer.
    Http,
    /// Body of the answer.
    Body,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Setup => "setup",
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::Proxy => "proxy",
            Self::Tls => "tls",
            Self::Http => "http",
            Self::Body => "body",
        })
    }
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The port has no DNS server.
    NoDnsServers,
    /// The name does not exist.
    NameNotFound,
    /// The DNS servers gave no usable answer.
    DnsFailed,
    /// Nothing came within the time allowed.
    TimedOut,
    /// The other side refused the connection (ECONNREFUSED).
    Refused,
    /// No route to the host or network.
    Unreachable,
    /// The source address is no longer the device's.
    SourceGone,
    /// The other side broke the connection off.
    Reset,
    /// The body ended too early.
    Truncated,
    /// The proxy wants a login (407).
    ProxyLogin,
    /// The proxy said no to CONNECT.
    ProxyRefused,
    /// The server's certificate is expired or not yet valid; or the device's clock is wrong.
    CertificateTime,
    /// The server's certificate does not lead to a trusted root.
    UnknownAuthority,
    /// The server's certificate is for another name.
    CertificateName,
    /// The server's certificate is unusable for another reason.
    BadCertificate,
    /// The server broke the handshake off with an alert, for instance because it does not
    /// like our certificate.
    TlsAlert,
    /// The handshake failed otherwise.
    TlsProtocol,
    /// More redirects than allowed.
    TooManyRedirects,
    /// A redirect from https to http.
    InsecureRedirect,
    /// The answer is not HTTP.
    NotHttp,
    /// The request can't be made.
    BadRequest,
    /// None of these; see the detail.
    Other,
}

impl Reason {
    /// True when the same request can succeed later with nothing changed on the device.
    pub fn is_transient(self) -> bool {
        match self {
            Self::NoDnsServers
            | Self::NameNotFound
            | Self::DnsFailed
            | Self::TimedOut
            | Self::Refused
            | Self::Unreachable
            | Self::SourceGone
            | Self::Reset
            | Self::Truncated
            | Self::ProxyRefused
            | Self::CertificateTime
            | Self::TlsProtocol
            | Self::NotHttp
            | Self::Other => true,
            Self::ProxyLogin
            | Self::UnknownAuthority
            | Self::CertificateName
            | Self::BadCertificate
            | Self::TlsAlert
            | Self::TooManyRedirects
            | Self::InsecureRedirect
            | Self::BadRequest => false,
        }
    }
}

/// A connection or request that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Where it happened.
    pub phase: Phase,
    /// What happened.
    pub reason: Reason,
    /// The whole story on one line.
    pub detail: String,
}

impl Failure {
    /// See [`Reason::is_transient`].
    pub fn is_transient(&self) -> bool {
        self.reason.is_transient()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.phase, self.detail)
    }
}

impl Error for Failure {}

/// Reads phase and reason out of an error of the HTTP client.
///
/// `begun` is how far the connection came (a bare timeout does not say), `proxied` whether
/// it was to go through a proxy.
pub(crate) fn explain(error: &reqwest::Error, begun: Begun, proxied: bool) -> Failure {
    let found = chain(error).find_map(recognise);
    let in_body = error.is_body() || error.is_decode();
    let connecting = error.is_connect();
    let (phase, reason) = match found {
        Some((Some(phase), reason)) => (phase, reason),
        Some((None, Reason::Reset)) if in_body => (Phase::Body, Reason::Truncated),
        Some((None, reason)) => (phase_of(begun, connecting, in_body, proxied), reason),
        None if error.is_timeout() => (
            phase_of(begun, connecting, in_body, proxied),
            Reason::TimedOut,
        ),
        None if error.is_builder() => (Phase::Setup, Reason::BadRequest),
        None => (phase_of(begun, connecting, in_body, proxied), Reason::Other),
    };
    // A refusing or silent proxy must not be taken for the server.
    let phase = if phase == Phase::Connect && proxied {
        Phase::Proxy
    } else {
        phase
    };
    Failure {
        phase,
        reason,
        detail: one_line(error),
    }
}

fn phase_of(begun: Begun, connecting: bool, in_body: bool, proxied: bool) -> Phase {
    match begun {
        Begun::Lookup => Phase::Dns,
        _ if in_body => Phase::Body,
        Begun::Handshake if connecting => Phase::Tls,
        Begun::Connect if connecting && proxied => Phase::Proxy,
        Begun::Connect if connecting => Phase::Connect,
        Begun::Connect | Begun::Handshake => Phase::Http,
    }
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

fn is_wrapper(link: &(dyn Error + 'static), text: &str) -> bool {
    link.is::<reqwest::Error>() || text.starts_with("client error (") || text == "dns error"
}

/// Phase (when the error implies it) and reason of one link of the chain.
fn recognise(error: &(dyn Error + 'static)) -> Option<(Option<Phase>, Reason)> {
    if let Some(dns) = error.downcast_ref::<DnsError>() {
        let reason = match dns {
            DnsError::NoServers { .. } => Reason::NoDnsServers,
            DnsError::NotFound { .. } => Reason::NameNotFound,
            DnsError::TimedOut { .. } => Reason::TimedOut,
            DnsError::Failed { .. } => Reason::DnsFailed,
        };
        return Some((Some(Phase::Dns), reason));
    }
    if let Some(refused) = error.downcast_ref::<RedirectRefused>() {
        let reason = match refused {
            RedirectRefused::TooMany { .. } => Reason::TooManyRedirects,
            RedirectRefused::Insecure { .. } => Reason::InsecureRedirect,
        };
        return Some((Some(Phase::Http), reason));
    }
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return Some((Some(Phase::Tls), tls_reason(tls)));
    }
    if let Some(io) = error.downcast_ref::<io::Error>() {
        // `source` of such an error skips the error inside it.
        let inside = io.get_ref().map(|inside| inside as &(dyn Error + 'static));
        return inside
            .and_then(recognise)
            .or_else(|| io_reason(io).map(|reason| (None, reason)));
    }
    if let Some(hyper) = error.downcast_ref::<hyper::Error>() {
        if hyper.is_incomplete_message() {
            return Some((None, Reason::Reset));
        }
        if hyper.is_parse() {
            return Some((Some(Phase::Http), Reason::NotHttp));
        }
        return None;
    }
    tunnel_reason(&error.to_string()).map(|reason| (Some(Phase::Proxy), reason))
}

/// The tunnel's error type is private to its crate; its texts are all there is.
fn tunnel_reason(text: &str) -> Option<Reason> {
    match text.strip_prefix("tunnel error: ")? {
        "proxy authorization required" => Some(Reason::ProxyLogin),
        "unsuccessful" => Some(Reason::ProxyRefused),
        "unexpected end of file" => Some(Reason::Reset),
        "proxy response headers too long" => Some(Reason::NotHttp),
        // The cause, further down the chain, tells more.
        _ => None,
    }
}

fn io_reason(error: &io::Error) -> Option<Reason> {
    Some(match error.kind() {
        io::ErrorKind::ConnectionRefused => Reason::Refused,
        io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::NetworkDown => Reason::Unreachable,
        io::ErrorKind::AddrNotAvailable => Reason::SourceGone,
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::UnexpectedEof => Reason::Reset,
        io::ErrorKind::TimedOut => Reason::TimedOut,
        _ => return None,
    })
}

fn tls_reason(error: &rustls::Error) -> Reason {
    match error {
        rustls::Error::InvalidCertificate(why) => match why {
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => Reason::CertificateTime,
            // A root of the same name with another key is another root.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                Reason::UnknownAuthority
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Reason::CertificateName
            }
            _ => Reason::BadCertificate,
        },
        rustls::Error::AlertReceived(_) => Reason::TlsAlert,
        _ => Reason::TlsProtocol,
    }
}

/// The chain on one line, without repetitions (many links repeat their cause).
/// The chain of an error in one line, without the client's own wrappers: they say the URL again, and that a request
/// failed. What has nothing below it stays.
fn one_line(error: &(dyn Error + 'static)) -> String {
    let mut line = String::new();
    for link in chain(error) {
        let text = link.to_string();
        if link.source().is_some() && is_wrapper(link, &text) {
            continue;
        }
        if line.is_empty() {
            line = text;
        } else if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
    }
    line
}
