//! What power cuts, full disks and broken disks do to `/persist`. `SEEDS=n` says how many histories, `SEED=n` replays one; `ALL=1` boots from
//! every prefix.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::path::Path;

use rand::{Rng, SeedableRng, rngs::SmallRng};
use scenarios::{
    disk::{
        Booted, Cut, Health, Life, Load, Replay, Rig, SIZE, Seen, Tail, judge_disk, mount_image,
    },
    sim::seeds,
};

const DISK: &str = env!("CARGO_BIN_EXE_recorded-disk");
const DEVICE: &str = env!("CARGO_BIN_EXE_device");
/// Devices that boot at once: each of their processes watches its bus, and a user may have 128 watchers (inotify).
const AT_ONCE: usize = 6;

/// A runtime with virtual time for each.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(future)
}

/// Cuts at every mark where a promise begins to hold, at every flush, and at others by chance.
fn cuts(
    flushes: &[usize],
    marks: &[u64],
    length: usize,
    rng: &mut SmallRng,
    most: usize,
) -> Vec<Cut> {
    let marks = marks.iter().map(|mark| usize::try_from(*mark).unwrap());
    let mut all: Vec<Cut> = marks
        .flat_map(|at| [Tail::Lost, Tail::Torn].map(|tail| Cut { at, tail }))
        .collect();
    for at in flushes {
        // Right before the flush everything may be missing.
        all.extend([(at - 1, Tail::Torn), (*at, Tail::Lost)].map(|(at, tail)| Cut { at, tail }));
    }
    for _ in 0..length / 2 {
        let tail = [Tail::Whole, Tail::Torn, Tail::Torn][rng.random_range(0..3)];
        let at = rng.random_range(1..=length);
        all.push(Cut { at, tail });
    }
    while all.len() > most {
        all.swap_remove(rng.random_range(0..all.len()));
    }
    all.sort_unstable();
    all.dedup();
    all
}

fn history(seed: u64, steps: usize, most: usize) -> usize {
    let rig = Rig::new(Path::new(DISK));
    let promises = block_on(async {
        let mut load = Load::begin(&rig, seed);
        load.work(steps).await;
        load.end()
    });
    let record = rig.record();
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut replay = Replay::new(&record, SIZE);
    let (image, root) = (rig.beside("cut.img"), rig.beside("cut"));
    let marks = promises.marks();
    let from = marks
        .first()
        .map_or(0, |mark| usize::try_from(*mark).unwrap());
    let cuts = cuts(&record.flushes(), &marks, record.len(), &mut rng, most);
    let cuts: Vec<Cut> = cuts.into_iter().filter(|cut| cut.at >= from).collect();
    // A judge that everything pleases would be of no use: the first state is not the last.
    let first = Cut {
        at: from,
        tail: Tail::Lost,
    };
    replay.image(first, &mut rng, &image).unwrap();
    let mounted = mount_image(&image, &root.join("persist"), "").unwrap();
    let wrong = block_on(promises.judge(&root, record.len() as u64));
    drop(mounted);
    assert!(wrong.len() > 5, "seed {seed}: {wrong:#?}");
    for cut in &cuts {
        replay.image(*cut, &mut rng, &image).unwrap();
        let mounted = mount_image(&image, &root.join("persist"), "");
        let mounted = mounted.unwrap_or_else(|error| panic!("seed {seed}, {cut:?}: {error}"));
        let wrong = block_on(promises.judge(&root, cut.at as u64));
        drop(mounted);
        assert!(
            wrong.is_empty(),
            "seed {seed}, {cut:?} of {}: {wrong:#?}; replay with SEED={seed} cargo nextest run -p scenarios campaign_disk_power",
            record.len()
        );
    }
    cuts.len()
}

#[test]
#[cfg_attr(not(has_disks), ignore = "needs root, FUSE, loop devices and ext4")]
fn campaign_disk_power_cuts() {
    let began = std::time::Instant::now();
    let mut cuts = 0;
    let seeds = seeds(2);
    for seed in &seeds {
        cuts += history(*seed, 60, 120);
        println!("{seed}: {cuts} cuts, {:?}", began.elapsed());
    }
}

