//! The keys, whoever keeps them: prepared by the service's turns, used by its callers.
//!
//! Callers and turns share one state. A use that shows that the TPM is gone says so there and wakes the
//! service, which looks until it is back; callers are told at once, and never get another key.

mod certs;
mod prepare;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agent::Clock;
use tokio::sync::Notify;
use tpm::identity::CertKey;
use tpm::{
    Certificate, CertificateKind, Description, Keeper, Key, LONGEST_SECRET, MOST_EXPECTED, Pcr,
    PcrSelection, PcrValues, Quote, SealedSlot, SharedPoint, Signature, SoftKey, TpmError, Trouble,
    TroubleKind, Unsealed,
};

use crate::chip::{Again, Chip, ChipError, Link, Tcti};
use crate::installed::{Choice, Installed, choose};
use crate::measured::{self, Event};
use crate::plan::{Actual, Prepared, trouble_now};
use crate::store::{Store, StoreError, is_slot};
use crate::trouble;

/// Longest event log that is sent: ten times as long as any, and short enough for an answer.
const LONGEST_LOG: u64 = 2 << 20;

/// The keys of the device below a root. Cheap to clone.
#[derive(Clone)]
pub struct Keys(Arc<Inside>);

struct Inside {
    config: PathBuf,
    event_log: PathBuf,
    /// Remembers what of CONFIG was measured at this boot.
    measured: PathBuf,
    store: Store,
    tcti: Tcti,
    chip: Chip,
    clock: Clock,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    prepared: Option<Prepared>,
    trouble: Option<Trouble>,
    /// What of CONFIG is in its PCR.
    measured: Vec<Event>,
    /// Keys of the software keeper: the device's, and that for ECDH.
    soft: Option<(SoftKey, SoftKey)>,
    looked: std::time::Duration,
    looks: u64,
}

