//! Both slots of a device share `/persist`: what another version wrote stays readable, and what this one
//! writes has every field that the other expects.
//!
//! `tests/compat/<service>/<Topic>/<version>/` at the root of the repository holds objects as released versions
//! wrote them. They are added to, never edited.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{collections::BTreeSet, path::Path};

use bus::{Object, Topic, compat::check};
use model::topics::{
    ALL, APP_COMMAND_COUNTERS, APP_INTERFACE_TO_NUM, CONFIG_ITEMS, CONTROLLER_CERT,
    DELIVERY_JOURNAL, DEVICE_OP_COUNTERS, DEVICE_PORT_CONFIG_LIST, EDGE_NODE_CERT,
    ONBOARDING_STATUS, REBOOT_RECORD, UUID_PAIR_TO_NUM,
};

fn one<T: Object>(topic: &Topic<T>, checked: &mut BTreeSet<&'static str>) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../tests/compat");
    let count = check(topic, &fixtures).unwrap_or_else(|e| panic!("{e}"));
    assert!(count > 0, "{topic:?} has no fixture");
    checked.insert(topic.name());
}

#[test]
fn objects_of_released_versions_are_read_and_written() {
    let mut checked = BTreeSet::new();
    one(&ONBOARDING_STATUS, &mut checked);
    one(&CONTROLLER_CERT, &mut checked);
    one(&CONFIG_ITEMS, &mut checked);
    one(&EDGE_NODE_CERT, &mut checked);
    one(&DEVICE_PORT_CONFIG_LIST, &mut checked);
    one(&APP_COMMAND_COUNTERS, &mut checked);
    one(&UUID_PAIR_TO_NUM, &mut checked);
    one(&APP_INTERFACE_TO_NUM, &mut checked);
    one(&DELIVERY_JOURNAL, &mut checked);
    one(&DEVICE_OP_COUNTERS, &mut checked);
    one(&REBOOT_RECORD, &mut checked);
    let persistent: BTreeSet<&str> = ALL
        .iter()
        .filter(|t| t.persistent)
        .map(|t| t.name)
        .collect();
    assert_eq!(checked, persistent, "every persistent topic has fixtures");
}
