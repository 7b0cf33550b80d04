//! newlogd with real files and virtual time.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::{fmt::Write as _, fs, time::Duration};

use newlogd::{entry::Time, plan::pacing::Answer};
use support::{Device, START, contents, told};
use uuid::Uuid;

const APP: Uuid = Uuid::from_u128(0xa);

fn console() -> String {
    format!("guests/{APP}.console")
}

#[tokio::test(start_paused = true)]
async fn lines_reach_the_controller_in_order_with_their_times() {
    let mut device = Device::new();
    device.start();
    device.work().await;
    device.print("nim.log", r#"{"timestamp":"2026-01-01T00:00:01.5Z","level":"INFO","message":"phase","topic":"x","target":"agent"}"#);
    device.print(
        "nim.log",
        r#"{"timestamp":"2026-01-01T00:00:03Z","level":"DEBUG","message":"not this one"}"#,
    );
    device.print(
        "zedagent.log",
        r#"{"timestamp":"2026-01-01T00:00:02Z","level":"ERROR","message":"between"}"#,
    );
    device.print(
        "nim.log",
        r#"{"timestamp":"2026-01-01T00:00:04Z","level":"WARN","message":"last"}"#,
    );
    device.print("zedrouter+dns-bn1.log", "dnsmasq: <started>");
    device.print(&console(), "Linux version 6");
    device.print_raw(&console(), b"login: ");
    device.pass(4).await;
    assert!(device.files("devUpload").is_empty(), "few lines wait");
    device.pass(300).await;
    let entries = device.evc.entries(None);
    let texts: Vec<_> = entries
        .iter()
        .map(|e| (&*e.source, &*e.severity, &*e.content))
        .collect();
    assert_eq!(
        texts,
        [
            ("nim", "info", "phase topic=x"),
            ("zedagent", "error", "between"),
            ("nim", "warning", "last"),
            ("zedrouter/dns-bn1", "info", "dnsmasq: <started>"),
        ]
    );
    let numbers: Vec<_> = entries.iter().map(|e| e.msgid).collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
    assert_eq!(
        entries[0].timestamp,
        Time {
            seconds: START + 1,
            nanos: 500_000_000
        }
    );
    assert_eq!(
        entries[3].timestamp.seconds,
        START + 4,
        "when it was first seen"
    );
    let app = device.evc.entries(Some(APP));
    assert_eq!(contents(&app, "guest_vm"), ["Linux version 6", "login: "]);
    assert_eq!(app[0].iid, APP.to_string());
    assert!(
        device.files("devUpload").is_empty(),
        "delivered ones are removed"
    );
    assert_eq!(device.files("keepSentQueue").len(), 1);
    let origin = device.evc.0.lock().unwrap().files[0]
        .1
        .origin
        .clone()
        .unwrap();
    assert_eq!(
        (&*origin.image, &*origin.device),
        ("IMGA", &*Uuid::from_u128(1).to_string())
    );
    let metrics = device.metrics();
    assert_eq!(metrics.dev_metrics.num_gzip_files_sent, 1);
    assert_eq!(metrics.dev_metrics.num_input_event, 4);
    assert_eq!(
        (
            metrics.logfile_timeout_sec,
            metrics.curr_upload_intv_sec.abs_diff(90) <= 18
        ),
        (300, true)
    );
}

#[tokio::test(start_paused = true)]
async fn many_lines_do_not_wait() {
    let mut device = Device::new();
    device.start();
    device.work().await;
    for n in 0..6000 {
        device.print(
            "nim.log",
            &format!("a line that says something about number {n:0>40}"),
        );
    }
    device.pass(3).await;
    assert!(!device.files("devUpload").is_empty());
}

#[tokio::test(start_paused = true)]
async fn it_goes_on_where_it_stopped_also_through_cuts() {
    let mut device = Device::new();
    let mut expected = Vec::new();
    for round in 0..8 {
        device.start();
        device.work().await;
        for n in 0..3000 {
            let line = format!("round {round} line {n:0>100}");
            device.print("nim.log", &line);
            expected.push(line);
        }
        device.cut("nim.log", 100_000);
        device.pass(301).await;
        device.live(10, 2).await;
    }
    device.live(2000, 50).await;
    assert_eq!(contents(&device.evc.entries(None), "nim"), expected);
}

#[tokio::test(start_paused = true)]
async fn before_onboarding_lines_are_kept_and_their_file_gets_the_device_later() {
    let mut device = Device::new();
    device.unonboard();
    device.start();
    device.print("nim.log", "first words");
    device.work().await;
    device.pass(301).await;
    assert_eq!(device.files("devUpload").len(), 1);
    assert!(device.evc.entries(None).is_empty());
    device.onboard();
    device.pass(110).await;
    assert_eq!(contents(&device.evc.entries(None), "nim"), ["first words"]);
    let origin = device.evc.0.lock().unwrap().files[0]
        .1
        .origin
        .clone()
        .unwrap();
    assert_eq!(origin.device, Uuid::from_u128(1).to_string());
}

#[tokio::test(start_paused = true)]
async fn within_the_quota_the_oldest_go_first_and_are_counted() {
    let mut device = Device::new();
    // A quota of 1 MB.
    device.disk = 10_000_000;
    device.evc.always(Some(Answer::Unavailable));
    device.start();
    device.work().await;
    let mut printed = 0_u64;
    let mut state = 88_172_645_463_325_252_u64;
    for _ in 0..60 {
        for _ in 0..300 {
            let mut line = format!("{printed:0>7}");
            while line.len() < 220 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                write!(line, "{state:016x}").unwrap();
            }
            device.print("nim.log", &line);
            printed += 1;
        }
        device.pass(301).await;
        device.pass(2).await;
        assert!(device.bytes() <= 1_000_000, "{}", device.bytes());
    }
    let metrics = device.metrics();
    assert!(metrics.failed_to_send && metrics.lines_dropped > 0);
    assert_eq!(metrics.quota_bytes, 1_000_000);
    device.evc.always(None);
    device.live(40_000, 100).await;
    let entries = device.evc.entries(None);
    let got = contents(&entries, "nim");
    let lost = told(&entries, "linesLost");
    assert_eq!(got.len() as u64 + lost, printed);
    assert!(lost > 1000);
    let numbers: Vec<u64> = got.iter().map(|line| line[..7].parse().unwrap()).collect();
    assert!(
        numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]),
        "the newest, without a gap"
    );
    assert_eq!(*numbers.last().unwrap(), printed - 1);
}

