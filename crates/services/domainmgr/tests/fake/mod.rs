//! A hypervisor in memory. It holds state, checks preconditions, and remembers why guests may end.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use agent::{Clock, Failure, Progress, World};
use bus::Rows;
use domainmgr::{
    Actual, Desired, Do, Domainmgr, Guest, HostFacts, Launch, Life, Probe, Sample, Seen, Unit,
    Words, launch, plan::digest, subject,
};
use jiff::Timestamp;
use model::{
    app::{DiskTarget, Resources},
    code::Code,
    domain::{Accelerator, DiskConfig, DomainConfig},
    id::{AppId, VolumeKey},
    volume::ImageFormat,
};
use uuid::Uuid;
use vmm::qmp::RunState;

pub(crate) fn app(n: u128) -> AppId {
    AppId(Uuid::from_u128(n))
}

/// A wanted guest of 256 MiB.
pub(crate) fn config(n: u128) -> DomainConfig {
    DomainConfig {
        app: app(n),
        display_name: format!("guest {n}"),
        activate: true,
        incarnation: 1,
        resources: Resources {
            vcpus: 1,
            memory_kib: 256 * 1024,
            ..Resources::default()
        },
        disks: vec![DiskConfig {
            volume: VolumeKey::default(),
            path: "/persist/vault/volumemgr/volumes/x".into(),
            format: ImageFormat::Raw,
            target: DiskTarget::Disk,
            read_only: false,
        }],
        vifs: Vec::new(),
        user_data: String::new(),
        secret_user_data: None,
    }
}

#[derive(Clone)]
pub(crate) struct Fake {
    clock: Clock,
    state: Arc<Mutex<State>>,
    /// Which life of the service's process asks.
    life: u32,
}

#[derive(Default)]
struct State {
    life: u32,
    qemus: BTreeMap<AppId, Qemu>,
    dirs: BTreeMap<AppId, u32>,
    kept: BTreeSet<AppId>,
    probe: Option<Probe>,
    last_pid: u32,
    away: bool,
    refusing: BTreeSet<AppId>,
    missing: BTreeSet<AppId>,
    starts: BTreeMap<AppId, u32>,
    presses: BTreeMap<AppId, u32>,
    probes: u32,
    acts: u32,
    wanted: Rows<DomainConfig>,
}

struct Qemu {
    unit: Unit,
    state: RunState,
    since: Timestamp,
    deaf: bool,
    /// Its configuration asked for something else at some time since it was started.
    may_end: bool,
    last_event: Option<&'static str>,
    /// Whether the service's process has a connection.
    connected: bool,
    /// Known to the service's process only.
    pressed: Option<Timestamp>,
    sample: Option<Sample>,
    cpu_ns: u64,
}

impl Qemu {
    fn is_alive(&self) -> bool {
        matches!(self.unit.life, Life::Alive { .. })
    }

    fn end(&mut self, at: Timestamp, how: &str) {
        if self.is_alive() {
            self.unit.life = Life::Ended {
                at,
                how: how.to_owned(),
            };
        }
    }
}

impl Fake {
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            clock,
            state: Arc::default(),
            life: 0,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn with<T>(&self, app: AppId, then: impl FnOnce(&mut Qemu) -> T) -> Option<T> {
        self.state()
            .qemus
            .get_mut(&app)
            .filter(|qemu| qemu.is_alive())
            .map(then)
    }

    pub(crate) fn note_wanted(&self, wanted: &Rows<DomainConfig>) {
        let mut state = self.state();
        for (app, qemu) in &mut state.qemus {
            let same = wanted
                .get(&app.to_string())
                .is_some_and(|c| c.activate && c.incarnation == qemu.unit.incarnation);
            qemu.may_end |= !same;
        }
        state.wanted = wanted.clone();
    }

    /// The service's process is gone: what it knew, and what it was about to do.
    pub(crate) fn next_life(&mut self) {
        self.life += 1;
        let mut state = self.state();
        state.life = self.life;
        for qemu in state.qemus.values_mut() {
            qemu.connected = false;
            qemu.pressed = None;
            qemu.sample = None;
            qemu.last_event = None;
        }
    }

    pub(crate) fn lives(&self, app: AppId) -> bool {
        self.with(app, |_| ()).is_some()
    }

    pub(crate) fn incarnation(&self, app: AppId) -> Option<u64> {
        self.with(app, |qemu| qemu.unit.incarnation)
    }

