//! Numbers of applications and network instances: one each, for as long as the object is known.

use std::collections::BTreeSet;

use bus::Rows;
use model::{
    id::{AppId, NetworkInstanceId},
    network::AssignedNumber,
};

/// Largest number; names and marks have room for so many.
const LAST: u16 = 255;

/// Key of an application's number.
pub(super) fn app_key(app: AppId) -> String {
    format!("app.{app}")
}

/// Key of a network instance's number (and of its subnet).
pub(super) fn instance_key(id: NetworkInstanceId) -> String {
    format!("ni.{id}")
}

/// The rows of `old` that are wanted or must be kept, and new ones for what else is wanted. Without
/// a number stays what comes when all are taken.
pub(super) fn assign(
    old: &Rows<AssignedNumber>,
    wanted: &BTreeSet<String>,
    must_keep: impl Fn(&str, u16) -> bool,
) -> Rows<AssignedNumber> {
    let mut rows = Rows::new();
    let mut taken = BTreeSet::new();
    for (key, row) in old {
        let known = wanted.contains(key) || must_keep(key, row.number);
        let valid = (1..=LAST).contains(&row.number);
        if known && valid && taken.insert((kind(key), row.number)) {
            rows.insert(key.clone(), *row);
        }
    }
    for key in wanted {
        if rows.contains_key(key) {
            continue;
        }
        let kind = kind(key);
        if let Some(number) = (1..=LAST).find(|n| !taken.contains(&(kind, *n))) {
            taken.insert((kind, number));
            rows.insert(key.clone(), AssignedNumber { number });
        }
    }
    rows
}

/// Applications and network instances are counted apart.
fn kind(key: &str) -> &str {
    key.split_once('.').map_or("", |(kind, _)| kind)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn rows(all: &[(&str, u16)]) -> Rows<AssignedNumber> {
        all.iter()
            .map(|(key, number)| ((*key).to_owned(), AssignedNumber { number: *number }))
            .collect()
    }

    fn set(keys: &[&str]) -> BTreeSet<String> {
        keys.iter().map(|key| (*key).to_owned()).collect()
    }

    #[test]
    fn the_smallest_free_number_is_given_and_kinds_are_apart() {
        let old = rows(&[("app.b", 1), ("ni.x", 1), ("app.gone", 2)]);
        let new = assign(&old, &set(&["app.a", "app.b", "app.c", "ni.x"]), |_, _| {
            false
        });
        assert_eq!(
            new,
            rows(&[("app.a", 2), ("app.b", 1), ("app.c", 3), ("ni.x", 1)])
        );
        let kept = assign(&old, &set(&["app.a"]), |_, number| number == 2);
        assert_eq!(kept, rows(&[("app.gone", 2), ("app.a", 1)]));
    }

    proptest! {
        #[test]
        fn numbers_are_unique_and_stay(
            old in proptest::collection::btree_map("app\\.[a-d]", 0_u16..300, 0..5),
            wanted in proptest::collection::btree_set("app\\.[a-h]", 0..9),
        ) {
            let old: Rows<AssignedNumber> =
                old.into_iter().map(|(k, number)| (k, AssignedNumber { number })).collect();
            let new = assign(&old, &wanted, |_, _| false);
            prop_assert_eq!(new.len(), wanted.len());
            let numbers: BTreeSet<u16> = new.values().map(|row| row.number).collect();
            prop_assert_eq!(numbers.len(), new.len());
            prop_assert_eq!(assign(&new, &wanted, |_, _| false), new);
        }
    }
}
