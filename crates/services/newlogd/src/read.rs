//! What newlogd reads from the bus. It can do without all of it: lines are kept from the first second on.

use std::{collections::BTreeMap, sync::Arc};

use agent::Tables;
use bus::Rows;
use model::{
    app::AppInstanceStatus,
    config_item::ConfigItemValueMap,
    id::AppId,
    node::{OnboardPhase, OnboardingStatus},
    port::DeviceNetworkStatus,
    topics::{APP_INSTANCE_STATUS, CONFIG_ITEMS, DEVICE_NETWORK_STATUS, ONBOARDING_STATUS},
};

use crate::entry::Level;

/// Every input; the defaults where it is not known.
#[derive(Debug, Clone, Default)]
pub struct Desired {
    /// Who we are.
    pub onboarding: OnboardingStatus,
    /// The device's network; nothing is sent before it is known.
    pub network: Option<DeviceNetworkStatus>,
    /// Properties in force.
    pub items: ConfigItemValueMap,
    /// Applications, for their names.
    pub apps: Option<Arc<Rows<AppInstanceStatus>>>,
}

impl Desired {
    pub(crate) fn read(tables: &mut Tables) -> Self {
        let global = |rows: Arc<Rows<OnboardingStatus>>| rows.get("global").cloned();
        Self {
            onboarding: tables
                .peek(&ONBOARDING_STATUS)
                .and_then(global)
                .unwrap_or_default(),
            network: tables
                .peek(&DEVICE_NETWORK_STATUS)
                .and_then(|rows| rows.get("global").cloned()),
            items: tables
                .peek(&CONFIG_ITEMS)
                .and_then(|rows| rows.get("global").cloned())
                .unwrap_or_default(),
            apps: tables.peek(&APP_INSTANCE_STATUS),
        }
    }

    /// The device's UUID; empty before it is onboarded.
    pub fn device(&self) -> String {
        let device = self.onboarding.device;
        device.map(|device| device.to_string()).unwrap_or_default()
    }

    /// Whether anything can be sent.
    pub fn can_send(&self) -> bool {
        self.onboarding.phase == OnboardPhase::Onboarded
            && self.onboarding.device.is_some()
            && self.network.is_some()
    }

    /// Whether files are made and sent fast.
    pub fn fast(&self) -> bool {
        self.items.flag("newlog.allow.fastupload")
    }

    /// An application's display name; its UUID while it is not known.
    pub fn app_name(&self, app: AppId) -> String {
        let status = self
            .apps
            .as_ref()
            .and_then(|apps| apps.get(&app.to_string()));
        status.map_or_else(|| app.to_string(), |status| status.display_name.clone())
    }

    /// The least levels of lines that are kept.
    pub fn levels(&self) -> Levels {
        let text = |name: &str| Level::of_property(self.items.text(name));
        let prefix = "agent.";
        let suffix = ".debug.remote.loglevel";
        let services = self.items.values.iter().filter_map(|(name, level)| {
            let service = name.strip_prefix(prefix)?.strip_suffix(suffix)?;
            Some((service.to_owned(), Level::of_property(level)))
        });
        Levels {
            services: services.collect(),
            default: text("debug.default.remote.loglevel"),
            helpers: text("debug.syslog.loglevel").max(text("debug.syslog.remote.loglevel")),
            kernel: text("debug.kernel.loglevel").max(text("debug.kernel.remote.loglevel")),
        }
    }
}

/// The least levels of lines that are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Levels {
    services: BTreeMap<String, Level>,
    default: Level,
    helpers: Level,
    /// Of the kernel.
    pub kernel: Level,
}

impl Levels {
    /// Of a unit: a service by name, or a helper (`domainmgr/dns-bn1`).
    pub fn unit(&self, name: &str) -> Level {
        if name.contains('/') {
            return self.helpers;
        }
        self.services.get(name).copied().unwrap_or(self.default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_follow_the_properties() {
        let mut desired = Desired::default();
        assert_eq!(desired.levels().unit("nim"), Level::Info);
        for (name, value) in [
            ("debug.default.remote.loglevel", "error"),
            ("agent.nim.debug.remote.loglevel", "debug"),
            ("debug.syslog.loglevel", "warning"),
            ("debug.kernel.remote.loglevel", "trace"),
        ] {
            desired
                .items
                .values
                .insert(name.to_owned(), value.to_owned());
        }
        let levels = desired.levels();
        assert_eq!(levels.unit("nim"), Level::Debug);
        assert_eq!(levels.unit("zedagent"), Level::Error);
        assert_eq!(levels.unit("zedrouter/dns"), Level::Warning);
        // The kernel's own level is still info.
        assert_eq!(levels.kernel, Level::Info);
    }
}
