//! Files, the kernel's messages, the controller.

pub mod collect;
mod counters;
pub mod evc;
pub mod kmsg;
pub mod sources;
pub mod store;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError},
    time::Duration,
};

use agent::{Boot, Clock, Failure, Progress, World};
use controller::Keeper;
use dirwatch::DirWatch;
use model::code::Code;
use tokio::{
    sync::Mutex,
    time::{Instant, sleep_until},
};
use tracing::warn;

use crate::{
    Actual, Counters, Desired, Do, Newlogd, Waiting,
    gzip::{LIMIT, Origin, with_device},
    name::{FileName, Queue, Stream},
    plan::{
        due, interval, next_files,
        pacing::{Answer, Pacing, Verdict},
        quota,
        quota::victims,
    },
    state::State,
};
use collect::{Collector, Harvest, Round};
use evc::{Carrier, Evc};
use kmsg::{Kmsg, Records};
use sources::Sources;
use store::{Shelf, Store, StoreError};

/// Two looks for the sake of lines that were printed are so far apart.
const PACE: Duration = Duration::from_secs(2);
/// Files that are removed in one round.
const REMOVED_AT_ONCE: usize = 200;

/// Where things are.
#[derive(Debug, Clone)]
pub struct Places {
    /// What units and guests print.
    pub logs: PathBuf,
    /// Log files.
    pub newlog: PathBuf,
    /// The kernel's messages.
    pub kmsg: Option<PathBuf>,
    /// Version that runs; the first line counts.
    pub release: PathBuf,
    /// Bytes of the disk, if they are not to be asked of it.
    pub disk: Option<u64>,
}

impl Places {
    /// Of a device.
    pub fn of(boot: &Boot) -> Self {
        Self {
            logs: boot.path("/persist/log"),
            newlog: boot.path("/persist/newlog"),
            kmsg: Some(PathBuf::from("/dev/kmsg")),
            release: boot.path("/run/eve-release"),
            disk: None,
        }
    }
}

/// The world.
pub struct Logs<C> {
    places: Places,
    store: Store,
    clock: Clock,
    carrier: C,
    collector: Arc<Mutex<Collector>>,
    view: Arc<StdMutex<View>>,
    watch: DirWatch,
    kmsg: Option<Kmsg>,
}

/// What is known of the world; never locked for long.
struct View {
    shelf: Shelf,
    sources: Sources,
    records: Records,
    /// As of the last round, to find new logs' positions.
    state: State,
    pacing: Pacing,
    sending: Option<FileName>,
    rounds: u64,
    collected: Option<Duration>,
    removals: u64,
    counters: Counters,
    desired: Desired,
    looked: Instant,
    /// Uptime since which files that were removed are to be told of.
    losses_since: Duration,
}

/// The world of a device.
#[allow(
    clippy::unused_async,
    reason = "the runtime opens worlds asynchronously"
)]
pub async fn open(boot: Boot) -> Result<Logs<Evc>, Failure> {
    let places = Places::of(&boot);
    let store = Store::at(places.newlog.clone());
    let keys = Arc::new(Keeper::of(&boot.root));
    let evc = Evc::new(boot.root.clone(), keys, boot.clock.clone());
    Logs::open(places, store, boot.clock, evc)
}

fn failed(error: &StoreError) -> Failure {
    Failure::of(Code::LogStore, "log files", error).transient()
}

impl<C: Carrier> Logs<C> {
    /// Opens the store. The carrier brings files to the controller.
    pub fn open(places: Places, store: Store, clock: Clock, carrier: C) -> Result<Self, Failure> {
        let collector =
            Collector::open(store.clone(), places.logs.clone()).map_err(|e| failed(&e))?;
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let kmsg = places.kmsg.as_deref().and_then(|path| {
            let opened = Kmsg::open(path);
            opened
                .inspect_err(
                    |error| warn!(%error, path = %path.display(), "no messages of the kernel"),
                )
                .ok()
        });
        let uptime = clock.uptime();
        let view = View {
            shelf: Shelf::default(),
            sources: Sources::default(),
            records: Records::new(boot.trim(), &collector.state().kernel),
            state: collector.state().clone(),
            pacing: Pacing::new(uptime, rand::random()),
            sending: None,
            rounds: 0,
            collected: None,
            removals: 0,
            counters: Counters::default(),
            desired: Desired::default(),
            looked: Instant::now(),
            losses_since: uptime,
        };
        Ok(Self {
            watch: DirWatch::on(vec![places.logs.clone(), places.logs.join(sources::GUESTS)]),
            places,
            store,
            clock,
            carrier,
            collector: Arc::new(Mutex::new(collector)),
            view: Arc::new(StdMutex::new(view)),
            kmsg,
        })
    }

