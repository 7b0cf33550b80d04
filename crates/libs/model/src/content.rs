//! Content trees, blobs, downloads and verification: how an image gets onto the device.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{
    fault::Fault,
    id::{ContentTreeId, DatastoreId, Digest},
    security::{CipherBlock, Octets},
    volume::ImageFormat,
};

/// Protocol of a datastore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DatastoreKind {
    /// Plain HTTP.
    Http,
    /// HTTP over TLS.
    Https,
    /// S3.
    S3,
    /// SFTP.
    Sftp,
    /// OCI registry.
    ContainerRegistry,
    /// Azure blobs.
    AzureBlob,
    /// Google Cloud Storage.
    GoogleStorage,
}

/// A place to fetch images from. Topic `zedagent/DatastoreConfig`, key: its UUID.
/// Credentials are here only as the controller encrypted them: secrets never go on the bus in the clear.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DatastoreConfig {
    /// Which one.
    pub id: DatastoreId,
    /// Protocol.
    pub kind: DatastoreKind,
    /// Host with optional port; a scheme in front is tolerated.
    pub fqdn: String,
    /// Path prefix (bucket, directory).
    #[serde(default)]
    pub dpath: String,
    /// Region, for those that have one.
    #[serde(default)]
    pub region: String,
    /// PEM certificates to trust for this datastore beside the device's own.
    #[serde(default)]
    pub certificates_pem: Vec<String>,
    /// Name and password to log in with, encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<CipherBlock>,
    /// What is wrong with this part of the config; then it is not acted upon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

/// An image as the controller wants it. Topic `zedagent/ContentTreeConfig`, key: its UUID.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContentTreeConfig {
    /// Which one.
    pub id: ContentTreeId,
    /// Name for people.
    pub display_name: String,
    /// Datastores to try, in order.
    pub datastores: Vec<DatastoreId>,
    /// Path below the datastore's.
    pub relative_url: String,
    /// File format.
    pub format: ImageFormat,
    /// Digest of the whole file.
    pub sha256: Digest,
    /// Size limit in bytes; 0 for none.
    #[serde(default)]
    pub max_download_bytes: u64,
    /// Who vouches for it; then nothing is fetched or made before this was found good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<ImageSignature>,
    /// What is wrong with this part of the config; then it is not acted upon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

/// A signature of an image, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ImageSignature {
    /// ECDSA with SHA-256 over the whole file, in DER or as `r || s`.
    pub signature: Octets,
    /// The signer's certificate, PEM.
    pub signer_pem: String,
    /// Certificates between it and a root of the CONFIG partition, PEM.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub between_pem: String,
}

/// What became of a signature. Topic `verifier/SignatureStatus`, key: the UUID of the content tree; only of those that
/// are signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SignatureStatus {
    /// Which content tree.
    pub id: ContentTreeId,
    /// The digest that was signed.
    pub sha256: Digest,
    /// The signature that this is about.
    pub signature: ImageSignature,
    /// Who signed, once that is found good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<String>,
    /// Why it does not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

impl SignatureStatus {
    /// Whether it is about what the content tree says now.
    pub fn is_of(&self, tree: &ContentTreeConfig) -> bool {
        self.sha256 == tree.sha256 && Some(&self.signature) == tree.signature.as_ref()
    }
}

/// Where a content tree or blob is on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContentPhase {
    /// Nothing wants it yet, or it waits for its turn or for disk space.
    Waiting,
    /// Being fetched.
    #[serde(rename_all = "PascalCase")]
    Downloading {
        /// Bytes on the disk.
        done_bytes: u64,
        /// Bytes in all, 0 when unknown.
        total_bytes: u64,
    },
    /// Its digest is being checked.
    #[serde(rename_all = "PascalCase")]
    Verifying {
        /// 0 to 100.
        percent: u8,
    },
    /// Verified and usable.
    Loaded,
    /// It can't go on; see the status's fault.
    Failed,
}

