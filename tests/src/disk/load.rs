//! What the device does with its disk, by the services' own code, and what it may rely on afterwards.
//!
//! Each change is a [`Promise`]: from its beginning on the new value may be found, from its end on nothing else. The mark
//! of the record at both tells which holds at a cut.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fmt::Debug,
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

use agent::{Progress, World};
use bus::{Bus, Publisher, Topic};
use model::{
    content::VerifyImageConfig,
    id::{Digest, VolumeKey},
    volume::ImageFormat,
};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use volumemgr::{Do as OfVolumes, Recipe};

use super::{
    logs::{Line, Newlog},
    rig::Rig,
};

/// Below `/persist`.
const DOWNLOADS: &str = "vault/downloader/downloads";
const VERIFIED: &str = "vault/verifier/verified";
const VOLUMES: &str = "vault/volumemgr/volumes";
const THINGS: Topic<Thing> = Topic::persist("nim", "Thing");
const OTHERS: Topic<Thing> = Topic::persist("nim", "Other");
const FILES: [&str; 3] = ["lastconfig", "lastconfig.bak", "controllercerts"];

/// A row of any size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Thing {
    number: u64,
    filler: String,
}

/// One change of one thing, with the record's marks before and after it.
#[derive(Debug)]
struct Promise {
    what: String,
    begun: u64,
    kept: u64,
    value: Option<Vec<u8>>,
}

/// What must be found after a cut.
#[derive(Debug, Default)]
pub struct Promises {
    made: Vec<Promise>,
    /// When the topics were ready.
    ready: u64,
    /// Lines printed, and on the disk from this mark on.
    lines: Vec<Line>,
    /// Files that newlogd delivered: at the latest by this mark.
    delivered: Vec<(u64, Vec<u8>)>,
}

/// The device at work.
pub struct Load<'a> {
    rig: &'a Rig,
    rng: SmallRng,
    number: u64,
    things: Publisher<Thing>,
    others: Publisher<Thing>,
    verifier: verifier::Disk,
    volumemgr: volumemgr::Disk,
    newlog: Newlog,
    verified: BTreeSet<Digest>,
    volumes: BTreeSet<VolumeKey>,
    promises: Promises,
    may_fail: bool,
    failures: usize,
}

impl<'a> Load<'a> {
    /// The directories of a device, and everything ready.
    pub fn begin(rig: &'a Rig, seed: u64) -> Self {
        let persist = rig.persist();
        for dir in ["checkpoint", DOWNLOADS, VERIFIED, VOLUMES, "log"] {
            fs::create_dir_all(persist.join(dir)).unwrap();
        }
        // As the supervisor has it when it starts the services.
        File::open(&persist).unwrap().sync_all().unwrap();
        let bus = Bus::open(&rig.root(), "nim").unwrap();
        let (mut things, mut others) = (
            bus.publisher(&THINGS).unwrap(),
            bus.publisher(&OTHERS).unwrap(),
        );
        things.set_ready().unwrap();
        others.set_ready().unwrap();
        let newlog = Newlog::start(&persist);
        let promises = Promises {
            ready: rig.mark(),
            ..Promises::default()
        };
        Self {
            rig,
            rng: SmallRng::seed_from_u64(seed),
            number: 0,
            things,
            others,
            verifier: verifier::Disk::at(persist.join(DOWNLOADS), persist.join(VERIFIED)),
            volumemgr: volumemgr::Disk::at(persist.clone()),
            newlog,
            verified: BTreeSet::new(),
            volumes: BTreeSet::new(),
            promises,
            may_fail: false,
            failures: 0,
        }
    }

    /// So many changes by chance.
    pub async fn work(&mut self, steps: usize) {
        for _ in 0..steps {
            match self.rng.random_range(0..20) {
                0..=7 => self.publish(),
                8 => self.unpublish(),
                9..=11 => self.save(),
                12 | 13 => self.verify().await,
                14 => self.forget().await,
                15 | 16 => self.make_volume().await,
                17 => self.remove_volume().await,
                18 => self.print(),
                _ => self.collect().await,
            }
        }
    }

    /// What must be found from now on.
    pub fn end(mut self) -> Promises {
        self.promises.lines.extend(self.newlog.lines());
        self.promises.delivered.extend(self.newlog.delivered());
        self.promises
    }

    /// From now on the disk may fail, and what failed may have happened or not.
    pub fn expect_failures(&mut self) {
        self.may_fail = true;
    }

    /// Changes that failed.
    pub fn failures(&self) -> usize {
        self.failures
    }

    fn promise<E: Debug>(
        &mut self,
        what: String,
        begun: u64,
        value: Option<Vec<u8>>,
        done: Result<(), E>,
    ) {
        let kept = match done {
            Ok(()) => self.rig.mark(),
            Err(error) if !self.may_fail => panic!("{what}: {error:?}"),
            Err(_) => {
                self.failures += 1;
                u64::MAX
            }
        };
        self.promises.made.push(Promise {
            what,
            begun,
            kept,
            value,
        });
    }

