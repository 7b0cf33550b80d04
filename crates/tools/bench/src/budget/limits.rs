//! Limits, what was found, and the goals that no limit may exceed: pure.

use std::{collections::BTreeMap, fmt};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

/// The name of a sum.
const TOGETHER: &str = "together";

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// Stripped sizes of the device's files.
    SizeKib,
    /// Memory of a service at rest, shared pages by their share.
    PssKib,
    /// Memory that it has for itself alone.
    PrivateKib,
    /// Its threads at rest.
    Threads,
    /// Its open descriptors at rest.
    Descriptors,
    /// How often it wakes up at rest.
    WakeupsPerMinute,
    /// System calls from its `exec` until it is ready.
    StartCalls,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SizeKib => "size KiB",
            Self::PssKib => "PSS KiB",
            Self::PrivateKib => "private KiB",
            Self::Threads => "threads",
            Self::Descriptors => "descriptors",
            Self::WakeupsPerMinute => "wake-ups/min",
            Self::StartCalls => "calls to ready",
        })
    }
}

/// How the programs were built.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// For work on them and for tests.
    Debug,
    /// For devices.
    Release,
}

/// The limits of each profile: the file.
pub(crate) type Budget = BTreeMap<Profile, Figures>;

/// Numbers by kind and by service or file.
pub(crate) type Figures = BTreeMap<Kind, BTreeMap<String, u64>>;

/// One figure beside its limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) kind: Kind,
    pub(crate) name: String,
    pub(crate) limit: Option<u64>,
    pub(crate) found: Option<u64>,
    pub(crate) trouble: Option<Trouble>,
}

/// What is wrong with a figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// More than the limit.
    Over,
    /// Nobody has said how much it may be.
    NoLimit,
    /// A limit for what isn't there.
    NotFound,
    /// The limit itself is above the product's goal.
    AboveGoal(u64),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Over => f.write_str("OVER"),
            Self::NoLimit => f.write_str("HAS NO LIMIT"),
            Self::NotFound => f.write_str("NOT FOUND"),
            Self::AboveGoal(goal) => write!(f, "LIMIT ABOVE THE GOAL OF {goal}"),
        }
    }
}

/// What the product has promised, whatever the file says.
fn goal(profile: Profile, kind: Kind, name: &str) -> Option<u64> {
    let shipped = profile == Profile::Release;
    match (kind, name == TOGETHER) {
        // 32 MB, of a thousand kilobytes each.
        (Kind::SizeKib, true) => shipped.then_some(31_250),
        (Kind::PssKib, true) => shipped.then_some(40 * 1024),
        (Kind::PssKib, false) => shipped.then_some(5 * 1024),
        (Kind::WakeupsPerMinute, false) => Some(60),
        (
            Kind::SizeKib
            | Kind::PrivateKib
            | Kind::Threads
            | Kind::Descriptors
            | Kind::WakeupsPerMinute
            | Kind::StartCalls,
            _,
        ) => None,
    }
}

/// Room above what was found, for what differs between two runs and two machines.
fn room(kind: Kind, found: u64) -> u64 {
    match kind {
        Kind::SizeKib => found / 50,
        Kind::PssKib | Kind::PrivateKib => found / 10 + 64,
        Kind::Threads => 0,
        Kind::Descriptors => 2,
        // Who waits for another's answer wakes up more often where that takes longer.
        Kind::WakeupsPerMinute => found + 10,
        // The supervisor's depend on how many services are ready at once, which differs by a seventh.
        Kind::StartCalls => found / 5 + 5,
    }
}

/// Adds the sums where a sum means something.
fn with_sums(figures: &Figures) -> Figures {
    let mut all = figures.clone();
    for (kind, by_name) in &mut all {
        match kind {
            Kind::SizeKib | Kind::PssKib | Kind::PrivateKib => {
                by_name.insert(TOGETHER.to_owned(), by_name.values().sum());
            }
            Kind::Threads | Kind::Descriptors | Kind::WakeupsPerMinute | Kind::StartCalls => {}
        }
    }
    all
}

/// Every figure beside its limit.
pub(crate) fn judge(profile: Profile, limits: &Figures, found: &Figures) -> Vec<Verdict> {
    let found = with_sums(found);
    let mut names: Vec<(Kind, &str)> = [limits, &found]
        .into_iter()
        .flatten()
        .flat_map(|(kind, by_name)| by_name.keys().map(|name| (*kind, name.as_str())))
        .collect();
    names.sort_unstable();
    names.dedup();
    let of = |figures: &Figures, kind, name| figures.get(&kind)?.get(name).copied();
    let verdicts = names.into_iter().map(|(kind, name)| {
        let (limit, found) = (of(limits, kind, name), of(&found, kind, name));
        Verdict {
            kind,
            name: name.to_owned(),
            limit,
            found,
            trouble: match (limit, found, goal(profile, kind, name)) {
                (Some(limit), _, Some(goal)) if limit > goal => Some(Trouble::AboveGoal(goal)),
                (Some(limit), Some(found), _) => (found > limit).then_some(Trouble::Over),
                (None, _, _) => Some(Trouble::NoLimit),
                (Some(_), None, _) => Some(Trouble::NotFound),
            },
        }
    });
    verdicts.collect()
}

