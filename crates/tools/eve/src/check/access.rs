//! The ways in for a person: each of them, whether it is open, since when and why.

use model::access::{AccessPhase, AccessReason, AccessStatus, Way};

use super::{Judge, Verdict, fail, ok, skipped, warn};
use crate::access;

impl Judge<'_> {
    pub(super) fn access(&mut self) {
        if self.device.access.rows.is_empty() {
            self.add("access", skipped("accessmgr says nothing"));
        }
        for way in Way::ALL {
            if let Some(row) = self.device.access.get(way.key()) {
                let verdict = self.way(row);
                self.about("access", way.key(), verdict);
            }
        }
    }

    fn way(&self, row: &AccessStatus) -> Verdict {
        let text = access::text(row, self.device.at);
        if let Some(fault) = &row.fault {
            let text = format!("{text}; [{}] {}", fault.code, fault.text);
            // What is open though it should not be, is worse than what does not open.
            return match row.phase {
                AccessPhase::Closing => fail(text, fault.code.remedy()),
                AccessPhase::Closed | AccessPhase::Opening | AccessPhase::Open => {
                    warn(text, fault.code.remedy())
                }
            };
        }
        match (row.phase, row.reason) {
            (AccessPhase::Closed, _) => ok(text),
            (_, AccessReason::FirstBoot) => warn(
                text,
                "The first config ends it; take the file out of CONFIG to end it now.",
            ),
            (AccessPhase::Opening | AccessPhase::Open | AccessPhase::Closing, _) => warn(
                text,
                format!(
                    "Take the value out of {} when it is no longer needed.",
                    row.way.property()
                ),
            ),
        }
    }
}
