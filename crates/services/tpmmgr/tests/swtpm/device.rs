//! A device with tpmmgr and nothing else.

use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use agent::{Boot, Clock, Runtime};
use bus::Bus;
use model::security::{EdgeNodeCert, TpmSanityStatus};
use model::topics::{EDGE_NODE_CERT, TPM_SANITY_STATUS};
use tempfile::TempDir;
use tpm::Tpm as _;
use tpm::{Client, Description};
use tpmmgr::{Tpmmgr, world::Vault};

use crate::chip::Swtpm;

/// Its disk and its bus.
pub(crate) struct Device {
    pub(crate) root: TempDir,
    pub(crate) bus: Bus,
}

impl Device {
    /// Fresh from the installer.
    pub(crate) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("config")).unwrap();
        Self {
            root,
            bus: Bus::memory(),
        }
    }

    /// Runs tpmmgr with the TPM while `story` lasts: one life of the service.
    pub(crate) async fn live<T>(&self, tcti: &str, story: impl Future<Output = T>) -> T {
        let clock = Clock::real(Duration::from_secs(100));
        let boot = Boot {
            root: self.root.path().to_owned(),
            bus: self.bus.acting_as("tpmmgr"),
            clock: clock.clone(),
            dry_run: false,
        };
        let vault = Vault::with(
            &boot,
            env!("CARGO_BIN_EXE_tpmchip").into(),
            tcti.parse().unwrap(),
        )
        .unwrap();
        let runtime = Runtime::<Tpmmgr, _>::new(boot.bus.clone(), vault, clock, 1);
        let mut story = pin!(story);
        tokio::select! {
            () = runtime.run(std::future::pending()) => panic!("tpmmgr ended"),
            told = &mut story => told,
        }
    }

    /// tpmmgr as root sees it.
    pub(crate) fn client(&self) -> Client {
        Client::connect(self.root.path()).unwrap()
    }

    /// Waits until it serves without a trouble and has said so on the bus.
    pub(crate) async fn healthy(&self) -> Description {
        let found = self.until(|d| d.trouble.is_none()).await;
        // It serves before it has published: a life that ended in between would leave a topic that is not ready.
        for _ in 0..600 {
            if self.bus.read(&TPM_SANITY_STATUS).unwrap().is_some() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it publishes nothing");
    }

    /// Waits for a state of its description.
    pub(crate) async fn until(&self, wanted: impl Fn(&Description) -> bool) -> Description {
        let client = self.client();
        let mut last = None;
        for _ in 0..600 {
            last = Some(client.describe().await);
            if let Some(Ok(found)) = &last
                && wanted(found)
            {
                return found.clone();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("it never came: {last:?}");
    }

    /// What it says of itself.
    pub(crate) fn status(&self) -> TpmSanityStatus {
        self.bus.read(&TPM_SANITY_STATUS).unwrap().unwrap()["global"].clone()
    }

    /// The published certificates.
    pub(crate) fn certs(&self) -> Vec<EdgeNodeCert> {
        let rows = self.bus.read(&EDGE_NODE_CERT).unwrap().unwrap();
        rows.values().cloned().collect()
    }

    /// A path of it.
    pub(crate) fn path(&self, path: &str) -> std::path::PathBuf {
        self.root.path().join(path)
    }
}

/// A device and its TPM, when it is ready.
pub(crate) async fn with_tpm<T>(story: impl AsyncFnOnce(&Device, &mut Swtpm) -> T) -> T {
    let (device, mut tpm) = (Device::new(), Swtpm::new());
    let tcti = tpm.tcti();
    device
        .live(&tcti, async {
            device.healthy().await;
            story(&device, &mut tpm).await
        })
        .await
}

/// A text or bytes of a file.
pub(crate) fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}
