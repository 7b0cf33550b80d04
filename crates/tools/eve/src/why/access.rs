//! Ways in for a person: why one that is asked for is not open, or one that is not is.

use model::access::AccessPhase;

use super::{
    Condition, Kind,
    walk::{Block, Walk},
};

impl Walk<'_> {
    pub(super) fn access(&mut self, key: &str) -> Block {
        let d = self.device;
        let subject = Self::subject(Kind::Access, key, "");
        let state = d.access.get(key).map_or_else(
            || "not known".to_owned(),
            |row| crate::access::text(row, d.at),
        );
        self.enter(subject.clone(), state, |w| {
            if let Some(down) = w.answers("accessmgr", "AccessStatus") {
                return Some(down);
            }
            let row = d.access.get(key)?;
            if let Some(fault) = &row.fault {
                return Some(w.fault(subject, fault));
            }
            let text = match row.phase {
                AccessPhase::Opening => "it is being opened",
                AccessPhase::Closing => "it is being shut",
                AccessPhase::Closed | AccessPhase::Open => return None,
            };
            let condition = Condition::progress(subject, text);
            Some(w.at(condition, Some(row.since), None))
        })
    }
}
