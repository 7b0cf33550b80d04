//! A writer that is killed at any point leaves every object as the old one or the new one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod world;

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use bus::{Bus, Rows, Topic};
use world::{KEPT_PORTS, PORTS, Port, port, until};

const ROOT: &str = "BUS_TEST_WRITER_ROOT";
const PERSISTENT: &str = "BUS_TEST_WRITER_PERSISTENT";
const KEYS: u64 = 3;

/// An object that shows whether it is whole: every part of it says which one it is.
fn whole(key: u64, counter: u64) -> Port {
    let addresses = vec![counter.to_string(); 200 + usize::try_from(counter % 300).unwrap()];
    Port {
        addresses,
        ..port(&key.to_string(), counter)
    }
}

/// The writer. Not a test of its own: it does nothing unless this program has started it.
#[test]
fn writer_process() {
    let Some(root) = std::env::var_os(ROOT) else {
        return;
    };
    let topic: Topic<Port> = if std::env::var_os(PERSISTENT).is_some() {
        KEPT_PORTS
    } else {
        PORTS
    };
    let mut publisher = Bus::open(Path::new(&root), "nim")
        .unwrap()
        .publisher(&topic)
        .unwrap();
    let mut out = std::io::stdout().lock();
    let mut counter = publisher
        .rows()
        .values()
        .map(|port| port.counter)
        .max()
        .unwrap_or(0);
    publisher.set_ready().unwrap();
    loop {
        counter += 1;
        let key = counter % KEYS;
        publisher
            .publish(&key.to_string(), &whole(key, counter))
            .unwrap();
        writeln!(out, "published {key} {counter}").unwrap();
    }
}

fn start_writer(root: &Path, persistent: bool) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([
            "--exact",
            "writer_process",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(ROOT, root);
    if persistent {
        command.env(PERSISTENT, "1");
    }
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Kills the writer some time after it began to publish; returns what it acknowledged last for each key.
fn run_and_kill(root: &Path, persistent: bool, after: Duration) -> HashMap<String, u64> {
    let mut child = start_writer(root, persistent);
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    while !text.contains("published") {
        assert!(
            out.read_line(&mut text).unwrap() > 0,
            "the writer ended by itself: {text}"
        );
    }
    let started = Instant::now();
    while started.elapsed() < after {
        std::hint::spin_loop();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let mut rest = Vec::new();
    out.read_to_end(&mut rest).unwrap();
    text.push_str(&String::from_utf8_lossy(&rest));
    // The last line may have been cut off by the kill.
    let complete = text.rsplit_once('\n').map_or("", |(lines, _)| lines);
    let mut acknowledged = HashMap::new();
    for line in complete.lines() {
        if let ["published", key, counter] = line
            .split(' ')
            .skip_while(|w| *w != "published")
            .collect::<Vec<_>>()[..]
        {
            acknowledged.insert(key.to_owned(), counter.parse().unwrap());
        }
    }
    acknowledged
}

fn check_rows(rows: &Rows<Port>, before: &HashMap<String, u64>, round: u64) {
    for (key, port) in rows {
        let known = before.get(key).copied().unwrap_or(0);
        assert!(
            port.counter == known
                || port.counter == known + KEYS
                || (known == 0 && port.counter <= KEYS),
            "round {round}: {key} is {}, acknowledged was {known}",
            port.counter
        );
        assert_eq!(
            *port,
            whole(key.parse().unwrap(), port.counter),
            "round {round}: {key} is not whole"
        );
    }
    assert!(
        before.keys().all(|key| rows.contains_key(key)),
        "round {round}: an acknowledged object is gone"
    );
}

async fn kill_many_times(persistent: bool, rounds: u64) {
    let topic = if persistent { KEPT_PORTS } else { PORTS };
    let root = tempfile::tempdir().unwrap();
    let bus = Bus::open(root.path(), "zedagent").unwrap();
    let mut subscription = bus.subscribe(&topic).unwrap();
    let mut acknowledged = HashMap::new();
    for round in 0..rounds {
        let after = Duration::from_micros(round.wrapping_mul(2_654_435_761) % 2500);
        acknowledged.extend(run_and_kill(root.path(), persistent, after));
        let rows = bus.read(&topic).unwrap().unwrap();
        check_rows(&rows, &acknowledged, round);
        acknowledged.extend(rows.iter().map(|(key, port)| (key.clone(), port.counter)));
        if round % 50 == 0 {
            until(&mut subscription, |seen| *seen == rows).await;
        }
    }
    let rows = bus.read(&topic).unwrap().unwrap();
    until(&mut subscription, |seen| *seen == rows).await;
    assert!(subscription.unreadable().is_empty());
    assert_eq!(bus.topics().unwrap()[0].quarantined, 0);
    // What was in the making when a writer was killed doesn't add up.
    let publisher = bus.acting_as("nim").publisher(&topic).unwrap();
    let [_, run, _, persist] = bus::layout::service_dirs(root.path(), "nim");
    let staging = if persistent { persist } else { run };
    let left = std::fs::read_dir(staging).unwrap();
    let left: Vec<_> = left
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.contains(".reserve."))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(publisher.quarantined(), []);
}

#[tokio::test]
async fn a_thousand_kills_leave_every_object_old_or_new() {
    kill_many_times(false, 1000).await;
}

#[tokio::test]
async fn a_thousand_kills_lose_no_persistent_object() {
    kill_many_times(true, 1000).await;
}
