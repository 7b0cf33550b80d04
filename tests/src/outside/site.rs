//! The real controller, in this process.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use controller::identity::{load_or_create, system_random};
use evc::{
    admin::{Apply, Client, DeviceView, LogQuery, MessageQuery, NewAdmission},
    decide::messages::Kind,
    pki::{self, InitOptions},
    serve::{Apis, Evc, admin, device, serve},
};
use jiff::Timestamp;
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

/// Its directory, and the controller while it runs.
pub struct Site {
    dir: TempDir,
    evc: Arc<Evc>,
    /// Where devices connect, without TLS.
    pub address: SocketAddr,
    /// Where people connect.
    pub admin: Client,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

/// What the only device of a site is known by.
const SERIAL: &str = "soft-1";

impl Site {
    /// A new controller that admits the device.
    pub async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = InitOptions {
            name: "127.0.0.1".to_owned(),
            sans: Vec::new(),
        };
        pki::init(dir.path(), &options).unwrap();
        let site = Self::start(dir).await;
        let new = NewAdmission {
            cert: None,
            serial: SERIAL.to_owned(),
            name: None,
            hold: false,
            ..NewAdmission::default()
        };
        site.admin.admit(&new).await.unwrap();
        site
    }

    async fn start(dir: TempDir) -> Self {
        let evc = Arc::new(Evc::open(dir.path(), Apis::Both).unwrap());
        let onboarding = std::fs::read(dir.path().join("device-config/onboard.cert.pem")).unwrap();
        let cert = evc::cert::Certificate::from_pem(&onboarding).unwrap();
        evc.store
            .write(move |c| evc::store::onboarding::add(c, &cert, None))
            .await
            .unwrap();
        let devices = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let people = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = devices.local_addr().unwrap();
        let client = Client::new(&people.local_addr().unwrap().to_string(), &evc.token);
        let (stop, stopped) = watch::channel(false);
        let tasks = vec![
            tokio::spawn(serve(
                devices,
                None,
                device::router(Arc::clone(&evc)),
                stopped.clone(),
            )),
            tokio::spawn(serve(
                people,
                None,
                admin::router(Arc::clone(&evc)),
                stopped,
            )),
        ];
        Self {
            dir,
            evc,
            address,
            admin: client,
            stop,
            tasks,
        }
    }

    /// The same controller with new keys for TLS, signing and key exchange, elsewhere.
    pub async fn with_new_keys(self) -> Self {
        self.stop.send_replace(true);
        for task in self.tasks {
            task.await.unwrap();
        }
        pki::renew(self.dir.path(), &[]).unwrap();
        Self::start(self.dir).await
    }

    /// It makes new keys and tells of them; it goes on with the former ones until [`Self::uses_new_keys`].
    pub fn announces_new_keys(&self) {
        pki::rotate(self.dir.path(), Duration::from_secs(3600)).unwrap();
        self.evc.reload().unwrap();
    }

    /// The hour of the announced keys is over.
    pub fn uses_new_keys(&self) {
        std::fs::write(self.pki().join("rotation"), "0").unwrap();
        self.evc.reload().unwrap();
    }

    /// It signs with the keys that it had before the present ones, and tells of those: somebody has stolen them.
    pub fn goes_back_to_former_keys(&self) {
        std::fs::write(self.pki().join("rotation"), i64::MAX.to_string()).unwrap();
        self.evc.reload().unwrap();
    }

    /// It makes new keys and uses them at once.
    pub fn replaces_its_keys(&self) {
        pki::renew(self.dir.path(), &[]).unwrap();
        self.evc.reload().unwrap();
    }

    /// Hash of the certificate that it signs with, hex.
    pub fn signs_with(&self) -> String {
        hex::encode(self.evc.pki().signer.sender())
    }

    /// Its keys.
    pub fn pki(&self) -> std::path::PathBuf {
        self.dir.path().join("pki")
    }

    /// The device's CONFIG partition, naming `server`.
    pub fn partition(&self, config: &Path, server: SocketAddr) {
        std::fs::create_dir_all(config).unwrap();
        for entry in std::fs::read_dir(self.dir.path().join("device-config")).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), config.join(entry.file_name())).unwrap();
        }
        std::fs::write(config.join("server"), format!("{server}\n")).unwrap();
        std::fs::write(config.join("soft_serial"), format!("{SERIAL}\n")).unwrap();
        // As tpmmgr has done before zedagent asks.
        load_or_create(config, Timestamp::now(), &mut system_random).unwrap();
    }

    /// What the device shall be from now on. Gives the version.
    pub async fn want(&self, yaml: &str) -> i64 {
        let apply = Apply {
            yaml: format!("device: {SERIAL}\n{yaml}"),
            dry_run: false,
        };
        self.admin.apply(&apply).await.unwrap()[0].version
    }

    /// What its device is known by.
    pub fn serial(&self) -> &'static str {
        SERIAL
    }

    /// The device registered.
    pub async fn devices_are_there(&self) -> bool {
        self.admin.device(SERIAL).await.is_ok()
    }

    /// What is known of the device.
    pub async fn device(&self) -> DeviceView {
        self.admin.device(SERIAL).await.unwrap()
    }

    /// The newest report about an object, as text.
    pub async fn told(&self, kind: Kind, object: Option<&str>) -> Vec<String> {
        let query = MessageQuery {
            kind,
            device: Some(SERIAL.to_owned()),
            object: object.map(str::to_owned),
            latest: false,
            after: Some(0),
            limit: 10_000,
            wait: 0,
        };
        let found = self.admin.messages(&query).await.unwrap();
        found
            .into_iter()
            .map(|view| view.message.to_string())
            .collect()
    }

    /// Lines of the device's log that arrived.
    pub async fn lines(&self) -> Vec<String> {
        let query = LogQuery {
            device: Some(SERIAL.to_owned()),
            limit: 10_000,
            ..LogQuery::default()
        };
        let rows = self.admin.logs(&query).await.unwrap();
        rows.into_iter().map(|row| row.content).collect()
    }
}
