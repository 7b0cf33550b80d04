//! A world of network namespaces on one machine: the device's side, up to 32 uplinks with a router
//! each (DHCP, DNS, optional NAT), and the outside. Any number of worlds live side by side.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use lab::{Fault, Side, World};
//! let world = World::builder().uplinks(2).build()?;
//! let page = world.outside().exec(std::process::Command::new("curl").arg("http://192.168.100.2"))?;
//! world.fault(&Fault::LinkDown(0))?;
//! # Ok(()) }
//! ```
//!
//! Nothing of a world survives its owner: see [`crate::jail`] for processes and [`crate::netns`] for
//! everything in the network. Dropping the world waits until all is gone. The directory is removed
//! when the last process is dead, unless a file `keep` lies in it (`EVE_LAB_KEEP=1` puts it there).

use crate::datastore::Datastore;
use crate::fault::Fault;
use crate::jail::Jail;
use crate::layout::{self, MAX_UPLINKS, UplinkPlan};
use crate::netns::Netns;
use crate::pki::Authority;
use crate::process::Process;
use crate::record::{self, PREFIX, ProcessId, Record};
use crate::site::{Side, Site, SiteError, Uplink, io};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// What a world should have; see [`World::builder`].
#[derive(Debug, Clone)]
pub struct Builder {
    uplinks: usize,
    nat: Vec<u8>,
    lease_seconds: u32,
    base: PathBuf,
}

impl Builder {
    /// Number of uplinks, `eth0` and up; 1 unless said otherwise.
    #[must_use]
    pub fn uplinks(mut self, count: usize) -> Builder {
        self.uplinks = count;
        self
    }

    /// Puts this uplink's device side behind NAT; otherwise the outside sees the device's own address
    /// and can reach it.
    #[must_use]
    pub fn nat(mut self, uplink: u8) -> Builder {
        self.nat.push(uplink);
        self
    }

    /// DHCP lease time in seconds; an hour unless said otherwise, 120 at least.
    #[must_use]
    pub fn lease_seconds(mut self, seconds: u32) -> Builder {
        self.lease_seconds = seconds;
        self
    }

    /// Where the world's directory is made; [`record::base`] unless said otherwise.
    #[must_use]
    pub fn base(mut self, dir: &Path) -> Builder {
        dir.clone_into(&mut self.base);
        self
    }

    /// Makes the world; returns when its DHCP and DNS servers answer. Takes root and about 0.3 s.
    pub fn build(self) -> Result<World, SiteError> {
        let count = u8::try_from(self.uplinks).unwrap_or(u8::MAX);
        if count == 0 || count > MAX_UPLINKS {
            return Err(SiteError::UplinkCount {
                count: self.uplinks,
            });
        }
        // Best effort: what another world's dead owner left is no reason not to build this one.
        if let Err(error) = record::collect(&self.base) {
            tracing::warn!(%error, "leftovers of dead worlds stay");
        }
        let dir = new_directory(&self.base)?;
        let built = self.assemble(count, &dir);
        if built.is_err() {
            let _ = std::fs::remove_dir_all(&dir);
        }
        built
    }

