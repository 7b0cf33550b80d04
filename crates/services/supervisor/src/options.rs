//! The command line, and the table of units that it may name.

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, Subcommand};
use serde::Deserialize;
use units::{UnitName, UnitSpec, ids};

use crate::calls::Network;
use crate::filter::Filter;
use crate::machine::{Origin, Policy, Unit};

/// Starts, watches and restarts all services of the device.
///
/// Exit codes: 0 told to end; 1 could not run; 10 (lab) a reboot is wanted; 11 (lab) power off is wanted.
#[derive(Debug, Parser)]
#[command(name = "supervisor", version, args_conflicts_with_subcommands = true)]
pub(crate) struct Options {
    /// Internal modes.
    #[command(subcommand)]
    pub mode: Option<Mode>,
    /// The device's root directory.
    #[arg(long, default_value = "/")]
    pub root: PathBuf,
    /// Services to run: "all", "none", or names with commas.
    #[arg(long, default_value = "all")]
    pub units: String,
    /// Where the services' binaries are [default: beside this one].
    #[arg(long)]
    pub bin_dir: Option<PathBuf>,
    /// Log level: error, warn, info, debug, trace.
    #[arg(long, default_value = "info")]
    pub log: String,
    /// The watchdog to pet: a device below /dev, or a file for the lab [default: /dev/watchdog on a
    /// device that has it, else <root>/run/supervisor/watchdog].
    #[arg(long)]
    pub watchdog: Option<PathBuf>,
    /// A JSON file with units instead of the table of services, to bring up or test a device.
    #[arg(long)]
    pub table: Option<PathBuf>,
    /// For tests only.
    #[command(flatten)]
    pub lab: Lab,
}

/// What the lab changes about all services, so that tests meet in seconds what takes minutes or never happens.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Lab {
    /// Longest silence of services in seconds, instead of the table's.
    #[arg(long, value_name = "SECONDS", help_heading = "Lab")]
    pub heartbeat: Option<NonZeroU64>,
    /// Directory with orders to services of a debug build to fail at a named point (crate `agent`, `points.rs`).
    #[arg(long, value_name = "DIR", help_heading = "Lab")]
    pub points: Option<PathBuf>,
    /// The way to a simulated TPM, such as swtpm:host=127.0.0.1,port=2321.
    #[arg(long, value_name = "WAY", help_heading = "Lab")]
    pub tpm: Option<String>,
}

impl Lab {
    /// Changes the unit of a service.
    pub(crate) fn apply(&self, unit: &mut Unit) {
        if let (Some(seconds), Some(heartbeat)) = (self.heartbeat, &mut unit.spec.heartbeat) {
            *heartbeat = Duration::from_secs(seconds.get());
        }
        if let Some(dir) = &self.points {
            let value = dir.to_string_lossy().into_owned();
            unit.spec.env.insert(POINTS.into(), value);
            if let Some(paths) = &mut unit.spec.sandbox.paths {
                paths.read.push(dir.clone());
            }
        }
        if let (Some(way), ids::KEEPER) = (&self.tpm, unit.spec.name.as_str()) {
            unit.spec.env.insert(TCTI.into(), way.clone());
            // A simulator is a server, not a device node.
            unit.filter.network = Network::Internet;
        }
    }
}

/// Environment variable that tells tpmmgr the way to the TPM.
const TCTI: &str = "TPMMGR_TCTI";

/// Environment variable that tells a service where its orders are.
const POINTS: &str = "EVE_POINTS";

/// Internal modes.
#[derive(Debug, Subcommand)]
pub(crate) enum Mode {
    /// Becomes the unit that standard input describes. For the supervisor itself.
    #[command(name = "unit-exec", hide = true)]
    UnitExec,
}

/// The form of `--table`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(crate) struct TableFile {
    /// The units.
    pub units: Vec<TableUnit>,
    /// The numbers of the plan.
    #[serde(default)]
    pub policy: Option<Policy>,
}

/// One unit of `--table`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(crate) struct TableUnit {
    /// What to run; the name must be a service's (without a slash).
    pub spec: UnitSpec,
    /// Units that are started before it.
    #[serde(default)]
    pub after: Vec<UnitName>,
    /// Its system calls and its network.
    #[serde(default)]
    pub filter: Filter,
}

