//! The guest of an application, and the unit that runs it.

use model::{
    domain::{Accelerator, DomainPhase, DomainStatus},
    id::AppId,
};

use super::{
    Condition, Kind, Nature, Subject,
    walk::{Block, Walk},
};

fn phase(phase: &DomainPhase) -> &'static str {
    match phase {
        DomainPhase::Halted => "halted",
        DomainPhase::Booting { .. } => "being started",
        DomainPhase::Running { .. } => "running",
        DomainPhase::Halting { .. } => "being stopped",
        DomainPhase::Failed => "failed",
    }
}

impl Walk<'_> {
    /// The guest of an application that is wanted to run (or to be gone, if it is not).
    pub(super) fn guest(&mut self, app: AppId, wanted: bool) -> Block {
        let d = self.device;
        let key = app.to_string();
        let name = d.app_name(&key).unwrap_or_default();
        let subject = Self::subject(Kind::Guest, key.clone(), name);
        let status = d.domains.get(&key);
        let state = status.map_or("not known", |row| phase(&row.phase));
        self.enter(subject.clone(), state, |w| {
            let order = d.domain_configs.get(&key);
            if wanted && !order.is_some_and(|order| order.activate) {
                let text = "zedmanager has not asked for it";
                return Some(w.missing(&d.domain_configs, &key, subject, text));
            }
            let Some(status) = status else {
                if !wanted {
                    return None;
                }
                let text = "domainmgr says nothing of it";
                return Some(w.missing(&d.domains, &key, subject, text));
            };
            let settled = match &status.phase {
                DomainPhase::Running { .. } => {
                    wanted && order.is_none_or(|order| order.incarnation == status.incarnation)
                }
                DomainPhase::Halted => !wanted,
                DomainPhase::Booting { .. } | DomainPhase::Halting { .. } | DomainPhase::Failed => {
                    false
                }
            };
            if settled && status.fault.is_none() {
                return None;
            }
            if let Some(down) = w.answers("domainmgr", "DomainStatus") {
                return Some(down);
            }
            if let Some(fault) = &status.fault {
                return Some(w.fault(subject, fault));
            }
            Some(w.on_its_way(subject, status))
        })
    }

    fn on_its_way(&mut self, subject: Subject, status: &DomainStatus) -> Condition {
        let d = self.device;
        let key = status.app.to_string();
        let condition = match &status.phase {
            DomainPhase::Booting { since } => {
                let unit = format!("domainmgr/{key}");
                if let Some(down) = self.runs(&unit) {
                    return down;
                }
                let text = match d.capabilities.get("global").map(|c| &c.accelerator) {
                    None => "domainmgr finds out what can run guests",
                    Some(Accelerator::Kvm) => "QEMU is being started",
                    Some(Accelerator::Tcg { .. }) => "QEMU is being started, without KVM",
                };
                let condition = Condition::progress(subject, text);
                return self.at(condition, Some(*since), None);
            }
            DomainPhase::Halting { deadline } => {
                let text = "the guest was asked to power off; it is ended at the deadline";
                let condition = Condition::progress(subject, text);
                let condition = self.unchanged(condition, &d.domains, &key);
                return self.at(condition, None, Some(*deadline));
            }
            DomainPhase::Running { .. } => Condition::progress(
                subject,
                "the guest runs; it is about to be stopped or started again",
            ),
            DomainPhase::Halted => Condition::waits(subject, "the guest does not run yet"),
            DomainPhase::Failed => {
                Condition::new(subject, Nature::Fault, "it failed; no reason is known")
            }
        };
        self.unchanged(condition, &d.domains, &key)
    }
}
