//! What a device measured, beside what people have reviewed.
//!
//! A *baseline* is a measured state that somebody looked at and accepted, of one device or for all of a hardware model.
//! The state of now is compared with each; what differs from the nearest is told by component and, where the event log
//! explains the values, by event.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use api::attest::{AttestVersionType, TpmHashAlgo, ZAttestQuote};
use model::security::component_of_pcr;
use serde::{Deserialize, Serialize};

use super::eventlog::{self, Event};

/// The registers that count: those that EVE seals its vault to. 5 changes with the partition table, 15 with the day.
pub const PCRS: [u32; 14] = [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14];
/// Events of a change that are told.
const TOLD: usize = 12;

/// What a device should do about a state that nobody has accepted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measurements {
    /// Note what changed; the device comes in.
    #[default]
    Report,
    /// The device does not come in before somebody has accepted its state.
    Enforce,
}

/// What a quote proved of a device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// Values of the SHA-256 bank, hex.
    pub pcrs: BTreeMap<u32, String>,
    /// What the log says was measured.
    #[serde(default)]
    pub events: Vec<Event>,
    /// Registers whose value the log gives.
    #[serde(default)]
    pub explained: BTreeSet<u32>,
    /// Versions that the device names; not proved by anything.
    #[serde(default)]
    pub versions: Vec<String>,
    /// Why there is no log.
    #[serde(default)]
    pub log_problem: Option<String>,
}

/// One register that is not as it was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Its number.
    pub pcr: u32,
    /// What is measured into it.
    pub component: String,
    /// As it was accepted, hex; empty if it was not there.
    pub was: String,
    /// As it is, hex; empty if it is not there.
    pub is: String,
    /// Measurements that are not made any more, in words.
    pub gone: Vec<String>,
    /// Measurements that are new, in words.
    pub new: Vec<String>,
    /// The log gives the values, so that the measurements are what they are said to be.
    pub explained: bool,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (PCR {})", self.component, self.pcr)?;
        match (self.new.first(), self.gone.first()) {
            (Some(new), _) => write!(f, ": now {new}"),
            (None, Some(gone)) => write!(f, ": no longer {gone}"),
            (None, None) => Ok(()),
        }
    }
}

/// How a state compares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Comparison {
    /// Nobody has accepted any state yet.
    NoBaseline,
    /// It is one that was accepted.
    Accepted,
    /// It differs from all of them; from the nearest by these.
    Changed(Vec<Change>),
}

impl Comparison {
    /// In a line, for people.
    pub fn text(&self) -> String {
        match self {
            Self::NoBaseline => "nobody has reviewed its measurements yet".to_owned(),
            Self::Accepted => "as reviewed".to_owned(),
            Self::Changed(changes) => {
                let told: Vec<_> = changes.iter().map(ToString::to_string).collect();
                format!("changed since its review: {}", told.join("; "))
            }
        }
    }
}

/// Takes a quote apart that was found to be good.
pub fn measured(quote: &ZAttestQuote) -> Measured {
    let pcrs: BTreeMap<u32, String> = quote
        .pcr_values
        .iter()
        .filter(|v| v.hash_algo == i32::from(TpmHashAlgo::Sha256))
        .map(|v| (v.index, hex::encode(&v.value)))
        .collect();
    let log = eventlog::unpack(&quote.tpm_binary_event_log).and_then(|log| eventlog::parse(&log));
    let (log, log_problem) = match log {
        Ok(log) if log.events.is_empty() => (log, Some("the device sent none".to_owned())),
        Ok(log) => (log, None),
        Err(error) => (eventlog::EventLog::default(), Some(error.to_string())),
    };
    let explained = log
        .replay()
        .into_iter()
        .filter(|(pcr, value)| pcrs.get(pcr) == Some(&hex::encode(value)))
        .map(|(pcr, _)| pcr)
        .collect();
    let versions = quote
        .versions
        .iter()
        .map(|version| {
            let what = match AttestVersionType::try_from(version.version_type) {
                Ok(AttestVersionType::Eve) => "EVE",
                Ok(AttestVersionType::EveOrigin) => "EVE as installed",
                Ok(AttestVersionType::Firmware) => "firmware",
                Ok(AttestVersionType::Invalid) | Err(_) => "unknown",
            };
            let text: String = version
                .version
                .chars()
                .filter(|c| !c.is_control())
                .take(120)
                .collect();
            format!("{what} {text}")
        })
        .take(16)
        .collect();
    Measured {
        pcrs,
        events: log.events,
        explained,
        versions,
        log_problem,
    }
}

/// Compares a state with those that were accepted.
pub fn compare(now: &Measured, accepted: &[Measured]) -> Comparison {
    let changes = accepted.iter().map(|base| changes(now, base));
    match changes.min_by_key(Vec::len) {
        None => Comparison::NoBaseline,
        Some(none) if none.is_empty() => Comparison::Accepted,
        Some(some) => Comparison::Changed(some),
    }
}

fn changes(now: &Measured, base: &Measured) -> Vec<Change> {
    PCRS.iter()
        .filter(|pcr| now.pcrs.get(pcr) != base.pcrs.get(pcr))
        .map(|pcr| {
            let value = |of: &Measured| of.pcrs.get(pcr).cloned().unwrap_or_default();
            let explained = now.explained.contains(pcr) && base.explained.contains(pcr);
            Change {
                pcr: *pcr,
                component: component_of_pcr(*pcr).to_owned(),
                was: value(base),
                is: value(now),
                gone: only_in(base, now, *pcr),
                new: only_in(now, base, *pcr),
                explained,
            }
        })
        .collect()
}

