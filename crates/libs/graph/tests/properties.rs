//! Properties of `diff` on arbitrary graphs, checked on a model that refuses every step whose
//! precondition doesn't hold.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use graph::{Diff, Item, Items, Step, diff, items};
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// Ids below this are external.
const EXTERNAL: u8 = 2;
const IDS: u8 = 9;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Node {
    id: u8,
    version: u8,
    soft: bool,
    needs: BTreeSet<u8>,
}

impl Item for Node {
    type Id = u8;
    fn id(&self) -> u8 {
        self.id
    }
    fn needs(&self) -> Vec<u8> {
        self.needs.iter().copied().collect()
    }
    fn can_change_to(&self, to: &Self) -> bool {
        self.soft && to.soft
    }
    fn is_external(&self) -> bool {
        self.id < EXTERNAL
    }
}

/// Items with arbitrary needs, cycles and dangling ones included.
fn any_items() -> impl Strategy<Value = Items<Node>> {
    let node = (0..IDS, 0..2_u8, any::<bool>(), btree_set(0..IDS, 0..3));
    vec(node, 0..12).prop_map(|nodes| {
        items(nodes.into_iter().map(|(id, version, soft, needs)| Node {
            id,
            version: if id < EXTERNAL { 0 } else { version },
            soft,
            needs: if id < EXTERNAL {
                BTreeSet::new()
            } else {
                needs
            },
        }))
    })
}

/// Everything that can exist out of `wanted` beside the external items of `there`.
fn possible(there: &Items<Node>, wanted: &Items<Node>) -> Items<Node> {
    let met: BTreeSet<u8> = (0..EXTERNAL)
        .filter(|id| there.contains_key(id))
        .filter(|id| {
            wanted
                .get(id)
                .is_none_or(|node| there.get(id) == Some(node))
        })
        .collect();
    let mut have: Items<Node> = BTreeMap::new();
    loop {
        let next = wanted.values().find(|node| {
            let ok = |need: &u8| met.contains(need) || have.contains_key(need);
            !node.is_external() && !have.contains_key(&node.id) && node.needs.iter().all(ok)
        });
        match next {
            Some(node) => have.insert(node.id, node.clone()),
            None => return have,
        };
    }
}

/// A state that could have come about: every need of every item is there.
fn any_valid() -> impl Strategy<Value = Items<Node>> {
    any_items().prop_map(|all| {
        let mut valid = possible(&all, &all);
        valid.extend(all.into_iter().filter(|(_, node)| node.is_external()));
        valid
    })
}

fn apply(state: &mut Items<Node>, wanted: &Items<Node>, step: &Step<Node>) {
    let id = step.id();
    assert!(
        !step.item().is_external(),
        "{step:?} touches what isn't ours"
    );
    match step {
        Step::Delete(node) => {
            assert_eq!(state.remove(&id).as_ref(), Some(node), "{step:?}");
            let user = state.values().find(|other| other.needs.contains(&id));
            assert_eq!(user, None, "needs what {step:?} takes away");
        }
        Step::Create(node) => {
            assert_eq!(state.insert(id, node.clone()), None, "{step:?}");
        }
        Step::Change { from, to } => {
            assert!(from.can_change_to(to), "{step:?}");
            assert_eq!(state.insert(id, to.clone()).as_ref(), Some(from));
        }
    }
    if let Step::Create(node) | Step::Change { to: node, .. } = step {
        for need in &node.needs {
            let there = state.get(need);
            assert!(there.is_some(), "{step:?} lacks {need}");
            let final_version = wanted.get(need).is_none_or(|to| there == Some(to));
            assert!(final_version, "{step:?} is built on an old {need}");
        }
    }
}

/// Applies each group in an order made from `dice`, at most `limit` steps in all.
fn run(state: &mut Items<Node>, wanted: &Items<Node>, plan: &Diff<Node>, dice: u64, limit: usize) {
    let mut left = limit;
    let mut dice = dice | 1;
    for level in &plan.levels {
        let mut level = level.clone();
        while !level.is_empty() && left > 0 {
            dice = dice
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(99);
            let pick = usize::try_from(dice >> 33).unwrap() % level.len();
            apply(state, wanted, &level.swap_remove(pick));
            left -= 1;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn reaches_what_is_possible(start in any_valid(), wanted in any_items(), dice in any::<u64>()) {
        let plan = diff(&start, &wanted);
        let mut state = start.clone();
        run(&mut state, &wanted, &plan, dice, usize::MAX);

        let mut expected = possible(&start, &wanted);
        expected.extend(start.into_iter().filter(|(_, node)| node.is_external()));
        prop_assert_eq!(&state, &expected);
        let again = diff(&state, &wanted);
        prop_assert!(again.is_empty(), "still {:?}", again.levels);
        prop_assert_eq!(again.waiting, plan.waiting);
    }

    #[test]
    fn converges_after_being_cut_off(
        start in any_valid(), first in any_items(), wanted in any_items(), dice in any::<u64>(), cut in 0..12_usize,
    ) {
        let mut state = start.clone();
        run(&mut state, &first, &diff(&start, &first), dice, cut);
        let plan = diff(&state, &wanted);
        run(&mut state, &wanted, &plan, dice, usize::MAX);
        prop_assert!(diff(&state, &wanted).is_empty());
    }

    #[test]
    fn what_cannot_be_is_explained(start in any_valid(), wanted in any_items()) {
        let plan = diff(&start, &wanted);
        let possible = possible(&start, &wanted);
        for (id, node) in wanted.iter().filter(|(_, node)| !node.is_external()) {
            prop_assert_eq!(plan.waiting.contains_key(id), !possible.contains_key(id));
            if let Some(waiting) = plan.waiting.get(id) {
                prop_assert_eq!(&waiting.item, node);
                prop_assert!(!waiting.obstacles.is_empty());
                prop_assert!(plan.cause(id).is_some());
            }
        }
    }

    #[test]
    fn changes_in_place_keep_what_stands_on_them(start in any_valid(), wanted in any_items()) {
        let plan = diff(&start, &wanted);
        let possible = possible(&start, &wanted);
        // Safe: there, possible, and equal or changeable, and so is everything below it.
        let mut safe: BTreeSet<u8> = (0..EXTERNAL).filter(|id| start.contains_key(id)).collect();
        loop {
            let next = start.values().find(|node| {
                let stays = possible.get(&node.id).is_some_and(|to| to == *node || node.can_change_to(to));
                !safe.contains(&node.id) && stays && node.needs.is_subset(&safe)
            });
            match next {
                Some(node) => safe.insert(node.id),
                None => break,
            };
        }
        for step in plan.steps() {
            let gone = matches!(step, Step::Delete(_)) && safe.contains(&step.id());
            prop_assert!(!gone, "{:?} without need", step);
        }
    }

    #[test]
    fn any_mess_is_handled(current in any_items(), wanted in any_items()) {
        let plan = diff(&current, &wanted);
        for step in plan.steps() {
            prop_assert!(!step.item().is_external());
        }
        let text = graph::dot(&current, &wanted);
        prop_assert!(text.starts_with("digraph"));
    }
}
