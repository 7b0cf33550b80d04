//! Doing one step.

use std::{process::Stdio, time::Duration};

use agent::Failure;
use graph::Step;
use ipnet::IpNet;
use jiff::Timestamp;
use model::code::Code;
use netlink::{Address, Bridge, NetlinkError, Owner, Tap};
use nft::Table;
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    process::Command,
    time::{sleep, timeout},
};
use units::{Phase, UnitsError, ids};

use super::{Kernel, files, resolver, sysctl, table_id};
use crate::{
    item::{Item, Setting},
    plan::{DEFAULT_MTU, FLOWS, LOADED, set_owner},
};

/// How long a resolver may take to end, the supervisor's kill included.
const ENDED: Duration = Duration::from_secs(15);
/// How long a resolver takes at most until it can be told something.
const READY: Duration = Duration::from_secs(1);
/// How long `conntrack` may take.
const FLUSHED: Duration = Duration::from_secs(10);

/// Does it.
pub(super) async fn step(kernel: &Kernel, step: Step<Item>) -> Result<(), Failure> {
    let object = step.id();
    match step {
        Step::Delete(item) => delete(kernel, &object, item).await,
        Step::Create(item) => create(kernel, &object, item, None).await,
        Step::Change { from, to } => create(kernel, &object, to, Some(from)).await,
    }
}

async fn create(
    kernel: &Kernel,
    object: &str,
    item: Item,
    from: Option<Item>,
) -> Result<(), Failure> {
    let Kernel {
        netlink, directory, ..
    } = kernel;
    let failed = |e: NetlinkError| link_failed(object, &e);
    let unwritten = |e: std::io::Error| Failure::of(Code::NetworkDhcpDns, object, &e).transient();
    match item {
        Item::Link { .. } => Ok(()),
        Item::Bridge {
            name,
            mac,
            filtered,
        } => {
            let bridge = Bridge {
                name,
                mac: Some(mac),
                filtered,
                owner: Owner::ZEDROUTER,
            };
            netlink.create_bridge(&bridge).await.map_err(failed)
        }
        Item::Setting(setting) => set(&setting, setting.values().0).map_err(failed),
        Item::Mtu { link, mtu } => netlink.set_mtu(link.name(), mtu).await.map_err(failed),
        Item::Address { bridge, net } => {
            let address = address(bridge, net);
            netlink.add_address(&address).await.map_err(failed)
        }
        Item::Up { link, .. } => netlink.set_up(link.name(), true).await.map_err(failed),
        Item::Member { link, bridge } | Item::Port { vif: link, bridge } => netlink
            .set_master(&link, Some(&bridge))
            .await
            .map_err(failed),
        Item::Vif { name } => {
            let tap = Tap {
                name,
                user: None,
                group: Some(ids::GUESTS_GID),
                multi_queue: false,
                owner: Owner::ZEDROUTER,
            };
            netlink.create_tap(&tap).await.map_err(failed)
        }
        Item::Isolated { vif } => netlink.set_isolated(&vif, true).await.map_err(failed),
        Item::Rule(rule) => netlink.add_rule(&rule).await.map_err(failed),
        Item::Filter {
            table: Some(table), ..
        } => filter(kernel, object, &table, from.is_some()).await,
        Item::Filter { table: None, .. } => Err(Failure::new(
            Code::NetworkRules,
            object,
            "the packet filter can't be described",
        )),
        Item::File { name, content } => files::write(directory, &name, &content).map_err(unwritten),
        Item::Resolver {
            bridge,
            config,
            index,
        } => {
            files::prune_leases(directory, &bridge).map_err(unwritten)?;
            let spec = resolver::spec(directory, &bridge, &config, index)
                .map_err(|e| Failure::of(Code::NetworkDhcpDns, object, &e))?;
            let started = kernel.units.start(spec).await;
            started.map(|_| ()).map_err(|e| unit_failed(object, &e))
        }
        Item::Loaded { bridge, tables } => {
            reload(kernel, &bridge).await;
            files::write(directory, &format!("{bridge}{LOADED}"), &tables).map_err(unwritten)
        }
        Item::Flows { vif, state } => {
            if let Some(Item::Flows { state: old, .. }) = from {
                flush(object, &old).await?;
            }
            flush(object, &state).await?;
            files::write(directory, &format!("{vif}{FLOWS}"), &state).map_err(unwritten)
        }
    }
}

