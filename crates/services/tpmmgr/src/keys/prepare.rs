//! Finding the keys and their certificates, or making them: at every start, and after a TPM lost them.
//!
//! ```text
//!  what is remembered -> keys in the TPM (found, or made) -> device certificate -> NV mirror -> CONFIG -> others
//! ```
//!
//! Each step can be repeated: a power cut in between leaves what the next start goes on with. The mirror in
//! the TPM comes before the CONFIG partition, so that what was once told to a controller is never lost with
//! that.

use agent::Failure;
use jiff::Timestamp;
use model::code::Code;
use tpm::identity::{
    CERT_FILE, IdentityError, certificate_for, certified_point, load_or_create, new_key,
    store_certificate, system_random,
};
use tpm::{Certificate, CertificateKind, Keeper, Pcr, SoftKey, Trouble, TroubleKind};

use super::certs::{InChip, certificate, not_before};
use super::{Keys, Prepared};
use crate::chip::{Again, ChipError, ChipState, KeySet, Link};
use crate::measured::{self, Event};
use crate::trouble;

/// NV index of the mirror of the device's certificate.
pub(super) const MIRROR: u32 = 0x0150_0000;

const FURTHER: [CertificateKind; 3] = [
    CertificateKind::Ecdh,
    CertificateKind::Quote,
    CertificateKind::Endorsement,
];

/// What the TPM has.
struct InTpm {
    keys: KeySet,
    mirrored: Option<Vec<u8>>,
    state: ChipState,
}

impl Keys {
    /// The time for a certificate; none while the clock is not set.
    pub(super) fn time(&self) -> Option<Timestamp> {
        let now = self.0.clock.now();
        let roots = std::fs::read(self.0.config.join("root-certificate.pem"));
        let earliest = roots.ok().and_then(|pem| not_before(&pem));
        let now = earliest.map_or(now, |earliest| earliest.max(now));
        model::clock::was_set(now).then_some(now)
    }

    /// Prepares the keys.
    pub async fn prepare(&self, keeper: Keeper) -> Result<(), Failure> {
        let result = match keeper {
            Keeper::Tpm => self.prepare_tpm().await,
            Keeper::Software => self.prepare_software(),
        };
        if let Err(failure) = &result {
            let kind = match failure.code {
                Code::TpmDead => TroubleKind::Dead,
                Code::TpmLockout => TroubleKind::Lockout,
                Code::TpmNoSha256 => TroubleKind::NoSha256,
                _ => TroubleKind::Keys,
            };
            let text = std::iter::once(failure.text.clone())
                .chain(failure.causes.clone())
                .collect::<Vec<_>>()
                .join(": ");
            let mut state = self.state();
            let since = match &state.trouble {
                Some(old) if old.kind == kind => old.since,
                Some(_) | None => self.0.clock.now(),
            };
            state.trouble = Some(Trouble { kind, text, since });
        }
        result
    }

    pub(super) fn config_certificate(&self) -> Option<Vec<u8>> {
        std::fs::read(self.0.config.join(CERT_FILE)).ok()
    }

    async fn prepare_tpm(&self) -> Result<(), Failure> {
        // Before there are keys: from here on there is no way back to a file.
        self.0
            .store
            .remember(Keeper::Tpm)
            .map_err(|e| Failure::of(Code::BusWrite, "TPM", &e).transient())?;
        let in_config = self.config_certificate();
        let known = in_config.clone();
        let found = self
            .0
            .chip
            .run(Again::Yes, move |link| {
                look_for_keys(link, known.as_deref())
            })
            .await
            .map_err(|e| of_chip(&e))?;
        if found.state.sha256 {
            self.measure_config().await?;
        }
        let device_pem = self.device_certificate(&found, in_config).await?;
        if found.mirrored.as_deref() != Some(device_pem.as_slice()) {
            let mirror = device_pem.clone();
            self.0
                .chip
                .run(Again::Yes, move |link| link.write_nv(MIRROR, &mirror))
                .await
                .map_err(|e| of_chip(&e))?;
        }
        if self.config_certificate().as_deref() != Some(device_pem.as_slice()) {
            store_certificate(&self.0.config, &device_pem).map_err(|e| of_identity(&e))?;
            tracing::info!("device certificate written into the CONFIG partition");
        }
        let further = self.further_certificates(&found.keys, &device_pem).await?;
        let mut certificates = vec![plain(CertificateKind::Device, device_pem)];
        certificates.extend(further);
        self.now_prepared(Prepared {
            keeper: Keeper::Tpm,
            certificates,
            vendor: found.state.vendor.clone(),
            firmware: found.state.firmware.clone(),
        });
        self.looked(&found.state);
        Ok(())
    }

