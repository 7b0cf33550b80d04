//! From the device's bus to what a person wants to see: one line per object, and when what happened.

use std::time::Instant;

use anyhow::Result;
use bus::{Bus, Object, Rows, Topic};
use model::{
    app::{AppInstanceStatus, AppPhase},
    content::{ContentPhase, ContentTreeStatus},
    domain::{DomainPhase, DomainStatus},
    fault::Fault,
    network::{AppNetworkPhase, AppNetworkStatus, NetworkInstancePhase, NetworkInstanceStatus},
    node::{ConfigSource, OnboardPhase, OnboardingStatus, ZedAgentStatus},
    port::DeviceNetworkStatus,
    service::{ServicePhase, ServiceStatus},
    topics::{
        APP_INSTANCE_STATUS, APP_NETWORK_STATUS, CONTENT_TREE_STATUS, DEVICE_NETWORK_STATUS,
        DOMAIN_STATUS, NETWORK_INSTANCE_STATUS, ONBOARDING_STATUS, SERVICE_STATUS, VOLUME_STATUS,
        ZEDAGENT_STATUS,
    },
    volume::{VolumePhase, VolumeStatus},
};

/// One object on the screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Kind and name.
    pub object: String,
    /// 0 to 100.
    pub percent: u8,
    /// Phase in words.
    pub phase: String,
    /// What keeps it, on one line.
    pub fault: Option<String>,
}

/// Everything at one moment.
#[derive(Debug, Clone, Default)]
pub struct View {
    onboarding: OnboardingStatus,
    zedagent: ZedAgentStatus,
    network: DeviceNetworkStatus,
    /// Units of the supervisor.
    pub services: Rows<ServiceStatus>,
    /// Applications.
    pub apps: Rows<AppInstanceStatus>,
    content: Rows<ContentTreeStatus>,
    volumes: Rows<VolumeStatus>,
    networks: Rows<NetworkInstanceStatus>,
    app_networks: Rows<AppNetworkStatus>,
    domains: Rows<DomainStatus>,
}

impl View {
    /// Reads the bus. Tables that are not there yet count as empty here: this is for looking, not for planning.
    pub fn read(bus: &Bus) -> Result<Self> {
        Ok(Self {
            onboarding: one(bus, &ONBOARDING_STATUS)?,
            zedagent: one(bus, &ZEDAGENT_STATUS)?,
            network: one(bus, &DEVICE_NETWORK_STATUS)?,
            services: all(bus, &SERVICE_STATUS)?,
            apps: all(bus, &APP_INSTANCE_STATUS)?,
            content: all(bus, &CONTENT_TREE_STATUS)?,
            volumes: all(bus, &VOLUME_STATUS)?,
            networks: all(bus, &NETWORK_INSTANCE_STATUS)?,
            app_networks: all(bus, &APP_NETWORK_STATUS)?,
            domains: all(bus, &DOMAIN_STATUS)?,
        })
    }

    /// The device's UUID, once it is onboarded.
    pub fn device(&self) -> Option<String> {
        self.onboarding.device.map(|d| d.to_string())
    }

    /// Whether the controller's config was received.
    pub fn has_config(&self) -> bool {
        self.zedagent.config_source == ConfigSource::Controller
    }

    /// Names of the device's ports with their addresses.
    pub fn ports(&self) -> Vec<String> {
        let address = |p: &model::port::PortStatus| {
            let addresses: Vec<String> = p.usable_addresses().map(|a| a.to_string()).collect();
            format!("{} {}", p.if_name, addresses.join(" "))
        };
        self.network.ports.iter().map(address).collect()
    }

    /// One line per object, in the order in which they come to life.
    pub fn lines(&self) -> Vec<Line> {
        let mut lines = vec![self.device_line(), self.config_line()];
        lines.extend(self.content.values().map(content_line));
        lines.extend(self.volumes.values().map(volume_line));
        lines.extend(self.networks.values().map(network_line));
        lines.extend(self.apps.values().map(app_line));
        lines
    }

