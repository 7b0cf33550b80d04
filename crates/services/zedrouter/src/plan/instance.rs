//! Network instances: which are to be there, with which subnet, by which port.

use std::net::Ipv4Addr;

use agent::Turn;
use bus::Rows;
use ipnet::{IpNet, Ipv4Net};
use model::{
    code::Code,
    fault::Fault,
    id::NetworkInstanceId,
    network::{
        AssignedAddress, AssignedNumber, NetworkInstanceConfig, NetworkInstanceKind,
        NetworkInstanceStatus,
    },
};
use netlink::Owner;

use super::{
    Zedrouter, numbers,
    ports::{self, Port, Uplink},
};

/// Whether a network instance is to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    /// It is configured.
    Wanted,
    /// It is no longer configured but an application is still in it.
    Leaving,
    /// It can't be made.
    Broken,
}

/// The addresses of a local instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lan {
    pub(super) subnet: Ipv4Net,
    pub(super) gateway: Ipv4Addr,
    /// First and last address for applications.
    pub(super) range: (Ipv4Addr, Ipv4Addr),
}

impl Lan {
    /// The gateway's address as the bridge has it.
    pub(super) fn address(&self) -> Option<Ipv4Net> {
        Ipv4Net::new(self.gateway, self.subnet.prefix_len()).ok()
    }

    /// Whether an application may have this address.
    pub(super) fn may_have(&self, ip: Ipv4Addr) -> bool {
        let is_host = ip != self.subnet.network() && ip != self.subnet.broadcast();
        self.subnet.contains(&ip) && is_host && ip != self.gateway
    }
}

/// A network instance.
#[derive(Debug, Clone)]
pub(super) struct Instance {
    pub(super) id: NetworkInstanceId,
    /// The config in force: the last good one if the present one is faulty.
    pub(super) config: NetworkInstanceConfig,
    pub(super) number: u16,
    pub(super) bridge: String,
    /// Of a local instance that has its subnet.
    pub(super) lan: Option<Lan>,
    pub(super) uplink: Uplink,
    pub(super) life: Life,
    pub(super) fault: Option<Fault>,
}

impl Instance {
    /// Whether there is to be anything of it.
    pub(super) fn is_made(&self) -> bool {
        match self.life {
            Life::Wanted | Life::Leaving => true,
            Life::Broken => false,
        }
    }

    pub(super) fn is_local(&self) -> bool {
        self.config.kind == NetworkInstanceKind::Local
    }

    /// Bytes.
    pub(super) fn mtu(&self) -> u16 {
        if self.config.mtu == 0 {
            DEFAULT_MTU
        } else {
            self.config.mtu
        }
    }

    /// The device port that is a port of a switch instance.
    pub(super) fn member(&self) -> Option<&Port> {
        self.uplink.ports.first().filter(|_| !self.is_local())
    }
}

/// What an interface has unless told otherwise.
pub(crate) const DEFAULT_MTU: u16 = 1500;

/// Name of the file that keeps the last good config of an instance.
pub(super) fn accepted_name(id: NetworkInstanceId) -> String {
    format!("{ACCEPTED_PREFIX}{id}{ACCEPTED_SUFFIX}")
}

const ACCEPTED_PREFIX: &str = "ni-";
const ACCEPTED_SUFFIX: &str = ".json";

/// The network instances whose last good config is kept.
pub(super) fn accepted(turn: &Turn<'_, Zedrouter>) -> Vec<NetworkInstanceConfig> {
    let is_one = |name: &str| {
        name.strip_prefix(ACCEPTED_PREFIX)
            .is_some_and(|rest| rest.ends_with(ACCEPTED_SUFFIX))
    };
    let files = turn.actual.files.iter().filter(|(name, _)| is_one(name));
    files
        .filter_map(|(_, text)| serde_json::from_str(text).ok())
        .collect()
}

/// Name of the bridge with this number.
pub(super) fn bridge(number: u16) -> String {
    format!("bn{number}")
}

/// Every network instance by number, and the subnets that the device chose.
pub(super) fn resolve(
    turn: &Turn<'_, Zedrouter>,
    ports: &[Port],
    rows: &Rows<AssignedNumber>,
) -> (Vec<Instance>, Rows<AssignedAddress>) {
    let mut all = candidates(turn, ports, rows);
    // What is there comes first: it is not taken away because another wants the same.
    all.sort_by_key(|instance| (!has_bridge(turn, instance), instance.number));
    let mut chosen = Rows::new();
    let mut members: Vec<String> = Vec::new();
    let mut subnets: Vec<(Ipv4Net, NetworkInstanceId)> = Vec::new();
    let configured: Vec<(Ipv4Net, NetworkInstanceId)> = all
        .iter()
        .filter_map(|i| Some((i.config.subnet?.trunc(), i.id)))
        .collect();
    for instance in &mut all {
        if !instance.is_made() {
            continue;
        }
        if instance.is_local() {
            let mut book = Book {
                turn,
                ports,
                configured: &configured,
                subnets: &mut subnets,
                chosen: &mut chosen,
            };
            book.give_subnet(instance);
        } else {
            check_member(turn, instance, &mut members);
        }
    }
    all.sort_by_key(|instance| instance.number);
    (all, chosen)
}

