//! Applications: volumes, interfaces, guest.

use model::{
    app::{AppInstanceConfig, AppInstanceStatus, AppPhase},
    code::Code,
    id::{AppId, NetworkInstanceId, VolumeKey},
    node::{DeviceOperationKind, DevicePhase},
};

use super::{
    Condition, Kind, Nature, Subject, maintenance,
    walk::{Block, Need, Walk, need},
};
use crate::words;

/// The phase in words.
pub(crate) fn phase(phase: &AppPhase) -> String {
    match phase {
        AppPhase::Preparing { percent, .. } => format!("being prepared, {percent} %"),
        AppPhase::AwaitNetwork => "waits for its network".to_owned(),
        AppPhase::StartDelayed { .. } => "start is delayed".to_owned(),
        AppPhase::Booting => "being started".to_owned(),
        AppPhase::Running { .. } => "running".to_owned(),
        AppPhase::Halting => "being stopped".to_owned(),
        AppPhase::Halted => "halted".to_owned(),
        AppPhase::Restarting => "being restarted".to_owned(),
        AppPhase::Purging => "being purged".to_owned(),
        AppPhase::Deleting => "being removed".to_owned(),
        AppPhase::Failed => "failed".to_owned(),
    }
}

impl<'a> Walk<'a> {
    pub(super) fn app_subject(&self, key: &str) -> Subject {
        let name = self.device.app_name(key).unwrap_or_default();
        Self::subject(Kind::App, key, name)
    }

    pub(super) fn app(&mut self, key: &str) -> Block {
        let d = self.device;
        let subject = self.app_subject(key);
        let config = d.app_configs.get(key);
        let status = d.apps.get(key);
        let state = status.map_or("not known".to_owned(), |row| phase(&row.phase));
        self.enter(subject.clone(), state, |w| {
            if let Some(fault) = config.and_then(|config| config.fault.as_ref()) {
                let below = w.faulty_reference(fault);
                return below.or_else(|| Some(w.fault(subject, fault)));
            }
            match (config, status) {
                (None, None) => Some(w.missing(&d.app_configs, key, subject, "it is not there")),
                (None, Some(status)) => w
                    .damaged(&d.app_configs, key)
                    .or_else(|| Some(w.leaving(subject, status))),
                (Some(config), None) => {
                    let text = "zedmanager says nothing of it";
                    let silent = w.missing(&d.apps, key, subject, text);
                    // What it will need is worth knowing before zedmanager has spoken.
                    (silent.subject.kind == Kind::App)
                        .then(|| w.parts(config, None))
                        .flatten()
                        .or(Some(silent))
                }
                (Some(config), Some(status)) => w.wanted_app(&subject, config, status),
            }
        })
    }

    fn wanted_app(
        &mut self,
        subject: &Subject,
        config: &'a AppInstanceConfig,
        status: &'a AppInstanceStatus,
    ) -> Block {
        let d = self.device;
        let key = subject.key.clone();
        let own = |w: &Self| {
            let fault = status.fault.as_ref();
            fault.map(|fault| w.fault(subject.clone(), fault))
        };
        // Below it nothing is wrong: nobody has asked for volumes and networks yet.
        if let Some(fault) = &status.fault
            && fault.code == Code::AppDeferred
        {
            let mut condition = self.fault(subject.clone(), fault);
            condition.nature = Nature::Waits;
            condition.causes.extend(maintenance(d));
            return Some(condition);
        }
        match &status.phase {
            // The guest is up: only what it reaches through its networks can be amiss.
            AppPhase::Running { .. } if config.activate => {
                return self
                    .networks_of(config)
                    .or_else(|| self.guest(config.id, true))
                    .or_else(|| own(self));
            }
            AppPhase::Halted if !config.activate => return own(self),
            AppPhase::StartDelayed { until } => {
                let condition =
                    Condition::progress(subject.clone(), "its start is delayed by the config");
                return Some(self.at(condition, Some(status.since), Some(*until)));
            }
            AppPhase::Halted | AppPhase::Halting if self.device_halts() => {
                return self.guest(config.id, false).or_else(|| self.halting());
            }
            AppPhase::Halting | AppPhase::Restarting => {
                if let Some(below) = self.guest(config.id, false) {
                    return Some(below);
                }
            }
            AppPhase::Preparing { .. }
            | AppPhase::AwaitNetwork
            | AppPhase::Booting
            | AppPhase::Running { .. }
            | AppPhase::Halted
            | AppPhase::Purging
            | AppPhase::Deleting
            | AppPhase::Failed => {}
        }
        if let Some(below) = self.parts(config, Some(status)) {
            return Some(below);
        }
        if let Some(down) = self.answers("zedmanager", "AppInstanceStatus") {
            return Some(down);
        }
        let condition = own(self).unwrap_or_else(|| {
            let text = format!(
                "it is {}, and nothing below it says why",
                phase(&status.phase)
            );
            let condition = Condition::waits(subject.clone(), text);
            let condition = self.at(condition, Some(status.since), None);
            self.unchanged(condition, &d.apps, &key)
        });
        Some(condition)
    }

