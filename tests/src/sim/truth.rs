//! What was asked of the device, told from the configs that it took: independently of the services.
//!
//! Marks are set when a config comes into force and stay, because what was allowed then may be carried out late.

use std::collections::BTreeMap;

use model::id::{AppId, VolumeKey};

use super::{
    machine::State,
    wish::{AppNumber, AppWish, Wish, app_id, app_number, digest, owner},
};

/// What was asked.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    /// The config in force, once there was one.
    pub(crate) wish: Option<Wish>,
    /// The last sound form of every application that is in the config.
    pub(crate) sound: BTreeMap<AppNumber, AppWish>,
    /// When the purge command of an application came into force that had a guest before: what no guest had used by
    /// then is as good as new.
    pub(crate) purged: BTreeMap<AppNumber, u64>,
    /// Counts what happens, whatever the clocks say.
    moments: u64,
    /// Purges of each application that were carried out when it was told to purge again.
    purges_before: BTreeMap<AppNumber, u64>,
    /// The same, as its last guest shows.
    purges: BTreeMap<AppNumber, u64>,
    /// Purge commands since the last guest of an application was started.
    commands: BTreeMap<AppNumber, u32>,
    /// The purge counter of every application that ever was in the config.
    last_purge: BTreeMap<AppNumber, u32>,
    /// The device was told to stop everything.
    pub(crate) going_down: bool,
    /// It has not carried that out yet: a power cut that comes first is not what was asked for.
    pub(crate) owed: bool,
    /// Configs that were refused: hashes.
    pub(crate) foreign: u32,
}

impl Truth {
    pub(crate) fn booted(&mut self) {
        self.going_down = self.owed;
    }

    /// The config wants this guest as it was started.
    pub(crate) fn wants_guest(&self, app: AppId, incarnation: u64) -> bool {
        let n = app_number(app);
        let (Some(wish), Some(sound)) = (&self.wish, self.sound.get(&n)) else {
            return false;
        };
        let (purges, restarts) = (incarnation >> 32, incarnation & 0xffff_ffff);
        let is_purged = self
            .purges_before
            .get(&n)
            .is_none_or(|before| purges > *before);
        !self.going_down
            && wish.apps.contains_key(&n)
            && sound.activate
            && restarts == u64::from(sound.restart)
            && is_purged
    }

    /// No guest was started since the last purge command.
    fn is_to_be_purged(&self, n: AppNumber) -> bool {
        let purges = self.purges.get(&n).copied().unwrap_or(0);
        self.purges_before
            .get(&n)
            .is_some_and(|before| purges <= *before)
    }

    /// A volume that is made now may have to go again.
    pub(crate) fn may_go(&self, key: VolumeKey) -> bool {
        !self.wants_volume(key) || self.is_to_be_purged(owner(key.volume))
    }

    /// Purged more than once since it last had a guest: it may get one for each time, and the first then ends again.
    pub(crate) fn is_purged_again(&self, app: AppId) -> bool {
        self.commands
            .get(&app_number(app))
            .is_some_and(|commands| *commands > 1)
    }

    /// A guest was started.
    pub(crate) fn started(&mut self, app: AppId, incarnation: u64) {
        let n = app_number(app);
        self.purges.insert(n, incarnation >> 32);
        self.commands.remove(&n);
    }

    /// Something happens now.
    fn moment(&mut self) -> u64 {
        self.moments += 1;
        self.moments
    }

    /// The config wants this volume, in this generation or an earlier one that a purge has replaced.
    pub(crate) fn wants_volume(&self, key: VolumeKey) -> bool {
        let n = owner(key.volume);
        let Some(wish) = &self.wish else { return false };
        // A faulty application keeps what it had.
        let had = self.sound.get(&n).filter(|_| wish.apps.contains_key(&n));
        let named = wish.volumes().find(|(m, _)| *m == n).map(|(_, app)| app);
        [had, named].into_iter().flatten().any(|app| {
            app.volumes(n)
                .iter()
                .any(|v| v.volume == key.volume && v.generation <= key.generation)
        })
    }
}

