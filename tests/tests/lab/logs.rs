//! Lines of services, guests and the kernel on their way to the controller, over an outage and crashes of newlogd.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
    time::Instant,
};

use anyhow::Result;
use demo::Stage;
use lab::Fault;
use model::topics::NEWLOG_METRICS;
use serde_json::Value;
use units::{Client, UnitName, UnitSpec, Units as _, ids};

use crate::support::{PATIENCE, manifest, onboarded, view};

/// Prints a counted line now and then, and takes note of how many it printed.
const TICKER: &str = "nim/ticker";
/// Prints 10 MB in lines of 2 kB, more than twice what a source may print at once; but not more in a few seconds
/// than its log keeps of it.
const CHATTER: &str = "nim/chatter";
const CHATTER_LINES: u64 = 5000;

/// Starts a unit as root may.
fn run(stage: &Stage, name: &str, script: &str) {
    on_supervisor(stage, async |client: Client| {
        let name: UnitName = name.parse().unwrap();
        let uid = ids::service_uid(name.owner()).unwrap();
        let spec = UnitSpec::new(name, "/bin/sh", uid).args(["-c", script]);
        client.start(spec).await.unwrap();
    });
}

fn stop(stage: &Stage, name: &str) {
    on_supervisor(stage, async |client: Client| {
        client.stop(&name.parse().unwrap()).await.unwrap();
    });
}

fn on_supervisor(stage: &Stage, work: impl AsyncFnOnce(Client)) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let client = Client::connect(stage.device().root()).unwrap();
        work(client).await;
    });
}

/// Every line that the controller has of one source, or of all.
fn at_the_controller(stage: &Stage, source: Option<&str>) -> Result<Vec<Value>> {
    let mut arguments = vec!["logs", "--device", "edge", "--limit", "10000"];
    if let Some(source) = source {
        arguments.extend(["--source", source]);
    }
    Ok(match stage.evc(&arguments)? {
        Value::Array(lines) => lines,
        Value::Null => Vec::new(),
        one => vec![one],
    })
}

fn text(line: &Value) -> &str {
    line["content"].as_str().unwrap()
}

fn number(value: &Value) -> u64 {
    value.as_str().map_or(0, |text| text.parse().unwrap())
}

