//! Finding mistakes in the description of a table, so that they are named in its own terms.

use crate::field::Key;
use crate::rule::{Clause, Test};
use crate::table::{MapContent, SetContent};
use crate::{
    BuildError, Chain, Element, End, Map, MarkValue, Match, Mistake, Name, Rule, Statement, Table,
    Verdict,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

/// Start of the names of the counters that hold the fingerprint of a table.
pub(crate) const REVISION: &str = "rev_";

/// What a rule expects of a map that it uses.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Verdict,
    Mark,
    Target4,
    Target6,
}

impl Use {
    fn text(self) -> &'static str {
        match self {
            Self::Verdict => "map of verdicts",
            Self::Mark => "map of marks",
            Self::Target4 => "map of IPv4 destinations",
            Self::Target6 => "map of IPv6 destinations",
        }
    }
}

/// What rules speak of by its name, to be found fast: there are thousands of them, and of the rules.
struct Known<'a> {
    counters: BTreeSet<&'a Name>,
    chains: BTreeMap<&'a Name, &'a Chain>,
}

impl Table {
    /// Finds the first mistake.
    pub(crate) fn check(&self) -> Result<(), BuildError> {
        let known = Known {
            counters: self.counters.iter().collect(),
            chains: self.chains.iter().map(|c| (&c.name, c)).collect(),
        };
        self.unique("counter", self.counters.iter())?;
        let sets = self.sets.iter().map(|set| &set.name);
        self.unique("set", sets.chain(self.maps.iter().map(|map| &map.name)))?;
        self.unique("chain", self.chains.iter().map(|chain| &chain.name))?;
        for name in &self.counters {
            if name.as_str().starts_with(REVISION) {
                return Err(self.mistake(format_args!("counter {name}"), Mistake::Reserved));
            }
        }
        for set in &self.sets {
            if let SetContent::Fixed(elements) = &set.content {
                // A set of one field merges what overlaps.
                let merges = set.key.kinds().count() == 1;
                let elements: Vec<&Element> = elements.iter().collect();
                elements_fit(&set.key, &elements)
                    .and_then(|()| if merges { Ok(()) } else { apart(&elements) })
                    .map_err(|mistake| self.mistake(format_args!("set {}", set.name), mistake))?;
            }
        }
        for map in &self.maps {
            map_is_sound(map, &known)
                .map_err(|mistake| self.mistake(format_args!("map {}", map.name), mistake))?;
        }
        for chain in &self.chains {
            for rule in &chain.rules {
                let place = format_args!("chain {}, rule \"{}\"", chain.name, rule.tag);
                self.rule_is_sound(rule, &known)
                    .map_err(|mistake| self.mistake(place, mistake))?;
            }
        }
        Ok(())
    }

    fn mistake(&self, place: impl Display, mistake: Mistake) -> BuildError {
        let place = format!("table {}, {place}", self.id);
        BuildError { place, mistake }
    }

    fn unique<'a>(
        &self,
        what: &str,
        names: impl Iterator<Item = &'a Name>,
    ) -> Result<(), BuildError> {
        let mut seen = BTreeSet::new();
        for name in names {
            if !seen.insert(name) {
                return Err(self.mistake(format_args!("{what} {name}"), Mistake::Duplicate));
            }
        }
        Ok(())
    }

    fn rule_is_sound(&self, rule: &Rule, known: &Known<'_>) -> Result<(), Mistake> {
        for clause in &rule.clauses {
            match clause {
                Clause::Match(condition) => self.match_is_sound(condition)?,
                Clause::Statement(Statement::Count(name)) => {
                    if !known.counters.contains(name) {
                        return Err(unknown("counter", name));
                    }
                }
                Clause::Statement(Statement::Mark(_, MarkValue::By(key, map))) => {
                    self.map_serves(key, map, Use::Mark)?;
                }
                Clause::Statement(Statement::Mark(_, _) | Statement::Log(_)) => {}
            }
        }
        match &rule.end {
            Some(End::Verdict(verdict)) => verdict_is_sound(verdict, known),
            Some(End::VerdictBy(key, map)) => self.map_serves(key, map, Use::Verdict),
            Some(End::Dnat4By(key, map)) => self.map_serves(key, map, Use::Target4),
            Some(End::Dnat6By(key, map)) => self.map_serves(key, map, Use::Target6),
            Some(
                End::Reject(_)
                | End::Dnat(_, _)
                | End::Snat(_)
                | End::Masquerade
                | End::Redirect(_),
            )
            | None => Ok(()),
        }
    }

    fn match_is_sound(&self, condition: &Match) -> Result<(), Mistake> {
        match &condition.0 {
            Test::Values { values, .. } if values.is_empty() => Err(Mistake::Empty),
            Test::State(states) if states.is_empty() => Err(Mistake::Empty),
            Test::Within { key, set, not: _ } => {
                match self.sets.iter().find(|known| known.name == *set) {
                    None => Err(unknown("set", set)),
                    Some(known) => same_key(&known.key, key, set),
                }
            }
            Test::Values { .. }
            | Test::State(_)
            | Test::Bits { .. }
            | Test::Translated
            | Test::Reply(_)
            | Test::Target(_)
            | Test::Limit(_) => Ok(()),
        }
    }

    fn map_serves(&self, key: &Key, name: &Name, used: Use) -> Result<(), Mistake> {
        let is_it = |map: &&Map| map.name == *name && map.content.used() == used;
        match self.maps.iter().find(is_it) {
            None => Err(unknown(used.text(), name)),
            Some(map) => same_key(&map.key, key, name),
        }
    }
}

