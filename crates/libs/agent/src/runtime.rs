//! The turn, and the loop of turns.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    pin::pin,
    sync::Arc,
    time::Duration,
};

use bus::{Bus, BusError};
use model::{code::Code, fault::Fault, topics::CONFIG_ITEMS};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use tokio::{
    sync::{Notify, mpsc},
    task::JoinHandle,
    time::{Instant, sleep_until, timeout},
};
use tracing::{debug, error, warn};

use crate::{
    Action, Clock, Failure, Outbox, Plan, Progress, Report, Service, Tables, Turn, World,
    evidence::ACTION,
    heartbeat::Heartbeat,
    jobs::Ledger,
    points::{Point, Points},
};

/// A turn must never hang: what takes longer is an error, or should be a slow action.
const OBSERVE_LIMIT: Duration = Duration::from_secs(20);
const QUICK_LIMIT: Duration = Duration::from_secs(20);
/// Bursts of changes are taken together: turns are at least so far apart. The first change of a
/// burst is acted upon at once.
const COALESCE: Duration = Duration::from_millis(20);
/// How long running tasks may take to end when the service is stopped.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);
/// How soon a cancelled action is looked at again that something else waits for.
const END_LOOK: Duration = Duration::from_millis(50);
/// How soon a topic that could not be subscribed is tried again.
const SUBSCRIBE_AGAIN: Duration = Duration::from_secs(2);
/// Turns for progress alone are so far apart.
const PROGRESS_PACE: Duration = Duration::from_millis(500);

/// Sets the process's log level to one of EVE's words.
type SetLogLevel = Box<dyn Fn(&str) + Send + Sync>;

/// What a turn did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TurnOutcome {
    /// Inputs that are not ready; then nothing else was done.
    pub waiting_for: Vec<String>,
    /// Rows published or removed.
    pub changed_rows: usize,
    /// Quick actions done or failed.
    pub applied: usize,
    /// Slow actions started.
    pub started: usize,
    /// A row that the service reads back changed: the next turn is due at once.
    pub again: bool,
    /// Slow actions in flight after the turn.
    pub running: usize,
    /// When the next turn is due though nothing changes.
    pub wake: Option<Duration>,
}

/// How [`Runtime::settle`] ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// A turn had nothing to do and nothing runs.
    Quiet,
    /// Some inputs are not ready.
    Waiting(Vec<String>),
    /// Still busy after so many turns.
    Busy,
}

/// A service in its loop.
pub struct Runtime<S: Service, W> {
    world: Arc<W>,
    bus: Bus,
    tables: Tables,
    ledger: Ledger<S::Action>,
    clock: Clock,
    rng: SmallRng,
    ready: BTreeSet<&'static str>,
    tasks: BTreeMap<String, Task>,
    /// Cancelled, but a thread may still be at it.
    ending: Vec<(String, Progress)>,
    next_task: u64,
    done: (mpsc::UnboundedSender<Ended>, mpsc::UnboundedReceiver<Ended>),
    progressed: Arc<Notify>,
    heartbeat: Heartbeat,
    points: Points,
    observe_failures: u32,
    on_log_level: Option<SetLogLevel>,
}

struct Task {
    number: u64,
    handle: JoinHandle<()>,
    progress: Progress,
}

struct Ended {
    subject: String,
    number: u64,
    result: Result<(), Failure>,
}

impl<S: Service, W: World<S>> Runtime<S, W> {
    /// A service on `bus`. `seed` makes the jitter of retries repeatable.
    pub fn new(bus: Bus, world: W, clock: Clock, seed: u64) -> Self {
        Self {
            world: Arc::new(world),
            tables: Tables::new(bus.clone()),
            bus,
            ledger: Ledger::new(),
            clock,
            rng: SmallRng::seed_from_u64(seed),
            ready: BTreeSet::new(),
            tasks: BTreeMap::new(),
            ending: Vec::new(),
            next_task: 0,
            done: mpsc::unbounded_channel(),
            progressed: Arc::default(),
            heartbeat: Heartbeat::silent(),
            points: Points::default(),
            observe_failures: 0,
            on_log_level: None,
        }
    }

