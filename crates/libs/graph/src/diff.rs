//! Deciding what has to be done, and in which order.
//!
//! Three questions, each answered from the one before:
//! 1. *Reach*: which intended items can exist, given the external ones that do?
//! 2. *Fate*: what becomes of each item that exists?
//! 3. *Steps*: which step has to wait for which?

use crate::components::cycles;
use crate::{Diff, Item, Items, Obstacle, Step, Waiting};
use std::collections::{BTreeMap, BTreeSet};

/// Steps from `current` to as much of `intended` as can be reached, and what has to wait.
///
/// `current` holds everything of ours that exists and every external item that exists, whether
/// or not anything needs it. An external item listed in `intended` counts as met if `current` has
/// an equal one; one that isn't listed there counts as met by being there. An item of ours that
/// exists but whose needs can no longer be met is deleted.
pub fn diff<I: Item>(current: &Items<I>, intended: &Items<I>) -> Diff<I> {
    let reach = reach(current, intended);
    let cycles = needs_cycles(intended, &reach);
    let waiting = waiting(current, intended, &reach, &cycles);
    let mut firm = BTreeSet::new();
    let levels = loop {
        let fates = fates(current, intended, &reach, &firm);
        let plan = Plan::new(current, intended, &reach, &fates);
        match plan.levels() {
            Ok(levels) => break levels,
            // Each round makes at least one more change firm, so this ends.
            Err(changes) => firm.extend(changes),
        }
    };
    Diff {
        levels,
        waiting,
        cycles,
    }
}

/// Whether an external item with this id is there as intended.
fn is_met<I: Item>(current: &Items<I>, intended: &Items<I>, id: &I::Id) -> bool {
    let there = current.get(id).filter(|item| item.is_external());
    there.is_some_and(|there| intended.get(id).is_none_or(|wanted| wanted == there))
}

/// The needs of an item, each once.
fn needs<I: Item>(item: &I) -> BTreeSet<I::Id> {
    item.needs().into_iter().collect()
}

/// The ids of the intended items of ours that can exist.
fn reach<I: Item>(current: &Items<I>, intended: &Items<I>) -> BTreeSet<I::Id> {
    let mut open: BTreeMap<&I::Id, usize> = BTreeMap::new();
    let mut users: BTreeMap<I::Id, Vec<&I::Id>> = BTreeMap::new();
    let mut ready = Vec::new();
    for (id, item) in intended.iter().filter(|(_, item)| !item.is_external()) {
        if current.get(id).is_some_and(Item::is_external) {
            continue;
        }
        let unmet: Vec<_> = needs(item)
            .into_iter()
            .filter(|need| !is_met(current, intended, need))
            .collect();
        open.insert(id, unmet.len());
        if unmet.is_empty() {
            ready.push(id);
        }
        for need in unmet {
            users.entry(need).or_default().push(id);
        }
    }
    let mut reach = BTreeSet::new();
    while let Some(id) = ready.pop() {
        reach.insert(id.clone());
        for user in users.remove(id).unwrap_or_default() {
            if let Some(left) = open.get_mut(user) {
                *left -= 1;
                if *left == 0 {
                    ready.push(user);
                }
            }
        }
    }
    reach
}

/// Every cycle of needs among the intended items. What can be reached is on none.
fn needs_cycles<I: Item>(intended: &Items<I>, reach: &BTreeSet<I::Id>) -> Vec<Vec<I::Id>> {
    let ids: Vec<&I::Id> = intended.keys().filter(|id| !reach.contains(id)).collect();
    let successors: Vec<Vec<usize>> = ids
        .iter()
        .filter_map(|id| intended.get(*id))
        .map(|item| {
            needs(item)
                .iter()
                .filter(|_| !item.is_external())
                .filter_map(|need| ids.binary_search(&need).ok())
                .collect()
        })
        .collect();
    let mut found: Vec<Vec<I::Id>> = cycles(&successors)
        .into_iter()
        .map(|group| group.into_iter().map(|index| ids[index].clone()).collect())
        .collect();
    found.sort();
    found
}

fn waiting<I: Item>(
    current: &Items<I>,
    intended: &Items<I>,
    reach: &BTreeSet<I::Id>,
    cycles: &[Vec<I::Id>],
) -> BTreeMap<I::Id, Waiting<I>> {
    let mut waiting = BTreeMap::new();
    for (id, item) in intended {
        if item.is_external() || reach.contains(id) {
            continue;
        }
        let mut obstacles = Vec::new();
        if current.get(id).is_some_and(Item::is_external) {
            obstacles.push(Obstacle::Taken);
        }
        let cycle = cycles.iter().find(|cycle| cycle.binary_search(id).is_ok());
        obstacles.extend(cycle.cloned().map(Obstacle::Cycle));
        for need in needs(item) {
            if reach.contains(&need) || is_met(current, intended, &need) {
                continue;
            }
            let on_cycle = cycle.is_some_and(|cycle| cycle.binary_search(&need).is_ok());
            match intended.get(&need) {
                Some(wanted) if !wanted.is_external() => {
                    if !on_cycle {
                        obstacles.push(Obstacle::Waits(need));
                    }
                }
                Some(_) if current.get(&need).is_some_and(Item::is_external) => {
                    obstacles.push(Obstacle::Differs(need));
                }
                Some(_) | None => obstacles.push(Obstacle::Absent(need)),
            }
        }
        let item = item.clone();
        waiting.insert(id.clone(), Waiting { item, obstacles });
    }
    waiting
}

/// What becomes of an item of ours that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Keep,
    Change,
    Recreate,
    Delete,
}

impl Fate {
    /// Whether the item is gone for a time at least.
    fn is_doomed(self) -> bool {
        match self {
            Self::Recreate | Self::Delete => true,
            Self::Keep | Self::Change => false,
        }
    }
}