/// Prefixes of a device's life that it boots from: a sample, or all of them with `ALL=1`. The life is one of real sockets
/// and threads: no two records are the same, whatever the seed.
fn boots(seed: u64, sample: usize) -> usize {
    let rig = Rig::new(Path::new(DISK));
    // Requests take real time.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let seen = runtime.block_on(async {
        let mut life = Life::begin(&rig).await;
        life.work().await;
        life.end()
    });
    let record = rig.record();
    let from = seen.first().map_or(0, Seen::at);
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut cuts: Vec<Cut> = record
        .flushes()
        .into_iter()
        .flat_map(|at| [(at - 1, Tail::Torn), (at, Tail::Lost)])
        .map(|(at, tail)| Cut { at, tail })
        .filter(|cut| cut.at >= from)
        .collect();
    // Everything that was ever promised.
    let last = Cut {
        at: record.len(),
        tail: Tail::Lost,
    };
    if std::env::var_os("ALL").is_none() {
        while cuts.len() >= sample {
            cuts.swap_remove(rng.random_range(0..cuts.len()));
        }
    }
    cuts.push(last);
    cuts.sort_unstable();
    // Everything that the disk is for was on it at some time.
    let most = seen.iter().map(Seen::counts).fold([0; 5], |most, counts| {
        std::array::from_fn(|kind| most[kind].max(counts[kind]))
    });
    assert!(
        most[0] > 8 && most[1..] == [3, 3, 3, 1],
        "seed {seed}: {most:?}"
    );
    let mut replay = Replay::new(&record, SIZE);
    // A judge that everything pleases would be of no use: the first state is not the last.
    let (image, root) = (rig.beside("first.img"), rig.beside("first"));
    let first = Cut {
        at: from,
        tail: Tail::Lost,
    };
    replay.image(first, &mut rng, &image).unwrap();
    let mounted = mount_image(&image, &root.join("persist"), "").unwrap();
    let wrong = judge_disk(&root, &seen, record.len() as u64);
    drop(mounted);
    assert!(wrong.len() > 5, "seed {seed}: {wrong:#?}");
    for cuts in cuts.chunks(AT_ONCE) {
        let devices: Vec<_> = cuts
            .iter()
            .enumerate()
            .map(|(number, cut)| {
                let (image, root) = (
                    rig.beside(&format!("cut{number}.img")),
                    rig.beside(&format!("cut{number}")),
                );
                replay.image(*cut, &mut rng, &image).unwrap();
                let mounted = mount_image(&image, &root.join("persist"), "").unwrap();
                copy_dir(&rig.root().join("config"), &root.join("config"));
                let device = Booted::start(Path::new(DEVICE), &root, &seen, cut.at as u64);
                (cut, device, mounted)
            })
            .collect();
        for (cut, device, mounted) in devices {
            let wrong = device.judge();
            drop(mounted);
            assert!(
                wrong.is_empty(),
                "seed {seed}, {cut:?} of {}: {wrong:#?}; a like life again with SEED={seed} ALL=1 cargo nextest run -p scenarios campaign_disk_boots",
                record.len()
            );
        }
    }
    cuts.len()
}