fn candidates(
    turn: &Turn<'_, Zedrouter>,
    ports: &[Port],
    rows: &Rows<AssignedNumber>,
) -> Vec<Instance> {
    let accepted = accepted(turn);
    let wanted = &turn.desired.instances;
    let mut all = Vec::new();
    for config in wanted.values() {
        let last_good = accepted.iter().find(|old| old.id == config.id);
        let (config, life, fault) = match (&config.fault, last_good) {
            (None, _) => (config.clone(), Life::Wanted, None),
            (Some(fault), Some(good)) => (good.clone(), Life::Wanted, Some(fault.clone())),
            (Some(fault), None) => (config.clone(), Life::Broken, Some(fault.clone())),
        };
        all.push((config, life, fault));
    }
    for config in accepted {
        let is_wanted = wanted.values().any(|row| row.id == config.id);
        if !is_wanted && is_in_use(turn, config.id) {
            all.push((config, Life::Leaving, None));
        }
    }
    all.into_iter()
        .map(|(config, life, fault)| {
            let number = rows.get(&numbers::instance_key(config.id));
            let number = number.map_or(0, |row| row.number);
            let uplink = Uplink::of(&config.port, ports);
            let mut instance = Instance {
                id: config.id,
                bridge: bridge(number),
                config,
                number,
                lan: None,
                uplink,
                life,
                fault,
            };
            if number == 0 {
                let text = "there are no more than 255 network instances on a device";
                fail(turn, &mut instance, Code::ConfigInvalid, text);
            } else if turn.desired.ports.is_some()
                && ports::is_of_one(&instance.config.port)
                && instance.uplink.ports.is_empty()
                && instance.fault.is_none()
            {
                let text = format!("the device has no port {}", instance.config.port);
                instance.fault = Some(fault_of(turn, &instance, Code::PortMissing, &text));
            }
            instance
        })
        .collect()
}

/// Whether an application's interface is in it, or may be.
fn is_in_use(turn: &Turn<'_, Zedrouter>, id: NetworkInstanceId) -> bool {
    let vifs = turn.desired.own.apps.values().flat_map(|app| &app.vifs);
    let mut mine = vifs.filter(|vif| vif.network_instance == id);
    turn.desired.apps.is_none() || mine.any(|vif| is_ours(turn, &vif.vif))
}

/// Whether there is an interface of ours with this name.
pub(super) fn is_ours(turn: &Turn<'_, Zedrouter>, name: &str) -> bool {
    let link = turn.actual.links.get(name);
    link.is_some_and(|link| link.owner == Owner::ZEDROUTER)
}

fn has_bridge(turn: &Turn<'_, Zedrouter>, instance: &Instance) -> bool {
    is_ours(turn, &instance.bridge)
}

/// What was published about it last.
pub(super) fn before<'a>(
    turn: &Turn<'a, Zedrouter>,
    id: NetworkInstanceId,
) -> Option<&'a NetworkInstanceStatus> {
    turn.desired.own.instances.get(&id.to_string())
}

fn fault_of(turn: &Turn<'_, Zedrouter>, instance: &Instance, code: Code, text: &str) -> Fault {
    let old = before(turn, instance.id).and_then(|status| status.fault.as_ref());
    let object = format!("network instance {}", instance.id);
    Fault::new(code, object, text, turn.now).continuing(old)
}

fn fail(turn: &Turn<'_, Zedrouter>, instance: &mut Instance, code: Code, text: &str) {
    instance.fault = Some(fault_of(turn, instance, code, text));
    instance.life = Life::Broken;
}

/// A device port that the device itself uses would lose its addresses as a port of a bridge.
fn check_member(turn: &Turn<'_, Zedrouter>, instance: &mut Instance, members: &mut Vec<String>) {
    let refused = match instance.uplink.ports.as_slice() {
        [] => None,
        [port] if port.is_mgmt || port.addressed => Some((
            Code::ConfigInvalid,
            format!(
                "port {} is used by the device itself; a switch needs a port without management and \
                 addresses",
                port.name()
            ),
        )),
        [port] if members.iter().any(|taken| taken == port.name()) => Some((
            Code::ConfigInvalid,
            format!(
                "port {} already belongs to another switch network instance",
                port.name()
            ),
        )),
        [port] => {
            members.push(port.name().to_owned());
            None
        }
        [..] => Some((
            Code::ConfigInvalid,
            format!(
                "a switch has one port, but {} stands for several",
                instance.config.port
            ),
        )),
    };
    if let Some((code, text)) = refused {
        fail(turn, instance, code, &text);
    }
}