impl Keys {
    /// Of the device below `root`, with its TPM there, which `program` has. Nothing is opened yet.
    pub fn below(
        root: &std::path::Path,
        program: PathBuf,
        tcti: Tcti,
        clock: Clock,
    ) -> std::io::Result<Self> {
        Ok(Self(Arc::new(Inside {
            config: root.join("config"),
            event_log: root.join("sys/kernel/security/tpm0/binary_bios_measurements"),
            measured: root.join("run/tpmmgr/measured.json"),
            store: Store::below(root),
            chip: Chip::start(program, tcti.clone(), root.join("config/tpm_credential"))?,
            tcti,
            clock,
            state: Mutex::default(),
            changed: Notify::new(),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves when a use showed something new.
    pub async fn changed(&self) {
        self.0.changed.notified().await;
    }

    /// What is there now.
    pub fn actual(&self) -> Result<Actual, StoreError> {
        let installed = self.installed()?;
        let in_config = self.config_certificate();
        let state = self.state();
        let exchanged = state.prepared.as_ref().is_some_and(|prepared| {
            let device = prepared.certificate(CertificateKind::Device);
            device.map(|known| &known.pem) != in_config.as_ref()
        });
        Ok(Actual {
            installed,
            exchanged,
            clock_is_set: self.time().is_some(),
            prepared: state.prepared.clone(),
            trouble: state.trouble.clone(),
            looked: state.looked,
            looks: state.looks,
        })
    }

    fn installed(&self) -> Result<Option<Installed>, StoreError> {
        let there = |name: &str| self.0.config.join(name).exists();
        if !self.0.config.is_dir() {
            return Ok(None);
        }
        Ok(Some(Installed {
            remembered: self.0.store.keeper()?,
            chosen_soft: there("soft_key"),
            has_key_file: there(tpm::identity::KEY_FILE),
            has_certificate: there(tpm::identity::CERT_FILE),
            has_tpm: self.0.tcti.node().is_none_or(|node| node.exists()),
        }))
    }

    /// Notes what an error shows, and makes it the caller's answer.
    fn note(&self, error: ChipError) -> TpmError {
        let now = self.0.clock.now();
        if let Some(trouble) = trouble::shown_by(&error, now) {
            let mut state = self.state();
            if trouble.kind == TroubleKind::Keys {
                state.prepared = None;
            }
            if state.trouble.as_ref().map(|t| t.kind) != Some(trouble.kind) {
                tracing::warn!(%trouble, "found in use");
                state.trouble = Some(trouble);
                self.0.changed.notify_one();
            }
        }
        trouble::answer(error, now)
    }

    /// What keeps callers from being served.
    fn standing(&self) -> TpmError {
        let trouble = |kind, text: String| {
            TpmError::Trouble(Trouble {
                kind,
                text,
                since: self.0.clock.now(),
            })
        };
        match self.actual() {
            Ok(actual) => {
                let choice = actual.installed.map(choose);
                let now = trouble_now(&actual, choice, self.0.clock.now());
                match now {
                    Some(known) => known.into(),
                    None => trouble(TroubleKind::Starting, "a moment".to_owned()),
                }
            }
            Err(error) => trouble(TroubleKind::Keys, error.to_string()),
        }
    }

    /// Who keeps the keys, once they are prepared.
    fn keeper(&self) -> Result<Keeper, TpmError> {
        let keeper = self.state().prepared.as_ref().map(|keys| keys.keeper);
        keeper.ok_or_else(|| self.standing())
    }

    /// Does something on the TPM.
    async fn on_chip<T: Send + 'static>(
        &self,
        again: Again,
        job: impl Fn(&mut Link) -> Result<T, ChipError> + Send + 'static,
    ) -> Result<T, TpmError> {
        match self.keeper()? {
            Keeper::Tpm => {}
            Keeper::Software => return Err(TpmError::NeedsTpm),
        }
        self.0
            .chip
            .run(again, job)
            .await
            .map_err(|error| self.note(error))
    }

    fn soft(&self) -> Result<(SoftKey, SoftKey), TpmError> {
        let soft = self.state().soft.clone();
        soft.ok_or_else(|| self.standing())
    }

    /// See [`tpm::Tpm::describe`].
    pub fn describe(&self) -> Description {
        let actual = self.actual().ok();
        let choice = actual.as_ref().and_then(|a| a.installed).map(choose);
        let trouble = match &actual {
            Some(actual) => trouble_now(actual, choice, self.0.clock.now()),
            None => match self.standing() {
                TpmError::Trouble(trouble) => Some(trouble),
                _ => None,
            },
        };
        let prepared = actual.and_then(|actual| actual.prepared);
        let mut certificates = prepared
            .as_ref()
            .map(|keys| keys.certificates.clone())
            .unwrap_or_default();
        if let Some((pem, _)) = self.onboarding() {
            certificates.push(Certificate {
                kind: CertificateKind::Onboarding,
                pem,
                public_area: Vec::new(),
            });
        }
        Description {
            keeper: match choice {
                Some(Choice::Software) => Keeper::Software,
                Some(Choice::Tpm | Choice::Missing(_)) | None => Keeper::Tpm,
            },
            trouble,
            certificates,
            vendor: prepared
                .as_ref()
                .map(|k| k.vendor.clone())
                .unwrap_or_default(),
            firmware: prepared.map(|k| k.firmware).unwrap_or_default(),
        }
    }

    /// The onboarding certificate and key, if both are there and belong together.
    fn onboarding(&self) -> Option<(Vec<u8>, SoftKey)> {
        let read = |name: &str| std::fs::read(self.0.config.join(name)).ok();
        let (cert, key) = (read("onboard.cert.pem")?, read("onboard.key.pem")?);
        let key = SoftKey::from_pem(&tpm::Zeroizing::new(String::from_utf8(key).ok()?)).ok()?;
        let point = tpm::identity::certified_point(&cert).ok()?;
        (point == key.public_point()).then_some((cert, key))
    }

    /// See [`tpm::Tpm::sign`].
    pub async fn sign(&self, key: Key, digest: [u8; 32]) -> Result<Signature, TpmError> {
        if key == Key::Onboarding {
            let (_, key) = self.onboarding().ok_or_else(|| TpmError::NotFound {
                what: "usable onboarding key in the CONFIG partition".to_owned(),
            })?;
            return key.sign(&digest);
        }
        match self.keeper()? {
            Keeper::Software => self.soft()?.0.sign(&digest),
            Keeper::Tpm => {
                self.on_chip(Again::Yes, move |link| link.sign(&digest))
                    .await
            }
        }
    }

    /// See [`tpm::Tpm::ecdh`].
    pub async fn ecdh(&self, peer: Vec<u8>) -> Result<SharedPoint, TpmError> {
        if self.keeper()? == Keeper::Software {
            return self.soft()?.1.ecdh(&peer);
        }
        // A TPM's answer to a point that is not on the curve is its maker's; ours is one.
        let (x, y) = coordinates(&peer).ok_or_else(|| TpmError::Invalid {
            reason: "the peer's point is not on P-256".to_owned(),
        })?;
        self.on_chip(Again::Yes, move |link| link.ecdh(x, y)).await
    }

    /// See [`tpm::Tpm::quote`].
    pub async fn quote(&self, nonce: Vec<u8>, event_log: bool) -> Result<Quote, TpmError> {
        if !(1..=32).contains(&nonce.len()) {
            return Err(TpmError::Invalid {
                reason: format!("a nonce has 1 to 32 bytes, not {}", nonce.len()),
            });
        }
        let quoted = self
            .on_chip(Again::Yes, move |link| link.quote(&nonce))
            .await?;
        Ok(Quote {
            attest: quoted.attest,
            signature: quoted.signature,
            pcrs: quoted.pcrs,
            event_log: if event_log {
                self.event_log()
            } else {
                Vec::new()
            },
        })
    }

    /// The firmware's, where it left one, and what was measured here.
    fn event_log(&self) -> Vec<u8> {
        use std::io::Read as _;
        let mut log = Vec::new();
        let read = std::fs::File::open(&self.0.event_log)
            .and_then(|file| file.take(LONGEST_LOG + 1).read_to_end(&mut log));
        if read.is_err() || log.len() as u64 > LONGEST_LOG {
            log.clear();
        }
        measured::append(log, &self.state().measured)
    }

    /// See [`tpm::Tpm::seal`].
    pub async fn seal(
        &self,
        slot: String,
        secret: tpm::Zeroizing<Vec<u8>>,
        pcrs: PcrSelection,
        expected: Vec<PcrValues>,
    ) -> Result<(), TpmError> {
        let foreign = |set: &PcrValues| set.keys().any(|pcr| !pcrs.contains(*pcr));
        let wrong = if secret.is_empty() || secret.len() > LONGEST_SECRET {
            Some("a secret has 1 to 128 bytes")
        } else if pcrs.is_empty() {
            Some("no PCR counts")
        } else if expected.len() > MOST_EXPECTED {
            Some("at most 7 further sets of values")
        } else if expected.iter().any(foreign) {
            Some("a value is expected of a PCR that does not count")
        } else {
            None
        };
        if let Some(reason) = wrong {
            return Err(TpmError::Invalid {
                reason: reason.to_owned(),
            });
        }
        check(&slot)?;
        let sealed = self
            .on_chip(Again::Yes, move |link| link.seal(&secret, pcrs, &expected))
            .await?;
        self.0
            .store
            .keep_sealed(&slot, &sealed)
            .map_err(|e| failed(&e))
    }

    /// See [`tpm::Tpm::unseal`].
    pub async fn unseal(&self, slot: &str) -> Result<Unsealed, TpmError> {
        let sealed = self.sealed(slot)?.ok_or_else(|| TpmError::NotFound {
            what: format!("secret in slot {slot}"),
        })?;
        let (secret, matched) = self
            .on_chip(Again::Yes, move |link| link.unseal(&sealed))
            .await?;
        Ok(Unsealed { secret, matched })
    }

    fn sealed(&self, slot: &str) -> Result<Option<crate::chip::Sealed>, TpmError> {
        check(slot)?;
        if self.keeper()? == Keeper::Software {
            return Err(TpmError::NeedsTpm);
        }
        self.0.store.sealed(slot).map_err(|e| failed(&e))
    }

    /// See [`tpm::Tpm::inspect`].
    pub fn inspect(&self, slot: &str) -> Result<SealedSlot, TpmError> {
        let sealed = self.sealed(slot)?.ok_or_else(|| TpmError::NotFound {
            what: format!("secret in slot {slot}"),
        })?;
        Ok(SealedSlot {
            pcrs: sealed.pcrs,
            alternatives: sealed.alternatives,
        })
    }

    /// See [`tpm::Tpm::erase`].
    pub fn erase(&self, slot: &str) -> Result<(), TpmError> {
        check(slot)?;
        self.0.store.erase(slot).map_err(|e| failed(&e))
    }

    /// See [`tpm::Tpm::read_pcrs`].
    pub async fn read_pcrs(&self, pcrs: PcrSelection) -> Result<PcrValues, TpmError> {
        self.on_chip(Again::Yes, move |link| link.read_pcrs(pcrs))
            .await
    }

    /// See [`tpm::Tpm::extend_pcr`].
    pub async fn extend_pcr(&self, pcr: Pcr, digest: [u8; 32]) -> Result<PcrValues, TpmError> {
        self.on_chip(Again::No, move |link| link.extend_pcr(pcr, digest))
            .await
    }

    /// See [`tpm::Tpm::read_nv`].
    pub async fn read_nv(&self, index: u32) -> Result<Vec<u8>, TpmError> {
        let content = self
            .on_chip(Again::Yes, move |link| link.read_nv(index))
            .await?;
        content.ok_or_else(|| TpmError::NotFound {
            what: format!("content at NV index {index:#x}"),
        })
    }

    /// See [`tpm::Tpm::write_nv`].
    pub async fn write_nv(&self, index: u32, data: Vec<u8>) -> Result<(), TpmError> {
        if index == prepare::MIRROR {
            return Err(TpmError::Invalid {
                reason: "the mirror of the device's certificate is tpmmgr's to write".to_owned(),
            });
        }
        self.on_chip(Again::Yes, move |link| link.write_nv(index, &data))
            .await
    }
}

fn check(slot: &str) -> Result<(), TpmError> {
    if is_slot(slot) {
        return Ok(());
    }
    Err(TpmError::Invalid {
        reason: "a slot's name has 1 to 64 small letters, digits and dashes".to_owned(),
    })
}

fn failed(error: &StoreError) -> TpmError {
    let source = std::error::Error::source(error).map(ToString::to_string);
    TpmError::Failed {
        reason: format!("{error}: {}", source.unwrap_or_default()),
    }
}

/// The coordinates of a SEC1 point, if it is one of the curve.
fn coordinates(sec1: &[u8]) -> Option<([u8; 32], [u8; 32])> {
    use p256::elliptic_curve::sec1::ToEncodedPoint;
    let point = p256::PublicKey::from_sec1_bytes(sec1)
        .ok()?
        .to_encoded_point(false);
    Some(((*point.x()?).into(), (*point.y()?).into()))
}
