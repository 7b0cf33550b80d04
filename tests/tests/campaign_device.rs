//! Random lives of a whole device. `SEEDS=n` says how many, `SEED=n` replays one.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{available_parallelism, scope},
};

use scenarios::sim::{Device, live, seeds};

/// Many lives that do not come to these are not lives enough.
const RARE: [(&str, &str); 12] = [
    ("domainmgr", "Clear"),
    ("domainmgr", "End"),
    ("domainmgr", "Press"),
    ("downloader", "Discard"),
    ("nodeagent", "Ask"),
    ("verifier", "Remove"),
    ("verifier", "RemovePartial"),
    ("volumemgr", "Remove"),
    ("volumemgr", "RemovePartial"),
    ("zedagent", "KeepAsBackup"),
    ("zedagent", "ResumeAttest"),
    ("zedagent", "UseSaved"),
];

/// A life in a runtime of its own, with virtual time.
fn alive(seed: u64) -> Device {
    if std::env::var_os("LOG").is_some() {
        // Of one life, with `SEED`: what its services log.
        let log = tracing_subscriber::fmt()
            .with_max_level(tracing_subscriber::filter::LevelFilter::DEBUG);
        drop(log.with_target(true).without_time().try_init());
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(live(seed))
}

#[test]
fn campaign_lives_of_a_device() {
    let seeds = seeds(200);
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let turns = AtomicU64::new(0);
    let failed = Mutex::new(Vec::new());
    let done: Mutex<BTreeMap<_, u64>> = Mutex::default();
    let threads = available_parallelism().map_or(1, usize::from);
    scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) else {
                        return;
                    };
                    if catch_unwind(AssertUnwindSafe(|| {
                        let device = alive(*seed);
                        let of_life: u64 = device.turns.values().sum();
                        turns.fetch_add(of_life, Ordering::Relaxed);
                        let mut done = done.lock().unwrap();
                        for (what, n) in device.machine.with(|s| s.actions.clone()) {
                            *done.entry(what).or_default() += n;
                        }
                    }))
                    .is_err()
                    {
                        failed.lock().unwrap().push(*seed);
                        stop.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(
        failed.is_empty(),
        "seeds {failed:?} failed; replay with SEED={} cargo nextest run -p scenarios campaign_lives",
        failed[0]
    );
    let done = done.into_inner().unwrap();
    println!("{} turns: {done:#?}", turns.into_inner());
    if seeds.len() >= 100 {
        for (service, action) in RARE {
            let happened = done.contains_key(&(service, action.to_owned()));
            assert!(happened, "in no life {service} did {action}");
        }
    }
}

#[test]
fn campaign_a_seed_is_a_life() {
    let facts = |seed| {
        let device = alive(seed);
        (device.turns.clone(), device.boots, device.trail())
    };
    for seed in [7, 8] {
        assert_eq!(facts(seed), facts(seed));
    }
}
