//! Datastores, images and volumes.

use serde::{Deserialize, Serialize};

use super::is_default;
use crate::config::size::Size;

/// Where images come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Datastore {
    /// Its name.
    pub name: String,
    /// `https://host:port`, for others than http(s) with `kind`.
    pub url: String,
    /// Protocol; taken from the scheme of `url` when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<DatastoreKind>,
    /// Folder or bucket, goes before every image's file.
    #[serde(default, skip_serializing_if = "is_default")]
    pub path: String,
    /// User or API key.
    #[serde(default, skip_serializing_if = "is_default")]
    pub user: String,
    /// Password.
    #[serde(default, skip_serializing_if = "is_default")]
    pub password: String,
    /// Region of a cloud store.
    #[serde(default, skip_serializing_if = "is_default")]
    pub region: String,
    /// Certificates to trust for it, PEM.
    #[serde(default, skip_serializing_if = "is_default")]
    pub certificates: Vec<String>,
}

/// Protocol of a datastore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names say it")]
pub enum DatastoreKind {
    Http,
    Https,
    S3,
    Sftp,
    Oci,
    Azure,
    Gcs,
}

/// An image in a datastore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// Its name.
    pub name: String,
    /// Name of the datastore.
    pub datastore: String,
    /// File in it, or `repository:tag` of a registry.
    pub file: String,
    /// Format; taken from the end of `file` when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// SHA-256 of the file, hex.
    #[serde(default, skip_serializing_if = "is_default")]
    pub sha256: String,
    /// Size of the file.
    #[serde(default, skip_serializing_if = "is_default")]
    pub size: Size,
    /// Signature of the file (`openssl dgst -sha256 -sign`), base64; then devices use it only if it is good.
    #[serde(default, skip_serializing_if = "is_default")]
    pub signature: String,
    /// Whose signature: certificate of the signer, then those between it and the devices' root, PEM.
    #[serde(default, skip_serializing_if = "is_default")]
    pub signer: String,
}

/// Format of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Format {
    Raw,
    Qcow,
    Qcow2,
    Vhd,
    Vmdk,
    Ova,
    Vhdx,
    Container,
    Iso,
}

/// A disk of an application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Name of the image that it is made from; a blank disk without one.
    #[serde(default, skip_serializing_if = "is_default")]
    pub image: String,
    /// How large it may grow; a blank disk needs it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub size: Size,
    /// Applications can't write to it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub readonly: bool,
    /// What it is to the application.
    #[serde(default, skip_serializing_if = "is_default")]
    pub target: Target,
    /// Kept outside the encrypted vault.
    #[serde(default, skip_serializing_if = "is_default")]
    pub clear_text: bool,
}

/// What a volume is to the application.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// A disk.
    #[default]
    Disk,
    /// The kernel that is booted.
    Kernel,
    /// Its initial RAM disk.
    Initrd,
    /// Another RAM disk.
    RamDisk,
}
