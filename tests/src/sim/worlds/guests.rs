//! domainmgr's supervisor and QEMU.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use agent::{Clock, Failure, Progress, World};
use domainmgr::{
    Actual, Desired, Do, Domainmgr, Guest, HostFacts, Launch, Life, Probe, Sample, Seen, Unit,
    Words, launch, plan::digest, subject,
};
use jiff::Timestamp;
use model::{code::Code, domain::Accelerator, id::AppId};
use vmm::qmp::RunState;

use crate::sim::machine::{Machine, Qemu, State, volume_path};

/// The service's process: its connections, and what it saw over them.
pub(crate) struct Hypervisor {
    machine: Machine,
    links: Mutex<BTreeMap<AppId, Link>>,
}

#[derive(Default)]
struct Link {
    /// The QEMU that it is to.
    pid: u32,
    pressed: Option<Timestamp>,
    sample: Option<Sample>,
}

impl Hypervisor {
    pub(crate) fn open(machine: &Machine, _: &Clock) -> Self {
        Self {
            machine: machine.clone(),
            links: Mutex::default(),
        }
    }

    fn links(&self) -> MutexGuard<'_, BTreeMap<AppId, Link>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn act(&self, action: Do) -> Result<(), Failure> {
        self.machine.with(|s| match action {
            Do::Probe => {
                s.guests.probe = Some(Probe {
                    accelerator: Accelerator::Kvm,
                    qemu_version: "7.2".to_owned(),
                });
                Ok(())
            }
            Do::Start(launch) => start(s, &launch),
            Do::Boot(app, _) => {
                let now = s.clock.now();
                let qemu = living(s, app)?;
                if matches!(qemu.state, RunState::Prelaunch | RunState::IoError) {
                    (qemu.state, qemu.since) = (RunState::Running, now);
                }
                Ok(())
            }
            Do::Press(app) => {
                living(s, app)?;
                if !s.may_end(app) {
                    s.violate(format!("the power button of {app}, which shall run"));
                }
                let now = s.clock.now();
                self.links().entry(app).or_default().pressed = Some(now);
                let qemu = living(s, app)?;
                if !qemu.deaf && qemu.state == RunState::Running {
                    (qemu.state, qemu.since) = (RunState::Shutdown, now);
                    qemu.last_event = Some("SHUTDOWN");
                }
                Ok(())
            }
            Do::End(app) => {
                away(s, app)?;
                let may = s.may_end(app);
                let now = s.clock.now();
                let Ok(qemu) = living(s, app) else {
                    return Ok(());
                };
                let over = matches!(qemu.state, RunState::Shutdown | RunState::GuestPanicked);
                qemu.end(now, "exited with code 0");
                if !may && !over {
                    s.violate(format!("the end of {app}, which shall run"));
                }
                Ok(())
            }
            Do::Clear { app, for_good } => {
                away(s, app)?;
                if living(s, app).is_ok() {
                    s.violate(format!("the directory of {app} is removed while it lives"));
                }
                s.guests.qemus.remove(&app);
                s.guests.dirs.remove(&app);
                if for_good {
                    s.disk.kept.remove(&app);
                }
                Ok(())
            }
            Do::Measure(app) => {
                let now = s.clock.now();
                let qemu = living(s, app)?;
                let sample = Sample {
                    at: now,
                    cpu_ns: qemu.cpu_ns,
                    memory_kib: 100_001,
                    disks: BTreeMap::new(),
                };
                self.links().entry(app).or_default().sample = Some(sample);
                Ok(())
            }
        })
    }
}

fn living(s: &mut State, app: AppId) -> Result<&mut Qemu, Failure> {
    let qemu = s.guests.qemus.get_mut(&app).filter(|qemu| qemu.is_alive());
    qemu.ok_or_else(|| Failure::new(Code::DomainQmp, subject(app), "not there").transient())
}

fn away(s: &State, app: AppId) -> Result<(), Failure> {
    if s.guests.away {
        let text = "the supervisor does not answer";
        return Err(Failure::new(Code::DomainStop, subject(app), text).transient());
    }
    Ok(())
}

