//! Drawing the current and the intended items, for people: `dot -Tsvg`.

use crate::{Diff, Item, Items, Obstacle, Step, diff};
use std::collections::BTreeSet;
use std::fmt::{self, Display, Write};

/// The state of one item in the picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    InPlace,
    Create,
    Change,
    Recreate,
    Delete,
    Waiting,
    External,
    ExternalMissing,
}

impl State {
    const ALL: [Self; 8] = [
        Self::InPlace,
        Self::Create,
        Self::Change,
        Self::Recreate,
        Self::Delete,
        Self::Waiting,
        Self::External,
        Self::ExternalMissing,
    ];

    /// Fill colour and the word for the legend.
    fn look(self) -> (&'static str, &'static str) {
        match self {
            Self::InPlace => ("palegreen", "in place"),
            Self::Create => ("lightblue", "create"),
            Self::Change => ("khaki", "change"),
            Self::Recreate => ("orange", "recreate"),
            Self::Delete => ("tomato", "delete"),
            Self::Waiting => ("lightgrey", "waiting"),
            Self::External => ("white", "external"),
            Self::ExternalMissing => ("mistyrose", "external, missing"),
        }
    }
}

/// The union of both graphs in the DOT language: one node per item, coloured by what is going to
/// happen to it, an arrow from each item to what it needs (dashed if only the current version
/// does), and for what waits the reason in its label.
pub fn dot<I: Item>(current: &Items<I>, intended: &Items<I>) -> String {
    let mut out = String::new();
    // Writing to a String can't fail.
    let _ = draw(&mut out, current, intended);
    out
}

fn draw<I: Item>(out: &mut String, current: &Items<I>, intended: &Items<I>) -> fmt::Result {
    let diff = diff(current, intended);
    let mut ids: BTreeSet<I::Id> = current.keys().chain(intended.keys()).cloned().collect();
    let needs = |items: &Items<I>, id: &I::Id| -> BTreeSet<I::Id> {
        items.get(id).map(I::needs).into_iter().flatten().collect()
    };
    let mut arrows = String::new();
    let mut seen = BTreeSet::new();
    for id in ids.clone() {
        let wanted = needs(intended, &id);
        let had = needs(current, &id);
        for need in wanted.union(&had) {
            let style = if wanted.contains(need) {
                ""
            } else {
                " [style=dashed]"
            };
            writeln!(arrows, "  {} -> {}{style};", quoted(&id), quoted(need))?;
            ids.insert(need.clone());
        }
    }
    writeln!(out, "digraph items {{")?;
    writeln!(out, "  rankdir=BT;")?;
    writeln!(out, "  node [shape=box, style=filled];")?;
    for id in &ids {
        let state = state(&diff, current, intended, id);
        seen.insert(state);
        let mut label = id.to_string();
        for obstacle in diff.waiting.get(id).iter().flat_map(|w| &w.obstacles) {
            write!(label, "\n{}", reason(obstacle))?;
        }
        let (colour, _) = state.look();
        let shape = match state {
            State::External | State::ExternalMissing => ", style=\"filled,dashed\"",
            State::InPlace
            | State::Create
            | State::Change
            | State::Recreate
            | State::Delete
            | State::Waiting => "",
        };
        let name = quoted(id);
        let label = quoted(&label);
        writeln!(out, "  {name} [label={label}, fillcolor={colour}{shape}];")?;
    }
    out.push_str(&arrows);
    writeln!(out, "  subgraph cluster_legend {{")?;
    writeln!(out, "    label=\"legend\";")?;
    for (n, state) in State::ALL.into_iter().enumerate() {
        if seen.contains(&state) {
            let (colour, word) = state.look();
            writeln!(out, "    legend{n} [label=\"{word}\", fillcolor={colour}];")?;
        }
    }
    writeln!(out, "  }}")?;
    writeln!(out, "}}")
}

fn state<I: Item>(diff: &Diff<I>, current: &Items<I>, intended: &Items<I>, id: &I::Id) -> State {
    let (mut deleted, mut made, mut changed) = (false, false, false);
    for step in diff.steps().filter(|step| step.id() == *id) {
        match step {
            Step::Delete(_) => deleted = true,
            Step::Create(_) => made = true,
            Step::Change { .. } => changed = true,
        }
    }
    let there = current.get(id);
    match (deleted, made, changed) {
        (true, true, _) => State::Recreate,
        (true, false, _) => State::Delete,
        (false, true, _) => State::Create,
        (false, false, true) => State::Change,
        (false, false, false) if diff.waiting.contains_key(id) => State::Waiting,
        (false, false, false) if there.is_some_and(|item| !item.is_external()) => State::InPlace,
        (false, false, false) => {
            let met = there.is_some_and(|t| intended.get(id).is_none_or(|wanted| wanted == t));
            if met {
                State::External
            } else {
                State::ExternalMissing
            }
        }
    }
}

fn reason<Id: Display>(obstacle: &Obstacle<Id>) -> String {
    match obstacle {
        Obstacle::Absent(id) => format!("{id} is absent"),
        Obstacle::Differs(id) => format!("{id} is not as intended"),
        Obstacle::Waits(id) => format!("{id} waits"),
        Obstacle::Cycle(ids) => {
            let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
            format!("cycle of {}", ids.join(", "))
        }
        Obstacle::Taken => "the name is taken".to_owned(),
    }
}

fn quoted(text: &impl Display) -> String {
    let text = text.to_string().replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{}\"", text.replace('\n', "\\n"))
}
