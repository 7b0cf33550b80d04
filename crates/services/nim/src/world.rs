//! The kernel's network and the DHCP servers behind it.

mod exchange;
mod socket;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use agent::{Clock, Failure, Progress, World};
use graph::Step;
use ipnet::IpNet;
use model::{code::Code, id::IfName, port::DhcpLease};
use netlink::{Events, Netlink, NetlinkError, Owner};

use crate::{
    Action, Actual, Desired, Item, LeaseNews, Nim,
    dhcp::{Ask, Grant, exchange::Outcome},
};

/// The network namespace that the process runs in.
pub struct Kernel {
    netlink: Netlink,
    /// None while listening has to be begun anew.
    events: tokio::sync::Mutex<Option<Events>>,
    clock: Clock,
    /// What servers said, by interface.
    said: Mutex<BTreeMap<String, Said>>,
}

struct Said {
    /// Of which interface of this name.
    index: u32,
    news: LeaseNews,
}

impl Kernel {
    /// Opens the sockets.
    pub fn open(clock: Clock) -> Result<Self, Failure> {
        // Listening begins before looking, so that nothing falls in between.
        let events = Events::open().map_err(|e| observing(&e))?;
        Ok(Self {
            netlink: Netlink::open().map_err(|e| observing(&e))?,
            events: tokio::sync::Mutex::new(Some(events)),
            clock,
            said: Mutex::default(),
        })
    }

    fn said(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Said>> {
        // Nothing in here panics half-way.
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn look(&self) -> Result<Actual, NetlinkError> {
        let links = self.netlink.links().await?;
        let addresses = self.netlink.addresses().await?;
        let mut routes = self.netlink.routes().await?;
        routes.retain(|route| route.owner == Owner::NIM);
        let mut rules = self.netlink.rules().await?;
        rules.retain(|rule| rule.owner == Owner::NIM);
        let mut said = self.said();
        // With its cable a port may have come to another network: what was said counts no more.
        said.retain(|name, said| {
            links
                .get(name)
                .is_some_and(|link| link.index == said.index && link.up && link.lower_up)
        });
        let leases = said
            .iter()
            .map(|(name, said)| (name.clone(), said.news.clone()));
        Ok(Actual {
            leases: leases.collect(),
            links,
            addresses,
            routes,
            rules,
        })
    }

    async fn step(&self, step: &Step<Item>) -> Result<(), NetlinkError> {
        let netlink = &self.netlink;
        match step {
            Step::Create(Item::Up(link)) => netlink.set_up(link, true).await,
            Step::Create(Item::Mtu { link, mtu })
            | Step::Change {
                to: Item::Mtu { link, mtu },
                ..
            } => netlink.set_mtu(link, *mtu).await,
            Step::Create(Item::Address { address, .. }) => netlink.add_address(address).await,
            Step::Delete(Item::Address { address, .. }) => netlink.delete_address(address).await,
            Step::Create(Item::Route { route, .. }) => netlink.add_route(route).await,
            Step::Change {
                to: Item::Route { route, .. },
                ..
            } => netlink.replace_route(route).await,
            Step::Delete(Item::Route { route, .. }) => netlink.delete_route(route).await,
            Step::Create(Item::Rule(rule)) => netlink.add_rule(rule).await,
            Step::Delete(Item::Rule(rule)) => netlink.delete_rule(rule).await,
            // Interfaces are never made or removed here, stay up when they are let go, and keep
            // their MTU; addresses and rules are not changed but made anew.
            Step::Create(Item::Link(_))
            | Step::Delete(Item::Link(_) | Item::Up(_) | Item::Mtu { .. })
            | Step::Change {
                to: Item::Link(_) | Item::Up(_) | Item::Address { .. } | Item::Rule(_),
                ..
            } => Ok(()),
        }
    }

    async fn ask(
        &self,
        if_name: &IfName,
        index: u32,
        mac: [u8; 6],
        ask: &Ask,
    ) -> Result<(), Failure> {
        let object = format!("port {if_name}");
        let outcome = exchange::exchange(if_name.as_str(), index, mac, ask)
            .await
            .map_err(|e| Failure::of(Code::PortDhcp, &*object, &e).transient())?;
        let news = match outcome {
            Outcome::Granted(grant) => {
                let (address, server) = (grant.address, grant.server);
                match ask {
                    Ask::Discover => tracing::info!(%if_name, %address, %server, "lease"),
                    Ask::Confirm { .. } | Ask::Renew { .. } | Ask::Rebind { .. } => {
                        tracing::debug!(%if_name, %address, %server, "lease");
                    }
                }
                LeaseNews::Granted(self.lease(if_name, grant))
            }
            Outcome::Refused => {
                tracing::warn!(%if_name, ?ask, "the DHCP server takes the address back");
                LeaseNews::Refused
            }
            Outcome::Silent { offered } => {
                let text = if offered {
                    "a DHCP server offered an address but did not give it"
                } else {
                    "no DHCP server answers"
                };
                return Err(Failure::new(Code::PortDhcp, object, text).transient());
            }
        };
        self.said()
            .insert(if_name.to_string(), Said { index, news });
        Ok(())
    }

    fn lease(&self, if_name: &IfName, grant: Grant) -> DhcpLease {
        DhcpLease {
            if_name: if_name.clone(),
            address: IpNet::V4(grant.address),
            gateways: grant.gateways,
            dns_servers: grant.dns_servers,
            ntp_servers: grant.ntp_servers,
            domain_name: grant.domain_name,
            mtu: grant.mtu,
            server: IpAddr::V4(grant.server),
            obtained: self.clock.now(),
            obtained_uptime: self.clock.uptime().as_secs(),
            lease_seconds: grant.lease_seconds,
            renew_seconds: grant.renew_seconds,
            rebind_seconds: grant.rebind_seconds,
        }
    }
}

fn observing(error: &NetlinkError) -> Failure {
    Failure::of(Code::AgentObserve, "network of the device", error)
        .transient_if(error.is_transient())
}

impl World<Nim> for Kernel {
    async fn observe(&self, _: &Desired) -> Result<Actual, Failure> {
        self.look().await.map_err(|e| observing(&e))
    }

    async fn apply(&self, action: Action, _: Progress) -> Result<(), Failure> {
        match &action {
            Action::Kernel(step) => self.step(step).await.map_err(|e| {
                let object = match step.item().link() {
                    Some(link) => format!("port {link}"),
                    None => agent::Action::subject(&action),
                };
                Failure::of(Code::PortAddress, object, &e).transient_if(e.is_transient())
            }),
            Action::Dhcp {
                if_name,
                index,
                mac,
                ask,
                lease_seconds: _,
            } => self.ask(if_name, *index, *mac, ask).await,
        }
    }

    async fn changed(&self) {
        let mut events = self.events.lock().await;
        if let Some(open) = events.as_mut() {
            match open.changed().await {
                Ok(_) => return,
                Err(error) => {
                    tracing::warn!(%error, "listening anew");
                    *events = None;
                }
            }
        }
        loop {
            match Events::open() {
                Ok(open) => {
                    *events = Some(open);
                    // What happened meanwhile is not known.
                    return;
                }
                Err(error) => tracing::warn!(%error, "cannot listen"),
            }
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
    }
}
