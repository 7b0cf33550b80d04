//! On a real ext4 that can encrypt, on a loop device.
#![allow(clippy::unwrap_used, missing_docs)]

mod disk;

use std::fs;

use disk::Ext4;
use fscrypt::{FscryptError, KeyState, MasterKey, Policy, Vault, encrypt, policy};

#[test]
fn what_is_encrypted_is_locked_after_the_next_mount_until_the_key_is_given() {
    let disk = Ext4::new("encrypt");
    let key = MasterKey::from_slice(&[5; 32]).unwrap();
    let dir = disk.root().join("volumes");
    fs::create_dir(&dir).unwrap();
    let vault = Vault::at(disk.root());
    assert!(vault.is_supported().unwrap());
    assert_eq!(policy(&dir).unwrap(), Policy::None);
    assert_eq!(vault.key_state(key.id()).unwrap(), KeyState::Absent);
    vault.add_key(&key).unwrap();
    assert_eq!(
        vault.key_state(key.id()).unwrap(),
        KeyState::Present,
        "the kernel names the key as we do"
    );
    encrypt(&dir, key.id()).unwrap();
    encrypt(&dir, key.id()).unwrap();
    assert_eq!(policy(&dir).unwrap(), Policy::Key(key.id()));
    fs::write(dir.join("secret"), "nobody reads this").unwrap();

    disk.unmount();
    let image = fs::read(disk.image()).unwrap();
    let finds = |text: &[u8]| image.windows(text.len()).any(|window| window == text);
    assert!(!finds(b"nobody reads this"));
    assert!(!finds(b"secret"), "names are encrypted as well");
    disk.mount();
    assert_eq!(vault.key_state(key.id()).unwrap(), KeyState::Absent);
    assert_eq!(policy(&dir).unwrap(), Policy::Key(key.id()));
    assert!(fs::read(dir.join("secret")).is_err());
    assert!(fs::write(dir.join("new"), "x").is_err());
    let wrong = MasterKey::from_slice(&[6; 32]).unwrap();
    vault.add_key(&wrong).unwrap();
    assert!(fs::read(dir.join("secret")).is_err());
    assert!(matches!(
        encrypt(&dir, wrong.id()),
        Err(FscryptError::OtherKey(_))
    ));
    vault.add_key(&key).unwrap();
    vault.add_key(&key).unwrap();
    assert_eq!(fs::read(dir.join("secret")).unwrap(), b"nobody reads this");
    vault.remove_key(wrong.id()).unwrap();
    assert_eq!(vault.key_state(wrong.id()).unwrap(), KeyState::Absent);
}

#[test]
fn refusals_have_names() {
    let disk = Ext4::new("encrypt");
    let key = MasterKey::from_slice(&[5; 32]).unwrap();
    let vault = Vault::at(disk.root());
    let full = disk.root().join("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("file"), "x").unwrap();
    vault.add_key(&key).unwrap();
    assert!(matches!(
        encrypt(&full, key.id()),
        Err(FscryptError::NotEmpty(_))
    ));
    let gone = disk.root().join("gone");
    assert!(matches!(policy(&gone), Err(FscryptError::Io { .. })));
}

#[test]
fn a_file_system_that_cannot_says_so() {
    let disk = Ext4::new("^encrypt");
    let vault = Vault::at(disk.root());
    assert!(!vault.is_supported().unwrap());
    let key = MasterKey::from_slice(&[5; 32]).unwrap();
    assert!(matches!(
        vault.add_key(&key),
        Err(FscryptError::Unsupported(_))
    ));
    assert!(matches!(
        encrypt(&disk.root(), key.id()),
        Err(FscryptError::Unsupported(_) | FscryptError::NotEmpty(_))
    ));
}