#[tokio::test(start_paused = true)]
async fn a_runaway_is_limited_and_said_so() {
    let mut device = Device::new();
    device.start();
    device.work().await;
    let mut printed = 0_u64;
    for _ in 0..12 {
        let mut block = String::new();
        for _ in 0..20_000 {
            writeln!(block, "it goes wrong again and again, now {printed:0>50}").unwrap();
            printed += 1;
        }
        device.print_raw("zedrouter.log", block.as_bytes());
        device.print("nim.log", "modest");
        device.pass(2).await;
        device.cut("zedrouter.log", 1 << 20);
        device.pass(2).await;
    }
    device.live(600, 10).await;
    device.live(3000, 60).await;
    let entries = device.evc.entries(None);
    let got = contents(&entries, "zedrouter").len() as u64;
    assert_eq!(got + told(&entries, "linesLost"), printed);
    assert!(got < printed / 2, "{got} of {printed}");
    assert_eq!(contents(&entries, "nim").len(), 12);
    assert!(
        entries
            .iter()
            .any(|e| e.content.contains("zedrouter prints more than"))
    );
    assert_eq!(device.metrics().lines_limited["zedrouter"], printed - got);
}

#[tokio::test(start_paused = true)]
async fn what_is_overwritten_while_it_was_away_is_known_to_the_byte() {
    let mut device = Device::new();
    device.start();
    device.print("nim.log", "before");
    device.work().await;
    device.pass(301).await;
    device.runtime = None;
    let mut printed = "before\n".len() as u64;
    for n in 0..40_000 {
        let line = format!("{n:0>99}");
        device.print("nim.log", &line);
        printed += 100;
        if n % 2000 == 0 {
            let path = device.dir.path().join("log/nim.log");
            logfile::bound(&path, 200_000, 2).unwrap();
        }
    }
    device.start();
    device.work().await;
    device.live(4000, 50).await;
    let entries = device.evc.entries(None);
    let got: u64 = contents(&entries, "nim")
        .iter()
        .map(|line| line.len() as u64 + 1)
        .sum();
    let lost = told(&entries, "bytesLost");
    assert!(lost > 0);
    // The piece of a line in which the gap ended has no line end of its own before it.
    assert!(
        (got + lost).abs_diff(printed) <= 1,
        "{got} + {lost} of {printed}"
    );
    assert_eq!(device.metrics().bytes_missed["nim"], lost);
}