fn map_is_sound(map: &Map, known: &Known<'_>) -> Result<(), Mistake> {
    let elements = map.elements();
    elements_fit(&map.key, &elements)?;
    apart(&elements)?;
    match &map.content {
        MapContent::Verdicts(entries) => entries
            .iter()
            .try_for_each(|(_, verdict)| verdict_is_sound(verdict, known)),
        MapContent::Marks(_) | MapContent::Targets4(_) | MapContent::Targets6(_) => Ok(()),
    }
}

fn verdict_is_sound(verdict: &Verdict, known: &Known<'_>) -> Result<(), Mistake> {
    let (Verdict::Jump(name) | Verdict::Goto(name)) = verdict else {
        return Ok(());
    };
    match known.chains.get(name) {
        None => Err(unknown("chain", name)),
        Some(chain) if chain.base.is_some() => Err(Mistake::BaseTarget { name: name.clone() }),
        Some(_) => Ok(()),
    }
}

fn unknown(what: &'static str, name: &Name) -> Mistake {
    let name = name.clone();
    Mistake::Unknown { what, name }
}

fn same_key(wanted: &Key, found: &Key, name: &Name) -> Result<(), Mistake> {
    if wanted.kinds().eq(found.kinds()) {
        return Ok(());
    }
    Err(Mistake::Key {
        name: name.clone(),
        wanted: wanted.type_text(),
        found: found.type_text(),
    })
}

fn elements_fit(key: &Key, elements: &[&Element]) -> Result<(), Mistake> {
    let fits = |element: &&&Element| {
        element.0.len() == key.kinds().count()
            && element
                .0
                .iter()
                .zip(key.kinds())
                .all(|(value, kind)| value.fits(kind))
    };
    match elements.iter().find(|element| !fits(element)) {
        None => Ok(()),
        Some(element) => Err(Mistake::Element {
            wanted: key.type_text(),
            element: element.to_string(),
        }),
    }
}

/// Whether no two of the elements, which are sorted and fit one key, overlap.
fn apart(elements: &[&Element]) -> Result<(), Mistake> {
    let overlap = if elements.iter().any(|element| element.has_range()) {
        overlap_of_ranges(elements)
    } else {
        let mut pairs = elements.windows(2);
        pairs
            .find(|pair| pair[0] == pair[1])
            .map(|pair| (pair[0], pair[1]))
    };
    match overlap {
        None => Ok(()),
        Some((first, second)) => Err(Mistake::Overlap {
            first: first.to_string(),
            second: second.to_string(),
        }),
    }
}

/// Sweeps along the field with the most different values, so that few are near each other.
fn overlap_of_ranges<'a>(elements: &[&'a Element]) -> Option<(&'a Element, &'a Element)> {
    let fields = elements.first()?.0.len();
    let different = |field: &usize| {
        let values = elements.iter().map(|element| &element.0[*field]);
        values.collect::<BTreeSet<_>>().len()
    };
    let pivot = (0..fields).max_by_key(different)?;
    let mut sorted = elements.to_vec();
    sorted.sort_by(|a, b| a.0[pivot].cmp(&b.0[pivot]).then(a.cmp(b)));
    for (n, first) in sorted.iter().enumerate() {
        // Values are sorted by where they begin: beyond the first that is apart, all are.
        let mut near = sorted[n + 1..]
            .iter()
            .take_while(|other| first.0[pivot].overlaps(&other.0[pivot]));
        if let Some(second) = near.find(|other| first.overlaps(other)) {
            return Some((first, second));
        }
    }
    None
}

impl Map {
    /// The keys, sorted.
    pub(crate) fn elements(&self) -> Vec<&Element> {
        match &self.content {
            MapContent::Verdicts(entries) => entries.iter().map(|(key, _)| key).collect(),
            MapContent::Marks(entries) => entries.iter().map(|(key, _)| key).collect(),
            MapContent::Targets4(entries) => entries.iter().map(|(key, _)| key).collect(),
            MapContent::Targets6(entries) => entries.iter().map(|(key, _)| key).collect(),
        }
    }
}

impl MapContent {
    fn used(&self) -> Use {
        match self {
            Self::Verdicts(_) => Use::Verdict,
            Self::Marks(_) => Use::Mark,
            Self::Targets4(_) => Use::Target4,
            Self::Targets6(_) => Use::Target6,
        }
    }
}
