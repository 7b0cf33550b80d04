//! What is told about network instances and applications.

use agent::Turn;
use bus::Rows;
use graph::{Item as _, Items};
use jiff::Timestamp;
use model::{
    code::Code,
    fault::Fault,
    id::{AppId, NetworkInstanceId},
    network::{
        AppNetworkPhase, AppNetworkStatus, AppVifStatus, NetworkInstancePhase,
        NetworkInstanceStatus, VifLease,
    },
};

use super::{
    Model, Report, Zedrouter,
    instance::{self, Instance, Life},
    intended::Intended,
    item::{Item, Layer, filter_id, resolver_id},
    metric, numbers,
    vif::{self, App, Vif},
};

pub(super) fn report(
    turn: &Turn<'_, Zedrouter>,
    model: &Model,
    current: &Items<Item>,
    intended: &Intended,
) -> Report {
    let view = View {
        turn,
        model,
        current,
        intended,
    };
    let instances = view.instances();
    let apps = turn.desired.apps.is_some().then(|| view.apps(&instances));
    Report {
        numbers: model.numbers.clone(),
        addresses: model.addresses.clone(),
        instances,
        apps,
        metrics: metric::metrics(turn.actual),
    }
}

struct View<'a, 'b> {
    turn: &'a Turn<'b, Zedrouter>,
    model: &'a Model,
    current: &'a Items<Item>,
    intended: &'a Intended,
}

impl View<'_, '_> {
    fn instances(&self) -> Rows<NetworkInstanceStatus> {
        let mut rows: Rows<NetworkInstanceStatus> = self
            .model
            .instances
            .iter()
            .map(|instance| (instance.id.to_string(), self.instance(instance)))
            .collect();
        // What is no longer wanted is told of until it is gone.
        for (key, old) in self.turn.desired.own.instances.iter() {
            let is_left = self.turn.actual.links.contains_key(&old.bridge)
                && instance::is_ours(self.turn, &old.bridge)
                && self.is_number_of(old);
            if !rows.contains_key(key) && is_left {
                let phase = NetworkInstancePhase::Deleting;
                let fault = self.fault_of_link(&old.bridge);
                let old = old.clone();
                rows.insert(
                    key.clone(),
                    NetworkInstanceStatus {
                        phase,
                        fault,
                        ..old
                    },
                );
            }
        }
        rows
    }

    fn is_number_of(&self, status: &NetworkInstanceStatus) -> bool {
        let row = self.model.numbers.get(&numbers::instance_key(status.id));
        row.is_some_and(|row| row.number == status.number)
    }

    fn instance(&self, instance: &Instance) -> NetworkInstanceStatus {
        let phase = match instance.life {
            Life::Broken => NetworkInstancePhase::Failed,
            Life::Leaving => NetworkInstancePhase::Deleting,
            Life::Wanted if !self.is_up(instance) => NetworkInstancePhase::Creating,
            Life::Wanted if lacks_uplink(instance) => NetworkInstancePhase::NoUplink {
                port: instance.config.port.clone(),
            },
            Life::Wanted => NetworkInstancePhase::Up,
        };
        let old = instance::before(self.turn, instance.id);
        let known = self.turn.desired.apps.is_some();
        let vifs = match old {
            Some(old) if !known => old.vifs.clone(),
            Some(_) | None => {
                let vifs = self.model.vifs_of(instance.id);
                vifs.map(|vif| self.lease(vif, instance)).collect()
            }
        };
        let ports = if instance.is_local() {
            instance
                .uplink
                .chosen
                .iter()
                .map(|p| p.name().to_owned())
                .collect()
        } else {
            instance
                .member()
                .map(|p| p.name().to_owned())
                .into_iter()
                .collect()
        };
        let fault = instance.fault.clone().or_else(|| self.trouble(instance));
        NetworkInstanceStatus {
            id: instance.id,
            display_name: instance.config.display_name.clone(),
            kind: instance.config.kind,
            phase,
            bridge: instance.bridge.clone(),
            number: instance.number,
            subnet: instance.lan.map(|lan| lan.subnet),
            gateway: instance.lan.map(|lan| lan.gateway),
            ports,
            vifs,
            fault,
        }
    }