    /// Extends the PCR of the CONFIG partition by what was measured at this boot and is not in it yet: before anybody can ask
    /// for a secret that is sealed to it.
    async fn measure_config(&self) -> Result<(), Failure> {
        let events = match self.measured() {
            Ok(events) => events,
            // What is sealed to the PCR stays locked, and the controller sees that nothing was measured.
            Err(error) => {
                tracing::error!(%error, "the CONFIG partition can't be measured");
                return Ok(());
            }
        };
        let pcr = Pcr::new(measured::PCR).map_err(|e| Failure::of(Code::TpmKeys, "TPM", &e))?;
        let chip = &self.0.chip;
        let now = chip
            .run(Again::Yes, move |link| {
                link.read_pcrs([pcr].into_iter().collect())
            })
            .await
            .map_err(|e| of_chip(&e))?;
        let now = now.get(&pcr).copied().unwrap_or_default();
        let Some(left) = measured::left(now, &events) else {
            tracing::warn!("PCR 14 holds what somebody else has measured; CONFIG is not");
            return Ok(());
        };
        for digest in left.iter().map(|event| event.digest) {
            chip.run(Again::No, move |link| link.extend_pcr(pcr, digest))
                .await
                .map_err(|e| of_chip(&e))?;
        }
        self.state().measured = events;
        Ok(())
    }