    /// Volumes and interfaces side by side, then the guest.
    fn parts(
        &mut self,
        config: &'a AppInstanceConfig,
        status: Option<&'a AppInstanceStatus>,
    ) -> Block {
        let app = config.id;
        let mut volumes = self.volumes_of(config);
        // The one that the phase names comes first among equals.
        if let Some(AppPhase::Preparing { volume, .. }) = status.map(|row| &row.phase) {
            volumes.sort_by_key(|(_, key)| key != volume);
        }
        let mut needs: Vec<Need<'a, '_>> = volumes
            .into_iter()
            .map(|(wanted, key)| {
                need(move |w: &mut Walk<'a>| w.volume(Some(app), Some(wanted), key))
            })
            .collect();
        if config.activate && !config.vifs.is_empty() {
            needs.push(need(move |w: &mut Walk<'a>| w.interfaces(app, false)));
        }
        let below = self.worst(needs);
        below.or_else(|| self.guest(app, config.activate))
    }

    /// Volumes of an application: key in the config, key on the device.
    fn volumes_of(&self, config: &AppInstanceConfig) -> Vec<(VolumeKey, VolumeKey)> {
        let refs = &self.device.volume_refs.rows;
        let on_device = |wanted: VolumeKey| {
            let own = refs
                .values()
                .filter(|row| row.app == config.id && row.volume == wanted);
            own.map(model::volume::VolumeRefConfig::device_volume)
                .max()
                .unwrap_or(wanted)
        };
        let volumes = config.volumes.iter().map(|attachment| attachment.volume);
        volumes.map(|wanted| (wanted, on_device(wanted))).collect()
    }

    /// Networks that a running application is in.
    fn networks_of(&mut self, config: &'a AppInstanceConfig) -> Block {
        let mut networks: Vec<NetworkInstanceId> =
            config.vifs.iter().map(|vif| vif.network_instance).collect();
        networks.dedup();
        let needs: Vec<Need<'a, '_>> = networks
            .into_iter()
            .map(|id| need(move |w: &mut Walk<'a>| w.network_instance(id, true)))
            .collect();
        self.worst(needs)
    }

    fn device_halts(&self) -> bool {
        self.device.node.rows.values().any(|node| node.halt_apps)
    }

    /// Why the device halts all applications, and until when.
    fn halting(&mut self) -> Block {
        let node = self.device.node.get("nodeagent")?;
        let by = node.operation.as_ref().map_or(String::new(), |operation| {
            let what = match operation.kind {
                DeviceOperationKind::Reboot => "reboot",
                DeviceOperationKind::Shutdown => "shutdown",
                DeviceOperationKind::PowerOff => "power-off",
            };
            format!(
                ", by the controller's {what} command number {}",
                operation.counter
            )
        });
        let (text, until) = match &node.phase {
            DevicePhase::Halting { deadline } => (
                format!("the device halts all applications and goes on when they are halted{by}"),
                Some(*deadline),
            ),
            DevicePhase::ShutDown => (
                format!(
                    "all applications are stopped by command{by}; they start again at the next boot"
                ),
                None,
            ),
            DevicePhase::Rebooting => (format!("the device reboots{by}"), None),
            DevicePhase::Onboarding | DevicePhase::Online => {
                (format!("the device halts all applications{by}"), None)
            }
        };
        let condition = Condition::waits(Self::subject(Kind::Device, "", ""), text);
        let condition = self.unchanged(condition, &self.device.node, "nodeagent");
        let condition = self.at(condition, None, until);
        self.stop("halts all applications", condition)
    }

    /// It left the config, and something of it is still there.
    fn leaving(&mut self, subject: Subject, status: &AppInstanceStatus) -> Condition {
        let d = self.device;
        let key = subject.key.clone();
        if let Some(condition) = self.answers("zedagent", "AppInstanceConfig") {
            return condition;
        }
        if let Some(below) = self.guest(status.id, false) {
            return below;
        }
        if let Some(down) = self.answers("zedmanager", "AppInstanceStatus") {
            return down;
        }
        if let Some(fault) = &status.fault {
            return self.fault(subject, fault);
        }
        let refs = d
            .volume_refs
            .rows
            .values()
            .filter(|row| row.app == status.id);
        let text = if d.domains.rows.contains_key(&key) {
            "its guest is being removed".to_owned()
        } else if d.app_networks.rows.contains_key(&key) {
            "its interfaces are being removed".to_owned()
        } else {
            format!(
                "{} still counted as its own",
                words::count(refs.count(), "volume")
            )
        };
        let condition = Condition::new(subject, Nature::Progress, text);
        self.at(condition, Some(status.since), None)
    }

    /// What is worth knowing of an application that runs.
    pub(super) fn app_notes(&self, key: &str) -> Vec<String> {
        let d = self.device;
        let mut notes = Vec::new();
        let Some(status) = d.apps.get(key) else {
            return notes;
        };
        if let AppPhase::Running { .. } = status.phase {
            for vif in status.vifs.iter().filter(|vif| !vif.leased) {
                if let Some(ip) = vif.ip {
                    notes.push(format!(
                        "interface {}: the guest has not asked for its address {ip} yet",
                        vif.name
                    ));
                }
            }
            if let Ok(app) = key.parse::<AppId>() {
                let boots = d.domains.get(&app.to_string()).map_or(0, |row| row.boots);
                if boots > 1 {
                    notes.push(format!(
                        "the guest was started {boots} times since the device booted"
                    ));
                }
            }
        }
        notes
    }
}
