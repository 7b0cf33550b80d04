//! Campaign 5, bytes from outside, as far as `make test` goes: every seed and every kept input of each
//! target, and mutations of them. `make fuzz` is the real thing.
//!
//! `CASES=n` mutations of each target (1000 by default), from `SEED=n` on (0). A failure prints the number of its
//! case; `SEED=<it> CASES=1` is that case alone.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    time::{Duration, Instant},
};

use fuzz::{TARGETS, Target, mutate::mutate};

/// In any case a target ends after this time; a machine that is too slow for all cases has done fewer.
const PATIENCE: Duration = Duration::from_secs(6);

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

fn campaign(name: &str) {
    let target = Target::named(name).expect("a target");
    let mut known = (target.seeds)();
    for (at, seed) in known.iter().enumerate() {
        tried(target, seed, &format!("seed {at}"));
    }
    for (file, input) in target.corpus() {
        tried(target, &input, &format!("corpus/{name}/{file}"));
        known.push(input);
    }
    let (first, cases) = (number("SEED", 0), number("CASES", 1000));
    let (begin, mut done) = (Instant::now(), 0);
    for case in first..first.saturating_add(cases) {
        let is_asked_for = std::env::var_os("CASES").is_some();
        if !is_asked_for && begin.elapsed() > PATIENCE {
            break;
        }
        tried(
            target,
            &mutate(&known, case),
            &format!("SEED={case} CASES=1"),
        );
        done += 1;
    }
    println!(
        "{name}: {} known inputs, {done} cases in {:?}",
        known.len(),
        begin.elapsed()
    );
}

fn tried(target: &Target, input: &[u8], what: &str) {
    let result = catch_unwind(AssertUnwindSafe(|| (target.check)(input)));
    if let Err(panic) = result {
        eprintln!("{}: {what}: {}", target.name, input.escape_ascii());
        resume_unwind(panic);
    }
}

macro_rules! campaigns {
    ($($test:ident: $target:literal;)+) => {
        $(
            #[test]
            fn $test() {
                campaign($target);
            }
        )+

        #[test]
        fn campaign_bytes_covers_every_target() {
            let tested = [$($target),+];
            let all: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(tested[..], all[..]);
        }
    };
}

campaigns! {
    campaign_bytes_envelope: "envelope";
    campaign_bytes_certs: "certs";
    campaign_bytes_config: "config";
    campaign_bytes_secrets: "secrets";
    campaign_bytes_signatures: "signatures";
    campaign_bytes_access: "access";
    campaign_bytes_quotes: "quotes";
    campaign_bytes_saved: "saved";
    campaign_bytes_manifest: "manifest";
    campaign_bytes_bus: "bus";
    campaign_bytes_qmp: "qmp";
    campaign_bytes_dhcp: "dhcp";
    campaign_bytes_leases: "leases";
    campaign_bytes_answers: "answers";
    campaign_bytes_download: "download";
    campaign_bytes_partition: "partition";
    campaign_bytes_logs: "logs";
    campaign_bytes_logstore: "logstore";
    campaign_bytes_units: "units";
    campaign_bytes_images: "images";
    campaign_bytes_tools: "tools";
    campaign_bytes_bundle: "bundle";
    campaign_bytes_upload: "upload";
}
