//! volume -> content tree -> blob -> download -> datastore -> port, and blob -> verification.

use model::{
    code::Code,
    content::{
        ContentPhase, ContentTreeConfig, DatastoreConfig, DownloadPhase, DownloaderConfig,
        DownloaderStatus, VerifyPhase,
    },
    fault::Fault,
    id::{AppId, ContentTreeId, DatastoreId, Digest, VolumeKey},
    volume::{VolumeConfig, VolumeOrigin, VolumePhase, VolumeStatus},
};

use super::{
    Condition, Kind, Nature, Subject,
    walk::{Block, Walk},
};
use crate::words;

pub(crate) fn volume_phase(phase: &VolumePhase) -> String {
    match phase {
        VolumePhase::AwaitContent {
            done_bytes,
            total_bytes,
            content,
        } => {
            let word = if content.is_empty() {
                "not known"
            } else {
                content
            };
            match (done_bytes, total_bytes) {
                (0, 0) => format!("waits for content: {word}"),
                (done, total) => {
                    format!("waits for content: {word}, {}", words::part(*done, *total))
                }
            }
        }
        VolumePhase::AwaitSpace => "waits for disk space".to_owned(),
        VolumePhase::Creating { percent } => format!("being made, {percent} %"),
        VolumePhase::Created => "ready".to_owned(),
        VolumePhase::Deleting => "being removed".to_owned(),
        VolumePhase::Failed => "failed".to_owned(),
    }
}

fn content_phase(phase: &ContentPhase) -> String {
    match phase {
        ContentPhase::Waiting => "waiting".to_owned(),
        ContentPhase::Downloading {
            done_bytes,
            total_bytes,
        } => format!("downloading, {}", words::part(*done_bytes, *total_bytes)),
        ContentPhase::Verifying { percent } => format!("being verified, {percent} %"),
        ContentPhase::Loaded => "verified".to_owned(),
        ContentPhase::Failed => "failed".to_owned(),
    }
}

impl<'a> Walk<'a> {
    /// What keeps the vault locked: whoever looks after images and volumes waits for it.
    pub(super) fn vault(&mut self) -> Block {
        let status = self.device.vault.get("vault")?;
        if status.is_usable() {
            return None;
        }
        let key = status.key.clone().unwrap_or_default();
        let subject = Self::subject(Kind::Vault, key, "");
        self.enter(subject.clone(), "locked", |w| match &status.fault {
            Some(fault) => Some(w.fault(subject, fault)),
            None => Some(Condition::progress(subject, "it is being opened")),
        })
    }

    fn volume_subject(&self, key: VolumeKey) -> Subject {
        let text = key.to_string();
        let d = self.device;
        let status = d.volumes.get(&text).map(|v| &v.display_name);
        let same = |config: &&VolumeConfig| config.id == key.volume;
        let config = d.volume_configs.rows.values().find(same);
        let name = status
            .filter(|name| !name.is_empty())
            .or(config.map(|config| &config.display_name));
        Self::subject(Kind::Volume, text, name.cloned().unwrap_or_default())
    }