    /// Whether applications can work in it. A change of its rules or names leaves it up.
    fn is_up(&self, instance: &Instance) -> bool {
        let bridge = &instance.bridge;
        let all_made = self.is_made(bridge);
        let filters = [Layer::Frames, Layer::Packets];
        let filtered = filters
            .iter()
            .all(|l| self.current.contains_key(&filter_id(*l)));
        let resolver = self.current.get(&resolver_id(bridge));
        let resolves = match resolver {
            Some(Item::Resolver { config, .. }) => !config.is_empty(),
            Some(_) | None => false,
        };
        let answered = !instance.is_local() || resolves;
        all_made && filtered && answered
    }

    /// What keeps it from being what it should be.
    fn trouble(&self, instance: &Instance) -> Option<Fault> {
        let bridge = &instance.bridge;
        let concerns = |item: &Item| match item.about() {
            Some(link) => link == bridge,
            None => !item.is_external(),
        };
        let items = self
            .intended
            .items
            .iter()
            .filter(|(_, item)| concerns(item));
        let mut failed = items.filter_map(|(id, _)| self.turn.jobs.fault(id));
        let resolvers = self.turn.actual.resolvers.as_ref();
        let object = format!("network instance {}", instance.id);
        let fault = |code, text: &str| {
            let old = instance::before(self.turn, instance.id);
            Fault::new(code, object.clone(), text, self.turn.now)
                .transient(true)
                .continuing(old.and_then(|old| old.fault.as_ref()))
        };
        let dead = || {
            let resolver = resolvers?.get(bridge)?;
            let why = resolver.trouble.as_ref()?;
            Some(fault(
                Code::NetworkDhcpDns,
                &format!("its DHCP and DNS server does not run: {why}"),
            ))
        };
        let silent = || {
            let waits = instance.is_local() && instance.is_made() && resolvers.is_none();
            waits.then(|| {
                let text = "the supervisor, which runs its DHCP and DNS server, does not answer";
                fault(Code::SupervisorUnreachable, text)
            })
        };
        failed
            .next()
            .cloned()
            .or_else(dead)
            .or_else(silent)
            .or_else(|| self.intended.fault.clone())
    }

    fn fault_of_link(&self, name: &str) -> Option<Fault> {
        let ids = [format!("bridge {name}"), resolver_id(name)];
        ids.iter().find_map(|id| self.turn.jobs.fault(id)).cloned()
    }

    fn lease(&self, vif: &Vif, instance: &Instance) -> VifLease {
        VifLease {
            app: vif.app,
            vif: vif.name.clone(),
            mac: vif.mac,
            ip: vif.ip.map(Into::into),
            expires: self.expiry(vif, instance),
        }
    }

    fn expiry(&self, vif: &Vif, instance: &Instance) -> Option<Timestamp> {
        let mut leases = self.turn.actual.leases.iter();
        let is_it = |lease: &&super::Lease| {
            let valid = lease.expires > self.turn.now;
            valid && lease.bridge == instance.bridge && lease.mac == vif.mac
        };
        leases.find(is_it).map(|lease| lease.expires)
    }

    fn apps(&self, instances: &Rows<NetworkInstanceStatus>) -> Rows<AppNetworkStatus> {
        let mut rows: Rows<AppNetworkStatus> = self
            .model
            .apps
            .iter()
            .map(|app| (app.config.app.to_string(), self.app(app, instances)))
            .collect();
        for (key, old) in self.turn.desired.own.apps.iter() {
            if !rows.contains_key(key) && self.has_links(old.app, old.number) {
                let phase = AppNetworkPhase::Deleting;
                let old = old.clone();
                rows.insert(key.clone(), AppNetworkStatus { phase, ..old });
            }
        }
        rows
    }

    /// Whether an interface of the application is left.
    fn has_links(&self, app: AppId, number: u16) -> bool {
        let row = self.model.numbers.get(&numbers::app_key(app));
        let is_its = |name: &String| vif::numbers_of(name).is_some_and(|(_, n)| n == number);
        let mut links = self.turn.actual.links.keys();
        row.is_some_and(|row| row.number == number)
            && links.any(|name| is_its(name) && instance::is_ours(self.turn, name))
    }

