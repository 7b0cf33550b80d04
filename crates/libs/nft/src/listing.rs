//! What the kernel has of a table, as `nft -j list table` prints it.

use crate::check::REVISION;
use crate::table::{Chain, Policy, Set, SetContent};
use crate::{BuildError, Hook, Name, Table};
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// What a counter has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes, with the network header and without the link's.
    pub bytes: u64,
}

/// A table in the kernel: enough of it to update it, to see whether it is the intended one, and
/// to read its counters. Contents of sets and maps are not part of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    chains: BTreeMap<String, ListedChain>,
    sets: BTreeMap<String, ListedSet>,
    maps: BTreeSet<String>,
    counters: BTreeMap<String, Count>,
}

/// One chain. `hook`, `prio`, `policy` and the rest are missing from a regular one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
struct ListedChain {
    name: String,
    #[serde(rename = "type")]
    kind: Option<String>,
    hook: Option<String>,
    prio: Option<i32>,
    policy: Option<String>,
    dev: Option<String>,
    /// The comments of its rules in order, filled from the rules, which are listed apart.
    #[serde(skip)]
    rules: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct ListedSet {
    name: String,
    #[serde(rename = "type")]
    kind: Words,
    #[serde(default)]
    flags: Words,
    timeout: Option<u64>,
}

#[derive(Deserialize)]
struct ListedRule {
    chain: String,
    #[serde(default)]
    comment: String,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

/// nft prints a list of one as its only element.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
enum Words {
    One(String),
    Many(Vec<String>),
}

impl Default for Words {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl Words {
    fn all(&self) -> Vec<&str> {
        match self {
            Self::One(word) => vec![word],
            Self::Many(words) => words.iter().map(String::as_str).collect(),
        }
    }
}

#[derive(Deserialize)]
struct Output {
    nftables: Vec<BTreeMap<String, Value>>,
}

impl Listing {
    /// Understands what `nft -j list table` (or `list counters`) printed. Kinds of objects that
    /// this library never makes are skipped.
    pub fn parse(json: &[u8]) -> Result<Self, serde_json::Error> {
        let output: Output = serde_json::from_slice(json)?;
        let mut listing = Self::default();
        let objects = output.nftables.into_iter().flatten();
        for (what, object) in objects {
            match what.as_str() {
                "chain" => {
                    let chain: ListedChain = serde_json::from_value(object)?;
                    listing.chains.insert(chain.name.clone(), chain);
                }
                "set" => {
                    let set: ListedSet = serde_json::from_value(object)?;
                    listing.sets.insert(set.name.clone(), set);
                }
                "map" => {
                    let map: Named = serde_json::from_value(object)?;
                    listing.maps.insert(map.name);
                }
                "counter" => {
                    let count: Count = serde_json::from_value(object.clone())?;
                    let counter: Named = serde_json::from_value(object)?;
                    listing.counters.insert(counter.name, count);
                }
                "rule" => {
                    let rule: ListedRule = serde_json::from_value(object)?;
                    let chain = listing.chains.entry(rule.chain).or_default();
                    chain.rules.push(rule.comment);
                }
                _ => {}
            }
        }
        Ok(listing)
    }

    /// What each counter has seen.
    pub fn counts(&self) -> impl Iterator<Item = (&str, Count)> {
        let mine = |name: &str| !name.starts_with(REVISION);
        let counts = self
            .counters
            .iter()
            .map(|(name, count)| (name.as_str(), *count));
        counts.filter(move |(name, _)| mine(name))
    }

    /// What one counter has seen, if there is such a counter.
    pub fn count(&self, name: &Name) -> Option<Count> {
        self.counters.get(name.as_str()).copied()
    }

    /// Whether the kernel has this table. True only if it was made from an equal description and
    /// nobody changed its chains since; contents of sets and maps are not looked at.
    pub fn holds(&self, table: &Table) -> Result<bool, BuildError> {
        let chain_holds = |chain: &Chain| {
            let policy = chain.base.as_ref().map(|base| match base.policy {
                Policy::Accept => "accept",
                Policy::Drop => "drop",
            });
            let tags = chain.rules.iter().map(|rule| rule.tag.as_str());
            self.has_chain(chain)
                && self.chains.get(chain.name.as_str()).is_some_and(|there| {
                    there.policy.as_deref() == policy && tags.eq(there.rules.iter())
                })
        };
        let revision = table.revision()?;
        Ok(self.counters.contains_key(&revision)
            && self.counters.len() == table.counters.len() + 1
            && self.chains.len() == table.chains.len()
            && table.chains.iter().all(chain_holds)
            && self
                .sets
                .keys()
                .eq(sorted(table.sets.iter().map(|set| &set.name)))
            && self
                .maps
                .iter()
                .eq(sorted(table.maps.iter().map(|map| &map.name))))
    }

    pub(crate) fn maps(&self) -> impl Iterator<Item = &str> {
        self.maps.iter().map(String::as_str)
    }

    pub(crate) fn sets(&self) -> impl Iterator<Item = &str> {
        self.sets.keys().map(String::as_str)
    }

    pub(crate) fn chains(&self) -> impl Iterator<Item = &str> {
        self.chains.keys().map(String::as_str)
    }

    /// The names of all counters, that of the fingerprint included.
    pub(crate) fn all_counters(&self) -> impl Iterator<Item = &str> {
        self.counters.keys().map(String::as_str)
    }

    /// Whether the chain is there at the same place.
    pub(crate) fn has_chain(&self, chain: &Chain) -> bool {
        let Some(there) = self.chains.get(chain.name.as_str()) else {
            return false;
        };
        match &chain.base {
            None => there.hook.is_none(),
            Some(base) => {
                let device = match &base.hook {
                    Hook::Ingress(interface) => Some(interface.as_str()),
                    Hook::Prerouting
                    | Hook::Input
                    | Hook::Forward
                    | Hook::Output
                    | Hook::Postrouting => None,
                };
                there.kind.as_deref() == Some(base.kind())
                    && there.hook.as_deref() == Some(base.hook.text())
                    && there.prio == Some(base.priority)
                    && there.dev.as_deref() == device
            }
        }
    }

    /// Whether the kept set is there with the same type.
    pub(crate) fn has_set(&self, set: &Set) -> bool {
        let Some(there) = self.sets.get(set.name.as_str()) else {
            return false;
        };
        let timeout = match &set.content {
            SetContent::Fixed(_) => None,
            SetContent::Kept { timeout } => timeout.map(|timeout| timeout.as_secs()),
        };
        let flags: &[&str] = if timeout.is_some() { &["timeout"] } else { &[] };
        there.kind.all().join(" . ") == set.key.type_text()
            && there.flags.all() == flags
            && there.timeout == timeout
    }
}

fn sorted<'a>(names: impl Iterator<Item = &'a Name>) -> Vec<&'a str> {
    let mut names: Vec<&str> = names.map(Name::as_str).collect();
    names.sort_unstable();
    names
}