    fn device_line(&self) -> Line {
        let usable = self.network.has_usable_address();
        let (percent, phase) = match &self.onboarding.phase {
            OnboardPhase::Identity if self.onboarding.server.is_empty() => {
                (0, "starting".to_owned())
            }
            OnboardPhase::Identity => (10, "making its identity".to_owned()),
            OnboardPhase::AwaitNetwork if usable => (25, "has an address".to_owned()),
            OnboardPhase::AwaitNetwork => (20, "waiting for an address".to_owned()),
            OnboardPhase::FetchCerts => (40, "fetching the controller's certificates".to_owned()),
            OnboardPhase::Register => (60, "registering".to_owned()),
            OnboardPhase::GetUuid => (80, "asking who it is".to_owned()),
            OnboardPhase::Onboarded => (
                100,
                format!("onboarded as {}", self.device().unwrap_or_default()),
            ),
        };
        line("device", percent, &phase, self.onboarding.fault.as_ref())
    }

    fn config_line(&self) -> Line {
        let attest = format!("{:?}", self.zedagent.attest);
        let (percent, phase) = match self.zedagent.config_source {
            ConfigSource::None => (0, format!("attestation {attest}")),
            ConfigSource::Saved => (50, "the saved one".to_owned()),
            ConfigSource::Bootstrap => (50, "the one for the first boot".to_owned()),
            ConfigSource::Controller => (100, "received and verified".to_owned()),
        };
        line("config", percent, &phase, self.zedagent.fault.as_ref())
    }
}

fn all<T: Object>(bus: &Bus, topic: &Topic<T>) -> Result<Rows<T>> {
    Ok(bus.read(topic)?.unwrap_or_default())
}

fn one<T: Object + Default>(bus: &Bus, topic: &Topic<T>) -> Result<T> {
    Ok(all(bus, topic)?.into_values().next().unwrap_or_default())
}

fn line(object: &str, percent: u8, phase: &str, fault: Option<&Fault>) -> Line {
    Line {
        object: object.to_owned(),
        percent,
        phase: phase.to_owned(),
        fault: fault.map(Fault::line),
    }
}

fn share(done: u64, total: u64) -> u8 {
    u8::try_from((u128::from(done) * 100 / u128::from(total.max(1))).min(100)).unwrap_or(100)
}

fn mib(bytes: u64) -> String {
    format!("{}.{} MiB", bytes >> 20, (bytes >> 10) % 1024 * 10 / 1024)
}

fn content_line(tree: &ContentTreeStatus) -> Line {
    let (percent, phase) = match &tree.phase {
        ContentPhase::Waiting => (0, "waiting".to_owned()),
        ContentPhase::Downloading {
            done_bytes,
            total_bytes,
        } => (
            share(*done_bytes, *total_bytes),
            format!("downloading, {} of {}", mib(*done_bytes), mib(*total_bytes)),
        ),
        ContentPhase::Verifying { percent } => (*percent, "verifying its SHA-256".to_owned()),
        ContentPhase::Loaded => (100, format!("verified, {}", mib(tree.size_bytes))),
        ContentPhase::Failed => (0, "failed".to_owned()),
    };
    line(
        &format!("image {}", tree.display_name),
        percent,
        &phase,
        tree.fault.as_ref(),
    )
}

fn volume_line(volume: &VolumeStatus) -> Line {
    let (percent, phase) = match &volume.phase {
        VolumePhase::AwaitContent {
            done_bytes,
            total_bytes,
            ..
        } => (
            share(*done_bytes, *total_bytes) / 2,
            "waiting for its image".to_owned(),
        ),
        VolumePhase::AwaitSpace => (50, "waiting for disk space".to_owned()),
        VolumePhase::Creating { percent } => (50 + percent / 2, "being made".to_owned()),
        VolumePhase::Created => (100, format!("made, {}", mib(volume.virtual_size_bytes))),
        VolumePhase::Deleting => (0, "being deleted".to_owned()),
        VolumePhase::Failed => (0, "failed".to_owned()),
    };
    line(
        &format!("volume {}", volume.display_name),
        percent,
        &phase,
        volume.fault.as_ref(),
    )
}

fn network_line(network: &NetworkInstanceStatus) -> Line {
    let subnet = network.subnet.map(|s| s.to_string()).unwrap_or_default();
    let (percent, phase) = match &network.phase {
        NetworkInstancePhase::Creating => (50, "being made".to_owned()),
        NetworkInstancePhase::NoUplink { port } => (
            80,
            format!("{subnet} on {}, no uplink {port}", network.bridge),
        ),
        NetworkInstancePhase::Up => (
            100,
            format!(
                "{subnet} on {}, DHCP, DNS, NAT by {}",
                network.bridge,
                network.ports.join(" ")
            ),
        ),
        NetworkInstancePhase::Deleting => (0, "being removed".to_owned()),
        NetworkInstancePhase::Failed => (0, "failed".to_owned()),
    };
    line(
        &format!("network {}", network.display_name),
        percent,
        &phase,
        network.fault.as_ref(),
    )
}

