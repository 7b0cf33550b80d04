//! Disks and what lies on them.

use std::time::Duration;

use model::{
    content::ContentPhase,
    vault::VaultPhase,
    volume::{VolumeOrigin, VolumePhase},
};

use super::{Fact, Judge, fail, ok, skipped, some_of, warn};
use crate::{why, words};

/// A disk that takes longer for one small durable file slows everything down.
const SLOW: Duration = Duration::from_millis(500);
/// Share of inodes that should be free, in percent.
const INODES: u64 = 5;
/// What `/run` needs at least.
const RUN: u64 = 16 << 20;

impl Judge<'_> {
    pub(super) fn storage(&mut self) {
        self.writable();
        self.reserve();
        self.image_fit();
        self.orphans();
        self.saved();
        self.logs();
        self.vault();
    }

    fn writable(&mut self) {
        let read_only = self
            .facts
            .persist
            .known()
            .is_some_and(|space| space.read_only);
        let remedy =
            "Check the disk (kernel messages); applications go on, nothing new is remembered.";
        let verdict = match &self.facts.durable_write {
            _ if read_only => fail("it is mounted read-only", remedy),
            Fact::Known(took) if *took > SLOW => warn(
                format!("one small file took {} ms", took.as_millis()),
                "The disk is busy or failing.",
            ),
            Fact::Known(took) => ok(format!("one small file in {} ms", took.as_millis())),
            Fact::Failed(why) => fail(why.clone(), remedy),
            Fact::Skipped(why) => skipped(why.clone()),
        };
        self.add("disk.writable", verdict);
        let verdict = match &self.facts.persist {
            Fact::Known(space) if space.inodes == 0 => skipped("the file system has no limit"),
            Fact::Known(space) => {
                let text = format!("{} of {} free", space.inodes_free, space.inodes);
                if space.inodes_free == 0 {
                    fail(text, "Remove files; the bus can't write new objects.")
                } else if space.inodes_free < space.inodes / 100 * INODES {
                    warn(text, "Look for a directory with very many files.")
                } else {
                    ok(text)
                }
            }
            Fact::Failed(why) => fail(why.clone(), "Check that /persist is mounted."),
            Fact::Skipped(why) => skipped(why.clone()),
        };
        self.add("disk.inodes", verdict);
        let verdict = match &self.facts.run {
            Fact::Known(space) => {
                let text = format!("{} free", words::size(space.available));
                if space.available < RUN {
                    fail(text, "The bus lies in /run: look what else fills it.")
                } else {
                    ok(text)
                }
            }
            Fact::Failed(why) => fail(why.clone(), "Check that /run is mounted."),
            Fact::Skipped(why) => skipped(why.clone()),
        };
        self.add("disk.run", verdict);
    }

    fn reserve(&mut self) {
        let Some(disk) = self.device.disk.get("global") else {
            self.add(
                "disk.reserve",
                skipped("volumemgr says nothing of the disk"),
            );
            return;
        };
        let text = format!(
            "{} used, {} for applications, {} for the device itself",
            words::part(disk.used_bytes, disk.total_bytes),
            words::size(disk.available_bytes),
            words::size(disk.reserved_bytes)
        );
        let free = disk.total_bytes.saturating_sub(disk.used_bytes);
        let remedy = "Remove volumes, or lower storage.dom0.disk.minusage.percent.";
        let verdict = if free < disk.reserved_bytes {
            fail(format!("{text}: the reserve is touched"), remedy)
        } else if disk.available_bytes == 0 {
            warn(format!("{text}: nothing left for new volumes"), remedy)
        } else {
            ok(text)
        };
        self.add("disk.reserve", verdict);
    }

    /// What the config wants that is not on the disk yet, beside what is left.
    fn image_fit(&mut self) {
        let d = self.device;
        let Some(disk) = d.disk.get("global") else {
            self.add(
                "disk.image-fit",
                skipped("volumemgr says nothing of the disk"),
            );
            return;
        };
        let waits: Vec<String> = d
            .volumes
            .rows
            .values()
            .filter(|volume| volume.phase == VolumePhase::AwaitSpace)
            .map(|volume| volume.display_name.clone())
            .collect();
        let created = |config: &model::volume::VolumeConfig| {
            d.volumes.rows.values().any(|volume| {
                volume.key.volume == config.id && volume.phase == VolumePhase::Created
            })
        };
        let mut needed: u64 = 0;
        let mut missing = 0;
        for config in d
            .volume_configs
            .rows
            .values()
            .filter(|config| !created(config))
        {
            missing += 1;
            needed = needed.saturating_add(config.max_size_bytes);
            if let VolumeOrigin::Content(tree) = config.origin {
                let key = tree.to_string();
                let loaded = d
                    .content_trees
                    .get(&key)
                    .is_some_and(|status| status.phase == ContentPhase::Loaded);
                let size = d
                    .content_tree_configs
                    .get(&key)
                    .map_or(0, |c| c.max_download_bytes);
                if !loaded {
                    needed = needed.saturating_add(size);
                }
            }
        }
        let text = format!(
            "{} to be made need {}; {} are left",
            words::count(missing, "volume"),
            words::size(needed),
            words::size(disk.available_bytes)
        );
        let remedy = "Give the device a larger disk, or its applications smaller volumes.";
        let verdict = if !waits.is_empty() {
            fail(
                format!("{} waits for space; {text}", some_of(&waits)),
                remedy,
            )
        } else if d.volume_configs.rows.is_empty() {
            skipped("the config has no volume")
        } else if missing == 0 {
            ok("every volume of the config is on the disk")
        } else if needed > disk.available_bytes {
            fail(text, remedy)
        } else {
            ok(text)
        };
        self.add("disk.image-fit", verdict);
    }

    fn vault(&mut self) {
        let Some(vault) = self.device.vault.get("vault") else {
            self.add("vault", skipped("vaultmgr says nothing"));
            return;
        };
        let why = vault.fault.as_ref();
        let text =
            |word: &str| why.map_or(word.to_owned(), |fault| format!("{word}: {}", fault.text));
        let remedy = |word: &str| why.map_or(word, |fault| fault.code.remedy()).to_owned();
        let verdict = match vault.phase {
            VaultPhase::Open if vault.sealed && why.is_none() => {
                ok("encrypted, its key sealed to the software of now")
            }
            VaultPhase::Open => warn(
                text("encrypted, its key is not sealed to the software of now"),
                remedy("vaultmgr seals it by itself; `eve logs vaultmgr`."),
            ),
            VaultPhase::Disabled => warn(
                text("not encrypted"),
                remedy("Guard the disk, or use hardware with a TPM."),
            ),
            VaultPhase::Locked => fail(
                text("locked, so no application can start"),
                remedy("It is being opened; `eve logs vaultmgr`."),
            ),
        };
        self.add("vault", verdict);
    }

    fn orphans(&mut self) {
        let d = self.device;
        let verdict = match &self.facts.volume_files {
            Fact::Known(_) if !d.volumes.ready => {
                skipped("volumemgr has not completed its volumes")
            }
            Fact::Known(files) => {
                // `<volume key>.<format>`, and helpers of the same beginning while it is made.
                let known = |file: &String| {
                    let hidden = file.trim_start_matches('.');
                    d.volumes
                        .rows
                        .keys()
                        .any(|key| hidden.starts_with(key.as_str()))
                };
                let orphans: Vec<String> = files.iter().filter(|f| !known(f)).cloned().collect();
                if orphans.is_empty() {
                    ok(words::count(files.len(), "file"))
                } else {
                    warn(
                        format!("nobody's: {}", some_of(&orphans)),
                        "volumemgr removes what is its own by itself; look where these come from.",
                    )
                }
            }
            Fact::Failed(why) | Fact::Skipped(why) => skipped(why.clone()),
        };
        self.add("disk.orphans", verdict);
    }

    fn saved(&mut self) {
        let now = self.device.at;
        let has_config = self
            .device
            .zedagent
            .get("zedagent")
            .is_some_and(|row| row.config_at.is_some());
        let verdict = match &self.facts.saved_config {
            Fact::Known(saved) if saved.bytes == 0 => fail(
                "the saved config is empty",
                "It is written again with the next config.",
            ),
            Fact::Known(saved) => ok(format!(
                "{}, written {} ago",
                words::size(saved.bytes),
                words::ago(saved.at, now)
            )),
            Fact::Failed(why) if has_config => fail(
                format!("{why}: a boot without the controller would start nothing"),
                "Check that /persist can be written.",
            ),
            Fact::Failed(why) => skipped(format!("{why}, and there is no config to save")),
            Fact::Skipped(why) => skipped(why.clone()),
        };
        self.add("saved.config", verdict);
        let verdict = match &self.facts.config.chain {
            Fact::Known(()) => ok("a boot without the controller can verify the saved config"),
            Fact::Failed(why) => fail(why.clone(), "They are fetched again with the next contact."),
            Fact::Skipped(why) => skipped(why.clone()),
        };
        self.add("saved.certs", verdict);
    }

    fn logs(&mut self) {
        let Some(logs) = self.device.newlog.get("global") else {
            self.add("logs.quota", skipped("newlogd says nothing"));
            self.add("logs.sources", skipped("newlogd says nothing"));
            return;
        };
        let unkept: Vec<String> = why::unkept(self.device)
            .into_iter()
            .map(|source| format!("{}: {}", source.name, source.text))
            .collect();
        let verdict = if unkept.is_empty() {
            ok("everything that was printed is kept")
        } else {
            warn(
                some_of(&unkept),
                "Find out why it prints so much: `eve logs SOURCE`. Other sources are not affected.",
            )
        };
        self.add("logs.sources", verdict);
        let text = format!(
            "{} of files",
            words::part(logs.total_size_logs, logs.quota_bytes)
        );
        let verdict = match &logs.fault {
            Some(fault) => fail(fault.line(), fault.code.remedy()),
            None if logs.failed_to_send => warn(
                format!("{text}; the controller takes none"),
                "They are kept and sent later; the oldest go first when the quota is used up.",
            ),
            None if logs.lines_dropped > 0 => warn(
                format!(
                    "{text}; {} lines were dropped before they were sent",
                    logs.lines_dropped
                ),
                "Raise newlog.gzipfiles.ondisk.maxmegabytes, or lower the log levels.",
            ),
            None => ok(text),
        };
        self.add("logs.quota", verdict);
    }
}
