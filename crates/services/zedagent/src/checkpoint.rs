//! Files that survive a power cut: the old content or the new one, never half.

use std::{
    fs, io,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use api::config::ConfigResponse;
use controller::{ApiVersion, ControllerCerts, envelope};
use durable::Reserve;
use model::id::Digest;
use prost::Message as _;
use sha2::{Digest as _, Sha256};

/// `/persist/checkpoint`.
pub(crate) struct Checkpoint {
    dir: PathBuf,
    reserve: Mutex<Reserve>,
}

/// What can be saved though the disk is full: so many files of this size.
const RESERVED: u32 = 2;
const RESERVED_SIZE: u64 = 512 * 1024;

/// The file with the controller's certificates.
pub(crate) const CERTS: &str = "controllercerts";
/// Those before them.
pub(crate) const FORMER_CERTS: &str = "controllercerts.bak";
/// The config last taken.
pub(crate) const LAST: &str = "lastconfig";
/// The config that proved itself.
pub(crate) const BACKUP: &str = "lastconfig.bak";

/// The PCRs that the controller accepted the last time.
pub(crate) const ACCEPTED: &str = "acceptedpcrs.json";

impl Checkpoint {
    pub(crate) fn new(dir: PathBuf) -> Self {
        let reserve = Reserve::new(dir.clone(), "config", RESERVED, RESERVED_SIZE);
        let reserve = Mutex::new(reserve);
        Self { dir, reserve }
    }

    /// The content, or `None` when there is none to speak of.
    pub(crate) fn read(&self, name: &str) -> Option<Vec<u8>> {
        fs::read(self.dir.join(name))
            .ok()
            .filter(|bytes| !bytes.is_empty())
    }

    pub(crate) fn digest(&self, name: &str) -> Option<Digest> {
        self.read(name).map(|bytes| digest(&bytes))
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut reserve = self.reserve.lock().unwrap_or_else(PoisonError::into_inner);
        durable::write_from(&self.dir.join(name), bytes, &mut reserve)
    }
}

/// The config in a saved answer of the controller. In version 2 it is proved again by the controller's
/// signature: the disk is not trusted more than the network.
pub fn saved_config(
    bytes: &[u8],
    version: ApiVersion,
    certs: Option<&ControllerCerts>,
) -> Result<ConfigResponse, String> {
    let payload = match (version, certs) {
        (ApiVersion::V1, _) => bytes.to_vec(),
        (ApiVersion::V2, Some(certs)) => {
            // It may have been saved before the controller signed with another certificate.
            let (payload, _) =
                envelope::open_with(bytes, certs, true).map_err(|e| e.to_string())?;
            payload
        }
        (ApiVersion::V2, None) => {
            return Err("the controller's certificates are not known".to_owned());
        }
    };
    ConfigResponse::decode(payload.as_slice()).map_err(|e| controller::undecoded(&e))
}

pub(crate) fn digest(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}
