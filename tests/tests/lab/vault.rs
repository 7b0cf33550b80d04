//! A device with a TPM and a disk that can encrypt: what a thief of the disk sees, and what the next boot does.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use demo::{Options, Stage};
use lab::guest::Kind;
use model::{
    topics::{VAULT_KEY_FROM_DEVICE, VAULT_STATUS},
    vault::{ROOTS, UnlockMethod, VaultPhase, VaultStatus},
};

use crate::support::{PATIENCE, answers, deploy_app, image, onboarded_on_with};

/// Enough for one application and the device's reserve.
const SIZE: u64 = 640 << 20;
/// So long a piece of the image that it stands nowhere else.
const PIECE: usize = 32;

fn disk(dir: &Path) -> PathBuf {
    let image = dir.join("disk");
    fs::File::create(&image).unwrap().set_len(SIZE).unwrap();
    let made = Command::new("mkfs.ext4")
        .args(["-q", "-F", "-b", "4096", "-m", "0", "-O", "encrypt"])
        .arg(&image)
        .status();
    assert!(made.unwrap().success());
    image
}

fn vault(stage: &Stage) -> VaultStatus {
    let rows = stage.bus().unwrap().read(&VAULT_STATUS).unwrap();
    rows.unwrap()["vault"].clone()
}

/// Pieces of a file that look like nothing else, from all over it.
fn pieces(file: &Path) -> BTreeSet<Vec<u8>> {
    let bytes = fs::read(file).unwrap();
    let varied = |piece: &&[u8]| piece.iter().collect::<BTreeSet<_>>().len() > 26;
    let pieces = bytes
        .chunks(4096)
        .filter_map(|block| block.get(512..512 + PIECE));
    pieces.filter(varied).map(<[u8]>::to_vec).collect()
}

/// How many of the pieces are in a file, wherever blocks begin.
fn found(file: &Path, pieces: &BTreeSet<Vec<u8>>) -> usize {
    let bytes = fs::read(file).unwrap();
    let blocks = bytes
        .chunks(4096)
        .filter_map(|block| block.get(512..512 + PIECE));
    let there: BTreeSet<&[u8]> = blocks.filter(|piece| pieces.contains(*piece)).collect();
    there.len()
}

#[test]
#[cfg_attr(not(has_disks), ignore = "needs root, FUSE, loop devices and ext4")]
fn trust_a_stolen_disk_shows_no_image_and_the_device_opens_it_by_its_tpm() {
    scenarios::disk::seclude();
    // Not so secluded that the device would not see what is mounted for it.
    let shared = Command::new("mount").args(["--make-rshared", "/"]).status();
    assert!(shared.unwrap().success());
    assert!(
        lab::tpm::is_installed(),
        "swtpm is not installed: `make deps` installs it"
    );
    let pieces = pieces(&image(Kind::Tiny).path);
    assert!(pieces.len() > 100, "{} pieces", pieces.len());

    // The control: without a TPM the same disk is an open book.
    let dir = tempfile::tempdir().unwrap();
    let plain = disk(dir.path());
    let (stage, mounted) = onboarded_on_with(&options(false), &plain);
    deploy_app(&stage);
    assert_eq!(vault(&stage).phase, VaultPhase::Disabled);
    stage.device().power_cut().unwrap();
    drop((mounted, stage));
    assert!(found(&plain, &pieces) > pieces.len() / 2);

    let locked = disk(dir.path());
    let (stage, mounted) = onboarded_on_with(&options(true), &locked);
    deploy_app(&stage);
    let made = vault(&stage);
    assert_eq!(made.phase, VaultPhase::Open, "{made:?}");
    assert_eq!(made.unlocked_by, Some(UnlockMethod::Created));
    stage
        .wait("the key is sealed", PATIENCE, || Ok(vault(&stage).sealed))
        .unwrap();
    for root in ROOTS {
        let path = stage.device().root().join(root);
        assert!(
            matches!(fscrypt::policy(&path), Ok(fscrypt::Policy::Key(_))),
            "{root}"
        );
    }
    stage.device().power_cut().unwrap();
    let place = mounted.path().to_owned();
    drop(mounted);
    assert_eq!(found(&locked, &pieces), 0, "of {} pieces", pieces.len());

    // The same box goes on by itself.
    let mounted = scenarios::disk::mount_image(&locked, &place, "").unwrap();
    stage.power_on().unwrap();
    answers(&stage).unwrap();
    let opened = vault(&stage);
    assert_eq!(opened.unlocked_by, Some(UnlockMethod::Sealed), "{opened:?}");
    assert_eq!(opened.key, made.key);

    // The seal is lost: the controller keeps a copy that nobody but this TPM can decrypt.
    stage
        .wait("there is a copy for the controller", PATIENCE, || {
            let rows = stage.bus()?.read(&VAULT_KEY_FROM_DEVICE)?;
            Ok(rows.is_some_and(|rows| !rows.is_empty()))
        })
        .unwrap();
    // It asks every 5 s, and gives what it has by then.
    std::thread::sleep(Duration::from_secs(6));
    stage.device().power_cut().unwrap();
    fs::remove_file(mounted.path().join("tpmmgr/sealed/vault.json")).unwrap();
    drop(mounted);
    let mounted = scenarios::disk::mount_image(&locked, &place, "").unwrap();
    stage.power_on().unwrap();
    answers(&stage).unwrap();
    let rescued = vault(&stage);
    assert_eq!(
        rescued.unlocked_by,
        Some(UnlockMethod::Controller),
        "{rescued:?}"
    );
    assert_eq!(rescued.key, made.key);
    stage
        .wait("it is sealed again", PATIENCE, || Ok(vault(&stage).sealed))
        .unwrap();
    stage.device().power_cut().unwrap();
    drop(mounted);
}

fn options(tpm: bool) -> Options {
    Options {
        tpm,
        ..Options::of_this_build().unwrap()
    }
}