impl State {
    /// A config came into force.
    pub(crate) fn took(&mut self, hash: &str) {
        let Some(wish) = self.evc.history.get(hash).cloned() else {
            self.violate(format!("took a config that nobody made: {hash}"));
            return;
        };
        if wish.foreign {
            self.violate(format!("took a config of another device: {hash}"));
            return;
        }
        self.note(&format!("== config {hash} in force: {wish:?}"));
        let truth = &mut self.truth;
        let now = truth.moment();
        let before = truth.wish.replace(wish.clone());
        if let Some(before) = &before {
            let told = before.reboot != wish.reboot || before.shutdown != wish.shutdown;
            truth.going_down |= told;
            truth.owed |= told;
        }
        truth.sound.retain(|n, _| wish.apps.contains_key(n));
        truth.commands.retain(|n, _| wish.apps.contains_key(n));
        truth.purged.retain(|n, _| wish.apps.contains_key(n));
        truth.purges_before.retain(|n, _| wish.apps.contains_key(n));
        truth.purges.retain(|n, _| wish.apps.contains_key(n));
        self.guests
            .starts
            .retain(|app, _| wish.apps.contains_key(&app_number(*app)));
        let before = truth.sound.clone();
        let mut purged = Vec::new();
        for (n, app) in &wish.apps {
            if !wish.is_sound(*n) {
                continue;
            }
            let last = truth.last_purge.insert(*n, app.purge);
            let old = truth.sound.insert(*n, app.clone());
            // Who did not look while the application was gone has been told to purge it.
            if old.is_none() && last.is_some_and(|purge| purge != app.purge) {
                truth.purges_before.insert(*n, 0);
            }
            if old.is_some_and(|old| old.purge != app.purge) {
                *truth.commands.entry(*n).or_default() += 1;
                let purges = truth.purges.get(n).copied().unwrap_or(0);
                truth.purges_before.insert(*n, purges);
                if self.guests.starts.contains_key(&app_id(*n)) {
                    truth.purged.insert(*n, now);
                }
                purged.push(*n);
            }
        }
        for (key, file) in &mut self.disk.volumes {
            let n = owner(key.volume);
            file.may_go |= purged.contains(&n) || !self.truth.wants_volume(*key);
            // Another generation is another volume.
            let newer = self.truth.sound.get(&n).is_some_and(|app| {
                app.volumes(n)
                    .iter()
                    .any(|v| v.volume == key.volume && v.generation > key.generation)
            });
            let gone = self
                .truth
                .sound
                .get(&n)
                .is_some_and(|app| !app.volumes(n).iter().any(|v| v.volume == key.volume));
            file.may_go |= newer || gone;
        }
        let mut restarted: Vec<AppId> = Vec::new();
        for (app, qemu) in &self.guests.qemus {
            let n = app_number(*app);
            let command = self.truth.sound.get(&n).is_some_and(|now| {
                before.get(&n).is_some_and(|b| {
                    (b.restart, b.purge, b.activate) != (now.restart, now.purge, now.activate)
                })
            });
            if command || !self.truth.wants_guest(*app, qemu.unit.incarnation) {
                restarted.push(*app);
            }
        }
        for app in restarted {
            if let Some(qemu) = self.guests.qemus.get_mut(&app) {
                qemu.may_end = true;
            }
        }
        // What no content tree names may have to be fetched again.
        let named = wish.images();
        self.datastore
            .served
            .retain(|served, _| named.iter().any(|image| digest(*image) == *served));
    }

    /// A guest has these disks from now on.
    pub(crate) fn uses(&mut self, disks: &[VolumeKey]) {
        let now = self.truth.moment();
        for key in disks {
            if let Some(file) = self.disk.volumes.get_mut(key) {
                file.used.get_or_insert(now);
            }
        }
    }

    /// A guest that was told to run and is about to be touched.
    pub(crate) fn may_end(&self, app: AppId) -> bool {
        self.truth.going_down || self.guests.qemus.get(&app).is_none_or(|qemu| qemu.may_end)
    }
}

impl super::machine::Disk {
    /// When volumes were used first.
    pub(crate) fn used(&self, keys: &[VolumeKey]) -> Vec<u64> {
        keys.iter()
            .filter_map(|key| self.volumes.get(key))
            .filter_map(|file| file.used)
            .collect()
    }
}

/// Applications that the config in force wants to run.
pub(crate) fn wanted_apps(wish: &Wish) -> impl Iterator<Item = (AppId, &AppWish)> {
    wish.apps
        .iter()
        .filter(|(_, app)| app.activate)
        .map(|(n, app)| (app_id(*n), app))
}
