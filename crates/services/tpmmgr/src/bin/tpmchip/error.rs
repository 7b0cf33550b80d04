//! What the TPM software stack says, in the words of tpmmgr.

use tpmmgr::chip::ChipError;
use tss_esapi::constants::response_code::{Tss2ResponseCode, Tss2ResponseCodeKind};

/// An error of the TPM software stack, met while doing `what`.
pub(crate) fn of(what: &'static str) -> impl FnOnce(tss_esapi::Error) -> ChipError {
    move |error| match error {
        tss_esapi::Error::Tss2Error(code) if is_below(code) => ChipError::Gone(error.to_string()),
        tss_esapi::Error::Tss2Error(code) => match code.kind() {
            Some(Tss2ResponseCodeKind::Lockout) => ChipError::Lockout,
            // It was reset and nobody has started it: a new context does.
            Some(Tss2ResponseCodeKind::Initialize) => ChipError::Gone(error.to_string()),
            // It was reset: the sessions and objects that it knew are no more.
            Some(Tss2ResponseCodeKind::ReferenceS0 | Tss2ResponseCodeKind::ReferenceH0) => {
                ChipError::Gone(error.to_string())
            }
            Some(Tss2ResponseCodeKind::BadAuth) => ChipError::Keys(format!(
                "the TPM refused to {what}: its owner has a password, and /config/tpm_credential does not hold it"
            )),
            Some(Tss2ResponseCodeKind::Failure) => {
                ChipError::Gone("it is in failure mode".to_owned())
            }
            _ => ChipError::Refused {
                what: what.to_owned(),
                why: error.to_string(),
            },
        },
        tss_esapi::Error::WrapperError(_) => ChipError::Refused {
            what: what.to_owned(),
            why: error.to_string(),
        },
    }
}

/// Whether a response comes from the transport and not from the TPM. The layer is in bits 16 to 23; this
/// version of the library tells them only in its text.
fn is_below(code: Tss2ResponseCode) -> bool {
    const TCTI: u32 = 0x0a;
    /// The library between: its contexts fail with what the transport answered, or lose their order after it.
    const RESOURCE_MANAGER: u32 = 0x0c;
    let text = match code {
        Tss2ResponseCode::Success => return false,
        Tss2ResponseCode::FormatZero(code) => code.to_string(),
        Tss2ResponseCode::FormatOne(code) => code.to_string(),
    };
    let raw = text
        .rsplit("0x")
        .next()
        .and_then(|hex| u32::from_str_radix(hex.trim(), 16).ok());
    raw.is_some_and(|raw| [TCTI, RESOURCE_MANAGER].contains(&(raw >> 16)))
}