    fn view(&self) -> MutexGuard<'_, View> {
        lock(&self.view)
    }

    fn actual(&self, view: &View) -> Actual {
        let mut waiting = BTreeMap::<Stream, Waiting>::new();
        let mut add = |stream, bytes, since| {
            if bytes > 0 {
                let waits = waiting.entry(stream).or_insert(Waiting { bytes: 0, since });
                waits.bytes += bytes;
                waits.since = waits.since.min(since);
            }
        };
        for (_, seen) in view.sources.iter() {
            add(seen.source.stream, seen.unread(), seen.since());
        }
        add(Stream::Device, view.records.bytes, view.records.since);
        for stream in view.state.losses.keys() {
            if let Ok(stream) = stream.parse() {
                add(stream, 1, view.losses_since);
            }
        }
        let disk = self.places.disk.or_else(|| self.store.disk().ok());
        Actual {
            index: view.shelf.index(),
            waiting,
            pacing: view.pacing.clone(),
            sending: view.sending,
            // Unknown, nothing is removed.
            disk: disk.unwrap_or(u64::MAX),
            rounds: view.rounds,
            collected: view.collected,
            removals: view.removals,
            counters: view.counters.clone(),
        }
    }

    /// The round that is due now, if one is.
    fn round(&self) -> Option<Round> {
        let view = self.view();
        let (now, uptime) = (self.clock.now(), self.clock.uptime());
        let streams = due(&view.desired, &self.actual(&view), uptime);
        if streams.is_empty() {
            return None;
        }
        let release = std::fs::read_to_string(&self.places.release).unwrap_or_default();
        let version = release.lines().next().map(str::trim).unwrap_or_default();
        let version = if version.is_empty() {
            env!("CARGO_PKG_VERSION")
        } else {
            version
        };
        let names = streams.iter().filter_map(|stream| match stream {
            Stream::Device => None,
            Stream::App(app) => Some((*app, view.desired.app_name(*app))),
        });
        Some(Round {
            sources: streams.iter().flat_map(|s| view.sources.of(*s)).collect(),
            kernel: streams
                .contains(&Stream::Device)
                .then(|| view.records.clone()),
            levels: view.desired.levels(),
            names: names.collect(),
            origin: Origin {
                device: view.desired.device(),
                // The only one that this version of the device knows.
                image: "IMGA".to_owned(),
                version: version.to_owned(),
            },
            streams,
            now,
            uptime,
        })
    }

    async fn collect(&self, progress: Progress) -> Result<(), Failure> {
        let mut collector = Arc::clone(&self.collector).lock_owned().await;
        let Some(round) = self.round() else {
            return Ok(());
        };
        let (view, store, clock) = (
            Arc::clone(&self.view),
            self.store.clone(),
            self.clock.clone(),
        );
        let work = tokio::task::spawn_blocking(move || {
            let result = collector.collect(&round);
            let mut view = lock(&view);
            view.collected = Some(clock.uptime());
            let harvest = result?;
            view.harvested(&round, harvest, collector.state(), &store, clock.uptime());
            // Nobody begins another round before this one ends, also if nobody waits for it any more.
            drop(progress);
            Ok(())
        });
        finished(work.await)
    }

    async fn make_room(&self, progress: Progress) -> Result<(), Failure> {
        let mut collector = Arc::clone(&self.collector).lock_owned().await;
        let mut files = {
            let view = self.view();
            let actual = self.actual(&view);
            let quota = quota(&view.desired, &actual);
            victims(&actual.index, quota, actual.sending)
        };
        files.truncate(REMOVED_AT_ONCE);
        let (view, store, clock) = (
            Arc::clone(&self.view),
            self.store.clone(),
            self.clock.clone(),
        );
        let work = tokio::task::spawn_blocking(move || {
            let lost = collector.remove(&files)?;
            let mut view = lock(&view);
            for queue in Queue::ALL {
                let of = || files.iter().filter(|(other, _)| *other == queue);
                if of().next().is_some() {
                    let remove = |index: &mut crate::index::Index| {
                        of().for_each(|(_, name)| index.remove(queue, *name));
                    };
                    view.shelf.note(&store, queue, remove);
                }
            }
            if view.state.losses.is_empty() {
                view.losses_since = clock.uptime();
            }
            view.state = collector.state().clone();
            view.removals += 1;
            view.counters.removed += u32::try_from(files.len()).unwrap_or(u32::MAX);
            view.counters.dropped += lost;
            if lost > 0 {
                warn!(
                    files = files.len(),
                    lines = lost,
                    "removed unsent: no more room"
                );
            }
            drop(progress);
            Ok(())
        });
        finished(work.await)
    }

    /// One tick: a file of the device, then one of an application unless the controller is away.
    async fn send(&self) {
        let (files, desired) = {
            let view = self.view();
            (next_files(&self.actual(&view)), view.desired.clone())
        };
        for (queue, name) in files {
            if !self.send_one(queue, name, &desired).await {
                break;
            }
        }
        let mut view = self.view();
        view.pacing.ticked(self.clock.uptime(), rand::random());
    }

    async fn send_one(&self, queue: Queue, name: FileName, desired: &Desired) -> bool {
        let file = match self.store.read(queue, name) {
            Ok(file) => file,
            Err(error) => {
                warn!(%error, cause = %error.source, "log file not readable");
                self.settle(queue, name, Verdict::GivenUp);
                return true;
            }
        };
        if file.len() > LIMIT {
            warn!(file = %name, bytes = file.len(), "log file too large to be sent");
            self.settle(queue, name, Verdict::GivenUp);
            return true;
        }
        let file = match name.stream {
            Stream::Device => with_device(&file, &desired.device()).unwrap_or(file),
            Stream::App(_) => file,
        };
        let app = match name.stream {
            Stream::Device => None,
            Stream::App(app) => Some(app.0),
        };
        self.view().sending = Some(name);
        let bytes = file.len() as u64;
        let (began, at) = (self.clock.uptime(), self.clock.now());
        let reply = self.carrier.carry(desired, app, file).await;
        let uptime = self.clock.uptime();
        let mut view = self.view();
        view.sending = None;
        let pace = interval(desired, &self.actual(&view), uptime);
        let verdict = view
            .pacing
            .answered(queue, name, reply.answer, pace, uptime);
        if let Some(wait) = reply.failure.as_ref().and_then(|failure| failure.wait) {
            view.pacing.wait(uptime, wait);
        }
        let was_failing = view.counters.failing_since;
        view.counters.failing_since = view
            .pacing
            .failing
            .map(|_| was_failing.unwrap_or_else(|| self.clock.now()));
        let took = uptime.saturating_sub(began);
        view.counters
            .answered(name, &reply, verdict, bytes, took, at);
        drop(view);
        self.settle(queue, name, verdict);
        // Who is away or has too much to do is not asked for the next one.
        !matches!(reply.answer, Answer::Unavailable | Answer::TooMany)
    }

    /// Puts a file where it belongs. What fails is tried again: the file is still first in its queue.
    fn settle(&self, queue: Queue, name: FileName, verdict: Verdict) {
        let to = match (verdict, queue) {
            (Verdict::Again, _) => return,
            (Verdict::Delivered, Queue::App) => Some(Queue::Sent),
            (Verdict::Delivered, Queue::Device | Queue::Sent | Queue::Failed) => None,
            (Verdict::GivenUp, _) => Some(Queue::Failed),
        };
        let done = match to {
            Some(to) => self.store.shift(queue, to, name),
            None => self.store.remove(queue, name),
        };
        let mut view = self.view();
        if let Err(error) = done {
            warn!(%error, cause = %error.source, "log file stays where it is");
            return;
        }
        let index = view.shelf.index();
        let bytes = index
            .files(queue)
            .find(|(other, _)| *other == name)
            .map_or(0, |(_, bytes)| bytes);
        drop(index);
        let View { shelf, .. } = &mut *view;
        shelf.note(&self.store, queue, |index| index.remove(queue, name));
        if let Some(to) = to {
            shelf.note(&self.store, to, |index| index.add(to, name, bytes));
        }
    }
}