    pub(crate) fn is_clean(&self, app: AppId) -> bool {
        let state = self.state();
        !state.qemus.contains_key(&app) && !state.dirs.contains_key(&app)
    }

    pub(crate) fn has_kept(&self, app: AppId) -> bool {
        self.state().kept.contains(&app)
    }

    pub(crate) fn starts(&self, app: AppId) -> u32 {
        self.state().starts.get(&app).copied().unwrap_or(0)
    }

    pub(crate) fn presses(&self, app: AppId) -> u32 {
        self.state().presses.get(&app).copied().unwrap_or(0)
    }

    pub(crate) fn probes(&self) -> u32 {
        self.state().probes
    }

    /// Actions so far, measurements aside.
    pub(crate) fn acts(&self) -> u32 {
        self.state().acts
    }

    pub(crate) fn kill(&self, app: AppId) {
        let now = self.clock.now();
        self.with(app, |qemu| qemu.end(now, "killed by signal 9"));
    }

    /// The guest turns to a state by itself, if it executes.
    pub(crate) fn turn_to(&self, app: AppId, state: RunState) {
        let now = self.clock.now();
        self.with(app, |qemu| {
            if matches!(qemu.state, RunState::Running | RunState::Paused) {
                qemu.state = state;
                qemu.since = now;
                qemu.last_event = Some("SHUTDOWN");
            }
        });
    }

    /// It ignores the power button from now on.
    pub(crate) fn deafen(&self, app: AppId) {
        self.with(app, |qemu| qemu.deaf = true);
    }

    pub(crate) fn burn(&self, app: AppId, cpu_ns: u64) {
        self.with(app, |qemu| qemu.cpu_ns += cpu_ns);
    }

    pub(crate) fn set_away(&self, away: bool) {
        self.state().away = away;
    }

    pub(crate) fn refuse_to_boot(&self, app: AppId, refuse: bool) {
        let refusing = &mut self.state().refusing;
        if refuse {
            refusing.insert(app);
        } else {
            refusing.remove(&app);
        }
    }

    pub(crate) fn miss_files(&self, app: AppId, miss: bool) {
        let missing = &mut self.state().missing;
        if miss {
            missing.insert(app);
        } else {
            missing.remove(&app);
        }
    }

    /// Nothing keeps anybody any more.
    pub(crate) fn end_of_story(&self) {
        let mut state = self.state();
        state.away = false;
        state.refusing.clear();
        state.missing.clear();
        for qemu in state.qemus.values_mut() {
            if qemu.state == RunState::Paused {
                qemu.state = RunState::Running;
            }
        }
    }

    fn start(&self, launch: &Launch) -> Result<(), Failure> {
        let now = self.clock.now();
        let config = &launch.config;
        let app = config.app;
        let mut state = self.state();
        let failed =
            |text: &str| Err(Failure::new(Code::DomainStart, subject(app), text).transient());
        if state.away {
            return failed("the supervisor does not answer");
        }
        assert!(
            state.qemus.get(&app).is_none_or(|qemu| !qemu.is_alive()),
            "a second QEMU of {app}"
        );
        let uids: Vec<u32> = state
            .qemus
            .iter()
            .filter(|(other, qemu)| **other != app && qemu.is_alive())
            .map(|(_, qemu)| qemu.unit.uid)
            .collect();
        assert!(!uids.contains(&launch.uid), "a user of another guest");
        if state.missing.contains(&app) {
            return failed("disk is missing");
        }
        state.dirs.insert(app, launch.uid);
        state.kept.insert(app);
        *state.starts.entry(app).or_default() += 1;
        state.last_pid += 1;
        let pid = 100 + state.last_pid;
        let same = state
            .wanted
            .get(&app.to_string())
            .is_some_and(|c| c.activate && c.incarnation == config.incarnation);
        let mut qemu = Qemu {
            unit: Unit {
                life: Life::Alive {
                    process: Some((pid, now)),
                    stopping: false,
                },
                incarnation: config.incarnation,
                config: digest(config),
                memory_kib: launch::memory_kib(config, &launch.accelerator),
                uid: launch.uid,
            },
            state: RunState::Prelaunch,
            since: now,
            deaf: false,
            may_end: !same,
            last_event: None,
            connected: false,
            pressed: None,
            sample: None,
            cpu_ns: 0,
        };
        if state.refusing.contains(&app) {
            qemu.end(now, "exited with code 1");
        }
        state.qemus.insert(app, qemu);
        Ok(())
    }