    fn filler(&mut self) -> String {
        let size = match self.rng.random_range(0..10) {
            0..=6 => self.rng.random_range(0..300),
            7 | 8 => self.rng.random_range(0..5000),
            _ => self.rng.random_range(0..40_000),
        };
        "x".repeat(size)
    }

    fn key(&mut self) -> String {
        let number = self.rng.random_range(0..6);
        if number == 5 {
            // Too long for a file name.
            return "k/".repeat(200);
        }
        format!("key {number}")
    }

    /// One change as services make them: of a row that is there.
    pub fn publish_small(&mut self) {
        self.put("key 0", String::new());
    }

    fn publish(&mut self) {
        let (key, filler) = (self.key(), self.filler());
        self.put(&key, filler);
    }

    fn put(&mut self, key: &str, filler: String) {
        self.number += 1;
        let thing = Thing {
            number: self.number,
            filler,
        };
        let begun = self.rig.mark();
        let (topic, name) = if self.rng.random() {
            (&mut self.things, "Thing")
        } else {
            (&mut self.others, "Other")
        };
        let done = topic.publish(key, &thing).map(drop);
        let value = serde_json::to_vec(&thing).unwrap();
        self.promise(row(name, key), begun, Some(value), done);
    }

    fn unpublish(&mut self) {
        let key = self.key();
        let begun = self.rig.mark();
        let done = self.things.unpublish(&key).map(drop);
        self.promise(row("Thing", &key), begun, None, done);
    }

    fn save(&mut self) {
        self.number += 1;
        let name = FILES[self.rng.random_range(0..FILES.len())];
        let filler = self.filler();
        let content = format!("{} {filler}", self.number).into_bytes();
        let begun = self.rig.mark();
        let path = self.rig.persist().join("checkpoint").join(name);
        let done = durable::write(&path, &content);
        self.promise(format!("checkpoint/{name}"), begun, Some(content), done);
    }

    /// An image comes from the datastore and is verified.
    async fn verify(&mut self) {
        self.number += 1;
        let mut image = vec![0; self.rng.random_range(1..60_000)];
        self.rng.fill(&mut image[..]);
        let sha256 = Digest(Sha256::digest(&image).into());
        let path = self.rig.persist().join(format!("{DOWNLOADS}/{sha256}"));
        if let Err(error) = fs::write(&path, &image) {
            assert!(self.may_fail, "{error}");
            return;
        }
        let begun = self.rig.mark();
        let config = VerifyImageConfig {
            sha256,
            path: path.clone(),
            size_bytes: image.len() as u64,
            attempt: 0,
        };
        let action = verifier::Do::Verify(config);
        let done = self.verifier.apply(action, Progress::default()).await;
        if done.is_ok() {
            self.verified.insert(sha256);
        }
        self.promise(format!("{VERIFIED}/{sha256}"), begun, Some(image), done);
        drop(fs::remove_file(path));
    }

    async fn forget(&mut self) {
        let Some(sha256) = self.verified.pop_first() else {
            return;
        };
        let begun = self.rig.mark();
        let action = verifier::Do::Remove(sha256);
        let done = self.verifier.apply(action, Progress::default()).await;
        self.promise(format!("{VERIFIED}/{sha256}"), begun, None, done);
    }

    async fn make_volume(&mut self) {
        let Some(sha256) = self.verified.last().copied() else {
            return;
        };
        let image = self.rig.persist().join(format!("{VERIFIED}/{sha256}"));
        let Ok(content) = fs::read(&image) else {
            assert!(self.may_fail);
            return;
        };
        self.number += 1;
        let id = uuid::Uuid::from_u128(u128::from(self.number));
        let key: VolumeKey = format!("{id}#0").parse().unwrap();
        let begun = self.rig.mark();
        let recipe = Recipe {
            key,
            format: ImageFormat::Iso,
            image: Some(image),
            size_bytes: 0,
        };
        let action = OfVolumes::Create(recipe);
        let done = self.volumemgr.apply(action, Progress::default()).await;
        if done.is_ok() {
            self.volumes.insert(key);
        }
        self.promise(format!("{VOLUMES}/{key}.iso"), begun, Some(content), done);
    }

    async fn remove_volume(&mut self) {
        let Some(key) = self.volumes.pop_first() else {
            return;
        };
        let begun = self.rig.mark();
        let action = OfVolumes::Remove(key);
        let done = self.volumemgr.apply(action, Progress::default()).await;
        self.promise(format!("{VOLUMES}/{key}.iso"), begun, None, done);
    }

    fn print(&mut self) {
        if self.may_fail {
            return;
        }
        let count = self.rng.random_range(1..200);
        let synced = self.rng.random();
        let rig = self.rig;
        self.newlog.print(count, synced, || rig.mark());
    }

    async fn collect(&mut self) {
        let reachable = self.rng.random_range(0..3) == 0;
        let rig = self.rig;
        self.newlog.pass(reachable, || rig.mark()).await;
    }
}

fn row(topic: &str, key: &str) -> String {
    format!("{topic}/{key}")
}