async fn delete(kernel: &Kernel, object: &str, item: Item) -> Result<(), Failure> {
    let Kernel {
        netlink, directory, ..
    } = kernel;
    // What stood on an interface may have gone with it.
    let gone = |result: Result<(), NetlinkError>| match result {
        Err(error) if !error.is_gone() => Err(link_failed(object, &error)),
        Ok(()) | Err(_) => Ok(()),
    };
    let unwritten = |e: std::io::Error| Failure::of(Code::NetworkDhcpDns, object, &e).transient();
    match item {
        Item::Link { .. } => Ok(()),
        Item::Bridge { name, .. } | Item::Vif { name } => gone(netlink.delete_link(&name).await),
        Item::Setting(setting) => match set(&setting, setting.values().1) {
            Err(error) if error.errno() == Some(nix::libc::ENOENT) => Ok(()),
            result => gone(result),
        },
        Item::Mtu { link, .. } => gone(netlink.set_mtu(link.name(), DEFAULT_MTU.into()).await),
        Item::Address { bridge, net } => gone(netlink.delete_address(&address(bridge, net)).await),
        Item::Up { link, .. } => gone(netlink.set_up(link.name(), false).await),
        Item::Member { link, .. } | Item::Port { vif: link, .. } => {
            gone(netlink.set_master(&link, None).await)
        }
        Item::Isolated { vif } => gone(netlink.set_isolated(&vif, false).await),
        Item::Rule(rule) => gone(netlink.delete_rule(&rule).await),
        Item::Filter { layer, .. } => {
            let deleted = kernel.nft.delete(&table_id(layer)?).await;
            kernel.forget_filters();
            deleted.map_err(|e| {
                Failure::of(Code::NetworkRules, object, &e).transient_if(e.is_transient())
            })
        }
        Item::File { name, .. } => files::remove(directory, &name).map_err(unwritten),
        Item::Resolver { bridge, .. } => end(kernel, object, &bridge).await,
        Item::Loaded { bridge, .. } => {
            files::remove(directory, &format!("{bridge}{LOADED}")).map_err(unwritten)
        }
        Item::Flows { vif, state } => {
            flush(object, &state).await?;
            files::remove(directory, &format!("{vif}{FLOWS}")).map_err(unwritten)
        }
    }
}

fn link_failed(object: &str, error: &NetlinkError) -> Failure {
    Failure::of(Code::NetworkBridge, object, error).transient_if(error.is_transient())
}

fn unit_failed(object: &str, error: &UnitsError) -> Failure {
    let code = match error {
        UnitsError::Unreachable { .. } => Code::SupervisorUnreachable,
        UnitsError::Refused { .. }
        | UnitsError::Invalid { .. }
        | UnitsError::NotFound { .. }
        | UnitsError::Exists { .. }
        | UnitsError::Failed { .. }
        | UnitsError::Answer { .. }
        | UnitsError::NoRuntime => Code::NetworkDhcpDns,
    };
    // One that exists is ending, or is seen at the next look.
    let passes = error.is_transient() || matches!(error, UnitsError::Exists { .. });
    Failure::of(code, object, error).transient_if(passes)
}

fn set(setting: &Setting, value: &str) -> Result<(), NetlinkError> {
    sysctl(setting)?.set(value).map(|_| ())
}

fn address(bridge: String, net: ipnet::Ipv4Net) -> Address {
    Address {
        link: bridge,
        net: IpNet::V4(net),
        prefix_route: true,
        owner: Owner::ZEDROUTER,
    }
}

