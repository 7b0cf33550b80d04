//! Single events: a publisher that starts after its subscriber, and publishing what has to survive a power cut.

use std::path::Path;

use anyhow::{Result, ensure};
use bus::{Bus, Topic};

use crate::{
    bus::{
        latency::ratio,
        peer::{Peer, Role, Took, topic},
        raw::RawWriter,
        stream::SERVICE,
    },
    clock::{now_ns, us},
    object::{Sample, Stamp, key},
    stats::Summary,
    stop::Stop,
};

/// Microseconds from the moment at which a service opens its topic, for the first time and with nothing of its
/// directories there, until a subscriber in another process has its first complete table.
pub fn late_publisher(root: &Path, turns: u32, stop: &Stop) -> Result<Summary> {
    let mut peer = Peer::start(&Role::Early {
        root: root.to_owned(),
    })?;
    let mut took = Vec::new();
    for turn in 0..turns {
        stop.check()?;
        let service = format!("late{turn}");
        peer.order(&service)?;
        let said: String = peer.hear()?;
        ensure!(said == "ready", "{said}");
        let mut object = Sample::new(0);
        object.stamp.sent_ns = now_ns();
        let bus = Bus::open(root, service.as_str())?;
        let mut publisher = bus.publisher(&topic(&service, "Objects"))?;
        publisher.publish(&key(0), &object)?;
        publisher.set_ready()?;
        let delay: Took = peer.hear()?;
        took.push(us(delay.ns));
    }
    Ok(Summary::of(took))
}

/// The figures of durable publishes.
#[derive(Debug, Clone, Default)]
pub struct Durable {
    /// Microseconds of a publish on a persistent topic.
    pub publish: Summary,
    /// Microseconds of write, fdatasync, rename and fsync of the directory by bare system calls.
    pub floor: Summary,
    /// How many times the floor.
    pub ratio: f64,
}

const PERSISTENT: Topic<Sample> = Topic::persist(SERVICE, "Persistent");

/// Publishes on a persistent topic below `root`, whose medium should be a real one.
pub fn durable(root: &Path, samples: u32, stop: &Stop) -> Result<Durable> {
    let mut raw = RawWriter::new(&root.join("raw"), 1, None, true)?;
    let mut publisher = Bus::open(root, SERVICE)?.publisher(&PERSISTENT)?;
    publisher.set_ready()?;
    let mut object = Sample::new(0);
    let key = key(0);
    publisher.publish(&key, &object)?;
    let (mut with_bus, mut floor) = (Vec::new(), Vec::new());
    for seq in 1..=u64::from(samples) {
        stop.check()?;
        let stamp = Stamp {
            seq,
            ..Stamp::default()
        };
        let begin = now_ns();
        raw.put(stamp)?;
        floor.push(us(now_ns() - begin));
        object.stamp = stamp;
        let begin = now_ns();
        publisher.publish(&key, &object)?;
        with_bus.push(us(now_ns() - begin));
    }
    Ok(Durable {
        ratio: ratio(&with_bus, &floor),
        publish: Summary::of(with_bus),
        floor: Summary::of(floor),
    })
}
