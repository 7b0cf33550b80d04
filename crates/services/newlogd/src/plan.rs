//! When lines become files, which files have to go, when one is sent.

pub mod pacing;
pub mod quota;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use agent::{Action, Backoff, Outbox, Plan, Service, Tables, Turn};
use bus::Rows;
use jiff::Timestamp;
use model::{
    fault::Fault,
    log::{LogfileMetrics, NewlogMetrics, ServerStats, UploadLatency},
    topics::NEWLOG_METRICS,
};

use crate::{
    Desired,
    index::Index,
    name::{FileName, Queue, Stream},
};
use pacing::Pacing;

/// The service.
pub struct Newlogd;

/// A stream's lines become a file when there are so many bytes of them,
pub const FULL: u64 = 400_000;
/// or when the first of them has waited so long,
const TIMEOUT: Duration = Duration::from_secs(300);
/// or so long when files are made fast.
const TIMEOUT_FAST: Duration = Duration::from_secs(10);
/// Two rounds are at least so far apart, also when the first could not take everything.
const PAUSE: Duration = Duration::from_secs(1);
/// Sources named in the metrics.
const TOP_SOURCES: usize = 10;

/// What is there.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Actual {
    /// Log files.
    pub index: Arc<Index>,
    /// Streams with lines that are in no file yet.
    pub waiting: BTreeMap<Stream, Waiting>,
    /// Where uploading is.
    pub pacing: Pacing,
    /// The file that is being sent.
    pub sending: Option<FileName>,
    /// Bytes of the disk that the files are on.
    pub disk: u64,
    /// Rounds of making files since start.
    pub rounds: u64,
    /// Uptime of the end of the last one.
    pub collected: Option<Duration>,
    /// Rounds of removing files since start.
    pub removals: u64,
    /// What happened since start.
    pub counters: Counters,
}

/// Lines that are in no file yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// Bytes as printed.
    pub bytes: u64,
    /// Uptime since which the first of them waits.
    pub since: Duration,
}

/// What happened since start, for the metrics.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Counters {
    /// The device's files.
    pub device: LogfileMetrics,
    /// Applications' files.
    pub apps: LogfileMetrics,
    /// Files made, their bytes, and the largest.
    pub files: (u64, u64, u32),
    /// Bytes that the controller took.
    pub sent_bytes: u64,
    /// Answers 4xx.
    pub refusals: u32,
    /// Answers 429, and the last of them.
    pub too_many: (u32, Option<Timestamp>),
    /// Wall-clock time since which sending fails.
    pub failing_since: Option<Timestamp>,
    /// Why the last upload failed.
    pub fault: Option<Fault>,
    /// How long uploads took.
    pub latency: UploadLatency,
    /// What the controller said of itself.
    pub server: ServerStats,
    /// Files removed for want of room.
    pub removed: u32,
    /// Lines in them that had not been sent.
    pub dropped: u64,
    /// Lines not kept of sources that printed too many.
    pub limited: BTreeMap<String, u64>,
    /// Bytes that were gone before they were read, by source.
    pub missed: BTreeMap<String, u64>,
    /// Bytes read, by source.
    pub sources: BTreeMap<String, u64>,
}

/// What to do. What exactly follows from the state at the moment when it is done, by [`due`], [`quota::victims`] and
/// [`next_files`], so that a line that is printed meanwhile is not another action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Do {
    /// Make files of what waits long enough.
    Collect {
        /// Counts the rounds, so that the next one is another action.
        round: u64,
    },
    /// Remove files.
    MakeRoom {
        /// Counts the rounds.
        round: u64,
    },
    /// Send a file of the device and one of an application.
    Send {
        /// Counts the ticks.
        tick: u64,
    },
}

impl Action for Do {
    fn subject(&self) -> String {
        match self {
            Self::Collect { .. } => "log lines",
            Self::MakeRoom { .. } => "log files",
            Self::Send { .. } => "upload",
        }
        .to_owned()
    }

    fn is_slow(&self) -> bool {
        true
    }

    fn backoff(&self) -> Backoff {
        Backoff {
            first: Duration::from_secs(2),
            max: Duration::from_secs(60),
            permanent: Some(Duration::from_secs(60)),
        }
    }
}

/// Every row that newlogd publishes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// How it goes.
    pub metrics: Rows<NewlogMetrics>,
}

impl agent::Report for Report {
    fn put(self, out: &mut Outbox) {
        out.put(&NEWLOG_METRICS, Some(self.metrics));
    }
}

impl Service for Newlogd {
    const NAME: &'static str = "newlogd";
    type Desired = Desired;
    type Actual = Actual;
    type Action = Do;
    type Report = Report;

    fn read(tables: &mut Tables) -> Option<Desired> {
        Some(Desired::read(tables))
    }

    fn plan(turn: &Turn<'_, Self>) -> Plan<Self> {
        let row = ("global".to_owned(), metrics(turn));
        let mut plan = Plan::report(Report {
            metrics: Rows::from([row]),
        });
        make_room(turn, &mut plan);
        collect(turn, &mut plan);
        send(turn, &mut plan);
        plan
    }
}

/// How long lines wait at most.
fn timeout(desired: &Desired) -> Duration {
    if desired.fast() {
        TIMEOUT_FAST
    } else {
        TIMEOUT
    }
}

/// The streams whose lines become files now.
pub fn due(desired: &Desired, actual: &Actual, uptime: Duration) -> Vec<Stream> {
    let timeout = timeout(desired);
    if !pause(actual, uptime).is_zero() {
        return Vec::new();
    }
    let is_due = |waiting: &Waiting| waiting.bytes >= FULL || waiting.since + timeout <= uptime;
    let due = actual.waiting.iter().filter(|(_, waiting)| is_due(waiting));
    due.map(|(stream, _)| *stream).collect()
}

