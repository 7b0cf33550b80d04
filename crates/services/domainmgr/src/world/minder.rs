//! One task per QEMU: keeps a connection to its events and knows what the guest is doing.
//!
//! Events are hints. After each one that may mean something, and after every connection, QEMU is
//! asked for the guest's state.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use agent::Clock;
use tokio::{sync::Notify, time::sleep};
use vmm::qmp::{Event, Follow, FollowNotice, Limits, Link, Notice, Qmp, QmpError};

use super::Task;
use crate::{
    Sample, Seen,
    launch::{Places, unit},
};

/// A QEMU that did not answer is asked again after so long.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// Events after which the guest's state may be another.
const TURNING: &[&str] = &[
    "BLOCK_IO_ERROR",
    "GUEST_PANICKED",
    "RESUME",
    "SHUTDOWN",
    "STOP",
    "SUSPEND",
    "WAKEUP",
    "WATCHDOG",
];
/// Events that explain an end.
const TELLING: &[&str] = &[
    "BLOCK_IO_ERROR",
    "GUEST_PANICKED",
    "POWERDOWN",
    "RESET",
    "SHUTDOWN",
    "WATCHDOG",
];

/// The task of one QEMU, and what it knows.
pub(super) struct Minder {
    shared: Arc<Shared>,
    task: Option<Task>,
}

/// What the task and the actions share.
pub(super) struct Shared {
    pid: u32,
    clock: Clock,
    changed: Arc<Notify>,
    link: tokio::sync::Mutex<Link>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    seen: Seen,
    sample: Option<Sample>,
}

impl Minder {
    /// Begins to mind the QEMU with this process id.
    pub(super) fn new(pid: u32, places: &Places, clock: Clock, changed: &Arc<Notify>) -> Self {
        let mut known = Known::default();
        known.seen.trouble = Some((clock.now(), "QEMU has not answered yet".to_owned()));
        let shared = Arc::new(Shared {
            pid,
            clock,
            changed: Arc::clone(changed),
            link: tokio::sync::Mutex::new(Link::new(unit::executor(places), Limits::default())),
            known: Mutex::new(known),
        });
        let task = Task::spawn(mind(Arc::clone(&shared), unit::listener(places)));
        Self {
            shared,
            task: Some(task),
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.shared.pid
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    pub(super) fn seen(&self) -> Seen {
        self.shared.known().seen.clone()
    }

    pub(super) fn sample(&self) -> Option<Sample> {
        self.shared.known().sample.clone()
    }

    /// QEMU has ended: nothing is asked any more, what was heard stays known.
    pub(super) fn rest(&mut self) {
        self.task = None;
    }
}

impl Shared {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, change: impl FnOnce(&mut Seen)) {
        let mut known = self.known();
        let before = known.seen.clone();
        change(&mut known.seen);
        if known.seen != before {
            self.changed.notify_one();
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// The connection for commands, made if need be.
    pub(super) async fn qmp(&self) -> Result<Qmp, QmpError> {
        self.link.lock().await.client().await
    }

    /// Asks for the guest's state. False when there was no answer.
    pub(super) async fn refresh(&self) -> bool {
        let asked = async { self.qmp().await?.status().await };
        let answer = asked.await;
        let now = self.clock.now();
        self.update(|seen| match &answer {
            Ok(status) => {
                seen.trouble = None;
                if seen.state.is_none_or(|(state, _)| state != status.state) {
                    seen.state = Some((status.state, now));
                }
            }
            Err(error) => {
                seen.trouble.get_or_insert((now, error.to_string()));
            }
        });
        answer.is_ok()
    }

    /// The power button was pressed.
    pub(super) fn pressed(&self) {
        let now = self.clock.now();
        self.update(|seen| seen.pressed = Some(now));
    }

    /// The guest was measured.
    pub(super) fn measured(&self, sample: Sample) {
        self.known().sample = Some(sample);
        self.changed.notify_one();
    }

    fn heard(&self, event: &Event) {
        if TELLING.contains(&event.name.as_str()) {
            self.update(|seen| seen.last_event = Some(words(event)));
        }
    }

    fn lost(&self) {
        let now = self.clock.now();
        self.update(|seen| {
            seen.state = None;
            let how = "QEMU closed its control connection".to_owned();
            seen.trouble.get_or_insert((now, how));
        });
    }
}

/// An event for people: its name and what it says in words.
fn words(event: &Event) -> String {
    let details: Vec<String> = ["reason", "action", "device", "node-name", "operation"]
        .iter()
        .filter_map(|key| event.data.get(key)?.as_str())
        .map(|text| text.chars().take(60).collect())
        .collect();
    if details.is_empty() {
        event.name.clone()
    } else {
        format!("{} ({})", event.name, details.join(", "))
    }
}

async fn mind(shared: Arc<Shared>, listener: PathBuf) {
    let mut follow = Follow::new(listener, Limits::default());
    let mut unanswered = false;
    loop {
        let notice = tokio::select! {
            notice = follow.next() => Some(notice),
            () = sleep(ASK_AGAIN), if unanswered => None,
        };
        unanswered = match notice {
            None | Some(FollowNotice::Connected | FollowNotice::Heard(Notice::Lost(_))) => {
                !shared.refresh().await
            }
            Some(FollowNotice::Heard(Notice::Event(event))) => {
                shared.heard(&event);
                if TURNING.contains(&event.name.as_str()) {
                    !shared.refresh().await
                } else {
                    unanswered
                }
            }
            Some(FollowNotice::Disconnected) => {
                shared.lost();
                false
            }
        };
    }
}