    pub(crate) fn with_heartbeat(mut self, heartbeat: Heartbeat) -> Self {
        self.heartbeat = heartbeat;
        self
    }

    pub(crate) fn with_points(mut self, points: Points) -> Self {
        self.points = points;
        self
    }

    pub(crate) fn with_log_level(mut self, set: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.on_log_level = Some(Box::new(set));
        self
    }

    /// The world, for tests.
    pub fn world(&self) -> &W {
        &self.world
    }

    /// Inputs that were not ready in the last turn.
    pub fn missing(&self) -> &[String] {
        self.tables.missing()
    }

    /// Actions that failed and wait for their next try, with why.
    pub fn faults(&self) -> Vec<Fault> {
        let jobs = self.ledger.jobs();
        let faults = jobs.iter().filter_map(|(subject, _)| jobs.fault(subject));
        faults.cloned().collect()
    }

    /// The service's inputs, as far as it asked for them.
    pub fn inputs(&self) -> &[(&'static str, &'static str)] {
        self.tables.asked()
    }

    /// One turn. An error has been logged; it is the reason for a later try, never for an exit.
    pub async fn turn(&mut self) -> Result<TurnOutcome, Failure> {
        self.collect();
        self.heartbeat.beat();
        self.follow_log_level();
        let Some((desired, plan)) = self.think().await? else {
            let mut waiting_for = self.tables.missing().to_vec();
            if waiting_for.is_empty() {
                waiting_for.push("a row of an input".to_owned());
            }
            return Ok(TurnOutcome {
                waiting_for,
                wake: self.tables.is_unwatched().then_some(SUBSCRIBE_AGAIN),
                ..TurnOutcome::default()
            });
        };
        let unwatched = self.tables.is_unwatched().then_some(SUBSCRIBE_AGAIN);
        drop(desired);
        let Plan {
            report,
            actions,
            wake,
        } = plan;
        self.points.pass(Point::BeforePublish);
        let mut outbox = Outbox::default();
        report.put(&mut outbox);
        let flushed = outbox.flush(&mut self.tables, &mut self.ready);
        let (changed_rows, again) = (flushed.rows(), flushed.again);
        let unwritten = flushed.error.map(|e| bus_failure::<S>(&e));
        self.heartbeat.beat();
        if let (Some(failure), true) = (&unwritten, flushed.hold) {
            return Err(failure.clone());
        }

        self.points.pass(Point::AfterPublish);
        let decision = self.ledger.decide(&actions, self.clock.uptime());
        self.cancel(&decision.cancel).await;
        let (mut applied, mut started, mut blocked) = (0, 0, None);
        for action in decision.start {
            if !self.ledger.may_start(&action) {
                continue;
            }
            if self.is_ending(&action.subject()) {
                blocked = Some(END_LOOK);
                continue;
            }
            let subject = action.subject();
            self.points.pass(Point::BeforeAction(&subject));
            if action.is_slow() {
                self.spawn(action);
                started += 1;
            } else {
                self.apply(action).await;
                applied += 1;
            }
            self.points.pass(Point::AfterAction(&subject));
            self.heartbeat.beat();
        }
        if let Some(failure) = unwritten {
            return Err(failure);
        }
        let due = decision.due.map(|d| d.saturating_sub(self.clock.uptime()));
        Ok(TurnOutcome {
            waiting_for: Vec::new(),
            changed_rows,
            again,
            applied,
            started,
            running: self.tasks.len(),
            wake: [wake, due, blocked, unwatched].into_iter().flatten().min(),
        })
    }

    /// The plan of a turn without carrying it out. It leaves the bus as it is, so that it may be asked for
    /// beside the running service; this runtime can't be used for anything else afterwards.
    pub async fn dry_turn(&mut self) -> Result<Option<Plan<S>>, Failure> {
        self.tables.look_only();
        Ok(self.think().await?.map(|(_, plan)| plan))
    }

