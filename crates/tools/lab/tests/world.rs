//! A world in the real kernel: addresses by a real DHCP client, names by a real DNS server, HTTP
//! through the routers, faults, and the end of it all. Needs root and the lab's packages.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use lab::layout::{CLIENT, CONTROLLER, DATASTORE};
use lab::{Fault, Netns, World};
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

/// Leases an address for `interface` with busybox's DHCP client, as a device would.
fn lease(world: &World, interface: &str) -> String {
    let script = world.dir().join("lease.sh");
    std::fs::write(
        &script,
        "#!/bin/sh\n[ \"$1\" = bound ] || exit 0\nip addr add $ip/$mask dev $interface\n\
         ip route replace default via $router dev $interface\necho ip=$ip dns=$dns domain=$domain\n",
    )
    .unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    world
        .device()
        .exec(
            Command::new("busybox")
                .args([
                    "udhcpc", "-i", interface, "-f", "-q", "-n", "-t", "10", "-T", "1", "-s",
                ])
                .arg(&script),
        )
        .unwrap()
}

fn resolve(world: &World, server: Ipv4Addr, name: &str) -> Result<String, lab::netns::NetnsError> {
    world.device().exec(
        Command::new("timeout")
            .args(["3", "busybox", "nslookup", name])
            .arg(server.to_string()),
    )
}

fn connect(from: &Netns, to: SocketAddr) -> std::io::Result<TcpStream> {
    from.run(|| TcpStream::connect_timeout(&to, Duration::from_millis(800)))
        .unwrap()
}

/// Accepts connections at `address` in `netns` until the test ends.
fn listen(netns: &Netns, address: SocketAddr) {
    let listener = netns.run(|| TcpListener::bind(address)).unwrap().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let peer = stream.as_ref().unwrap().peer_addr().unwrap();
            let _ = stream.unwrap().write_all(peer.ip().to_string().as_bytes());
        }
    });
}

fn said(mut stream: TcpStream) -> String {
    let mut text = String::new();
    std::io::Read::read_to_string(&mut stream, &mut text).unwrap();
    text
}

#[test]
fn two_uplinks_lease_resolve_and_reach_the_outside() {
    let world = World::builder().uplinks(2).nat(1).build().unwrap();
    let uplinks = world.uplinks();
    for uplink in &uplinks {
        let plan = uplink.plan;
        let got = lease(&world, &plan.interface());
        assert!(
            got.contains(&format!(
                "ip={} dns={} domain=lab.internal",
                plan.device_address(),
                plan.gateway()
            )),
            "{got}"
        );
        let answer = resolve(&world, plan.gateway(), "evc.lab.internal").unwrap();
        assert!(answer.contains(&CONTROLLER.to_string()), "{answer}");
        assert!(resolve(&world, plan.gateway(), "nowhere.lab.internal").is_err());
    }
    // The default route is the last lease's: behind NAT the outside sees the router.
    listen(&world.outside(), (CONTROLLER, 8000).into());
    let device = world.device();
    let through = said(connect(&device, (CONTROLLER, 8000).into()).unwrap());
    assert_eq!(through, uplinks[1].plan.wan_address().to_string());
    // Without NAT it sees the device, and reaches it.
    device
        .ip(&format!(
            "route replace default via {}\n",
            uplinks[0].plan.gateway()
        ))
        .unwrap();
    let through = said(connect(&device, (CONTROLLER, 8000).into()).unwrap());
    assert_eq!(through, uplinks[0].plan.device_address().to_string());
    let inward: SocketAddr = (uplinks[0].plan.device_address(), 8001).into();
    listen(&device, inward);
    connect(&world.outside(), inward).unwrap();
}

