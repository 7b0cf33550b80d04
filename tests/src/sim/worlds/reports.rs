//! reporter's way to the controller.

use std::sync::{Mutex, MutexGuard, PoisonError};

use agent::{Clock, Failure, Progress, World};
use model::code::Code;
use reporter::{
    Acknowledged, Actual, Desired, Due, Reporter, Send,
    messages::{Messages, System, messages},
};

use crate::sim::{
    evc::Belief,
    machine::{Machine, Refused},
};

/// The service's process.
pub(crate) struct Reports {
    machine: Machine,
    clock: Clock,
    state: Mutex<(Messages, Actual)>,
}

impl Reports {
    pub(crate) fn open(machine: &Machine, clock: &Clock) -> Self {
        Self {
            machine: machine.clone(),
            clock: clock.clone(),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, (Messages, Actual)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn info(&self, key: String, epoch: i64, number: u64) -> Result<(), Failure> {
        let Some(content) = self.state().0.get(&key).cloned() else {
            return Ok(());
        };
        let belief = Belief {
            digest: content.digest,
            gone: content.last,
            content: content.content.clone(),
        };
        let object = format!("report {key}");
        let answer = self
            .machine
            .ask(&object, |s| {
                s.evc.infos += 1;
                s.evc.believes.insert(key.clone(), belief);
                Ok(())
            })
            .await;
        answer.map_err(|refused| match refused {
            Refused::Code(400..=422) => Failure::new(Code::ReportRefused, object, "refused"),
            other => other.failure("report"),
        })?;
        let acknowledged = Acknowledged {
            digest: content.digest,
            last: content.last,
            at: self.clock.now(),
            uptime: self.clock.uptime(),
            epoch,
            server: "evc.example".to_owned(),
            count: number,
        };
        self.state().1.acknowledged.insert(key, acknowledged);
        Ok(())
    }
}

impl World<Reporter> for Reports {
    async fn observe(&self, desired: &Desired) -> Result<Actual, Failure> {
        let messages = messages(desired, &System::default());
        let mut state = self.state();
        state.1.messages = messages
            .iter()
            .map(|(key, m)| (key.clone(), (m.digest, m.last)))
            .collect();
        let now: std::collections::BTreeMap<_, _> = state.1.messages.clone();
        state.0 = messages;
        self.machine.with(|s| s.evc.due = now);
        Ok(state.1.clone())
    }

    async fn apply(&self, action: Send, _: Progress) -> Result<(), Failure> {
        match action.due {
            Due::Info { key, epoch } => self.info(key, epoch, action.number).await,
            Due::Metrics => {
                // Never repeated: the next ones supersede them.
                let _ = self
                    .machine
                    .ask("metrics", |s| {
                        s.evc.metrics += 1;
                        Ok(())
                    })
                    .await;
                let jitter = self.machine.with(|s| s.chance.fraction());
                self.state().1.metrics = Some((self.clock.uptime(), jitter));
                Ok(())
            }
        }
    }
}
