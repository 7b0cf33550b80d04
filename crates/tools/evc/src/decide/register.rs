//! First contact: which device is this, and may it come in?
//!
//! A device is identified by the onboarding certificate that it shares with its batch plus its
//! serial. The soft serial, a text that the installer chose, goes before the hardware's serial,
//! because boards without a serial of their own all report the same one.

use api::register::ZRegisterMsg;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use uuid::Uuid;

use super::Refusal;
use crate::cert::{CertHash, Certificate};

/// A standing order of the operator: devices with this serial may register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// Hardware or soft serial; `*` admits any.
    pub serial: String,
    /// Name for the device, else its serial is used.
    pub name: Option<String>,
    /// Registered devices wait for `evc device claim`.
    pub hold: bool,
    /// The endorsement key of the TPM that it must be in: a hash of it.
    pub ek: Option<[u8; 32]>,
    /// What is kept of the code that it is claimed with.
    pub code: Option<[u8; 32]>,
}

/// A device as far as registration is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// Its UUID.
    pub uuid: Uuid,
    /// SHA-256 of its certificate's DER.
    pub cert: CertHash,
    /// The onboarding certificate that it came with, none when an operator entered it.
    pub onboarding: Option<CertHash>,
    /// The serial that it came with.
    pub serial: String,
}

/// A register message with its parts parsed.
#[derive(Debug, Clone)]
pub struct Request {
    /// The device's own certificate.
    pub cert: Certificate,
    /// Serial of the hardware.
    pub serial: String,
    /// Serial that the installer chose.
    pub soft_serial: String,
}

/// What to do with a device that may come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Enter it.
    New {
        /// The serial that identifies it.
        serial: String,
        /// What people call it.
        name: String,
        /// Whether it has to wait for a person.
        hold: bool,
        /// The endorsement key that it is bound to.
        ek: Option<[u8; 32]>,
        /// What is kept of the code that it is claimed with.
        code: Option<[u8; 32]>,
    },
    /// It is there already; nothing changes.
    Repeat(Uuid),
}

/// Parses the message.
pub fn parse(message: &ZRegisterMsg) -> Result<Request, Refusal> {
    let text = message.pem_cert.trim_ascii();
    if text.is_empty() {
        return Err(Refusal::unprocessable("pemCert is empty"));
    }
    let pem = STANDARD
        .decode(text)
        .map_err(|e| Refusal::unprocessable(format!("pemCert is not base64: {e}")))?;
    let cert =
        Certificate::from_pem(&pem).map_err(|e| Refusal::unprocessable(format!("pemCert: {e}")))?;
    let serial = message.serial.trim().to_owned();
    let soft_serial = message.soft_serial.trim().to_owned();
    if serial.is_empty() && soft_serial.is_empty() {
        return Err(Refusal::unprocessable(
            "neither serial nor softSerial is set",
        ));
    }
    Ok(Request {
        cert,
        serial,
        soft_serial,
    })
}

/// The onboarding certificate that a v2 register envelope carries, base64 of its PEM text.
pub fn onboarding_cert(sender_cert: &[u8]) -> Result<Certificate, Refusal> {
    let text = sender_cert.trim_ascii();
    if text.is_empty() {
        return Err(Refusal::unprocessable("register without senderCert"));
    }
    let pem = STANDARD
        .decode(text)
        .map_err(|e| Refusal::unprocessable(format!("senderCert is not base64: {e}")))?;
    Certificate::from_pem(&pem).map_err(|e| Refusal::unprocessable(format!("senderCert: {e}")))
}

/// Decides. `admissions` are the orders for this onboarding certificate, `None` when the
/// certificate itself is unknown; `devices` are all that share its certificate or serial with the
/// request.
pub fn decide(
    request: &Request,
    onboarding: CertHash,
    admissions: Option<&[Admission]>,
    devices: &[Registered],
) -> Result<Verdict, Refusal> {
    let Some(admissions) = admissions else {
        return Err(Refusal::unauthorized(
            "the onboarding certificate is not known",
        ));
    };
    let own = request.cert.hash();
    // A device that is in stays in, even when its order has been withdrawn since.
    if let Some(device) = devices.iter().find(|d| d.cert == own) {
        let same_serial = device.serial == request.serial || device.serial == request.soft_serial;
        let same_batch = device.onboarding.is_none_or(|hash| hash == onboarding);
        return if same_serial && same_batch {
            Ok(Verdict::Repeat(device.uuid))
        } else {
            Err(Refusal::conflict(format!(
                "this device certificate is registered with serial {:?}",
                device.serial
            )))
        };
    }
    let (serial, admission) = admit(request, admissions)?;
    let holder = devices
        .iter()
        .find(|d| d.onboarding == Some(onboarding) && d.serial == serial);
    if let Some(holder) = holder {
        return Err(Refusal::conflict(format!(
            "serial {serial:?} is registered with another device certificate ({})",
            holder.uuid
        )));
    }
    let name = admission.name.clone().unwrap_or_else(|| serial.clone());
    Ok(Verdict::New {
        serial,
        name,
        hold: admission.hold,
        ek: admission.ek,
        code: admission.code,
    })
}

