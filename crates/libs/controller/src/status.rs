//! EVE's names for how an exchange with the controller went; LED and port decisions use them.

use std::fmt;

/// How an exchange with the controller went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SenderStatus {
    /// It went well.
    None,
    /// Nobody listens there (ECONNREFUSED with no proxy in between).
    Refused,
    /// The controller is being upgraded (503).
    Upgrade,
    /// A certificate is expired or not yet valid; counts as reaching the controller.
    CertInvalid,
    /// The envelope names a certificate that the device does not hold.
    CertMiss,
    /// The envelope's signature is wrong.
    SignVerifyFail,
    /// The envelope names an unknown hash algorithm.
    AlgoFail,
    /// The envelope's sender hash has a wrong size.
    HashSizeError,
    /// A certificate does not lead to a trusted root.
    CertUnknownAuthority,
    /// The same behind a proxy: its certificate is probably missing in the port's config.
    CertUnknownAuthorityProxy,
    /// The controller does not know what was asked for (400, 404).
    NotFound,
    /// The controller knows the device and refuses (403); other ports won't change that.
    Forbidden,
    /// Anything else.
    Failed,
    /// Only for diagnostics.
    Debug,
}

impl SenderStatus {
    /// What a code of the controller means; none for the codes of success.
    pub fn of_http(code: u16) -> Option<Self> {
        match code {
            200 | 201 | 204 | 304 => None,
            400 | 404 => Some(Self::NotFound),
            403 => Some(Self::Forbidden),
            503 => Some(Self::Upgrade),
            _ => Some(Self::Failed),
        }
    }

    /// EVE's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Refused => "Refused",
            Self::Upgrade => "Upgrade",
            Self::CertInvalid => "CertInvalid",
            Self::CertMiss => "CertMiss",
            Self::SignVerifyFail => "SignVerifyFail",
            Self::AlgoFail => "AlgoFail",
            Self::HashSizeError => "HashSizeError",
            Self::CertUnknownAuthority => "CertUnknownAuthority",
            Self::CertUnknownAuthorityProxy => "CertUnknownAuthorityProxy",
            Self::NotFound => "NotFound",
            Self::Forbidden => "Forbidden",
            Self::Failed => "Failed",
            Self::Debug => "Debug",
        }
    }
}

impl fmt::Display for SenderStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
