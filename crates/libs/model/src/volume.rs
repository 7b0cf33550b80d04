//! Volumes: the disks of applications.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{
    app::DiskTarget,
    fault::Fault,
    id::{AppId, ContentTreeId, VolumeId, VolumeKey},
};

/// Where a volume's first content comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum VolumeOrigin {
    /// Empty, of the given size.
    Blank,
    /// A copy of (or overlay on) a content tree.
    Content(ContentTreeId),
}

/// A volume as the controller wants it. Topic `zedagent/VolumeConfig`, key: [`VolumeKey`] as text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct VolumeConfig {
    /// Which volume.
    pub id: VolumeId,
    /// Which incarnation.
    #[serde(default)]
    pub generation: u64,
    /// Name for people.
    pub display_name: String,
    /// Where its content comes from.
    pub origin: VolumeOrigin,
    /// Size that the guest sees at most, in bytes; 0 for the size of the content.
    #[serde(default)]
    pub max_size_bytes: u64,
    /// The guest may not write.
    #[serde(default)]
    pub read_only: bool,
    /// May lie outside the encrypted vault.
    #[serde(default)]
    pub clear_text: bool,
    /// What is wrong with this part of the config; then it is not acted upon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

impl VolumeConfig {
    /// The volume with its generation.
    pub fn key(&self) -> VolumeKey {
        VolumeKey {
            volume: self.id,
            generation: self.generation,
        }
    }
}

/// An application's wish to use a volume in one generation. A volume exists on disk while the
/// config or at least one of these wants it. Topic `zedmanager/VolumeRefConfig`,
/// key: `<app uuid>.<volume key>`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct VolumeRefConfig {
    /// Who.
    pub app: AppId,
    /// Which volume in the controller's config.
    pub volume: VolumeKey,
    /// Generation to make on the device: the config's plus the app's purges.
    pub device_generation: u64,
    /// How the guest will see it.
    #[serde(default)]
    pub target: DiskTarget,
}

impl VolumeRefConfig {
    /// The bus key.
    pub fn key(&self) -> String {
        format!("{}.{}", self.app, self.device_volume())
    }

    /// What lies on the disk of the device.
    pub fn device_volume(&self) -> VolumeKey {
        VolumeKey {
            volume: self.volume.volume,
            generation: self.device_generation,
        }
    }
}

/// Where a volume is on its way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum VolumePhase {
    /// Waits for its content tree, which is so far (0 to 100).
    #[serde(rename_all = "PascalCase")]
    AwaitContent {
        /// Bytes present of the content.
        done_bytes: u64,
        /// Bytes of the content, 0 when unknown.
        total_bytes: u64,
        /// The content tree's phase in a word, for people.
        content: String,
    },
    /// Waits for disk space.
    AwaitSpace,
    /// Its file is being made.
    #[serde(rename_all = "PascalCase")]
    Creating {
        /// 0 to 100.
        percent: u8,
    },
    /// Ready to use.
    Created,
    /// Being removed.
    Deleting,
    /// It can't go on; see the status's fault.
    Failed,
}

/// File format of a volume or an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum ImageFormat {
    /// Bytes of the disk.
    #[default]
    Raw,
    /// QEMU's copy-on-write format, version 2 or 3.
    Qcow2,
    /// An ISO 9660 image.
    Iso,
    /// An OCI image.
    Container,
}

/// State of a volume on the device. Topic `volumemgr/VolumeStatus`, key: [`VolumeKey`] as text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct VolumeStatus {
    /// Which volume, with the generation on the device.
    pub key: VolumeKey,
    /// Name for people.
    pub display_name: String,
    /// How far it is.
    pub phase: VolumePhase,
    /// Its content tree, if any.
    #[serde(default)]
    pub content_tree: Option<ContentTreeId>,
    /// The file, once created.
    #[serde(default)]
    pub path: Option<PathBuf>,
    /// The file's format.
    #[serde(default)]
    pub format: ImageFormat,
    /// Size that the guest sees, in bytes.
    #[serde(default)]
    pub virtual_size_bytes: u64,
    /// Size on the device's disk, in bytes.
    #[serde(default)]
    pub used_bytes: u64,
    /// Applications that refer to it; derived, never counted.
    #[serde(default)]
    pub referenced_by: Vec<AppId>,
    /// The guest may not write.
    #[serde(default)]
    pub read_only: bool,
    /// What keeps it from going on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

/// Answer to a [`VolumeRefConfig`]. Topic `volumemgr/VolumeRefStatus`, same key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct VolumeRefStatus {
    /// Who asked.
    pub app: AppId,
    /// What lies on the disk.
    pub volume: VolumeKey,
    /// How far it is.
    pub phase: VolumePhase,
    /// The file, once created.
    #[serde(default)]
    pub path: Option<PathBuf>,
    /// The file's format.
    #[serde(default)]
    pub format: ImageFormat,
    /// The guest may not write.
    #[serde(default)]
    pub read_only: bool,
    /// What keeps it from going on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

/// The disk of the device. Topic `volumemgr/DiskMetric`, key `global`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DiskMetric {
    /// Size of `/persist` in bytes.
    pub total_bytes: u64,
    /// Of these used, in bytes, rounded to MiB so that idle writes do not change it all the time.
    pub used_bytes: u64,
    /// Kept free for the device itself, in bytes.
    pub reserved_bytes: u64,
    /// What applications' volumes and content may still take, in bytes.
    pub available_bytes: u64,
}
