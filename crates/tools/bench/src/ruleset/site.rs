//! A device's network in a namespace: zedrouter's own runtime and kernel, with as many applications as wanted.

use std::{path::Path, sync::Arc};

use agent::{Clock, Runtime, Settled};
use anyhow::{Context, Result, anyhow, ensure};
use bus::{Bus, Publisher};
use graph::Step;
use jiff::Timestamp;
use lab::Netns;
use model::{
    network::{AppNetworkConfig, AppNetworkStatus, NetworkInstanceKind},
    topics::{
        APP_NETWORK_CONFIG, APP_NETWORK_STATUS, DEVICE_NETWORK_STATUS, NETWORK_INSTANCE_CONFIG,
    },
};
use netlink::{Netlink, Owner};
use nft::Table;
use units::FakeUnits;
use zedrouter::{Do, Zedrouter, item::Item, world::Kernel};

use super::wishes::{self, OUTSIDE, PORT, ROUTES, UPLINK};

/// The interface of the first application.
const FIRST: &str = "nbu1x1";

/// A device in a namespace, with the port's other end in another.
pub struct Site {
    /// The device's.
    pub device: Netns,
    /// The far end of its port.
    pub outside: Netns,
}

/// Where a guest is.
pub struct Guest {
    /// Its namespace.
    pub netns: Netns,
}

impl Site {
    /// A device with a port.
    pub fn new() -> Result<Self> {
        let site = Self {
            device: Netns::create("bench-device")?,
            outside: Netns::create("bench-outside")?,
        };
        cable(&site.device, PORT, &site.outside, "eth0")?;
        Ok(site)
    }

    /// Gives both ends of the port their addresses, as nim and the outside do for a local instance.
    fn connect(&self) -> Result<()> {
        self.device.ip(&format!(
            "addr add {UPLINK}/24 dev {PORT}\nroute add default via {OUTSIDE} dev {PORT} table {ROUTES}"
        ))?;
        Ok(self
            .outside
            .ip(&format!("addr add {OUTSIDE}/24 dev eth0"))?)
    }

    /// Has zedrouter make the networks of these applications; the first one's guest is given back with what it needs to
    /// be heard outside.
    pub fn populate(
        &self,
        root: &Path,
        kind: NetworkInstanceKind,
        apps: u8,
        rules: u16,
    ) -> Result<Guest> {
        let guest = Guest {
            netns: Netns::create("bench-guest")?,
        };
        if kind == NetworkInstanceKind::Local {
            self.connect()?;
        }
        self.device.run(|| {
            in_a_runtime(async {
                let netlink = Netlink::open()?;
                Ok(netlink.create_veth(FIRST, "far", Owner::ZEDROUTER).await?)
            })
        })??;
        // At once: what is ours and nobody wants, zedrouter removes.
        let path = guest.netns.path();
        self.device
            .ip(&format!("link set dev far netns {}", path.display()))?;
        let status = self.device.run(|| {
            in_a_runtime(async {
                let mut service = Service::new(root, kind, &configs(apps, rules, kind))?;
                let settled = service.runtime.settle().await;
                let settled = settled.map_err(|failure| anyhow!("zedrouter: {failure}"))?;
                ensure!(settled == Settled::Quiet, "zedrouter: {settled:?}");
                service.first()
            })
        })??;
        let vif = status.vifs.first().context("an interface")?;
        let batch = match vif.ip {
            // The gateway is the first thing that answers; everything is behind it.
            Some(ip) => {
                let gateway = self.gateway(&vif.bridge)?;
                format!(
                    "addr add {ip}/32 dev eth0\nlink set dev eth0 address {} up\nroute add {gateway} dev eth0\nroute add default via {gateway}",
                    vif.mac
                )
            }
            None => format!(
                "addr add {UPLINK}/24 dev eth0\nlink set dev eth0 address {} up",
                vif.mac
            ),
        };
        guest.netns.ip("link set dev far name eth0")?;
        guest.netns.ip(&batch)?;
        if vif.ip.is_none() {
            self.outside
                .ip(&format!("addr add {OUTSIDE}/24 dev eth0"))?;
        }
        Ok(guest)
    }