/// How long the next round has to wait for the last one.
fn pause(actual: &Actual, uptime: Duration) -> Duration {
    let next = actual.collected.map_or(Duration::ZERO, |at| at + PAUSE);
    next.saturating_sub(uptime)
}

fn collect(turn: &Turn<'_, Newlogd>, plan: &mut Plan<Newlogd>) {
    let action = Do::Collect {
        round: turn.actual.rounds,
    };
    if turn.jobs.is_running(&action.subject())
        || !due(turn.desired, turn.actual, turn.uptime).is_empty()
    {
        plan.actions.push(action);
    }
    let timeout = timeout(turn.desired);
    let pause = pause(turn.actual, turn.uptime);
    for waiting in turn.actual.waiting.values() {
        let left = if waiting.bytes >= FULL {
            Duration::ZERO
        } else {
            (waiting.since + timeout).saturating_sub(turn.uptime)
        };
        let left = left.max(pause);
        if !left.is_zero() {
            plan.wake_in(left);
        }
    }
}

/// Bytes that files may have.
pub fn quota(desired: &Desired, actual: &Actual) -> u64 {
    let megabytes = desired.items.int("newlog.gzipfiles.ondisk.maxmegabytes");
    quota::quota(megabytes, actual.disk)
}

fn make_room(turn: &Turn<'_, Newlogd>, plan: &mut Plan<Newlogd>) {
    let action = Do::MakeRoom {
        round: turn.actual.removals,
    };
    let actual = turn.actual;
    let victims = quota::victims(&actual.index, quota(turn.desired, actual), actual.sending);
    if turn.jobs.is_running(&action.subject()) || !victims.is_empty() {
        plan.actions.push(action);
    }
}

/// The files of one tick.
pub fn next_files(actual: &Actual) -> Vec<(Queue, FileName)> {
    [Queue::Device, Queue::App]
        .into_iter()
        .filter_map(|queue| Some((queue, actual.index.oldest(queue)?)))
        .collect()
}

/// From one tick to the next now.
pub fn interval(desired: &Desired, actual: &Actual, uptime: Duration) -> Duration {
    let left = actual.index.waiting();
    actual.pacing.interval(left, desired.fast(), uptime)
}

fn send(turn: &Turn<'_, Newlogd>, plan: &mut Plan<Newlogd>) {
    let action = Do::Send {
        tick: turn.actual.pacing.ticks,
    };
    if turn.jobs.is_running(&action.subject()) {
        plan.actions.push(action);
        return;
    }
    let waiting = turn.actual.index.waiting();
    if waiting == 0 || !turn.desired.can_send() {
        return;
    }
    let fast = turn.desired.fast();
    let left = turn.actual.pacing.left(waiting, fast, turn.uptime);
    if left.is_zero() {
        plan.actions.push(action);
    } else {
        plan.wake_in(left);
    }
}

fn metrics(turn: &Turn<'_, Newlogd>) -> NewlogMetrics {
    let Actual {
        index,
        waiting: _,
        pacing,
        sending: _,
        disk: _,
        rounds: _,
        collected: _,
        removals: _,
        counters,
    } = turn.actual;
    let in_dir = |metrics: &LogfileMetrics, queue| LogfileMetrics {
        num_gzip_file_in_dir: u32::try_from(index.count(queue)).unwrap_or(u32::MAX),
        ..metrics.clone()
    };
    let (files, bytes, largest) = counters.files;
    let oldest = index.oldest(Queue::Device).map(|file| file.ms);
    let interval = interval(turn.desired, turn.actual, turn.uptime).as_secs();
    let mut sources: Vec<_> = counters.sources.iter().collect();
    sources.sort_by_key(|(name, bytes)| (std::cmp::Reverse(**bytes), *name));
    sources.truncate(TOP_SOURCES);
    let fault = ["log lines", "log files"]
        .iter()
        .find_map(|subject| turn.jobs.fault(subject).cloned())
        .or_else(|| counters.fault.clone());
    NewlogMetrics {
        failed_to_send: pacing.failing.is_some(),
        fail_sent_start_time: counters.failing_since,
        total_bytes_upload: counters.sent_bytes,
        num_4xx_responses: counters.refusals,
        num_too_many_request: counters.too_many.0,
        last_too_many_req_time: counters.too_many.1,
        curr_upload_intv_sec: u32::try_from(interval).unwrap_or(u32::MAX),
        logfile_timeout_sec: u32::try_from(timeout(turn.desired).as_secs()).unwrap_or(u32::MAX),
        max_gzip_size: largest,
        avg_gzip_size: u32::try_from(bytes / files.max(1)).unwrap_or(u32::MAX),
        latency: counters.latency,
        server_stats: counters.server,
        dev_metrics: in_dir(&counters.device, Queue::Device),
        app_metrics: in_dir(&counters.apps, Queue::App),
        num_gzip_file_removed: counters.removed,
        total_size_logs: index.bytes(),
        quota_bytes: quota(turn.desired, turn.actual),
        oldest_saved_device_log: oldest
            .and_then(|ms| i64::try_from(ms).ok())
            .and_then(|ms| Timestamp::from_millisecond(ms).ok()),
        lines_dropped: counters.dropped,
        lines_limited: counters.limited.clone(),
        bytes_missed: counters.missed.clone(),
        top_sources: sources
            .into_iter()
            .map(|(name, bytes)| (name.clone(), *bytes))
            .collect(),
        fault,
    }
}
