//! The supervisor's units, QEMU's sockets, and the files of guests.

pub mod console;
mod files;
mod measure;
mod minder;
mod probe;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use agent::{Boot, Clock, Failure, Progress, World};
use cipher::{Exchange, NoKey};
use model::{code::Code, id::AppId};
use tokio::{
    sync::Notify,
    task::AbortHandle,
    time::{Instant, sleep, timeout},
};
use units::{Client, UnitState, UnitTable, Units, UnitsError, Watch};
use vmm::qmp::{QmpError, RunState};
use zeroize::Zeroizing;

use crate::{
    Actual, Desired, Do, Domainmgr, Guest, HostFacts, Launch, Life, Password, Probe, Words,
    launch::{self, Places, unit},
    subject,
};
use minder::Minder;

/// How long the first look waits for the supervisor.
const FIRST_ANSWER: Duration = Duration::from_secs(5);
/// How long a unit that was started or ended may take to show in the list of units.
const SHOWN: Duration = Duration::from_secs(5);
/// How long QEMU may take to end once asked, the supervisor's kill included.
const ENDED: Duration = Duration::from_secs(25);
/// How long QEMU may take to listen; a loaded machine is slow.
const LISTENS: Duration = Duration::from_secs(60);

/// The real world.
pub struct Hypervisor {
    root: PathBuf,
    clock: Clock,
    units: Arc<dyn Units>,
    watch: Watch,
    devices: unit::HostDevices,
    /// Decrypts user data.
    exchange: Arc<dyn Exchange>,
    host: HostFacts,
    probe: Mutex<Option<Probe>>,
    minders: Mutex<BTreeMap<AppId, Minder>>,
    changed: Arc<Notify>,
    /// Nothing may be touched, not even QEMU's socket, which serves one client.
    look_only: bool,
    _tasks: Vec<Task>,
}

/// A task that ends with its owner.
#[derive(Debug)]
pub(crate) struct Task(AbortHandle);

