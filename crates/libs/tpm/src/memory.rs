//! A TPM in memory, for the tests of services that ask tpmmgr.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::{
    Certificate, CertificateKind, Description, DigestOfPcr, Keeper, Key, LONGEST_SECRET,
    MOST_EXPECTED, PCRS_QUOTED, Pcr, PcrSelection, PcrValues, Quote, Reply, SealedSlot,
    SharedPoint, Signature, SoftKey, Tpm, TpmError, Trouble, TroubleKind, Unsealed, extended,
};

const TPM_GENERATED: u32 = 0xff54_4347;
const TPM_ST_ATTEST_QUOTE: u16 = 0x8018;
const TPM_ALG_SHA256: u16 = 0x000b;

/// Keys, PCRs, seals and NV in memory, with the answers and refusals of the real one. Clones share all.
#[derive(Clone, Debug)]
pub struct MemoryTpm {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    keeper: Keeper,
    device: SoftKey,
    onboarding: Option<SoftKey>,
    ecdh: SoftKey,
    quote: SoftKey,
    certificates: Vec<Certificate>,
    pcrs: BTreeMap<Pcr, DigestOfPcr>,
    slots: BTreeMap<String, (SealedSlot, Zeroizing<Vec<u8>>)>,
    nv: BTreeMap<u32, Vec<u8>>,
    trouble: Option<Trouble>,
    unreachable: bool,
    unseals: u64,
}

impl MemoryTpm {
    /// A TPM with these keys: the device's own, the one for ECDH, the one that signs quotes. Its PCRs are zero.
    pub fn new(device: SoftKey, ecdh: SoftKey, quote: SoftKey) -> Self {
        Self::with(Keeper::Tpm, device, ecdh, quote)
    }

    /// The keeper of a device that was installed without a TPM.
    pub fn software(device: SoftKey) -> Self {
        Self::with(Keeper::Software, device.clone(), device.clone(), device)
    }

    fn with(keeper: Keeper, device: SoftKey, ecdh: SoftKey, quote: SoftKey) -> Self {
        let state = State {
            keeper,
            device,
            onboarding: None,
            ecdh,
            quote,
            certificates: Vec::new(),
            pcrs: (0..24)
                .filter_map(|index| Pcr::new(index).ok())
                .map(|pcr| (pcr, [0; 32]))
                .collect(),
            slots: BTreeMap::new(),
            nv: BTreeMap::new(),
            trouble: None,
            unreachable: false,
            unseals: 0,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Gives it an onboarding key.
    #[must_use]
    pub fn onboarding(self, key: SoftKey) -> Self {
        self.state().onboarding = Some(key);
        self
    }

    /// Adds a certificate to its description, in place of one of the same kind.
    pub fn certify(&self, kind: CertificateKind, pem: impl Into<Vec<u8>>) {
        let mut state = self.state();
        state.certificates.retain(|one| one.kind != kind);
        state.certificates.push(Certificate {
            kind,
            pem: pem.into(),
            public_area: Vec::new(),
        });
    }

    /// While set, every request but `describe` fails by it.
    pub fn set_trouble(&self, trouble: Option<Trouble>) {
        self.state().trouble = trouble;
    }

    /// While set, every request fails as if tpmmgr were away.
    pub fn set_unreachable(&self, unreachable: bool) {
        self.state().unreachable = unreachable;
    }

    /// What a boot does: PCRs are as given, and zero where nothing is given.
    pub fn boot(&self, values: &PcrValues) {
        for (pcr, value) in &mut self.state().pcrs {
            *value = values.get(pcr).copied().unwrap_or_default();
        }
    }

    /// How many secrets it gave out.
    pub fn unseals(&self) -> u64 {
        self.state().unseals
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reach(&self) -> Result<MutexGuard<'_, State>, TpmError> {
        let state = self.state();
        if state.unreachable {
            return Err(TpmError::Unreachable {
                socket: "memory".into(),
                reason: "it is away".to_owned(),
            });
        }
        Ok(state)
    }

    /// For what signs: all troubles but a missing bank of PCRs keep it from that.
    fn signer(&self) -> Result<MutexGuard<'_, State>, TpmError> {
        let state = self.reach()?;
        match &state.trouble {
            Some(trouble) if trouble.kind != TroubleKind::NoSha256 => Err(trouble.clone().into()),
            Some(_) | None => Ok(state),
        }
    }

    /// For what only a TPM can.
    fn chip(&self) -> Result<MutexGuard<'_, State>, TpmError> {
        let state = self.reach()?;
        if let Some(trouble) = &state.trouble {
            return Err(trouble.clone().into());
        }
        match state.keeper {
            Keeper::Tpm => Ok(state),
            Keeper::Software => Err(TpmError::NeedsTpm),
        }
    }
}

