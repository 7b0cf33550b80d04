//! Applications' interfaces: names, hardware and IP addresses, port maps.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use agent::Turn;
use bus::Rows;
use model::{
    app::{AclAction, AclMatch, AclRule},
    code::Code,
    fault::Fault,
    id::{AppId, MacAddr, NetworkInstanceId},
    network::{AppNetworkConfig, AppVif, AssignedAddress, AssignedNumber},
};
use sha2::{Digest, Sha256};

use super::{
    Zedrouter,
    instance::{Instance, Life, is_ours},
    numbers,
    pool::Pool,
    portmap,
};

/// An application's interface that is to be there.
#[derive(Debug, Clone)]
pub(super) struct Vif {
    pub(super) app: AppId,
    pub(super) app_number: u16,
    /// From 1.
    pub(super) number: u16,
    /// `nbu<vif>x<app>`.
    pub(super) name: String,
    pub(super) wanted: AppVif,
    pub(super) mac: MacAddr,
    /// In a local instance.
    pub(super) ip: Option<Ipv4Addr>,
    /// Its application's name in DNS; none for one that is no name or is taken.
    pub(super) host: Option<String>,
    /// Port maps that are not in force because somebody else has the port.
    pub(super) refused: BTreeSet<u32>,
}

impl Vif {
    /// What its packets are marked with.
    pub(super) fn mark(&self) -> u32 {
        u32::from(self.app_number) << 8 | u32::from(self.number)
    }

    /// The part of names that stands for it: `<vif>x<app>`.
    pub(super) fn code(&self) -> String {
        format!("{}x{}", self.number, self.app_number)
    }
}

/// An application.
#[derive(Debug, Clone)]
pub(super) struct App {
    pub(super) config: AppNetworkConfig,
    pub(super) number: u16,
    /// Interfaces that are to be there, in order.
    pub(super) vifs: Vec<Vif>,
    /// The first network instance that it waits for.
    pub(super) awaits: Option<NetworkInstanceId>,
    pub(super) fault: Option<Fault>,
}

/// Name of an interface.
pub(super) fn vif_name(number: u16, app_number: u16) -> String {
    format!("nbu{number}x{app_number}")
}

/// The numbers in an interface's name: of the interface, of the application.
pub(super) fn numbers_of(name: &str) -> Option<(u16, u16)> {
    let (vif, app) = name.strip_prefix("nbu")?.split_once('x')?;
    Some((vif.parse().ok()?, app.parse().ok()?))
}

/// Every application that is configured, by number, and the addresses of their interfaces.
pub(super) fn resolve(
    turn: &Turn<'_, Zedrouter>,
    instances: &[Instance],
    rows: &Rows<AssignedNumber>,
) -> (Vec<App>, Rows<AssignedAddress>) {
    let Some(configs) = &turn.desired.apps else {
        return (Vec::new(), addresses_of_apps(turn));
    };
    let mut apps: Vec<App> = configs
        .values()
        .map(|config| App {
            number: rows
                .get(&numbers::app_key(config.app))
                .map_or(0, |row| row.number),
            config: config.clone(),
            vifs: Vec::new(),
            awaits: None,
            fault: None,
        })
        .collect();
    apps.sort_by_key(|app| app.number);
    let mut pool = Pool::new(turn, &apps);
    for app in &mut apps {
        resolve_app(turn, app, instances, &mut pool);
    }
    name_hosts(&mut apps);
    portmap::refuse_taken(turn, &mut apps, instances);
    (apps, pool.rows)
}

fn addresses_of_apps(turn: &Turn<'_, Zedrouter>) -> Rows<AssignedAddress> {
    let rows = turn.desired.own.addresses.iter();
    rows.filter(|(key, _)| key.contains('#'))
        .map(|(key, row)| (key.clone(), *row))
        .collect()
}

fn resolve_app(
    turn: &Turn<'_, Zedrouter>,
    app: &mut App,
    instances: &[Instance],
    pool: &mut Pool<'_, '_>,
) {
    pool.keep_rows(app.config.app);
    if app.number == 0 {
        let text = "there are no more than 255 applications on a device";
        note(turn, app, Code::ConfigInvalid, text);
        return;
    }
    if !app.config.activate {
        return;
    }
    let numbers = vif_numbers(turn, &app.config);
    for (wanted, number) in app.config.vifs.clone().into_iter().zip(numbers) {
        let name = vif_name(number, app.number);
        let instance = instances.iter().find(|i| i.id == wanted.network_instance);
        let usable = instance.filter(|instance| match instance.life {
            Life::Wanted => true,
            // Nothing new joins what is about to go.
            Life::Leaving => is_ours(turn, &name),
            Life::Broken => false,
        });
        let Some(instance) = usable else {
            app.awaits.get_or_insert(wanted.network_instance);
            continue;
        };
        let mac = wanted.mac.unwrap_or_else(|| mac_of(app.config.app, number));
        let ip = match &instance.lan {
            Some(lan) => match pool.give(app, &wanted, number, lan, mac) {
                Ok(ip) => Some(ip),
                Err((code, text)) => {
                    note(turn, app, code, &text);
                    continue;
                }
            },
            None => None,
        };
        if let Some(text) = unfit_rule(instance, &wanted) {
            note(turn, app, Code::ConfigInvalid, &text);
        }
        app.vifs.push(Vif {
            app: app.config.app,
            app_number: app.number,
            number,
            name,
            wanted,
            mac,
            ip,
            host: None,
            refused: BTreeSet::new(),
        });
    }
}

