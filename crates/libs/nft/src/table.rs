//! A table and what is in it.

use crate::{BuildError, Element, Interface, Key, Listing, Name, Rule, Verdict};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// Which packets a table sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4 and IPv6.
    Inet,
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// Frames that a bridge of this host carries.
    Bridge,
    /// Frames as they come from (or go to) an interface, before anything else sees them.
    Netdev,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inet => "inet",
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Bridge => "bridge",
            Self::Netdev => "netdev",
        })
    }
}

/// What names a table: names are per family.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableId {
    /// Its family.
    pub family: Family,
    /// Its name within the family.
    pub name: Name,
}

impl fmt::Display for TableId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.family, self.name)
    }
}

/// Where a base chain is in a packet's way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Hook {
    /// Before the destination is decided.
    Prerouting,
    /// To this host.
    Input,
    /// Through this host.
    Forward,
    /// From this host.
    Output,
    /// After everything else.
    Postrouting,
    /// From this interface, in a table of [`Family::Netdev`].
    Ingress(Interface),
}

/// What happens to a packet that no rule of a base chain decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Policy {
    /// It passes.
    Accept,
    /// It vanishes.
    Drop,
}

/// What makes a chain a base chain: one that packets enter by themselves.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Base {
    /// Whether it may translate addresses. It then sees only the first packet of a connection.
    pub nat: bool,
    /// Where it is.
    pub hook: Hook,
    /// Its place among the chains of the hook; lower comes first. Connection tracking is at
    /// -200, destination translation at -100, filters at 0, source translation at 100; for
    /// bridges br_netfilter is at 0.
    pub priority: i32,
    /// What happens at its end.
    pub policy: Policy,
}

/// A list of rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    pub(crate) name: Name,
    pub(crate) base: Option<Base>,
    pub(crate) rules: Vec<Rule>,
}

impl Chain {
    /// A chain that packets enter by themselves.
    pub fn base(name: &Name, base: Base) -> Self {
        let (name, base, rules) = (name.clone(), Some(base), Vec::new());
        Self { name, base, rules }
    }

    /// A chain that packets enter when a rule or verdict map sends them.
    pub fn regular(name: &Name) -> Self {
        let (name, base, rules) = (name.clone(), None, Vec::new());
        Self { name, base, rules }
    }

    /// Adds a rule at the end.
    #[must_use]
    pub fn rule(mut self, rule: Rule) -> Self {
        self.rules.push(rule);
        self
    }

    /// Adds rules at the end.
    #[must_use]
    pub fn rules(mut self, rules: impl IntoIterator<Item = Rule>) -> Self {
        self.rules.extend(rules);
        self
    }
}

/// A set of elements that rules look up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    pub(crate) name: Name,
    pub(crate) key: Key,
    pub(crate) content: SetContent,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SetContent {
    Fixed(BTreeSet<Element>),
    Kept { timeout: Option<Duration> },
}

impl Set {
    /// A set of exactly these elements. In a set of one field they may overlap.
    pub fn fixed(name: &Name, key: Key, elements: impl IntoIterator<Item = Element>) -> Self {
        let name = name.clone();
        let content = SetContent::Fixed(elements.into_iter().collect());
        Self { name, key, content }
    }

    /// A set that somebody else fills with single values (not networks or ranges), and that
    /// updates of the table leave alone. Elements that nobody renews vanish after the timeout,
    /// if there is one; whole seconds count.
    ///
    /// The fields of `key` should be those that dnsmasq can fill: one IPv4 or IPv6 address.
    pub fn kept(name: &Name, key: Key, timeout: Option<Duration>) -> Self {
        let name = name.clone();
        let content = SetContent::Kept { timeout };
        Self { name, key, content }
    }
}

/// A map from keys to verdicts, marks, or translated destinations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Map {
    pub(crate) name: Name,
    pub(crate) key: Key,
    pub(crate) content: MapContent,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MapContent {
    Verdicts(Vec<(Element, Verdict)>),
    Marks(Vec<(Element, u32)>),
    Targets4(Vec<(Element, (Ipv4Addr, u16))>),
    Targets6(Vec<(Element, (Ipv6Addr, u16))>),
}

impl Map {
    /// A map to verdicts, for [`End::VerdictBy`](crate::End::VerdictBy).
    pub fn verdicts(
        name: &Name,
        key: Key,
        entries: impl IntoIterator<Item = (Element, Verdict)>,
    ) -> Self {
        Self::new(name, key, MapContent::Verdicts(sorted(entries)))
    }

    /// A map to marks, for [`MarkValue::By`](crate::MarkValue::By).
    pub fn marks(name: &Name, key: Key, entries: impl IntoIterator<Item = (Element, u32)>) -> Self {
        Self::new(name, key, MapContent::Marks(sorted(entries)))
    }

    /// A map to IPv4 destinations, for [`End::Dnat4By`](crate::End::Dnat4By).
    pub fn targets4(
        name: &Name,
        key: Key,
        entries: impl IntoIterator<Item = (Element, (Ipv4Addr, u16))>,
    ) -> Self {
        Self::new(name, key, MapContent::Targets4(sorted(entries)))
    }

