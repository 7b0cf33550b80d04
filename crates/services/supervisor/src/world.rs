//! Effects: processes, signals, sockets, control groups, files. No decisions.
//!
//! One `epoll` instance holds the pidfd of every unit's process and the notification socket of every
//! unit; the engine waits on that one descriptor and then reads everything that is there. Processes
//! that this supervisor started are reaped by `waitpid(-1)`, which also takes orphans (the supervisor
//! is a subreaper); the end of adopted ones is known from their pidfd only.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::event::epoll;
use rustix::process::Signal;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use units::{ExitKind, Output, StopSignal, UnitName};

use crate::cgroup::Cgroups;
use crate::evidence::{self, Case};
use crate::machine::Unit;
use crate::notify::{Inbox, Message};
use crate::output;
use crate::procfs::{self, Handle};
use crate::shim::{self, Order};

/// Directories of the supervisor.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// `<root>/run/supervisor`
    pub run: PathBuf,
    /// `<root>/persist/log`
    pub log: PathBuf,
    /// `<root>/persist/crash`
    pub crash: PathBuf,
}

impl Places {
    /// Those of the device below `root`.
    pub(crate) fn below(root: &Path) -> Self {
        Self {
            run: root.join("run/supervisor"),
            log: root.join("persist/log"),
            crash: root.join("persist/crash"),
        }
    }
}

/// Everything that units are made of.
#[derive(Debug)]
pub(crate) struct World {
    places: Places,
    cgroups: Cgroups,
    poll: AsyncFd<OwnedFd>,
    live: BTreeMap<UnitName, Live>,
    inboxes: BTreeMap<UnitName, Inbox>,
    /// Those among them that are not waited for.
    hushed: BTreeSet<UnitName>,
    /// Units that something may be left of.
    used: BTreeSet<UnitName>,
}

/// A process that was started or adopted.
#[derive(Debug)]
struct Live {
    pid: u32,
    handle: Handle,
    /// Whether its exit status comes to us.
    ours: bool,
    /// To the shim: the order, and back why it failed.
    channel: Option<UnixStream>,
    /// Kills at the memory limit before this process began.
    out_of_memory_kills: u64,
}

/// How long the shim may take to read its order.
const ORDER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long collecting the evidence may hold the loop up.
const EVIDENCE_TIMEOUT: Duration = Duration::from_secs(3);

