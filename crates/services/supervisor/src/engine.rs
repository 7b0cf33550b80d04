//! The loop: hears what happened, asks the plan, does what it says, shows the result.
//!
//! ```text
//! turn = messages + ends of processes + requests -> plan (pure) -> effects -> state files -> board, bus
//! ```
//!
//! One task owns everything. The loop also pets the watchdog, so that a loop that doesn't turn lets the
//! hardware reset the machine.

mod requests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use units::{ExitKind, UnitName, UnitState, UnitTable};

use crate::machine::{Goal, Life, Origin, Policy, Unit, Why};
use crate::plan::{Action, Fleet, Mode, plan};
use crate::power::{Down, Power};
use crate::procfs;
use crate::publish::Publish;
use crate::records::Records;
use crate::server::{self, Asked, ServeError};
use crate::status;
use crate::time::{Now, Uptime};
use crate::watchdog::{self, Watchdog};
use crate::world::World;
use requests::{Answer, surplus};

/// How often memory is looked at.
const MEMORY_INTERVAL: Duration = Duration::from_secs(10);
/// What is due so soon is done in the turn that is on. A turn of its own costs up to three wake-ups: the runtime comes near
/// to a distant moment in steps.
const SOON: Duration = Duration::from_secs(1);
/// A unit that may be silent for so long is not worth a wake-up each time it says that it is well: there is a turn at least
/// each time the watchdog is petted, and it is heard then.
const PATIENT: Duration = watchdog::INTERVAL.saturating_mul(6);
/// Rounds of planning in one turn; what is left is done in the next.
const ROUNDS: usize = 10;

/// Everything that the loop is given.
pub(crate) struct Parts {
    /// Effects.
    pub world: World,
    /// State files.
    pub records: Records,
    /// The bus.
    pub publish: Box<dyn Publish>,
    /// The watchdog.
    pub watchdog: Box<dyn Watchdog>,
    /// The machine's end.
    pub power: Box<dyn Power>,
    /// The numbers of the plan.
    pub policy: Policy,
    /// The device's root directory.
    pub root: PathBuf,
    /// The gRPC socket.
    pub socket: PathBuf,
}

/// The supervisor's state and its loop.
pub(crate) struct Engine {
    parts: Parts,
    fleet: Fleet,
    mode: Mode,
    down: Option<Down>,
    board: watch::Sender<Arc<UnitTable>>,
    memory: BTreeMap<UnitName, u64>,
    memory_seen: Option<Uptime>,
    petted: Option<Uptime>,
    server: Option<JoinHandle<()>>,
    requests: mpsc::Receiver<Asked>,
    requester: mpsc::Sender<Asked>,
    answers: Vec<Answer>,
    cases: Vec<Failure>,
}

/// A failure whose evidence is still to be saved.
struct Failure {
    name: UnitName,
    pid: Option<u32>,
    reason: String,
    at: Timestamp,
}

/// Signals that end the supervisor, and the one that tells of orphans.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    child: Signal,
}

fn now() -> Now {
    Now {
        uptime: procfs::uptime(),
        wall: Timestamp::now(),
    }
}

impl Engine {
    /// With the units of the table, and what the state files tell of the last run.
    pub(crate) fn new(parts: Parts, services: Vec<Unit>) -> Self {
        let (requester, requests) = mpsc::channel(64);
        let mut engine = Self {
            parts,
            fleet: Fleet::new(),
            mode: Mode::Serving,
            down: None,
            board: watch::Sender::new(Arc::default()),
            memory: BTreeMap::new(),
            memory_seen: None,
            petted: None,
            server: None,
            requests,
            requester,
            answers: Vec::new(),
            cases: Vec::new(),
        };
        engine.take_over(services);
        engine
    }

    /// The state of all units, for other tasks.
    pub(crate) fn board(&self) -> server::Board {
        self.board.subscribe()
    }