fn lock(view: &StdMutex<View>) -> MutexGuard<'_, View> {
    view.lock().unwrap_or_else(PoisonError::into_inner)
}

fn finished(joined: Result<Result<(), StoreError>, tokio::task::JoinError>) -> Result<(), Failure> {
    match joined {
        Ok(result) => result.map_err(|e| failed(&e)),
        Err(join) => Err(Failure::new(Code::AgentPanic, "log files", join.to_string()).transient()),
    }
}

impl View {
    fn harvested(
        &mut self,
        round: &Round,
        harvest: Harvest,
        state: &State,
        store: &Store,
        uptime: Duration,
    ) {
        let Harvest {
            files,
            limited,
            missed,
            read,
            kernel,
        } = harvest;
        for queue in [Queue::Device, Queue::App] {
            let of = || files.iter().filter(|f| Queue::of(f.name.stream) == queue);
            if of().next().is_some() {
                self.shelf.note(store, queue, |index| {
                    of().for_each(|file| index.add(queue, file.name, file.bytes));
                });
            }
        }
        for file in &files {
            let metrics = self.counters.of(file.name.stream);
            metrics.num_gzip_bytes_write += file.bytes;
            metrics.num_bytes_write += file.content;
            metrics.num_input_event += file.lines;
            let size = u32::try_from(file.bytes).unwrap_or(u32::MAX);
            let (count, bytes, largest) = self.counters.files;
            self.counters.files = (count + 1, bytes + file.bytes, largest.max(size));
        }
        for (source, lines) in limited {
            warn!(source, lines, "not kept: it prints too much");
            *self.counters.limited.entry(source).or_default() += lines;
        }
        for (source, bytes) in missed {
            self.missed(source, bytes);
        }
        for (source, bytes) in read {
            *self.counters.sources.entry(source).or_default() += bytes;
        }
        if let Some((position, missed)) = kernel {
            self.records.done(&position, missed, uptime);
        }
        self.sources.read(state, &round.streams, uptime);
        self.state = state.clone();
        self.rounds += 1;
    }

