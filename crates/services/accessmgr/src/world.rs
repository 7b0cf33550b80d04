//! The supervisor's units, the files of logins, who is connected, and the kernel's switches.

mod hardware;

use std::{
    collections::BTreeMap,
    fs, io,
    net::SocketAddr,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use agent::{Action as _, Boot, Failure, Progress, World};
use listeners::{Place, Protocol};
use model::{
    access::{AuthorizedKey, keys_text, parse_keys},
    code::Code,
};
use tokio::{sync::Notify, task::AbortHandle, time::timeout};
use units::{
    Client, Phase, UnitName, UnitState, UnitTable, Units, UnitsError, Watch, ids,
    login::{self, Login, SSH_PORT},
};

use crate::{
    Accessmgr, Actual, Desired, Do, HOST_KEY, KEYS, KeysFile, LoginState, Peer, hostkey,
    login_subject, sshlog,
};

/// How long the first look waits for the supervisor.
const FIRST_ANSWER: Duration = Duration::from_secs(5);
/// How long a unit that was started or ended may take to show in the list of units.
const SHOWN: Duration = Duration::from_secs(5);
/// How long a login may take to end, the supervisor's kill included.
const ENDED: Duration = Duration::from_secs(15);
/// Remembers that there was a config, below the root.
const CONFIGURED: &str = "persist/accessmgr/configured";
/// Keys that count until the first config comes, below the root.
const FIRST_KEYS: &str = "config/authorized_keys";
/// A config in CONFIG, which says who may log in.
const FIRST_ITEMS: &str = "config/GlobalConfig/global.json";
/// More than this is no list of keys.
const MOST_TEXT: u64 = 256 * 1024;
/// So much of sshd's output is read.
const LOG_TAIL: u64 = 128 * 1024;
/// The sockets of the device.
const NET: &str = "/proc/thread-self/net";
/// Only the doorkeeper's user and root.
const MODE: u32 = 0o600;

/// The real machine.
pub struct Machine {
    root: PathBuf,
    port: u16,
    units: Arc<dyn Units>,
    watch: Watch,
    changed: Arc<Notify>,
    _watching: Task,
}

/// A task that ends with its owner.
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Machine {
    /// The machine of a device. Nothing is asked of the supervisor yet.
    pub fn open(boot: &Boot) -> Result<Self, Failure> {
        let root = std::path::absolute(&boot.root);
        let root = root.map_err(|error| Failure::of(Code::AgentObserve, "root", &error))?;
        let client = Client::connect(&root)
            .map_err(|error| Failure::of(Code::SupervisorUnreachable, "supervisor", &error))?;
        Ok(Self::with(root, Arc::new(client), SSH_PORT))
    }

    /// The same with any supervisor and port.
    pub fn with(root: PathBuf, units: Arc<dyn Units>, port: u16) -> Self {
        let watch = units.watch(&format!("{}/", ids::DOORKEEPER));
        let changed = Arc::new(Notify::new());
        let (mut seen, notify) = (watch.clone(), Arc::clone(&changed));
        let watching = tokio::spawn(async move {
            while seen.changed().await.is_ok() {
                notify.notify_one();
            }
        });
        Self {
            root,
            port,
            units,
            watch,
            changed,
            _watching: Task(watching.abort_handle()),
        }
    }

    async fn table(&self) -> Result<Arc<UnitTable>, Failure> {
        let table = units::told(&self.watch, FIRST_ANSWER).await;
        table.ok_or_else(|| {
            let text = "it has not told its units yet";
            Failure::new(Code::SupervisorUnreachable, "supervisor", text).transient()
        })
    }

    /// Waits for a moment until the list of units shows something.
    async fn shown(&self, name: &UnitName, what: impl Fn(Option<&UnitState>) -> bool) {
        let mut watch = self.watch.clone();
        let shows = watch.wait_for(|table| table.as_ref().is_some_and(|t| what(t.get(name))));
        // If not, the next turn does the same again, which changes nothing.
        let _ = timeout(SHOWN, shows).await;
    }

    async fn start(&self, login: &Login) -> Result<(), Failure> {
        let failed = |error: &dyn std::error::Error| {
            Failure::of(Code::AccessLogin, login_subject(login), error)
        };
        let spec = login::spec(&self.root, login).map_err(|error| failed(&error))?;
        let name = spec.name.clone();
        let started = self.units.start(spec).await;
        started.map_err(|error| failed(&error).transient_if(error.is_transient()))?;
        self.shown(&name, |state| {
            state.is_some_and(|state| !state.phase.is_ended())
        })
        .await;
        Ok(())
    }

    async fn stop(&self, login: &Login) -> Result<(), Failure> {
        let failed = |error: &dyn std::error::Error| {
            Failure::of(Code::AccessLogin, login_subject(login), error).transient()
        };
        let name = login.unit().map_err(|error| failed(&error))?;
        match self.units.stop(&name).await {
            Ok(_) | Err(UnitsError::NotFound { .. }) => {}
            Err(error) => return Err(failed(&error)),
        }
        match timeout(ENDED, self.units.wait(&name)).await {
            Ok(Ok(_) | Err(UnitsError::NotFound { .. })) => {}
            Ok(Err(error)) => return Err(failed(&error)),
            Err(elapsed) => return Err(failed(&elapsed)),
        }
        let forgotten = self.units.forget(&name).await;
        forgotten.map_err(|error| failed(&error))?;
        self.shown(&name, |state| state.is_none()).await;
        Ok(())
    }

    fn logins(&self, table: &UnitTable) -> BTreeMap<Login, LoginState> {
        let of = |state: &UnitState| {
            Some(match (Login::of(&state.name)?, login_state(state)) {
                (Login::Ssh(_), LoginState::Runs) if !self.is_listening() => {
                    (Login::Ssh(self.port), LoginState::Changes)
                }
                (Login::Ssh(_), how) => (Login::Ssh(self.port), how),
                (Login::Shell(terminal), how) => (Login::Shell(terminal), how),
            })
        };
        table.values().filter_map(of).collect()
    }

    fn is_listening(&self) -> bool {
        let all = listeners::listening(Path::new(NET));
        all.iter()
            .any(|socket| match (socket.protocol, &socket.place) {
                (Protocol::Tcp | Protocol::Tcp6, Place::Port(address)) => {
                    address.port() == self.port
                }
                _ => false,
            })
    }

    /// Who is connected, and by which key if sshd said so.
    fn peers(&self) -> Vec<Peer> {
        let connected = listeners::connected(Path::new(NET), self.port);
        if connected.is_empty() {
            return Vec::new();
        }
        let keys = sshlog::accepted(&self.log());
        connected
            .into_iter()
            .map(|from: SocketAddr| Peer {
                from: from.to_string(),
                key: keys.get(&from).cloned(),
            })
            .collect()
    }

    /// The end of what sshd said.
    fn log(&self) -> String {
        let Ok(name) = Login::Ssh(self.port).unit() else {
            return String::new();
        };
        let path = self.root.join("persist/log");
        let path = path.join(format!("{}.log", name.stem()));
        tail(&path).unwrap_or_default()
    }

    fn keys(&self) -> io::Result<KeysFile> {
        Ok(match text(&login::keys_file(&self.root))? {
            None => KeysFile::Missing,
            Some(text) => parse_keys(&text).map_or(KeysFile::Strange, KeysFile::Keys),
        })
    }

    fn write_keys(&self, keys: &[AuthorizedKey]) -> io::Result<()> {
        let path = login::keys_file(&self.root);
        if keys.is_empty() {
            return match fs::remove_file(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                other => other,
            };
        }
        put(&path, format!("{}\n", keys_text(keys)).as_bytes())
    }

    fn make_host_key(&self) -> io::Result<()> {
        let key = hostkey::make().map_err(|_| io::Error::other("no random numbers"))?;
        put(&login::host_key_file(&self.root), key.as_bytes())
    }

    fn look(&self, table: &UnitTable) -> io::Result<Actual> {
        let has = |path: &str| self.root.join(path).try_exists();
        let was_configured = has(CONFIGURED)?;
        let logins = self.logins(table);
        let is_open = logins.keys().any(|login| matches!(login, Login::Ssh(_)));
        Ok(Actual {
            is_disabled: login::remote_access_disabled(&self.root),
            first_keys: if was_configured || has(FIRST_ITEMS)? {
                None
            } else {
                text(&self.root.join(FIRST_KEYS))?
            },
            was_configured,
            keys: self.keys()?,
            has_host_key: login::host_key_file(&self.root).try_exists()?,
            peers: if is_open { self.peers() } else { Vec::new() },
            logins,
            port: self.port,
            hardware: hardware::look(&self.root)?,
        })
    }
}

fn login_state(state: &UnitState) -> LoginState {
    match &state.phase {
        Phase::Running { .. } => LoginState::Runs,
        Phase::Waiting { .. } | Phase::Starting { .. } | Phase::Stopping { .. } => {
            LoginState::Changes
        }
        Phase::Backoff { reason, .. } => LoginState::Fails(reason.clone()),
        Phase::Ended { .. } => LoginState::Ended,
    }
}

/// Writes a file for the doorkeeper and root alone, whole or not at all.
fn put(path: &Path, content: &[u8]) -> io::Result<()> {
    let part = path.with_extension("part");
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(MODE)
        .open(&part)?;
    file.set_permissions(fs::Permissions::from_mode(MODE))?;
    io::Write::write_all(&mut file, content)?;
    file.sync_all()?;
    fs::rename(&part, path)?;
    path.parent().map_or(Ok(()), durable::sync_dir)
}

/// A small file; none if there is none.
fn text(path: &Path) -> io::Result<Option<String>> {
    let file = match fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, MOST_TEXT), &mut bytes)?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

