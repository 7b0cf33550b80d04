//! `eve status`: the device on one screen.

use std::fmt::Write as _;

use jiff::Timestamp;
use model::{
    app::{AclAction, AclMatch, AppInstanceConfig, AppInstanceStatus, AppPhase},
    node::{DevicePhase, OnboardPhase},
    port::PortStatus,
};
use serde::Serialize;

use super::{Verdict, args::Global, snapshot};
use crate::{
    Device, Error, access,
    output::{self, Cell, Output, Paint},
    why::{self, Trouble},
    words,
};

/// The screen as JSON: the objects as they are on the bus.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Screen<'a> {
    at: Timestamp,
    onboarding: Option<&'a model::node::OnboardingStatus>,
    config: Option<&'a model::node::ZedAgentStatus>,
    node: Option<&'a model::node::NodeAgentStatus>,
    capabilities: Option<&'a model::domain::Capabilities>,
    disk: Option<&'a model::volume::DiskMetric>,
    access: &'a std::collections::BTreeMap<String, model::access::AccessStatus>,
    ports: &'a [PortStatus],
    apps: Vec<&'a AppInstanceStatus>,
    troubles: &'a [Trouble],
}

pub(super) fn status(global: &Global, out: Output) -> Result<Verdict, Error> {
    let device = Device::of(&snapshot(global)?);
    if out.json {
        let troubles = why::troubles(&device, None);
        let ports = device.ports().map_or(&[][..], |network| &network.ports);
        output::json(&Screen {
            at: device.at,
            onboarding: device.onboarding.get("global"),
            config: device.zedagent.get("zedagent"),
            node: device.node.get("nodeagent"),
            capabilities: device.capabilities.get("global"),
            disk: device.disk.get("global"),
            access: &device.access.rows,
            ports,
            apps: device.apps.rows.values().collect(),
            troubles: &troubles,
        })?;
        return Ok(Verdict::Good);
    }
    output::print(&text(out, &device))?;
    Ok(Verdict::Good)
}

/// The screen as text.
pub(super) fn text(out: Output, device: &Device) -> String {
    let troubles = why::troubles(device, None);
    let ports = device.ports().map_or(&[][..], |network| &network.ports);
    let mut text = out.table(&[], &head(device));
    section(&mut text, &out.table(&PORTS, &port_rows(ports)));
    section(&mut text, &out.table(&APPS, &app_rows(device)));
    section(&mut text, &trouble_lines(out, &troubles, device.at));
    text
}

const PORTS: [&str; 6] = ["PORT", "LABEL", "USE", "COST", "ADDRESSES", "DNS"];
const APPS: [&str; 5] = ["APP", "STATE", "SINCE", "ADDRESSES", "PORT MAPS"];

fn section(text: &mut String, section: &str) {
    text.push('\n');
    text.push_str(section);
}

fn head(device: &Device) -> Vec<Vec<Cell>> {
    let now = device.at;
    let mut rows = Vec::new();
    let mut add = |label: &str, text: String, paint: Paint| {
        rows.push(vec![
            Cell::new(label).paint(Paint::Dim),
            Cell::new(text).paint(paint),
        ]);
    };
    match device.onboarding.get("global") {
        None => add("device", "not known".to_owned(), Paint::Busy),
        Some(row) => {
            let id = row
                .device
                .map_or("no UUID yet".to_owned(), |id| id.to_string());
            let model = if row.hardware_model.is_empty() {
                String::new()
            } else {
                format!(", {}", row.hardware_model)
            };
            add("device", format!("{id}{model}"), Paint::Strong);
            let (word, paint) = match row.phase {
                OnboardPhase::Onboarded => ("onboarded", Paint::Good),
                OnboardPhase::Identity
                | OnboardPhase::AwaitNetwork
                | OnboardPhase::FetchCerts
                | OnboardPhase::Register
                | OnboardPhase::GetUuid => (why::onboard_phase(&row.phase), Paint::Busy),
            };
            let server = if row.server.is_empty() {
                "no server"
            } else {
                &row.server
            };
            add("controller", format!("{server}: {word}"), paint);
        }
    }
    if let Some(row) = device.zedagent.get("zedagent") {
        let mut text = why::config_source(row.config_source).to_owned();
        if let Some(at) = row.config_at {
            let _ = write!(text, ", taken {} ago", words::ago(at, now));
        }
        if let Some(at) = row.last_contact {
            let _ = write!(text, "; last contact {}", words::ago_to_the_minute(at, now));
        }
        let _ = write!(text, "; attestation {}", why::attest_phase(&row.attest));
        add("config", text, Paint::Plain);
    }
    if let Some(row) = device.node.get("nodeagent") {
        let phase = match &row.phase {
            DevicePhase::Onboarding => "onboarding".to_owned(),
            DevicePhase::Online => "online".to_owned(),
            DevicePhase::Halting { deadline } => {
                format!(
                    "halts its applications, at most {}",
                    words::due(*deadline, now)
                )
            }
            DevicePhase::ShutDown => "shut down: applications are stopped by command".to_owned(),
            DevicePhase::Rebooting => "reboots".to_owned(),
        };
        let mut text = phase;
        if let Some(at) = row.boot_time {
            let _ = write!(text, "; booted {} ago", words::ago(at, now));
        }
        if !row.reboot_text.is_empty() {
            let _ = write!(text, ": {}", row.reboot_text);
        }
        add("state", text, Paint::Plain);
        let reasons = why::maintenance(device);
        if !reasons.is_empty() {
            let text = format!("takes on nothing new: {}", reasons.join("; "));
            add("maintenance", text, Paint::Bad);
        }
    }
    if let Some((text, is_shut)) = access::line(device) {
        let paint = if is_shut { Paint::Plain } else { Paint::Busy };
        add("ways in", text, paint);
    }
    if let Some(disk) = device.disk.get("global") {
        let text = format!(
            "{} used; {} for applications",
            words::part(disk.used_bytes, disk.total_bytes),
            words::size(disk.available_bytes)
        );
        add("disk", text, Paint::Plain);
    }
    rows
}