/// A table file that can't be used.
#[derive(Debug, thiserror::Error)]
#[error("table {path}: {reason}", path = path.display())]
pub(crate) struct TableFileError {
    path: PathBuf,
    reason: String,
}

/// Reads a table file.
pub(crate) fn read_table(path: &Path) -> Result<(Vec<Unit>, Option<Policy>), TableFileError> {
    let failed = |reason: String| TableFileError {
        path: path.to_owned(),
        reason,
    };
    let text = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    let table: TableFile =
        serde_json::from_slice(&text).map_err(|error| failed(error.to_string()))?;
    let mut units: Vec<Unit> = Vec::new();
    for TableUnit {
        spec,
        after,
        filter,
    } in table.units
    {
        spec.check()
            .map_err(|error| failed(format!("{}: {error}", spec.name)))?;
        if spec.name.instance().is_some() {
            return Err(failed(format!(
                "{} is the name of a transient unit",
                spec.name
            )));
        }
        if units.iter().any(|unit| unit.spec.name == spec.name) {
            return Err(failed(format!("{} is there twice", spec.name)));
        }
        let mut unit = Unit::new(spec, Origin::Service);
        unit.after = after;
        unit.filter = filter;
        units.push(unit);
    }
    Ok((units, table.policy))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Options::command().debug_assert();
        let options = Options::parse_from(["supervisor", "--root", "/x", "--units", "nim"]);
        assert!(options.mode.is_none());
        let shim = Options::parse_from(["supervisor", crate::shim::SUBCOMMAND]);
        assert!(matches!(shim.mode, Some(Mode::UnitExec)));
    }

    #[test]
    fn the_lab_changes_services_and_nobody_else_does() {
        let table = || {
            crate::table::units(
                &crate::table::select("all").unwrap(),
                "/r".as_ref(),
                "/b".as_ref(),
            )
            .unwrap()
        };
        let plain = Options::parse_from(["supervisor", "--root", "/r"]);
        for (mut unit, before) in table().into_iter().zip(table()) {
            plain.lab.apply(&mut unit);
            assert_eq!(unit, before);
        }
        let lab = Options::parse_from(["supervisor", "--heartbeat", "5", "--points", "/lab"]);
        for mut unit in table() {
            lab.lab.apply(&mut unit);
            assert_eq!(unit.spec.heartbeat, Some(Duration::from_secs(5)));
            assert_eq!(unit.spec.env.get(POINTS).map(String::as_str), Some("/lab"));
            let paths = unit.spec.sandbox.paths.unwrap();
            assert!(paths.read.contains(&"/lab".into()) && !paths.write.contains(&"/lab".into()));
        }
        assert!(Options::try_parse_from(["supervisor", "--heartbeat", "0"]).is_err());
    }

    #[test]
    fn a_simulated_tpm_is_the_keepers_alone() {
        let all = crate::table::select("all").unwrap();
        let table = || crate::table::units(&all, "/r".as_ref(), "/b".as_ref()).unwrap();
        let lab = Options::parse_from(["supervisor", "--tpm", "swtpm:port=1"]);
        for (mut unit, before) in table().into_iter().zip(table()) {
            lab.lab.apply(&mut unit);
            if unit.spec.name.as_str() == ids::KEEPER {
                assert_eq!(unit.spec.env[TCTI], "swtpm:port=1");
                assert_eq!(unit.filter.network, Network::Internet);
            } else {
                assert_eq!(unit, before);
            }
        }
    }

    #[test]
    fn a_bad_table_is_refused_with_its_reason() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("t");
        for (text, word) in [
            ("{", "EOF"),
            (r#"{"Units":[],"X":1}"#, "unknown field"),
            (
                r#"{"Units":[{"Spec":{"name":"a/b","argv":["/x"],"sandbox":{"uid":1,"gid":1}}}]}"#,
                "transient",
            ),
            (
                r#"{"Units":[{"Spec":{"name":"a","argv":["x"],"sandbox":{"uid":1,"gid":1}}}]}"#,
                "absolute",
            ),
        ] {
            std::fs::write(&file, text).unwrap();
            let error = read_table(&file).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
