//! What can be typed.

use std::{path::PathBuf, str::FromStr};

use clap::{Args, Parser, Subcommand};
use jiff::{SignedDuration, Timestamp};

use crate::{logline::Level, why::Asked};

const EXIT_CODES: &str = "\
Exit codes:
  0  done; everything asked about is as wanted; nothing differs
  1  something is not as wanted (why), or differs (diff)
  2  wrong usage, or input that is not an object of the topic
  3  there is no such object, topic or log, or several answer to the name
  4  something can't be read or written
  5  refused: it would disturb a running service (see --force)";

/// What runs on this device, what is on its bus, and why something is stuck.
#[derive(Debug, Parser)]
#[command(name = "eve", version, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Flags of every subcommand.
#[derive(Debug, Clone, Args)]
pub(super) struct Global {
    /// Directory that holds run/ and persist/ of the device: a live one's, or a copy
    #[arg(long, global = true, default_value = "/", value_name = "DIR")]
    pub(super) root: PathBuf,
    /// Read the device in a support bundle instead, as it was when that was made
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) bundle: Option<PathBuf>,
    /// Answer in JSON
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// See the device as at this time (RFC 3339), or at that of its newest object: for copies
    #[arg(long, global = true, value_name = "TIME|newest")]
    pub(super) at: Option<At>,
}

/// A moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum At {
    /// This one.
    Time(Timestamp),
    /// When the newest object was written.
    Newest,
}

impl FromStr for At {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "newest" => Ok(Self::Newest),
            text => text
                .parse()
                .map(Self::Time)
                .map_err(|_| "not a time like 2026-01-31T12:00:00Z, nor `newest`".to_owned()),
        }
    }
}

/// A time, or how long ago it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    At(Timestamp),
    Ago(SignedDuration),
}

impl Moment {
    /// Seen from `now`.
    pub(super) fn before(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::Ago(ago) => now.checked_sub(ago).unwrap_or(Timestamp::MIN),
        }
    }
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || "not a time like 2026-01-31T12:00:00Z, nor `90s`, `15m`, `2h`, `3d`".to_owned();
        if let Ok(at) = text.parse() {
            return Ok(Self::At(at));
        }
        let unit = text.chars().next_back().ok_or_else(wrong)?;
        let seconds = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            _ => return Err(wrong()),
        };
        let number: u32 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
        Ok(Self::Ago(SignedDuration::from_secs(
            i64::from(number) * seconds,
        )))
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Services with their guests and helpers
    Ps,
    /// Topics of the bus, or objects of one
    Get(SelectArgs),
    /// Changes of objects as they happen
    Watch(SelectArgs),
    /// Put an object into a topic, to debug one service alone
    Put(PutArgs),
    /// Remove an object from a topic, to debug one service alone
    Delete(DeleteArgs),
    /// What differs between two devices, or since a saved state
    Diff(DiffArgs),
    /// Why something is not as wanted: the first condition that blocks it
    #[command(after_help = "Without NAME: everything (of the kind) that is not as wanted.")]
    Why(WhyArgs),
    /// What an operator would look at: numbered checks with verdicts and remedies
    #[command(
        after_help = "Exit code 1 when a check has failed; warnings and skipped checks don't count.\nRun it as root: what can't be looked at is skipped."
    )]
    Check(CheckArgs),
    /// From boot to ready: every service and object with its phases
    Timeline(TimelineArgs),
    /// One archive with everything that is needed to understand the device, without its secrets
    SupportBundle(BundleArgs),
    /// What services, their helpers, guests and the kernel have printed
    #[command(
        after_help = "Lines that are no longer where they were printed come from newlogd's store. The kernel's messages\nare those that newlogd has collected; `dmesg` has the last minutes."
    )]
    Logs(LogArgs),
    /// The device on one screen
    Status,
    /// A certificate by an authority for the device's key, in place of the one that it made itself
    #[command(subcommand)]
    Identity(IdentityCommand),
    /// Completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// What is done about the device's certificate.
#[derive(Debug, Subcommand)]
pub(super) enum IdentityCommand {
    /// Print a request for a certificate (PKCS #10): for `evc device sign`, or any authority that the controller trusts
    Request,
    /// Put a certificate of the device's key into the CONFIG partition
    Install {
        /// The certificate in PEM form
        file: PathBuf,
        /// Although the controller knows the device by another one
        #[arg(long)]
        force: bool,
    },
}