fn port_rows(ports: &[PortStatus]) -> Vec<Vec<Cell>> {
    let row = |port: &PortStatus| {
        let addresses: Vec<String> = port.usable_addresses().map(|a| a.to_string()).collect();
        let dns: Vec<String> = port.dns_servers.iter().map(ToString::to_string).collect();
        let (state, paint) = match &port.fault {
            Some(fault) => (fault.text.clone(), Paint::Bad),
            None if addresses.is_empty() => (why::port_state(port), Paint::Busy),
            None => (addresses.join(", "), Paint::Good),
        };
        vec![
            Cell::new(port.if_name.as_str()),
            Cell::new(&port.label.0),
            Cell::new(if port.is_mgmt { "management" } else { "apps" }),
            Cell::new(port.cost.to_string()),
            Cell::new(state).paint(paint),
            Cell::new(dns.join(", ")),
        ]
    };
    ports.iter().map(row).collect()
}

fn app_rows(device: &Device) -> Vec<Vec<Cell>> {
    let row = |(key, app): (&String, &AppInstanceStatus)| {
        let (state, paint) = match (&app.phase, &app.fault) {
            (AppPhase::Running { .. }, None) => ("running".to_owned(), Paint::Good),
            (AppPhase::Halted, None) if !app.activate => ("halted".to_owned(), Paint::Dim),
            (phase, Some(_)) => (why::app_phase(phase), Paint::Bad),
            (phase, None) => (why::app_phase(phase), Paint::Busy),
        };
        let addresses: Vec<String> = app
            .vifs
            .iter()
            .filter_map(|vif| vif.ip.map(|ip| ip.to_string()))
            .collect();
        let config = device.app_configs.get(key);
        vec![
            Cell::new(&app.display_name),
            Cell::new(state).paint(paint),
            Cell::new(words::ago(app.since, device.at)),
            Cell::new(addresses.join(", ")),
            Cell::new(config.map(port_maps).unwrap_or_default()),
        ]
    };
    device.apps.rows.iter().map(row).collect()
}

/// Ports of the device that lead to an application: `8080->80`.
fn port_maps(config: &AppInstanceConfig) -> String {
    let rules = config.vifs.iter().flat_map(|vif| &vif.acls);
    let maps = rules.filter_map(|rule| match rule.action {
        AclAction::PortMap { app_port } => {
            let outside = rule.matches.iter().find_map(|one| match one {
                AclMatch::LocalPort(range) => Some(range.first),
                AclMatch::Ip(_)
                | AclMatch::Host(_)
                | AclMatch::Protocol(_)
                | AclMatch::RemotePort(_)
                | AclMatch::Adapter(_) => None,
            })?;
            Some(format!("{outside}->{app_port}"))
        }
        AclAction::Allow | AclAction::Drop | AclAction::Limit { .. } => None,
    });
    maps.collect::<Vec<_>>().join(", ")
}

fn trouble_lines(out: Output, troubles: &[Trouble], now: Timestamp) -> String {
    if troubles.is_empty() {
        return format!("{}\n", out.paint(Paint::Good, "everything is as wanted"));
    }
    let mut text = String::new();
    for Trouble { condition, .. } in troubles {
        text.push_str(&why::headline(out, condition, now));
    }
    text.push_str("more: eve why\n");
    text
}
