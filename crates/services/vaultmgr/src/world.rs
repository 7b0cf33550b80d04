//! The directories of the vault, the kernel's keys, and the way to tpmmgr.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, chown},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use agent::{Boot, Clock, Failure, Progress, World};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use cipher::{Key, PeerKey, key::IV};
use fscrypt::{FscryptError, KeyId, KeyState, MasterKey, Policy, Vault};
use model::{
    code::Code,
    id::Digest,
    vault::{EncryptedVaultKey, ROOTS},
};
use tpm::{CertificateKind, Client, Keeper, PcrValues, Tpm, TpmError, Zeroizing};

use crate::{
    Actual, Answer, COPY, Desired, Do, Held, KEY, LOAD, Origin, Root, SEAL, Sealed, VAULT,
    Vaultmgr, selection,
};

/// The mode of directories that it makes: who may not look into the one around them gets no further.
const MODE: u32 = 0o2771;

/// The vault below the root of a device.
pub struct Disk {
    root: PathBuf,
    clock: Clock,
    tpm: Arc<dyn Tpm>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    answer: Option<(std::time::Duration, Answer)>,
    sealed: Option<Sealed>,
    held: Option<(MasterKey, Origin)>,
    opened_by: Option<Origin>,
    copy: Option<(KeyId, EncryptedVaultKey)>,
}

impl Disk {
    /// The vault of the device, and its tpmmgr.
    pub fn open(boot: &Boot) -> Result<Self, Failure> {
        let client = Client::connect(&boot.root)
            .map_err(|error| Failure::of(Code::VaultKeeper, "vault", &error))?;
        Ok(Self::with(
            boot.root.clone(),
            boot.clock.clone(),
            Arc::new(client),
        ))
    }

