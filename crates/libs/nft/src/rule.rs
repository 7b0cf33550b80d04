//! Rules: what they match, what they do, how they end.

use crate::field::{Field, Key};
use crate::{Name, Tag, Value};
use std::net::IpAddr;

/// The state of the connection that a packet belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConnState {
    /// The first packet of one.
    New,
    /// A later packet of one.
    Established,
    /// Belongs to another one, such as an ICMP error about it.
    Related,
    /// Belongs to none and can't begin one.
    Invalid,
}

/// Where an address is, seen from this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LocalAddress {
    /// One of this host's own.
    Own,
    /// A broadcast address of one of its networks.
    Broadcast,
    /// A multicast group.
    Multicast,
}

/// How much, and in which time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rate {
    /// Packets per second.
    Packets(u32),
    /// Packets per minute.
    PacketsPerMinute(u32),
    /// Packets per hour.
    PacketsPerHour(u32),
    /// Bytes per second.
    Bytes(u32),
}

/// A rate limit. Each rule that has one has a bucket of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Limit {
    /// What flows into the bucket.
    pub rate: Rate,
    /// What the bucket holds, in the unit of the rate.
    pub burst: u32,
    /// Matches packets that find the bucket empty if true, those that find it filled if false.
    pub over: bool,
}

/// A condition on a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match(pub(crate) Test);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Test {
    /// The field is (not) one of the values.
    Values {
        field: &'static str,
        not: bool,
        values: Vec<Value>,
    },
    /// The key is (not) in the set.
    Within {
        key: Key,
        not: bool,
        set: Name,
    },
    /// The masked mark equals the value.
    Bits {
        field: &'static str,
        mask: u32,
        value: u32,
    },
    State(Vec<ConnState>),
    Translated,
    Reply(bool),
    Target(LocalAddress),
    Limit(Limit),
}

impl Match {
    /// The field has this value, or one of this range.
    pub fn is<T: Into<Value>>(field: Field<T>, value: impl Into<T>) -> Self {
        Self::values(field, false, [value.into()])
    }

    /// The packet has the field, and it has another value.
    pub fn is_not<T: Into<Value>>(field: Field<T>, value: impl Into<T>) -> Self {
        Self::values(field, true, [value.into()])
    }

    /// The field has one of these values. For more than a few, or such that come and go, use a
    /// named [`Set`](crate::Set) and [`within`](Self::within). Of no values: never matches, and
    /// building the table fails.
    pub fn any<T: Into<Value>>(field: Field<T>, values: impl IntoIterator<Item = T>) -> Self {
        Self::values(field, false, values)
    }

    /// The packet has the field, and it has none of these values.
    pub fn none<T: Into<Value>>(field: Field<T>, values: impl IntoIterator<Item = T>) -> Self {
        Self::values(field, true, values)
    }

    fn values<T: Into<Value>>(
        field: Field<T>,
        not: bool,
        values: impl IntoIterator<Item = T>,
    ) -> Self {
        let mut values: Vec<Value> = values.into_iter().map(Into::into).collect();
        values.sort();
        values.dedup();
        let field = field.text;
        Self(Test::Values { field, not, values })
    }

    /// The fields, taken together, are in the set.
    pub fn within(key: Key, set: &Name) -> Self {
        let (not, set) = (false, set.clone());
        Self(Test::Within { key, not, set })
    }

    /// The packet has the fields, and together they aren't in the set.
    pub fn not_within(key: Key, set: &Name) -> Self {
        let (not, set) = (true, set.clone());
        Self(Test::Within { key, not, set })
    }

    /// Those bits of the mark that are set in `mask` equal `value`.
    pub fn bits(field: Field<u32>, mask: u32, value: u32) -> Self {
        let field = field.text;
        Self(Test::Bits { field, mask, value })
    }

    /// The connection is in one of these states.
    pub fn state(states: impl IntoIterator<Item = ConnState>) -> Self {
        let mut states: Vec<ConnState> = states.into_iter().collect();
        states.sort();
        states.dedup();
        Self(Test::State(states))
    }

    /// The destination of the connection was translated.
    pub fn translated() -> Self {
        Self(Test::Translated)
    }