    fn missed(&mut self, source: String, bytes: u64) {
        warn!(source, bytes, "gone before they were read");
        *self.counters.missed.entry(source).or_default() += bytes;
    }
}

impl<C: Carrier> World<Newlogd> for Logs<C> {
    async fn observe(&self, desired: &Desired) -> Result<Actual, Failure> {
        // What is printed from now on is another change.
        self.watch.take(|_| true);
        let (now, uptime) = (self.clock.now(), self.clock.uptime());
        let mut view = self.view();
        view.looked = Instant::now();
        view.desired = desired.clone();
        let View {
            shelf,
            sources,
            records,
            state,
            ..
        } = &mut *view;
        let not_seen = |what: &PathBuf, error: &std::io::Error| {
            let object = format!("directory {}", what.display());
            Failure::of(Code::AgentObserve, object, error).transient()
        };
        shelf
            .refresh(&self.store)
            .map_err(|e| not_seen(&self.places.newlog, &e))?;
        let gone = sources
            .look(&self.places.logs, state, now, uptime)
            .map_err(|e| not_seen(&self.places.logs, &e))?;
        if let Some(kmsg) = &self.kmsg {
            kmsg.read(records, now, uptime);
        }
        for log in gone {
            view.missed(log.name, log.bytes);
        }
        Ok(self.actual(&view))
    }

    async fn apply(&self, action: Do, progress: Progress) -> Result<(), Failure> {
        match action {
            Do::Collect { round: _ } => self.collect(progress).await,
            Do::MakeRoom { round: _ } => self.make_room(progress).await,
            Do::Send { tick: _ } => {
                self.send().await;
                Ok(())
            }
        }
    }

    async fn changed(&self) {
        let next = self.view().looked + PACE;
        let kernel = async {
            match &self.kmsg {
                Some(kmsg) => kmsg.readable().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.watch.changed() => {}
            () = kernel => {}
        }
        sleep_until(next).await;
    }
}