    fn app(&self, app: &App, instances: &Rows<NetworkInstanceStatus>) -> AppNetworkStatus {
        let old = self.turn.desired.own.apps.get(&app.config.app.to_string());
        let was_ready = old.is_some_and(|old| old.phase == AppNetworkPhase::Ready);
        let complete = app.vifs.len() == app.config.vifs.len();
        let linked = complete && app.vifs.iter().all(|vif| self.is_made(&vif.name));
        let decided = was_ready || self.is_filtered();
        let down = app.vifs.iter().find_map(|vif| {
            let id = vif.wanted.network_instance;
            (!works(id, instances)).then_some(id)
        });
        let awaits = app.awaits.or(down.filter(|_| !(was_ready && linked)));
        let job = app.vifs.iter().find_map(|vif| self.fault_of_vif(vif));
        let phase = if !app.config.activate {
            if self.has_links(app.config.app, app.number) {
                AppNetworkPhase::Deleting
            } else {
                AppNetworkPhase::Inactive
            }
        } else if linked && decided && awaits.is_none() {
            AppNetworkPhase::Ready
        } else if app.fault.is_some() {
            AppNetworkPhase::Failed
        } else if let Some(network_instance) = awaits {
            AppNetworkPhase::AwaitNetworkInstance { network_instance }
        } else {
            AppNetworkPhase::Creating
        };
        let missing = || {
            let id = awaits.filter(|id| !instances.contains_key(&id.to_string()))?;
            let text = format!("network instance {id} is not there");
            let object = format!("app {}", app.config.app);
            let fault = Fault::new(Code::NetworkMissing, object, text, self.turn.now);
            Some(fault.continuing(old.and_then(|old| old.fault.as_ref())))
        };
        AppNetworkStatus {
            app: app.config.app,
            phase,
            number: app.number,
            vifs: app.vifs.iter().map(|vif| self.vif(vif)).collect(),
            fault: app.fault.clone().or(job).or_else(missing),
        }
    }

    fn vif(&self, vif: &Vif) -> AppVifStatus {
        let mut instances = self.model.instances.iter();
        let instance = instances.find(|i| i.id == vif.wanted.network_instance);
        AppVifStatus {
            name: vif.wanted.name.clone(),
            network_instance: vif.wanted.network_instance,
            vif: vif.name.clone(),
            bridge: instance.map(|i| i.bridge.clone()).unwrap_or_default(),
            mac: vif.mac,
            ip: vif.ip.map(Into::into),
            lease_expires: instance.and_then(|instance| self.expiry(vif, instance)),
            mtu: instance.map_or(0, Instance::mtu),
        }
    }

    /// Whether the interface is made and connected as intended.
    fn is_made(&self, link: &str) -> bool {
        let mut intended = self
            .intended
            .items
            .iter()
            .filter(|(_, item)| item.is_of_link() && item.about() == Some(link))
            .peekable();
        intended.peek().is_some() && intended.all(|(id, item)| self.current.get(id) == Some(item))
    }

    /// Whether the packet filter is the intended one.
    fn is_filtered(&self) -> bool {
        let filters = [Layer::Frames, Layer::Packets].map(filter_id);
        filters.iter().all(|id| {
            let there = self.current.get(id);
            there.is_some_and(|item| self.intended.has(item))
        })
    }

    fn fault_of_vif(&self, vif: &Vif) -> Option<Fault> {
        let kinds = ["vif", "mtu", "bridge-port", "isolated", "up", "flows"];
        kinds
            .iter()
            .find_map(|kind| self.turn.jobs.fault(&format!("{kind} {}", vif.name)))
            .or_else(|| {
                let filters = [Layer::Frames, Layer::Packets];
                filters
                    .iter()
                    .find_map(|l| self.turn.jobs.fault(&filter_id(*l)))
            })
            .cloned()
    }
}

fn lacks_uplink(instance: &Instance) -> bool {
    let wants_one = !instance.config.port.0.is_empty();
    let has_one = if instance.is_local() {
        instance.uplink.chosen.is_some()
    } else {
        instance.member().is_some()
    };
    wants_one && !has_one
}

fn works(id: NetworkInstanceId, instances: &Rows<NetworkInstanceStatus>) -> bool {
    let status = instances.get(&id.to_string());
    status.is_some_and(|status| match status.phase {
        NetworkInstancePhase::Up
        | NetworkInstancePhase::NoUplink { .. }
        | NetworkInstancePhase::Deleting => true,
        NetworkInstancePhase::Creating | NetworkInstancePhase::Failed => false,
    })
}
