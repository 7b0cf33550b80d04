//! What a device must have become when everything is in order for a while.

use std::collections::BTreeSet;

use api::info::{ZSwState, z_info_msg::InfoContent};
use model::{
    app::AppPhase,
    id::{AppId, VolumeKey},
    node::DevicePhase,
    topics::{
        APP_INSTANCE_STATUS, APP_NETWORK_STATUS, BLOB_STATUS, CONTENT_TREE_STATUS, DOMAIN_STATUS,
        DOWNLOADER_STATUS, NETWORK_INSTANCE_STATUS, NODE_AGENT_STATUS, VERIFY_IMAGE_STATUS,
        VOLUME_STATUS, ZEDAGENT_STATUS,
    },
};

use super::{
    device::Device,
    evc::Evc,
    machine::State,
    truth::wanted_apps,
    wish::{AppWish, Wish, app_id, digest},
};

impl Device {
    /// Everything in which the device is not yet what the last config says, or in which the controller does not
    /// know it. Expects a sound config that is not foreign.
    pub fn differences(&self) -> Vec<String> {
        let mut found = Vec::new();
        if !self.is_up() {
            found.push("it is not up".to_owned());
            return found;
        }
        self.statuses(&mut found);
        self.faults(&mut found);
        self.machine.with(|s| {
            let wish = s.evc.wish.clone();
            guests(s, &wish, &mut found);
            volumes(s, &wish, &mut found);
            images(s, &wish, &mut found);
            networks(s, &wish, &mut found);
            reports(&s.evc, &wish, &mut found);
            // No life has a property that opens anything.
            if s.doors.is_open() {
                found.push(format!("somebody gets in: {:?}", s.doors));
            }
        });
        found
    }

    fn statuses(&self, found: &mut Vec<String>) {
        let wish = self.machine.with(|s| s.evc.wish.clone());
        let zedagent = self.rows(&ZEDAGENT_STATUS);
        let in_force = zedagent.get("zedagent").map(|z| z.config_hash.clone());
        if in_force != Some(wish.hash()) {
            found.push(format!(
                "the config in force is {in_force:?}, not {}",
                wish.hash()
            ));
        }
        let node = self.rows(&NODE_AGENT_STATUS);
        if node.get("nodeagent").map(|n| n.phase.clone()) != Some(DevicePhase::Online) {
            found.push(format!("the device is {node:?}"));
        }
        let apps = self.rows(&APP_INSTANCE_STATUS);
        for (n, app) in &wish.apps {
            let Some(status) = apps.get(&app_id(*n).to_string()) else {
                found.push(format!("app {n} has no status"));
                continue;
            };
            let as_wanted = match status.phase {
                AppPhase::Running { .. } => app.activate,
                AppPhase::Halted => !app.activate,
                _ => false,
            };
            let counters = (status.restart_counter, status.purge_counter);
            if !as_wanted || counters != (app.restart, app.purge) {
                found.push(format!("app {n} is {status:?}"));
            }
        }
        for key in apps.keys() {
            let known = wish.apps.keys().any(|n| app_id(*n).to_string() == *key);
            if !known {
                found.push(format!("app {key} is still spoken of"));
            }
        }
    }

    /// Nothing may be wrong any more.
    fn faults(&self, found: &mut Vec<String>) {
        macro_rules! look {
            ($($topic:ident),+) => {$(
                for (key, row) in self.rows(&$topic) {
                    // A changed config may wait for a restart of its guest.
                    if let Some(fault) = row.fault.filter(|f| f.code != model::code::Code::AppNeedsRestart) {
                        found.push(format!("{} {key}: {fault}", stringify!($topic)));
                    }
                }
            )+};
        }
        look!(
            APP_INSTANCE_STATUS,
            APP_NETWORK_STATUS,
            BLOB_STATUS,
            CONTENT_TREE_STATUS,
            DOMAIN_STATUS,
            DOWNLOADER_STATUS,
            NETWORK_INSTANCE_STATUS,
            VERIFY_IMAGE_STATUS,
            VOLUME_STATUS,
            ZEDAGENT_STATUS
        );
        for info in self.bus.topics().unwrap() {
            if info.quarantined > 0 {
                found.push(format!(
                    "{}/{} has unreadable rows",
                    info.service, info.name
                ));
            }
        }
    }
}

