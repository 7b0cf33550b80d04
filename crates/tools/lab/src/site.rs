//! The parts of a world and how to act on them: the same for the owner and for another process that
//! found the world by its record.

use crate::jail::{Entrance, JailError};
use crate::layout::UplinkPlan;
use crate::netns::{Netns, NetnsError};
use crate::process::{Process, logged};
use crate::record::{self, Record};
use nix::sys::signal::Signal;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Why a world, or something in it, is not as wanted.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// A network namespace failed.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// A process namespace failed.
    #[error(transparent)]
    Jail(#[from] JailError),
    /// A file of the world could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The path at fault.
        path: PathBuf,
        /// What the kernel answered.
        source: std::io::Error,
    },
    /// No world of that name is up.
    #[error("no world {name} below {base}; up are: {up}")]
    NoWorld {
        /// The name asked for.
        name: String,
        /// Where worlds are.
        base: PathBuf,
        /// Names of those that are up.
        up: String,
    },
    /// The world has fewer uplinks.
    #[error("there is no uplink {index}: the world has {count}")]
    NoUplink {
        /// The index asked for.
        index: u8,
        /// How many there are.
        count: usize,
    },
    /// More uplinks than the address plan holds.
    #[error(
        "{count} uplinks asked for: between 1 and {} are possible",
        crate::layout::MAX_UPLINKS
    )]
    UplinkCount {
        /// How many were asked for.
        count: usize,
    },
    /// No process of the device has that name.
    #[error("no process of the device is called {0}")]
    NoProcess(String),
    /// A server of the world did not come up; its log says why.
    #[error("{name} did not come up within {seconds} s: {log}")]
    NotUp {
        /// The server.
        name: String,
        /// How long was waited.
        seconds: u64,
        /// What it printed.
        log: String,
    },
    /// Keys or certificates could not be made.
    #[error("certificate for {subject}: {reason}")]
    Certificate {
        /// Whose certificate.
        subject: String,
        /// Why not.
        reason: String,
    },
}

/// One uplink: the device's `ethN` and the router behind it.
#[derive(Debug, Clone)]
pub struct Uplink {
    /// Addresses, MAC, interface.
    pub plan: UplinkPlan,
    /// The router's namespace; links `lan` and `wan`.
    pub router: Netns,
}

/// Which side of the world a program runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Behind the uplinks.
    Device,
    /// Where controller and datastore are.
    Outside,
    /// The router of an uplink, by index.
    Router(u8),
}

/// The words did not name a side of a world.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no such side: {0}; sides are device, outside, uplinkN")]
pub struct NoSuchSide(String);

impl std::str::FromStr for Side {
    type Err = NoSuchSide;

    fn from_str(text: &str) -> Result<Side, NoSuchSide> {
        let router = |index: &str| index.parse().ok().map(Side::Router);
        match text {
            "device" => Some(Side::Device),
            "outside" => Some(Side::Outside),
            _ => text.strip_prefix("uplink").and_then(router),
        }
        .ok_or_else(|| NoSuchSide(text.to_owned()))
    }
}

/// The parts of a world as they are now; a power cut replaces the device's.
#[derive(Debug, Clone)]
pub struct Site {
    /// `eve-` and four hex digits.
    pub name: String,
    /// The world's directory: logs, keys, the device's root.
    pub dir: PathBuf,
    /// The device's network namespace.
    pub device: Netns,
    /// The outside's network namespace.
    pub outside: Netns,
    /// The uplinks by index.
    pub uplinks: Vec<Uplink>,
    pub(crate) device_entrance: Arc<Entrance>,
    pub(crate) outside_entrance: Arc<Entrance>,
}

impl Site {
    /// Finds the world `name`, or the only one that is up.
    pub fn find(name: Option<&str>) -> Result<Site, SiteError> {
        let base = record::base();
        let mut live: Vec<(PathBuf, Record)> = record::worlds(&base)
            .into_iter()
            .filter_map(|(dir, record)| Some((dir, record?)))
            .filter(|(_, record)| record.owner.alive())
            .collect();
        let chosen = match name {
            Some(name) => live.iter().position(|(_, record)| record.name == name),
            None if live.len() == 1 => Some(0),
            None => None,
        };
        let Some(index) = chosen else {
            let names: Vec<_> = live.into_iter().map(|(_, record)| record.name).collect();
            return Err(SiteError::NoWorld {
                name: name.unwrap_or("(name one)").to_owned(),
                base,
                up: if names.is_empty() {
                    "none".into()
                } else {
                    names.join(", ")
                },
            });
        };
        let (dir, record) = live.swap_remove(index);
        Site::attach(dir, &record)
    }

