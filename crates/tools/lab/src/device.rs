//! A device in a world: its root directory, its CONFIG files, its binaries, and the machine around its
//! supervisor, which boots, reboots and loses power like a real one.
//!
//! ```text
//!            start                    exit 10: reboot asked for
//!   off ---------------> running ------------------------------> power cut, /run wiped, start again
//!    ^                    |  |
//!    | exit 0, exit 11    |  | any other end: started again as init would, /run and units as they are
//!    '--------------------'  '-> (after a pause that grows to 5 s)
//! ```
//!
//! Everything lies below [`World::root`]; the binaries are hard links where the file system allows.

use crate::process::Process;
use crate::site::{SiteError, io};
use crate::tpm;
use crate::world::World;
use nix::sys::signal::Signal;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The supervisor's exit code when a reboot is wanted; see its `--help`.
pub const EXIT_REBOOT: i32 = 10;
/// The supervisor's exit code when the device is to stay off; see its `--help`.
pub const EXIT_POWER_OFF: i32 = 11;

/// How often the machine looks whether its supervisor still runs.
const LOOK: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A device of a world. Dropped, it loses its power.
#[derive(Debug)]
pub struct Device {
    machine: Arc<Machine>,
    watcher: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Machine {
    world: Arc<World>,
    root: PathBuf,
    arguments: Vec<String>,
    has_tpm: bool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    supervisor: Option<Process>,
    /// Starts of the supervisor with an empty `/run`.
    boots: u32,
    /// Starts of the supervisor after its own crash.
    restarts: u32,
    /// How the supervisor ended when the device went off by itself.
    ended: Option<ExitStatus>,
    dropped: bool,
}

impl Device {
    /// Prepares the device's root in `world`: installs every program of the directory `binaries` (a
    /// `target/debug`, say) in `usr/bin` and makes an empty `config`. Starts nothing.
    pub fn install(world: &Arc<World>, binaries: &Path) -> Result<Device, SiteError> {
        Device::install_with(world, binaries, &[])
    }

    /// Like [`Device::install`], with more arguments for the supervisor (`--units a,b`).
    pub fn install_with(
        world: &Arc<World>,
        binaries: &Path,
        arguments: &[&str],
    ) -> Result<Device, SiteError> {
        Device::put(world, binaries, arguments, false)
    }

    /// Like [`Device::install_with`], with a simulated TPM, which is reset by each boot.
    pub fn install_with_tpm(
        world: &Arc<World>,
        binaries: &Path,
        arguments: &[&str],
    ) -> Result<Device, SiteError> {
        let mut arguments = arguments.to_vec();
        let way = tpm::way();
        arguments.extend(["--tpm", &way]);
        Device::put(world, binaries, &arguments, true)
    }

    fn put(
        world: &Arc<World>,
        binaries: &Path,
        arguments: &[&str],
        has_tpm: bool,
    ) -> Result<Device, SiteError> {
        let root = world.root();
        let bin = root.join("usr/bin");
        for dir in [&bin, &root.join("config"), &root.join("persist")] {
            std::fs::create_dir_all(dir).map_err(|source| io(dir, source))?;
        }
        for program in programs(binaries)? {
            let target = bin.join(program.file_name().unwrap_or_default());
            link_or_copy(&program, &target)?;
        }
        let machine = Arc::new(Machine {
            world: Arc::clone(world),
            root,
            arguments: arguments.iter().map(|&word| word.to_owned()).collect(),
            has_tpm,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let watched = Arc::clone(&machine);
        let watcher = std::thread::Builder::new()
            .name("machine".into())
            .spawn(move || watched.watch())
            .map_err(|source| io(Path::new("the machine's thread"), source))?;
        Ok(Device {
            machine,
            watcher: Some(watcher),
        })
    }

    /// The device's root directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.machine.root
    }

    /// Writes a file of the CONFIG partition: `server`, `root-certificate.pem`, `onboard.cert.pem`, ...
    pub fn configure(&self, name: &str, content: impl AsRef<[u8]>) -> Result<(), SiteError> {
        let path = self.machine.root.join("config").join(name);
        std::fs::write(&path, content).map_err(|source| io(&path, source))
    }

    /// Switches the device on. Nothing happens if it is on.
    pub fn start(&self) -> Result<(), SiteError> {
        let mut state = self.machine.state();
        if state.supervisor.is_none() {
            self.machine.boot(&mut state)?;
        }
        Ok(())
    }

    /// Tells the supervisor to end (SIGTERM), waits `limit` at most, and switches off what is left.
    /// `None` if it had to be killed.
    pub fn stop(&self, limit: Duration) -> Result<Option<ExitStatus>, SiteError> {
        let mut state = self.machine.state();
        let ended = state.supervisor.take().and_then(|supervisor| {
            supervisor.signal(Signal::SIGTERM);
            supervisor.wait(limit)
        });
        self.machine.world.power_cut()?;
        Ok(ended)
    }

    /// Takes the device's power away. It stays off until [`Device::start`].
    pub fn power_cut(&self) -> Result<(), SiteError> {
        let mut state = self.machine.state();
        state.supervisor = None;
        self.machine.world.power_cut()
    }

    /// The supervisor, while the device is on.
    #[must_use]
    pub fn supervisor(&self) -> Option<Process> {
        self.machine.state().supervisor.clone()
    }

    /// Kills the supervisor (-9); the machine starts it again, `/run` and its units as they are.
    pub fn kill_supervisor(&self) {
        if let Some(supervisor) = self.supervisor() {
            supervisor.signal(Signal::SIGKILL);
        }
    }

    /// How often the device booted, and how often its supervisor was started again within a boot.
    #[must_use]
    pub fn starts(&self) -> (u32, u32) {
        let state = self.machine.state();
        (state.boots, state.restarts)
    }

    /// Waits until the device went off by itself, `limit` at most; its supervisor's end.
    #[must_use]
    pub fn wait_off(&self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        let mut state = self.machine.state();
        while state.supervisor.is_some() && Instant::now() < deadline {
            state = self
                .machine
                .changed
                .wait_timeout(state, LOOK)
                .map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state);
        }
        if state.supervisor.is_some() {
            None
        } else {
            state.ended
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.machine.state().dropped = true;
        self.machine.changed.notify_all();
        if let Some(watcher) = self.watcher.take() {
            let _ = watcher.join();
        }
        let on = self.machine.state().supervisor.take().is_some();
        if on && let Err(error) = self.machine.world.power_cut() {
            tracing::warn!(%error, "the device's namespaces stay until the world ends");
        }
    }
}

impl Machine {
    fn boot(&self, state: &mut State) -> Result<(), SiteError> {
        let run = self.root.join("run");
        match std::fs::remove_dir_all(&run) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(io(&run, source));
            }
            _ => {}
        }
        state.boots += 1;
        state.ended = None;
        if self.has_tpm {
            tpm::reset(&self.world)?;
        }
        self.run(state)
    }

