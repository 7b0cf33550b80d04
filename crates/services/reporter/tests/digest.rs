//! What says the same has the same digest: otherwise it is news for ever.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::BTreeSet;

use model::{
    config_item::{ConfigItemValueMap, ITEMS},
    id::DeviceId,
    node::{OnboardPhase, OnboardingStatus},
};
use reporter::{
    Desired,
    messages::{System, messages},
};

#[test]
fn a_device_with_many_properties_is_told_once() {
    let onboarding = OnboardingStatus {
        phase: OnboardPhase::Onboarded,
        device: Some(DeviceId::default()),
        ..OnboardingStatus::default()
    };
    let mut items = ConfigItemValueMap::default();
    for item in ITEMS {
        items.values.insert(item.name.to_owned(), "1".to_owned());
        items
            .errors
            .insert(format!("{}.typo", item.name), "unknown".to_owned());
    }
    let desired = Desired {
        onboarding,
        items,
        ..Desired::default()
    };
    let digests: BTreeSet<_> = (0..20)
        .map(|_| messages(&desired, &System::default())["device"].digest)
        .collect();
    assert_eq!(digests.len(), 1);
}