    /// A volume in the generation on the device. `wanted` is its key in the config, where that is known.
    pub(super) fn volume(
        &mut self,
        app: Option<AppId>,
        wanted: Option<VolumeKey>,
        key: VolumeKey,
    ) -> Block {
        let d = self.device;
        let subject = self.volume_subject(key);
        let status = d.volumes.get(&key.to_string());
        let state = status.map_or("not known".to_owned(), |v| volume_phase(&v.phase));
        let config_key = wanted.unwrap_or(key).to_string();
        self.enter(subject.clone(), state, |w| {
            let config = d.volume_configs.get(&config_key);
            if let Some(fault) = config.and_then(|config| config.fault.as_ref()) {
                return Some(w.fault(subject, fault));
            }
            if let Some(app) = app
                && !d.volume_refs.rows.contains_key(&format!("{app}.{key}"))
            {
                let text = "zedmanager has not asked for it";
                return Some(w.missing(&d.volume_refs, &format!("{app}.{key}"), subject, text));
            }
            let Some(status) = status else {
                let text = "volumemgr says nothing of it";
                return Some(w.missing(&d.volumes, &key.to_string(), subject, text));
            };
            if status.phase == VolumePhase::Created {
                let answer = format!("{}.{key}", app?);
                let answered = d.volume_ref_statuses.get(&answer);
                return match answered {
                    Some(row) if row.phase == VolumePhase::Created => None,
                    Some(_) | None => {
                        let text = "it is there, and volumemgr has not told the application";
                        Some(w.missing(&d.volume_ref_statuses, &answer, subject, text))
                    }
                };
            }
            if config.is_none()
                && let Some(condition) = w.answers("zedagent", "VolumeConfig")
            {
                return Some(condition);
            }
            if config.is_none() && status.fault.is_none() {
                let text = "it is not in the config";
                return Some(Walk::not_in_config(subject, text));
            }
            Some(w.unfinished(subject, config, status))
        })
    }

    fn unfinished(
        &mut self,
        subject: Subject,
        config: Option<&'a VolumeConfig>,
        status: &'a VolumeStatus,
    ) -> Condition {
        let d = self.device;
        // Space is asked for before the content is.
        if status.phase != VolumePhase::AwaitSpace
            && let Some(VolumeOrigin::Content(tree)) = config.map(|config| &config.origin)
            && let Some(below) = self.content(*tree)
        {
            return below;
        }
        if let Some(down) = self.answers("volumemgr", "VolumeStatus") {
            return down;
        }
        let condition = match &status.fault {
            Some(fault) => {
                let mut condition = self.fault(subject, fault);
                if let (VolumePhase::AwaitSpace, Some(disk)) = (&status.phase, d.disk.get("global"))
                {
                    condition.causes.push(format!(
                        "the disk has {}, {} used, {} kept for the device",
                        words::size(disk.total_bytes),
                        words::size(disk.used_bytes),
                        words::size(disk.reserved_bytes)
                    ));
                }
                condition
            }
            None => match &status.phase {
                VolumePhase::Creating { percent } => {
                    Condition::progress(subject, format!("its file is being made, {percent} %"))
                }
                VolumePhase::AwaitContent { content, .. } => {
                    Condition::waits(subject, format!("it waits for its content: {content}"))
                }
                VolumePhase::AwaitSpace => Condition::waits(subject, "it waits for disk space"),
                VolumePhase::Deleting => Condition::progress(subject, "it is being removed"),
                VolumePhase::Failed | VolumePhase::Created => {
                    Condition::new(subject, Nature::Fault, "it failed; no reason is known")
                }
            },
        };
        self.unchanged(condition, &d.volumes, &status.key.to_string())
    }

    pub(super) fn not_in_config(subject: Subject, text: &str) -> Condition {
        let mut condition = Condition::new(subject, Nature::Fault, text);
        condition.code = Some(Code::ConfigReference);
        Code::ConfigReference
            .remedy()
            .clone_into(&mut condition.remedy);
        condition
    }