/// The first fault stays.
pub(super) fn note(turn: &Turn<'_, Zedrouter>, app: &mut App, code: Code, text: &str) {
    if app.fault.is_none() {
        let key = app.config.app.to_string();
        let old = turn.desired.own.apps.get(&key);
        let fault = Fault::new(code, format!("app {key}"), text, turn.now)
            .continuing(old.and_then(|status| status.fault.as_ref()));
        app.fault = Some(fault);
    }
}

/// The number of each interface: that which it had, by its name, or the first that is free. So an
/// interface that a running guest has keeps its number when another is taken from the config.
pub(super) fn vif_numbers(turn: &Turn<'_, Zedrouter>, config: &AppNetworkConfig) -> Vec<u16> {
    let old = turn.desired.own.apps.get(&config.app.to_string());
    let mut had: BTreeMap<&str, u16> = old
        .iter()
        .flat_map(|status| &status.vifs)
        .filter_map(|vif| Some((vif.name.as_str(), numbers_of(&vif.vif)?.0)))
        .filter(|(_, number)| *number > 0)
        .collect();
    // Of two interfaces of one name the first one is the one that is meant.
    let kept: Vec<Option<u16>> = config
        .vifs
        .iter()
        .map(|vif| had.remove(vif.name.as_str()))
        .collect();
    let mut taken: BTreeSet<u16> = kept.iter().flatten().copied().collect();
    kept.into_iter()
        .map(|kept| {
            let number = kept
                .or_else(|| (1..=u16::MAX).find(|n| !taken.contains(n)))
                .unwrap_or(u16::MAX);
            taken.insert(number);
            number
        })
        .collect()
}

/// The same for ever, and another for every interface of every device: in a switch instance guests
/// of several devices meet.
fn mac_of(app: AppId, vif: u16) -> MacAddr {
    let digest = Sha256::new()
        .chain_update(app.0.as_bytes())
        .chain_update(vif.to_be_bytes())
        .finalize();
    MacAddr([0x02, 0x16, 0x3e, digest[0], digest[1], digest[2]])
}

/// What can't work in this kind of instance.
fn unfit_rule(instance: &Instance, vif: &AppVif) -> Option<String> {
    let unfit = |rule: &&AclRule| {
        let by_host = |m: &AclMatch| matches!(m, AclMatch::Host(_));
        matches!(rule.action, AclAction::PortMap { .. }) || rule.matches.iter().any(by_host)
    };
    if instance.is_local() {
        return None;
    }
    let rule = vif.acls.iter().find(unfit)?;
    Some(format!(
        "rule {} of interface {}: port maps and hosts need a local network instance, whose addresses \
         and names the device knows",
        rule.id, vif.name
    ))
}

/// The first application of a name has it.
fn name_hosts(apps: &mut [App]) {
    let mut owners: BTreeMap<String, AppId> = BTreeMap::new();
    for app in apps {
        let Some(name) = host_name(&app.config.display_name) else {
            continue;
        };
        if *owners.entry(name.clone()).or_insert(app.config.app) == app.config.app {
            for vif in &mut app.vifs {
                vif.host = Some(name.clone());
            }
        }
    }
}

/// A name as one label of DNS: letters, digits and, between them, hyphens.
fn host_name(text: &str) -> Option<String> {
    let fit = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_lowercase()
        } else {
            '-'
        }
    };
    let label: String = text.chars().map(fit).take(63).collect();
    let label = label.trim_matches('-');
    (!label.is_empty()).then(|| label.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_labels_or_none() {
        assert_eq!(host_name("Web Server #1").as_deref(), Some("web-server--1"));
        assert_eq!(host_name("-a.b_").as_deref(), Some("a-b"));
        assert_eq!(host_name("\n\"/é"), None);
        assert_eq!(host_name(&"x".repeat(99)).map(|n| n.len()), Some(63));
    }

    #[test]
    fn interface_names_carry_their_numbers() {
        assert_eq!(numbers_of(&vif_name(2, 17)), Some((2, 17)));
        for foreign in ["nbu1", "nbux1", "eth0", "nbu1x", "bn1"] {
            assert_eq!(numbers_of(foreign), None);
        }
        let app = AppId(uuid::Uuid::from_u128(7));
        assert_eq!(mac_of(app, 1), mac_of(app, 1));
        assert_ne!(mac_of(app, 1), mac_of(app, 2));
    }
}