fn guests(s: &State, wish: &Wish, found: &mut Vec<String>) {
    for (app, wanted) in wanted_apps(wish) {
        match s.guests.qemus.get(&app).filter(|qemu| qemu.runs()) {
            Some(qemu) => guest(s, app, wanted, qemu, found),
            None => found.push(format!("the guest of {app} does not run")),
        }
    }
    let running: BTreeSet<AppId> = wanted_apps(wish).map(|(app, _)| app).collect();
    for app in s.guests.qemus.keys().chain(s.guests.dirs.keys()) {
        if !running.contains(app) {
            found.push(format!("something is left of the guest of {app}"));
        }
    }
    for app in &s.disk.kept {
        // domainmgr does not know after a reboot whether an application is gone or has not come yet.
        if !s.rebooted && !wish.apps.keys().any(|n| app_id(*n) == *app) {
            found.push(format!("{app} left its variables"));
        }
    }
}

fn guest(
    s: &State,
    app: AppId,
    wanted: &AppWish,
    qemu: &super::machine::Qemu,
    found: &mut Vec<String>,
) {
    let n = super::wish::app_number(app);
    if qemu.incarnation() & 0xffff_ffff != u64::from(wanted.restart) {
        found.push(format!("the guest of {app} was not restarted"));
    }
    let purged = s.truth.purged.get(&n);
    let used = s.disk.used(&qemu.disks);
    if purged.is_some_and(|at| used.iter().any(|used| used < at)) {
        found.push(format!("the guest of {app} was not purged"));
    }
    for (tap, _) in &qemu.vifs {
        if s.kernel.tap_bridge(tap).is_none() {
            found.push(format!("the guest of {app} is not connected"));
        }
    }
}

fn volumes(s: &State, wish: &Wish, found: &mut Vec<String>) {
    let mut wanted: Vec<VolumeKey> = Vec::new();
    for (n, app) in wish.volumes() {
        wanted.extend(app.volumes(n));
    }
    for want in &wanted {
        // A purge replaces a generation by the next one.
        let files: Vec<VolumeKey> = s
            .disk
            .volumes
            .keys()
            .filter(|key| key.volume == want.volume && key.generation >= want.generation)
            .copied()
            .collect();
        let n = super::wish::owner(want.volume);
        let held = s.guests.qemus.get(&app_id(n)).map(|q| q.disks.as_slice());
        let held = held.unwrap_or_default();
        let spare = files.iter().filter(|key| !held.contains(key)).count();
        let used = files.len() - spare;
        if files.is_empty() || used > 1 || (used > 0 && spare > 1) {
            found.push(format!("volume {want}: there is {files:?}"));
        }
    }
    for key in s.disk.volumes.keys() {
        if !wanted.iter().any(|want| want.volume == key.volume) {
            found.push(format!("volume {key} is left"));
        }
    }
    if !s.disk.partials.is_empty() || !s.disk.verifying.is_empty() {
        found.push("unfinished files are left".to_owned());
    }
}

fn images(s: &State, wish: &Wish, found: &mut Vec<String>) {
    if !s.disk.downloads.is_empty() {
        found.push(format!("downloads are left: {:?}", s.disk.downloads));
    }
    let named: BTreeSet<_> = wish.images().into_iter().map(digest).collect();
    for verified in s.disk.verified.keys() {
        if !named.contains(verified) {
            found.push(format!("image {verified} is left"));
        }
    }
}

fn networks(s: &State, wish: &Wish, found: &mut Vec<String>) {
    let wired = wanted_apps(wish).filter(|(_, app)| app.vif).count();
    let taps = s
        .kernel
        .made()
        .filter(|name| name.starts_with("nbu"))
        .count();
    if taps != wired {
        found.push(format!("{taps} taps, {wired} interfaces are wanted"));
    }
    let bridges = s.kernel.made().count() - taps;
    if bridges != 1 || s.kernel.resolvers.len() != 1 {
        found.push(format!(
            "{bridges} bridges, {} resolvers",
            s.kernel.resolvers.len()
        ));
    }
}

fn reports(evc: &Evc, wish: &Wish, found: &mut Vec<String>) {
    for (n, app) in &wish.apps {
        let told = evc.believes.get(&format!("app.{}", app_id(*n)));
        let state = told.and_then(|belief| match &belief.content {
            InfoContent::Ainfo(info) => ZSwState::try_from(info.state).ok(),
            _ => None,
        });
        let wanted = if app.activate {
            ZSwState::Running
        } else {
            ZSwState::Halted
        };
        if state != Some(wanted) {
            found.push(format!("the controller believes that app {n} is {state:?}"));
        }
    }
    for (key, (digest, last)) in &evc.due {
        let told = evc.believes.get(key);
        if told.is_none_or(|b| b.digest != *digest || b.gone != *last) {
            found.push(format!(
                "the controller does not know the last state of {key}"
            ));
        }
    }
    for (key, belief) in &evc.believes {
        if !evc.due.contains_key(key) && !belief.gone {
            found.push(format!("the controller believes that {key} is still there"));
        }
    }
}
