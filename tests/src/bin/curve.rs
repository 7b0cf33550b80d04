//! One point of the curve that `bench curve` shows: a whole device in memory with so many applications, what a turn of
//! each service costs then, and what memory all of it takes.
//!
//! The time of turns is the processor's, not the wall's, so that other work on the machine does not count. The memory is
//! that of all services, the bus and the machine around them, in one process.
#![forbid(unsafe_code)]
// It says what it found or fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{collections::BTreeMap, env, fs, time::Duration};

use rustix::time::{ClockId, clock_gettime};
use scenarios::sim::{AppNumber, AppWish, Device};
use serde_json::json;

/// Time in which all applications have to run, on the device's clock.
const LIMIT: Duration = Duration::from_secs(2 * 3600);
/// Turns of each service that are looked at.
const ROUNDS: usize = 15;

fn main() {
    let mut numbers = env::args().skip(1).map(|word| word.parse().unwrap());
    let apps: AppNumber = numbers.next().expect("usage: curve APPLICATIONS");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    println!("{}", runtime.block_on(point(apps)));
}

async fn point(apps: AppNumber) -> serde_json::Value {
    let empty = memory_kib();
    let began = processor_time();
    let mut device = Device::new(1);
    // Each of an application's objects is reported by itself.
    device.is_busy(10 * u64::from(apps));
    device.machine.with(|s| {
        s.disk.total = 1 << 42;
        s.guests.more_memory_kib = 1 << 32;
        s.evc.want(|wish| {
            for n in 1..=apps {
                // A network has room for 255: what rules cost is measured beside the kernel's, by `bench ruleset`.
                let app = AppWish {
                    vif: false,
                    memory_mib: 1,
                    ..AppWish::default()
                };
                wish.apps.insert(n, app);
            }
        });
    });
    let all_run = |device: &Device| {
        let running = device
            .machine
            .with(|s| s.guests.qemus.values().filter(|qemu| qemu.runs()).count());
        running == usize::from(apps)
    };
    assert!(
        device.until(LIMIT, all_run).await,
        "not all applications run:\n{}",
        device.trail()
    );
    let settled_in = processor_time().saturating_sub(began);
    // Reports of what came last go out.
    device.pass(Duration::from_secs(120)).await;
    let mut quiet: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
    device.stopwatch = Some(processor_time);
    for _ in 0..ROUNDS {
        device.costs.clear();
        device.nudge();
        device.pass(Duration::from_millis(100)).await;
        for (service, turns) in std::mem::take(&mut device.costs) {
            quiet.entry(service).or_default().extend(turns);
        }
    }
    let turns = quiet.into_iter().map(|(service, mut took)| {
        took.sort();
        let median = took[took.len() / 2];
        (service.to_owned(), json!(median.as_secs_f64() * 1e6))
    });
    json!({
        "apps": apps,
        "turn_us": turns.collect::<serde_json::Map<_, _>>(),
        "until_all_run_ms": settled_in.as_secs_f64() * 1e3,
        "memory_kib": memory_kib().saturating_sub(empty),
    })
}

/// What this thread has had of the processor.
fn processor_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(now.tv_sec).unwrap();
    Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap())
}

fn memory_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let words = line.expect("the kernel says what memory is used");
    words.trim().trim_end_matches(" kB").trim().parse().unwrap()
}