    fn assemble(&self, count: u8, dir: &Path) -> Result<World, SiteError> {
        let name = dir
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        if std::env::var_os("EVE_LAB_KEEP").is_some() {
            write(&dir.join("keep"), "")?;
        }
        // As the supervisor names them: after the last part of the device's root.
        let control_groups = format!("eve/device-{}-*", name.trim_start_matches(PREFIX));
        let outside_jail = Jail::new(dir, &control_groups)?;
        let device = Netns::create(&format!("{name}-device"))?;
        let outside = Netns::create(&format!("{name}-outside"))?;
        outside.ip(&layout::outside_addresses())?;
        let device_jail = Jail::inside(outside_jail.entrance(), &device)?;
        let uplinks = (0..count)
            .map(|index| {
                let plan = UplinkPlan {
                    index,
                    nat: self.nat.contains(&index),
                    lease_seconds: self.lease_seconds.max(120),
                };
                connect(&name, plan, &device, &outside)
            })
            .collect::<Result<_, _>>()?;
        let world = World {
            site: Mutex::new(Arc::new(Site {
                name,
                dir: dir.to_owned(),
                device,
                outside,
                uplinks,
                device_entrance: Arc::clone(device_jail.entrance()),
                outside_entrance: Arc::clone(outside_jail.entrance()),
            })),
            children: Mutex::new(Vec::new()),
            device_jail: Mutex::new(device_jail),
            outside_jail,
            authority: OnceLock::new(),
            datastore: OnceLock::new(),
        };
        world.record()?;
        world.name_lookups()?;
        let site = world.site();
        for index in 0..count {
            for kind in ["dhcp", "dns"] {
                world.children().extend(site.start_server(index, kind)?);
            }
        }
        Ok(world)
    }
}

/// A world that lives as long as this value.
#[derive(Debug)]
pub struct World {
    site: Mutex<Arc<Site>>,
    children: Mutex<Vec<Process>>,
    datastore: OnceLock<Datastore>,
    authority: OnceLock<Authority>,
    // Inner before outer: fields are dropped in this order.
    device_jail: Mutex<Jail>,
    outside_jail: Jail,
}

impl World {
    /// One uplink without NAT, leases of an hour.
    #[must_use]
    pub fn builder() -> Builder {
        Builder {
            uplinks: 1,
            nat: Vec::new(),
            lease_seconds: 3600,
            base: record::base(),
        }
    }

    /// The world's parts as they are now.
    #[must_use]
    pub fn site(&self) -> Arc<Site> {
        Arc::clone(&self.lock_site())
    }

    /// `eve-` and four hex digits.
    #[must_use]
    pub fn name(&self) -> String {
        self.site().name.clone()
    }

