//! The processes at the other end. The bench starts itself again in one of these roles; what a role has measured it
//! prints, a line of JSON at a time.

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use bus::{Bus, Subscription, Topic};
use clap::{Args, Subcommand};
use nix::sys::{prctl, signal::Signal};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    bus::raw::{RawWatcher, read_all},
    clock::now_ns,
    download::asked::Which,
    object::{Sample, Stamp, key},
};

/// Where a topic is.
#[derive(Debug, Clone, Args)]
pub struct Table {
    /// Root directory of the bus.
    #[arg(long)]
    pub root: PathBuf,
    /// Its writer.
    #[arg(long)]
    pub service: String,
    /// Its name.
    #[arg(long)]
    pub topic: String,
    /// Number of rows.
    #[arg(long)]
    pub size: u64,
}

/// What a process at the other end does.
#[derive(Debug, Clone, Subcommand)]
pub enum Role {
    /// Handles the objects of a topic as they come.
    Handler {
        /// The topic.
        #[command(flatten)]
        table: Table,
    },
    /// Reads one file as it is replaced.
    Watcher {
        /// The directory of the file.
        #[arg(long)]
        dir: PathBuf,
        /// It is no JSON.
        #[arg(long)]
        bare: bool,
    },
    /// Opens the bus, reads one topic completely, and ends.
    Sync {
        /// The topic.
        #[command(flatten)]
        table: Table,
    },
    /// Reads every file of a directory and ends.
    SyncRaw {
        /// The directory.
        #[arg(long)]
        dir: PathBuf,
    },
    /// Is a service of the device, on a root of its own.
    Service {
        /// Which.
        #[arg(long)]
        which: Which,
        /// The network namespace that it is in. Whoever starts a process in one by a thread that enters it and ends, ends
        /// the process, too.
        #[arg(long)]
        netns: PathBuf,
        /// Root directory.
        #[arg(long)]
        root: PathBuf,
    },
    /// Subscribes to topics of services that don't exist yet, whose names come as lines.
    Early {
        /// Root directory of the bus.
        #[arg(long)]
        root: PathBuf,
    },
}

/// What a handler saw of one burst.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Burst {
    /// Nanoseconds from the begin of publishing to the handler, for each object that was seen.
    pub delays_ns: Vec<u64>,
    /// When the last object was seen, on the monotonic clock.
    pub seen_ns: u64,
}

/// How long something took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Took {
    /// In nanoseconds.
    pub ns: u64,
}

/// A topic whose name is known at run time only.
pub fn topic(service: &str, name: &str) -> Topic<Sample> {
    // A few names in the life of the process.
    Topic::run(
        Box::leak(service.to_owned().into()),
        Box::leak(name.to_owned().into()),
    )
}

impl Role {
    /// Plays the role until told to end or killed.
    pub fn play(&self) -> Result<()> {
        // Whatever ends the bench ends this process, too.
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        match self {
            Self::Handler { table } => handle(table),
            Self::Watcher { dir, bare } => watch(dir, *bare),
            Self::Sync { table } => sync(table),
            Self::SyncRaw { dir } => {
                let begin = now_ns();
                read_all(dir)?;
                say(&Took {
                    ns: now_ns() - begin,
                })
            }
            Self::Service { which, netns, root } => which.be(netns, root, || say(&"ready")),
            Self::Early { root } => early(root),
        }
    }

    fn arguments(&self) -> Vec<String> {
        let text = |path: &Path| path.display().to_string();
        let of_table = |role: &str, table: &Table| {
            vec![
                role.to_owned(),
                format!("--root={}", text(&table.root)),
                format!("--service={}", table.service),
                format!("--topic={}", table.topic),
                format!("--size={}", table.size),
            ]
        };
        match self {
            Self::Handler { table } => of_table("handler", table),
            Self::Sync { table } => of_table("sync", table),
            Self::Watcher { dir, bare } => {
                let mut words = vec!["watcher".into(), format!("--dir={}", text(dir))];
                words.extend(bare.then(|| "--bare".to_owned()));
                words
            }
            Self::SyncRaw { dir } => vec!["sync-raw".into(), format!("--dir={}", text(dir))],
            Self::Service { which, netns, root } => vec![
                "service".into(),
                format!("--which={}", which.name()),
                format!("--netns={}", text(netns)),
                format!("--root={}", text(root)),
            ],
            Self::Early { root } => vec!["early".into(), format!("--root={}", text(root))],
        }
    }
}