impl Task {
    pub(crate) fn spawn(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(work).abort_handle())
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Hypervisor {
    /// Opens the world of a device. Nothing is asked of the supervisor yet.
    #[allow(
        clippy::unused_async,
        reason = "the runtime opens worlds asynchronously"
    )]
    pub async fn open(boot: Boot) -> Result<Self, Failure> {
        let root = std::path::absolute(&boot.root).map_err(|e| {
            Failure::of(
                Code::AgentObserve,
                format!("root {}", boot.root.display()),
                &e,
            )
        })?;
        let client = Client::connect(&root)
            .map_err(|e| Failure::of(Code::SupervisorUnreachable, "supervisor", &e))?;
        let tpm =
            tpm::Client::connect(&root).map_err(|e| Failure::of(Code::CipherKey, "tpmmgr", &e))?;
        let exchange = Arc::new(tpm::DeviceExchange(Arc::new(tpm)));
        Self::with(root, boot.clock, Arc::new(client), boot.dry_run)
            .map(|world| world.with_exchange(exchange))
    }

    /// The same with any supervisor.
    pub fn with(
        root: PathBuf,
        clock: Clock,
        units: Arc<dyn Units>,
        look_only: bool,
    ) -> Result<Self, Failure> {
        if !look_only {
            files::directories(&root).map_err(|e| {
                Failure::of(Code::AgentObserve, format!("root {}", root.display()), &e)
            })?;
        }
        let watch = units.watch(unit::UNITS_PREFIX);
        let changed = Arc::new(Notify::new());
        let mut tasks = vec![Task::spawn(tell(watch.clone(), Arc::clone(&changed)))];
        if !look_only {
            tasks.push(Task::spawn(console::keep(root.join(launch::CONSOLES))));
        }
        Ok(Self {
            probe: Mutex::new(probe::load(&root)),
            devices: probe::devices(),
            exchange: Arc::new(NoKey),
            host: probe::host(),
            root,
            clock,
            units,
            watch,
            minders: Mutex::default(),
            changed,
            look_only,
            _tasks: tasks,
        })
    }

    /// The same with the device's key: without it user data that came encrypted stays so.
    #[must_use]
    pub fn with_exchange(self, exchange: Arc<dyn Exchange>) -> Self {
        Self { exchange, ..self }
    }

    async fn table(&self) -> Result<Arc<UnitTable>, Failure> {
        let table = units::told(&self.watch, FIRST_ANSWER).await;
        table.ok_or_else(|| {
            let text = "it has not told its units yet";
            Failure::new(Code::SupervisorUnreachable, "supervisor", text).transient()
        })
    }

    fn minders(&self) -> MutexGuard<'_, BTreeMap<AppId, Minder>> {
        self.minders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One minder for each QEMU that lives; those of others stay until their unit is gone, because
    /// they remember the last event.
    fn mind(&self, units: &BTreeMap<AppId, (crate::Unit, &UnitState)>) {
        let mut minders = self.minders();
        minders.retain(|app, _| units.contains_key(app));
        for (app, (unit, _)) in units {
            match unit.life {
                Life::Alive {
                    process: Some((pid, _)),
                    stopping: _,
                } => {
                    if minders.get(app).is_none_or(|minder| minder.pid() != pid) {
                        let places = Places::of(&self.root, *app);
                        let minder = Minder::new(pid, &places, self.clock.clone(), &self.changed);
                        minders.insert(*app, minder);
                    }
                }
                Life::Alive { process: None, .. } => {}
                Life::Ended { .. } => {
                    if let Some(minder) = minders.get_mut(app) {
                        minder.rest();
                    }
                }
            }
        }
    }

    fn guest(&self, app: AppId, unit: Option<&(crate::Unit, &UnitState)>) -> Guest {
        let (seen, sample) = self
            .minders()
            .get(&app)
            .map(|minder| (minder.seen(), minder.sample()))
            .unwrap_or_default();
        let over = seen
            .state
            .is_some_and(|(state, _)| !matches!(state, RunState::Running | RunState::Prelaunch));
        let words = match unit {
            Some((unit, state)) if over || matches!(unit.life, Life::Ended { .. }) => {
                let places = Places::of(&self.root, app);
                Words {
                    qemu: files::qemu_words(&self.root, state),
                    console: console::last_words(&places.console),
                }
            }
            Some(_) | None => Words::default(),
        };
        Guest {
            unit: unit.map(|(unit, _)| unit.clone()),
            seen,
            sample,
            words,
            ..Guest::default()
        }
    }

    async fn start(&self, launch: Launch, progress: Progress) -> Result<(), Failure> {
        let app = launch.config.app;
        let failed = |e: &dyn std::error::Error| Failure::of(Code::DomainStart, subject(app), e);
        let asked = |e: UnitsError| failed(&e).transient_if(e.is_transient());
        let name = unit::unit_name(app).map_err(|e| failed(&e))?;
        // The list may be a moment old; below a living QEMU nothing may be changed.
        let lives = self.units.get(&name).await.map_err(asked)?;
        if lives.is_some_and(|state| !state.phase.is_ended()) {
            self.shown(app, |state| state.is_some()).await;
            return Ok(());
        }
        progress.note("making its files ready");
        let places = Places::of(&self.root, app);
        let machine = launch::vm_spec(&launch.config, &places).map_err(|e| failed(&e))?;
        let now = self.clock.now();
        let spec = unit::unit_spec(&launch, &machine, &places, &self.devices, now)
            .map_err(|e| failed(&e))?;
        let user_data = self.user_data(&launch).await?;
        files::prepare(&self.root, &launch, &user_data, &places, now)
            .map_err(|e| failed(&e).transient_if(e.is_transient()))?;
        drop(user_data);
        progress.note("starting QEMU");
        self.units.start(spec).await.map_err(asked)?;
        self.shown(app, |state| {
            state.is_some_and(|state| unit::started(state) == now)
        })
        .await;
        Ok(())
    }

    /// In the clear, for the seed of this start alone.
    async fn user_data(&self, launch: &Launch) -> Result<Zeroizing<String>, Failure> {
        let config = &launch.config;
        let (Some(secret), Some(keys)) = (&config.secret_user_data, &launch.keys) else {
            return Ok(Zeroizing::new(config.user_data.clone()));
        };
        let opened = cipher::user_data(secret, keys, self.exchange.as_ref()).await;
        opened.map_err(|error| {
            let mut failure = Failure::of(error.code(), subject(config.app), &error)
                .transient_if(error.is_transient());
            failure.text = format!("user data: {}", failure.text);
            failure
        })
    }

    /// Waits for a moment until the list of units shows something.
    async fn shown(&self, app: AppId, what: impl Fn(Option<&UnitState>) -> bool) {
        let Ok(name) = unit::unit_name(app) else {
            return;
        };
        let mut watch = self.watch.clone();
        let shows = watch.wait_for(|table| table.as_ref().is_some_and(|t| what(t.get(&name))));
        // If not, the next turn does the same again, which changes nothing.
        let _ = timeout(SHOWN, shows).await;
    }

    fn minder(&self, app: AppId) -> Result<Arc<minder::Shared>, Failure> {
        let minders = self.minders();
        minders.get(&app).map(Minder::shared).ok_or_else(|| {
            Failure::new(Code::DomainQmp, subject(app), "its QEMU is not known yet").transient()
        })
    }

    async fn boot(&self, app: AppId, password: Password) -> Result<(), Failure> {
        let failed = |e: QmpError| qmp_failure(app, &e);
        let minder = self.minder(app)?;
        let deadline = Instant::now() + LISTENS;
        let mut pause = Duration::from_millis(20);
        let qmp = loop {
            match minder.qmp().await {
                Ok(qmp) => break qmp,
                Err(error) if error.is_transient() && Instant::now() < deadline => {
                    sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
                Err(error) => return Err(failed(error)),
            }
        };
        let Password(password) = password;
        if !password.is_empty() {
            qmp.set_vnc_password(&password).await.map_err(failed)?;
        }
        let status = qmp.status().await.map_err(failed)?;
        if matches!(status.state, RunState::Prelaunch | RunState::IoError) {
            qmp.cont().await.map_err(failed)?;
        }
        minder.refresh().await;
        Ok(())
    }

    async fn press(&self, app: AppId) -> Result<(), Failure> {
        let minder = self.minder(app)?;
        let qmp = minder.qmp().await.map_err(|e| qmp_failure(app, &e))?;
        let pressed = qmp.system_powerdown().await;
        pressed.map_err(|e| qmp_failure(app, &e))?;
        minder.pressed();
        Ok(())
    }

    async fn end(&self, app: AppId) -> Result<(), Failure> {
        let failed = |e: UnitsError| {
            Failure::of(Code::DomainStop, subject(app), &e).transient_if(e.is_transient())
        };
        let name =
            unit::unit_name(app).map_err(|e| Failure::of(Code::DomainStop, subject(app), &e))?;
        match self.units.stop(&name).await {
            Ok(_) | Err(UnitsError::NotFound { .. }) => {}
            Err(error) => return Err(failed(error)),
        }
        match timeout(ENDED, self.units.wait(&name)).await {
            Ok(Ok(_) | Err(UnitsError::NotFound { .. })) => {}
            Ok(Err(error)) => return Err(failed(error)),
            Err(_) => {
                let text = format!(
                    "QEMU still lives {} s after it was told to end",
                    ENDED.as_secs()
                );
                return Err(Failure::new(Code::DomainStop, subject(app), text).transient());
            }
        }
        self.shown(app, |state| {
            state.is_none_or(|state| state.phase.is_ended())
        })
        .await;
        Ok(())
    }

    async fn clear(&self, app: AppId, for_good: bool) -> Result<(), Failure> {
        let failed =
            |e: &dyn std::error::Error| Failure::of(Code::DomainStop, subject(app), e).transient();
        let name = unit::unit_name(app).map_err(|e| failed(&e))?;
        // Refused while it lives; then nothing below is touched either.
        self.units.forget(&name).await.map_err(|e| failed(&e))?;
        let places = Places::of(&self.root, app);
        files::remove(&places, for_good).map_err(|e| failed(&e))?;
        self.shown(app, |state| state.is_none()).await;
        Ok(())
    }

    async fn measure(&self, app: AppId) -> Result<(), Failure> {
        let minder = self.minder(app)?;
        let qmp = minder.qmp().await.map_err(|e| qmp_failure(app, &e))?;
        let disks = qmp.block_stats().await.map_err(|e| qmp_failure(app, &e))?;
        let sample = measure::sample(Path::new("/proc"), minder.pid(), &disks, self.clock.now());
        let sample =
            sample.map_err(|e| Failure::of(Code::AgentObserve, subject(app), &e).transient())?;
        minder.measured(sample);
        Ok(())
    }
}

