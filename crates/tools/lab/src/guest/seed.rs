//! A NoCloud seed disc, for tests that boot a guest without the device around it.

use super::{GuestError, io};
use crate::command;
use std::path::Path;
use std::process::Command;

/// What the seed tells a guest.
#[derive(Debug, Clone)]
pub struct Seed<'a> {
    /// `instance-id` of the meta-data.
    pub instance_id: &'a str,
    /// `local-hostname` of the meta-data.
    pub hostname: &'a str,
    /// The user-data, as it is.
    pub user_data: &'a str,
}

impl Seed<'_> {
    /// Writes the seed as an ISO 9660 image labelled `cidata` to `iso`; `work` must exist.
    pub fn write(&self, iso: &Path, work: &Path) -> Result<(), GuestError> {
        let dir = work.join("seed");
        std::fs::create_dir_all(&dir).map_err(|source| io(&dir, source))?;
        let meta = format!(
            "instance-id: {}\nlocal-hostname: {}\n",
            self.instance_id, self.hostname
        );
        for (name, text) in [("meta-data", meta.as_str()), ("user-data", self.user_data)] {
            let path = dir.join(name);
            std::fs::write(&path, text).map_err(|source| io(&path, source))?;
        }
        command::run(
            Command::new("xorrisofs")
                .args(["-quiet", "-V", "cidata", "-J", "-R", "-o"])
                .arg(iso)
                .arg(&dir),
        )?;
        Ok(())
    }
}
