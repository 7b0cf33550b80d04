//! One publisher with its readers in other processes.

use std::{path::Path, thread::sleep, time::Duration};

use anyhow::Result;
use bus::{Bus, Publisher, Rows};

use crate::{
    bus::{
        peer::{Burst, Peer, Role, Table, topic},
        raw::RawWriter,
    },
    clock::now_ns,
    object::{Sample, Stamp, key},
};

/// The service that the bench publishes as.
pub const SERVICE: &str = "bench";

/// A publisher that goes round the rows of a table, or the floor.
pub struct Stream {
    source: Source,
    peers: Vec<Peer>,
    seq: u64,
}

enum Source {
    Raw(Box<RawWriter>),
    Bus(Box<Round>),
}

/// The table that is gone round.
struct Round {
    publisher: Publisher<Sample>,
    keys: Vec<String>,
    object: Sample,
}

/// A burst as both sides saw it.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// How long publishing took, pauses included, in nanoseconds.
    pub publish_ns: u64,
    /// From the begin of publishing until every reader had seen the last object, in nanoseconds.
    pub through_ns: u64,
    /// Delays of the objects that were seen, of all readers, in nanoseconds.
    pub delays_ns: Vec<u64>,
}

impl Stream {
    /// The floor: so many `files` below `dir`, replaced by rename in turn, with so many `readers`; `bare` or with the bus's
    /// object in them.
    pub fn raw(dir: &Path, files: u64, bare: bool, readers: usize) -> Result<Self> {
        let object = (!bare).then(|| Sample::new(0));
        let mut writer = RawWriter::new(dir, files, object, false)?;
        writer.fill()?;
        let role = Role::Watcher {
            dir: writer.dir().to_owned(),
            bare,
        };
        Ok(Self {
            source: Source::Raw(Box::new(writer)),
            peers: start(&role, readers)?,
            seq: 0,
        })
    }

    /// A topic with `size` rows below `root`, with so many `readers`.
    pub fn bus(root: &Path, size: u64, readers: usize) -> Result<Self> {
        let table = Table {
            root: root.to_owned(),
            service: SERVICE.to_owned(),
            topic: format!("Objects{size}For{readers}"),
            size,
        };
        let publisher = fill(&table)?;
        Ok(Self {
            source: Source::Bus(Box::new(Round {
                publisher,
                keys: (0..size).map(key).collect(),
                object: Sample::new(0),
            })),
            peers: start(&Role::Handler { table }, readers)?,
            seq: 0,
        })
    }

    /// Publishes `count` objects, after a pause each, and waits until every reader has seen the last.
    pub fn burst(&mut self, count: u32, pause: Duration) -> Result<Seen> {
        let begin = now_ns();
        for number in 1..=count {
            if !pause.is_zero() {
                sleep(pause);
            }
            self.seq += 1;
            let stamp = Stamp {
                seq: self.seq,
                sent_ns: now_ns(),
                last: number == count,
            };
            self.source.put(stamp)?;
        }
        let mut seen = Seen {
            publish_ns: now_ns() - begin,
            ..Seen::default()
        };
        for peer in &mut self.peers {
            let burst: Burst = peer.hear()?;
            seen.through_ns = seen.through_ns.max(burst.seen_ns.saturating_sub(begin));
            seen.delays_ns.extend(burst.delays_ns);
        }
        Ok(seen)
    }
}

impl Source {
    fn put(&mut self, stamp: Stamp) -> Result<()> {
        match self {
            Self::Raw(writer) => writer.put(stamp),
            Self::Bus(round) => {
                let row = usize::try_from(stamp.seq)? % round.keys.len();
                round.object.stamp = stamp;
                round.publisher.publish(&round.keys[row], &round.object)?;
                Ok(())
            }
        }
    }
}

fn start(role: &Role, readers: usize) -> Result<Vec<Peer>> {
    (0..readers).map(|_| Peer::ready(role)).collect()
}

/// Publishes a whole table.
pub fn fill(table: &Table) -> Result<Publisher<Sample>> {
    let bus = Bus::open(&table.root, table.service.as_str())?;
    let mut publisher = bus.publisher(&topic(&table.service, &table.topic))?;
    let rows: Rows<_> = (0..table.size)
        .map(|number| (key(number), Sample::new(number)))
        .collect();
    publisher.replace(&rows)?;
    publisher.set_ready()?;
    Ok(publisher)
}