async fn filter(
    kernel: &Kernel,
    object: &str,
    table: &Table,
    is_there: bool,
) -> Result<(), Failure> {
    let applied = if is_there {
        kernel.nft.apply(table).await
    } else {
        kernel.nft.create(table).await
    };
    kernel.forget_filters();
    let applied = applied
        .map_err(|e| Failure::of(Code::NetworkRules, object, &e).transient_if(e.is_transient()))?;
    // Answers that are cached would not fill new sets: their resolvers have to begin anew.
    for bridge in applied
        .fresh
        .iter()
        .filter_map(|set| set_owner(set.as_str()))
    {
        let marker = format!("{bridge}{LOADED}");
        files::remove(&kernel.directory, &marker)
            .map_err(|e| Failure::of(Code::NetworkDhcpDns, object, &e).transient())?;
    }
    Ok(())
}

/// Tells a resolver to read its tables again, if it runs; if not it reads them when it starts.
async fn reload(kernel: &Kernel, bridge: &str) {
    let Ok(name) = resolver::name(bridge) else {
        return;
    };
    let table = kernel.units_table().await;
    let phase = table
        .as_ref()
        .and_then(|table| Some(&table.get(&name)?.phase));
    let Some(Phase::Running { pid, since } | Phase::Starting { pid, since }) = phase else {
        return;
    };
    // The signal would end a process that is not yet ready for it.
    let age = Timestamp::now().duration_since(*since);
    if let Ok(age) = Duration::try_from(age)
        && age < READY
    {
        sleep(READY.saturating_sub(age)).await;
    }
    let pid = i32::try_from(*pid).map(Pid::from_raw);
    if let Ok(pid) = pid
        && let Err(error) = kill(pid, Signal::SIGHUP)
        && error != Errno::ESRCH
    {
        tracing::warn!(bridge, %error, "cannot tell the resolver to read its tables again");
    }
}

/// Ends a resolver. Its leases stay for the next one.
async fn end(kernel: &Kernel, object: &str, bridge: &str) -> Result<(), Failure> {
    let failed = |e: UnitsError| unit_failed(object, &e);
    let name = resolver::name(bridge).map_err(|e| Failure::of(Code::NetworkDhcpDns, object, &e))?;
    match kernel.units.stop(&name).await {
        Ok(_) => {
            let ended = timeout(ENDED, kernel.units.wait(&name))
                .await
                .map_err(|_| {
                    Failure::new(Code::NetworkDhcpDns, object, "dnsmasq does not end").transient()
                })?;
            match ended {
                Ok(_) | Err(UnitsError::NotFound { .. }) => {}
                Err(error) => return Err(failed(error)),
            }
            kernel.units.forget(&name).await.map_err(failed)?;
        }
        Err(UnitsError::NotFound { .. }) => {}
        Err(error) => return Err(failed(error)),
    }
    Ok(())
}

/// Ends the connections from and to the address with which `state` begins: the kernel lets them
/// pass by what it remembers of them, and not by the rules of now.
async fn flush(object: &str, state: &str) -> Result<(), Failure> {
    let Some(ip) = state.split(' ').next().filter(|ip| !ip.is_empty()) else {
        return Ok(());
    };
    let failed = |text: String| Failure::new(Code::NetworkRules, object, text).transient();
    for side in ["--orig-src", "--reply-src"] {
        let run = Command::new("conntrack")
            .args(["-D", "-f", "ipv4", side, ip])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = match timeout(FLUSHED, run).await {
            Ok(Ok(output)) => output,
            Ok(Err(error)) => return Err(failed(format!("cannot run conntrack: {error}"))),
            Err(_) => return Err(failed("conntrack does not end".to_owned())),
        };
        let said = String::from_utf8_lossy(&output.stderr);
        // It exits with 1 if there was nothing to end.
        if !output.status.success() && !said.contains("flow entries have been deleted") {
            return Err(failed(format!("conntrack: {}", said.trim())));
        }
    }
    Ok(())
}
