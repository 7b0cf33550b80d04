//! What the controller answers, decided without I/O: request and stored facts in, verdict out.
//!
//! `serve` reads bytes, looks up the facts, asks here, stores what must be stored and writes the
//! answer. Every status code that a device can see is chosen in this folder.
//!
//! | status | when |
//! |---|---|
//! | 401 | the sender is unknown, or the signature is not its |
//! | 403 | known but not allowed: foreign UUID, unclaimed, serial not admitted, no integrity token |
//! | 404 | no such path, or no device with the UUID in it |
//! | 405 | wrong method |
//! | 408 | the body took longer than a device waits |
//! | 409 | another device certificate holds this onboarding certificate and serial |
//! | 413 | larger than any honest message |
//! | 415 | not `application/x-proto-binary` |
//! | 422 | can't be parsed, or contradicts itself |

pub mod attest;
pub mod authenticate;
pub mod claim;
pub mod config;
pub mod logs;
pub mod messages;
pub mod register;
pub mod route;

use http::StatusCode;

/// A request that is not served: the status for the device and the reason for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{status}: {reason}")]
pub struct Refusal {
    /// HTTP status.
    pub status: StatusCode,
    /// One sentence, sent as the body and logged.
    pub reason: String,
}

impl Refusal {
    /// 401: we don't know who this is.
    pub fn unauthorized(reason: impl Into<String>) -> Self {
        Self {
            status: StatusCode::UNAUTHORIZED,
            reason: reason.into(),
        }
    }

    /// 403: we know who it is and it may not.
    pub fn forbidden(reason: impl Into<String>) -> Self {
        Self {
            status: StatusCode::FORBIDDEN,
            reason: reason.into(),
        }
    }

    /// 404: no such thing.
    pub fn not_found(reason: impl Into<String>) -> Self {
        Self {
            status: StatusCode::NOT_FOUND,
            reason: reason.into(),
        }
    }

    /// 409: contradicts what another device has done.
    pub fn conflict(reason: impl Into<String>) -> Self {
        Self {
            status: StatusCode::CONFLICT,
            reason: reason.into(),
        }
    }

    /// 422: makes no sense.
    pub fn unprocessable(reason: impl Into<String>) -> Self {
        Self {
            status: StatusCode::UNPROCESSABLE_ENTITY,
            reason: reason.into(),
        }
    }
}
