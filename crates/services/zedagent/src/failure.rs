//! The controller library's errors as failures with stable codes.

use agent::Failure;
use controller::SenderStatus;
use model::code::Code;

/// A failed call about `object`.
pub(crate) fn of_call(object: &str, error: &controller::Failure) -> Failure {
    let code = match error.status() {
        SenderStatus::CertInvalid
        | SenderStatus::CertUnknownAuthority
        | SenderStatus::CertUnknownAuthorityProxy => Code::ControllerTls,
        SenderStatus::CertMiss => Code::ControllerCert,
        SenderStatus::SignVerifyFail | SenderStatus::AlgoFail | SenderStatus::HashSizeError => {
            Code::ConfigSignature
        }
        _ if error
            .decisive()
            .is_some_and(|e| matches!(e.problem, controller::Problem::Certs(_))) =>
        {
            Code::ControllerCert
        }
        _ if error.code().is_some() => Code::ControllerRefused,
        _ if error.reached_controller() => Code::ConfigParse,
        _ if error.is_dns() => Code::PortDns,
        _ => Code::ControllerUnreachable,
    };
    // The missing certificate is being fetched: soon the same question can go well.
    let transient = error.is_transient() || error.status() == SenderStatus::CertMiss;
    Failure::of(code, object, error)
        .transient_if(transient)
        .waiting(error.retry_after())
}