    /// The address of a bridge.
    fn gateway(&self, bridge: &str) -> Result<String> {
        let mut command = std::process::Command::new("ip");
        command.args(["-o", "-4", "addr", "show", "dev", bridge]);
        let said = self.device.exec(&mut command)?;
        let mut words = said.split_whitespace().skip_while(|word| *word != "inet");
        let net = words.nth(1).context("a bridge with an address")?;
        Ok(net.split('/').next().unwrap_or_default().to_owned())
    }
}

/// The tables that zedrouter makes of so many applications with so many rules, without touching anything.
pub fn tables(root: &Path, site: &Site, configs: &[AppNetworkConfig]) -> Result<Vec<Table>> {
    site.device.run(|| {
        in_a_runtime(async {
            let mut service = Service::new(root, NetworkInstanceKind::Local, configs)?;
            let plan = service.runtime.dry_turn().await;
            let plan = plan.map_err(|failure| anyhow!("zedrouter: {failure}"))?;
            let steps = plan.context("zedrouter waits")?.actions.into_iter();
            let tables = steps.filter_map(|Do(step)| match step {
                Step::Create(Item::Filter { table, .. }) => table,
                Step::Create(_) | Step::Change { .. } | Step::Delete(_) => None,
            });
            let tables: Vec<Table> = tables.map(|table| *table).collect();
            ensure!(tables.len() == 2, "{} tables", tables.len());
            Ok(tables)
        })
    })?
}

/// So many applications with so many rules.
pub fn configs(apps: u8, rules: u16, kind: NetworkInstanceKind) -> Vec<AppNetworkConfig> {
    let all = 1..=apps;
    all.map(|number| wishes::app(number, rules, kind)).collect()
}

/// zedrouter and those who tell it what to do.
struct Service {
    runtime: Runtime<Zedrouter, Kernel>,
    bus: Bus,
    _publishers: (
        Publisher<model::network::NetworkInstanceConfig>,
        Publisher<AppNetworkConfig>,
        Publisher<model::port::DeviceNetworkStatus>,
    ),
}

impl Service {
    fn new(root: &Path, kind: NetworkInstanceKind, configs: &[AppNetworkConfig]) -> Result<Self> {
        let bus = Bus::memory();
        let mut instances = bus
            .acting_as("zedagent")
            .publisher(&NETWORK_INSTANCE_CONFIG)?;
        let instance = wishes::instance(kind);
        instances.publish(&instance.id.to_string(), &instance)?;
        instances.set_ready()?;
        let mut apps = bus.acting_as("zedmanager").publisher(&APP_NETWORK_CONFIG)?;
        let rows = configs.iter();
        apps.replace(&rows.map(|app| (app.app.to_string(), app.clone())).collect())?;
        apps.set_ready()?;
        let mut ports = bus.acting_as("nim").publisher(&DEVICE_NETWORK_STATUS)?;
        ports.publish("global", &wishes::ports(kind)?)?;
        ports.set_ready()?;
        let units = Arc::new(FakeUnits::new("zedrouter"));
        let world = Kernel::with(root, units, false)
            .map_err(|failure| anyhow!("zedrouter's world: {failure}"))?;
        let own = bus.acting_as("zedrouter");
        let clock = Clock::tokio(Timestamp::now());
        Ok(Self {
            runtime: Runtime::new(own, world, clock, 1),
            bus,
            _publishers: (instances, apps, ports),
        })
    }

    /// What it says of the first application.
    fn first(&self) -> Result<AppNetworkStatus> {
        let rows = self.bus.read(&APP_NETWORK_STATUS)?;
        let rows = rows.context("zedrouter is not ready")?;
        let is_first = |status: &&AppNetworkStatus| {
            let mut vifs = status.vifs.iter();
            vifs.any(|vif| vif.vif == FIRST)
        };
        rows.values()
            .find(is_first)
            .cloned()
            .context("the first application has no network")
    }
}

/// A cable between two namespaces.
pub fn cable(near: &Netns, name: &str, far: &Netns, other: &str) -> Result<()> {
    near.ip(&format!(
        "link add name {name} type veth peer name {other} netns {}\nlink set dev {name} up",
        far.path().display()
    ))?;
    Ok(far.ip(&format!("link set dev {other} up"))?)
}

fn in_a_runtime<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(work)
}