impl State {
    fn read(&self, pcrs: PcrSelection) -> PcrValues {
        let chosen = self.pcrs.iter().filter(|(pcr, _)| pcrs.contains(**pcr));
        chosen.map(|(pcr, value)| (*pcr, *value)).collect()
    }

    fn attest(&self, nonce: &[u8]) -> Vec<u8> {
        let sized = |bytes: &[u8]| {
            let mut sized = u16::try_from(bytes.len())
                .unwrap_or(0)
                .to_be_bytes()
                .to_vec();
            sized.extend(bytes);
            sized
        };
        let mut digest = Sha256::new();
        for value in self.read(PCRS_QUOTED).values() {
            digest.update(value);
        }
        let mut data = TPM_GENERATED.to_be_bytes().to_vec();
        data.extend(TPM_ST_ATTEST_QUOTE.to_be_bytes());
        data.extend(sized(&[0; 34]));
        data.extend(sized(nonce));
        data.extend([0; 17 + 8]);
        data.extend(1_u32.to_be_bytes());
        data.extend(TPM_ALG_SHA256.to_be_bytes());
        data.push(3);
        data.extend(PCRS_QUOTED.bits());
        data.extend(sized(&digest.finalize()));
        data
    }

    fn seal(
        &mut self,
        name: &str,
        secret: &[u8],
        pcrs: PcrSelection,
        expected: &[PcrValues],
    ) -> Result<(), TpmError> {
        let invalid = |reason: &str| TpmError::Invalid {
            reason: reason.to_owned(),
        };
        if secret.is_empty() || secret.len() > LONGEST_SECRET {
            return Err(invalid("a secret has 1 to 128 bytes"));
        }
        if pcrs.is_empty() || expected.len() > MOST_EXPECTED {
            return Err(invalid("no PCRs, or too many sets of values"));
        }
        let foreign = |set: &PcrValues| set.keys().any(|pcr| !pcrs.contains(*pcr));
        if expected.iter().any(foreign) {
            return Err(invalid("a value is expected of a PCR that does not count"));
        }
        let now = self.read(pcrs);
        let futures = expected.iter().map(|set| {
            let mut values = now.clone();
            values.extend(set);
            values
        });
        let alternatives = std::iter::once(now.clone()).chain(futures).collect();
        let slot = SealedSlot { pcrs, alternatives };
        self.slots
            .insert(name.to_owned(), (slot, Zeroizing::new(secret.to_vec())));
        Ok(())
    }

    fn unseal(&mut self, name: &str) -> Result<Unsealed, TpmError> {
        let Some((slot, secret)) = self.slots.get(name) else {
            return Err(TpmError::NotFound {
                what: format!("secret in slot {name}"),
            });
        };
        let now = self.read(slot.pcrs);
        let Some(matched) = slot.alternatives.iter().position(|set| *set == now) else {
            let first = slot.alternatives.first();
            let differs = |pcr: &Pcr| first.and_then(|set| set.get(pcr)) != now.get(pcr);
            return Err(TpmError::Mismatch {
                pcrs: slot.pcrs.iter().filter(differs).collect(),
            });
        };
        self.unseals += 1;
        Ok(Unsealed {
            secret: secret.clone(),
            matched,
        })
    }
}

fn ready<T: Send + 'static>(result: Result<T, TpmError>) -> Reply<'static, T> {
    Box::pin(std::future::ready(result))
}

