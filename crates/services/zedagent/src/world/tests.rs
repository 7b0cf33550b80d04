//! What the world does with a disk that is full.
#![allow(clippy::unwrap_used)]
use std::fs;

use bus::Bus;

use super::*;

#[test]
fn what_the_disk_has_no_room_for_is_told_and_saved_later() {
    let root = tempfile::tempdir().unwrap();
    let boot = Boot {
        root: root.path().to_owned(),
        bus: Bus::memory(),
        clock: Clock::real(std::time::Duration::ZERO),
        dry_run: false,
    };
    let keys = controller::KeyFiles::of(&boot.path("/config"));
    let key = tpm::SoftKey::from_bytes(&[1; 32]).unwrap();
    let evc = Evc::open(
        &boot,
        Arc::new(keys),
        Arc::new(tpm::MemoryTpm::software(key)),
    );
    let place = root.path().join("persist");
    fs::write(&place, "in the way").unwrap();
    let mut state = evc.state();
    state.unsaved.insert(LAST, b"config".to_vec());
    evc.save(&mut state);
    assert_eq!(state.facts.unsaved.as_ref().unwrap().code, Code::BusWrite);
    assert_eq!(state.facts.saved.primary, None);
    fs::remove_file(&place).unwrap();
    evc.save(&mut state);
    assert_eq!(state.facts.unsaved, None);
    let saved = evc.checkpoint.digest(LAST);
    assert!(saved.is_some() && saved == state.facts.saved.primary);
}
