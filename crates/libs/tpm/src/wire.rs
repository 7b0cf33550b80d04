//! The gRPC form of requests and answers, and the conversions between it and the types of this crate.
//!
//! [`v1`] is generated from `proto/tpmmgr/tpmmgr.proto`. What comes in is checked here: nothing that was
//! converted has an impossible length or index.

use std::path::Path;

use jiff::Timestamp;
use prost::Message;
use tonic::{Code, Status};
use zeroize::Zeroizing;

use crate::{
    Certificate, CertificateKind, Description, Keeper, Key, Pcr, PcrError, PcrSelection, PcrValues,
    Quote, SealedSlot, SharedPoint, TpmError, Trouble, TroubleKind, Unsealed,
};

/// The generated messages, client and server.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)]
pub mod v1 {
    tonic::include_proto!("eve.tpmmgr.v1");
}

fn answer(reason: impl Into<String>) -> TpmError {
    TpmError::Answer {
        reason: reason.into(),
    }
}

/// Bytes of a fixed length, of an answer.
pub(crate) fn array<const N: usize>(bytes: &[u8], what: &str) -> Result<[u8; N], TpmError> {
    bytes
        .try_into()
        .map_err(|_| answer(format!("{what}: {} bytes, not {N}", bytes.len())))
}

/// Bytes of a fixed length, of a request.
pub fn asked<const N: usize>(bytes: &[u8], what: &str) -> Result<[u8; N], TpmError> {
    bytes.try_into().map_err(|_| TpmError::Invalid {
        reason: format!("{what} has {} bytes, not {N}", bytes.len()),
    })
}

/// A key as a message.
pub fn key_to_wire(key: Key) -> v1::Key {
    match key {
        Key::Device => v1::Key::Device,
        Key::Onboarding => v1::Key::Onboarding,
    }
}

/// The key that is asked for.
pub fn key_from_wire(key: i32) -> Result<Key, TpmError> {
    match v1::Key::try_from(key) {
        Ok(v1::Key::Device) => Ok(Key::Device),
        Ok(v1::Key::Onboarding) => Ok(Key::Onboarding),
        Ok(v1::Key::Unspecified) | Err(_) => Err(TpmError::Invalid {
            reason: format!("there is no key {key}"),
        }),
    }
}

/// A selection as indices.
pub fn selection_to_wire(pcrs: PcrSelection) -> Vec<u32> {
    pcrs.iter().map(Pcr::index).collect()
}

/// Indices as a selection.
pub fn selection_from_wire(indices: &[u32]) -> Result<PcrSelection, PcrError> {
    indices.iter().map(|index| Pcr::new(*index)).collect()
}

/// Values as a message.
pub fn pcrs_to_wire(values: &PcrValues) -> v1::PcrValues {
    v1::PcrValues {
        values: values
            .iter()
            .map(|(pcr, value)| (pcr.index(), value.to_vec()))
            .collect(),
    }
}

/// The values of a message; the error says what is wrong with them.
pub fn pcrs_from_wire(message: v1::PcrValues) -> Result<PcrValues, String> {
    let one = |(index, value): (u32, Vec<u8>)| {
        let pcr = Pcr::new(index).map_err(|error| error.to_string())?;
        let value = <[u8; 32]>::try_from(value.as_slice())
            .map_err(|_| format!("PCR {pcr} has {} bytes, not 32", value.len()))?;
        Ok((pcr, value))
    };
    message.values.into_iter().map(one).collect()
}

pub(crate) fn answered_pcrs(message: v1::PcrValues) -> Result<PcrValues, TpmError> {
    pcrs_from_wire(message).map_err(answer)
}

pub(crate) fn point_from_wire(reply: v1::EcdhReply) -> Result<SharedPoint, TpmError> {
    let v1::EcdhReply { x, y } = reply;
    let (x, y) = (Zeroizing::new(x), Zeroizing::new(y));
    Ok(SharedPoint {
        x: Zeroizing::new(array(&x, "x")?),
        y: Zeroizing::new(array(&y, "y")?),
    })
}

/// A point as a message.
pub fn point_to_wire(point: &SharedPoint) -> v1::EcdhReply {
    v1::EcdhReply {
        x: point.x.to_vec(),
        y: point.y.to_vec(),
    }
}

pub(crate) fn quote_from_wire(reply: v1::QuoteReply) -> Result<Quote, TpmError> {
    let v1::QuoteReply {
        attest,
        signature,
        pcrs,
        event_log,
    } = reply;
    Ok(Quote {
        attest,
        signature,
        pcrs: answered_pcrs(pcrs.unwrap_or_default())?,
        event_log,
    })
}

/// A quote as a message.
pub fn quote_to_wire(quote: Quote) -> v1::QuoteReply {
    v1::QuoteReply {
        pcrs: Some(pcrs_to_wire(&quote.pcrs)),
        attest: quote.attest,
        signature: quote.signature,
        event_log: quote.event_log,
    }
}

pub(crate) fn unsealed_from_wire(reply: v1::UnsealReply) -> Result<Unsealed, TpmError> {
    let v1::UnsealReply { secret, matched } = reply;
    Ok(Unsealed {
        secret: Zeroizing::new(secret),
        matched: usize::try_from(matched).map_err(|error| answer(error.to_string()))?,
    })
}

