//! State files: what the supervisor must know after its own restart.
//!
//! One file per unit, `<root>/run/supervisor/units/<stem>.json`, rewritten whenever the unit changes,
//! before the change takes effect in the world. They end with the boot (`/run`), and name it, so that
//! a pid of another boot is never taken for a living process. Readable to root only: a unit's
//! environment may hold secrets.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use units::UnitName;

use crate::machine::Unit;
use crate::procfs;

#[derive(Serialize, Deserialize)]
struct Record {
    boot: String,
    unit: Unit,
}

/// The state files of one device.
#[derive(Debug)]
pub(crate) struct Records {
    dir: PathBuf,
    boot: String,
    written: BTreeMap<UnitName, Unit>,
}

impl Records {
    /// Those in the supervisor's run directory.
    pub(crate) fn open(run: &Path) -> Self {
        Self {
            dir: run.join("units"),
            boot: procfs::boot_id(),
            written: BTreeMap::new(),
        }
    }

    /// The units of this boot. Files that can't be read or belong to another boot are removed.
    pub(crate) fn load(&mut self) -> Vec<Unit> {
        let mut units = Vec::new();
        let Ok(entries) = fs::read_dir(&self.dir) else {
            return units;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            // What a killed supervisor did not rename yet took no effect, whole or not.
            let is_record = path.extension().is_some_and(|end| end == "json");
            let record = is_record
                .then(|| fs::read(&path).ok())
                .flatten()
                .and_then(|text| serde_json::from_slice::<Record>(&text).ok())
                .filter(|record| record.boot == self.boot);
            if let Some(Record { unit, .. }) = record {
                self.written.insert(unit.spec.name.clone(), unit.clone());
                units.push(unit);
            } else {
                tracing::warn!(path = %path.display(), "state of another boot or unreadable: dropped");
                // What can't be removed is overwritten when its unit starts.
                let _ = fs::remove_file(&path);
            }
        }
        units
    }

    /// Writes a unit's file unless it holds just that.
    pub(crate) fn save(&mut self, unit: &Unit) -> io::Result<()> {
        let name = &unit.spec.name;
        if self.written.get(name).is_some_and(|old| same(old, unit)) {
            return Ok(());
        }
        let record = Record {
            boot: self.boot.clone(),
            unit: unit.clone(),
        };
        let text = serde_json::to_vec(&record).map_err(io::Error::other)?;
        // The name of a temporary file is no stem, so it can't be taken for a record of its own.
        let temporary = self.dir.join(".new");
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?
            .write_all(&text)?;
        fs::rename(&temporary, self.path(name))?;
        self.written.insert(name.clone(), unit.clone());
        Ok(())
    }

    /// Removes the files of units that are not in `known`.
    pub(crate) fn keep_only<'a>(&mut self, known: impl Fn(&UnitName) -> bool + 'a) {
        let gone: Vec<_> = self
            .written
            .keys()
            .filter(|name| !known(name))
            .cloned()
            .collect();
        for name in gone {
            // Gone already is as good.
            let _ = fs::remove_file(self.path(&name));
            self.written.remove(&name);
        }
    }

    fn path(&self, name: &UnitName) -> PathBuf {
        self.dir.join(format!("{}.json", name.stem()))
    }
}

/// Signs of life are not worth a write each: after a restart everybody is given new time anyway.
fn same(old: &Unit, new: &Unit) -> bool {
    let calm = |unit: &Unit| {
        let mut unit = unit.clone();
        unit.heard_at_start();
        unit
    };
    old == new || calm(old) == calm(new)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::machine::Origin;
    use crate::time::{Now, Uptime};
    use jiff::Timestamp;
    use std::time::Duration;
    use units::UnitSpec;

    fn now(s: u64) -> Now {
        Now {
            uptime: Uptime(Duration::from_secs(s)),
            wall: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn units_come_back_and_bad_files_go() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("units")).unwrap();
        let mut records = Records::open(dir.path());
        let spec = UnitSpec::new("zedrouter/dns".parse().unwrap(), "/bin/x", 1);
        let mut unit = Unit::new(spec, Origin::Transient);
        unit.started(5, 6, now(1));
        records.save(&unit).unwrap();
        fs::write(dir.path().join("units/junk.json"), "{").unwrap();
        let whole = fs::read(dir.path().join("units/zedrouter+dns.json")).unwrap();
        fs::write(dir.path().join("units/.new"), whole).unwrap();
        let mut again = Records::open(dir.path());
        assert_eq!(again.load(), [unit.clone()]);
        assert_eq!(fs::read_dir(dir.path().join("units")).unwrap().count(), 1);

        let file = dir.path().join("units/zedrouter+dns.json");
        let before = fs::read(&file).unwrap();
        unit.heard(false, None, now(50));
        again.save(&unit).unwrap();
        assert_eq!(
            fs::read(&file).unwrap(),
            before,
            "a sign of life is no news"
        );
        unit.heard(false, Some("busy".into()), now(51));
        again.save(&unit).unwrap();
        assert_ne!(fs::read(&file).unwrap(), before);

        let mut other_boot = Records::open(dir.path());
        other_boot.boot = "another".into();
        assert_eq!(other_boot.load(), []);
        assert!(!file.exists());
        again.keep_only(|_| false);
        assert!(again.written.is_empty());
    }
}
