//! The request socket: asking for lists and for changes.

use crate::NetlinkError;
use futures::StreamExt;
use rtnetlink::Handle;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST,
    NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, PoisonError};
use tokio::task::JoinHandle;

/// How often a list is read again because it changed while it was read.
const TRIES: usize = 8;

/// Access to the network objects of one network namespace: that in which it was opened.
///
/// Calls may be made at the same time. If the socket breaks, the call that was waiting fails and
/// the next one opens another.
#[derive(Debug)]
pub struct Netlink {
    connection: Mutex<Option<Connection>>,
}

#[derive(Debug)]
struct Connection {
    handle: Handle,
    task: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How a new object relates to one that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It must not be there.
    Create,
    /// It takes the place of one that is.
    Replace,
    /// It is there, and is changed or deleted.
    Change,
}

impl Mode {
    fn flags(self) -> u16 {
        let flags = match self {
            Self::Create => NLM_F_CREATE | NLM_F_EXCL,
            Self::Replace => NLM_F_CREATE | NLM_F_REPLACE,
            Self::Change => 0,
        };
        flags | NLM_F_REQUEST | NLM_F_ACK
    }
}

impl Netlink {
    /// Opens the socket. Must be called in a tokio runtime, which then serves the socket.
    pub fn open() -> Result<Self, NetlinkError> {
        let connection = Mutex::new(Some(Connection::open()?));
        Ok(Self { connection })
    }

    fn handle(&self) -> Result<Handle, NetlinkError> {
        // Nothing in here panics half-way.
        let mut slot = self
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let open = slot.take().filter(|open| !open.task.is_finished());
        let open = match open {
            Some(open) => open,
            None => Connection::open()?,
        };
        let handle = open.handle.clone();
        *slot = Some(open);
        Ok(handle)
    }

    /// Everything that the kernel lists when asked for `message`.
    pub(crate) async fn dump(
        &self,
        what: &str,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        for _ in 0..TRIES {
            let mut request = NetlinkMessage::from(message.clone());
            request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
            let (found, torn) = self.exchange(what, request).await?;
            if !torn {
                return Ok(found);
            }
        }
        Err(NetlinkError::Torn {
            what: what.to_owned(),
            tries: TRIES,
        })
    }

    /// Asks for one object, or for a change. Gives what came before the acknowledgement.
    pub(crate) async fn ask(
        &self,
        what: &str,
        message: RouteNetlinkMessage,
        mode: Mode,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = mode.flags();
        self.exchange(what, request).await.map(|(found, _)| found)
    }

    /// Asks for a deletion, which is fine if there is nothing to delete.
    pub(crate) async fn ask_gone(
        &self,
        what: &str,
        message: RouteNetlinkMessage,
    ) -> Result<(), NetlinkError> {
        match self.ask(what, message, Mode::Change).await {
            Err(error) if !error.is_gone() => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Sends a request and collects the answers; also says whether they may contradict each
    /// other. Answers count only if their end was seen.
    async fn exchange(
        &self,
        what: &str,
        request: NetlinkMessage<RouteNetlinkMessage>,
    ) -> Result<(Vec<RouteNetlinkMessage>, bool), NetlinkError> {
        let closed = || NetlinkError::Closed {
            what: what.to_owned(),
        };
        let refused = |source: io::Error| NetlinkError::Refused {
            what: what.to_owned(),
            source,
        };
        let mut handle = self.handle()?;
        let mut answers = handle.request(request).map_err(|_| closed())?;
        let mut found = Vec::new();
        let mut torn = false;
        while let Some(answer) = answers.next().await {
            torn |= answer.header.flags & NLM_F_DUMP_INTR != 0;
            match answer.payload {
                NetlinkPayload::InnerMessage(message) => found.push(message),
                NetlinkPayload::Done(done) if done.code < 0 => {
                    return Err(refused(io::Error::from_raw_os_error(-done.code)));
                }
                NetlinkPayload::Error(error) if error.code.is_some() => {
                    return Err(refused(error.to_io()));
                }
                NetlinkPayload::Done(_) | NetlinkPayload::Error(_) => return Ok((found, torn)),
                NetlinkPayload::Overrun(_) => torn = true,
                _ => {}
            }
        }
        Err(closed())
    }

    /// Interface names by index.
    pub(crate) async fn names(&self, what: &str) -> Result<BTreeMap<u32, String>, NetlinkError> {
        let links = self.read_links(what).await?;
        Ok(links
            .into_iter()
            .map(|link| (link.index, link.name))
            .collect())
    }
}

impl Connection {
    fn open() -> Result<Self, NetlinkError> {
        let (mut connection, handle, _) =
            rtnetlink::new_connection().map_err(|source| NetlinkError::Open { source })?;
        // A list without its end would look like one with objects missing.
        connection.set_forward_done(true);
        connection.set_forward_ack(true);
        let task = tokio::spawn(connection);
        Ok(Self { handle, task })
    }
}