fn app_line(app: &AppInstanceStatus) -> Line {
    let ips: Vec<String> = app
        .vifs
        .iter()
        .filter_map(|v| v.ip.map(|ip| ip.to_string()))
        .collect();
    let (percent, phase) = match &app.phase {
        AppPhase::Preparing { percent, .. } => (percent / 2, "preparing its volumes".to_owned()),
        AppPhase::AwaitNetwork => (55, "waiting for its network".to_owned()),
        AppPhase::StartDelayed { until } => (60, format!("start delayed until {until}")),
        AppPhase::Booting => (75, "booting".to_owned()),
        AppPhase::Running { .. } => (100, format!("running, {}", ips.join(" "))),
        AppPhase::Halting => (50, "halting".to_owned()),
        AppPhase::Halted => (0, "halted".to_owned()),
        AppPhase::Restarting => (50, "restarting".to_owned()),
        AppPhase::Purging => (50, "purging".to_owned()),
        AppPhase::Deleting => (0, "being removed".to_owned()),
        AppPhase::Failed => (0, "failed".to_owned()),
    };
    line(
        &format!("app {}", app.display_name),
        percent,
        &phase,
        app.fault.as_ref(),
    )
}

/// Something that happens once on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mark {
    /// Namespaces, controller and datastore are up.
    World,
    /// Every service has said that it is ready.
    Services,
    /// A management port has an address.
    Address,
    /// The controller has named the device.
    Onboarded,
    /// The controller trusts the device and has sent its config.
    Config,
    /// The image is on the device.
    Downloaded,
    /// Its digest is right.
    Verified,
    /// The volume is made.
    Volume,
    /// The application's interfaces are made.
    Network,
    /// The guest's processors run.
    Started,
    /// The guest answers an HTTP request from outside.
    Answers,
}

/// When each thing happened first.
#[derive(Debug, Clone, Default)]
pub struct Marks {
    seen: Vec<(Mark, Instant)>,
}

impl Marks {
    /// Notes that something is the case now.
    pub fn note(&mut self, mark: Mark) {
        if !self.has(mark) {
            self.seen.push((mark, Instant::now()));
        }
    }

    /// Whether it was noted.
    pub fn has(&self, mark: Mark) -> bool {
        self.seen.iter().any(|(m, _)| *m == mark)
    }

    /// Notes everything that a view shows.
    pub fn look(&mut self, view: &View) {
        let running = |s: &ServiceStatus| matches!(s.phase, ServicePhase::Running { .. });
        let services = view.services.values().filter(|s| !s.name.contains('/'));
        let checks = [
            (
                Mark::Services,
                view.services.len() > 1 && services.clone().all(running),
            ),
            (Mark::Address, view.network.has_usable_address()),
            (
                Mark::Onboarded,
                view.onboarding.phase == OnboardPhase::Onboarded,
            ),
            (
                Mark::Config,
                view.zedagent.config_source == ConfigSource::Controller,
            ),
            (
                Mark::Downloaded,
                any(&view.content, |c| {
                    matches!(
                        c.phase,
                        ContentPhase::Verifying { .. } | ContentPhase::Loaded
                    )
                }),
            ),
            (
                Mark::Verified,
                any(&view.content, |c| c.phase == ContentPhase::Loaded),
            ),
            (
                Mark::Volume,
                any(&view.volumes, |v| v.phase == VolumePhase::Created),
            ),
            (
                Mark::Network,
                any(&view.app_networks, |n| n.phase == AppNetworkPhase::Ready),
            ),
            (
                Mark::Started,
                any(&view.domains, |d| {
                    matches!(d.phase, DomainPhase::Running { .. })
                }),
            ),
        ];
        for (mark, is_so) in checks {
            if is_so {
                self.note(mark);
            }
        }
    }

    /// What took how long, in milliseconds, in the order in which things happened: each phase ends with its mark.
    pub fn phases(&self, start: Instant) -> Vec<(Mark, u128)> {
        let mut before = start;
        self.seen
            .iter()
            .map(|(mark, at)| {
                let took = at.duration_since(before).as_millis();
                before = *at;
                (*mark, took)
            })
            .collect()
    }
}

fn any<T>(rows: &Rows<T>, is_so: impl Fn(&T) -> bool) -> bool {
    !rows.is_empty() && rows.values().any(is_so)
}