/// A topic or a part of it.
#[derive(Debug, Args)]
pub(super) struct SelectArgs {
    /// The topic's writer
    pub(super) service: Option<String>,
    /// The topic
    pub(super) topic: Option<String>,
    /// The object's key, or its beginning
    pub(super) key: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct PutArgs {
    /// The topic's writer
    pub(super) service: String,
    /// The topic
    pub(super) topic: String,
    /// The object's key
    pub(super) key: String,
    /// File with the object in JSON; - for standard input
    pub(super) file: PathBuf,
    /// Also declare the topic complete, so that its readers take notice
    #[arg(long)]
    pub(super) ready: bool,
    /// Although the topic's writer is running
    #[arg(long)]
    pub(super) force: bool,
    /// Also what is not an object of the topic
    #[arg(long)]
    pub(super) unchecked: bool,
}

#[derive(Debug, Args)]
pub(super) struct DeleteArgs {
    /// The topic's writer
    pub(super) service: String,
    /// The topic
    pub(super) topic: String,
    /// The object's key
    pub(super) key: String,
    /// Although the topic's writer is running
    #[arg(long)]
    pub(super) force: bool,
}

#[derive(Debug, Args)]
pub(super) struct DiffArgs {
    /// Root of the first device, or a saved state
    #[arg(value_name = "OLD")]
    pub(super) old: Option<PathBuf>,
    /// Root of the second device, or a saved state; this device if it is left out
    #[arg(value_name = "NEW", requires = "old")]
    pub(super) new: Option<PathBuf>,
    /// What differs since this state was saved (the same as OLD without NEW)
    #[arg(long, value_name = "FILE|DIR", conflicts_with_all = ["old", "new"])]
    pub(super) since: Option<PathBuf>,
    /// Save the state of this device instead, for a later --since; - prints it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["old", "new", "since"])]
    pub(super) save: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct WhyArgs {
    /// app, volume, network, port, onboarding, config, report or service; or a name of any of them
    #[arg(value_name = "KIND|NAME")]
    pub(super) kind: Option<String>,
    /// Key or name of the object, or the beginning of either
    #[arg(value_name = "NAME")]
    pub(super) name: Option<String>,
}

impl WhyArgs {
    /// The kind and the name that were meant: `why app web`, `why app`, `why web`, `why`.
    pub(super) fn meant(&self) -> Result<(Option<Asked>, Option<&str>), crate::Error> {
        use clap::ValueEnum as _;
        let Some(first) = self.kind.as_deref() else {
            return Ok((None, None));
        };
        match (Asked::from_str(first, true), self.name.as_deref()) {
            (Ok(kind), name) => Ok((Some(kind), name)),
            (Err(_), None) => Ok((None, Some(first))),
            (Err(_), Some(_)) => {
                let kinds: Vec<String> = Asked::value_variants()
                    .iter()
                    .map(ToString::to_string)
                    .collect();
                Err(crate::Error::Usage(format!(
                    "{first:?} is not a kind of object; the kinds are {}",
                    kinds.join(", ")
                )))
            }
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// Groups (identity, network, storage, machine, services, sandbox), names or numbers of checks; all if none
    /// is given. `sandbox` also shows what every process may
    #[arg(value_name = "GROUP|CHECK|NUMBER")]
    pub(super) which: Vec<String>,
    /// Only warnings and failures
    #[arg(long, short)]
    pub(super) problems: bool,
    /// The list of checks instead
    #[arg(long)]
    pub(super) list: bool,
}

#[derive(Debug, Args)]
pub(super) struct TimelineArgs {
    /// Also what happened after the device was ready
    #[arg(long, short)]
    pub(super) all: bool,
}

#[derive(Debug, Args)]
pub(super) struct BundleArgs {
    /// The archive; by default one that is named after device and time, in the current directory
    #[arg(long, value_name = "FILE")]
    pub(super) out: Option<PathBuf>,
    /// Also what applications printed on their consoles, which may hold their secrets
    #[arg(long)]
    pub(super) consoles: bool,
}

#[derive(Debug, Args)]
pub(super) struct LogArgs {
    /// The unit (`nim`, `zedrouter/dns-bn1`, `kernel`) or the beginning of several's names; all if it is left out
    pub(super) unit: Option<String>,
    /// The console of this application's guest instead
    #[arg(long, alias = "app", value_name = "APP", conflicts_with = "unit")]
    pub(super) console: Option<String>,
    /// Only lines since this time (RFC 3339), or since so long ago (`90s`, `15m`, `2h`, `3d`)
    #[arg(long, value_name = "TIME|AGO")]
    pub(super) since: Option<Moment>,
    /// Only lines until then
    #[arg(long, value_name = "TIME|AGO", conflicts_with = "follow")]
    pub(super) until: Option<Moment>,
    /// Go on with what is printed from now on
    #[arg(long, short)]
    pub(super) follow: bool,
    /// Only lines of this level and above; what has no level counts as info
    #[arg(long, value_enum, default_value_t = Level::Trace)]
    pub(super) level: Level,
    /// So many of the last lines; 0 for all
    #[arg(long, short = 'n', default_value_t = 200)]
    pub(super) lines: usize,
}