    fn act(&self, action: Do) -> Result<(), Failure> {
        let now = self.clock.now();
        if !matches!(action, Do::Measure(_)) {
            self.state().acts += 1;
        }
        let gone =
            |app: AppId| Failure::new(Code::DomainQmp, subject(app), "not there").transient();
        match action {
            Do::Probe => {
                let mut state = self.state();
                state.probes += 1;
                state.probe = Some(Probe {
                    accelerator: Accelerator::Kvm,
                    qemu_version: "7.2".into(),
                });
                Ok(())
            }
            Do::Start(launch) => self.start(&launch),
            Do::Boot(app, _) => self
                .with(app, |qemu| {
                    if matches!(qemu.state, RunState::Prelaunch | RunState::IoError) {
                        qemu.state = RunState::Running;
                        qemu.since = now;
                    }
                })
                .ok_or_else(|| gone(app)),
            Do::Press(app) => {
                *self.state().presses.entry(app).or_default() += 1;
                self.with(app, |qemu| {
                    assert!(qemu.may_end, "the button of a guest that shall run");
                    qemu.pressed = Some(now);
                    if !qemu.deaf && qemu.state == RunState::Running {
                        qemu.state = RunState::Shutdown;
                        qemu.since = now;
                    }
                })
                .ok_or_else(|| gone(app))
            }
            Do::End(app) => {
                if self.state().away {
                    return Err(Failure::new(Code::DomainStop, subject(app), "away").transient());
                }
                self.with(app, |qemu| {
                    let over = matches!(qemu.state, RunState::Shutdown | RunState::GuestPanicked);
                    assert!(
                        qemu.may_end || over,
                        "the end of a guest that shall run, in {:?}",
                        qemu.state
                    );
                    qemu.end(now, "exited with code 0");
                });
                Ok(())
            }
            Do::Clear { app, for_good } => {
                let mut state = self.state();
                if state.away {
                    return Err(Failure::new(Code::DomainStop, subject(app), "away").transient());
                }
                assert!(state.qemus.get(&app).is_none_or(|qemu| !qemu.is_alive()));
                state.qemus.remove(&app);
                state.dirs.remove(&app);
                if for_good {
                    state.kept.remove(&app);
                }
                Ok(())
            }
            Do::Measure(app) => self
                .with(app, |qemu| {
                    qemu.sample = Some(Sample {
                        at: now,
                        cpu_ns: qemu.cpu_ns,
                        memory_kib: 100_001,
                        disks: BTreeMap::new(),
                    });
                })
                .ok_or_else(|| gone(app)),
        }
    }
}

impl World<Domainmgr> for Fake {
    async fn observe(&self, _: &Desired) -> Result<Actual, Failure> {
        let mut state = self.state();
        let apps: BTreeSet<AppId> = state
            .qemus
            .keys()
            .chain(state.dirs.keys())
            .chain(&state.kept)
            .copied()
            .collect();
        let guests = apps.into_iter().map(|app| {
            let qemu = state.qemus.get(&app);
            let guest = Guest {
                unit: qemu.map(|qemu| qemu.unit.clone()),
                uid: state.dirs.get(&app).copied(),
                kept: state.kept.contains(&app),
                seen: qemu.map_or_else(Seen::default, |qemu| Seen {
                    state: qemu.connected.then_some((qemu.state, qemu.since)),
                    last_event: qemu.last_event.map(ToOwned::to_owned),
                    pressed: qemu.pressed,
                    trouble: None,
                }),
                words: Words {
                    qemu: vec!["bad".into()],
                    console: vec!["login:".into()],
                },
                sample: qemu.and_then(|qemu| qemu.sample.clone()),
            };
            (app, guest)
        });
        let guests = guests.collect();
        // The first look comes before the first connection.
        for qemu in state.qemus.values_mut() {
            qemu.connected = true;
        }
        Ok(Actual {
            guests,
            consoles: "/persist/log/guests".into(),
            host: HostFacts {
                memory_kib: 4 << 20,
                cpus: 2,
            },
            probe: state.probe.clone(),
        })
    }

    /// Every action takes its time, before and after its effect: turns come in between.
    async fn apply(&self, action: Do, _: Progress) -> Result<(), Failure> {
        tokio::time::sleep(Duration::from_millis(25)).await;
        if self.state().life != self.life {
            std::future::pending::<()>().await;
        }
        let result = self.act(action);
        tokio::time::sleep(Duration::from_millis(25)).await;
        result
    }
}