fn tail(path: &Path) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let len = file.metadata()?.len();
    io::Seek::seek(&mut file, io::SeekFrom::Start(len.saturating_sub(LOG_TAIL)))?;
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, LOG_TAIL), &mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

impl World<Accessmgr> for Machine {
    async fn observe(&self, _: &Desired) -> Result<Actual, Failure> {
        let table = self.table().await?;
        let looked = self.look(&table);
        looked.map_err(|error| Failure::of(Code::AgentObserve, "ways in", &error).transient())
    }

    async fn apply(&self, action: Do, _: Progress) -> Result<(), Failure> {
        let subject = action.subject();
        let files = |object: &str, done: io::Result<()>| {
            done.map_err(|error| Failure::of(Code::AccessFiles, object, &error).transient())
        };
        let kernel = |done: Result<(), hardware::SwitchError>| {
            done.map_err(|error| Failure::of(Code::AccessHardware, &*subject, &error).transient())
        };
        match action {
            Do::Remember => files(&subject, put(&self.root.join(CONFIGURED), b"")),
            Do::MakeHostKey => files(HOST_KEY, self.make_host_key()),
            Do::WriteKeys(keys) => files(KEYS, self.write_keys(&keys)),
            Do::Start(login) => self.start(&login).await,
            Do::Stop(login) => self.stop(&login).await,
            Do::UsbDefault(name, on) => kernel(hardware::usb_default(&self.root, &name, on)),
            Do::UsbInterface(name, on) => kernel(hardware::usb_interface(&self.root, &name, on)),
            Do::Framebuffer(name, on) => kernel(hardware::framebuffer(&self.root, &name, on)),
        }
    }

    async fn changed(&self) {
        self.changed.notified().await;
    }
}