    /// The vault below `root`, its keys sealed by `tpm`.
    pub fn with(root: PathBuf, clock: Clock, tpm: Arc<dyn Tpm>) -> Self {
        Self {
            root,
            clock,
            tpm,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn at(&self, root: &str) -> PathBuf {
        self.root.join(root)
    }

    /// The file system of the vault: that of `/persist`.
    fn file_system(&self) -> Vault {
        Vault::at(self.root.join("persist/vault"))
    }

    async fn ask(&self) -> Result<(), Failure> {
        let failed = |error: TpmError| Failure::of(Code::VaultKeeper, "vault", &error).transient();
        let described = self.tpm.describe().await.map_err(failed)?;
        let can = described.keeper == Keeper::Tpm && described.trouble.is_none();
        let (slot, pcrs) = if can {
            let slot = self.tpm.inspect(VAULT).await.map_err(failed)?;
            (slot, self.tpm.read_pcrs(selection()).await.map_err(failed)?)
        } else {
            (None, PcrValues::new())
        };
        let answer = Answer {
            keeper: described.keeper,
            trouble: described.trouble,
            slot,
            pcrs,
        };
        self.state().answer = Some((self.clock.uptime(), answer));
        Ok(())
    }

    async fn unseal(&self) -> Result<(), Failure> {
        let unsealed = self.tpm.unseal(VAULT).await;
        let mut state = self.state();
        match unsealed {
            Ok(unsealed) => match MasterKey::from_slice(&unsealed.secret) {
                Some(key) => {
                    state.sealed = Some(Sealed::Key(key.id()));
                    state.held = Some((key, Origin::Unsealed(unsealed.matched)));
                }
                None => state.sealed = Some(Sealed::Garbage),
            },
            Err(TpmError::Mismatch { pcrs }) => state.sealed = Some(Sealed::Mismatch(pcrs)),
            Err(TpmError::NotFound { .. }) => state.answer = None,
            Err(error) => {
                let transient = error.is_transient();
                // It may have got into trouble since it was asked.
                state.answer = None;
                return Err(Failure::of(Code::VaultKeeper, KEY, &error).transient_if(transient));
            }
        }
        Ok(())
    }

    async fn seal(&self, key: KeyId, expected: &[PcrValues]) -> Result<(), Failure> {
        let held = self.held(key)?;
        let sealed = self
            .tpm
            .seal(VAULT, held.bytes(), selection(), expected)
            .await;
        let mut state = self.state();
        state.answer = None;
        match sealed {
            Ok(()) => {
                state.sealed = Some(Sealed::Key(key));
                Ok(())
            }
            Err(error) => {
                let transient = error.is_transient();
                Err(Failure::of(Code::VaultKeeper, SEAL, &error).transient_if(transient))
            }
        }
    }

    fn held(&self, key: KeyId) -> Result<MasterKey, Failure> {
        let held = self.state().held.as_ref().map(|(key, _)| key.clone());
        held.filter(|held| held.id() == key).ok_or_else(|| {
            Failure::new(Code::VaultKey, KEY, format!("key {key} is not held")).transient()
        })
    }

    /// The key that the vault's key is encrypted by for the controller: the device's own point, so that nobody but its
    /// TPM can make it.
    async fn own_key(&self, object: &str) -> Result<Key, Failure> {
        let keeper = |error: TpmError| {
            let transient = error.is_transient();
            Failure::of(Code::VaultKeeper, object, &error).transient_if(transient)
        };
        let described = self.tpm.describe().await.map_err(keeper)?;
        let Some(certificate) = described.certificate(CertificateKind::Ecdh) else {
            let text = "there is no certificate of the ECDH key";
            return Err(Failure::new(Code::VaultKeeper, object, text).transient());
        };
        let own = PeerKey::from_certificate(&certificate.pem)
            .map_err(|error| Failure::of(Code::VaultKeeper, object, &error))?;
        let shared = self.tpm.ecdh(own.sec1()).await.map_err(keeper)?;
        Ok(Key::derive(&shared))
    }

    async fn rescue(&self, wanted: KeyId, copy: &EncryptedVaultKey) -> Result<(), Failure> {
        let refused = |text: String, causes: Vec<String>| {
            let mut failure = Failure::new(Code::VaultKey, KEY, text);
            failure.causes = causes;
            failure
        };
        let unreadable = |error: &dyn std::error::Error| {
            refused(
                "the controller's copy of the key can't be decrypted".to_owned(),
                vec![error.to_string()],
            )
        };
        let data = BASE64_STANDARD
            .decode(&copy.encrypted_key)
            .map_err(|error| unreadable(&error))?;
        let digest: Digest = copy.sha256.parse().map_err(|error| unreadable(&error))?;
        let clear = self
            .own_key(KEY)
            .await?
            .decrypt(&[0; IV], &data, &digest)
            .map_err(|error| unreadable(&error))?;
        let key = MasterKey::from_slice(&clear).filter(|key| key.id() == wanted);
        let Some(key) = key else {
            let text = format!(
                "the controller's copy is not key {wanted}, by which the vault is encrypted"
            );
            return Err(refused(text, Vec::new()));
        };
        self.state().held = Some((key, Origin::Controller));
        Ok(())
    }

    async fn copy(&self, id: KeyId) -> Result<(), Failure> {
        let held = self.held(id)?;
        let sealed = self.own_key(COPY).await?.encrypt(&[0; IV], held.bytes());
        let copy = EncryptedVaultKey {
            encrypted_key: BASE64_STANDARD.encode(&sealed.data),
            sha256: sealed.digest.to_string(),
        };
        self.state().copy = Some((id, copy));
        Ok(())
    }

    fn make_key(&self) -> Result<(), Failure> {
        let mut bytes = Zeroizing::new([0; fscrypt::KEY_LEN]);
        tpm::identity::system_random(&mut *bytes)
            .map_err(|error| Failure::of(Code::VaultKey, KEY, &error).transient())?;
        let key = MasterKey::from_slice(&*bytes);
        self.state().held = key.map(|key| (key, Origin::Made));
        Ok(())
    }

    fn load(&self, id: KeyId) -> Result<(), Failure> {
        let key = self.held(id)?;
        self.file_system()
            .add_key(&key)
            .map_err(|error| Failure::of(Code::VaultFileSystem, LOAD, &error).transient())?;
        let mut state = self.state();
        state.opened_by = state.held.as_ref().map(|(_, origin)| *origin);
        Ok(())
    }

    fn make_root(&self, root: &str) -> io::Result<()> {
        let path = self.at(root);
        let parent = path.parent().map(Path::to_owned).unwrap_or_default();
        fs::create_dir_all(&parent)?;
        match DirBuilder::new().mode(MODE).create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other?,
        }
        // It belongs to the service whose directory it is in.
        let owner = fs::metadata(&parent)?;
        let made = fs::metadata(&path)?;
        if (owner.uid(), owner.gid()) != (made.uid(), made.gid()) {
            chown(&path, Some(owner.uid()), Some(owner.gid()))?;
        }
        durable::sync_dir(&parent)
    }

    fn look(&self, root: &str) -> Result<Root, FscryptError> {
        let path = self.at(root);
        let unreadable = |source| FscryptError::Io {
            what: "listing",
            path: path.clone(),
            source,
        };
        match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Root::Missing),
            other => other.map_err(unreadable)?,
        };
        let policy = match fscrypt::policy(&path) {
            Err(FscryptError::Unsupported(_)) => Policy::None,
            other => other?,
        };
        Ok(match policy {
            Policy::Key(key) => Root::Encrypted(key),
            Policy::Foreign => Root::Foreign,
            Policy::None => match fs::read_dir(&path).map_err(unreadable)?.next() {
                None => Root::Empty,
                Some(_) => Root::Plain,
            },
        })
    }

    fn see(&self) -> Result<Actual, FscryptError> {
        let file_system = self.file_system();
        let can_encrypt = file_system.is_supported()?;
        let mut roots = BTreeMap::new();
        for root in ROOTS {
            roots.insert(root, self.look(root)?);
        }
        let state = self.state();
        let held = state.held.as_ref().map(|(key, origin)| Held {
            id: key.id(),
            origin: *origin,
        });
        let of_roots = roots.values().filter_map(|root| match root {
            Root::Encrypted(key) => Some(*key),
            Root::Missing | Root::Empty | Root::Plain | Root::Foreign => None,
        });
        let mut asked: Vec<KeyId> = of_roots.chain(held.map(|held| held.id)).collect();
        asked.sort_unstable();
        asked.dedup();
        let mut loaded = Vec::new();
        if can_encrypt {
            for key in asked {
                if file_system.key_state(key)? == KeyState::Present {
                    loaded.push(key);
                }
            }
        }
        Ok(Actual {
            can_encrypt,
            roots,
            loaded,
            answer: state.answer.clone(),
            sealed: state.sealed.clone(),
            held,
            opened_by: state.opened_by,
            copy: state.copy.clone(),
        })
    }
}