/// Files of a directory, without those below.
fn copy_dir(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

#[test]
#[cfg_attr(not(has_disks), ignore = "needs root, FUSE, loop devices and ext4")]
fn campaign_disk_boots_from_every_prefix() {
    let began = std::time::Instant::now();
    for seed in seeds(1) {
        let cuts = boots(seed, 12);
        println!("{seed}: {cuts} boots, {:?}", began.elapsed());
    }
}

/// The disk breaks in the middle of the work, the device boots again with a disk that is well.
fn breaks(seed: u64) -> usize {
    let rig = Rig::new(Path::new(DISK));
    let (promises, failures) = block_on(async {
        let mut load = Load::begin(&rig, seed);
        load.work(25).await;
        load.expect_failures();
        rig.set(if seed.is_multiple_of(2) {
            Health::NoWrites
        } else {
            Health::Dead
        });
        load.work(25).await;
        let failures = load.failures();
        (load.end(), failures)
    });
    rig.unmount();
    rig.set(Health::Well);
    rig.mount().unwrap();
    let wrong = block_on(promises.judge(&rig.root(), rig.mark()));
    assert!(
        wrong.is_empty(),
        "seed {seed}: {wrong:#?}; replay with SEED={seed} cargo nextest run -p scenarios campaign_disk_io"
    );
    block_on(async {
        let mut load = Load::begin(&rig, seed + 1);
        load.work(10).await;
    });
    failures
}

#[test]
#[cfg_attr(not(has_disks), ignore = "needs root, FUSE, loop devices and ext4")]
fn campaign_disk_io_errors() {
    let seeds = seeds(4);
    let failures: usize = seeds.iter().map(|seed| breaks(*seed)).sum();
    assert!(failures >= seeds.len(), "{failures} failures");
}

/// The disk becomes read-only under running services, then writable again; nobody starts anew.
fn read_only(seed: u64) {
    let rig = Rig::new(Path::new(DISK));
    let promises = block_on(async {
        let mut load = Load::begin(&rig, seed);
        load.work(20).await;
        rig.remount("ro").unwrap();
        load.expect_failures();
        load.work(20).await;
        assert!(load.failures() > 0);
        rig.remount("rw").unwrap();
        let before = load.failures();
        load.work(20).await;
        assert_eq!(load.failures(), before, "well again");
        load.end()
    });
    let wrong = block_on(promises.judge(&rig.root(), rig.mark()));
    assert!(
        wrong.is_empty(),
        "seed {seed}: {wrong:#?}; replay with SEED={seed} cargo nextest run -p scenarios campaign_disk_read"
    );
}

#[test]
#[cfg_attr(not(has_disks), ignore = "needs root, FUSE, loop devices and ext4")]
fn campaign_disk_read_only() {
    for seed in seeds(3) {
        read_only(seed);
    }
}

/// The disk is full to the last block, and whatever becomes free is taken at once by somebody else.
fn full(seed: u64) {
    let rig = Rig::new(Path::new(DISK));
    let promises = block_on(async {
        let mut load = Load::begin(&rig, seed);
        load.work(20).await;
        rig.fill();
        for _ in 0..4 {
            load.publish_small();
            rig.fill();
        }
        load.expect_failures();
        for _ in 0..20 {
            load.work(1).await;
            rig.fill();
        }
        let before = load.failures();
        assert!(before > 0, "that is a full disk");
        rig.free();
        load.work(20).await;
        assert_eq!(load.failures(), before, "there is room again");
        load.end()
    });
    let wrong = block_on(promises.judge(&rig.root(), rig.mark()));
    assert!(
        wrong.is_empty(),
        "seed {seed}: {wrong:#?}; replay with SEED={seed} cargo nextest run -p scenarios campaign_disk_full"
    );
}

#[test]
#[cfg_attr(not(has_disks), ignore = "needs root, FUSE, loop devices and ext4")]
fn campaign_disk_full() {
    for seed in seeds(3) {
        full(seed);
    }
}

#[test]
#[cfg_attr(not(has_disks), ignore = "needs root, FUSE, loop devices and ext4")]
fn campaign_disk_full_and_the_reboot_command_works() {
    let rig = Rig::new(Path::new(DISK));
    block_on(scenarios::disk::reboot::boot(&rig.root(), 6));
    rig.fill();
    let record = block_on(scenarios::disk::reboot::command(&rig.root(), 7));
    assert!(record.contains("reboot command number 7"), "{record}");
    // After the boot the reason is known and the command is carried out, not repeated.
    rig.unmount();
    rig.mount().unwrap();
    let said = block_on(scenarios::disk::reboot::boot(&rig.root(), 7));
    assert!(said.contains("reboot command number 7"), "{said}");
}
