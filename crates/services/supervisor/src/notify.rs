//! Signs of life: the `sd_notify` protocol, one datagram socket per unit.
//!
//! One socket each, at `<root>/run/supervisor/notify/<stem>`, owned by the unit's user: who wrote is
//! known from where it was written, also for helper processes of the unit and after a restart of
//! the supervisor, which binds the same paths again. Datagrams that are sent while no supervisor
//! listens are refused by the kernel; a unit must not mind.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use units::UnitName;

/// Longest status text that is kept.
const STATUS_MAX: usize = 300;
/// Datagrams read from one unit in one turn: a flood of one must not stop the others.
const BURST: usize = 64;

/// What a unit said in one datagram.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// `READY=1`
    pub ready: bool,
    /// `STOPPING=1`
    pub stopping: bool,
    /// `WATCHDOG=trigger`: it asks to be treated as hung.
    pub broken: bool,
    /// `STATUS=`
    pub status: Option<String>,
}

impl Message {
    /// Reads a datagram. Lines that are unknown or no text are skipped.
    pub fn parse(datagram: &[u8]) -> Self {
        let mut message = Self::default();
        for line in datagram.split(|byte| *byte == b'\n') {
            match line {
                b"READY=1" => message.ready = true,
                b"STOPPING=1" => message.stopping = true,
                // Any datagram is a sign of life; this one is nothing else.
                b"WATCHDOG=1" => {}
                b"WATCHDOG=trigger" => message.broken = true,
                other => {
                    if let Some(text) = other.strip_prefix(b"STATUS=") {
                        let text = String::from_utf8_lossy(text);
                        let printable = text.chars().filter(|c| !c.is_control());
                        message.status = Some(printable.take(STATUS_MAX).collect());
                    }
                }
            }
        }
        message
    }
}

/// The socket of one unit.
#[derive(Debug)]
pub(crate) struct Inbox {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Inbox {
    /// Where the socket of a unit is, below the supervisor's run directory.
    pub(crate) fn path(run: &Path, name: &UnitName) -> PathBuf {
        run.join("notify").join(name.stem())
    }

    /// Binds the socket of a unit, for `uid` to write to.
    pub(crate) fn bind(run: &Path, name: &UnitName, uid: u32) -> io::Result<Self> {
        let path = Self::path(run, name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let socket = UnixDatagram::bind(&path)?;
        socket.set_nonblocking(true)?;
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600))?;
        std::os::unix::fs::chown(&path, Some(uid), None)?;
        Ok(Self { socket, path })
    }

    /// The messages that are there.
    pub(crate) fn drain(&self) -> Vec<Message> {
        let mut buffer = [0; 4096];
        let mut messages = Vec::new();
        while messages.len() < BURST {
            match self.socket.recv(&mut buffer) {
                Ok(length) => messages.push(Message::parse(&buffer[..length])),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        messages
    }

    /// The socket, to be polled.
    pub(crate) fn socket(&self) -> &UnixDatagram {
        &self.socket
    }

    /// Its path, for the unit's `NOTIFY_SOCKET`.
    pub(crate) fn address(&self) -> &Path {
        &self.path
    }

    /// Closes and removes it.
    pub(crate) fn remove(self) {
        // Gone already is as good; anything else shows when it is bound again.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_are_understood_together_and_in_any_order() {
        let message = Message::parse(b"STATUS=all \x1b[1mwell\nWATCHDOG=1\nFOO=bar\nREADY=1\n");
        assert!(message.ready && !message.stopping && !message.broken);
        assert_eq!(message.status.as_deref(), Some("all [1mwell"));
        assert!(Message::parse(b"WATCHDOG=trigger").broken);
        assert!(Message::parse(b"STOPPING=1").stopping);
        assert_eq!(Message::parse(b"READY=0\nWATCHDOG=11"), Message::default());
    }

    proptest! {
        #[test]
        fn no_datagram_is_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let message = Message::parse(&bytes);
            prop_assert!(message.status.is_none_or(|text| text.chars().count() <= STATUS_MAX));
        }
    }
}