#[test]
fn faults_come_and_go() {
    let world = World::builder().build().unwrap();
    let device = world.device();
    let gateway = world.uplinks()[0].plan.gateway();
    lease(&world, "eth0");
    for address in [CONTROLLER, DATASTORE, CLIENT] {
        listen(&world.outside(), (address, 8000).into());
    }
    let reach = |address| connect(&device, (address, 8000).into());
    // The kernel tells of carriers once a second.
    let reach_soon = |address| {
        let deadline = Instant::now() + Duration::from_secs(5);
        while reach(address).is_err() {
            assert!(Instant::now() < deadline, "{address} stays out of reach");
        }
    };

    world.fault(&Fault::Blackhole(CONTROLLER)).unwrap();
    assert_eq!(
        reach(CONTROLLER).unwrap_err().kind(),
        std::io::ErrorKind::TimedOut
    );
    world.fault(&Fault::Reject(DATASTORE)).unwrap();
    assert_eq!(
        reach(DATASTORE).unwrap_err().kind(),
        std::io::ErrorKind::ConnectionRefused
    );
    reach(CLIENT).unwrap();
    for address in [CONTROLLER, DATASTORE, CLIENT] {
        world.fault(&Fault::Restore(address)).unwrap();
        reach(address).unwrap();
    }

    world.fault(&Fault::WanDown(0)).unwrap();
    assert!(reach(CLIENT).is_err());
    resolve(&world, gateway, "evc.lab.internal").unwrap();
    world.fault(&Fault::WanUp(0)).unwrap();
    reach_soon(CLIENT);

    world.fault(&Fault::DnsDown(0)).unwrap();
    assert!(resolve(&world, gateway, "evc.lab.internal").is_err());
    world.fault(&Fault::DnsUp(0)).unwrap();
    resolve(&world, gateway, "evc.lab.internal").unwrap();

    world.fault(&Fault::LinkDown(0)).unwrap();
    let links = || device.exec(Command::new("ip").args(["link", "show", "eth0"]));
    let deadline = Instant::now() + Duration::from_secs(5);
    while !links().unwrap().contains("NO-CARRIER") {
        assert!(Instant::now() < deadline, "eth0 keeps its carrier");
    }
    world.fault(&Fault::LinkUp(0)).unwrap();
    reach_soon(CLIENT);

    world.fault(&Fault::Slow(0, 800)).unwrap();
    world.fault(&Fault::Fast(0)).unwrap();
    world.fault(&Fault::DhcpDown(0)).unwrap();
    world.fault(&Fault::DhcpUp(0)).unwrap();
    lease(&world, "eth0");
    assert!(world.fault(&Fault::LinkDown(1)).is_err());
    assert!(world.fault(&Fault::Kill("nobody".into())).is_err());
}

#[test]
fn a_power_cut_leaves_files_and_cables_only() {
    let world = World::builder().uplinks(2).build().unwrap();
    let before = world.device();
    before
        .ip("link set eth0 down\nlink set eth0 name keth0\nlink add eth0 type bridge\nlink set keth0 master eth0\n")
        .unwrap();
    let process = world
        .spawn_device(
            "sleeper",
            Command::new("sh").args(["-c", "setsid sleep 600 & sleep 600"]),
        )
        .unwrap();
    world.power_cut().unwrap();
    assert!(process.ended().is_some());
    assert!(world.site().processes(lab::Side::Device).is_empty());
    let links = world
        .device()
        .exec(Command::new("ip").args(["-br", "link"]))
        .unwrap();
    let names: Vec<_> = links
        .lines()
        .filter_map(|line| line.split(['@', ' ']).next())
        .collect();
    assert_eq!(names, ["lo", "eth0", "eth1"], "{links}");
    lease(&world, "eth0");
}

#[test]
fn nothing_survives_the_world() {
    let world = World::builder().build().unwrap();
    let dir = world.dir();
    let device = world
        .spawn_device(
            "sleeper",
            Command::new("sh").args(["-c", "setsid sleep 600 & sleep 600"]),
        )
        .unwrap();
    let site = world.site();
    let running = || -> Vec<i32> {
        [lab::Side::Device, lab::Side::Outside]
            .into_iter()
            .flat_map(|side| site.processes(side))
            .map(|running| running.pid)
            .collect()
    };
    // The shell and its two children, DHCP and DNS.
    let deadline = Instant::now() + Duration::from_secs(10);
    while running().len() < 5 {
        assert!(Instant::now() < deadline, "{:?}", running());
        std::thread::sleep(Duration::from_millis(10));
    }
    let pids = running();
    drop(site);
    let started = Instant::now();
    drop(world);
    assert!(started.elapsed() < Duration::from_secs(5));
    assert!(device.ended().is_some());
    assert!(!dir.exists());
    for pid in pids {
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }
}
