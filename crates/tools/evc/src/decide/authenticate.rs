//! Who sent this envelope, and is it the device that the path names?

use api::auth::AuthContainer;
use uuid::Uuid;

use super::Refusal;
use crate::cert::Certificate;
use crate::envelope::{self, EnvelopeError};

/// What is known of a device when it calls.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Its UUID.
    pub uuid: Uuid,
    /// Its certificate.
    pub cert: Certificate,
    /// Whether an operator or a standing order admitted it.
    pub claimed: bool,
}

/// Opens an envelope sent to a path with a UUID.
///
/// `named` is the device with that UUID; `by_hash` the device whose certificate the envelope
/// names. Both are looked up by the caller.
pub fn device<'a>(
    container: &'a AuthContainer,
    named: Option<&Caller>,
    by_hash: Option<&Caller>,
) -> Result<&'a [u8], Refusal> {
    let sender = envelope::sender(container).map_err(|e| refuse(&e))?;
    let Some(named) = named else {
        return Err(Refusal::not_found("no device with the UUID in the path"));
    };
    if !envelope::names(sender, &named.cert.hash()) {
        // Say "not you" only to somebody who proves to be a device.
        return Err(match by_hash {
            Some(other) if envelope::open(container, &other.cert).is_ok() => {
                Refusal::forbidden("the UUID in the path is another device's")
            }
            _ => Refusal::unauthorized("the sender's certificate is not known"),
        });
    }
    let payload = envelope::open(container, &named.cert).map_err(|e| refuse(&e))?;
    admitted(named)?;
    Ok(payload)
}

/// Opens an envelope sent to `uuid`, where only the sender's hash says who it is.
pub fn sender<'a>(
    container: &'a AuthContainer,
    by_hash: Option<&Caller>,
) -> Result<&'a [u8], Refusal> {
    envelope::sender(container).map_err(|e| refuse(&e))?;
    let Some(caller) = by_hash else {
        return Err(Refusal::unauthorized(
            "the sender's certificate is not known",
        ));
    };
    let payload = envelope::open(container, &caller.cert).map_err(|e| refuse(&e))?;
    admitted(caller)?;
    Ok(payload)
}

/// A device that registered but waits for `evc device claim` gets nothing.
pub fn admitted(caller: &Caller) -> Result<(), Refusal> {
    if caller.claimed {
        Ok(())
    } else {
        Err(Refusal::forbidden(
            "the device is registered but not claimed yet",
        ))
    }
}

/// The answer to an envelope that doesn't open.
pub fn refuse(error: &EnvelopeError) -> Refusal {
    if error.is_malformed() {
        Refusal::unprocessable(error.to_string())
    } else {
        Refusal::unauthorized(error.to_string())
    }
}