    pub(super) fn content(&mut self, id: ContentTreeId) -> Block {
        let d = self.device;
        let key = id.to_string();
        let config = d.content_tree_configs.get(&key);
        let status = d.content_trees.get(&key);
        let name = config
            .map(|tree| tree.display_name.clone())
            .or(status.map(|tree| tree.display_name.clone()));
        let subject = Self::subject(Kind::ContentTree, key.clone(), name.unwrap_or_default());
        let state = status.map_or("not known".to_owned(), |tree| content_phase(&tree.phase));
        self.enter(subject.clone(), state, |w| {
            let Some(config) = config else {
                if let Some(condition) = w.answers("zedagent", "ContentTreeConfig") {
                    return Some(condition);
                }
                return Some(Walk::not_in_config(subject, "it is not in the config"));
            };
            if let Some(fault) = &config.fault {
                let below = w.faulty_datastore(config);
                return below.or_else(|| Some(w.fault(subject, fault)));
            }
            if status.is_some_and(|tree| tree.phase == ContentPhase::Loaded) {
                return None;
            }
            if let Some(below) = w.blob(config) {
                return Some(below);
            }
            match status {
                None => {
                    let text = "volumemgr says nothing of it";
                    Some(w.missing(&d.content_trees, &key, subject, text))
                }
                Some(tree) => tree.fault.as_ref().map(|fault| w.fault(subject, fault)),
            }
        })
    }

    /// What is amiss in the config of an object that another one refers to and that `fault` names. zedagent refuses
    /// the one because of the other.
    pub(super) fn faulty_reference(&mut self, fault: &Fault) -> Block {
        if fault.code != Code::ConfigReference {
            return None;
        }
        let condition = self.referred(fault)?;
        // What is not there has no age of its own.
        let (since, next) = (condition.since.unwrap_or(fault.since), condition.next);
        Some(self.at(condition, Some(since), next))
    }

    fn referred(&mut self, fault: &Fault) -> Block {
        let d = self.device;
        let named = |key: &str| fault.text.contains(key);
        let volume = d
            .volume_configs
            .rows
            .iter()
            .find(|(key, row)| named(key) && row.fault.is_some());
        if let Some((key, config)) = volume {
            let subject = Self::subject(Kind::Volume, key, config.display_name.as_str());
            return self.enter(subject.clone(), "not correct in the config", |w| {
                let below = match config.origin {
                    VolumeOrigin::Content(tree) => w.content(tree),
                    VolumeOrigin::Blank => None,
                };
                let fault = config.fault.as_ref();
                below.or_else(|| fault.map(|fault| w.fault(subject, fault)))
            });
        }
        let networks = &d.network_instance_configs.rows;
        let network = networks.values().find(|row| named(&row.id.to_string()))?;
        self.network_instance(network.id, false)
    }

    /// The first datastore of a content tree that is missing or not correct in the config.
    fn faulty_datastore(&mut self, tree: &ContentTreeConfig) -> Block {
        let d = self.device;
        tree.datastores.iter().find_map(|id| {
            let key = id.to_string();
            let row = d.datastores.get(&key);
            let name = row.map(|row| row.fqdn.clone()).unwrap_or_default();
            let subject = Self::subject(Kind::Datastore, key, name);
            match row {
                None => {
                    let text = "it is not in the config";
                    self.stop("not known", Walk::not_in_config(subject, text))
                }
                Some(row) => {
                    let condition = self.fault(subject, row.fault.as_ref()?);
                    self.stop("not correct in the config", condition)
                }
            }
        })
    }

    fn blob(&mut self, tree: &'a ContentTreeConfig) -> Block {
        let d = self.device;
        let key = tree.sha256.to_string();
        let subject = Self::subject(Kind::Blob, key.clone(), "");
        let status = d.blobs.get(&key);
        let state = status.map_or("not known".to_owned(), |blob| content_phase(&blob.phase));
        self.enter(subject.clone(), state, |w| {
            let Some(status) = status else {
                let text = "volumemgr says nothing of it";
                return Some(w.missing(&d.blobs, &key, subject, text));
            };
            match &status.phase {
                ContentPhase::Loaded => return None,
                ContentPhase::Verifying { .. } => {
                    if let Some(below) = w.verification(tree.sha256) {
                        return Some(below);
                    }
                }
                ContentPhase::Waiting | ContentPhase::Downloading { .. } => {
                    if let Some(below) = w.download(tree.sha256) {
                        return Some(below);
                    }
                }
                // What was fetched is wrong: only the next try helps.
                ContentPhase::Failed => {}
            }
            if let Some(down) = w.answers("volumemgr", "BlobStatus") {
                return Some(down);
            }
            match &status.fault {
                Some(fault) => Some(w.fault(subject, fault)),
                // Nothing wants it yet: then it blocks nothing.
                None if status.phase == ContentPhase::Waiting => None,
                None => {
                    let text = format!("it is {}", content_phase(&status.phase));
                    let condition = Condition::progress(subject, text);
                    Some(w.unchanged(condition, &d.blobs, &key))
                }
            }
        })
    }