/// State of a content tree. Topic `volumemgr/ContentTreeStatus`, key: its UUID.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContentTreeStatus {
    /// Which one.
    pub id: ContentTreeId,
    /// Name for people.
    pub display_name: String,
    /// The blob that it consists of.
    pub sha256: Digest,
    /// File format.
    pub format: ImageFormat,
    /// How far it is.
    pub phase: ContentPhase,
    /// The verified file, once loaded.
    #[serde(default)]
    pub path: Option<PathBuf>,
    /// Bytes of the file, once known.
    #[serde(default)]
    pub size_bytes: u64,
    /// What keeps it from going on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

/// State of a blob: one file, known by its digest. Topic `volumemgr/BlobStatus`, key: the digest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct BlobStatus {
    /// Its digest.
    pub sha256: Digest,
    /// How far it is.
    pub phase: ContentPhase,
    /// The verified file, once loaded.
    #[serde(default)]
    pub path: Option<PathBuf>,
    /// Bytes of the file, once known.
    #[serde(default)]
    pub size_bytes: u64,
    /// Content trees that refer to it; derived, never counted.
    #[serde(default)]
    pub referenced_by: Vec<ContentTreeId>,
    /// What keeps it from going on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

/// A file to fetch. Topic `volumemgr/DownloaderConfig`, key: the digest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DownloaderConfig {
    /// Expected digest; also the file's name.
    pub sha256: Digest,
    /// Datastores to try, in order.
    pub datastores: Vec<DatastoreId>,
    /// Path below the datastore's.
    pub relative_url: String,
    /// Size limit in bytes; 0 for none.
    #[serde(default)]
    pub max_bytes: u64,
    /// Counts how often a fetched file had the wrong digest: a new number fetches from scratch.
    #[serde(default)]
    pub attempt: u32,
}

/// State of a fetch. Topic `downloader/DownloaderStatus`, key: the digest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DownloaderStatus {
    /// Expected digest.
    pub sha256: Digest,
    /// The [`DownloaderConfig::attempt`] that this is about.
    #[serde(default)]
    pub attempt: u32,
    /// How far it is.
    pub phase: DownloadPhase,
    /// Port that it is fetched over.
    #[serde(default)]
    pub port: String,
    /// What keeps it from going on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

/// Where a fetch is on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DownloadPhase {
    /// Not begun, or between two tries.
    #[serde(rename_all = "PascalCase")]
    Waiting {
        /// Bytes kept of an earlier try.
        done_bytes: u64,
    },
    /// Bytes are arriving.
    #[serde(rename_all = "PascalCase")]
    Downloading {
        /// Bytes on the disk.
        done_bytes: u64,
        /// Bytes in all, 0 when unknown.
        total_bytes: u64,
    },
    /// The whole file is here, not yet verified.
    #[serde(rename_all = "PascalCase")]
    Downloaded {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size_bytes: u64,
    },
}

/// A file to verify. Topic `volumemgr/VerifyImageConfig`, key: the digest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct VerifyImageConfig {
    /// Expected digest.
    pub sha256: Digest,
    /// File that the downloader left.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// The [`DownloaderConfig::attempt`] that fetched it.
    #[serde(default)]
    pub attempt: u32,
}

/// State of a verification. Topic `verifier/VerifyImageStatus`, key: the digest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct VerifyImageStatus {
    /// Expected digest.
    pub sha256: Digest,
    /// The [`VerifyImageConfig::attempt`] that this is about.
    #[serde(default)]
    pub attempt: u32,
    /// How far it is.
    pub phase: VerifyPhase,
    /// Why it failed or what keeps it from going on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

/// Where a verification is on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum VerifyPhase {
    /// The file is being read.
    #[serde(rename_all = "PascalCase")]
    Verifying {
        /// 0 to 100.
        percent: u8,
    },
    /// The verifier's own copy (or hard link), read-only to others, has the digest.
    #[serde(rename_all = "PascalCase")]
    Verified {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size_bytes: u64,
    },
    /// The file does not have the digest. It was removed.
    #[serde(rename_all = "PascalCase")]
    Mismatch {
        /// What was found.
        found: Digest,
    },
}