/// The fate of every item of ours that exists. Those in `firm` are not changed in place.
fn fates<I: Item>(
    current: &Items<I>,
    intended: &Items<I>,
    reach: &BTreeSet<I::Id>,
    firm: &BTreeSet<I::Id>,
) -> BTreeMap<I::Id, Fate> {
    let mut fates = BTreeMap::new();
    let mut users: BTreeMap<I::Id, Vec<&I::Id>> = BTreeMap::new();
    let mut doomed = Vec::new();
    for (id, item) in current.iter().filter(|(_, item)| !item.is_external()) {
        for need in needs(item) {
            users.entry(need).or_default().push(id);
        }
        let fate = match intended.get(id).filter(|_| reach.contains(id)) {
            None => Fate::Delete,
            Some(wanted) if wanted == item => Fate::Keep,
            Some(wanted) if !firm.contains(id) && item.can_change_to(wanted) => Fate::Change,
            Some(_) => Fate::Recreate,
        };
        if fate.is_doomed() {
            doomed.push(id);
        }
        fates.insert(id.clone(), fate);
    }
    while let Some(gone) = doomed.pop() {
        for user in users.remove(gone).unwrap_or_default() {
            let falls = match fates.get(user) {
                Some(Fate::Keep) => true,
                // A change that lets go of the need happens before the need is deleted.
                Some(Fate::Change) => intended
                    .get(user)
                    .is_some_and(|to| needs(to).contains(gone)),
                Some(Fate::Recreate | Fate::Delete) | None => false,
            };
            if falls {
                fates.insert(user.clone(), Fate::Recreate);
                doomed.push(user);
            }
        }
    }
    fates
}

/// The steps and which of them come before which.
struct Plan<I> {
    steps: Vec<Step<I>>,
    /// `then[n]`: the steps that have to wait for step `n`.
    then: Vec<Vec<usize>>,
}

impl<I: Item> Plan<I> {
    fn new(
        current: &Items<I>,
        intended: &Items<I>,
        reach: &BTreeSet<I::Id>,
        fates: &BTreeMap<I::Id, Fate>,
    ) -> Self {
        let mut steps = Vec::new();
        let mut leaves: BTreeMap<&I::Id, usize> = BTreeMap::new();
        let mut comes: BTreeMap<&I::Id, usize> = BTreeMap::new();
        for (id, item) in current {
            if fates.get(id).is_some_and(|fate| fate.is_doomed()) {
                leaves.insert(id, steps.len());
                steps.push(Step::Delete(item.clone()));
            }
        }
        for (id, to) in intended.iter().filter(|(id, _)| reach.contains(id)) {
            let step = match (current.get(id), fates.get(id)) {
                (Some(_), Some(Fate::Keep)) => continue,
                (Some(from), Some(Fate::Change)) => Step::Change {
                    from: from.clone(),
                    to: to.clone(),
                },
                (_, Some(_) | None) => Step::Create(to.clone()),
            };
            comes.insert(id, steps.len());
            steps.push(step);
        }

        let mut then = vec![Vec::new(); steps.len()];
        for (id, item) in current {
            // A dependent is out of the way once it is deleted, or changed so that it lets go.
            let clear = leaves.get(id).or_else(|| comes.get(id));
            for need in needs(item) {
                if let (Some(&clear), Some(&gone)) = (clear, leaves.get(&need)) {
                    then[clear].push(gone);
                }
            }
        }
        for (id, &made) in &comes {
            if let Some(&gone) = leaves.get(id) {
                then[gone].push(made);
            }
            for need in intended.get(*id).map(needs).unwrap_or_default() {
                if let Some(&first) = comes.get(&need) {
                    then[first].push(made);
                }
            }
        }
        Self { steps, then }
    }

    /// The steps in groups that may run at once, or the changes in place that stand in the way:
    /// those whose new need can only be made after their old need is gone.
    fn levels(mut self) -> Result<Vec<Vec<Step<I>>>, Vec<I::Id>> {
        let mut blocked = Vec::new();
        for group in cycles(&self.then) {
            let change = group
                .iter()
                .find(|n| matches!(self.steps[**n], Step::Change { .. }));
            match change {
                Some(&n) => blocked.push(self.steps[n].id()),
                // Only items that exist in a cycle, which nothing can have made in order; so
                // there is none to keep among them.
                None => {
                    for &n in &group {
                        self.then[n].retain(|next| group.binary_search(next).is_err());
                    }
                }
            }
        }
        if blocked.is_empty() {
            Ok(self.ordered())
        } else {
            Err(blocked)
        }
    }

    /// Takes all steps that wait for nothing, again and again, deletions first.
    fn ordered(self) -> Vec<Vec<Step<I>>> {
        let Self { steps, then } = self;
        let mut before = vec![0_usize; steps.len()];
        for &next in then.iter().flatten() {
            before[next] += 1;
        }
        let mut levels = Vec::new();
        let mut ready: Vec<usize> = (0..steps.len()).filter(|&n| before[n] == 0).collect();
        while !ready.is_empty() {
            let (deletes, others): (Vec<usize>, Vec<usize>) = ready
                .into_iter()
                .partition(|&n| matches!(steps[n], Step::Delete(_)));
            let (now, mut later) = if deletes.is_empty() {
                (others, Vec::new())
            } else {
                (deletes, others)
            };
            for &next in now.iter().flat_map(|&n| &then[n]) {
                before[next] -= 1;
                if before[next] == 0 {
                    later.push(next);
                }
            }
            levels.push(now.into_iter().map(|n| steps[n].clone()).collect());
            later.sort_unstable();
            ready = later;
        }
        levels
    }
}
