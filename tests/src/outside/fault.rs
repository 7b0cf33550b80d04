//! What a controller, or something in its place, may do.

/// A fault of one endpoint, or of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Answers this code.
    Code(u16),
    /// Answers this code and asks to wait so many seconds.
    Busy(u16, u64),
    /// Every other answer is 503.
    Flaps,
    /// Resets the connection instead of an answer.
    Resets,
    /// Never answers.
    Hangs,
    /// Answers a byte at a time, for longer than anybody waits.
    Drips,
    /// Ends in the middle of the body.
    Short,
    /// Sends a body without end.
    Huge,
    /// Answers with a page, as the portal of a hotel does.
    Portal,
    /// Answers with the right type and the wrong bytes.
    Garbage,
    /// Sends the client from here to here.
    Redirects,
    /// Nobody listens; of all endpoints.
    Down,
    /// Something that does not speak TLS; of all endpoints.
    Plain,
    /// A certificate that is over; of all endpoints.
    Expired,
    /// A certificate that is not valid yet; of all endpoints.
    NotYet,
    /// A certificate of somebody else; of all endpoints.
    Foreign,
}

impl Fault {
    /// Faults that one endpoint can have alone.
    pub const OF_ONE: [Self; 18] = [
        Self::Code(401),
        Self::Code(403),
        Self::Code(404),
        Self::Code(409),
        Self::Code(422),
        Self::Code(429),
        Self::Busy(429, 120),
        Self::Code(500),
        Self::Busy(503, 240),
        Self::Flaps,
        Self::Resets,
        Self::Hangs,
        Self::Drips,
        Self::Short,
        Self::Huge,
        Self::Portal,
        Self::Garbage,
        Self::Redirects,
    ];
    /// Faults of every connection.
    pub const OF_ALL: [Self; 5] = [
        Self::Down,
        Self::Plain,
        Self::Expired,
        Self::NotYet,
        Self::Foreign,
    ];

    /// Time that the other side asked for, in seconds.
    pub fn asks_for(self) -> Option<u64> {
        match self {
            Self::Busy(_, seconds) => Some(seconds),
            _ => None,
        }
    }

    pub(super) fn shown(self) -> Shown {
        match self {
            Self::Expired => Shown::Expired,
            Self::NotYet => Shown::NotYet,
            Self::Foreign => Shown::Foreign,
            _ => Shown::Good,
        }
    }
}

/// Which certificate the front shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    Good,
    Expired,
    NotYet,
    Foreign,
}