/// Who has which addresses.
struct Book<'a, 'b> {
    turn: &'a Turn<'b, Zedrouter>,
    ports: &'a [Port],
    configured: &'a [(Ipv4Net, NetworkInstanceId)],
    subnets: &'a mut Vec<(Ipv4Net, NetworkInstanceId)>,
    chosen: &'a mut Rows<AssignedAddress>,
}

impl Book<'_, '_> {
    fn give_subnet(&mut self, instance: &mut Instance) {
        let key = numbers::instance_key(instance.id);
        let row = self.turn.desired.own.addresses.get(&key);
        let kept = row.and_then(|row| match row.subnet {
            IpNet::V4(subnet) => Some(subnet),
            IpNet::V6(_) => None,
        });
        let subnet = if let Some(subnet) = instance.config.subnet {
            subnet.trunc()
        } else {
            let usable = |subnet: &Ipv4Net| {
                let lan = lan_of(&instance.config, *subnet);
                self.is_up(instance, &lan) || self.rival(instance.id, *subnet).is_none()
            };
            let Some(subnet) = kept.filter(usable).or_else(|| self.choose(instance)) else {
                let text = "no private subnet is free";
                return fail(self.turn, instance, Code::NetworkSubnet, text);
            };
            self.chosen.insert(
                key,
                AssignedAddress {
                    network_instance: instance.id,
                    ip: lan_of(&instance.config, subnet).gateway.into(),
                    subnet: subnet.into(),
                },
            );
            subnet
        };
        let lan = lan_of(&instance.config, subnet);
        if subnet.prefix_len() > 30 || !subnet.contains(&lan.gateway) {
            let text = format!(
                "subnet {subnet} has no room for gateway {} and applications",
                lan.gateway
            );
            return fail(self.turn, instance, Code::ConfigInvalid, &text);
        }
        if let Some(rival) = self.rival(instance.id, subnet) {
            let text = format!("its subnet {subnet} overlaps with {rival}");
            if !self.is_up(instance, &lan) {
                return fail(self.turn, instance, Code::NetworkSubnet, &text);
            }
            let fault = fault_of(self.turn, instance, Code::NetworkSubnet, &text);
            instance.fault.get_or_insert(fault);
        }
        self.subnets.push((subnet, instance.id));
        instance.lan = Some(lan);
    }

    /// Whether the instance works with these addresses already.
    fn is_up(&self, instance: &Instance, lan: &Lan) -> bool {
        let net = lan.address().map(IpNet::V4);
        let mut addresses = self.turn.actual.addresses.iter();
        has_bridge(self.turn, instance)
            && addresses.any(|a| a.link == instance.bridge && Some(a.net) == net)
    }

    /// Who else has some of these addresses.
    fn rival(&self, id: NetworkInstanceId, subnet: Ipv4Net) -> Option<String> {
        let overlaps = |other: &Ipv4Net| other.contains(&subnet) || subnet.contains(other);
        for port in self.ports {
            if let Some(net) = port.nets.iter().find(|net| overlaps(&net.trunc())) {
                return Some(format!("{net} of port {}", port.name()));
            }
        }
        let mut others = self.subnets.iter().filter(|(_, other)| *other != id);
        let (net, other) = others.find(|(net, _)| overlaps(net))?;
        Some(format!("{net} of network instance {other}"))
    }

    /// The first free one of 10.N.0.0/24, 10.N.1.0/24, ... for number N, or of another number.
    fn choose(&self, instance: &Instance) -> Option<Ipv4Net> {
        let own = u8::try_from(instance.number).unwrap_or(u8::MAX);
        let seconds = std::iter::once(own).chain((1..=254).rev());
        let nets = seconds.flat_map(|second| {
            (0..=u8::MAX)
                .filter_map(move |third| Ipv4Net::new(Ipv4Addr::new(10, second, third, 0), 24).ok())
        });
        let mut free = nets.filter(|net| {
            let overlaps = |other: &Ipv4Net| other.contains(net) || net.contains(other);
            self.rival(instance.id, *net).is_none()
                && !self.configured.iter().any(|(other, _)| overlaps(other))
        });
        free.next()
    }
}

fn lan_of(config: &NetworkInstanceConfig, subnet: Ipv4Net) -> Lan {
    let first = subnet.hosts().next().unwrap_or(subnet.network());
    let gateway = config.gateway.unwrap_or(first);
    let last = Ipv4Addr::from(u32::from(subnet.broadcast()).saturating_sub(1));
    let range = config.dhcp_range.unwrap_or((first, last));
    Lan {
        subnet,
        gateway,
        range,
    }
}