    fn attach(dir: PathBuf, record: &Record) -> Result<Site, SiteError> {
        let open = |key: &str| {
            let path = record.namespaces.get(key).cloned().unwrap_or_default();
            Netns::open(&format!("{}-{key}", record.name), &path)
        };
        let uplinks = (0_u8..)
            .zip(&record.uplinks)
            .map(|(index, (nat, lease_seconds))| {
                Ok(Uplink {
                    plan: UplinkPlan {
                        index,
                        nat: *nat,
                        lease_seconds: *lease_seconds,
                    },
                    router: open(&format!("uplink{index}"))?,
                })
            })
            .collect::<Result<_, SiteError>>()?;
        Ok(Site {
            name: record.name.clone(),
            dir,
            device: open("device")?,
            outside: open("outside")?,
            uplinks,
            device_entrance: Arc::new(Entrance::of(record.device_init)?),
            outside_entrance: Arc::new(Entrance::of(record.outside_init)?),
        })
    }

    /// The uplink with `index`.
    pub fn uplink(&self, index: u8) -> Result<&Uplink, SiteError> {
        self.uplinks
            .get(usize::from(index))
            .ok_or(SiteError::NoUplink {
                index,
                count: self.uplinks.len(),
            })
    }

    /// Starts `command` on `side` with the outputs in `log/<name>.log`. Paths in it should be absolute.
    pub fn spawn(
        &self,
        side: Side,
        name: &str,
        command: &mut Command,
    ) -> Result<Process, SiteError> {
        let (entrance, netns) = self.place(side)?;
        self.start(name, entrance, netns, command)
    }

    /// Starts `command` on `side` with this process's own terminal and waits for its end.
    pub fn attach_command(
        &self,
        side: Side,
        command: &mut Command,
    ) -> Result<std::process::ExitStatus, SiteError> {
        let (entrance, netns) = self.place(side)?;
        let mut child = entrance.spawn_in_group(netns, command)?;
        child.wait().map_err(|source| io(Path::new("wait"), source))
    }

    /// The processes on `side`; routers share the outside's.
    #[must_use]
    pub fn processes(&self, side: Side) -> Vec<crate::jail::Running> {
        match side {
            Side::Device => self.device_entrance.processes(),
            Side::Outside | Side::Router(_) => self.outside_entrance.processes(),
        }
    }

    fn place(&self, side: Side) -> Result<(&Entrance, &Netns), SiteError> {
        Ok(match side {
            Side::Device => (&self.device_entrance, &self.device),
            Side::Outside => (&self.outside_entrance, &self.outside),
            Side::Router(index) => (&self.outside_entrance, &self.uplink(index)?.router),
        })
    }

    fn start(
        &self,
        name: &str,
        entrance: &Entrance,
        netns: &Netns,
        command: &mut Command,
    ) -> Result<Process, SiteError> {
        let log = self.dir.join("log").join(format!("{name}.log"));
        logged(command, &log).map_err(|source| io(&log, source))?;
        Ok(Process::new(name, log, entrance.spawn(netns, command)?))
    }

    /// Starts the `dns` or `dhcp` server of an uplink, unless it runs.
    pub(crate) fn start_server(&self, index: u8, kind: &str) -> Result<Option<Process>, SiteError> {
        if !self.servers(index, kind).is_empty() {
            return Ok(None);
        }
        let uplink = self.uplink(index)?;
        let file = self.dir.join(format!("{kind}{index}.conf"));
        let text = if kind == "dns" {
            uplink.plan.dns_config(&self.dir)
        } else {
            uplink.plan.dhcp_config(&self.dir)
        };
        std::fs::write(&file, text).map_err(|source| io(&file, source))?;
        let pid_file = self.dir.join(format!("{kind}{index}.pid"));
        let _ = std::fs::remove_file(&pid_file);
        let name = format!("{kind}{index}");
        let process = self.start(
            &name,
            &self.outside_entrance,
            &uplink.router,
            // dnsmasq writes its pid file, after opening its sockets, only without --no-daemon.
            Command::new("dnsmasq")
                .arg("--keep-in-foreground")
                .arg("--log-facility=-")
                .arg(format!("--conf-file={}", file.display())),
        )?;
        let limit = Duration::from_secs(10);
        let deadline = Instant::now() + limit;
        while !pid_file.exists() {
            if process.ended().is_some() || Instant::now() > deadline {
                return Err(SiteError::NotUp {
                    name,
                    seconds: limit.as_secs(),
                    log: process.output(),
                });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(Some(process))
    }

    /// Ends the `dns` or `dhcp` server of an uplink and waits until it is gone.
    pub(crate) fn end_server(&self, index: u8, kind: &str) -> Result<(), SiteError> {
        self.uplink(index)?;
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let servers = self.servers(index, kind);
            if servers.is_empty() || Instant::now() > deadline {
                return Ok(());
            }
            for server in servers {
                server.signal(Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn servers(&self, index: u8, kind: &str) -> Vec<crate::jail::Running> {
        let mark = format!("{kind}{index}.conf");
        self.outside_entrance
            .processes()
            .into_iter()
            .filter(|running| running.line.ends_with(&mark))
            .collect()
    }
}

pub(crate) fn io(path: &Path, source: std::io::Error) -> SiteError {
    SiteError::Io {
        path: path.to_owned(),
        source,
    }
}