    fn run(&self, state: &mut State) -> Result<(), SiteError> {
        let supervisor = self.world.spawn_device(
            "supervisor",
            Command::new(self.root.join("usr/bin/supervisor"))
                .arg("--root")
                .arg(&self.root)
                .args(&self.arguments)
                .current_dir(&self.root),
        )?;
        state.supervisor = Some(supervisor);
        Ok(())
    }

    fn watch(&self) {
        let mut pause = LOOK;
        loop {
            let mut state = self.state();
            if state.dropped {
                return;
            }
            let ended = state.supervisor.as_ref().and_then(Process::ended);
            if let Some(status) = ended {
                let outcome = self.after(&mut state, status, &mut pause);
                if let Err(error) = outcome {
                    tracing::error!(%error, "the device stays off");
                    state.supervisor = None;
                }
            }
            let _ = self.changed.wait_timeout(state, LOOK);
        }
    }

    fn after(
        &self,
        state: &mut State,
        status: ExitStatus,
        pause: &mut Duration,
    ) -> Result<(), SiteError> {
        match status.code() {
            Some(EXIT_REBOOT) => {
                self.world.power_cut()?;
                *pause = LOOK;
                self.boot(state)
            }
            Some(0 | EXIT_POWER_OFF) => {
                self.world.power_cut()?;
                state.supervisor = None;
                state.ended = Some(status);
                self.changed.notify_all();
                Ok(())
            }
            Some(_) | None => {
                // With the lock held: nobody may look at a device that is neither on nor off.
                std::thread::sleep(*pause);
                *pause = (*pause * 2).min(LONGEST_PAUSE);
                state.restarts += 1;
                self.run(state)
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The directory with the binaries of the build that the running program belongs to: that of the
/// program, or the one above for a test.
#[must_use]
pub fn built_binaries() -> Option<PathBuf> {
    let exe = std::env::current_exe().ok()?;
    let dir = exe.parent()?;
    if dir.file_name()? == "deps" {
        return dir.parent().map(Path::to_owned);
    }
    Some(dir.to_owned())
}

/// Executable files of `dir`; a dot in the name is cargo's, not a program's.
fn programs(dir: &Path) -> Result<Vec<PathBuf>, SiteError> {
    let entries = std::fs::read_dir(dir).map_err(|source| io(dir, source))?;
    Ok(entries
        .filter_map(Result::ok)
        .filter(|entry| !entry.file_name().to_string_lossy().contains('.'))
        .map(|entry| entry.path())
        .filter(|path| {
            path.metadata()
                .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        })
        .collect())
}

fn link_or_copy(from: &Path, to: &Path) -> Result<(), SiteError> {
    match std::fs::remove_file(to) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => return Err(io(to, source)),
        _ => {}
    }
    if std::fs::hard_link(from, to).is_err() {
        std::fs::copy(from, to).map_err(|source| io(to, source))?;
    }
    Ok(())
}