    /// A map to IPv6 destinations, for [`End::Dnat6By`](crate::End::Dnat6By).
    pub fn targets6(
        name: &Name,
        key: Key,
        entries: impl IntoIterator<Item = (Element, (Ipv6Addr, u16))>,
    ) -> Self {
        Self::new(name, key, MapContent::Targets6(sorted(entries)))
    }

    fn new(name: &Name, key: Key, content: MapContent) -> Self {
        let name = name.clone();
        Self { name, key, content }
    }
}

fn sorted<T: Ord>(entries: impl IntoIterator<Item = (Element, T)>) -> Vec<(Element, T)> {
    let mut entries: Vec<_> = entries.into_iter().collect();
    entries.sort();
    entries
}

/// A table: everything that one concern of one service has in the packet filter.
///
/// Text comes out in the order in which things were added, with elements sorted, so that equal
/// tables give equal text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    pub(crate) id: TableId,
    pub(crate) counters: Vec<Name>,
    pub(crate) sets: Vec<Set>,
    pub(crate) maps: Vec<Map>,
    pub(crate) chains: Vec<Chain>,
}

impl Table {
    /// An empty table.
    pub fn new(family: Family, name: Name) -> Self {
        Self {
            id: TableId { family, name },
            counters: Vec::new(),
            sets: Vec::new(),
            maps: Vec::new(),
            chains: Vec::new(),
        }
    }

    /// Family and name.
    pub fn id(&self) -> &TableId {
        &self.id
    }

    /// Adds a counter for rules to count in.
    #[must_use]
    pub fn counter(mut self, name: &Name) -> Self {
        self.counters.push(name.clone());
        self
    }

    /// Adds a set.
    #[must_use]
    pub fn set(mut self, set: Set) -> Self {
        self.sets.push(set);
        self
    }

    /// Adds a map.
    #[must_use]
    pub fn map(mut self, map: Map) -> Self {
        self.maps.push(map);
        self
    }

    /// Adds a chain.
    #[must_use]
    pub fn chain(mut self, chain: Chain) -> Self {
        self.chains.push(chain);
        self
    }

    /// The script that makes this table anew, whatever of that name is there, in one transaction.
    /// Counters and kept sets start empty.
    pub fn replacing(&self) -> Result<String, BuildError> {
        let (id, body) = (&self.id, self.body()?);
        Ok(format!("add table {id}\ndelete table {id}\n{body}"))
    }

    /// The script that makes this table where there is none; `nft` refuses it if there is one by then. Unlike
    /// [`replacing`](Self::replacing) it deletes nothing, and after a deletion `nft` does not end before the kernel has
    /// forgotten what was deleted, which takes longer than most tables.
    pub fn creating(&self) -> Result<String, BuildError> {
        let (id, body) = (&self.id, self.body()?);
        Ok(format!("create table {id}\n{body}"))
    }

    /// The script that turns the table that `present` lists into this one in one transaction and
    /// leaves alone what can stay: counters, kept sets with their contents, chains. If the table
    /// changed since it was listed, `nft` refuses the script or it does the right thing.
    pub fn updating(&self, present: &Listing) -> Result<String, BuildError> {
        let (id, body) = (&self.id, self.body()?);
        // "flush table" empties chains, not sets.
        let mut script = format!("add table {id}\nflush table {id}\n");
        for line in self.obsolete(present) {
            script.push_str(&line);
            script.push('\n');
        }
        script.push_str(&body);
        Ok(script)
    }

    /// The kept sets that begin empty when a table listed as `present` is turned into this one.
    /// Whoever fills them has to begin anew, for dnsmasq: SIGHUP, which drops its cache.
    pub fn fresh_sets(&self, present: Option<&Listing>) -> Vec<Name> {
        let kept = |set: &&Set| match set.content {
            SetContent::Fixed(_) => false,
            SetContent::Kept { .. } => !present.is_some_and(|present| present.has_set(set)),
        };
        self.sets
            .iter()
            .filter(kept)
            .map(|set| set.name.clone())
            .collect()
    }

    /// Deletions of what `present` has and this table has not, or not in this form. Maps first:
    /// their elements hold on to chains.
    fn obsolete(&self, present: &Listing) -> Vec<String> {
        let id = &self.id;
        let mut lines = Vec::new();
        for map in present.maps() {
            lines.push(format!("delete map {id} {map}"));
        }
        for set in present.sets() {
            if !self
                .sets
                .iter()
                .any(|mine| mine.name.as_str() == set && mine.stays(present))
            {
                lines.push(format!("delete set {id} {set}"));
            }
        }
        let chains: BTreeMap<&str, &Chain> = self
            .chains
            .iter()
            .map(|chain| (chain.name.as_str(), chain))
            .collect();
        for chain in present.chains() {
            if !chains
                .get(chain)
                .is_some_and(|mine| present.has_chain(mine))
            {
                lines.push(format!("delete chain {id} {chain}"));
            }
        }
        let counters: BTreeSet<&str> = self.counters.iter().map(Name::as_str).collect();
        for counter in present.all_counters() {
            if !counters.contains(counter) {
                lines.push(format!("delete counter {id} {counter}"));
            }
        }
        lines
    }
}

impl Set {
    fn stays(&self, present: &Listing) -> bool {
        match self.content {
            SetContent::Fixed(_) => false,
            SetContent::Kept { .. } => present.has_set(self),
        }
    }
}