impl World<Vaultmgr> for Disk {
    async fn observe(&self, _: &Desired) -> Result<Actual, Failure> {
        self.see()
            .map_err(|error| Failure::of(Code::AgentObserve, "vault", &error).transient())
    }

    async fn apply(&self, action: Do, progress: Progress) -> Result<(), Failure> {
        let object = agent::Action::subject(&action);
        let failed = |error: &dyn std::error::Error| {
            Failure::of(Code::VaultFileSystem, object.clone(), error).transient()
        };
        match action {
            Do::Ask => self.ask().await,
            Do::MakeRoot(root) => self.make_root(root).map_err(|error| failed(&error)),
            Do::MakeKey => self.make_key(),
            Do::Unseal => self.unseal().await,
            Do::Seal { key, expected, .. } => self.seal(key, &expected).await,
            Do::Rescue { key, copy } => self.rescue(key, &copy).await,
            Do::Load(key) => self.load(key),
            Do::Encrypt(root, key) => {
                fscrypt::encrypt(&self.at(root), key).map_err(|error| failed(&error))
            }
            Do::Copy(key) => self.copy(key).await,
            Do::Forget => {
                self.state().held = None;
                Ok(())
            }
            Do::Empty(root, _) => {
                let path = self.at(root);
                // Volumes may be many gigabytes.
                let emptied = tokio::task::spawn_blocking(move || {
                    let done = empty(&path);
                    drop(progress);
                    done
                });
                match emptied.await {
                    Ok(done) => done.map_err(|error| failed(&error)),
                    Err(panic) => Err(failed(&panic)),
                }
            }
        }
    }
}

/// Removes a directory of the vault. Also where the key is not had: names that can't be read can be removed.
fn empty(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }?;
    path.parent().map_or(Ok(()), durable::sync_dir)
}