    fn verification(&mut self, digest: Digest) -> Block {
        let d = self.device;
        let key = digest.to_string();
        let subject = Self::subject(Kind::Verification, key.clone(), "");
        let status = d.verifications.get(&key);
        let state = match status.map(|row| &row.phase) {
            None => "not begun".to_owned(),
            Some(VerifyPhase::Verifying { percent }) => format!("reads the file, {percent} %"),
            Some(VerifyPhase::Verified { .. }) => "right".to_owned(),
            Some(VerifyPhase::Mismatch { .. }) => "wrong".to_owned(),
        };
        self.enter(subject.clone(), state, |w| {
            let Some(status) = status else {
                if !d.verify_configs.rows.contains_key(&key) {
                    let text = "volumemgr has not ordered it";
                    return Some(w.missing(&d.verify_configs, &key, subject, text));
                }
                let text = "the verifier says nothing of it";
                return Some(w.missing(&d.verifications, &key, subject, text));
            };
            if let Some(down) = w.answers("verifier", "VerifyImageStatus") {
                return Some(down);
            }
            match (&status.phase, &status.fault) {
                (VerifyPhase::Verified { .. }, _) => None,
                (_, Some(fault)) => Some(w.fault(subject, fault)),
                (VerifyPhase::Mismatch { found }, None) => {
                    let text = format!("the file has SHA-256 {found}");
                    Some(Condition::new(subject, Nature::Fault, text))
                }
                (VerifyPhase::Verifying { percent }, None) => {
                    let text = format!("the file is being read, {percent} %");
                    let condition = Condition::progress(subject, text);
                    Some(w.unchanged(condition, &d.verifications, &key))
                }
            }
        })
    }

    fn download(&mut self, digest: Digest) -> Block {
        let d = self.device;
        let key = digest.to_string();
        let Some(order) = d.download_configs.get(&key) else {
            // Not ordered: nothing wants it, it waits for space, or volumemgr can't order yet.
            return self.answers("volumemgr", "DownloaderConfig");
        };
        let subject = Self::subject(Kind::Download, key.clone(), "");
        let status = d.downloads.get(&key);
        let state = match status {
            None => "not begun".to_owned(),
            Some(row) => download_phase(row),
        };
        self.enter(subject.clone(), state, |w| {
            if let Some(below) = w.datastores(order, status) {
                return Some(below);
            }
            let Some(status) = status else {
                let text = "the downloader says nothing of it";
                return Some(w.missing(&d.downloads, &key, subject, text));
            };
            if let Some(down) = w.answers("downloader", "DownloaderStatus") {
                return Some(down);
            }
            w.fetching(subject, order, status)
        })
    }

