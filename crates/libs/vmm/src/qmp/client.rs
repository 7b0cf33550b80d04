//! One connection to QEMU. A task owns the socket and the commands in flight; [`Qmp`] is a handle
//! that sends it commands, [`Events`] is what it hands out. The connection ends when QEMU closes it
//! or when every handle and the events are dropped, which frees the socket for the next client.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use super::codec::{CodecError, ErrorClass, Event, Greeting, Lines, MAX_LINE, Message};
use super::codec::{command_line, parse_line};

/// Events that wait for a slow listener before further ones are dropped and counted.
const EVENT_QUEUE: usize = 256;
/// Commands that wait for their turn.
const COMMAND_QUEUE: usize = 16;
/// Bytes of commands that QEMU has not read yet; more commands wait.
const MAX_OUTGOING: usize = 64 << 10;

/// How long to wait for QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// From the connection to the end of the handshake. Exceeded when another client holds the
    /// socket.
    pub greeting: Duration,
    /// From a command to its answer.
    pub command: Duration,
}

impl Default for Limits {
    /// Generous: an emulated guest on a loaded machine takes seconds to give up the main lock.
    fn default() -> Self {
        Self {
            greeting: Duration::from_secs(5),
            command: Duration::from_secs(20),
        }
    }
}

/// Why QEMU could not be asked or told.
#[derive(Debug, Error)]
pub enum QmpError {
    /// Nothing listens.
    #[error("connecting to {path:?}: {source}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// Somebody accepted but didn't greet: another client holds the socket, or QEMU is stuck.
    #[error("{path:?} did not greet within {limit:?}: another client is connected, or QEMU hangs")]
    NoGreeting {
        /// The socket.
        path: PathBuf,
        /// How long was waited.
        limit: Duration,
    },
    /// The peer doesn't speak the protocol.
    #[error("{path:?}: {source}")]
    Protocol {
        /// The socket.
        path: PathBuf,
        /// What is wrong with its words.
        source: CodecError,
    },
    /// The connection ended: QEMU is gone or going.
    #[error("connection closed before the answer to {command}")]
    Closed {
        /// The command that has no answer; it may have been carried out.
        command: String,
    },
    /// No answer in time; the command may still be carried out.
    #[error("no answer to {command} within {limit:?}")]
    NoAnswer {
        /// The command.
        command: String,
        /// How long was waited.
        limit: Duration,
    },
    /// QEMU said no.
    #[error("{command} refused: {desc}")]
    Refused {
        /// The command.
        command: String,
        /// Kind of refusal.
        class: ErrorClass,
        /// QEMU's words.
        desc: String,
    },
    /// The answer is not what the command is documented to answer.
    #[error("answer to {command} not understood: {source}")]
    Answer {
        /// The command.
        command: String,
        /// What doesn't fit.
        source: serde_json::Error,
    },
}

impl QmpError {
    /// Whether the same may work a moment later, on a new connection.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::NoGreeting { .. }
            | Self::Closed { .. }
            | Self::NoAnswer { .. } => true,
            Self::Protocol { .. } | Self::Refused { .. } | Self::Answer { .. } => false,
        }
    }
}

/// A connection for commands. Cloning gives another handle of the same connection.
#[derive(Debug, Clone)]
pub struct Qmp {
    commands: mpsc::Sender<Request>,
    greeting: Greeting,
    limits: Limits,
}

/// What a listener gets.
#[derive(Debug, Clone, PartialEq)]
pub enum Notice {
    /// Something happened to the guest.
    Event(Event),
    /// The listener was too slow and this many events are lost: ask for the status.
    Lost(u64),
}

/// The events of a connection as a [`Stream`]; it ends with the connection.
#[derive(Debug)]
pub struct Events {
    queue: mpsc::Receiver<Event>,
    lost: Arc<AtomicU64>,
    // A listener alone keeps the connection.
    _open: mpsc::Sender<Request>,
}

#[derive(Debug)]
struct Request {
    name: String,
    arguments: Value,
    answer: oneshot::Sender<Answer>,
}

type Answer = Result<Value, (ErrorClass, String)>;