impl World {
    /// With no process yet.
    pub(crate) fn new(root: &Path) -> io::Result<Self> {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self {
            places: Places::below(root),
            cgroups: Cgroups::find(root),
            poll: watched(poll)?,
            live: BTreeMap::new(),
            inboxes: BTreeMap::new(),
            hushed: BTreeSet::new(),
            used: BTreeSet::new(),
        })
    }

    /// Resolves when a process ended or a unit said something that was not read yet.
    pub(crate) async fn changed(&self) -> io::Result<()> {
        // tokio tells of new events only; what the last turn left unread is asked for here.
        while !is_readable(self.poll.get_ref()) {
            self.poll.readable().await?.clear_ready();
        }
        Ok(())
    }

    /// Starts the shim of a unit, in the unit's control group, waiting for its order: pid and start.
    pub(crate) fn spawn(&mut self, unit: &Unit) -> Result<(u32, u64), String> {
        let name = &unit.spec.name;
        self.used.insert(name.clone());
        if let Err(error) = self.cgroups.create(name, unit.spec.limits) {
            tracing::error!(unit = %name, %error, "runs without limits");
        }
        self.listen(unit)?;
        let (ours, theirs) = UnixStream::pair().map_err(|error| format!("socket pair: {error}"))?;
        let log = || -> Result<Stdio, String> {
            match &unit.spec.output {
                Output::Log => output::open(&self.places.log, name)
                    .map(File::into)
                    .map_err(|error| format!("log {}: {error}", self.places.log.display())),
                Output::File(_) | Output::Discard => Ok(Stdio::null()),
            }
        };
        let mut child = Command::new("/proc/self/exe")
            // Which of the programs in the file it is, where the file holds several.
            .arg0("supervisor")
            .arg(shim::SUBCOMMAND)
            .env_clear()
            .current_dir("/")
            .stdin(OwnedFd::from(theirs))
            .stdout(log()?)
            .stderr(log()?)
            .spawn()
            .map_err(|error| format!("start the shim: {error}"))?;
        let pid = child.id();
        let registered = self.register(name, pid, true, Some(ours));
        let ticks = match (registered, procfs::stat(pid)) {
            (Ok(()), Some(stat)) => stat.start_ticks,
            (registered, _) => {
                // Our child, not reaped yet: the pid is still its own. It ends by itself at the
                // end of its input, which closes with its channel.
                self.drop_process(name);
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("watch the process: {registered:?}"));
            }
        };
        if let Err(error) = self.cgroups.enter(name, pid) {
            tracing::error!(unit = %name, %error, "runs without limits");
        }
        Ok((pid, ticks))
    }

    /// Gives the shim its order: from here on the unit runs.
    pub(crate) fn release(&mut self, unit: &Unit) -> Result<(), String> {
        let name = &unit.spec.name;
        let order = Order {
            spec: unit.spec.clone(),
            filter: unit.filter,
            origin: unit.origin,
            notify: self
                .inboxes
                .get(name)
                .map(|inbox| inbox.address().to_owned()),
        };
        let text = serde_json::to_vec(&order).map_err(|error| error.to_string())?;
        let Some(channel) = self.live.get(name).and_then(|live| live.channel.as_ref()) else {
            return Err("no process waits for its order".into());
        };
        let give = |mut channel: &UnixStream| -> io::Result<()> {
            channel.set_write_timeout(Some(ORDER_TIMEOUT))?;
            channel.write_all(&text)?;
            channel.shutdown(std::net::Shutdown::Write)?;
            channel.set_nonblocking(true)
        };
        give(channel).map_err(|error| format!("give the order: {error}"))
    }

    /// Takes over the process that the state file of a unit names, if it is still there.
    pub(crate) fn adopt(&mut self, unit: &Unit) -> bool {
        let name = &unit.spec.name;
        let Some(process) = unit.process() else {
            return false;
        };
        if Handle::open(process.pid, process.ticks).is_none() {
            return false;
        }
        self.used.insert(name.clone());
        if let Err(error) = self.listen(unit) {
            tracing::warn!(unit = %name, %error, "its signs of life can't be received");
        }
        match self.register(name, process.pid, false, None) {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(unit = %name, pid = process.pid, %error, "can't be adopted");
                false
            }
        }
    }

    fn register(
        &mut self,
        name: &UnitName,
        pid: u32,
        ours: bool,
        channel: Option<UnixStream>,
    ) -> io::Result<()> {
        let handle = Handle::open_any(pid)?;
        epoll::add(
            self.poll.get_ref(),
            handle.fd(),
            epoll::EventData::new_u64(0),
            epoll::EventFlags::IN,
        )?;
        let live = Live {
            pid,
            handle,
            ours,
            channel,
            out_of_memory_kills: self.cgroups.out_of_memory_kills(name),
        };
        self.live.insert(name.clone(), live);
        Ok(())
    }

    fn listen(&mut self, unit: &Unit) -> Result<(), String> {
        let name = &unit.spec.name;
        if unit.spec.heartbeat.is_none() {
            return Ok(());
        }
        if let Some(inbox) = self.inboxes.get(name) {
            if self.hushed.remove(name) {
                self.wait_for(inbox)
                    .map_err(|error| format!("notification socket: {error}"))?;
            }
            return Ok(());
        }
        let bind = || -> io::Result<Inbox> {
            let inbox = Inbox::bind(&self.places.run, name, unit.spec.sandbox.uid)?;
            self.wait_for(&inbox)?;
            Ok(inbox)
        };
        let inbox = bind().map_err(|error| {
            let path = Inbox::path(&self.places.run, name);
            format!("notification socket {}: {error}", path.display())
        })?;
        self.inboxes.insert(name.clone(), inbox);
        Ok(())
    }

    fn wait_for(&self, inbox: &Inbox) -> io::Result<()> {
        let (data, flags) = (epoll::EventData::new_u64(1), epoll::EventFlags::IN);
        Ok(epoll::add(
            self.poll.get_ref(),
            inbox.socket(),
            data,
            flags,
        )?)
    }

    /// From now on nobody is woken by what this unit says; it is read with the rest. Until the unit is started again.
    pub(crate) fn hush(&mut self, name: &UnitName) {
        let Some(inbox) = self.inboxes.get(name) else {
            return;
        };
        if self.hushed.insert(name.clone())
            && let Err(error) = epoll::delete(self.poll.get_ref(), inbox.socket())
        {
            tracing::debug!(unit = %name, %error, "goes on waking");
        }
    }

    /// What units said since the last call.
    pub(crate) fn messages(&self) -> Vec<(UnitName, Message)> {
        let said = self.inboxes.iter().flat_map(|(name, inbox)| {
            let messages = inbox.drain().into_iter();
            messages.map(|message| (name.clone(), message))
        });
        said.collect()
    }

    /// The processes that ended since the last call, and how. What they left running is killed.
    pub(crate) fn ended(&mut self) -> Vec<(UnitName, ExitKind)> {
        let mut statuses = reap();
        let mut ended = Vec::new();
        for (name, live) in &self.live {
            let kind = if live.ours {
                let Some(kind) = statuses.remove(&live.pid) else {
                    continue;
                };
                kind
            } else if is_readable(live.handle.fd()) {
                ExitKind::Unknown
            } else {
                continue;
            };
            ended.push((name.clone(), kind));
        }
        ended
            .into_iter()
            .map(|(name, kind)| {
                let kind = self.explain(&name, kind);
                self.drop_process(&name);
                (name, kind)
            })
            .collect()
    }

    /// The reason behind an exit status: the shim's words, or the kernel's memory account.
    fn explain(&self, name: &UnitName, kind: ExitKind) -> ExitKind {
        let Some(live) = self.live.get(name) else {
            return kind;
        };
        if kind == ExitKind::Code(shim::FAILED.into()) {
            let mut words = String::new();
            let read = live
                .channel
                .as_ref()
                .map(|channel| channel.take(4096).read_to_string(&mut words));
            if read.is_some() && !words.is_empty() {
                return ExitKind::NotStarted(words);
            }
        }
        // Of an adopted process the kernel's account tells more than its status, which went elsewhere.
        let may_be_killed = matches!(kind, ExitKind::Signal(9) | ExitKind::Unknown);
        let kills = self.cgroups.out_of_memory_kills(name);
        if may_be_killed && kills > live.out_of_memory_kills {
            return ExitKind::OutOfMemory;
        }
        kind
    }

    fn drop_process(&mut self, name: &UnitName) {
        if let Some(live) = self.live.remove(name) {
            // A copy of the descriptor in a child that is just being made would keep it watched.
            let _ = epoll::delete(self.poll.get_ref(), live.handle.fd());
            self.kill_group(name, Some(live.pid));
        }
    }

    /// Sends a unit's main process its stop signal.
    pub(crate) fn ask(&self, name: &UnitName, signal: StopSignal) -> io::Result<()> {
        let signal = match signal {
            StopSignal::Term => Signal::TERM,
            StopSignal::Int => Signal::INT,
            StopSignal::Quit => Signal::QUIT,
            StopSignal::Hup => Signal::HUP,
            StopSignal::Usr1 => Signal::USR1,
            StopSignal::Usr2 => Signal::USR2,
            StopSignal::Kill => Signal::KILL,
        };
        self.signal(name, signal)
    }

    /// Sends a unit's main process `SIGABRT`.
    pub(crate) fn abort(&self, name: &UnitName) -> io::Result<()> {
        self.signal(name, Signal::ABORT)
    }

    fn signal(&self, name: &UnitName, signal: Signal) -> io::Result<()> {
        self.live
            .get(name)
            .map_or(Ok(()), |live| live.handle.signal(signal))
    }

    /// Kills all processes of a unit.
    pub(crate) fn kill(&self, name: &UnitName) -> io::Result<()> {
        self.signal(name, Signal::KILL)?;
        self.kill_group(name, None);
        Ok(())
    }

    /// Kills what is left of a unit besides its main process. Without a control group that is its
    /// session's process group, if `leader` (its pid) has just ended.
    fn kill_group(&self, name: &UnitName, leader: Option<u32>) {
        if !self.cgroups.has(name) {
            let group = leader.and_then(|pid| i32::try_from(pid).ok());
            if let Some(group) = group {
                // No such group: nothing was left.
                let _ = nix::sys::signal::killpg(
                    Pid::from_raw(group),
                    nix::sys::signal::Signal::SIGKILL,
                );
            }
            return;
        }
        // A process may fork while it is being killed; a few rounds always win.
        for round in 0..20 {
            let left = self.cgroups.processes(name);
            if left.is_empty() {
                return;
            }
            if !self.cgroups.kill(name) {
                for pid in left {
                    if let Ok(handle) = Handle::open_any(pid) {
                        let _ = handle.signal(Signal::KILL);
                    }
                }
            }
            if round > 0 {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        tracing::debug!(unit = %name, "processes are slow to end");
    }

    /// Saves what can be known about a unit that hangs (`living`) or has ended.
    pub(crate) async fn evidence(
        &self,
        unit: &Unit,
        pid: Option<u32>,
        reason: String,
        at: jiff::Timestamp,
        living: bool,
    ) {
        let name = unit.spec.name.clone();
        let case = Case {
            unit: name.clone(),
            at,
            reason,
            pid,
            restarts: unit.restarts,
            memory_bytes: self.cgroups.memory(&name),
            status_text: unit.status_text.clone(),
        };
        let crash = self.places.crash.clone();
        let log = (unit.spec.output == Output::Log).then(|| output::path(&self.places.log, &name));
        let save = move || evidence::save(&crash, &case, living, log.as_deref());
        // A disk that hangs must not keep the unit from being restarted.
        match tokio::time::timeout(EVIDENCE_TIMEOUT, tokio::task::spawn_blocking(save)).await {
            Ok(Ok(Ok(directory))) => {
                tracing::info!(unit = %name, evidence = %directory.display(), "evidence saved");
            }
            Ok(Ok(Err(error))) => tracing::warn!(unit = %name, %error, "evidence lost"),
            Ok(Err(error)) => tracing::warn!(unit = %name, %error, "evidence lost"),
            Err(_) => tracing::warn!(unit = %name, "evidence is not saved in time"),
        }
    }

    /// Memory charged to a unit.
    pub(crate) fn memory(&self, name: &UnitName) -> Option<u64> {
        self.cgroups.memory(name)
    }

    /// Removes what belongs to a unit that has no process and gets none.
    pub(crate) fn clear(&mut self, name: &UnitName) {
        if !self.used.remove(name) {
            return;
        }
        self.hushed.remove(name);
        if let Some(inbox) = self.inboxes.remove(name) {
            inbox.remove();
        }
        self.cgroups.remove(name);
    }

    /// Kills the processes of units that no state file tells of: nobody could ever stop them.
    pub(crate) fn kill_strangers(&self, known: impl Fn(&UnitName) -> bool) {
        for name in self.cgroups.units() {
            if !known(&name) {
                if !self.cgroups.processes(&name).is_empty() {
                    tracing::warn!(unit = %name, "unknown to all state files: killed");
                    self.kill_group(&name, None);
                }
                self.cgroups.remove(&name);
            }
        }
    }

    /// Removes what belongs to nobody in particular, at the end.
    pub(crate) fn clear_all(&self) {
        self.cgroups.remove_all();
    }
}

/// Hands a descriptor to the runtime. The constructor is deprecated because types exist whose
/// descriptor changes behind the runtime's back; that of an `OwnedFd` doesn't, and the newer one is unsafe
/// code.
#[allow(deprecated)]
fn watched(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, Interest::READABLE)
}

/// The exit statuses of all children that ended; those of orphans too, which nobody asks for.
fn reap() -> BTreeMap<u32, ExitKind> {
    let mut ended = BTreeMap::new();
    loop {
        let (pid, kind) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => (pid, ExitKind::Code(code)),
            Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, ExitKind::Signal(signal as i32)),
            Err(nix::errno::Errno::EINTR) => continue,
            Ok(_) | Err(_) => return ended,
        };
        if let Ok(pid) = u32::try_from(pid.as_raw()) {
            ended.insert(pid, kind);
        }
    }
}

fn is_readable(fd: &OwnedFd) -> bool {
    let mut fds = [rustix::event::PollFd::new(fd, rustix::event::PollFlags::IN)];
    let now = rustix::event::Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    rustix::event::poll(&mut fds, Some(&now)).is_ok_and(|count| count > 0)
}