/// Measurements into a register that `one` has and `other` has not, or not so often.
fn only_in(one: &Measured, other: &Measured, pcr: u32) -> Vec<String> {
    fn of(measured: &Measured, pcr: u32) -> impl Iterator<Item = &Event> {
        measured.events.iter().filter(move |e| e.pcr == pcr)
    }
    let mut left: BTreeMap<(u32, &str), usize> = BTreeMap::new();
    for event in of(other, pcr) {
        *left.entry((event.kind, &event.digest)).or_default() += 1;
    }
    let mut found: Vec<String> = of(one, pcr)
        .filter(|event| {
            let same = left.entry((event.kind, &event.digest)).or_default();
            let is_new = *same == 0;
            *same = same.saturating_sub(1);
            is_new
        })
        .map(|event| {
            let short = event.digest.get(..12).unwrap_or(&event.digest);
            format!(
                "{} {:?} ({short}..)",
                eventlog::kind_name(event.kind),
                event.text
            )
        })
        .collect();
    let more = found.len().saturating_sub(TOLD);
    if more > 0 {
        found.truncate(TOLD);
        found.push(format!("and {more} more"));
    }
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use api::attest::TpmPcrValue;

    use super::*;
    use crate::decide::attest::eventlog::tests::{log, packed};

    fn quote(events: &[(u32, u32, &[u8])]) -> ZAttestQuote {
        let log = log(events);
        let replayed = eventlog::parse(&log).unwrap().replay();
        let value = |index: u32| TpmPcrValue {
            index,
            hash_algo: TpmHashAlgo::Sha256.into(),
            value: replayed.get(&index).map_or(vec![0; 32], |v| v.to_vec()),
        };
        ZAttestQuote {
            pcr_values: (0..16).map(value).collect(),
            tpm_binary_event_log: packed(&log),
            ..ZAttestQuote::default()
        }
    }

    const BOOT: [(u32, u32, &[u8]); 4] = [
        (0, 8, b"firmware 1"),
        (4, 0x8000_0003, b"shim"),
        (8, 0xd, b"grub_cmd: linux /vmlinuz quiet"),
        (9, 0xd, b"/boot/vmlinuz"),
    ];

    #[test]
    fn what_changed_is_named_by_component_and_event() {
        let base = measured(&quote(&BOOT));
        assert!(base.explained.contains(&0) && base.log_problem.is_none());
        assert_eq!(compare(&base, &[]), Comparison::NoBaseline);
        assert_eq!(
            compare(&base, std::slice::from_ref(&base)),
            Comparison::Accepted
        );
        let mut events = BOOT;
        events[0].2 = b"firmware 2";
        events[2].2 = b"grub_cmd: linux /vmlinuz init=/bin/sh";
        let now = measured(&quote(&events));
        let Comparison::Changed(changes) = compare(&now, std::slice::from_ref(&base)) else {
            panic!()
        };
        let named: Vec<_> = changes
            .iter()
            .map(|c| (c.pcr, c.component.as_str()))
            .collect();
        assert_eq!(
            named,
            [
                (0, "firmware"),
                (8, "bootloader commands and kernel parameters")
            ]
        );
        assert!(changes.iter().all(|c| c.explained));
        assert!(
            changes[1].new[0].contains("init=/bin/sh"),
            "{:?}",
            changes[1]
        );
        assert!(changes[1].gone[0].contains("quiet"), "{:?}", changes[1]);
        let text = Comparison::Changed(changes).text();
        assert!(
            text.contains("firmware (PCR 0): now S_CRTM_VERSION \"firmware 2\""),
            "{text}"
        );
        // Of several accepted states the nearest is told.
        events[0].2 = b"firmware 1";
        let near = measured(&quote(&events));
        let Comparison::Changed(changes) = compare(&now, &[base, near]) else {
            panic!()
        };
        assert_eq!(changes.len(), 1);
    }

    #[test]
    fn a_log_that_does_not_give_the_values_explains_nothing() {
        let mut lying = quote(&BOOT);
        lying.pcr_values[8].value = vec![1; 32];
        let now = measured(&lying);
        assert!(!now.explained.contains(&8) && now.explained.contains(&9));
        let Comparison::Changed(changes) = compare(&now, &[measured(&quote(&BOOT))]) else {
            panic!()
        };
        assert_eq!((changes[0].pcr, changes[0].explained), (8, false));
        assert!(changes[0].new.is_empty(), "the log says nothing changed");
        let mut none = quote(&BOOT);
        none.tpm_binary_event_log = b"x".to_vec();
        let none = measured(&none);
        assert!(none.log_problem.unwrap().contains("unpacked") && none.events.is_empty());
    }

    #[test]
    fn registers_of_the_day_do_not_count() {
        let base = measured(&quote(&BOOT));
        let mut now = base.clone();
        for pcr in [5, 15] {
            now.pcrs.insert(pcr, "ff".repeat(32));
        }
        assert_eq!(compare(&now, &[base]), Comparison::Accepted);
    }
}
