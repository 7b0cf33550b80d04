//! The controller, the device's key, and what the kernel says.

mod system;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agent::{Boot, Clock, Failure, Progress, World};
use controller::{Controller, Keys, Known, Line, SenderStatus};
use model::code::Code;
use tracing::warn;

use crate::{
    Actual, Desired, Due, Reporter, Send,
    messages::{Messages, messages, metrics},
    plan::Acknowledged,
};

/// The way to the controller.
pub struct Evc {
    line: Line,
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    messages: Messages,
    desired: Desired,
    actual: Actual,
}

impl Evc {
    /// Whoever keeps the `keys` is asked when they are first needed.
    pub fn open(boot: &Boot, keys: Arc<dyn Keys>) -> Self {
        let clock = boot.clock.clone();
        Self {
            line: Line::new(boot.root.clone(), keys, move || clock.now()),
            clock: boot.clock.clone(),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn controller(&self) -> Result<Controller, Failure> {
        let state = self.state();
        let desired = &state.desired;
        let network = desired.network.as_ref();
        let known = Known::of(&desired.onboarding, &desired.items, network);
        let made = self.line.controller(known);
        made.map_err(|e| Failure::of(Code::OnboardIdentity, "identity", &e).transient())
    }

    async fn send_info(&self, key: &str, epoch: i64, number: u64) -> Result<(), Failure> {
        let controller = self.controller()?;
        let (content, message) = {
            let state = self.state();
            // It may have become the same as acknowledged meanwhile.
            let Some(content) = state.messages.get(key).cloned() else {
                return Ok(());
            };
            let device = state
                .desired
                .onboarding
                .device
                .map(|d| d.to_string())
                .unwrap_or_default();
            let message = content.message(&device, self.clock.now());
            (content, message)
        };
        controller
            .info(&message)
            .await
            .map_err(|e| failure(&format!("report {key}"), &e))?;
        let acknowledged = Acknowledged {
            digest: content.digest,
            last: content.last,
            at: self.clock.now(),
            uptime: self.clock.uptime(),
            epoch,
            server: controller.server().as_str().to_owned(),
            count: number,
        };
        self.state()
            .actual
            .acknowledged
            .insert(key.to_owned(), acknowledged);
        Ok(())
    }

    async fn send_metrics(&self) {
        let result = async {
            let controller = self.controller()?;
            let message = metrics(&self.state().desired, &system::measure(), self.clock.now());
            controller
                .metrics(&message)
                .await
                .map_err(|e| failure("metrics", &e))
        }
        .await;
        let uptime = self.clock.uptime();
        let mut state = self.state();
        // Never repeated: the next ones supersede them.
        if let Err(error) = result {
            warn!(code = %error.code, "{error}");
            if let Some(wait) = error.wait {
                state.actual.metrics_not_before = uptime + wait;
            }
        }
        state.actual.metrics = Some((uptime, rand::random()));
    }
}

impl World<Reporter> for Evc {
    async fn observe(&self, desired: &Desired) -> Result<Actual, Failure> {
        let mut state = self.state();
        // A turn because of an acknowledgement, a progress or a timer finds what the last one found.
        if !state.desired.says_the_same(desired) {
            let messages = messages(desired, &system::constants());
            state.actual.messages = messages
                .iter()
                .map(|(key, m)| (key.clone(), (m.digest, m.last)))
                .collect();
            state.messages = messages;
        }
        state.desired = desired.clone();
        Ok(state.actual.clone())
    }

    async fn apply(&self, action: Send, _: Progress) -> Result<(), Failure> {
        match action.due {
            Due::Info { key, epoch } => self.send_info(&key, epoch, action.number).await,
            Due::Metrics => {
                self.send_metrics().await;
                Ok(())
            }
        }
    }
}

/// No answer and refusals of who we are or when are tried again soon; a refusal of the message itself is for
/// quarantine.
fn failure(object: &str, error: &controller::Failure) -> Failure {
    let code = match error.status() {
        _ if error.is_rejection() => Code::ReportRefused,
        SenderStatus::CertInvalid
        | SenderStatus::CertUnknownAuthority
        | SenderStatus::CertUnknownAuthorityProxy => Code::ControllerTls,
        _ if error.code().is_some() => Code::ControllerRefused,
        _ if error.is_dns() => Code::PortDns,
        _ => Code::ControllerUnreachable,
    };
    Failure::of(code, object, error)
        .transient_if(!error.is_rejection())
        .waiting(error.retry_after())
}
