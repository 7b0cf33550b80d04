//! The tiny guest, booted by the BIOS from its disk under TCG, on a tap in a namespace of its own.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use lab::guest::{self, Kind, Seed};
use lab::{Netns, World};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const GATEWAY: &str = "10.77.0.1";
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 10);
const MAC: &str = "02:16:3e:77:01:01";

fn get(netns: &Netns, path: &str) -> String {
    let page = netns.run(|| -> std::io::Result<String> {
        let mut stream = TcpStream::connect((GUEST, 80))?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
        let mut page = String::new();
        stream.read_to_string(&mut page)?;
        Ok(page)
    });
    page.unwrap().unwrap()
}

fn wait_for(console: &Path, words: &str) -> String {
    let deadline = Instant::now() + Duration::from_secs(300);
    loop {
        let text =
            String::from_utf8_lossy(&std::fs::read(console).unwrap_or_default()).into_owned();
        if text.contains(words) {
            return text;
        }
        assert!(
            Instant::now() < deadline,
            "no {words:?} on the console: {text}"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// One QMP command, on a connection of its own; returns when QEMU has answered it.
fn qmp(socket: &Path, command: &str) {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    for line in ["{\"execute\":\"qmp_capabilities\"}", command] {
        stream.write_all(line.as_bytes()).unwrap();
        while !lines.next().unwrap().unwrap().contains("\"return\"") {}
    }
}

/// A guest that runs, as READY said.
struct Guest {
    world: World,
    qemu: lab::Process,
    console: PathBuf,
    socket: PathBuf,
    /// All that was on the console at READY.
    text: String,
}

fn boot(kind: Kind, memory: &str) -> Guest {
    let image = guest::image(kind, &guest::default_cache()).unwrap();
    let world = World::builder().build().unwrap();
    let (dir, device) = (world.dir(), world.device());
    device
        .ip(&format!(
            "tuntap add dev vif1 mode tap\naddr add {GATEWAY}/24 dev vif1\nlink set vif1 up\n"
        ))
        .unwrap();
    world
        .spawn_device(
            "guest-dhcp",
            Command::new("dnsmasq")
                .args(["-k", "--conf-file=/dev/null", "--user=root"])
                .args([
                    "--interface=vif1",
                    "--bind-dynamic",
                    "--except-interface=lo",
                ])
                .args(["--leasefile-ro", "--no-ping", "--pid-file=", "--no-resolv"])
                .args(["--no-hosts", "--log-facility=-"])
                .arg("--dhcp-range=10.77.0.50,10.77.0.60,255.255.255.0,1h")
                .arg(format!("--dhcp-host={MAC},{GUEST}")),
        )
        .unwrap();
    let seed = dir.join("seed.iso");
    Seed {
        instance_id: "i-77",
        hostname: "app77",
        user_data: "#cloud-config\nword: pomegranate\n",
    }
    .write(&seed, &dir)
    .unwrap();
    let disk = dir.join("disk.qcow2");
    std::fs::copy(&image.path, &disk).unwrap();
    let (console, socket) = (dir.join("console"), dir.join("qmp"));
    let qemu = world
        .spawn_device(
            "qemu",
            Command::new("qemu-system-x86_64")
                .args(["-machine", "q35", "-accel", "tcg,tb-size=64", "-cpu", "max"])
                .args([
                    "-m",
                    memory,
                    "-nodefaults",
                    "-no-user-config",
                    "-display",
                    "none",
                ])
                .arg("-drive")
                .arg(format!("file={},if=virtio,format=qcow2", disk.display()))
                .arg("-drive")
                .arg(format!(
                    "file={},if=none,id=cd,format=raw,readonly=on",
                    seed.display()
                ))
                .args(["-device", "virtio-scsi-pci", "-device", "scsi-cd,drive=cd"])
                .args(["-netdev", "tap,id=n,ifname=vif1,script=no,downscript=no"])
                .arg("-device")
                .arg(format!("virtio-net-pci,netdev=n,mac={MAC}"))
                .arg("-serial")
                .arg(format!("file:{}", console.display()))
                .arg("-qmp")
                .arg(format!("unix:{},server=on,wait=off", socket.display())),
        )
        .unwrap();
    let text = wait_for(&console, "GUEST: READY");
    Guest {
        world,
        qemu,
        console,
        socket,
        text,
    }
}

impl Guest {
    fn serves(&self, lines: &[&str]) {
        assert!(self.text.contains("word: pomegranate"), "{}", self.text);
        let page = get(&self.world.device(), "/");
        for line in ["hostname: app77", "instance-id: i-77", "word: pomegranate"] {
            assert!(page.contains(line), "{line} is not in {page}");
        }
        for line in lines {
            assert!(page.contains(line), "{line} is not in {page}");
        }
    }

    fn powers_off(&self) {
        qmp(&self.socket, "{\"execute\":\"system_powerdown\"}");
        let ended = self.qemu.wait(Duration::from_secs(90));
        assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
    }
}

#[test]
fn the_tiny_guest_boots_leases_serves_and_powers_off() {
    let image = guest::image(Kind::Tiny, &guest::default_cache()).unwrap();
    assert!(image.size < 16 << 20, "{} bytes", image.size);
    let guest = boot(Kind::Tiny, "128");
    assert!(guest.text.contains(&format!("lease eth0 ip={GUEST}")));
    guest.serves(&["address: 10.77.0.10/24", "boots: 1"]);
    let device = guest.world.device();
    assert!(get(&device, "/cgi-bin/info").contains("client: [::ffff:10.77.0.1]"));
    assert!(get(&device, &format!("/cgi-bin/get?http://{GATEWAY}:1/")).contains("status 1"));
    get(&device, "/cgi-bin/say?hello");
    wait_for(&guest.console, "GUEST: say hello");
    guest.powers_off();
    wait_for(&guest.console, "GUEST: power button");
}

#[test]
#[ignore = "builds and boots a whole Debian: minutes; a scenario test does so below the real services"]
fn the_debian_guest_boots_leases_serves_and_powers_off() {
    let guest = boot(Kind::Debian, "512");
    guest.serves(&["system: Debian GNU/Linux 12"]);
    guest.powers_off();
}