/// Limits that allow what was found and some room, but never more than the goals.
pub(crate) fn blessed(profile: Profile, found: &Figures) -> Result<Figures> {
    let mut limits = with_sums(found);
    for (kind, by_name) in &mut limits {
        for (name, value) in by_name {
            let with_room = *value + room(*kind, *value);
            if let Some(goal) = goal(profile, *kind, name) {
                ensure!(
                    *value <= goal,
                    "{kind} {name}: {value} is above the goal of {goal}, and no limit may be"
                );
                *value = with_room.min(goal);
            } else {
                *value = with_room;
            }
        }
    }
    Ok(limits)
}

/// A file from its text.
pub(crate) fn read(text: &str) -> Result<Budget> {
    Ok(serde_json::from_str(text)?)
}

/// The file's text.
pub(crate) fn written(budget: &Budget) -> Result<String> {
    Ok(serde_json::to_string_pretty(budget)? + "\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn figures(kind: Kind, figures: &[(&str, u64)]) -> Figures {
        let by_name = figures
            .iter()
            .map(|(name, value)| ((*name).to_owned(), *value));
        [(kind, by_name.collect())].into()
    }

    fn bless(found: &Figures) -> Result<Figures> {
        blessed(Profile::Release, found)
    }

    fn troubles(limits: &Figures, found: &Figures) -> Vec<(String, Trouble)> {
        let verdicts = judge(Profile::Release, limits, found).into_iter();
        verdicts
            .filter_map(|verdict| Some((verdict.name, verdict.trouble?)))
            .collect()
    }

    #[test]
    fn what_was_blessed_is_kept_to_and_more_is_told() {
        let found = figures(Kind::PssKib, &[("nim", 2000), ("zedagent", 3000)]);
        let budget = [(Profile::Release, bless(&found).unwrap())].into();
        let limits = read(&written(&budget).unwrap()).unwrap()[&Profile::Release].clone();
        assert!(troubles(&limits, &found).is_empty());
        let more = figures(Kind::PssKib, &[("nim", 3000), ("zedagent", 3000)]);
        let over = |name: &str| (name.to_owned(), Trouble::Over);
        assert_eq!(troubles(&limits, &more), [over("nim"), over("together")]);
    }

    #[test]
    fn a_service_without_a_limit_and_a_limit_without_a_service_are_told() {
        let limits = figures(Kind::Threads, &[("nim", 1), ("gone", 1)]);
        let found = figures(Kind::Threads, &[("nim", 1), ("new", 1)]);
        let expected = [
            ("gone".to_owned(), Trouble::NotFound),
            ("new".to_owned(), Trouble::NoLimit),
        ];
        assert_eq!(troubles(&limits, &found), expected);
    }

    #[test]
    fn no_limit_gets_above_a_goal() {
        let goal = 5 * 1024;
        let close = figures(Kind::PssKib, &[("nim", goal - 1)]);
        assert_eq!(bless(&close).unwrap()[&Kind::PssKib]["nim"], goal);
        let above = figures(Kind::PssKib, &[("nim", goal + 1)]);
        let refused = bless(&above).unwrap_err().to_string();
        assert!(refused.contains("PSS KiB nim: 5121"), "{refused}");
        let nine: Vec<_> = ["a", "b", "c", "d", "e", "f", "g", "h", "i"]
            .map(|name| (name, goal))
            .to_vec();
        assert!(bless(&figures(Kind::PssKib, &nine)).is_err(), "together");
        // What isn't shipped may be larger.
        assert!(blessed(Profile::Debug, &above).is_ok());
        // Nor by hand.
        let mut limits = figures(Kind::PssKib, &[("nim", goal + 1)]);
        limits.extend(figures(Kind::WakeupsPerMinute, &[("nim", 61)]));
        let mut found = figures(Kind::PssKib, &[("nim", 1)]);
        found.extend(figures(Kind::WakeupsPerMinute, &[("nim", 1)]));
        let told = troubles(&limits, &found);
        assert!(told.contains(&("nim".to_owned(), Trouble::AboveGoal(goal))));
        assert!(told.contains(&("nim".to_owned(), Trouble::AboveGoal(60))));
    }
}