fn admit<'a>(
    request: &Request,
    admissions: &'a [Admission],
) -> Result<(String, &'a Admission), Refusal> {
    let serials = [&request.soft_serial, &request.serial];
    for serial in serials.into_iter().filter(|s| !s.is_empty()) {
        if let Some(found) = admissions.iter().find(|a| a.serial == *serial) {
            return Ok((serial.clone(), found));
        }
    }
    let own = serials.into_iter().find(|s| !s.is_empty());
    match (own, admissions.iter().find(|a| a.serial == "*")) {
        (Some(serial), Some(any)) => Ok((serial.clone(), any)),
        _ => Err(Refusal::forbidden(format!(
            "no admission for serial {:?} or soft serial {:?}",
            request.serial, request.soft_serial
        ))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    const BATCH: CertHash = [7; 32];

    fn cert() -> Certificate {
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = rcgen::CertificateParams::new(vec![])
            .unwrap()
            .self_signed(&key)
            .unwrap()
            .pem();
        Certificate::from_pem(pem.as_bytes()).unwrap()
    }

    fn request(serial: &str, soft: &str) -> Request {
        Request {
            cert: cert(),
            serial: serial.to_owned(),
            soft_serial: soft.to_owned(),
        }
    }

    fn order(serial: &str) -> Admission {
        Admission {
            serial: serial.to_owned(),
            name: None,
            hold: false,
            ek: None,
            code: None,
        }
    }

    fn status(result: Result<Verdict, Refusal>) -> u16 {
        result.unwrap_err().status.as_u16()
    }

    #[test]
    fn soft_serial_goes_before_hardware_serial() {
        let orders = [order("HW"), order("SOFT")];
        let Ok(Verdict::New { serial, .. }) =
            decide(&request("HW", "SOFT"), BATCH, Some(&orders), &[])
        else {
            panic!("not admitted")
        };
        assert_eq!(serial, "SOFT");
    }

    #[test]
    fn strangers_are_turned_away() {
        assert_eq!(status(decide(&request("A", ""), BATCH, None, &[])), 401);
        assert_eq!(
            status(decide(&request("A", ""), BATCH, Some(&[order("B")]), &[])),
            403
        );
    }

    #[test]
    fn one_certificate_per_serial_and_repeats_are_harmless() {
        let first = request("A", "");
        let device = Registered {
            uuid: Uuid::from_u128(1),
            cert: first.cert.hash(),
            onboarding: Some(BATCH),
            serial: "A".to_owned(),
        };
        let orders = [order("*")];
        let known = [device];
        assert_eq!(
            decide(&first, BATCH, Some(&orders), &known),
            Ok(Verdict::Repeat(Uuid::from_u128(1)))
        );
        // The order was withdrawn: repeats still are harmless.
        assert!(decide(&first, BATCH, Some(&[]), &known).is_ok());
        assert_eq!(
            status(decide(&request("A", ""), BATCH, Some(&orders), &known)),
            409
        );
        let moved = Request {
            serial: "B".to_owned(),
            ..first.clone()
        };
        assert_eq!(status(decide(&moved, BATCH, Some(&orders), &known)), 409);
        assert_eq!(status(decide(&first, [8; 32], Some(&orders), &known)), 409);
        // Another batch may use the same serial.
        assert!(decide(&request("A", ""), [8; 32], Some(&orders), &known).is_ok());
    }

    #[test]
    fn malformed_messages_are_422() {
        let bad = |pem: &[u8], serial: &str| {
            let message = ZRegisterMsg {
                pem_cert: pem.to_vec(),
                serial: serial.to_owned(),
                ..ZRegisterMsg::default()
            };
            parse(&message).unwrap_err().status.as_u16()
        };
        let good = STANDARD.encode(cert().pem());
        assert_eq!(bad(b"", "A"), 422);
        assert_eq!(bad(b"%%%", "A"), 422);
        assert_eq!(bad(STANDARD.encode("no pem").as_bytes(), "A"), 422);
        assert_eq!(bad(good.as_bytes(), " "), 422);
        assert_eq!(bad(cert().pem().as_bytes(), "A"), 422);
    }
}