impl Promises {
    /// How many promises there are.
    pub fn len(&self) -> usize {
        self.made.len()
    }

    /// Whether nothing was promised.
    pub fn is_empty(&self) -> bool {
        self.made.is_empty()
    }

    /// The marks at which promises begin to hold.
    pub fn marks(&self) -> Vec<u64> {
        let marks: BTreeSet<_> = self.made.iter().map(|promise| promise.kept).collect();
        marks.into_iter().collect()
    }

    /// Looks at the device below `root`, whose disk was cut off after `at` entries. Everything that is not as
    /// promised.
    pub async fn judge(&self, root: &Path, at: u64) -> Vec<String> {
        if at < self.ready {
            return Vec::new();
        }
        let mut wrong = Vec::new();
        let found = look(root, &mut wrong);
        for (what, promises) in self.by_subject() {
            let value = found.get(what);
            let kept = promises.iter().rposition(|promise| promise.kept <= at);
            let begun = promises.iter().rposition(|promise| promise.begun < at);
            let mut allowed: Vec<Option<&Vec<u8>>> = Vec::new();
            if kept.is_none() {
                allowed.push(None);
            }
            // What changed nothing is kept as soon as it is begun.
            if let Some(last) = begun.max(kept) {
                let possible = &promises[kept.unwrap_or(0)..=last];
                allowed.extend(possible.iter().map(|p| p.value.as_ref()));
            }
            if !allowed.contains(&value) {
                let lengths = |value: Option<&Vec<u8>>| value.map(|value| head(value));
                wrong.push(format!(
                    "{what} is {:?}, not one of {:?}",
                    lengths(value),
                    allowed.iter().copied().map(lengths).collect::<Vec<_>>()
                ));
            }
        }
        let known: BTreeSet<&str> = self.made.iter().map(|p| p.what.as_str()).collect();
        for what in found.keys().filter(|what| !known.contains(what.as_str())) {
            wrong.push(format!("{what} was never made"));
        }
        let delivered: Vec<_> = self.delivered.iter().filter(|(by, _)| *by <= at).collect();
        wrong.extend(super::logs::judge(&root.join("persist"), &self.lines, &delivered, at).await);
        wrong
    }

    fn by_subject(&self) -> BTreeMap<&str, Vec<&Promise>> {
        let mut all: BTreeMap<&str, Vec<&Promise>> = BTreeMap::new();
        for promise in &self.made {
            all.entry(&promise.what).or_default().push(promise);
        }
        all
    }
}

fn head(value: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(value).chars().take(20).collect();
    format!("{text}... ({} bytes)", value.len())
}

/// What services find at their start.
fn look(root: &Path, wrong: &mut Vec<String>) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let reader = Bus::open(root, "judge").unwrap();
    let writer = Bus::open(root, "nim").unwrap();
    for topic in [&THINGS, &OTHERS] {
        let name = topic.name();
        match reader.read(topic) {
            Ok(Some(rows)) => {
                for (key, thing) in &rows {
                    let value = serde_json::to_vec(thing).unwrap();
                    found.insert(row(name, key), value);
                }
                match writer.publisher(topic) {
                    Ok(publisher) => {
                        if !publisher.quarantined().is_empty() {
                            wrong.push(format!("{name}: {:?}", publisher.quarantined()));
                        }
                        if *publisher.rows() != rows {
                            wrong.push(format!("{name}: reader and writer differ"));
                        }
                    }
                    Err(error) => wrong.push(format!("{name}: {error}")),
                }
            }
            Ok(None) => wrong.push(format!("{name} is not ready")),
            Err(error) => wrong.push(format!("{name}: {error}")),
        }
    }
    let persist = root.join("persist");
    for dir in ["checkpoint", VERIFIED, VOLUMES] {
        for (name, path) in files(&persist.join(dir)) {
            // Garbage of what did not come to an end; its name says so.
            if ["partial", "tmp"]
                .map(OsStr::new)
                .contains(&extension(&path))
            {
                continue;
            }
            let content = fs::read(&path).unwrap();
            if dir == VERIFIED && hex(&content) != name {
                wrong.push(format!("{name} has another digest"));
            }
            found.insert(format!("{dir}/{name}"), content);
        }
    }
    found
}

fn extension(path: &Path) -> &OsStr {
    path.extension().unwrap_or_default()
}

fn hex(content: &[u8]) -> String {
    Digest(Sha256::digest(content).into()).to_string()
}

fn files(dir: &Path) -> Vec<(String, PathBuf)> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let of = |entry: fs::DirEntry| (entry.file_name().into_string().unwrap(), entry.path());
    entries.map(|entry| of(entry.unwrap())).collect()
}

/// Appends to a log as the supervisor's services do.
pub(super) fn append(log: &Path, text: &str, synced: bool) {
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .open(log)
        .unwrap();
    file.write_all(text.as_bytes()).unwrap();
    if synced {
        file.sync_all().unwrap();
        File::open(log.parent().unwrap())
            .unwrap()
            .sync_all()
            .unwrap();
    }
}
