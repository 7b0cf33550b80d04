//! Services, the bus, crashes, reboots, reports.

use jiff::SignedDuration;
use model::{node::BootReason, service::ServicePhase};

use super::{Fact, Judge, fail, ok, skipped, some_of, warn};
use crate::{snapshot::Supervisor, why, words};

/// Evidence younger than this is worth a look.
const FRESH: SignedDuration = SignedDuration::from_hours(24);

impl Judge<'_> {
    pub(super) fn services(&mut self) {
        self.supervisor();
        self.running();
        self.restarts();
        self.crashes();
        self.bus();
        self.objects();
        self.reports();
        self.reboot();
        self.maintenance();
    }

    fn supervisor(&mut self) {
        let verdict = match self.device.supervisor {
            Supervisor::Answers => ok("it answers"),
            Supervisor::Silent => fail(
                "nobody listens on its socket: nobody starts services again",
                "Start it; it finds the units that still run.",
            ),
            Supervisor::Unknown => skipped("its socket is not there, or not for this user"),
        };
        self.add("supervisor", verdict);
    }

    fn running(&mut self) {
        let units = &self.device.services;
        let names = supervisor::table::SERVICES.iter().map(|row| row.name);
        let mut down = Vec::new();
        let mut total = 0;
        for name in names {
            // A device may be told to run some services only.
            let Some(unit) = units.get(name) else {
                continue;
            };
            total += 1;
            if !matches!(unit.phase, ServicePhase::Running { .. }) {
                down.push(format!("{name} ({})", why::service_phase(unit)));
            }
        }
        let verdict = if total == 0 {
            skipped("the supervisor has published no service")
        } else if down.is_empty() {
            ok(format!("{total} run"))
        } else {
            fail(
                some_of(&down),
                "See `eve why service NAME` and `eve logs NAME`.",
            )
        };
        self.add("services.running", verdict);
        let incomplete: Vec<String> = self
            .device
            .topics()
            .into_iter()
            .filter(|topic| topic.known && !topic.ready)
            .map(|topic| format!("{}/{}", topic.service, topic.name))
            .collect();
        let known = self
            .device
            .topics()
            .into_iter()
            .filter(|topic| topic.known)
            .count();
        let verdict = if known == 0 {
            skipped("nothing was published yet")
        } else if incomplete.is_empty() {
            ok(words::count(known, "topic"))
        } else {
            fail(
                format!("not complete: {}", some_of(&incomplete)),
                "See `eve why`: a service waits for its inputs, or does not run.",
            )
        };
        self.add("services.ready", verdict);
    }

    fn restarts(&mut self) {
        let units = self.device.services.rows.values();
        let services: Vec<_> = units
            .clone()
            .filter(|unit| !unit.name.contains('/'))
            .collect();
        let restarted: Vec<String> = services
            .iter()
            .filter(|unit| unit.restarts > 0)
            .map(|unit| {
                format!(
                    "{} {} ({})",
                    unit.name,
                    times(unit.restarts),
                    unit.last_exit
                )
            })
            .collect();
        let verdict = if services.is_empty() {
            skipped("the supervisor has published no service")
        } else if restarted.is_empty() {
            ok("none since the device booted")
        } else {
            warn(
                some_of(&restarted),
                "See the evidence below /persist/crash.",
            )
        };
        self.add("services.restarts", verdict);
        let measured: Vec<_> = units
            .filter_map(|unit| Some((unit, unit.memory?, unit.memory_limit?)))
            .collect();
        let near: Vec<String> = measured
            .iter()
            .filter(|(_, memory, limit)| memory.saturating_mul(10) > limit.saturating_mul(8))
            .map(|(unit, memory, limit)| {
                format!(
                    "{} has {}",
                    words::short(&unit.name),
                    words::part(*memory, *limit)
                )
            })
            .collect();
        let verdict = if measured.is_empty() {
            skipped("the kernel does not tell (no memory cgroups)")
        } else if near.is_empty() {
            ok(format!(
                "{} below 80 % of their limits",
                words::count(measured.len(), "unit")
            ))
        } else {
            warn(
                some_of(&near),
                "At the limit the kernel kills it, and it is started again.",
            )
        };
        self.add("services.memory", verdict);
    }

    fn crashes(&mut self) {
        let now = self.device.at;
        let verdict = match &self.facts.cases {
            Fact::Failed(why) | Fact::Skipped(why) => skipped(why.clone()),
            Fact::Known(cases) => match cases.first() {
                None => ok("none"),
                Some(newest) => {
                    let text = format!(
                        "{}, the newest of {} {} ago: {}",
                        words::count(cases.len(), "case"),
                        words::short(&newest.unit),
                        words::ago(newest.at, now),
                        newest.reason
                    );
                    if now.duration_since(newest.at) < FRESH {
                        warn(text, "Report it with `eve support-bundle`.")
                    } else {
                        ok(text)
                    }
                }
            },
        };
        self.add("crash.evidence", verdict);
    }

    fn bus(&mut self) {
        let topics = self.device.topics();
        let quarantined: Vec<String> = topics
            .iter()
            .flat_map(|topic| {
                let names = topic.quarantined.iter();
                names.map(move |name| {
                    format!("{}/{}/{}", topic.service, topic.name, words::short(name))
                })
            })
            .collect();
        let unreadable: Vec<String> = topics
            .iter()
            .flat_map(|topic| {
                let names = topic.unreadable.iter();
                names.map(move |(name, why)| {
                    format!(
                        "{}/{}/{}: {why}",
                        topic.service,
                        topic.name,
                        words::short(name)
                    )
                })
            })
            .collect();
        let any = topics.iter().any(|topic| topic.known);
        let verdict = if !any {
            skipped("nothing was published yet")
        } else if quarantined.is_empty() {
            ok("none")
        } else {
            warn(
                some_of(&quarantined),
                "Its writer goes on with the last good one; a disk that loses bytes does it again.",
            )
        };
        self.add("bus.quarantined", verdict);
        let verdict = if !any {
            skipped("nothing was published yet")
        } else if unreadable.is_empty() {
            ok("all")
        } else {
            fail(
                some_of(&unreadable),
                "Start the writer again: it writes them anew.",
            )
        };
        self.add("bus.unreadable", verdict);
    }

    fn objects(&mut self) {
        let troubles = why::troubles(self.device, None);
        let worst: Vec<String> = troubles
            .iter()
            .map(|trouble| {
                let condition = &trouble.condition;
                format!("{}: {}", condition.subject, condition.text)
            })
            .collect();
        let faults = troubles
            .iter()
            .any(|t| t.condition.nature == why::Nature::Fault);
        let verdict = if worst.is_empty() {
            ok("applications, volumes, networks, ports")
        } else if faults {
            fail(some_of(&worst), "See `eve why`.")
        } else {
            warn(some_of(&worst), "It goes on by itself: see `eve why`.")
        };
        self.add("objects", verdict);
    }

    fn reports(&mut self) {
        let journal = &self.device.journal.rows;
        let kept: Vec<String> = journal
            .iter()
            .filter_map(|(key, row)| {
                let fault = row.fault.as_ref()?;
                Some(format!("{}: {}", words::short(key), fault.text))
            })
            .collect();
        let verdict = if journal.is_empty() {
            skipped("nothing was reported yet")
        } else if kept.is_empty() {
            ok(words::count(journal.len(), "report"))
        } else {
            warn(some_of(&kept), "They are sent again: see `eve why report`.")
        };
        self.add("reports", verdict);
    }

    fn maintenance(&mut self) {
        let reasons = why::maintenance(self.device);
        let verdict = if self.device.node.get("nodeagent").is_none() {
            skipped("nodeagent says nothing of it")
        } else if reasons.is_empty() {
            ok("it is not in maintenance mode")
        } else {
            warn(
                format!("in maintenance mode: {}", some_of(&reasons)),
                "What runs goes on; new applications wait. End it at the controller, or repair what is named; `maintenance.mode: disabled` overrides every reason.",
            )
        };
        self.add("maintenance", verdict);
    }

    fn reboot(&mut self) {
        let Some(node) = self.device.node.get("nodeagent") else {
            self.add("reboot.reason", skipped("nodeagent says nothing of it"));
            return;
        };
        let text = if node.reboot_text.is_empty() {
            format!("{:?}", node.boot_reason)
        } else {
            node.reboot_text.clone()
        };
        let text = match node.boot_time {
            Some(at) => format!("booted {} ago: {text}", words::ago(at, self.device.at)),
            None => text,
        };
        let verdict = match node.boot_reason {
            BootReason::First
            | BootReason::RebootCmd
            | BootReason::PoweroffCmd
            | BootReason::Update => ok(text),
            BootReason::None | BootReason::PowerFail => warn(
                text,
                "Nothing announced it: check the power supply, then the kernel's messages.",
            ),
            BootReason::Fallback => warn(
                text,
                "The new image was not accepted: see the update's error.",
            ),
            BootReason::Disconnect => warn(text, "The controller was out of reach for too long."),
            BootReason::HwWatchdog => warn(
                text,
                "The machine hung: check the hardware and the kernel's messages.",
            ),
            BootReason::Unknown => warn(text, "The reason is of another version."),
        };
        self.add("reboot.reason", verdict);
    }
}

fn times(count: u32) -> String {
    if count == 1 {
        "once".to_owned()
    } else {
        format!("{count} times")
    }
}
