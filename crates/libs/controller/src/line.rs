//! The line of a service that only tells: made of the device's key, which tpmmgr keeps, and of what zedagent found out
//! (who the device is, which version the controller speaks, which controller it is).

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use model::{config_item::ConfigItemValueMap, node::OnboardingStatus, port::DeviceNetworkStatus};
use thiserror::Error;
use uplink::{Port, TlsError};
use uuid::Uuid;

use crate::client::{Controller, Timers};
use crate::endpoint::ApiVersion;
use crate::keeper::Keys;
use crate::partition::{ConfigPartition, PartitionError};
use crate::signer::SignerError;

type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Kept from one call to the next; made anew when the device gets another controller.
pub struct Line {
    config: PathBuf,
    root: PathBuf,
    keys: Arc<dyn Keys>,
    clock: Clock,
    kept: Mutex<Option<Controller>>,
}

/// What zedagent and nim say now.
#[derive(Debug, Clone)]
pub struct Known<'a> {
    /// The controller that zedagent speaks with; empty while it is not known.
    pub server: &'a str,
    /// The device.
    pub uuid: Option<Uuid>,
    /// The controller only speaks version 1.
    pub v1: bool,
    /// Time limits.
    pub timers: Timers,
    /// The ports, once they are known.
    pub ports: Option<Vec<Port>>,
}

impl<'a> Known<'a> {
    /// As their topics say.
    pub fn of(
        onboarding: &'a OnboardingStatus,
        items: &ConfigItemValueMap,
        network: Option<&DeviceNetworkStatus>,
    ) -> Self {
        Self {
            server: &onboarding.server,
            uuid: onboarding.device.map(|device| device.0),
            v1: onboarding.api_v1,
            timers: Timers::of(items),
            ports: network.map(|network| uplink::ports(network).0),
        }
    }
}

/// Why there is no line.
#[derive(Debug, Error)]
pub enum LineError {
    /// The CONFIG partition.
    #[error(transparent)]
    Partition(#[from] PartitionError),
    /// The device's key is not usable.
    #[error(transparent)]
    Key(#[from] SignerError),
    /// No TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl Line {
    /// Of the device below `root`. Nothing is read before it is needed. `clock` is the wall clock.
    pub fn new(
        root: PathBuf,
        keys: Arc<dyn Keys>,
        clock: impl Fn() -> Timestamp + Send + Sync + 'static,
    ) -> Self {
        Self {
            config: root.join("config"),
            root,
            keys,
            clock: Arc::new(clock),
            kept: Mutex::default(),
        }
    }

    /// The controller as it is known now. A clone, so that nothing is locked while it is spoken to.
    pub fn controller(&self, known: Known<'_>) -> Result<Controller, LineError> {
        let Known {
            server,
            uuid,
            v1,
            timers,
            ports,
        } = known;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |c: &Controller| server.is_empty() || c.server().as_str() == server;
        let mut controller = match kept.take().filter(same) {
            Some(controller) => controller,
            None => self.connect()?,
        };
        controller.set_version(if v1 { ApiVersion::V1 } else { ApiVersion::V2 });
        controller.set_uuid(uuid);
        controller.set_timers(timers);
        if let Some(ports) = ports {
            // zedagent reports proxies and certificates that cannot be used.
            let _ = controller.set_ports(ports);
        }
        *kept = Some(controller.clone());
        Ok(controller)
    }

    fn connect(&self) -> Result<Controller, LineError> {
        let partition = ConfigPartition::read(&self.config)?;
        let device = self.keys.device()?;
        let controller = Controller::new(&partition, device, "", &self.root)?;
        let clock = Arc::clone(&self.clock);
        controller.follow(move || clock());
        Ok(controller)
    }
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::identity::{load_or_create, system_random};
    use crate::keeper::KeyFiles;
    use crate::support::Ca;

    #[test]
    fn it_follows_what_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config");
        std::fs::create_dir(&config).unwrap();
        let keys = Arc::new(KeyFiles::of(&config));
        let line = Line::new(dir.path().to_owned(), keys, Timestamp::now);
        let known = |server, v1| Known {
            server,
            uuid: Some(Uuid::from_u128(1)),
            v1,
            timers: Timers::default(),
            ports: None,
        };
        assert!(line.controller(known("", false)).is_err());
        let serve = |name: &str| std::fs::write(config.join("server"), name).unwrap();
        serve("one:1");
        std::fs::write(config.join("root-certificate.pem"), Ca::new("root").pem).unwrap();
        assert!(matches!(
            line.controller(known("one:1", false)),
            Err(LineError::Key(SignerError::Missing { .. }))
        ));
        load_or_create(&config, Timestamp::now(), &mut system_random).unwrap();
        let now = line.controller(known("one:1", true)).unwrap();
        assert_eq!(
            (now.server().as_str(), now.version()),
            ("one:1", ApiVersion::V1)
        );
        serve("two:2");
        let now = line.controller(known("one:1", false)).unwrap();
        assert_eq!(
            (now.server().as_str(), now.version()),
            ("one:1", ApiVersion::V2)
        );
        let now = line.controller(known("two:2", false)).unwrap();
        assert_eq!(now.server().as_str(), "two:2");
    }
}