impl Tpm for MemoryTpm {
    fn describe(&self) -> Reply<'_, Description> {
        ready(self.reach().map(|state| Description {
            keeper: state.keeper,
            trouble: state.trouble.clone(),
            certificates: state.certificates.clone(),
            vendor: "memory".to_owned(),
            firmware: "1".to_owned(),
        }))
    }

    fn sign(&self, key: Key, digest: [u8; 32]) -> Reply<'_, Signature> {
        ready(self.signer().and_then(|state| match key {
            Key::Device => state.device.sign(&digest),
            Key::Onboarding => {
                let missing = || TpmError::NotFound {
                    what: "onboarding key".to_owned(),
                };
                state.onboarding.as_ref().ok_or_else(missing)?.sign(&digest)
            }
        }))
    }

    fn ecdh(&self, peer: &[u8]) -> Reply<'_, SharedPoint> {
        ready(self.signer().and_then(|state| state.ecdh.ecdh(peer)))
    }

    fn quote(&self, nonce: &[u8], _event_log: bool) -> Reply<'_, Quote> {
        ready(self.chip().and_then(|state| {
            if !(1..=32).contains(&nonce.len()) {
                return Err(TpmError::Invalid {
                    reason: "a nonce has 1 to 32 bytes".to_owned(),
                });
            }
            let attest = state.attest(nonce);
            let digest = Sha256::digest(&attest).into();
            let signature = state.quote.sign(&digest)?.to_der()?;
            Ok(Quote {
                attest,
                signature,
                pcrs: state.read(PCRS_QUOTED),
                event_log: Vec::new(),
            })
        }))
    }

    fn seal(
        &self,
        slot: &str,
        secret: &[u8],
        pcrs: PcrSelection,
        expected: &[PcrValues],
    ) -> Reply<'_, ()> {
        let sealed = self
            .chip()
            .and_then(|mut state| state.seal(slot, secret, pcrs, expected));
        ready(sealed)
    }

    fn unseal(&self, slot: &str) -> Reply<'_, Unsealed> {
        ready(self.chip().and_then(|mut state| state.unseal(slot)))
    }

    fn inspect(&self, slot: &str) -> Reply<'_, Option<SealedSlot>> {
        let found = |state: MutexGuard<'_, State>| state.slots.get(slot).map(|(s, _)| s.clone());
        ready(self.chip().map(found))
    }

    fn erase(&self, slot: &str) -> Reply<'_, ()> {
        ready(self.chip().map(|mut state| {
            state.slots.remove(slot);
        }))
    }

    fn read_pcrs(&self, pcrs: PcrSelection) -> Reply<'_, PcrValues> {
        ready(self.chip().map(|state| state.read(pcrs)))
    }

    fn extend_pcr(&self, pcr: Pcr, digest: [u8; 32]) -> Reply<'_, PcrValues> {
        ready(self.chip().map(|mut state| {
            let value = state.pcrs.entry(pcr).or_default();
            *value = extended(*value, digest);
            [(pcr, *value)].into()
        }))
    }

    fn read_nv(&self, index: u32) -> Reply<'_, Option<Vec<u8>>> {
        ready(self.chip().map(|state| state.nv.get(&index).cloned()))
    }

    fn write_nv(&self, index: u32, data: &[u8]) -> Reply<'_, ()> {
        ready(self.chip().map(|mut state| {
            state.nv.insert(index, data.to_vec());
        }))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn key(seed: u8) -> SoftKey {
        SoftKey::from_bytes(&[seed; 32]).unwrap()
    }

    fn pcr(index: u32) -> Pcr {
        Pcr::new(index).unwrap()
    }

    #[tokio::test]
    async fn a_secret_comes_out_now_and_after_the_expected_change_only() {
        let tpm = MemoryTpm::new(key(1), key(2), key(3));
        let pcrs: PcrSelection = [pcr(0), pcr(13)].into_iter().collect();
        let next: PcrValues = [(pcr(13), extended([0; 32], [7; 32]))].into();
        tpm.seal("vault", b"secret", pcrs, &[next]).await.unwrap();
        assert_eq!(tpm.unseal("vault").await.unwrap().matched, 0);
        tpm.extend_pcr(pcr(13), [7; 32]).await.unwrap();
        let unsealed = tpm.unseal("vault").await.unwrap();
        assert_eq!((unsealed.matched, &**unsealed.secret), (1, &b"secret"[..]));
        tpm.extend_pcr(pcr(13), [8; 32]).await.unwrap();
        let differ = vec![pcr(13)];
        assert_eq!(
            tpm.unseal("vault").await,
            Err(TpmError::Mismatch { pcrs: differ })
        );
        tpm.boot(&PcrValues::new());
        assert!(tpm.unseal("vault").await.is_ok());
        assert_eq!(tpm.unseals(), 3);
        tpm.erase("vault").await.unwrap();
        assert!(matches!(
            tpm.unseal("vault").await,
            Err(TpmError::NotFound { .. })
        ));
    }

    #[tokio::test]
    async fn without_a_tpm_it_signs_and_does_no_more() {
        let tpm = MemoryTpm::software(key(1));
        assert!(tpm.sign(Key::Device, [1; 32]).await.is_ok());
        assert!(tpm.ecdh(&key(2).point()).await.is_ok());
        assert!(matches!(
            tpm.sign(Key::Onboarding, [1; 32]).await,
            Err(TpmError::NotFound { .. })
        ));
        assert_eq!(tpm.quote(&[1; 16], false).await, Err(TpmError::NeedsTpm));
        assert_eq!(tpm.read_pcrs(PCRS_QUOTED).await, Err(TpmError::NeedsTpm));
    }
}