/// A secret as a message.
pub fn unsealed_to_wire(unsealed: &Unsealed) -> v1::UnsealReply {
    v1::UnsealReply {
        secret: unsealed.secret.to_vec(),
        matched: u32::try_from(unsealed.matched).unwrap_or(u32::MAX),
    }
}

pub(crate) fn slot_from_wire(slot: v1::Slot) -> Result<SealedSlot, TpmError> {
    let v1::Slot { pcrs, alternatives } = slot;
    Ok(SealedSlot {
        pcrs: selection_from_wire(&pcrs).map_err(|error| answer(error.to_string()))?,
        alternatives: alternatives
            .into_iter()
            .map(answered_pcrs)
            .collect::<Result<_, _>>()?,
    })
}

/// A slot as a message.
pub fn slot_to_wire(slot: &SealedSlot) -> v1::Slot {
    v1::Slot {
        pcrs: selection_to_wire(slot.pcrs),
        alternatives: slot.alternatives.iter().map(pcrs_to_wire).collect(),
    }
}

pub(crate) fn description_from_wire(message: v1::Description) -> Result<Description, TpmError> {
    let v1::Description {
        keeper,
        trouble,
        certificates,
        vendor,
        firmware,
    } = message;
    let keeper = match v1::Keeper::try_from(keeper) {
        Ok(v1::Keeper::Tpm) => Keeper::Tpm,
        Ok(v1::Keeper::Software) => Keeper::Software,
        Ok(v1::Keeper::Unspecified) | Err(_) => return Err(answer("an unknown keeper")),
    };
    // A newer tpmmgr's certificates of other kinds are not for this client.
    let certificates = certificates
        .into_iter()
        .filter_map(certificate_from_wire)
        .collect();
    Ok(Description {
        keeper,
        trouble: trouble.map(trouble_from_wire).transpose()?,
        certificates,
        vendor,
        firmware,
    })
}

/// A description as a message.
pub fn description_to_wire(description: &Description) -> v1::Description {
    v1::Description {
        keeper: match description.keeper {
            Keeper::Tpm => v1::Keeper::Tpm,
            Keeper::Software => v1::Keeper::Software,
        }
        .into(),
        trouble: description.trouble.as_ref().map(trouble_to_wire),
        certificates: description
            .certificates
            .iter()
            .map(certificate_to_wire)
            .collect(),
        vendor: description.vendor.clone(),
        firmware: description.firmware.clone(),
    }
}

fn certificate_from_wire(message: v1::Certificate) -> Option<Certificate> {
    use v1::certificate::Kind;
    let v1::Certificate {
        kind,
        pem,
        public_area,
    } = message;
    let kind = match Kind::try_from(kind) {
        Ok(Kind::Device) => CertificateKind::Device,
        Ok(Kind::Ecdh) => CertificateKind::Ecdh,
        Ok(Kind::Quote) => CertificateKind::Quote,
        Ok(Kind::Endorsement) => CertificateKind::Endorsement,
        Ok(Kind::Onboarding) => CertificateKind::Onboarding,
        Ok(Kind::Unspecified) | Err(_) => return None,
    };
    Some(Certificate {
        kind,
        pem,
        public_area,
    })
}

fn certificate_to_wire(certificate: &Certificate) -> v1::Certificate {
    use v1::certificate::Kind;
    let kind = match certificate.kind {
        CertificateKind::Device => Kind::Device,
        CertificateKind::Ecdh => Kind::Ecdh,
        CertificateKind::Quote => Kind::Quote,
        CertificateKind::Endorsement => Kind::Endorsement,
        CertificateKind::Onboarding => Kind::Onboarding,
    };
    v1::Certificate {
        kind: kind.into(),
        pem: certificate.pem.clone(),
        public_area: certificate.public_area.clone(),
    }
}

fn trouble_from_wire(message: v1::Trouble) -> Result<Trouble, TpmError> {
    use v1::trouble::Kind;
    let v1::Trouble {
        kind,
        text,
        since_unix_ms,
    } = message;
    let kind = match Kind::try_from(kind) {
        Ok(Kind::Starting) => TroubleKind::Starting,
        Ok(Kind::Lockout) => TroubleKind::Lockout,
        Ok(Kind::NoSha256) => TroubleKind::NoSha256,
        Ok(Kind::Missing) => TroubleKind::Missing,
        Ok(Kind::Keys) => TroubleKind::Keys,
        // A newer tpmmgr's other troubles are troubles as well.
        Ok(Kind::Dead | Kind::Unspecified) | Err(_) => TroubleKind::Dead,
    };
    let since = Timestamp::from_millisecond(since_unix_ms)
        .map_err(|error| answer(format!("a time: {error}")))?;
    Ok(Trouble { kind, text, since })
}