    async fn think(&mut self) -> Result<Option<(S::Desired, Plan<S>)>, Failure> {
        self.tables.begin();
        let desired = S::read(&mut self.tables);
        if let Some(error) = self.tables.broken() {
            return Err(bus_failure::<S>(&error));
        }
        let Some(desired) = desired else {
            return Ok(None);
        };
        let observed = timeout(OBSERVE_LIMIT, self.world.observe(&desired)).await;
        self.heartbeat.beat();
        let actual = match observed {
            Ok(Ok(actual)) => actual,
            Ok(Err(failure)) => return Err(failure),
            Err(_) => {
                let text = format!("no answer within {} s", OBSERVE_LIMIT.as_secs());
                return Err(
                    Failure::new(Code::AgentObserve, format!("service {}", S::NAME), text)
                        .transient(),
                );
            }
        };
        let jobs = self.ledger.jobs();
        let plan = S::plan(&Turn {
            desired: &desired,
            actual: &actual,
            jobs: &jobs,
            now: self.clock.now(),
            uptime: self.clock.uptime(),
        });
        Ok(Some((desired, plan)))
    }

    /// Turns until nothing is left to do now. Slow actions are waited for; retries are not.
    pub async fn settle(&mut self) -> Result<Settled, Failure> {
        for _ in 0..200 {
            let outcome = self.turn().await?;
            if !outcome.waiting_for.is_empty() {
                return Ok(Settled::Waiting(outcome.waiting_for));
            }
            if !self.ending.is_empty() {
                tokio::time::sleep(END_LOOK).await;
            } else if outcome.running > 0 {
                if let Some(ended) = self.done.1.recv().await {
                    self.finish(ended);
                }
            } else if outcome.applied == 0 && !outcome.again {
                return Ok(Settled::Quiet);
            }
        }
        Ok(Settled::Busy)
    }