    /// The world's directory.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.site().dir.clone()
    }

    /// The root directory of the world's device. Its last part is the world's own, because control groups
    /// are named after it.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        let site = self.site();
        site.dir
            .join(format!("device-{}", site.name.trim_start_matches(PREFIX)))
    }

    /// The device's network namespace; a power cut makes a new one.
    #[must_use]
    pub fn device(&self) -> Netns {
        self.site().device.clone()
    }

    /// The outside's network namespace.
    #[must_use]
    pub fn outside(&self) -> Netns {
        self.site().outside.clone()
    }

    /// The uplinks by index.
    #[must_use]
    pub fn uplinks(&self) -> Vec<Uplink> {
        self.site().uplinks.clone()
    }

    /// Starts a program on the outside; its output goes to `log/<name>.log`.
    pub fn spawn_outside(&self, name: &str, command: &mut Command) -> Result<Process, SiteError> {
        self.spawn(Side::Outside, name, command)
    }

    /// Starts a program on the device; its output goes to `log/<name>.log`.
    pub fn spawn_device(&self, name: &str, command: &mut Command) -> Result<Process, SiteError> {
        self.spawn(Side::Device, name, command)
    }

    fn spawn(&self, side: Side, name: &str, command: &mut Command) -> Result<Process, SiteError> {
        let process = self.site().spawn(side, name, command)?;
        self.children().push(process.clone());
        Ok(process)
    }

    /// Causes a fault.
    pub fn fault(&self, fault: &Fault) -> Result<(), SiteError> {
        let started = self.site().fault(fault)?;
        self.children().extend(started);
        Ok(())
    }

    /// The world's certificate authority, made when first asked for.
    pub fn authority(&self) -> Result<&Authority, SiteError> {
        if let Some(authority) = self.authority.get() {
            return Ok(authority);
        }
        let made = Authority::new("lab datastore authority")?;
        Ok(self.authority.get_or_init(|| made))
    }

    /// The HTTPS file server at `datastore.lab.internal`, started when first asked for. Its root
    /// certificate is that of [`World::authority`].
    pub fn datastore(&self) -> Result<&Datastore, SiteError> {
        if let Some(datastore) = self.datastore.get() {
            return Ok(datastore);
        }
        let started = Datastore::start(&self.outside(), self.authority()?)?;
        Ok(self.datastore.get_or_init(|| started))
    }

    /// Cuts the device's power: all its processes die at once, and the kernel objects that they made
    /// (bridges, taps, rules, addresses) are gone. Its files stay. The uplinks' cables stay plugged.
    pub fn power_cut(&self) -> Result<(), SiteError> {
        let old = self.site();
        let device = Netns::create(old.device.name())?;
        let mut jail = self
            .device_jail
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        jail.doom();
        self.reap();
        *jail = Jail::inside(self.outside_jail.entrance(), &device)?;
        let device_entrance = Arc::clone(jail.entrance());
        drop(jail);
        for uplink in &old.uplinks {
            replug(uplink, &old.device, &device)?;
        }
        *self.lock_site() = Arc::new(Site {
            device,
            device_entrance,
            ..(*old).clone()
        });
        self.record()?;
        self.device_lookups()
    }

    fn record(&self) -> Result<(), SiteError> {
        let site = self.site();
        let mut namespaces = BTreeMap::from([
            ("device".to_owned(), site.device.path()),
            ("outside".to_owned(), site.outside.path()),
        ]);
        for uplink in &site.uplinks {
            namespaces.insert(format!("uplink{}", uplink.plan.index), uplink.router.path());
        }
        let record = Record {
            name: site.name.clone(),
            owner: ProcessId::own(),
            outside_init: site.outside_entrance.init(),
            device_init: site.device_entrance.init(),
            namespaces,
            uplinks: site
                .uplinks
                .iter()
                .map(|uplink| (uplink.plan.nat, uplink.plan.lease_seconds))
                .collect(),
        };
        record
            .write(&site.dir)
            .map_err(|source| io(&site.dir, source))
    }

    /// Names on the outside come from a hosts file of the world, never from the machine's resolver.
    fn name_lookups(&self) -> Result<(), SiteError> {
        self.look_up(Side::Outside, "outside", &layout::hosts_file())?;
        self.device_lookups()
    }

    /// The device's services resolve by the servers that DHCP named; the C library must not know more.
    fn device_lookups(&self) -> Result<(), SiteError> {
        self.look_up(Side::Device, "device", "127.0.0.1 localhost\n")
    }

    fn look_up(&self, side: Side, name: &str, hosts: &str) -> Result<(), SiteError> {
        let site = self.site();
        for (target, text) in [("/etc/hosts", hosts), ("/etc/resolv.conf", "")] {
            if !Path::new(target).exists() {
                continue;
            }
            let file = site.dir.join(format!(
                "{name}-{}",
                target.rsplit('/').next().unwrap_or(target)
            ));
            write(&file, text)?;
            let process = site.spawn(
                side,
                "mount",
                Command::new("mount").arg("--bind").arg(&file).arg(target),
            )?;
            let ended = process.wait(Duration::from_secs(10));
            if !ended.is_some_and(|status| status.success()) {
                return Err(SiteError::NotUp {
                    name: format!("mount of {target}"),
                    seconds: 10,
                    log: process.output(),
                });
            }
        }
        Ok(())
    }

    /// Waits for the children that died with their jail: a namespace ends when its last zombie does.
    fn reap(&self) {
        self.children()
            .retain(|process| process.wait(Duration::from_millis(1)).is_none());
        let site = self.site();
        let inside: Vec<i32> = site
            .device_entrance
            .processes()
            .iter()
            .map(|running| running.pid)
            .collect();
        for process in self.children().iter() {
            if inside.contains(&process.pid()) {
                let _ = process.wait(Duration::from_secs(5));
            }
        }
    }

    fn lock_site(&self) -> MutexGuard<'_, Arc<Site>> {
        self.site.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn children(&self) -> MutexGuard<'_, Vec<Process>> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        drop(self.datastore.take());
        if let Ok(jail) = self.device_jail.get_mut() {
            jail.doom();
        }
        self.outside_jail.doom();
        // The jails end only when their processes are reaped, and those are this process's children.
        for process in self.children().drain(..) {
            let _ = process.wait(Duration::from_secs(10));
        }
    }
}