    fn fetching(
        &mut self,
        subject: Subject,
        order: &'a DownloaderConfig,
        status: &'a DownloaderStatus,
    ) -> Block {
        let d = self.device;
        let from = self.from(order);
        if let Some(fault) = &status.fault {
            let mut condition = self.fault(subject, fault);
            condition.causes.extend(from);
            return Some(condition);
        }
        let from = from.map(|from| format!(" {from}")).unwrap_or_default();
        let condition = match &status.phase {
            _ if status.attempt != order.attempt => {
                Condition::progress(subject, "what an earlier try left is being removed")
            }
            DownloadPhase::Waiting { done_bytes: 0 } => {
                Condition::waits(subject, format!("it waits to be fetched{from}"))
            }
            DownloadPhase::Waiting { done_bytes } => {
                let done = words::size(*done_bytes);
                Condition::waits(
                    subject,
                    format!("{done} are here; it waits to be fetched{from}"),
                )
            }
            DownloadPhase::Downloading {
                done_bytes,
                total_bytes,
            } => {
                let part = words::part(*done_bytes, *total_bytes);
                Condition::progress(
                    subject,
                    format!("{part} are here, over port {}{from}", status.port),
                )
            }
            // volumemgr has not taken notice yet, unless it is down.
            DownloadPhase::Downloaded { .. } => return self.answers("volumemgr", "BlobStatus"),
        };
        Some(self.unchanged(condition, &d.downloads, &order.sha256.to_string()))
    }

    /// Where a file is fetched from, in words.
    fn from(&self, order: &DownloaderConfig) -> Option<String> {
        let key = order.datastores.first()?.to_string();
        let DatastoreConfig { fqdn, dpath, .. } = self.device.datastores.get(&key)?;
        let parts = [fqdn.as_str(), dpath.as_str(), order.relative_url.as_str()];
        let path: Vec<_> = parts
            .iter()
            .map(|part| part.trim_matches('/'))
            .filter(|part| !part.is_empty())
            .collect();
        Some(format!("from {}", path.join("/")))
    }

    /// The datastores of a file and the ports to them. A fetch that goes on proves that they work.
    fn datastores(
        &mut self,
        order: &'a DownloaderConfig,
        status: Option<&'a DownloaderStatus>,
    ) -> Block {
        let d = self.device;
        if let Some(DownloadPhase::Downloading { .. } | DownloadPhase::Downloaded { .. }) =
            status.map(|row| &row.phase)
        {
            return None;
        }
        let key = |id: &DatastoreId| id.to_string();
        let known = |id: &&DatastoreId| {
            let row = d.datastores.get(&key(id));
            row.is_some_and(|row| row.fault.is_none())
        };
        let first = order.datastores.first();
        let id = order.datastores.iter().find(known).or(first)?;
        let row = d.datastores.get(&key(id));
        let name = row.map(|row| row.fqdn.clone()).unwrap_or_default();
        let subject = Self::subject(Kind::Datastore, key(id), name.clone());
        let state = if row.is_some() { "known" } else { "not known" };
        self.enter(subject.clone(), state, |w| {
            let Some(row) = row else {
                if let Some(condition) = w.answers("zedagent", "DatastoreConfig") {
                    return Some(condition);
                }
                return Some(Walk::not_in_config(subject, "it is not in the config"));
            };
            if let Some(fault) = &row.fault {
                return Some(w.fault(subject, fault));
            }
            let max_cost = d.items().int("network.download.max.cost");
            let max_cost = u8::try_from(max_cost).unwrap_or(u8::MAX);
            match status.and_then(|row| row.fault.as_ref()) {
                Some(fault) if fault.code == Code::PortDns => {
                    w.dns_of_uplink(max_cost, &name, fault)
                }
                // A server that refuses was reached.
                Some(fault) if fault.code != Code::DownloadNetwork => None,
                Some(_) | None => w.uplink(max_cost, &name),
            }
        })
    }
}

fn download_phase(row: &DownloaderStatus) -> String {
    match &row.phase {
        DownloadPhase::Waiting { done_bytes: 0 } => "waiting".to_owned(),
        DownloadPhase::Waiting { done_bytes } => {
            format!("waiting, {} are here", words::size(*done_bytes))
        }
        DownloadPhase::Downloading {
            done_bytes,
            total_bytes,
        } => format!(
            "{}, over {}",
            words::part(*done_bytes, *total_bytes),
            row.port
        ),
        DownloadPhase::Downloaded { size_bytes, .. } => {
            format!("fetched, {}", words::size(*size_bytes))
        }
    }
}