fn start(s: &mut State, launch: &Launch) -> Result<(), Failure> {
    let config = &launch.config;
    let app = config.app;
    if s.guests.away {
        let text = "the supervisor does not answer";
        return Err(Failure::new(Code::DomainStart, subject(app), text).transient());
    }
    if living(s, app).is_ok() {
        s.violate(format!("a second QEMU of {app}"));
    }
    let shares = |(other, qemu): (&AppId, &Qemu)| {
        *other != app && qemu.is_alive() && qemu.unit.uid == launch.uid
    };
    if s.guests.qemus.iter().any(shares) {
        s.violate(format!("{app} runs as another guest's user"));
    }
    for disk in &config.disks {
        let there = s.disk.volumes.contains_key(&disk.volume);
        if !there || disk.path != volume_path(disk.volume) {
            s.violate(format!("{app} is started without its disk {}", disk.volume));
        }
    }
    for vif in &config.vifs {
        if s.kernel.tap_bridge(&vif.vif).as_ref() != Some(&vif.bridge) {
            s.violate(format!("{app} is started without its tap {}", vif.vif));
        }
    }
    let disks: Vec<_> = config.disks.iter().map(|disk| disk.volume).collect();
    let now = s.clock.now();
    s.guests.pids += 1;
    *s.guests.starts.entry(app).or_default() += 1;
    s.guests.dirs.insert(app, launch.uid);
    s.disk.kept.insert(app);
    let qemu = Qemu {
        unit: Unit {
            life: Life::Alive {
                process: Some((100 + s.guests.pids, now)),
                stopping: false,
            },
            incarnation: config.incarnation,
            config: digest(config),
            memory_kib: launch::memory_kib(config, &launch.accelerator),
            uid: launch.uid,
        },
        state: RunState::Prelaunch,
        since: now,
        last_event: None,
        deaf: false,
        may_end: !s.truth.wants_guest(app, config.incarnation) || s.truth.is_purged_again(app),
        disks,
        vifs: config
            .vifs
            .iter()
            .map(|vif| (vif.vif.clone(), vif.mac))
            .collect(),
        cpu_ns: 0,
    };
    s.uses(&qemu.disks);
    s.guests.qemus.insert(app, qemu);
    s.truth.started(app, config.incarnation);
    Ok(())
}

impl World<Domainmgr> for Hypervisor {
    async fn observe(&self, _: &Desired) -> Result<Actual, Failure> {
        let mut links = self.links();
        let actual = self.machine.with(|s| {
            let guests = &s.guests;
            let apps: BTreeSet<AppId> = guests
                .qemus
                .keys()
                .chain(guests.dirs.keys())
                .chain(&s.disk.kept)
                .copied()
                .collect();
            let guest = |app: AppId| {
                let qemu = guests.qemus.get(&app);
                let link = qemu.and_then(|qemu| {
                    let link = links.get(&app)?;
                    (pid(qemu) == Some(link.pid)).then_some(link)
                });
                Guest {
                    unit: qemu.map(|qemu| qemu.unit.clone()),
                    uid: guests.dirs.get(&app).copied(),
                    kept: s.disk.kept.contains(&app),
                    seen: qemu.map_or_else(Seen::default, |qemu| Seen {
                        // The first look comes before the first connection.
                        state: link.map(|_| (qemu.state, qemu.since)),
                        last_event: link.and(qemu.last_event).map(ToOwned::to_owned),
                        pressed: link.and_then(|link| link.pressed),
                        trouble: None,
                    }),
                    words: Words::default(),
                    sample: link.and_then(|link| link.sample.clone()),
                }
            };
            Actual {
                guests: apps.into_iter().map(|app| (app, guest(app))).collect(),
                host: HostFacts {
                    memory_kib: (8 << 20) + guests.more_memory_kib,
                    cpus: 4,
                },
                consoles: "/persist/log/guests".into(),
                probe: guests.probe.clone(),
            }
        });
        let mut connected = false;
        self.machine.with(|s| {
            for (app, qemu) in &s.guests.qemus {
                let Some(pid) = pid(qemu) else { continue };
                let link = links.entry(*app).or_default();
                if link.pid != pid {
                    *link = Link {
                        pid,
                        ..Link::default()
                    };
                    connected = true;
                }
            }
            if connected {
                s.stir("domainmgr");
            }
        });
        Ok(actual)
    }

    async fn apply(&self, action: Do, _: Progress) -> Result<(), Failure> {
        self.machine.takes(40).await;
        let result = self.act(action);
        // Guests are heard of by QMP, the supervisor, and the leases that they take.
        self.machine.with(|s| {
            s.stir("domainmgr");
            s.stir("zedrouter");
        });
        self.machine.takes(40).await;
        result
    }
}

fn pid(qemu: &Qemu) -> Option<u32> {
    match qemu.unit.life {
        Life::Alive { process, .. } => process.map(|(pid, _)| pid),
        Life::Ended { .. } => None,
    }
}
