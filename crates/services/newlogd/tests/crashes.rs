//! newlogd dies between any two changes of the disk: every line arrives, once, in order.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::collections::BTreeMap;

use newlogd::plan::pacing::Answer;
use proptest::prelude::*;
use support::{Device, contents};
use uuid::Uuid;

const APP: Uuid = Uuid::from_u128(0xa);

#[derive(Debug, Clone)]
enum Step {
    Print {
        source: usize,
        lines: u32,
    },
    Cut {
        source: usize,
    },
    Pass {
        seconds: u64,
    },
    /// Dies after so many changes of the disk, in the middle of whatever it does then.
    Crash {
        changes: u32,
        seconds: u64,
    },
    Controller(Option<Answer>, bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0_usize..3, 1_u32..1500).prop_map(|(source, lines)| Step::Print { source, lines }),
        1 => (0_usize..3).prop_map(|source| Step::Cut { source }),
        3 => (1_u64..400).prop_map(|seconds| Step::Pass { seconds }),
        4 => (0_u32..14, 1_u64..400).prop_map(|(changes, seconds)| Step::Crash { changes, seconds }),
        1 => (prop::sample::select(vec![None, Some(Answer::Unavailable), Some(Answer::TooMany)]), any::<bool>())
            .prop_map(|(answer, deaf)| Step::Controller(answer, deaf)),
    ]
}

fn log(source: usize) -> String {
    [
        "nim.log".to_owned(),
        "zedrouter+dns.log".to_owned(),
        format!("guests/{APP}.console"),
    ][source]
        .clone()
}

async fn story(steps: &[Step]) {
    let mut device = Device::new();
    let mut printed: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    let mut number = 0;
    device.start();
    device.work().await;
    for step in steps {
        match step {
            Step::Print { source, lines } => {
                for _ in 0..*lines {
                    let line = format!("line {number} {:0>60}", number * 7919);
                    device.print(&log(*source), &line);
                    printed.entry(*source).or_default().push(line);
                    number += 1;
                }
                device.pass(2).await;
            }
            Step::Cut { source } => device.cut(&log(*source), 100_000),
            Step::Pass { seconds } => device.pass(*seconds).await,
            Step::Crash { changes, seconds } => {
                device.blow_after(*changes);
                device.pass(*seconds).await;
                device.pass(3).await;
                device.start();
                device.work().await;
            }
            Step::Controller(answer, deaf) => {
                device.evc.always(*answer);
                device.evc.0.lock().unwrap().deaf = *deaf;
            }
        }
    }
    device.evc.always(None);
    device.evc.0.lock().unwrap().deaf = false;
    device.start();
    device.work().await;
    for _ in 0..400 {
        device.pass(301).await;
        if device.files("devUpload").is_empty() && device.files("appUpload").is_empty() {
            break;
        }
    }
    device.live(1500, 100).await;
    let own = device.evc.entries(None);
    let guest = device.evc.entries(Some(APP));
    let got = [
        contents(&own, "nim"),
        contents(&own, "zedrouter/dns"),
        contents(&guest, "guest_vm"),
    ];
    for (source, got) in got.iter().enumerate() {
        let expected = printed.remove(&source).unwrap_or_default();
        assert!(
            *got == expected,
            "{}: {} of {} lines, first difference {:?}",
            log(source),
            got.len(),
            expected.len(),
            got.iter().zip(&expected).find(|(a, b)| a != b)
        );
    }
    let mut numbers: Vec<u64> = own.iter().chain(&guest).map(|e| e.msgid).collect();
    numbers.sort_unstable();
    assert!(
        numbers.windows(2).all(|pair| pair[0] < pair[1]),
        "a number twice"
    );
    let left = device.files("collect");
    assert!(left.iter().all(|name| name == "state.json"), "{left:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn every_line_arrives_once_and_in_order(steps in prop::collection::vec(step(), 1..14)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(story(&steps));
    }
}

#[test]
fn a_crash_at_every_single_change() {
    for changes in 0..16 {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(story(&[
            Step::Print {
                source: 0,
                lines: 900,
            },
            Step::Print {
                source: 2,
                lines: 900,
            },
            Step::Crash {
                changes,
                seconds: 301,
            },
            Step::Print {
                source: 1,
                lines: 10,
            },
            Step::Crash {
                changes,
                seconds: 301,
            },
        ]));
    }
}