fn trouble_to_wire(trouble: &Trouble) -> v1::Trouble {
    use v1::trouble::Kind;
    let kind = match trouble.kind {
        TroubleKind::Starting => Kind::Starting,
        TroubleKind::Dead => Kind::Dead,
        TroubleKind::Lockout => Kind::Lockout,
        TroubleKind::NoSha256 => Kind::NoSha256,
        TroubleKind::Missing => Kind::Missing,
        TroubleKind::Keys => Kind::Keys,
    };
    v1::Trouble {
        kind: kind.into(),
        text: trouble.text.clone(),
        since_unix_ms: trouble.since.as_millisecond(),
    }
}

/// An error as the status that a client turns back into it.
pub fn status_from_error(error: &TpmError) -> Status {
    use v1::refusal::{Mismatch, Why};
    let text = error.to_string();
    let (code, why) = match error {
        TpmError::Unreachable { .. } => (Code::Unavailable, None),
        TpmError::Refused { reason } => return Status::permission_denied(reason),
        TpmError::Invalid { reason } => return Status::invalid_argument(reason),
        TpmError::NotFound { what } => return Status::not_found(what),
        TpmError::NeedsTpm => (Code::FailedPrecondition, Some(Why::NeedsTpm(true))),
        TpmError::Trouble(trouble) => (
            Code::FailedPrecondition,
            Some(Why::Trouble(trouble_to_wire(trouble))),
        ),
        TpmError::Mismatch { pcrs } => {
            let pcrs = pcrs.iter().map(|pcr| pcr.index()).collect();
            let why = Why::Mismatch(Mismatch { pcrs });
            (Code::FailedPrecondition, Some(why))
        }
        TpmError::Failed { reason } => return Status::aborted(reason),
        TpmError::Answer { .. } | TpmError::NoRuntime => (Code::Internal, None),
    };
    let details = v1::Refusal { why }.encode_to_vec();
    Status::with_details(code, text, details.into())
}

/// A failed call as an error.
pub fn error_from_status(status: &Status, socket: &Path) -> TpmError {
    let reason = status.message().to_owned();
    match status.code() {
        Code::PermissionDenied | Code::Unauthenticated => TpmError::Refused { reason },
        Code::InvalidArgument | Code::OutOfRange => TpmError::Invalid { reason },
        Code::NotFound => TpmError::NotFound { what: reason },
        Code::FailedPrecondition => refusal(status.details(), reason),
        Code::Aborted | Code::AlreadyExists | Code::ResourceExhausted => {
            TpmError::Failed { reason }
        }
        Code::Internal | Code::DataLoss | Code::Unimplemented => TpmError::Answer { reason },
        Code::Ok | Code::Cancelled | Code::Unknown | Code::DeadlineExceeded | Code::Unavailable => {
            TpmError::Unreachable {
                socket: socket.to_owned(),
                reason: if reason.is_empty() {
                    status.code().to_string()
                } else {
                    reason
                },
            }
        }
    }
}

fn refusal(details: &[u8], reason: String) -> TpmError {
    use v1::refusal::Why;
    match v1::Refusal::decode(details).ok().and_then(|r| r.why) {
        Some(Why::Trouble(trouble)) => match trouble_from_wire(trouble) {
            Ok(trouble) => TpmError::Trouble(trouble),
            Err(error) => error,
        },
        Some(Why::NeedsTpm(_)) => TpmError::NeedsTpm,
        Some(Why::Mismatch(mismatch)) => TpmError::Mismatch {
            pcrs: mismatch
                .pcrs
                .iter()
                .filter_map(|index| Pcr::new(*index).ok())
                .collect(),
        },
        None => TpmError::Failed { reason },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn errors_survive_the_wire() {
        let pcr = |index| Pcr::new(index).unwrap();
        let trouble = |kind| {
            TpmError::Trouble(Trouble {
                kind,
                text: "t".into(),
                since: Timestamp::from_millisecond(1_700_000_000_123).unwrap(),
            })
        };
        for error in [
            TpmError::Refused { reason: "r".into() },
            TpmError::Invalid { reason: "i".into() },
            TpmError::NotFound { what: "w".into() },
            TpmError::NeedsTpm,
            TpmError::Failed { reason: "f".into() },
            TpmError::Mismatch {
                pcrs: vec![pcr(0), pcr(14)],
            },
            trouble(TroubleKind::Starting),
            trouble(TroubleKind::Dead),
            trouble(TroubleKind::Lockout),
            trouble(TroubleKind::NoSha256),
            trouble(TroubleKind::Missing),
            trouble(TroubleKind::Keys),
        ] {
            let back = error_from_status(&status_from_error(&error), Path::new("/s"));
            assert_eq!(back, error);
        }
    }

    #[test]
    fn impossible_answers_are_refused() {
        let values = |index, len| v1::PcrValues {
            values: [(index, vec![0; len])].into(),
        };
        assert!(pcrs_from_wire(values(23, 32)).is_ok());
        assert!(pcrs_from_wire(values(24, 32)).is_err());
        assert!(pcrs_from_wire(values(3, 20)).is_err());
        let short = v1::EcdhReply {
            x: vec![1; 31],
            y: vec![1; 32],
        };
        assert!(point_from_wire(short).is_err());
        assert!(key_from_wire(0).is_err() && key_from_wire(9).is_err());
    }
}