    fn take_over(&mut self, services: Vec<Unit>) {
        let now = now();
        let mut fleet: Fleet = services
            .into_iter()
            .map(|unit| (unit.spec.name.clone(), unit))
            .collect();
        for mut old in self.parts.records.load() {
            let name = old.spec.name.clone();
            if old.process().is_some() {
                if self.parts.world.adopt(&old) {
                    old.adopted(now);
                    let pid = old.process().map(|process| process.pid);
                    tracing::info!(unit = %name, pid, "still runs: adopted");
                } else {
                    let pid = old.process().map(|process| process.pid);
                    let was_wanted = old.goal == Goal::Up;
                    old.exited(ExitKind::Unknown, now, &self.parts.policy);
                    tracing::warn!(unit = %name, pid, "ended while nobody looked");
                    if was_wanted {
                        self.cases.push(Failure {
                            name: name.clone(),
                            pid,
                            reason: ExitKind::Unknown.to_string(),
                            at: now.wall,
                        });
                    }
                }
            }
            if let Some(mut unit) = fleet.remove(&name) {
                unit.life = match old.life {
                    // It is wanted again, whatever ended it before.
                    Life::Ended { .. } => Life::New,
                    life => life,
                };
                unit.restarts = old.restarts;
                unit.failures = old.failures;
                unit.last_exit = old.last_exit;
                unit.status_text = old.status_text;
                fleet.insert(name, unit);
            } else {
                if old.origin == Origin::Service {
                    tracing::info!(unit = %name, "no longer a service here");
                    old.want_down(now);
                }
                fleet.insert(name, old);
            }
        }
        self.fleet = fleet;
        let fleet = &self.fleet;
        self.parts
            .world
            .kill_strangers(|name| fleet.get(name).is_some_and(|unit| unit.process().is_some()));
    }

