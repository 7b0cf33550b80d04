//! The user that each guest's QEMU runs as.
//!
//! A guest keeps the user that its unit or its directory has. A new one gets the user that its UUID
//! points at, or the next free one: so it mostly has the same after every start.

use std::collections::{BTreeMap, BTreeSet};

use model::id::AppId;
use units::ids::{GUEST_UID_FIRST, GUEST_UID_LAST};

use crate::Guest;

/// A user for each application, none twice. Without one stay those beyond the thousandth.
pub(super) fn assign(
    apps: &BTreeSet<AppId>,
    guests: &BTreeMap<AppId, Guest>,
) -> BTreeMap<AppId, u32> {
    let mut uids = BTreeMap::new();
    let mut taken = BTreeSet::new();
    for app in apps {
        let guest = guests.get(app);
        let has = guest.and_then(|guest| guest.unit.as_ref().map(|unit| unit.uid).or(guest.uid));
        let valid = has.filter(|uid| (GUEST_UID_FIRST..=GUEST_UID_LAST).contains(uid));
        if let Some(uid) = valid.filter(|uid| taken.insert(*uid)) {
            uids.insert(*app, uid);
        }
    }
    for app in apps {
        if !uids.contains_key(app)
            && let Some(uid) = candidates(*app).find(|uid| !taken.contains(uid))
        {
            taken.insert(uid);
            uids.insert(*app, uid);
        }
    }
    uids
}

fn candidates(app: AppId) -> impl Iterator<Item = u32> {
    let all = GUEST_UID_LAST - GUEST_UID_FIRST + 1;
    let first = u32::try_from(app.0.as_u128() % u128::from(all)).unwrap_or(0);
    (0..all).map(move |n| GUEST_UID_FIRST + (first + n) % all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_shares_a_user_and_those_who_have_one_keep_it() {
        let app = |n: u128| AppId(uuid::Uuid::from_u128(n));
        let apps: BTreeSet<AppId> = [app(7), app(1007), app(2007)].into();
        let first = assign(&apps, &BTreeMap::new());
        let expected = [48_007, 48_008, 48_009];
        assert_eq!(first.values().copied().collect::<Vec<_>>(), expected);
        let with = |uid: u32| Guest {
            uid: Some(uid),
            ..Guest::default()
        };
        let guests = [(app(2007), with(48_007)), (app(7), with(0))].into();
        let second = assign(&apps, &guests);
        assert_eq!(second[&app(2007)], 48_007);
        assert_eq!((second[&app(7)], second[&app(1007)]), (48_008, 48_009));
    }
}