    /// What was measured at this boot.
    fn measured(&self) -> std::io::Result<Vec<Event>> {
        let kept = &self.0.measured;
        match std::fs::read(kept) {
            Ok(text) => return Ok(serde_json::from_slice(&text)?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let events = measured::measure(&self.0.config)?;
        if let Some(dir) = kept.parent() {
            std::fs::create_dir_all(dir)?;
        }
        durable::write(kept, &serde_json::to_vec(&events)?)?;
        Ok(events)
    }

    /// That of the CONFIG partition, of the TPM's mirror, or a new one: whichever there is first.
    async fn device_certificate(
        &self,
        found: &InTpm,
        in_config: Option<Vec<u8>>,
    ) -> Result<Vec<u8>, Failure> {
        let is_ours = |pem: &Vec<u8>| {
            certified_point(pem).is_ok_and(|point| point == found.keys.device.point)
        };
        if let Some(pem) = in_config {
            if is_ours(&pem) {
                return Ok(pem);
            }
            let text = "the certificate in the CONFIG partition is not one of the TPM's device key";
            return Err(Failure::new(Code::TpmKeys, "TPM", text).transient());
        }
        if let Some(pem) = found.mirrored.clone().filter(is_ours) {
            return Ok(pem);
        }
        let now = self.certificate_time()?;
        let point = found.keys.device.point.clone();
        let made = self
            .0
            .chip
            .run(Again::Yes, move |link| {
                let key = InChip::new(link, point.clone());
                certificate_for(&key, now, &mut system_random).map_err(|e| key.explain(&e))
            })
            .await
            .map_err(|e| of_chip(&e))?;
        tracing::info!("device certificate made for the TPM's key");
        Ok(made.into_bytes())
    }

    async fn further_certificates(
        &self,
        keys: &KeySet,
        device_pem: &[u8],
    ) -> Result<Vec<Certificate>, Failure> {
        let now = self.certificate_time()?;
        let device_pem = String::from_utf8_lossy(device_pem).into_owned();
        let mut kept = Vec::new();
        for kind in FURTHER {
            kept.push((
                kind,
                self.0.store.certificate(kind).map_err(|e| of_store(&e))?,
            ));
        }
        let keys = keys.clone();
        let made = self
            .0
            .chip
            .run(Again::Yes, move |link| {
                let key = InChip::new(link, keys.device.point.clone());
                let one = |(kind, kept): &(CertificateKind, Option<String>)| {
                    let (point, area) = match kind {
                        CertificateKind::Quote => (&keys.quote.point, &[][..]),
                        CertificateKind::Endorsement => {
                            let key = &keys.endorsement;
                            (&key.point, key.public_area.as_slice())
                        }
                        CertificateKind::Ecdh
                        | CertificateKind::Device
                        | CertificateKind::Onboarding => (&keys.ecdh.point, &[][..]),
                    };
                    certificate(&key, &device_pem, *kind, point, kept.as_deref(), now)
                        .map(|(pem, is_new)| (*kind, pem, is_new, area.to_vec()))
                        .map_err(|error| key.explain(&error))
                };
                kept.iter().map(one).collect::<Result<Vec<_>, _>>()
            })
            .await
            .map_err(|e| of_chip(&e))?;
        let mut certificates = Vec::new();
        for (kind, pem, is_new, public_area) in made {
            if is_new {
                let kept = self.0.store.keep_certificate(kind, &pem);
                kept.map_err(|e| of_store(&e))?;
            }
            certificates.push(Certificate {
                kind,
                pem: pem.into_bytes(),
                public_area,
            });
        }
        Ok(certificates)
    }

    fn prepare_software(&self) -> Result<(), Failure> {
        let now = self.certificate_time()?;
        let (identity, made) =
            load_or_create(&self.0.config, now, &mut system_random).map_err(|e| of_identity(&e))?;
        if made {
            tracing::info!("device key and certificate made");
        }
        tracing::warn!("the device's key is a file: whoever copies it is this device");
        let remembered = self.0.store.remember(Keeper::Software);
        remembered.map_err(|e| of_store(&e))?;
        let ecdh = self.soft_ecdh_key()?;
        let kept = self.0.store.certificate(CertificateKind::Ecdh);
        let kept = kept.map_err(|e| of_store(&e))?;
        let device_pem = String::from_utf8_lossy(&identity.cert_pem).into_owned();
        let (pem, is_new) = certificate(
            &identity.key,
            &device_pem,
            CertificateKind::Ecdh,
            &ecdh.point(),
            kept.as_deref(),
            now,
        )
        .map_err(|e| of_identity(&e))?;
        if is_new {
            let kept = self.0.store.keep_certificate(CertificateKind::Ecdh, &pem);
            kept.map_err(|e| of_store(&e))?;
        }
        self.state().soft = Some((identity.key, ecdh));
        self.now_prepared(Prepared {
            keeper: Keeper::Software,
            certificates: vec![
                plain(CertificateKind::Device, identity.cert_pem),
                plain(CertificateKind::Ecdh, pem.into_bytes()),
            ],
            vendor: String::new(),
            firmware: String::new(),
        });
        self.state().trouble = None;
        Ok(())
    }

    fn soft_ecdh_key(&self) -> Result<SoftKey, Failure> {
        if let Some(pem) = self.0.store.ecdh_key().map_err(|e| of_store(&e))? {
            return SoftKey::from_pem(&pem)
                .map_err(|e| Failure::of(Code::OnboardIdentity, "ECDH key", &e).transient());
        }
        let key = new_key(&mut system_random).map_err(|e| of_identity(&e))?;
        let pem = key
            .to_pem()
            .map_err(|e| Failure::of(Code::OnboardIdentity, "ECDH key", &e).transient())?;
        self.0.store.keep_ecdh_key(&pem).map_err(|e| of_store(&e))?;
        Ok(key)
    }

    /// Asks the TPM how it is.
    pub async fn look(&self) -> Result<(), Failure> {
        let looked = self
            .0
            .chip
            .run(Again::Yes, |link| {
                link.keys()?;
                link.state()
            })
            .await;
        match looked {
            Ok(state) => {
                self.looked(&state);
                Ok(())
            }
            Err(error) => {
                self.note(error.clone());
                Err(of_chip(&error))
            }
        }
    }

    fn looked(&self, chip: &ChipState) {
        let now = self.0.clock.now();
        let mut state = self.state();
        let told = trouble::told_by(chip, now);
        let same = told.as_ref().map(|t| t.kind) == state.trouble.as_ref().map(|t| t.kind);
        if !same {
            tracing::info!(from = ?state.trouble, to = ?told, "the TPM");
            state.trouble = told;
        }
        state.looked = self.0.clock.uptime();
        state.looks += 1;
    }

    fn now_prepared(&self, prepared: Prepared) {
        self.state().prepared = Some(prepared);
    }

    fn certificate_time(&self) -> Result<Timestamp, Failure> {
        self.time().ok_or_else(|| {
            let text = "the clock is not set, and certificates need a time";
            Failure::new(Code::OnboardIdentity, "identity", text).transient()
        })
    }
}

fn look_for_keys(link: &mut Link, in_config: Option<&[u8]>) -> Result<InTpm, ChipError> {
    let state = link.state()?;
    let mirrored = link.read_nv(MIRROR)?;
    // The controller knows the device by its certificate: a TPM with another key is not this device's.
    let known = in_config.or(mirrored.as_deref());
    let expected = known
        .map(certified_point)
        .transpose()
        .map_err(|error| ChipError::Keys(format!("the device's certificate: {error}")))?;
    let keys = link.prepare(expected.as_deref())?;
    Ok(InTpm {
        keys,
        mirrored,
        state,
    })
}

fn plain(kind: CertificateKind, pem: Vec<u8>) -> Certificate {
    Certificate {
        kind,
        pem,
        public_area: Vec::new(),
    }
}

fn of_chip(error: &ChipError) -> Failure {
    let code = trouble::shown_by(error, Timestamp::UNIX_EPOCH)
        .map_or(Code::TpmKeys, |trouble| trouble::code(trouble.kind));
    Failure::of(code, "TPM", error).transient()
}

fn of_store(error: &crate::store::StoreError) -> Failure {
    Failure::of(Code::BusWrite, "keys", error).transient()
}

fn of_identity(error: &IdentityError) -> Failure {
    Failure::of(Code::OnboardIdentity, "identity", error).transient()
}
