//! Waiting for something to change.

use crate::NetlinkError;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket, SocketAddr, TokioSocket};
use std::collections::BTreeSet;
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

/// A kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Change {
    /// An interface came, went, or has another state.
    Links,
    /// An address came, went, or has another state.
    Addresses,
    /// A route came or went.
    Routes,
    /// A policy rule came or went.
    Rules,
    /// The kernel dropped notifications: anything may have changed.
    Lost,
}

/// What may have changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes(BTreeSet<Change>);

impl Changes {
    /// Whether objects of this kind may have changed.
    pub fn has(&self, change: Change) -> bool {
        self.0.contains(&change)
    }

    /// Everything that may have changed.
    pub fn iter(&self) -> impl Iterator<Item = Change> {
        self.0.iter().copied()
    }

    fn all() -> Self {
        Self(BTreeSet::from([
            Change::Links,
            Change::Addresses,
            Change::Routes,
            Change::Rules,
            Change::Lost,
        ]))
    }
}

/// The kernel's notifications about changes, by whomever, from the moment it was opened.
///
/// Open it before looking at the state, so that nothing falls in between.
pub struct Events {
    socket: TokioSocket,
    buffer: Vec<u8>,
}

/// Longest notification: the kernel sends at most 32 KiB at once.
const LONGEST: usize = 64 * 1024;

/// Multicast groups as bits: links, IPv4 addresses, routes and rules, then the same for IPv6.
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 0x4_0000;

impl Events {
    /// Begins to listen. Must be called in a tokio runtime.
    pub fn open() -> Result<Self, NetlinkError> {
        Self::with_queue(None)
    }

    /// As [`open`](Self::open), with another length of the kernel's queue in bytes.
    pub fn with_queue(bytes: Option<i32>) -> Result<Self, NetlinkError> {
        let open = || -> io::Result<TokioSocket> {
            let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
            if let Some(bytes) = bytes {
                socket.socket_ref().set_rx_buf_sz(bytes)?;
            }
            socket.socket_mut().bind(&SocketAddr::new(0, GROUPS))?;
            Ok(socket)
        };
        let socket = open().map_err(|source| NetlinkError::Open { source })?;
        let buffer = Vec::with_capacity(LONGEST);
        Ok(Self { socket, buffer })
    }

    /// Waits until something changed, and says what, of all that is known by then. If the future
    /// is dropped nothing is lost.
    pub async fn changed(&mut self) -> Result<Changes, NetlinkError> {
        poll_fn(|context| self.poll_changed(context)).await
    }

    fn poll_changed(&mut self, context: &mut Context<'_>) -> Poll<Result<Changes, NetlinkError>> {
        let mut changes = Changes::default();
        loop {
            self.buffer.clear();
            match self.socket.poll_recv(context, &mut self.buffer) {
                Poll::Ready(Ok(())) => changes.0.extend(understand(&self.buffer).0),
                Poll::Ready(Err(error)) => match error.raw_os_error() {
                    Some(libc::ENOBUFS) => changes = Changes::all(),
                    Some(libc::EINTR) => {}
                    _ => return Poll::Ready(Err(NetlinkError::Events { source: error })),
                },
                Poll::Pending if changes.0.is_empty() => return Poll::Pending,
                Poll::Pending => return Poll::Ready(Ok(changes)),
            }
        }
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

/// What the messages of one datagram are about. Each begins with its length in four bytes and
/// its type in two.
fn understand(mut datagram: &[u8]) -> Changes {
    let mut changes = Changes::default();
    while let [a, b, c, d, low, high, ..] = *datagram {
        match u16::from_ne_bytes([low, high]) {
            libc::RTM_NEWLINK | libc::RTM_DELLINK => changes.0.insert(Change::Links),
            libc::RTM_NEWADDR | libc::RTM_DELADDR => changes.0.insert(Change::Addresses),
            libc::RTM_NEWROUTE | libc::RTM_DELROUTE => changes.0.insert(Change::Routes),
            libc::RTM_NEWRULE | libc::RTM_DELRULE => changes.0.insert(Change::Rules),
            _ => false,
        };
        let length = u32::from_ne_bytes([a, b, c, d]);
        let padded = usize::try_from(length).map_or(0, |length| length.next_multiple_of(4));
        match datagram.get(padded..) {
            Some(rest) if padded > 0 => datagram = rest,
            Some(_) | None => break,
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::{Change, understand};
    use proptest::prelude::*;

    fn message(kind: u16, payload: usize) -> Vec<u8> {
        let length = u32::try_from(16 + payload).unwrap_or(16);
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.resize((16 + payload).next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn several_messages_in_one_datagram() {
        let datagram = [
            message(libc::RTM_NEWLINK, 3),
            message(libc::RTM_NEWNEIGH, 0),
            message(libc::RTM_DELRULE, 9),
        ];
        let changes = understand(&datagram.concat());
        let kinds: Vec<Change> = changes.iter().collect();
        assert_eq!(kinds, [Change::Links, Change::Rules]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = understand(&bytes);
        }
    }
}