impl Qmp {
    /// Connects, waits for the greeting and enters the commands mode.
    pub async fn connect(path: &Path, limits: Limits) -> Result<(Self, Events), QmpError> {
        let deadline = Instant::now() + limits.greeting;
        let connected = timeout_at(deadline, UnixStream::connect(path)).await;
        let Ok(connected) = connected else {
            return Err(no_greeting(path, limits));
        };
        let (reader, writer) = connected
            .map_err(|source| QmpError::Connect {
                path: path.to_owned(),
                source,
            })?
            .into_split();
        let mut incoming = Incoming::new(reader);
        let greeted = timeout_at(deadline, incoming.message()).await;
        let Ok(greeted) = greeted else {
            return Err(no_greeting(path, limits));
        };
        let greeting = match greeted {
            Ok(Some(Message::Greeting(greeting))) => greeting,
            Ok(Some(_)) => return Err(protocol(path, CodecError::Unknown)),
            Ok(None) => {
                return Err(QmpError::Closed {
                    command: "connect".into(),
                });
            }
            Err(source) => return Err(protocol(path, source)),
        };
        let (commands, requests) = mpsc::channel(COMMAND_QUEUE);
        let (sink, queue) = mpsc::channel(EVENT_QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let connection = Connection {
            incoming,
            writer,
            outgoing: Vec::new(),
            requests,
            in_flight: BTreeMap::new(),
            next_id: 0,
            events: sink,
            lost: Arc::clone(&lost),
            path: path.to_owned(),
        };
        tokio::spawn(connection.run());
        let qmp = Self {
            commands: commands.clone(),
            greeting,
            limits,
        };
        let events = Events {
            queue,
            lost,
            _open: commands,
        };
        qmp.execute::<Value>("qmp_capabilities", Value::Null)
            .await?;
        Ok((qmp, events))
    }

    /// Which QEMU this is.
    pub const fn greeting(&self) -> Greeting {
        self.greeting
    }

    /// Whether the connection still stands, as far as is known without asking.
    pub fn is_open(&self) -> bool {
        !self.commands.is_closed()
    }

    /// Any command; `arguments` is an object, or `null` for none. If the future is dropped the
    /// command may be carried out all the same.
    pub async fn execute<T: DeserializeOwned>(
        &self,
        command: &str,
        arguments: Value,
    ) -> Result<T, QmpError> {
        let command = command.to_owned();
        let (answer, answered) = oneshot::channel();
        let request = Request {
            name: command.clone(),
            arguments,
            answer,
        };
        let exchange = async {
            self.commands.send(request).await.ok()?;
            answered.await.ok()
        };
        let limit = self.limits.command;
        match timeout(limit, exchange).await {
            Err(_) => Err(QmpError::NoAnswer { command, limit }),
            Ok(None) => Err(QmpError::Closed { command }),
            Ok(Some(Err((class, desc)))) => Err(QmpError::Refused {
                command,
                class,
                desc,
            }),
            Ok(Some(Ok(value))) => {
                serde_json::from_value(value).map_err(|source| QmpError::Answer { command, source })
            }
        }
    }
}

impl Events {
    /// The next one; `None` when the connection ended.
    pub async fn next(&mut self) -> Option<Notice> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl Stream for Events {
    type Item = Notice;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Notice>> {
        match self.lost.swap(0, Ordering::Relaxed) {
            0 => self
                .queue
                .poll_recv(cx)
                .map(|event| event.map(Notice::Event)),
            lost => Poll::Ready(Some(Notice::Lost(lost))),
        }
    }
}

fn no_greeting(path: &Path, limits: Limits) -> QmpError {
    QmpError::NoGreeting {
        path: path.to_owned(),
        limit: limits.greeting,
    }
}

fn protocol(path: &Path, source: CodecError) -> QmpError {
    QmpError::Protocol {
        path: path.to_owned(),
        source,
    }
}

/// The reading side: bytes to messages.
struct Incoming {
    reader: OwnedReadHalf,
    lines: Lines,
    chunk: Vec<u8>,
}

impl Incoming {
    fn new(reader: OwnedReadHalf) -> Self {
        Self {
            reader,
            lines: Lines::new(MAX_LINE),
            chunk: vec![0; 16 << 10],
        }
    }

    /// The next message; `None` when the peer closed or broke the connection. Nothing is lost when
    /// the future is dropped: bytes are either unread or in `lines`.
    async fn message(&mut self) -> Result<Option<Message>, CodecError> {
        loop {
            if let Some(line) = self.lines.next_line()? {
                return parse_line(&line).map(Some);
            }
            match self.reader.read(&mut self.chunk).await {
                Ok(0) | Err(_) => return Ok(None),
                Ok(n) => self.lines.push(&self.chunk[..n]),
            }
        }
    }
}

/// The task that owns a connection.
struct Connection {
    incoming: Incoming,
    writer: OwnedWriteHalf,
    outgoing: Vec<u8>,
    requests: mpsc::Receiver<Request>,
    in_flight: BTreeMap<u64, oneshot::Sender<Answer>>,
    next_id: u64,
    events: mpsc::Sender<Event>,
    lost: Arc<AtomicU64>,
    path: PathBuf,
}

impl Connection {
    /// Reads and writes at the same time, so that neither side can block the other. Dropping
    /// `in_flight` at the end tells every waiting caller that the connection is closed.
    async fn run(mut self) {
        loop {
            tokio::select! {
                message = self.incoming.message() => match message {
                    Ok(Some(message)) => self.hand_out(message),
                    Ok(None) => return,
                    Err(error) => {
                        let error = protocol(&self.path, error);
                        tracing::warn!(%error, "QMP connection given up");
                        return;
                    }
                },
                written = self.writer.write(&self.outgoing), if !self.outgoing.is_empty() => {
                    match written {
                        Ok(n) if n > 0 => drop(self.outgoing.drain(..n)),
                        Ok(_) | Err(_) => return,
                    }
                }
                request = self.requests.recv(), if self.outgoing.len() < MAX_OUTGOING => {
                    match request {
                        Some(request) => self.take(request),
                        None => return,
                    }
                }
            }
        }
    }

    fn take(&mut self, request: Request) {
        self.next_id += 1;
        let line = command_line(&request.name, &request.arguments, self.next_id);
        self.outgoing.extend_from_slice(&line);
        self.in_flight.insert(self.next_id, request.answer);
    }

    fn hand_out(&mut self, message: Message) {
        match message {
            Message::Event(event) => {
                if let Err(mpsc::error::TrySendError::Full(_)) = self.events.try_send(event) {
                    self.lost.fetch_add(1, Ordering::Relaxed);
                }
            }
            Message::Return { id, value } => self.answer(id, Ok(value)),
            Message::Error { id, class, desc } => self.answer(id, Err((class, desc))),
            // QEMU greets once; a second greeting answers nothing.
            Message::Greeting(_) => {}
        }
    }

    /// Answers nobody waits for any more (after a time limit) are dropped.
    fn answer(&mut self, id: Option<u64>, answer: Answer) {
        if let Some(waiting) = id.and_then(|id| self.in_flight.remove(&id)) {
            drop(waiting.send(answer));
        }
    }
}

impl Qmp {
    /// Arguments that are one string under one key.
    pub(super) fn named(key: &str, value: &str) -> Value {
        json!({ key: value })
    }
}