    /// Runs until everything that has to end has ended. Gives the exit code.
    pub(crate) async fn run(mut self) -> std::io::Result<u8> {
        let mut signals = Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            child: signal(SignalKind::child())?,
        };
        loop {
            let wake = self.turn().await;
            let Some(wake) = wake else { break };
            tokio::select! {
                changed = self.parts.world.changed() => changed?,
                asked = self.requests.recv() => if let Some(asked) = asked { self.handle(asked); },
                _ = signals.terminate.recv() => self.leave("SIGTERM"),
                _ = signals.interrupt.recv() => self.leave("SIGINT"),
                _ = signals.hangup.recv() => self.leave("SIGHUP"),
                _ = signals.child.recv() => {}
                () = sleep_until(wake) => {}
            }
        }
        Ok(self.finish())
    }

    /// One turn. Gives when the next is due; `None` when there is nothing left to do.
    async fn turn(&mut self) -> Option<Instant> {
        self.listen();
        self.hear();
        while let Ok(asked) = self.requests.try_recv() {
            self.handle(asked);
        }
        let mut finished = false;
        let mut wake = None;
        for _ in 0..ROUNDS {
            self.save_evidence().await;
            let plan = plan(&self.fleet, self.mode, now(), &self.parts.policy);
            (finished, wake) = (plan.finished, plan.wake);
            if plan.actions.is_empty() {
                break;
            }
            wake = Some(now().uptime);
            for action in plan.actions {
                self.act(action).await;
            }
            self.hear();
        }
        self.save_evidence().await;
        self.tidy();
        self.show();
        self.answer();
        self.pet();
        if finished {
            return None;
        }
        let now = now().uptime;
        let due = [
            wake,
            self.petted.map(|at| at + watchdog::INTERVAL),
            self.memory_seen.map(|at| at + MEMORY_INTERVAL),
        ];
        let next = due.into_iter().flatten().min().unwrap_or(now);
        // A millisecond late rather than early, or the deadline is missed by a hair and asked again.
        Some(Instant::now() + next.since(now) + Duration::from_millis(1))
    }

    /// Keeps the socket served.
    fn listen(&mut self) {
        if self.server.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let served: Result<_, ServeError> = server::serve(
            &self.parts.root,
            &self.parts.socket,
            self.requester.clone(),
            self.board.subscribe(),
        );
        self.server = match served {
            Ok(task) => Some(task),
            Err(error) => {
                tracing::error!(%error, "no requests can be taken");
                None
            }
        };
    }

    /// Takes in what units said and how processes ended.
    fn hear(&mut self) {
        let now = now();
        for (name, message) in self.parts.world.messages() {
            if let Some(unit) = self.fleet.get_mut(&name) {
                if message.broken {
                    tracing::warn!(unit = %name, "asks to be treated as hung");
                    unit.broken();
                    continue;
                }
                let was_ready = unit.process().is_some_and(|process| process.ready);
                unit.heard(message.ready, message.status, now);
                if message.ready && !was_ready {
                    tracing::info!(unit = %name, "ready");
                }
                let is_patient = unit.spec.heartbeat.is_some_and(|beat| beat >= PATIENT);
                if is_patient && unit.process().is_some_and(|process| process.ready) {
                    self.parts.world.hush(&name);
                }
                if message.stopping {
                    tracing::debug!(unit = %name, "says that it is ending");
                }
            }
        }
        for (name, kind) in self.parts.world.ended() {
            self.exited(&name, kind, now);
        }
    }

    fn exited(&mut self, name: &UnitName, kind: ExitKind, now: Now) {
        let Some(unit) = self.fleet.get_mut(name) else {
            return;
        };
        let wanted = unit.goal != Goal::Up || self.mode != Mode::Serving;
        let pid = unit.process().map(|process| process.pid);
        unit.exited(kind, now, &self.parts.policy);
        let Some(exit) = &unit.last_exit else { return };
        let how = exit.kind.to_string();
        if wanted || exit.kind.is_success() {
            tracing::info!(unit = %name, pid, %how, "ended");
            return;
        }
        tracing::error!(unit = %name, pid, %how, failures = unit.failures, "failed");
        // That of a hang was saved while there was something to see.
        if !matches!(exit.kind, ExitKind::Hung(_)) {
            self.cases.push(Failure {
                name: name.clone(),
                pid,
                reason: how,
                at: exit.at,
            });
        }
    }

    async fn save_evidence(&mut self) {
        for Failure {
            name,
            pid,
            reason,
            at,
        } in std::mem::take(&mut self.cases)
        {
            if let Some(unit) = self.fleet.get(&name) {
                self.parts
                    .world
                    .evidence(unit, pid, reason, at, false)
                    .await;
            }
        }
    }

    async fn act(&mut self, action: Action) {
        match action {
            Action::Start(name) => self.start(&name),
            Action::Ask(name) => {
                let Some(unit) = self.fleet.get_mut(&name) else {
                    return;
                };
                let now = now();
                if self.mode != Mode::Serving {
                    unit.want_down(now);
                }
                unit.ending(Why::Asked, now);
                tracing::info!(unit = %name, signal = %unit.spec.stop.signal, "asked to end");
                if let Err(error) = self.parts.world.ask(&name, unit.spec.stop.signal) {
                    tracing::error!(unit = %name, %error, "can't be asked to end");
                }
            }
            Action::Abort(name, silence) => {
                let Some(unit) = self.fleet.get_mut(&name) else {
                    return;
                };
                let kind = ExitKind::Hung(silence);
                tracing::error!(unit = %name, silence_ms = silence.as_millis(), "hangs");
                let at = now().wall;
                let pid = unit.process().map(|process| process.pid);
                let reason = kind.to_string();
                self.parts.world.evidence(unit, pid, reason, at, true).await;
                unit.ending(Why::Hung(silence), now());
                if let Err(error) = self.parts.world.abort(&name) {
                    tracing::error!(unit = %name, %error, "can't be aborted");
                }
            }
            Action::Kill(name) => {
                let Some(unit) = self.fleet.get_mut(&name) else {
                    return;
                };
                tracing::warn!(unit = %name, "killed");
                if let Err(error) = self.parts.world.kill(&name) {
                    tracing::error!(unit = %name, %error, "can't be killed");
                }
                unit.killed(now());
            }
        }
    }

    fn start(&mut self, name: &UnitName) {
        let Some(unit) = self.fleet.get_mut(name) else {
            return;
        };
        match self.parts.world.spawn(unit) {
            Ok((pid, ticks)) => {
                unit.started(pid, ticks, now());
                // Written before the order is given: if this process dies in between, so does the
                // shim, and no process is ever lost.
                if let Err(error) = self.parts.records.save(unit) {
                    tracing::error!(unit = %name, %error, "would be lost at a restart");
                }
                if let Err(error) = self.parts.world.release(unit) {
                    tracing::error!(unit = %name, %error, "did not start");
                }
                tracing::info!(unit = %name, pid, restarts = unit.restarts, "started");
            }
            Err(error) => self.exited(name, ExitKind::NotStarted(error), now()),
        }
    }

    /// Forgets what nobody needs, and writes the state files.
    fn tidy(&mut self) {
        let surplus = surplus(&self.fleet);
        for name in &surplus {
            self.fleet.remove(name);
        }
        let records = &mut self.parts.records;
        for unit in self.fleet.values() {
            if let Err(error) = records.save(unit) {
                tracing::error!(unit = %unit.spec.name, %error, "its state can't be written");
            }
        }
        let fleet = &self.fleet;
        records.keep_only(|name| fleet.contains_key(name));
        for name in surplus {
            self.parts.world.clear(&name);
        }
        for unit in self.fleet.values().filter(|unit| unit.is_ended()) {
            self.parts.world.clear(&unit.spec.name);
            self.memory.remove(&unit.spec.name);
        }
    }

    /// Shows the state of all units on the board and on the bus.
    fn show(&mut self) {
        let now = now();
        let due = self
            .memory_seen
            .is_none_or(|at| now.uptime.since(at) + SOON >= MEMORY_INTERVAL);
        if due {
            let world = &self.parts.world;
            self.memory = self
                .fleet
                .iter()
                .filter(|(_, unit)| unit.process().is_some())
                .filter_map(|(name, _)| Some((name.clone(), world.memory(name)?)))
                .collect();
            self.memory_seen = Some(now.uptime);
        }
        let table: UnitTable = self
            .fleet
            .iter()
            .map(|(name, unit)| (name.clone(), self.state(unit, now)))
            .collect();
        self.board.send_if_modified(|shown| {
            let differs = **shown != table;
            if differs {
                *shown = Arc::new(table);
            }
            differs
        });
        let rows = self
            .fleet
            .iter()
            .map(|(name, unit)| {
                let memory = self.memory.get(name).copied();
                let policy = &self.parts.policy;
                let row = status::service_status(&self.fleet, unit, memory, now, policy);
                (name.to_string(), row)
            })
            .collect();
        self.parts.publish.publish(&rows);
    }

    fn state(&self, unit: &Unit, now: Now) -> UnitState {
        let memory = self.memory.get(&unit.spec.name).copied();
        status::state(&self.fleet, unit, memory, now, &self.parts.policy)
    }

    /// Pets the watchdog if all is well: the loop turns (it is here) and requests are taken.
    fn pet(&mut self) {
        let now = now();
        let due = self
            .petted
            .is_none_or(|at| now.uptime.since(at) + SOON >= watchdog::INTERVAL);
        let healthy = self.server.as_ref().is_some_and(|task| !task.is_finished());
        if due {
            self.petted = Some(now.uptime);
            if !healthy {
                tracing::error!("not healthy: the watchdog is not petted");
            } else if let Err(error) = self.parts.watchdog.pet(now.wall) {
                tracing::error!(%error, "the watchdog can't be petted");
            }
        }
    }

    fn leave(&mut self, why: &str) {
        if self.mode == Mode::Serving {
            tracing::info!(why, "ending: units are stopped in reverse order");
            self.end(Mode::Leaving);
        }
    }

    fn end(&mut self, mode: Mode) {
        self.mode = mode;
        let now = now();
        for unit in self.fleet.values_mut() {
            let stays = mode == Mode::Leaving && unit.spec.outlives_supervisor;
            if unit.process().is_none() && !stays {
                unit.want_down(now);
            }
        }
    }

    /// The last things. Gives the exit code.
    fn finish(mut self) -> u8 {
        if let Some(server) = self.server.take() {
            server.abort();
        }
        // A client that finds no socket waits for the next supervisor.
        let _ = std::fs::remove_file(&self.parts.socket);
        let names: Vec<_> = self.fleet.keys().cloned().collect();
        for name in names {
            if self
                .fleet
                .get(&name)
                .is_some_and(|unit| unit.process().is_none())
            {
                self.parts.world.clear(&name);
            }
        }
        self.parts.world.clear_all();
        let Some(down) = self.down else {
            if let Err(error) = self.parts.watchdog.disarm() {
                tracing::error!(%error, "the watchdog can't be disarmed");
            }
            tracing::info!("ended");
            return 0;
        };
        // The watchdog stays armed: if the machine hangs on its way down, it resets it.
        match self.parts.power.down(down) {
            Ok(code) => code,
            Err(error) => {
                tracing::error!(%error, ?down, "the machine does not go down; the watchdog will");
                1
            }
        }
    }
}
