//! What happened when, from what the device says on its bus.

use bus::Rows;
use jiff::Timestamp;
use model::{
    domain::{DomainPhase, DomainStatus},
    node::{ConfigSource, ZedAgentStatus},
    service::{ServicePhase, ServiceStatus},
};

/// Whether every service has said that it is ready. What services have started for themselves doesn't count.
pub fn all_ready(services: &Rows<ServiceStatus>) -> bool {
    let mut own = services
        .values()
        .filter(|status| !status.name.contains('/'));
    let some = own.clone().count() > 1;
    some && own.all(|status| matches!(status.phase, ServicePhase::Running { .. }))
}

/// When the config in force was received from the controller.
pub fn config_received(zedagent: &Rows<ZedAgentStatus>) -> Option<Timestamp> {
    let of_controller = |status: &&ZedAgentStatus| status.config_source == ConfigSource::Controller;
    zedagent.values().find(of_controller)?.config_at
}

/// When QEMU was started for the first guest that runs: its process, and its processors.
pub fn guest_started(
    domains: &Rows<DomainStatus>,
    services: &Rows<ServiceStatus>,
) -> Option<(Timestamp, Timestamp)> {
    domains.values().find_map(|domain| match &domain.phase {
        DomainPhase::Running { unit, since, .. } => Some((process_since(services, unit)?, *since)),
        DomainPhase::Halted
        | DomainPhase::Booting { .. }
        | DomainPhase::Halting { .. }
        | DomainPhase::Failed => None,
    })
}

fn process_since(services: &Rows<ServiceStatus>, unit: &str) -> Option<Timestamp> {
    match services.values().find(|status| status.name == unit)?.phase {
        ServicePhase::Starting { since, .. } | ServicePhase::Running { since, .. } => Some(since),
        ServicePhase::Waiting { .. }
        | ServicePhase::Backoff { .. }
        | ServicePhase::Stopping { .. }
        | ServicePhase::Stopped => None,
    }
}

/// Milliseconds from one moment to another, 0 if it was before.
pub fn ms_between(from: Timestamp, to: Timestamp) -> f64 {
    let nanoseconds = (to.as_nanosecond() - from.as_nanosecond()).max(0);
    std::time::Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX)).as_secs_f64()
        * 1000.0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn service(name: &str, phase: ServicePhase) -> (String, ServiceStatus) {
        let status = ServiceStatus {
            name: name.to_owned(),
            phase,
            restarts: 0,
            uid: 0,
            memory: None,
            memory_limit: None,
            status_text: String::new(),
            last_exit: String::new(),
            last_exit_at: None,
            fault: None,
        };
        (name.to_owned(), status)
    }

    #[test]
    fn a_device_is_ready_with_its_last_service() {
        let running = |pid| ServicePhase::Running { pid, since: at(1) };
        let starting = ServicePhase::Starting {
            pid: 4,
            since: at(1),
        };
        assert!(!all_ready(&Rows::new()));
        let mut rows: Rows<_> = [
            service("nim", running(2)),
            service("zedagent", starting.clone()),
        ]
        .into();
        assert!(!all_ready(&rows));
        rows.extend([
            service("zedagent", running(4)),
            service("zedrouter/dnsmasq", starting),
        ]);
        assert!(all_ready(&rows));
    }

    #[test]
    fn the_process_of_a_guest_starts_before_its_processors() {
        let unit = "domainmgr/one";
        let services: Rows<_> = [service(
            unit,
            ServicePhase::Running {
                pid: 9,
                since: at(5),
            },
        )]
        .into();
        let domain = |phase| DomainStatus {
            app: model::id::AppId::default(),
            phase,
            incarnation: 0,
            boot_time: None,
            boots: 1,
            console_log: None,
            vnc_port: None,
            fault: None,
        };
        let booting = domain(DomainPhase::Booting { since: at(4) });
        assert_eq!(
            guest_started(&[("one".to_owned(), booting)].into(), &services),
            None
        );
        let running = domain(DomainPhase::Running {
            unit: unit.to_owned(),
            pid: 9,
            since: at(6),
        });
        let seen = guest_started(&[("one".to_owned(), running)].into(), &services);
        assert_eq!(seen, Some((at(5), at(6))));
        assert!((ms_between(at(5), at(6)) - 1000.0).abs() < f64::EPSILON);
    }
}