/// What `eve` prints about the device.
fn eve(stage: &Stage, arguments: &[&str]) -> String {
    let binaries = lab::device::built_binaries().unwrap();
    let output = Command::new(binaries.join("eve"))
        .arg("--root")
        .arg(stage.device().root())
        .args(arguments)
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Numbers of lines `tick N` in a text.
fn ticks<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<u64> {
    let numbers = lines.filter_map(|line| line.strip_prefix("tick ")?.parse().ok());
    numbers.collect()
}

fn files(root: &Path) -> usize {
    let queue = root.join("persist/newlog/devUpload");
    fs::read_dir(queue).map_or(0, Iterator::count)
}

#[test]
fn campaign_logs_reach_the_controller_once_over_an_outage_and_crashes() {
    let mut stage = onboarded(1);
    let quick = [
        ("timer.config.interval", "5"),
        ("newlog.allow.fastupload", "true"),
    ];
    stage.set_properties("edge", &quick).unwrap();
    stage
        .deploy(&manifest(), "edge", "tiny.qcow2", &[])
        .unwrap();
    run(
        &stage,
        TICKER,
        "i=0; while :; do i=$((i+1)); echo tick $i; sleep 0.1; done",
    );
    let has = |stage: &Stage, wanted: &dyn Fn(&Value) -> bool| -> Result<bool> {
        Ok(at_the_controller(stage, None)?.iter().any(wanted))
    };
    stage
        .wait(
            "lines of services, helpers, guest and kernel",
            PATIENCE,
            || {
                let of = |source: &'static str| move |line: &Value| line["source"] == source;
                let guest = |line: &Value| line["app"].is_string() && text(line).contains("GUEST:");
                Ok(has(&stage, &of("zedagent"))?
                    && has(&stage, &of(TICKER))?
                    && has(&stage, &of("kernel"))?
                    && has(&stage, &guest)?)
            },
        )
        .unwrap();

    // The controller goes, newlogd is killed between two rounds and with files that wait.
    stage.controller().kill();
    let waiting = files(stage.device().root());
    let kill = || {
        stage
            .world()
            .fault(&Fault::Kill("newlogd".to_owned()))
            .unwrap();
    };
    kill();
    let long = "x".repeat(2000);
    run(
        &stage,
        CHATTER,
        &format!(
            "i=0; while [ $i -lt {CHATTER_LINES} ]; do i=$((i+1)); echo \"$i {long}\"; [ $((i % 40)) = 0 ] && sleep 0.2; done; :"
        ),
    );
    stage
        .wait("files wait for the controller", PATIENCE, || {
            Ok(files(stage.device().root()) > waiting)
        })
        .unwrap();
    kill();
    stage
        .wait("the one that prints too much is limited", PATIENCE, || {
            let rows = stage.bus()?.read(&NEWLOG_METRICS)?.unwrap_or_default();
            Ok(rows
                .values()
                .any(|row| row.lines_limited.contains_key(CHATTER)))
        })
        .unwrap();
    let said = eve(&stage, &["check", "logs.sources"]);
    assert!(said.contains("WARN") && said.contains(CHATTER), "{said}");
    let said = eve(&stage, &["why", "service", CHATTER]);
    assert!(said.contains("it prints more than is kept"), "{said}");
    // What the controller does not have is still here, and eve finds it.
    let here = eve(&stage, &["logs", TICKER, "-n", "0"]);
    let here = ticks(here.lines().filter_map(|line| line.split("  ").last()));
    assert!(
        here.windows(2).all(|pair| pair[0] + 1 == pair[1]),
        "{here:?}"
    );

    stop(&stage, TICKER);
    let log = stage.device().root().join("persist/log/nim+ticker.log");
    let printed = fs::read_to_string(log).unwrap();
    let last = ticks(printed.lines()).pop().unwrap();
    stage.restart_controller().unwrap();
    let begun = Instant::now();
    stage
        .wait("every tick is at the controller", PATIENCE, || {
            let lines = at_the_controller(&stage, Some(TICKER))?;
            Ok(ticks(lines.iter().map(text)).contains(&last))
        })
        .unwrap();
    println!(
        "{last} ticks, the last {:?} after the outage",
        begun.elapsed()
    );
    stage
        .wait("nothing waits any more", PATIENCE, || {
            let rows = stage.bus()?.read(&NEWLOG_METRICS)?.unwrap_or_default();
            let waits = |row: &model::log::NewlogMetrics| row.dev_metrics.num_gzip_file_in_dir;
            Ok(rows.values().all(|row| waits(row) == 0))
        })
        .unwrap();

    let all = at_the_controller(&stage, None).unwrap();
    // Nothing of the one that behaves is missing or there twice.
    let lines = at_the_controller(&stage, Some(TICKER)).unwrap();
    let mut numbers = ticks(lines.iter().map(text));
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=last).collect::<Vec<_>>());
    // Every number was given to one line, and every line that was numbered is there.
    let mut by_number: BTreeMap<u64, BTreeSet<&str>> = BTreeMap::new();
    for line in &all {
        let texts = by_number
            .entry(line["msgid"].as_u64().unwrap())
            .or_default();
        texts.insert(text(line));
    }
    let twice: Vec<_> = by_number
        .iter()
        .filter(|(_, texts)| texts.len() > 1)
        .collect();
    assert!(
        twice.is_empty() && by_number.len() == all.len(),
        "{twice:?}"
    );
    let (first, end) = (
        by_number.keys().next().unwrap(),
        by_number.keys().next_back().unwrap(),
    );
    let missing: Vec<u64> = (*first..=*end)
        .filter(|id| !by_number.contains_key(id))
        .collect();
    assert!(
        missing.is_empty(),
        "of {first} to {end} are missing {missing:?}"
    );
    // Of the one that does not, what is missing is said to the line and to the byte.
    let is_of = |line: &&Value, source: &str| line["source"] == source;
    let kept = all.iter().filter(|line| is_of(line, CHATTER)).count() as u64;
    let about = |tag: &str| -> u64 {
        let notes = all
            .iter()
            .filter(|line| is_of(line, "newlogd") && line["tags"]["source"] == CHATTER);
        notes.map(|line| number(&line["tags"][tag])).sum()
    };
    let (limited, bytes) = (about("linesLost"), about("bytesLost"));
    assert!(
        limited > 0 && kept + limited <= CHATTER_LINES,
        "{kept} {limited}"
    );
    let of_limited = limited * 2000;
    let overwritten = (CHATTER_LINES - kept - limited) * 2000;
    assert!(
        bytes >= of_limited + overwritten,
        "{bytes} of {of_limited} and {overwritten}"
    );
    assert!(
        view(&stage)
            .services
            .values()
            .all(|unit| unit.name != "newlogd" || unit.restarts >= 2)
    );
}
