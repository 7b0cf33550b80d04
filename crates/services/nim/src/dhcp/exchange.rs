//! One exchange with the servers of a link, as a machine. Pure: no clock, no socket.
//!
//! ```text
//!  Ask::Discover          Ask::Confirm (known address)        Ask::Renew, Ask::Rebind
//!       |                        |  silence                          |
//!       v                        v                                   v
//!  Discovering <----------- Confirming ---- NAK ---> Refused <-- Extending -- silence --> Silent
//!    |     ^  \                  |                                   |
//!  OFFER   |   silence --> Silent|                                   |
//!    v     | NAK, silence       ACK                                 ACK
//!  Selecting --- ACK ---------> Granted <----------------------------+
//! ```
//!
//! The first repetitions come quickly: a link that just came up often loses the first packet,
//! and time to the first address is what people wait for.

use std::{net::Ipv4Addr, time::Duration};

use super::{Ask, Grant, Query, QueryKind, Reply};

/// Waits after each DISCOVER; after the last one the exchange ends.
const DISCOVER: [u64; 5] = [400, 800, 1600, 3200, 4000];
/// Waits after each other question.
const REQUEST: [u64; 3] = [500, 1000, 2000];
/// From which repetition on the answer is asked for as a broadcast: some networks lose packets
/// to an address that nobody has yet.
const THEN_BROADCAST: usize = 2;

/// What happens to an exchange.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A server answered.
    Reply(Reply),
    /// The wait that was asked for is over.
    Timeout,
}

/// What an exchange wants done, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Send this.
    Send(Query),
    /// Wait so long for an answer.
    Wait(Duration),
    /// It is over.
    End(Outcome),
}

/// How an exchange ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// A server gives the address.
    Granted(Grant),
    /// A server says that the address is not for us.
    Refused,
    /// Nobody answered. True if somebody had offered an address before.
    Silent {
        /// There was an offer.
        offered: bool,
    },
}

/// An exchange under way.
#[derive(Debug, Clone, PartialEq)]
pub struct Exchange {
    phase: Phase,
    /// Questions of this phase that were sent.
    sent: usize,
    /// Addresses were offered and then refused, or not confirmed: so often.
    broken_offers: usize,
}

#[derive(Debug, Clone, PartialEq)]
enum Phase {
    Discovering,
    Selecting {
        address: Ipv4Addr,
        server: Ipv4Addr,
    },
    Confirming {
        address: Ipv4Addr,
    },
    Extending {
        address: Ipv4Addr,
        server: Option<Ipv4Addr>,
    },
    Over,
}

impl Exchange {
    /// Begins an exchange.
    pub fn start(ask: &Ask) -> (Self, Vec<Effect>) {
        let phase = match *ask {
            Ask::Discover => Phase::Discovering,
            Ask::Confirm { address } => Phase::Confirming { address },
            Ask::Renew { address, server } => Phase::Extending {
                address,
                server: Some(server),
            },
            Ask::Rebind { address } => Phase::Extending {
                address,
                server: None,
            },
        };
        Self {
            phase,
            sent: 0,
            broken_offers: 0,
        }
        .send()
    }

    /// Goes on.
    pub fn step(self, event: Event) -> (Self, Vec<Effect>) {
        match (self.phase.clone(), event) {
            (phase, Event::Timeout) if phase != Phase::Over => self.again(),
            (Phase::Discovering, Event::Reply(Reply::Offer(offer))) => Self {
                phase: Phase::Selecting {
                    address: offer.address.addr(),
                    server: offer.server,
                },
                sent: 0,
                ..self
            }
            .send(),
            (
                Phase::Selecting { .. } | Phase::Confirming { .. } | Phase::Extending { .. },
                Event::Reply(Reply::Ack(grant)),
            ) => self.end(Outcome::Granted(grant)),
            (Phase::Selecting { .. }, Event::Reply(Reply::Nak)) => self.offer_broken(),
            (Phase::Confirming { .. } | Phase::Extending { .. }, Event::Reply(Reply::Nak)) => {
                self.end(Outcome::Refused)
            }
            // Answers to earlier questions, or of servers that were not chosen.
            (Phase::Over, _)
            | (_, Event::Timeout)
            | (Phase::Discovering, Event::Reply(Reply::Ack(_) | Reply::Nak))
            | (
                Phase::Selecting { .. } | Phase::Confirming { .. } | Phase::Extending { .. },
                Event::Reply(Reply::Offer(_)),
            ) => (self, Vec::new()),
        }
    }

    fn waits(&self) -> &'static [u64] {
        match self.phase {
            Phase::Discovering => &DISCOVER,
            Phase::Selecting { .. }
            | Phase::Confirming { .. }
            | Phase::Extending { .. }
            | Phase::Over => &REQUEST,
        }
    }

    fn send(mut self) -> (Self, Vec<Effect>) {
        let kind = match self.phase {
            Phase::Discovering => QueryKind::Discover,
            Phase::Selecting { address, server } => QueryKind::Select { address, server },
            Phase::Confirming { address } => QueryKind::Confirm { address },
            Phase::Extending { address, server } => QueryKind::Extend { address, server },
            Phase::Over => return (self, Vec::new()),
        };
        let query = Query {
            kind,
            broadcast_answer: self.sent >= THEN_BROADCAST,
        };
        let wait = self.waits().get(self.sent).copied().unwrap_or(1000);
        self.sent += 1;
        let wait = Effect::Wait(Duration::from_millis(wait));
        (self, vec![Effect::Send(query), wait])
    }

    /// Nobody answered in time.
    fn again(self) -> (Self, Vec<Effect>) {
        if self.sent < self.waits().len() {
            return self.send();
        }
        match self.phase {
            Phase::Selecting { .. } => self.offer_broken(),
            Phase::Confirming { .. } => self.discover(),
            Phase::Discovering | Phase::Extending { .. } | Phase::Over => {
                let offered = self.broken_offers > 0;
                self.end(Outcome::Silent { offered })
            }
        }
    }

    fn offer_broken(mut self) -> (Self, Vec<Effect>) {
        self.broken_offers += 1;
        if self.broken_offers > 1 {
            // A server that offers what it does not give: not again at once.
            return self.end(Outcome::Silent { offered: true });
        }
        self.discover()
    }

    fn discover(self) -> (Self, Vec<Effect>) {
        Self {
            phase: Phase::Discovering,
            sent: 0,
            ..self
        }
        .send()
    }

    fn end(self, outcome: Outcome) -> (Self, Vec<Effect>) {
        let over = Self {
            phase: Phase::Over,
            ..self
        };
        (over, vec![Effect::End(outcome)])
    }
}

#[cfg(test)]
#[path = "exchange_tests.rs"]
mod tests;
