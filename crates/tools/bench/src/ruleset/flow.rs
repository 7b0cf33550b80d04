//! What a packet costs on its way from a guest to the outside.
//!
//! One thread sends from the guest's namespace and receives in the outside's: what lies between, two cables and the
//! device, is work of the kernel in the same thread. *answered* is a connection that both sides have spoken on, as nearly
//! all packets are; *asked* is one that nobody has answered, so that every packet is looked up in the rules, of which the
//! last one lets it pass.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use lab::Netns;
use model::network::NetworkInstanceKind;
use tempfile::TempDir;

use super::{
    Options,
    site::{Site, cable},
    wishes::{OUTSIDE, UPLINK},
};
use crate::{bus::latency::ratio, stats::Summary, stop::Stop};

/// Packets that are under way at once.
const BATCH: u32 = 32;
/// A guest behind the bare router.
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
/// The bare router's address there.
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);

/// The figures of one way.
#[derive(Debug, Clone, Default)]
pub struct Cost {
    /// Which way.
    pub name: String,
    /// Nanoseconds per packet.
    pub ns: Summary,
    /// How many times the bare bridge or the bare router.
    pub x_floor: f64,
    /// How many times the same with one application and one rule.
    pub x_one_rule: f64,
}

/// A way for packets, and what holds it.
struct Lane {
    name: String,
    from: UdpSocket,
    to: UdpSocket,
    /// Indexes of the lanes that it is compared with.
    floor: usize,
    one_rule: usize,
    ns: Vec<f64>,
    _holds: Holds,
}

/// Namespaces live as long as this does.
type Holds = std::sync::Arc<(Vec<Netns>, Option<TempDir>)>;

/// Measures all ways in turns.
pub fn measure(options: &Options, stop: &Stop) -> Result<Vec<Cost>> {
    let mut lanes = lanes(options, stop)?;
    for _ in 0..options.turns {
        for lane in &mut lanes {
            stop.check()?;
            let took =
                burst(&lane.from, &lane.to, options.packets).with_context(|| lane.name.clone())?;
            lane.ns.push(took);
        }
    }
    let costs = lanes.iter().map(|lane| Cost {
        name: lane.name.clone(),
        ns: Summary::of(lane.ns.iter().copied()),
        x_floor: ratio(&lane.ns, &lanes[lane.floor].ns),
        x_one_rule: ratio(&lane.ns, &lanes[lane.one_rule].ns),
    });
    Ok(costs.collect())
}

fn lanes(options: &Options, stop: &Stop) -> Result<Vec<Lane>> {
    let mut lanes = Vec::new();
    let (guest, outside, holds) = bare_bridge()?;
    add(&mut lanes, "bare bridge", &guest, &outside, &holds, None)?;
    let (guest, outside, holds) = bare_router(false)?;
    add(&mut lanes, "bare router", &guest, &outside, &holds, None)?;
    let (guest, outside, holds) = bare_router(true)?;
    add(
        &mut lanes,
        "bare router, NAT",
        &guest,
        &outside,
        &holds,
        None,
    )?;
    let most = options.apps.iter().copied().max().unwrap_or(1);
    for (kind, floor) in [
        (NetworkInstanceKind::Switch, 0),
        (NetworkInstanceKind::Local, 2),
    ] {
        let first = lanes.len();
        for (apps, rules) in [
            (1, 1),
            (most, 1),
            (most, options.rules),
            (most, options.rules * 5),
        ] {
            stop.check()?;
            let site = Site::new()?;
            let root = tempfile::tempdir()?;
            let guest = site.populate(root.path(), kind, apps, rules)?;
            let what = if kind == NetworkInstanceKind::Switch {
                "switch"
            } else {
                "local"
            };
            let name = format!("{what}, {apps} x {rules}");
            let outside = site.outside.clone();
            let holds = Holds::new((
                vec![site.device, site.outside, guest.netns.clone()],
                Some(root),
            ));
            let compared = Some((floor, first));
            add(&mut lanes, &name, &guest.netns, &outside, &holds, compared)?;
        }
    }
    Ok(lanes)
}