fn qmp_failure(app: AppId, error: &QmpError) -> Failure {
    Failure::of(Code::DomainQmp, subject(app), error).transient_if(error.is_transient())
}

/// Wakes the loop when a unit changed.
async fn tell(mut watch: Watch, changed: Arc<Notify>) {
    while watch.changed().await.is_ok() {
        changed.notify_one();
    }
}

impl World<Domainmgr> for Hypervisor {
    async fn observe(&self, _: &Desired) -> Result<Actual, Failure> {
        let table = self.table().await?;
        let units: BTreeMap<AppId, (crate::Unit, &UnitState)> = table
            .values()
            .filter_map(|state| Some((unit::app_of(&state.name)?, (unit::unit_of(state), state))))
            .collect();
        if !self.look_only {
            self.mind(&units);
        }
        let looked =
            |e: std::io::Error| Failure::of(Code::AgentObserve, "files of guests", &e).transient();
        let owners = files::owners(&self.root.join(launch::GUESTS)).map_err(looked)?;
        let kept = files::kept(&self.root).map_err(looked)?;
        let apps: BTreeSet<AppId> = units
            .keys()
            .chain(owners.keys())
            .chain(&kept)
            .copied()
            .collect();
        let guests = apps.into_iter().map(|app| {
            let guest = Guest {
                uid: owners.get(&app).copied(),
                kept: kept.contains(&app),
                ..self.guest(app, units.get(&app))
            };
            (app, guest)
        });
        Ok(Actual {
            guests: guests.collect(),
            consoles: self.root.join(launch::CONSOLES),
            host: self.host,
            probe: self
                .probe
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        })
    }

    async fn apply(&self, action: Do, progress: Progress) -> Result<(), Failure> {
        match action {
            Do::Probe => {
                let probe = probe::probe(&self.root).await;
                *self.probe.lock().unwrap_or_else(PoisonError::into_inner) = Some(probe);
                Ok(())
            }
            Do::Start(launch) => self.start(*launch, progress).await,
            Do::Boot(app, password) => self.boot(app, password).await,
            Do::Press(app) => self.press(app).await,
            Do::End(app) => self.end(app).await,
            Do::Clear { app, for_good } => self.clear(app, for_good).await,
            Do::Measure(app) => self.measure(app).await,
        }
    }

    async fn changed(&self) {
        self.changed.notified().await;
    }
}
