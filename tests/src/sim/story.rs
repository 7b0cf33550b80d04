//! Made-up lives of a device.

use std::{collections::BTreeMap, env, time::Duration};

use jiff::{SignedDuration, Timestamp};
use vmm::qmp::RunState;

use super::{
    device::{Device, SERVICES},
    evc::Reach,
    wish::{AppNumber, AppWish, Part, Wish},
};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
/// The device has so long to become what it shall be once everything is healed: the longest wait is that for a wrong
/// image.
const HEALED: Duration = Duration::from_secs(30 * 3600);

/// Seeds to run: `SEED` alone, else those up to `SEEDS`, else up to `usual`; `FROM` goes on where an earlier run ended.
pub fn seeds(usual: u64) -> Vec<u64> {
    let number = |name| {
        env::var(name)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    match number("SEED") {
        Some(seed) => vec![seed],
        None => (number("FROM").unwrap_or(1)..=number("SEEDS").unwrap_or(usual)).collect(),
    }
}

/// One whole life. Panics when something happens that must not, or does not happen that must.
pub async fn live(seed: u64) -> Device {
    let mut device = Device::new(seed);
    let chapters = device.chance().number(4..=20);
    device.crash_one_in = device.chance().of(&[0, 0, 30, 100, 300]);
    device.late_one_in = device.chance().of(&[0, 10, 100]);
    let (slow, blind, loses) = (
        device.chance().of(&[0, 20, 200]),
        device.chance().of(&[0, 0, 100]),
        device.chance().of(&[0, 0, 20]),
    );
    device.machine.with(|s| {
        s.slow_one_in = slow;
        s.blind_one_in = blind;
        s.evc.loses_one_in = loses;
    });
    let interval = device.chance().of(&["60", "20", "300"]);
    device.machine.with(|s| {
        let item = ("timer.config.interval".to_owned(), interval.to_owned());
        s.evc.want(|wish| wish.items.extend([item]));
    });
    change(&mut device);
    if device.chance().one_in(2) {
        device.pass(MINUTE).await;
    }
    for number in 0..chapters {
        if number == chapters / 2 {
            outage(&mut device, seed).await;
        }
        for _ in 0..device.chance().number(1..=3) {
            chapter(&mut device);
        }
        let time = match device.chance().number(0..=99) {
            0..=49 => device.chance().millis(10..=3000),
            50..=89 => device.chance().millis(3000..=60_000),
            90..=97 => device.chance().millis(60_000..=900_000),
            _ => device.chance().millis(900_000..=5_400_000),
        };
        device.pass(time).await;
    }
    heal(&mut device);
    settle(&mut device, HEALED).await;
    rest(&mut device).await;
    device
}

/// Some lives have a long outage of the controller in their middle. It is the one thing that costs time here too.
async fn outage(device: &mut Device, seed: u64) {
    let hours = match seed {
        _ if seed.is_multiple_of(1000) => 7 * 24,
        _ if seed.is_multiple_of(50) => 12,
        _ => return,
    };
    device.machine.with(|s| {
        s.note(&format!("== the controller is gone for {hours} hours"));
        s.evc.reach = Reach::Down;
    });
    device.pass(HOUR * hours).await;
    device.machine.with(|s| s.evc.reach = Reach::Up);
}

/// Nothing stands in the way any more, and the config is sound.
pub(crate) fn heal(device: &mut Device) {
    device.set_clock();
    device.crash_one_in = 0;
    device.late_one_in = 0;
    device.unstall();
    device.machine.with(|s| {
        s.note("== healed");
        s.slow_one_in = 0;
        s.blind_one_in = 0;
        s.evc.loses_one_in = 0;
        s.evc.reach = Reach::Up;
        s.datastore.down = false;
        s.datastore.refuses = false;
        s.datastore.wrong = false;
        s.datastore.breaks_one_in = 0;
        s.kernel.plug(true);
        s.kernel.server = true;
        s.stir("nim");
        s.guests.away = false;
        s.stir("domainmgr");
        s.stir("zedrouter");
        s.disk.filler = 0;
        let sound = |wish: &mut Wish| {
            wish.foreign = false;
            wish.maintenance = false;
            wish.broken.clear();
            // Rest is looked at for long, and is cheap when it is quiet.
            for (name, seconds) in [("config", "600"), ("metric", "3600")] {
                wish.items
                    .insert(format!("timer.{name}.interval"), seconds.to_owned());
            }
        };
        s.evc.want(sound);
    });
}

/// Lets time pass until the device is what it shall be.
pub(crate) async fn settle(device: &mut Device, limit: Duration) {
    let mut waited = Duration::ZERO;
    loop {
        let step = if waited < 10 * MINUTE {
            MINUTE
        } else {
            10 * MINUTE
        };
        device.pass(step).await;
        waited += step;
        let differences = device.differences();
        // A shutdown lasts until the next boot.
        if differences.iter().any(|d| d.contains("ShutDown")) {
            device.power_cut(MINUTE);
        }
        if differences.is_empty() {
            return;
        }
        assert!(
            waited < limit,
            "after {waited:?}:\n{}\n{}",
            differences.join("\n"),
            device.trail()
        );
    }
}

/// A device at rest does nothing but what it does from time to time.
pub(crate) async fn rest(device: &mut Device) {
    const PERIODIC: [(&str, &str); 6] = [
        // A controller that did not know the device is asked again after ten minutes.
        ("zedagent", "Introduce"),
        ("zedagent", "FetchCerts"),
        ("zedagent", "FetchConfig"),
        ("zedagent", "KeepAsBackup"),
        ("domainmgr", "Measure"),
        ("nim", "Dhcp"),
    ];
    let counts = |device: &Device| -> BTreeMap<(&'static str, String), u64> {
        device.machine.with(|s| s.actions.clone())
    };
    // What was begun a moment ago may still come to its end.
    device.pass(MINUTE).await;
    let (before, turns) = (counts(device), device.turns.clone());
    device.pass(5 * MINUTE).await;
    for (service, n) in &device.turns {
        let more = n - turns.get(service).copied().unwrap_or(0);
        assert!(
            more <= 150,
            "{service} at rest had {more} turns in five minutes\n{}",
            device.trail()
        );
    }
    for (what, n) in counts(device) {
        let periodic = PERIODIC
            .iter()
            .any(|(s, kind)| (*s, *kind) == (what.0, &*what.1));
        let more = n - before.get(&what).copied().unwrap_or(0);
        let allowed = match (what.0, &*what.1) {
            // It tells the device's state every ten minutes, and metrics every minute.
            ("reporter", _) => 12,
            // The TPM is asked how it is once an hour.
            ("vaultmgr", "Ask") => 1,
            _ => 0,
        };
        assert!(
            periodic || more <= allowed,
            "a device at rest did {what:?} {more} times\n{}",
            device.trail()
        );
    }
    // A report may be on its way at any moment.
    let stayed = device.until(MINUTE / 2, |device| device.differences().is_empty());
    assert!(
        stayed.await,
        "it did not stay:\n{}\n{}",
        device.differences().join("\n"),
        device.trail()
    );
    for (service, plan) in device.plans().await {
        let quiet =
            plan == "[]" || matches!(service, "zedagent" | "domainmgr" | "reporter" | "nim");
        assert!(quiet, "{service} at rest plans {plan}");
    }
}

/// Something happens.
fn chapter(device: &mut Device) {
    match device.chance().number(0..=30) {
        0..=11 => change(device),
        12..=15 => {
            let service = device.chance().of(&SERVICES);
            device.kill(service);
        }
        16 => {
            for service in SERVICES {
                if device.chance().one_in(2) {
                    device.kill(service);
                }
            }
        }
        17 => {
            let service = device.chance().of(&SERVICES);
            let time = device.chance().millis(500..=90_000);
            device.stall(service, time);
        }
        18 | 19 => {
            let reach = device.chance().of(&[
                Reach::Down,
                Reach::Up,
                Reach::Up,
                Reach::Refuses(403),
                Reach::Refuses(404),
                Reach::Refuses(422),
                Reach::Refuses(503),
            ]);
            device.machine.with(|s| {
                s.note(&format!("== controller: {reach:?}"));
                s.evc.reach = reach;
            });
        }
        20 | 21 => datastore(device),
        22 => {
            let plugged = device.chance().one_in(2);
            device.machine.with(|s| {
                s.note(&format!("== cable: {plugged}"));
                s.kernel.plug(plugged);
                s.stir("nim");
                s.stir("zedrouter");
            });
        }
        23 => {
            let off = device.chance().millis(1000..=600_000);
            device.power_cut(off);
        }
        24 => {
            let full = device.chance().one_in(2);
            device.machine.with(|s| {
                s.note(&format!("== disk full: {full}"));
                s.disk.filler = if full { s.disk.total } else { 0 };
            });
        }
        25 | 26 => guest(device),
        27 => {
            let away = device.chance().one_in(3);
            device.machine.with(|s| {
                s.note(&format!("== supervisor away: {away}"));
                s.guests.away = away;
                s.stir("domainmgr");
                s.stir("zedrouter");
            });
        }
        29 => clock(device),
        28 => device.machine.with(|s| {
            s.note("== attestation forgotten");
            s.evc.forget_attestation();
        }),
        _ => device.machine.with(|s| {
            s.note("== epoch");
            s.evc.want(|wish| wish.epoch += 1);
        }),
    }
}

fn datastore(device: &mut Device) {
    let what = device.chance().number(0..=5);
    let breaks = device.chance().of(&[0, 3, 10]);
    device.machine.with(|s| {
        s.note(&format!("== datastore: {what}, breaks {breaks}"));
        s.datastore.down = what == 0;
        s.datastore.refuses = what == 1;
        s.datastore.wrong = what == 2;
        s.datastore.breaks_one_in = breaks;
    });
}

/// The wall clock is set: by an hour, by years, to where a board without a battery begins, or right.
fn clock(device: &mut Device) {
    let hours = |n| SignedDuration::from_hours(n);
    let to_1970 = Timestamp::UNIX_EPOCH.duration_since(device.now());
    match device.chance().number(0..=3) {
        0 => device.jump(to_1970),
        1 => device.set_clock(),
        _ => {
            let by = device
                .chance()
                .of(&[1, 24, 24 * 365, 24 * 365 * 12].map(hours));
            let back = device.chance().one_in(2);
            device.jump(if back { -by } else { by });
        }
    }
}

/// A guest does something by itself.
fn guest(device: &mut Device) {
    let what = device.chance().number(0..=3);
    device.machine.with(|s| {
        let now = s.clock.now();
        let which = s.chance.number(0..=9);
        let mut running = s.guests.qemus.iter_mut().filter(|(_, qemu)| qemu.runs());
        let Some((app, qemu)) = running.nth(usize::try_from(which % 3).unwrap()) else {
            return;
        };
        let line = format!("== guest of {app}: {what}");
        match what {
            0 => qemu.end(now, "killed by signal 9"),
            1 => (qemu.state, qemu.since) = (RunState::Shutdown, now),
            2 => (qemu.state, qemu.since) = (RunState::GuestPanicked, now),
            _ => qemu.deaf = true,
        }
        s.note(&line);
        s.stir("domainmgr");
    });
}

/// The controller wants something else.
fn change(device: &mut Device) {
    let what = device.chance().number(0..=22);
    let n = AppNumber::try_from(device.chance().number(1..=4)).unwrap();
    let image = u8::try_from(device.chance().number(1..=3)).unwrap();
    let (data, vif, delayed) = (
        device.chance().one_in(3),
        !device.chance().one_in(4),
        device.chance().one_in(10),
    );
    let part = device.chance().of(&[
        Part::Datastore,
        Part::Network,
        Part::Tree(image),
        Part::Volumes(n),
        Part::Memory(n),
    ]);
    device.machine.with(|s| {
        s.evc.want(|wish| {
            edit(wish, what, n, part, |app| {
                app.image = image;
                app.data = data;
                app.vif = vif;
                app.delay = if delayed { 90 } else { 0 };
            });
        });
        let line = format!("== wanted: {:?}", s.evc.wish);
        s.note(&line);
    });
}

fn edit(wish: &mut Wish, what: u64, n: AppNumber, part: Part, fresh: impl Fn(&mut AppWish)) {
    match what {
        0..=5 => {
            let (parked, former) = (wish.parked.remove(&n), wish.former.get(&n));
            wish.apps.entry(n).or_insert_with(|| {
                parked.unwrap_or_else(|| {
                    let mut app = AppWish::default();
                    fresh(&mut app);
                    if let Some(former) = former {
                        app.restart = former.restart + 1;
                        app.purge = former.purge + 1;
                        app.generation = former.generation + 1;
                    }
                    app
                })
            });
        }
        6 => wish.former.extend(wish.apps.remove(&n).map(|app| (n, app))),
        7 => {
            if let Some(app) = wish.apps.remove(&n) {
                wish.parked.insert(n, app);
            }
        }
        8 => wish
            .former
            .extend(wish.parked.remove(&n).map(|app| (n, app))),
        16 => {
            wish.broken.insert(part);
        }
        17 | 18 => wish.broken.clear(),
        19 => wish.foreign = !wish.foreign,
        20 => wish.reboot += 1,
        22 => wish.maintenance = !wish.maintenance,
        21 => {
            if n == 1 {
                wish.shutdown += 1;
            }
        }
        _ => {
            let Some(app) = wish.apps.get_mut(&n) else {
                return;
            };
            match what {
                9 | 10 => app.activate = !app.activate,
                11 => app.restart += 1,
                12 => app.purge += 1,
                13 => {
                    app.purge += 1;
                    app.generation += 1;
                }
                14 => app.memory_mib += 64,
                _ => {
                    app.restart += 1;
                    app.vif = !app.vif;
                }
            }
        }
    }
}