/// A process at the other end. Dropped, it ends.
#[derive(Debug)]
pub struct Peer {
    role: String,
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts this program again in a role.
    pub fn start(role: &Role) -> Result<Self> {
        let program = std::env::current_exe().context("find this program")?;
        let arguments = role.arguments();
        let mut child = Command::new(program)
            .arg("peer")
            .args(&arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start a process at the other end")?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (orders, answers) = pipes.context("no pipes to a process")?;
        Ok(Self {
            role: arguments.join(" "),
            child,
            orders,
            answers: BufReader::new(answers),
        })
    }

    /// Starts a role that says when it is ready, and waits for that.
    pub fn ready(role: &Role) -> Result<Self> {
        let mut peer = Self::start(role)?;
        let said: String = peer.hear()?;
        ensure!(said == "ready", "{}: {said}", peer.role);
        Ok(peer)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Gives an order.
    pub fn order(&mut self, order: &str) -> Result<()> {
        writeln!(self.orders, "{order}").with_context(|| format!("order {}", self.role))
    }

    /// Waits for an answer.
    pub fn hear<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("{} said {line:?}", self.role))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Collects delays until a burst is complete.
#[derive(Debug)]
struct Recorder {
    next: u64,
    burst: Burst,
}

impl Recorder {
    fn new() -> Self {
        Self {
            next: 1,
            burst: Burst::default(),
        }
    }

    /// Takes an object if it is new; gives the burst if it is the last one. Those between were replaced before anybody
    /// looked, as the bus may.
    fn take(&mut self, stamp: Stamp, now: u64) -> Taken {
        if stamp.seq < self.next {
            return Taken::Old;
        }
        self.next = stamp.seq + 1;
        self.burst.delays_ns.push(now.saturating_sub(stamp.sent_ns));
        if !stamp.last {
            return Taken::New;
        }
        self.burst.seen_ns = now;
        Taken::Complete(std::mem::take(&mut self.burst))
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Taken {
    Old,
    New,
    Complete(Burst),
}

fn handle(table: &Table) -> Result<()> {
    in_a_runtime(async {
        let mut subscription = subscribe(table)?;
        wait_complete(&mut subscription, table.size).await?;
        say(&"ready")?;
        let mut recorder = Recorder::new();
        loop {
            subscription.changed().await;
            let rows = subscription.rows().context("the table is gone")?;
            // The publisher goes round the keys, so it is known where the next object will be.
            while let Some(object) = rows.get(&key(recorder.next % table.size)) {
                match recorder.take(object.stamp, now_ns()) {
                    Taken::Old => break,
                    Taken::New => {}
                    Taken::Complete(burst) => say(&burst)?,
                }
            }
        }
    })
}

fn watch(dir: &Path, bare: bool) -> Result<()> {
    let watcher = RawWatcher::new(dir, bare)?;
    say(&"ready")?;
    let mut recorder = Recorder::new();
    watcher.follow(|stamp| match recorder.take(stamp, now_ns()) {
        Taken::Complete(burst) => say(&burst),
        Taken::Old | Taken::New => Ok(()),
    })
}

fn sync(table: &Table) -> Result<()> {
    in_a_runtime(async {
        let begin = now_ns();
        let mut subscription = subscribe(table)?;
        wait_complete(&mut subscription, table.size).await?;
        say(&Took {
            ns: now_ns() - begin,
        })
    })
}

fn early(root: &Path) -> Result<()> {
    in_a_runtime(async {
        let bus = Bus::open(root, "reader")?;
        for service in std::io::stdin().lines() {
            let mut subscription = bus.subscribe(&topic(&service?, "Objects"))?;
            ensure!(subscription.rows().is_none(), "it is there already");
            say(&"ready")?;
            let stamp = loop {
                subscription.changed().await;
                if let Some(object) = subscription
                    .rows()
                    .and_then(|rows| rows.values().next().cloned())
                {
                    break object.stamp;
                }
            };
            say(&Took {
                ns: now_ns() - stamp.sent_ns,
            })?;
        }
        Ok(())
    })
}

fn subscribe(table: &Table) -> Result<Subscription<Sample>> {
    let bus = Bus::open(&table.root, "reader")?;
    Ok(bus.subscribe(&topic(&table.service, &table.topic))?)
}

async fn wait_complete(subscription: &mut Subscription<Sample>, size: u64) -> Result<()> {
    loop {
        let rows = subscription.rows().map_or(0, |rows| rows.len());
        if u64::try_from(rows)? == size {
            return Ok(());
        }
        if rows > 0 {
            bail!("a table of {rows} rows where {size} were published");
        }
        subscription.changed().await;
    }
}

/// The runtime that every service has.
fn in_a_runtime(work: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

fn say(what: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    let mut out = std::io::stdout().lock();
    out.write_all(&line)?;
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaced_objects_are_skipped_and_a_burst_ends_with_its_last() {
        let stamp = |seq, sent_ns, last| Stamp { seq, sent_ns, last };
        let mut recorder = Recorder::new();
        assert_eq!(recorder.take(stamp(0, 0, false), 5), Taken::Old);
        assert_eq!(recorder.take(stamp(1, 10, false), 15), Taken::New);
        assert_eq!(recorder.take(stamp(1, 10, false), 16), Taken::Old);
        let burst = Burst {
            delays_ns: vec![5, 20],
            seen_ns: 50,
        };
        assert_eq!(
            recorder.take(stamp(4, 30, true), 50),
            Taken::Complete(burst)
        );
        assert_eq!(recorder.take(stamp(5, 60, false), 61), Taken::New);
    }
}
