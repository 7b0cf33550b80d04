//! The real program, killed again and again while units print and their logs are cut.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use bus::Bus;
use model::{config_item::ConfigItemValueMap, topics::CONFIG_ITEMS};
use newlogd::{entry::Entry, gzip::unpack, name::FileName, state::State};

const KILLS: u32 = 10;
const UNITS: [&str; 3] = ["nim", "zedrouter", "zedmanager"];

struct Newlogd(Child);

impl Newlogd {
    fn start(root: &Path) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_newlogd"))
            .arg("--root")
            .arg(root)
            .stderr(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Newlogd {
    /// SIGKILL, in every case.
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn log(root: &Path, unit: &str) -> PathBuf {
    root.join(format!("persist/log/{unit}.log"))
}

fn line(n: u64) -> String {
    format!("line {n} {:0>90}", n * 7919 % 1_000_003)
}

/// Prints quickly until told to stop; gives how many lines each unit printed.
fn print(root: &Path, stop: &AtomicBool) -> u64 {
    let open = |unit: &&str| {
        let path = log(root, unit);
        OpenOptions::new().append(true).create(true).open(path)
    };
    let mut logs: Vec<File> = UNITS.iter().map(open).collect::<Result<_, _>>().unwrap();
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..40 {
            for log in &mut logs {
                log.write_all(format!("{}\n", line(n)).as_bytes()).unwrap();
            }
            n += 1;
        }
        for unit in UNITS {
            logfile::bound(&log(root, unit), 400_000, 9).unwrap();
        }
        thread::sleep(Duration::from_millis(25));
    }
    n
}

fn state(root: &Path) -> State {
    let text = fs::read(root.join("persist/newlog/collect/state.json")).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

fn is_all_read(root: &Path) -> bool {
    let state = state(root);
    UNITS.iter().all(|unit| {
        let extent = logfile::extent(&log(root, unit)).unwrap();
        let read = state.sources.get(&format!("{unit}.log"));
        read.map(|position| position.offset) == extent.map(|extent| extent.end)
    })
}

#[test]
fn every_line_is_kept_once_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    fs::create_dir_all(root.join("persist/log/guests")).unwrap();
    let zedagent = Bus::open(root, "zedagent").unwrap();
    let mut items = zedagent.publisher(&CONFIG_ITEMS).unwrap();
    let mut values = ConfigItemValueMap::default();
    let fast = ("newlog.allow.fastupload".to_owned(), "true".to_owned());
    values.values.extend([fast]);
    items.publish("global", &values).unwrap();
    items.set_ready().unwrap();

    let stop = AtomicBool::new(false);
    let printed = thread::scope(|scope| {
        let printer = scope.spawn(|| print(root, &stop));
        for kill in 0..KILLS {
            let newlogd = Newlogd::start(root);
            thread::sleep(Duration::from_millis(150 + u64::from(kill) * 7919 % 2600));
            drop(newlogd);
        }
        stop.store(true, Ordering::Relaxed);
        printer.join().unwrap()
    });
    let newlogd = Newlogd::start(root);
    let began = Instant::now();
    while !is_all_read(root) {
        assert!(
            began.elapsed() < Duration::from_secs(120),
            "{:?}",
            state(root)
        );
        thread::sleep(Duration::from_millis(200));
    }
    drop(newlogd);
    // What a killed round left half done is done at the next start.
    let newlogd = Newlogd::start(root);
    thread::sleep(Duration::from_secs(1));
    drop(newlogd);

    let files: BTreeMap<FileName, PathBuf> = fs::read_dir(root.join("persist/newlog/devUpload"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().parse();
            (name.unwrap(), path)
        })
        .collect();
    assert!(files.len() > 3, "{} files", files.len());
    let mut got: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut last = 0;
    for path in files.values() {
        for text in unpack(&fs::read(path).unwrap()).unwrap().text.lines() {
            let entry: Entry = serde_json::from_str(text).unwrap();
            assert_eq!(entry.msgid, last + 1, "{}", path.display());
            last = entry.msgid;
            got.entry(entry.source).or_default().push(entry.content);
        }
    }
    let expected: Vec<String> = (0..printed).map(line).collect();
    for unit in UNITS {
        let got = &got[unit];
        let wrong = got.iter().zip(&expected).position(|(a, b)| a != b);
        assert!(
            *got == expected,
            "{unit}: {} of {} lines, first difference {wrong:?}",
            got.len(),
            expected.len()
        );
    }
    println!("{printed} lines of each unit, {} files", files.len());
}