    /// Turns until `stop` resolves, then drains.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        self.heartbeat.ready();
        let mut bus = self.bus.changed();
        loop {
            let began = Instant::now();
            // Marked before the turn reads, so that nothing that happens meanwhile is missed.
            bus.borrow_and_update();
            let outcome = tokio::select! {
                biased;
                // An action that hangs does not keep the service from ending.
                () = &mut stop => break,
                outcome = self.turn() => outcome,
            };
            let wake = match outcome {
                Ok(outcome) if outcome.applied > 0 || outcome.again => {
                    self.observe_failures = 0;
                    Some(Duration::ZERO)
                }
                Ok(outcome) => {
                    self.observe_failures = 0;
                    self.heartbeat.waiting_for(&outcome.waiting_for);
                    outcome.wake
                }
                Err(failure) => {
                    self.observe_failures += 1;
                    self.heartbeat.held_up_by(&failure);
                    let delay = Duration::from_millis(500)
                        .saturating_mul(1 << self.observe_failures.min(6));
                    warn!(code = %failure.code, object = failure.object, causes = ?failure.causes, again_in = ?delay, "{}", failure.text);
                    Some(delay)
                }
            };
            let wake_at = wake.map(|w| Instant::now() + w);
            let progress_at = began + PROGRESS_PACE;
            tokio::select! {
                biased;
                () = &mut stop => break,
                Ok(()) = bus.changed() => {}
                () = self.world.changed() => {}
                Some(ended) = self.done.1.recv() => self.finish(ended),
                () = until(wake_at) => {}
                () = paced(self.progressed.clone(), progress_at) => {}
                () = self.heartbeat.due() => self.heartbeat.beat(),
            }
            // Coalesce what else comes at the same moment.
            let next = began + COALESCE;
            if Instant::now() < next {
                tokio::select! {
                    () = &mut stop => break,
                    () = sleep_until(next) => {}
                }
            }
        }
        self.drain().await;
    }

    async fn drain(mut self) {
        self.heartbeat.stopping();
        let subjects: Vec<String> = self.tasks.keys().cloned().collect();
        let mut handles = Vec::new();
        for subject in subjects {
            if let Some(task) = self.tasks.remove(&subject) {
                task.handle.abort();
                handles.push(task.handle);
            }
        }
        if timeout(DRAIN_LIMIT, futures::future::join_all(handles))
            .await
            .is_err()
        {
            warn!("tasks did not end in time");
        }
    }

    /// Takes what ended since the last turn.
    fn collect(&mut self) {
        while let Ok(ended) = self.done.1.try_recv() {
            self.finish(ended);
        }
    }

    fn finish(&mut self, ended: Ended) {
        let Ended {
            subject,
            number,
            result,
        } = ended;
        // A task that was replaced may still have got its message out.
        if self.tasks.get(&subject).is_none_or(|t| t.number != number) {
            return;
        }
        self.tasks.remove(&subject);
        self.note_end(&subject, result);
    }

    fn note_end(&mut self, subject: &str, result: Result<(), Failure>) {
        let jitter = self.rng.random::<f64>();
        let (now, uptime) = (self.clock.now(), self.clock.uptime());
        if let Some(fault) = self.ledger.ended(subject, result, now, uptime, jitter) {
            warn!(
                code = %fault.code, subject, attempts = fault.attempts, next = ?fault.next.map(|t| t.to_string()),
                causes = ?fault.causes, "{}", fault.text
            );
        }
    }

    async fn apply(&mut self, action: S::Action) {
        let subject = action.subject();
        debug!(?action, "apply");
        let progress = Progress::default();
        self.ledger
            .started(action.clone(), progress.clone(), self.clock.now());
        let result = match timeout(QUICK_LIMIT, self.world.apply(action, progress)).await {
            Ok(result) => result,
            Err(_) => Err(Failure::new(
                Code::AgentObserve,
                subject.clone(),
                format!("no answer within {} s", QUICK_LIMIT.as_secs()),
            )
            .transient()),
        };
        self.note_end(&subject, result);
    }

    fn spawn(&mut self, action: S::Action) {
        let subject = action.subject();
        debug!(?action, "start");
        let progress = Progress::new(self.progressed.clone());
        self.ledger
            .started(action.clone(), progress.clone(), self.clock.now());
        let kept = progress.clone();
        let (world, sender, number) = (self.world.clone(), self.done.0.clone(), self.next_task);
        self.next_task += 1;
        let object = subject.clone();
        let (points, place) = (self.points.clone(), subject.clone());
        let handle = tokio::spawn(async move {
            // A second task, so that a panic is an error of this subject alone.
            let mut work = tokio::spawn(ACTION.scope((), async move {
                points.pass(Point::InAction(&place));
                world.apply(action, progress).await
            }));
            let guard = AbortOnDrop(work.abort_handle());
            let result = match (&mut work).await {
                Ok(result) => result,
                Err(join) if join.is_cancelled() => return,
                Err(join) => {
                    error!(subject = object, %join, "panicked");
                    Err(
                        Failure::new(Code::AgentPanic, object.clone(), join.to_string())
                            .transient(),
                    )
                }
            };
            drop(guard);
            // The receiver lives as long as the runtime.
            let _ = sender.send(Ended {
                subject: object,
                number,
                result,
            });
        });
        let task = Task {
            number,
            handle,
            progress: kept,
        };
        self.tasks.insert(subject, task);
    }

    async fn cancel(&mut self, subjects: &[String]) {
        for subject in subjects {
            if let Some(task) = self.tasks.remove(subject) {
                debug!(subject, "cancel");
                task.handle.abort();
                self.ending.push((subject.clone(), task.progress));
            }
        }
        if !subjects.is_empty() {
            // What only waits ends at once: the outer task, then the inner one.
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
        }
        self.ending.retain(|(_, progress)| !progress.is_alone());
    }

    /// Whether a cancelled action on a subject may still be at work.
    fn is_ending(&self, subject: &str) -> bool {
        self.ending.iter().any(|(ending, _)| ending == subject)
    }

    fn follow_log_level(&mut self) {
        let Some(set) = self.on_log_level.take() else {
            return;
        };
        let level = self.tables.peek(&CONFIG_ITEMS).and_then(|rows| {
            rows.get("global")
                .map(|items| items.log_level(S::NAME).to_owned())
        });
        if let Some(level) = level {
            set(&level);
        }
        self.on_log_level = Some(set);
    }
}

fn bus_failure<S: Service>(error: &BusError) -> Failure {
    Failure::of(Code::BusWrite, format!("service {}", S::NAME), error).transient()
}

/// Ends the inner task when the outer one is aborted.
struct AbortOnDrop(tokio::task::AbortHandle);
impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn paced(progressed: Arc<Notify>, not_before: Instant) {
    progressed.notified().await;
    sleep_until(not_before).await;
}
