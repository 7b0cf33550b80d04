//! Connections that come back: QEMU may not listen yet, and a socket may have been held by a client
//! that is now gone (the former life of the same service).

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Events, Limits, Notice, Qmp, QmpError};

/// First pause between two attempts; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// Longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A connection for commands that is made when it is needed and again after it broke.
#[derive(Debug)]
pub struct Link {
    path: PathBuf,
    limits: Limits,
    current: Option<Qmp>,
}

impl Link {
    /// No connection is made before the first use.
    pub fn new(path: impl Into<PathBuf>, limits: Limits) -> Self {
        Self {
            path: path.into(),
            limits,
            current: None,
        }
    }

    /// The connection that stands, or a new one; one attempt.
    pub async fn client(&mut self) -> Result<Qmp, QmpError> {
        if let Some(qmp) = self.current.as_ref().filter(|qmp| qmp.is_open()) {
            return Ok(qmp.clone());
        }
        // Dropped before the new one is made: the socket serves one client at a time.
        self.current = None;
        let (qmp, _) = Qmp::connect(&self.path, self.limits).await?;
        Ok(self.current.insert(qmp).clone())
    }

    /// Like [`Link::client`], but tries again until `patience` is over: for a QEMU that is just
    /// starting. The error is that of the last attempt.
    pub async fn client_within(&mut self, patience: Duration) -> Result<Qmp, QmpError> {
        let deadline = Instant::now() + patience;
        let mut pause = FIRST_PAUSE;
        loop {
            let error = match self.client().await {
                Ok(qmp) => return Ok(qmp),
                Err(error) => error,
            };
            if !error.is_transient() || Instant::now() + pause > deadline {
                return Err(error);
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Gives the socket free for others; the next use connects again.
    pub fn close(&mut self) {
        self.current = None;
    }

    /// The socket.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// What [`Follow`] reports.
#[derive(Debug, Clone, PartialEq)]
pub enum FollowNotice {
    /// A connection stands, maybe not the first one: ask for the status, events were missed.
    Connected,
    /// Something happened to the guest, or events were lost.
    Heard(Notice),
    /// The connection ended; the next one is tried for.
    Disconnected,
}

/// The events of a guest across connections, without end; dropped when the guest is given up.
#[derive(Debug)]
pub struct Follow {
    path: PathBuf,
    limits: Limits,
    events: Option<Events>,
    pause: Duration,
}

impl Follow {
    /// No connection is made before the first [`Follow::next`].
    pub fn new(path: impl Into<PathBuf>, limits: Limits) -> Self {
        Self {
            path: path.into(),
            limits,
            events: None,
            pause: FIRST_PAUSE,
        }
    }

    /// Waits for the next notice. May be dropped at any time: nothing that was heard is lost, an
    /// attempt to connect starts again.
    pub async fn next(&mut self) -> FollowNotice {
        if let Some(events) = &mut self.events {
            return if let Some(notice) = events.next().await {
                FollowNotice::Heard(notice)
            } else {
                self.events = None;
                FollowNotice::Disconnected
            };
        }
        loop {
            match Qmp::connect(&self.path, self.limits).await {
                Ok((_, events)) => {
                    self.events = Some(events);
                    self.pause = FIRST_PAUSE;
                    return FollowNotice::Connected;
                }
                Err(error) => {
                    tracing::debug!(%error, "no QMP connection");
                    sleep(self.pause).await;
                    self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }
}
