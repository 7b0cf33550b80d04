//! Signs of life to whoever started the process, by systemd's notification protocol
//! (sd_notify(3)): `READY=1`, `WATCHDOG=1`, `STATUS=`, `STOPPING=1`.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{Instant, sleep_until};

use crate::Failure;

/// Beats from within the loop, so that a loop that hangs falls silent.
pub(crate) struct Heartbeat {
    every: Option<Duration>,
    last: Option<Instant>,
    status: String,
}

impl Heartbeat {
    /// No supervisor.
    pub(crate) fn silent() -> Self {
        Self {
            every: None,
            last: None,
            status: String::new(),
        }
    }

    /// As the environment asks for (`NOTIFY_SOCKET`, `WATCHDOG_USEC`).
    pub(crate) fn from_env() -> Self {
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            return Self::silent();
        }
        let deadline = std::env::var("WATCHDOG_USEC")
            .ok()
            .and_then(|usec| usec.parse().ok())
            .map_or(Duration::from_secs(30), Duration::from_micros);
        // Three chances before the deadline, but not a wake-up per second for it.
        Self {
            every: Some((deadline / 3).max(Duration::from_millis(100))),
            last: None,
            status: String::new(),
        }
    }

    /// The loop has begun.
    pub(crate) fn ready(&self) {
        self.send(&[NotifyState::Ready]);
    }

    /// The loop is ending.
    pub(crate) fn stopping(&self) {
        self.send(&[NotifyState::Stopping]);
    }

    /// The loop goes round.
    pub(crate) fn beat(&mut self) {
        let Some(every) = self.every else { return };
        if self.last.is_none_or(|last| last.elapsed() * 2 >= every) {
            self.last = Some(Instant::now());
            self.send(&[NotifyState::Watchdog]);
        }
    }

    /// Says what the service waits for, when that changed.
    pub(crate) fn waiting_for(&mut self, topics: &[String]) {
        let status = if topics.is_empty() {
            "running".to_owned()
        } else {
            format!("waiting for {}", topics.join(", "))
        };
        if status != self.status && !topics.is_empty() {
            tracing::info!(topics = %topics.join(", "), "waiting for inputs");
        }
        self.say(status);
    }

    /// Says why the service can't go on: there may be no row that could.
    pub(crate) fn held_up_by(&mut self, failure: &Failure) {
        self.say(format!("held up: {failure}"));
    }

    fn say(&mut self, status: String) {
        if status != self.status {
            // One line, by the protocol.
            let line = status.replace('\n', " ");
            self.send(&[NotifyState::Status(&line)]);
            self.status = status;
        }
    }

    /// Resolves when the next beat is due.
    pub(crate) async fn due(&self) {
        match self.every {
            Some(every) => {
                sleep_until(self.last.map_or_else(Instant::now, |last| last + every)).await;
            }
            None => std::future::pending().await,
        }
    }

    fn send(&self, states: &[NotifyState<'_>]) {
        if self.every.is_some() {
            // Nobody listens any more when the supervisor restarts; the next beat will reach it.
            let _ = sd_notify::notify(states);
        }
    }
}
