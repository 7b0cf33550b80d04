//! What tpmmgr keeps on the disk: which keeper was used, sealed secrets, certificates. Nothing of it is secret
//! by itself but the software keeper's key.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tpm::{CertificateKind, Keeper, Pcr, PcrValues};

use crate::chip::Sealed;

/// The directories.
#[derive(Clone, Debug)]
pub struct Store {
    own: PathBuf,
    certs: PathBuf,
}

/// A file that can't be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{}", .path.display())]
pub struct StoreError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

#[derive(Serialize, Deserialize)]
struct SealedFile {
    pcrs: Vec<u32>,
    alternatives: Vec<BTreeMap<u32, String>>,
    public: String,
    private: String,
}

impl Store {
    /// Below the root of a device.
    pub fn below(root: &Path) -> Self {
        Self {
            own: root.join("persist/tpmmgr"),
            certs: root.join("persist/certs"),
        }
    }

    /// What was used before.
    pub fn keeper(&self) -> Result<Option<Keeper>, StoreError> {
        let text = read(&self.own.join("keeper"))?;
        Ok(text.and_then(|text| match text.trim_ascii() {
            b"tpm" => Some(Keeper::Tpm),
            b"software" => Some(Keeper::Software),
            _ => None,
        }))
    }

    /// Remembers it.
    pub fn remember(&self, keeper: Keeper) -> Result<(), StoreError> {
        let text = match keeper {
            Keeper::Tpm => "tpm\n",
            Keeper::Software => "software\n",
        };
        write(&self.own.join("keeper"), text.as_bytes())
    }

    /// The software keeper's key for ECDH.
    pub fn ecdh_key(&self) -> Result<Option<String>, StoreError> {
        let text = read(&self.own.join("ecdh.key.pem"))?;
        Ok(text.map(|text| String::from_utf8_lossy(&text).into_owned()))
    }

    /// Keeps it.
    pub fn keep_ecdh_key(&self, pem: &str) -> Result<(), StoreError> {
        write(&self.own.join("ecdh.key.pem"), pem.as_bytes())
    }

    /// A certificate made earlier.
    pub fn certificate(&self, kind: CertificateKind) -> Result<Option<String>, StoreError> {
        let text = read(&self.certs.join(file(kind)))?;
        Ok(text.and_then(|text| String::from_utf8(text).ok()))
    }

    /// Keeps a certificate.
    pub fn keep_certificate(&self, kind: CertificateKind, pem: &str) -> Result<(), StoreError> {
        write(&self.certs.join(file(kind)), pem.as_bytes())
    }

    /// A sealed secret. A file that does not parse holds none: nobody could open it.
    pub fn sealed(&self, slot: &str) -> Result<Option<Sealed>, StoreError> {
        let text = read(&self.slot(slot))?;
        Ok(text.and_then(|text| parse(&text)))
    }

    /// Replaces it, at once or not at all.
    pub fn keep_sealed(&self, slot: &str, sealed: &Sealed) -> Result<(), StoreError> {
        let path = self.slot(slot);
        let file = SealedFile {
            pcrs: sealed.pcrs.iter().map(Pcr::index).collect(),
            alternatives: sealed
                .alternatives
                .iter()
                .map(|set| {
                    set.iter()
                        .map(|(p, v)| (p.index(), hex::encode(v)))
                        .collect()
                })
                .collect(),
            public: hex::encode(&sealed.public),
            private: hex::encode(&sealed.private),
        };
        let text = serde_json::to_vec_pretty(&file).map_err(|error| StoreError {
            path: path.clone(),
            source: error.into(),
        })?;
        write(&path, &text)
    }

    /// Removes it. No error when there is none.
    pub fn erase(&self, slot: &str) -> Result<(), StoreError> {
        let path = self.slot(slot);
        let done = match std::fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.and_then(|()| durable::sync_dir(&self.own.join("sealed"))),
        };
        done.map_err(|source| StoreError { path, source })
    }

    fn slot(&self, slot: &str) -> PathBuf {
        self.own.join("sealed").join(format!("{slot}.json"))
    }
}

/// Whether a text can be the name of a slot, and so of a file.
pub fn is_slot(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=64).contains(&name.len()) && name.chars().all(plain)
}

fn parse(text: &[u8]) -> Option<Sealed> {
    let file: SealedFile = serde_json::from_slice(text).ok()?;
    let set = |texts: &BTreeMap<u32, String>| {
        let one = |(index, text): (&u32, &String)| {
            let value = <[u8; 32]>::try_from(hex::decode(text).ok()?).ok()?;
            Some((Pcr::new(*index).ok()?, value))
        };
        texts.iter().map(one).collect::<Option<PcrValues>>()
    };
    Some(Sealed {
        pcrs: file
            .pcrs
            .iter()
            .map(|index| Pcr::new(*index))
            .collect::<Result<_, _>>()
            .ok()?,
        alternatives: file.alternatives.iter().map(set).collect::<Option<_>>()?,
        public: hex::decode(&file.public).ok()?,
        private: hex::decode(&file.private).ok()?,
    })
}

fn file(kind: CertificateKind) -> &'static str {
    match kind {
        CertificateKind::Device => "device.cert.pem",
        CertificateKind::Ecdh => "ecdh.cert.pem",
        CertificateKind::Quote => "quote.cert.pem",
        CertificateKind::Endorsement => "endorsement.cert.pem",
        CertificateKind::Onboarding => "onboard.cert.pem",
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StoreError {
            path: path.to_owned(),
            source,
        }),
    }
}

fn write(path: &Path, content: &[u8]) -> Result<(), StoreError> {
    durable::write(path, content).map_err(|source| StoreError {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_kept_is_found_again() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::below(root.path());
        assert_eq!(store.keeper().unwrap(), None);
        store.remember(Keeper::Tpm).unwrap();
        assert_eq!(store.keeper().unwrap(), Some(Keeper::Tpm));
        let pcr = |index| Pcr::new(index).unwrap();
        let sealed = Sealed {
            pcrs: [pcr(0), pcr(14)].into_iter().collect(),
            alternatives: vec![PcrValues::from([(pcr(0), [1; 32]), (pcr(14), [2; 32])])],
            public: vec![1, 2],
            private: vec![3],
        };
        store.keep_sealed("vault", &sealed).unwrap();
        assert_eq!(store.sealed("vault").unwrap(), Some(sealed));
        std::fs::write(root.path().join("persist/tpmmgr/sealed/vault.json"), "{").unwrap();
        assert_eq!(store.sealed("vault").unwrap(), None);
        store.erase("vault").unwrap();
        store.erase("vault").unwrap();
    }

    #[test]
    fn a_slot_is_no_path() {
        assert!(is_slot("vault") && is_slot("guest-0a"));
        for bad in ["", ".", "../x", "a/b", "A", "a.b", &"a".repeat(65)] {
            assert!(!is_slot(bad), "{bad:?}");
        }
    }
}