    /// The packet goes from the side that was contacted to the one that made contact.
    pub fn reply() -> Self {
        Self(Test::Reply(true))
    }

    /// The packet goes from the side that made contact to the one that was contacted.
    pub fn original() -> Self {
        Self(Test::Reply(false))
    }

    /// The destination address is of this kind.
    pub fn target(kind: LocalAddress) -> Self {
        Self(Test::Target(kind))
    }

    /// The packet is within, or over, a rate.
    pub fn limit(limit: Limit) -> Self {
        Self(Test::Limit(limit))
    }
}

/// Which mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mark {
    /// The packet's.
    Packet,
    /// The connection's.
    Connection,
}

/// Where a mark comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MarkValue {
    /// This number.
    Is(u32),
    /// What it is already, with these bits set.
    Or(u32),
    /// Of what it is already the bits of the first mask, with the second bits set.
    KeepOr(u32, u32),
    /// What another mark is, as far as this mask covers it.
    From(Mark, u32),
    /// What a map from keys to marks says. The rule ends here for a packet whose key is not in it.
    By(Key, Name),
}

/// A line in the log of a group: `nflog`, read by a netlink socket of the same network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Which listener.
    pub group: u16,
    /// Text that goes with the packet.
    pub prefix: Tag,
}

/// Something that a rule does before it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    /// Adds the packet to a named counter.
    Count(Name),
    /// Sets a mark.
    Mark(Mark, MarkValue),
    /// Sends the packet to a log group.
    Log(Log),
}

/// What happens to a packet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Goes on to the next base chain of the hook, if any.
    Accept,
    /// Vanishes.
    Drop,
    /// Goes back to the chain that jumped here; from a base chain, to its policy.
    Return,
    /// Goes through another chain and, unless that decides, comes back.
    Jump(Name),
    /// Goes through another chain and doesn't come back.
    Goto(Name),
}

/// The answer that a refused packet gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reject {
    /// A TCP reset; for TCP only.
    TcpReset,
    /// ICMP port unreachable.
    PortUnreachable,
    /// ICMP administratively prohibited.
    Prohibited,
}

/// How a rule ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// With this verdict.
    Verdict(Verdict),
    /// With the verdict that a map has for the key. A packet that isn't in it goes on with the
    /// next rule.
    VerdictBy(Key, Name),
    /// Refused with an answer. Doesn't exist in all kernels for bridges.
    Reject(Reject),
    /// With another destination address and, if given, port.
    Dnat(IpAddr, Option<u16>),
    /// With the IPv4 destination address and port that a map has for the key. A packet that isn't
    /// in it goes on with the next rule.
    Dnat4By(Key, Name),
    /// The same for IPv6.
    Dnat6By(Key, Name),
    /// With another source address.
    Snat(IpAddr),
    /// With the address of the interface by which it leaves as its source.
    Masquerade,
    /// To this host itself, on this port.
    Redirect(u16),
}

impl From<Verdict> for End {
    fn from(verdict: Verdict) -> Self {
        Self::Verdict(verdict)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Clause {
    Match(Match),
    Statement(Statement),
}

/// One rule: conditions and statements in the order given, then an end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub(crate) tag: Tag,
    pub(crate) clauses: Vec<Clause>,
    pub(crate) end: Option<End>,
}

impl Rule {
    /// A rule that matches every packet and does nothing, with a comment that says what it is for.
    pub fn new(tag: Tag) -> Self {
        let (clauses, end) = (Vec::new(), None);
        Self { tag, clauses, end }
    }

    /// Goes no further for packets that don't match.
    #[must_use]
    pub fn when(mut self, condition: Match) -> Self {
        self.clauses.push(Clause::Match(condition));
        self
    }

    /// Does something with the packets that matched so far.
    #[must_use]
    pub fn with(mut self, statement: Statement) -> Self {
        self.clauses.push(Clause::Statement(statement));
        self
    }

    /// Counts the packets that matched so far.
    #[must_use]
    pub fn count(self, counter: &Name) -> Self {
        self.with(Statement::Count(counter.clone()))
    }

    /// Ends in this way. The last call counts.
    #[must_use]
    pub fn then(mut self, end: impl Into<End>) -> Self {
        self.end = Some(end.into());
        self
    }
}