fn connect(
    world: &str,
    plan: UplinkPlan,
    device: &Netns,
    outside: &Netns,
) -> Result<Uplink, SiteError> {
    let router = Netns::create(&format!("{world}-uplink{}", plan.index))?;
    let here = router.path();
    let cable = |end: &Netns, name: &str, far: &str| {
        end.exec(
            Command::new("ip")
                .args([
                    "link", "add", name, "type", "veth", "peer", "name", far, "netns",
                ])
                .arg(&here),
        )
    };
    cable(device, &plan.interface(), "lan")?;
    cable(outside, &format!("to{}", plan.index), "wan")?;
    device.ip(&plan.device_links())?;
    router.ip(&plan.router_links())?;
    outside.ip(&plan.outside_links())?;
    router.ip(&plan.router_routes())?;
    router.exec_with_input(Command::new("nft").args(["-f", "-"]), &plan.router_rules())?;
    let forwarding = Path::new("/proc/sys/net/ipv4/ip_forward");
    router
        .run(|| std::fs::write(forwarding, "1"))?
        .map_err(|source| io(forwarding, source))?;
    Ok(Uplink { plan, router })
}

/// Moves the device's end of a cable into its new namespace, whatever the device made of its name.
fn replug(uplink: &Uplink, old: &Netns, new: &Netns) -> Result<(), SiteError> {
    let links = |netns: &Netns, args: &[&str]| -> Result<Vec<Link>, SiteError> {
        let text = netns.exec(Command::new("ip").args(["-j", "link", "show"]).args(args))?;
        serde_json::from_str(&text)
            .map_err(|error| io(Path::new("ip -j link"), std::io::Error::other(error)))
    };
    let far = links(&uplink.router, &["dev", "lan"])?
        .into_iter()
        .find_map(|link| link.far_index);
    let interface = uplink.plan.interface();
    let name = links(old, &[])?
        .into_iter()
        .find(|link| Some(link.ifindex) == far)
        .map_or_else(|| interface.clone(), |link| link.ifname);
    old.ip(&format!("link set dev {name} down\n"))?;
    old.exec(
        Command::new("ip")
            .args(["link", "set", "dev", &name, "netns"])
            .arg(new.path())
            .args(["name", &interface]),
    )?;
    Ok(new.ip(&uplink.plan.device_links())?)
}

/// The part of `ip -j link` that matters here.
#[derive(Deserialize)]
struct Link {
    ifname: String,
    ifindex: u32,
    #[serde(rename = "link_index")]
    far_index: Option<u32>,
}

/// A new directory `eve-<4 hex>`, open to the unprivileged users that services run as.
fn new_directory(base: &Path) -> Result<PathBuf, SiteError> {
    std::fs::create_dir_all(base).map_err(|source| io(base, source))?;
    let mut last = std::io::Error::other("no free name");
    for _ in 0..1000 {
        let dir = base.join(format!("{PREFIX}{:04x}", rand::random::<u16>()));
        match std::fs::create_dir(&dir) {
            Ok(()) => {
                open_to_all(&dir)?;
                return Ok(dir);
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => last = error,
            Err(error) => return Err(io(&dir, error)),
        }
    }
    Err(io(base, last))
}

fn open_to_all(dir: &Path) -> Result<(), SiteError> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755))
        .map_err(|source| io(dir, source))
}

fn write(path: &Path, text: &str) -> Result<(), SiteError> {
    std::fs::write(path, text).map_err(|source| io(path, source))
}