/// Both kinds of packets on one way: answered, then asked.
fn add(
    lanes: &mut Vec<Lane>,
    name: &str,
    guest: &Netns,
    outside: &Netns,
    holds: &Holds,
    compared: Option<(usize, usize)>,
) -> Result<()> {
    let own = lanes.len();
    let (floor, first) = compared.unwrap_or((own, own));
    for (at, answered) in [true, false].into_iter().enumerate() {
        // A bare way asks nobody.
        if !answered && compared.is_none() {
            continue;
        }
        let to = outside.run(|| UdpSocket::bind((OUTSIDE, 0)))??;
        let from = guest.run(|| -> std::io::Result<UdpSocket> {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.connect(to.local_addr()?)?;
            Ok(socket)
        })??;
        hello(&from, &to, answered).with_context(|| format!("{name}: the first packet"))?;
        let kind = if answered { "answered" } else { "asked" };
        lanes.push(Lane {
            name: if compared.is_some() {
                format!("{name}, {kind}")
            } else {
                name.to_owned()
            },
            from,
            to,
            floor,
            one_rule: first + if compared.is_some() { at } else { 0 },
            ns: Vec::new(),
            _holds: holds.clone(),
        });
    }
    Ok(())
}

/// The first packet finds neighbours; a learning bridge may need a moment.
fn hello(from: &UdpSocket, to: &UdpSocket, answer: bool) -> Result<()> {
    let mut buffer = [0; 64];
    to.set_read_timeout(Some(Duration::from_millis(500)))?;
    let limit = Instant::now() + Duration::from_secs(20);
    let sender: SocketAddr = loop {
        ensure!(Instant::now() < limit, "it does not arrive");
        // An answer of the kernel to an earlier one is an error of the next.
        let _ = from.send(&buffer);
        match to.recv_from(&mut buffer) {
            Ok((_, sender)) => break sender,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    };
    if answer {
        from.set_read_timeout(Some(Duration::from_secs(5)))?;
        to.send_to(&buffer, sender)?;
        from.recv(&mut buffer).context("the answer")?;
    }
    // What is still under way.
    while to.recv(&mut buffer).is_ok() {}
    to.set_read_timeout(Some(Duration::from_secs(2)))?;
    Ok(())
}

/// Nanoseconds per packet of a burst.
fn burst(from: &UdpSocket, to: &UdpSocket, packets: u32) -> Result<f64> {
    let mut buffer = [0; 64];
    let begin = Instant::now();
    let mut left = packets;
    while left > 0 {
        let batch = left.min(BATCH);
        for _ in 0..batch {
            from.send(&buffer)?;
        }
        for _ in 0..batch {
            if let Err(error) = to.recv(&mut buffer) {
                bail!("a packet is lost: {error}");
            }
        }
        left -= batch;
    }
    Ok(begin.elapsed().as_secs_f64() * 1e9 / f64::from(packets.max(1)))
}

fn bare_bridge() -> Result<(Netns, Netns, Holds)> {
    let (device, guest, outside) = three()?;
    device.ip("link add name br0 type bridge\nlink set dev br0 up")?;
    cable(&device, "near", &guest, "eth0")?;
    cable(&device, "far", &outside, "eth0")?;
    device.ip("link set dev near master br0\nlink set dev far master br0")?;
    guest.ip(&format!("addr add {UPLINK}/24 dev eth0"))?;
    outside.ip(&format!("addr add {OUTSIDE}/24 dev eth0"))?;
    let holds = Holds::new((vec![device, guest.clone(), outside.clone()], None));
    Ok((guest, outside, holds))
}

fn bare_router(nat: bool) -> Result<(Netns, Netns, Holds)> {
    let (device, guest, outside) = three()?;
    cable(&device, "near", &guest, "eth0")?;
    cable(&device, "far", &outside, "eth0")?;
    device.ip(&format!(
        "addr add {ROUTER}/24 dev near\naddr add {UPLINK}/24 dev far"
    ))?;
    device.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1"))??;
    guest.ip(&format!(
        "addr add {GUEST}/24 dev eth0\nroute add default via {ROUTER}"
    ))?;
    outside.ip(&format!(
        "addr add {OUTSIDE}/24 dev eth0\nroute add {GUEST}/32 via {UPLINK}"
    ))?;
    if nat {
        let script = "table ip bench { chain bench { type nat hook postrouting priority 100; oifname \"far\" masquerade; }; }\n";
        device.exec_with_input(std::process::Command::new("nft").args(["-f", "-"]), script)?;
    }
    let holds = Holds::new((vec![device, guest.clone(), outside.clone()], None));
    Ok((guest, outside, holds))
}

fn three() -> Result<(Netns, Netns, Netns)> {
    Ok((
        Netns::create("bench-device")?,
        Netns::create("bench-guest")?,
        Netns::create("bench-outside")?,
    ))
}
