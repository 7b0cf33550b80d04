//! Directories that the kernel encrypts (fscrypt, policies of version 2, on ext4 and f2fs).
//!
//! A directory gets a *policy* while it is empty: which key its files are encrypted by, named by the
//! key's [`KeyId`]. The key itself is given to the *file system*, which forgets it when it is unmounted.
//! Without it names in the directory are unreadable and files can't be opened; they can still be
//! removed, so whoever looks into a locked directory must not take what it sees for leftovers.
//!
//! - [`Vault`] is a file system with the four requests ([`kernel`] makes them);
//! - [`MasterKey`] is the key, wiped when dropped; [`KeyId`] follows from it and tells nothing about it.
//!
//! Source: the kernel's `Documentation/filesystems/fscrypt.rst`, `include/uapi/linux/fscrypt.h`.

mod kernel;

use std::{
    fmt,
    fs::File,
    io,
    path::{Path, PathBuf},
};

use ring::hkdf::{HKDF_SHA512, KeyType, Salt};
use rustix::io::Errno;
use thiserror::Error;
use zeroize::Zeroizing;

/// Length of a master key in bytes: that of AES-256.
pub const KEY_LEN: usize = 32;
/// Length of the name of a key in bytes.
pub const ID_LEN: usize = 16;

/// A key that files are encrypted by. Wiped when dropped, never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct MasterKey(Zeroizing<[u8; KEY_LEN]>);

impl MasterKey {
    /// From its bytes; none when there are not [`KEY_LEN`] of them.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        let bytes = <[u8; KEY_LEN]>::try_from(bytes).ok()?;
        Some(Self(Zeroizing::new(bytes)))
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    /// The name by which the kernel knows it.
    pub fn id(&self) -> KeyId {
        let mut id = [0; ID_LEN];
        let salt = Salt::new(HKDF_SHA512, &[]);
        let derived = salt.extract(self.bytes());
        // Application-specific information: a prefix of all derivations, then the purpose.
        let info: [&[u8]; 1] = [b"fscrypt\0\x01"];
        let filled = derived
            .expand(&info, IdLength)
            .and_then(|okm| okm.fill(&mut id));
        debug_assert!(filled.is_ok(), "16 bytes are fewer than 255 hashes");
        KeyId(id)
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(..)")
    }
}

#[derive(Clone, Copy)]
struct IdLength;

impl KeyType for IdLength {
    fn len(&self) -> usize {
        ID_LEN
    }
}

/// The name of a master key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; ID_LEN]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// How a directory is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Not at all.
    None,
    /// By the key of this name, as [`Vault::encrypt`] does.
    Key(KeyId),
    /// In another way, which is not ours.
    Foreign,
}

/// Whether the file system has a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyState {
    /// It has not: what the key encrypts is locked.
    Absent,
    /// It has.
    Present,
    /// It was told to forget the key while files were in use; they still are.
    InUse,
}

/// Why the kernel did not do it.
#[derive(Debug, Error)]
pub enum FscryptError {
    /// The file system or the kernel can't encrypt.
    #[error("the file system of {} can't encrypt directories", .0.display())]
    Unsupported(PathBuf),
    /// A directory that has files can't become encrypted.
    #[error("{} is not empty, and only an empty directory can be made an encrypted one", .0.display())]
    NotEmpty(PathBuf),
    /// A directory is encrypted by another key already.
    #[error("{} is encrypted by another key", .0.display())]
    OtherKey(PathBuf),
    /// Anything else.
    #[error("{what} of {}", .path.display())]
    Io {
        /// What was asked.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// A file system that can encrypt directories, by any directory on it.
#[derive(Debug, Clone)]
pub struct Vault {
    place: PathBuf,
}

impl Vault {
    /// The file system that `place`, a directory, is on.
    pub fn at(place: impl Into<PathBuf>) -> Self {
        Self {
            place: place.into(),
        }
    }

    /// Whether the file system and the kernel can encrypt.
    pub fn is_supported(&self) -> Result<bool, FscryptError> {
        match self.key_state(KeyId([0; ID_LEN])) {
            Ok(_) => Ok(true),
            Err(FscryptError::Unsupported(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether it has the key of this name.
    pub fn key_state(&self, id: KeyId) -> Result<KeyState, FscryptError> {
        let dir = open(&self.place)?;
        kernel::key_state(&dir, id).map_err(|errno| refused("keys", &self.place, errno))
    }

    /// Gives it a key. What the key encrypts can be read from now on, by whoever may.
    pub fn add_key(&self, key: &MasterKey) -> Result<(), FscryptError> {
        let dir = open(&self.place)?;
        kernel::add_key(&dir, key).map_err(|errno| refused("keys", &self.place, errno))
    }

    /// Makes it forget a key. What is in use stays in use.
    pub fn remove_key(&self, id: KeyId) -> Result<(), FscryptError> {
        let dir = open(&self.place)?;
        kernel::remove_key(&dir, id).map_err(|errno| refused("keys", &self.place, errno))
    }
}

/// How a directory is encrypted.
pub fn policy(path: &Path) -> Result<Policy, FscryptError> {
    let dir = open(path)?;
    match kernel::policy(&dir) {
        Err(Errno::NODATA) => Ok(Policy::None),
        other => other.map_err(|errno| refused("policy", path, errno)),
    }
}

/// Makes an empty directory one that is encrypted by a key, which its file system must have. No error if it is so
/// already. It is on the disk when this returns.
pub fn encrypt(path: &Path, id: KeyId) -> Result<(), FscryptError> {
    let dir = open(path)?;
    kernel::set_policy(&dir, id).map_err(|errno| match errno {
        Errno::NOTEMPTY => FscryptError::NotEmpty(path.to_owned()),
        Errno::EXIST => FscryptError::OtherKey(path.to_owned()),
        errno => refused("policy", path, errno),
    })?;
    dir.sync_all()
        .map_err(|source| failed("policy", path, source))
}

fn open(path: &Path) -> Result<File, FscryptError> {
    File::open(path).map_err(|source| failed("opening", path, source))
}

fn failed(what: &'static str, path: &Path, source: io::Error) -> FscryptError {
    FscryptError::Io {
        what,
        path: path.to_owned(),
        source,
    }
}

fn refused(what: &'static str, path: &Path, errno: Errno) -> FscryptError {
    match errno {
        Errno::NOTTY | Errno::OPNOTSUPP => FscryptError::Unsupported(path.to_owned()),
        errno => failed(what, path, errno.into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_key_is_not_printed() {
        let key = MasterKey::from_slice(&[7; 32]).unwrap();
        assert_eq!(format!("{key:?}"), "MasterKey(..)");
        assert!(MasterKey::from_slice(&[7; 31]).is_none());
        assert_ne!(key.id(), MasterKey::from_slice(&[8; 32]).unwrap().id());
    }
}