#[tokio::test(start_paused = true)]
async fn refused_files_step_aside_and_outages_lose_nothing() {
    let mut device = Device::new();
    device.start();
    device.print("nim.log", "the controller will not like this");
    device.work().await;
    device.pass(301).await;
    device.evc.0.lock().unwrap().answers = vec![Answer::Refused; 11];
    // The first attempt was taken; this one is not.
    device.print("nim.log", "nor this");
    device.pass(3).await;
    device.live(302 + 12 * 110, 10).await;
    assert_eq!(device.files("failedUpload").len(), 1);
    assert!(device.files("devUpload").is_empty());
    let metrics = device.metrics();
    assert_eq!(
        (
            metrics.num_4xx_responses,
            metrics.dev_metrics.num_gzip_file_kept_local
        ),
        (11, 1)
    );
    device.evc.always(Some(Answer::Unavailable));
    device.print("nim.log", "during the outage");
    device.pass(3).await;
    device.live(2 * 86_400, 600).await;
    assert!(device.metrics().failed_to_send && device.metrics().fault.is_some());
    assert_eq!(device.files("devUpload").len(), 1);
    device.evc.always(None);
    device.live(1000, 10).await;
    let got = contents(&device.evc.entries(None), "nim");
    assert_eq!(
        got,
        ["the controller will not like this", "during the outage"]
    );
    assert_eq!(device.metrics().fault, None);
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_leads_to_the_same_file_again() {
    let mut device = Device::new();
    device.start();
    device.print("nim.log", "once");
    device.work().await;
    device.evc.0.lock().unwrap().deaf = true;
    device.pass(301).await;
    device.live(200, 10).await;
    device.evc.0.lock().unwrap().deaf = false;
    device.live(200, 10).await;
    assert!(device.evc.0.lock().unwrap().attempts.len() > 1);
    assert_eq!(contents(&device.evc.entries(None), "nim"), ["once"]);
    assert!(device.files("devUpload").is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_pace_of_uploads_is_that_of_the_protocol() {
    let mut device = Device::new();
    device.unonboard();
    device.start();
    device.work().await;
    for n in 0..40 {
        device.print("nim.log", &format!("line {n}"));
        device.print(&console(), &format!("line {n}"));
        device.pass(2).await;
        device.pass(301).await;
    }
    assert_eq!(
        (
            device.files("devUpload").len(),
            device.files("appUpload").len()
        ),
        (40, 40)
    );
    device.onboard();
    device.live(6000, 1).await;
    let room = device.evc.0.lock().unwrap();
    let ticks: Vec<Duration> = room
        .attempts
        .iter()
        .filter(|a| a.1.is_none())
        .map(|a| a.0)
        .collect();
    assert_eq!(
        (ticks.len(), room.attempts.len()),
        (40, 80),
        "one of each per tick"
    );
    for (index, pair) in ticks.windows(2).enumerate() {
        let left = 80 - 2 * (index as u64 + 1);
        let pace = match left {
            51.. => 15.0,
            26.. => 30.0,
            6.. => 45.0,
            _ => 90.0,
        };
        let gap = pair[1].saturating_sub(pair[0]).as_secs_f64();
        assert!(
            (pace * 0.8..=pace * 1.2 + 1.5).contains(&gap),
            "{gap} s with {left} files left"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn fast_upload_is_fast() {
    let mut device = Device::new();
    device.property("newlog.allow.fastupload", "true");
    device.start();
    device.print("nim.log", "quick");
    device.work().await;
    device.live(16, 1).await;
    assert_eq!(contents(&device.evc.entries(None), "nim"), ["quick"]);
    assert_eq!(
        (
            device.metrics().logfile_timeout_sec,
            device.metrics().curr_upload_intv_sec <= 3
        ),
        (10, true)
    );
}

#[tokio::test(start_paused = true)]
async fn a_clock_of_1970_and_a_jump_back_keep_the_order_of_files() {
    let mut device = Device::new();
    device.unonboard();
    fs::create_dir_all(device.newlog().join("devUpload")).unwrap();
    device.start();
    device.print("nim.log", "a");
    device.work().await;
    device.pass(301).await;
    let first = device.files("devUpload");
    // The clock is years behind after a reboot.
    device.clock = agent::Clock::tokio(jiff::Timestamp::UNIX_EPOCH);
    device.start();
    device.print("nim.log", "b");
    device.work().await;
    device.pass(301).await;
    let both = device.files("devUpload");
    assert_eq!((both.len(), &both[0]), (2, &first[0]), "{both:?}");
}

#[tokio::test(start_paused = true)]
async fn a_damaged_state_reads_everything_again() {
    let mut device = Device::new();
    device.start();
    device.print("nim.log", "a");
    device.work().await;
    device.pass(301).await;
    fs::write(device.newlog().join("collect/state.json"), "{half").unwrap();
    device.start();
    device.work().await;
    device.pass(301).await;
    device.pass(110).await;
    assert_eq!(contents(&device.evc.entries(None), "nim"), ["a", "a"]);
    assert!(device.newlog().join("collect/state.bad").exists());
}
