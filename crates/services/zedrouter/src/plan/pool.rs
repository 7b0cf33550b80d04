//! Addresses of applications' interfaces in local instances: those that the controller fixed, those
//! that they had, and free ones.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use agent::Turn;
use bus::Rows;
use ipnet::IpNet;
use model::{
    code::Code,
    id::{AppId, MacAddr, NetworkInstanceId},
    network::{AppVif, AssignedAddress},
};

use super::{
    Zedrouter,
    instance::Lan,
    vif::{App, vif_numbers},
};

/// The addresses of local instances.
pub(super) struct Pool<'a, 'b> {
    turn: &'a Turn<'b, Zedrouter>,
    pub(super) rows: Rows<AssignedAddress>,
    /// What interfaces have or will have, by instance.
    taken: BTreeMap<NetworkInstanceId, BTreeMap<Ipv4Addr, String>>,
    macs: BTreeSet<(NetworkInstanceId, MacAddr)>,
}

impl<'a, 'b> Pool<'a, 'b> {
    /// With what the controller fixed, and what interfaces of known applications had.
    pub(super) fn new(turn: &'a Turn<'b, Zedrouter>, apps: &[App]) -> Self {
        let mut taken: BTreeMap<NetworkInstanceId, BTreeMap<Ipv4Addr, String>> = BTreeMap::new();
        for app in apps {
            let numbers = vif_numbers(turn, &app.config);
            for (vif, number) in app.config.vifs.iter().zip(numbers) {
                if let Some(IpAddr::V4(ip)) = vif.ip {
                    let of = taken.entry(vif.network_instance).or_default();
                    of.entry(ip).or_insert(row_key(app.config.app, number));
                }
            }
        }
        for app in apps {
            for (key, row) in rows_of(turn, app.config.app) {
                if let IpAddr::V4(ip) = row.ip {
                    let of = taken.entry(row.network_instance).or_default();
                    of.entry(ip).or_insert(key.clone());
                }
            }
        }
        let (rows, macs) = (Rows::new(), BTreeSet::new());
        Self {
            turn,
            rows,
            taken,
            macs,
        }
    }

    pub(super) fn keep_rows(&mut self, app: AppId) {
        let kept = rows_of(self.turn, app).map(|(key, row)| (key.clone(), *row));
        self.rows.extend(kept);
    }

    /// The address of an interface, or why there is none.
    pub(super) fn give(
        &mut self,
        app: &App,
        vif: &AppVif,
        number: u16,
        lan: &Lan,
        mac: MacAddr,
    ) -> Result<Ipv4Addr, (Code, String)> {
        let id = vif.network_instance;
        if !self.macs.insert((id, mac)) {
            let text = format!(
                "interface {}: another interface in network instance {id} has the hardware address \
                 {mac}",
                vif.name
            );
            return Err((Code::ConfigInvalid, text));
        }
        let key = row_key(app.config.app, number);
        let taken = self.taken.entry(id).or_default();
        let mine = |ip: &Ipv4Addr, taken: &BTreeMap<Ipv4Addr, String>| {
            lan.may_have(*ip) && taken.get(ip).is_none_or(|owner| *owner == key)
        };
        let ip = match vif.ip {
            Some(IpAddr::V4(ip)) if mine(&ip, taken) => ip,
            Some(ip) => {
                let text = format!(
                    "interface {}: address {ip} is not free in {}",
                    vif.name, lan.subnet
                );
                return Err((Code::NetworkAddresses, text));
            }
            None => {
                let row = self.rows.get(&key);
                let kept = row.filter(|row| row.network_instance == id);
                let kept = kept.and_then(|row| match row.ip {
                    IpAddr::V4(ip) => Some(ip).filter(|ip| mine(ip, taken)),
                    IpAddr::V6(_) => None,
                });
                let (first, last) = lan.range;
                let mut range = (u32::from(first)..=u32::from(last)).map(Ipv4Addr::from);
                let free = |ip: &Ipv4Addr| lan.may_have(*ip) && !taken.contains_key(ip);
                kept.or_else(|| range.find(free)).ok_or_else(|| {
                    let text = format!(
                        "interface {}: no address of {first} to {last} is free",
                        vif.name
                    );
                    (Code::NetworkAddresses, text)
                })?
            }
        };
        taken.insert(ip, key.clone());
        let row = AssignedAddress {
            network_instance: id,
            ip: ip.into(),
            subnet: IpNet::V4(lan.subnet),
        };
        self.rows.insert(key, row);
        Ok(ip)
    }
}

fn row_key(app: AppId, number: u16) -> String {
    format!("{app}#{}", number.saturating_sub(1))
}

fn rows_of<'a>(
    turn: &Turn<'a, Zedrouter>,
    app: AppId,
) -> impl Iterator<Item = (&'a String, &'a AssignedAddress)> {
    let prefix = format!("{app}#");
    let rows = turn.desired.own.addresses.iter();
    rows.filter(move |(key, _)| key.starts_with(&prefix))
}
