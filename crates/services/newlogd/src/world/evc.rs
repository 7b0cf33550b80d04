//! The way to the controller.

use std::{path::PathBuf, sync::Arc};

use agent::{Clock, Failure};
use api::logs::ServerMetrics;
use controller::{Controller, Keys, Known, Line, SenderStatus};
use model::code::Code;
use uuid::Uuid;

use crate::{Desired, plan::pacing::Answer};

/// What came back.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// What it means for the file.
    pub answer: Answer,
    /// A code 400 to 499.
    pub is_4xx: bool,
    /// What went wrong.
    pub failure: Option<Failure>,
    /// What the controller says of itself.
    pub server: Option<ServerMetrics>,
}

impl Reply {
    /// The controller has the file.
    pub fn taken() -> Self {
        Self {
            answer: Answer::Taken,
            is_4xx: false,
            failure: None,
            server: None,
        }
    }

    /// It does not have it.
    pub fn failed(answer: Answer, is_4xx: bool, failure: Failure) -> Self {
        Self {
            answer,
            is_4xx,
            failure: Some(failure),
            server: None,
        }
    }
}

/// Brings a file to the controller: of the device, or of an application.
pub trait Carrier: Send + Sync + 'static {
    /// Tries it once.
    fn carry(
        &self,
        desired: &Desired,
        app: Option<Uuid>,
        file: Vec<u8>,
    ) -> impl Future<Output = Reply> + Send;
}

/// The controller of the CONFIG partition, spoken to with the device's key.
#[derive(Debug)]
pub struct Evc(Line);

impl Evc {
    /// Of the device below `root`. Whoever keeps the `keys` is asked when they are first needed.
    pub fn new(root: PathBuf, keys: Arc<dyn Keys>, clock: Clock) -> Self {
        Self(Line::new(root, keys, move || clock.now()))
    }

    fn controller(&self, desired: &Desired) -> Result<Controller, Failure> {
        let network = desired.network.as_ref();
        let known = Known::of(&desired.onboarding, &desired.items, network);
        let made = self.0.controller(known);
        made.map_err(|e| Failure::of(Code::OnboardIdentity, "identity", &e).transient())
    }
}

impl Carrier for Evc {
    async fn carry(&self, desired: &Desired, app: Option<Uuid>, file: Vec<u8>) -> Reply {
        let controller = match self.controller(desired) {
            Ok(controller) => controller,
            Err(failure) => return Reply::failed(Answer::Unavailable, false, failure),
        };
        match controller.new_logs(app, file).await {
            // 304 is no answer to a file.
            Ok(answer) if answer.code == 304 => {
                let text = "the controller answered 304 to a log file";
                let failure = Failure::new(Code::ControllerRefused, "logs", text).transient();
                Reply::failed(Answer::Unavailable, false, failure)
            }
            Ok(answer) => Reply {
                server: answer.value,
                ..Reply::taken()
            },
            Err(error) => refused(&error, app.is_some()),
        }
    }
}

fn refused(error: &controller::Failure, of_app: bool) -> Reply {
    let answer = match error.code() {
        Some(429) => Answer::TooMany,
        // Nobody takes logs there, whatever is in the file. That of an app may just not be known any more.
        Some(404) if !of_app => Answer::Unavailable,
        _ if error.is_rejection() => Answer::Refused,
        _ => Answer::Unavailable,
    };
    let code = match (answer, error.status()) {
        (Answer::Refused, _) => Code::ReportRefused,
        (
            _,
            SenderStatus::CertInvalid
            | SenderStatus::CertUnknownAuthority
            | SenderStatus::CertUnknownAuthorityProxy,
        ) => Code::ControllerTls,
        _ if error.code().is_some() => Code::ControllerRefused,
        _ if error.is_dns() => Code::PortDns,
        _ => Code::ControllerUnreachable,
    };
    let is_4xx = error.code().is_some_and(|code| (400..500).contains(&code));
    let failure = Failure::of(code, "logs", error)
        .transient_if(answer != Answer::Refused)
        .waiting(error.retry_after());
    Reply::failed(answer, is_4xx, failure)
}
