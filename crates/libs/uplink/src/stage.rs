//! How far a connection came, so that a bare "timed out" can name its phase.

use std::sync::atomic::{AtomicU8, Ordering};

/// The last thing that was begun. Only moves within one request of one client.
#[derive(Debug, Default)]
pub(crate) struct Stage(AtomicU8);

/// What had been begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begun {
    /// Nothing that we saw: a connection to a literal address.
    Connect,
    /// A DNS lookup that has not ended.
    Lookup,
    /// The TLS handshake, so TCP and any proxy were fine.
    Handshake,
}

impl Stage {
    pub(crate) fn begin(&self, begun: Begun) {
        let number = match begun {
            Begun::Connect => 0,
            Begun::Lookup => 1,
            Begun::Handshake => 2,
        };
        self.0.store(number, Ordering::Relaxed);
    }

    pub(crate) fn begun(&self) -> Begun {
        match self.0.load(Ordering::Relaxed) {
            1 => Begun::Lookup,
            2 => Begun::Handshake,
            _ => Begun::Connect,
        }
    }
}
