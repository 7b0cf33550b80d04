//! Secrets that come out while PCRs have certain values.
//!
//! A secret is one object under the storage key, with a policy that is an OR over sets of values: those of
//! the time of sealing, and those that are expected after an update. One object in one file: it is
//! replaced at once, and there is never a moment in which one of the sets does not open it.

use sha2::{Digest as _, Sha256};
use tpm::{Pcr, PcrSelection, PcrValues, Zeroizing};
use tss_esapi::constants::SessionType;
use tss_esapi::handles::ObjectHandle;
use tss_esapi::interface_types::session_handles::{AuthSession, PolicySession};
use tss_esapi::structures::{Digest, DigestList, Private, Public, SensitiveData};
use tss_esapi::traits::{Marshall, UnMarshall};

use crate::error::of;
use crate::pcr::{digest, selection};
use crate::template::sealed;
use crate::tss::Tss;
use tpmmgr::chip::{ChipError, Sealed};

const TPM_CC_POLICY_PCR: u32 = 0x0000_017f;
const TPM_CC_POLICY_OR: u32 = 0x0000_0171;
const TPM_ALG_SHA256: u16 = 0x000b;

/// The policy of one set of values, as the TPM computes it.
fn branch(pcrs: PcrSelection, values: &PcrValues) -> [u8; 32] {
    Sha256::new()
        .chain_update([0; 32])
        .chain_update(TPM_CC_POLICY_PCR.to_be_bytes())
        // TPML_PCR_SELECTION of one bank.
        .chain_update(1_u32.to_be_bytes())
        .chain_update(TPM_ALG_SHA256.to_be_bytes())
        .chain_update([3])
        .chain_update(pcrs.bits())
        .chain_update(digest(values))
        .finalize()
        .into()
}

/// The branches of a policy. A TPM's OR has two at least.
fn branches(pcrs: PcrSelection, alternatives: &[PcrValues]) -> Vec<[u8; 32]> {
    let mut branches: Vec<_> = alternatives
        .iter()
        .map(|values| branch(pcrs, values))
        .collect();
    if let [only] = branches.as_slice() {
        branches.push(*only);
    }
    branches
}

/// The policy under which any of the sets of values opens a secret. Pure: it needs no TPM to be computed for
/// values that PCRs will only have after an update.
pub(crate) fn policy(pcrs: PcrSelection, alternatives: &[PcrValues]) -> [u8; 32] {
    let mut policy = Sha256::new()
        .chain_update([0; 32])
        .chain_update(TPM_CC_POLICY_OR.to_be_bytes());
    for branch in branches(pcrs, alternatives) {
        policy.update(branch);
    }
    policy.finalize().into()
}

impl Tss {
    /// Seals a secret to the values of now, and to the `expected` ones.
    pub(crate) fn seal(
        &mut self,
        secret: &[u8],
        pcrs: PcrSelection,
        expected: &[PcrValues],
    ) -> Result<Sealed, ChipError> {
        let storage = self.keys()?.storage.handle;
        let now = self.read_pcrs(pcrs)?;
        let mut alternatives = vec![now.clone()];
        for changes in expected {
            let mut values = now.clone();
            values.extend(changes);
            alternatives.push(values);
        }
        let policy = policy(pcrs, &alternatives);
        let create = |tss: &mut Self| {
            let public = sealed(policy)?;
            let secret = SensitiveData::try_from(secret)?;
            tss.secretly(storage, |context, session| {
                let auth = (Some(AuthSession::Password), Some(session), None);
                context.execute_with_sessions(auth, |context| {
                    context.create(storage, public, None, Some(secret), None, None)
                })
            })
        };
        let made = create(self).map_err(of("seal"))?;
        Ok(Sealed {
            pcrs,
            alternatives,
            public: made.out_public.marshall().map_err(of("seal"))?,
            private: made.out_private.value().to_vec(),
        })
    }

    /// The secret, and which set of values opened it.
    pub(crate) fn unseal(
        &mut self,
        blob: &Sealed,
    ) -> Result<(Zeroizing<Vec<u8>>, usize), ChipError> {
        let now = self.read_pcrs(blob.pcrs)?;
        let Some(matched) = blob.alternatives.iter().position(|set| *set == now) else {
            let first = blob.alternatives.first();
            let differs = |pcr: &Pcr| first.and_then(|set| set.get(pcr)) != now.get(pcr);
            return Err(ChipError::Mismatch(
                blob.pcrs.iter().filter(differs).collect(),
            ));
        };
        let storage = self.keys()?.storage.handle;
        let load = |tss: &mut Self| {
            let public = Public::unmarshall(&blob.public)?;
            let private = Private::try_from(blob.private.as_slice())?;
            tss.authorized(|context| context.load(storage, private, public))
        };
        let object = ObjectHandle::from(load(self).map_err(of("load a sealed secret"))?);
        let secret = self.unlock(object, blob);
        let _ = self.context.flush_context(object);
        let secret = secret.map_err(of("unseal"))?;
        Ok((Zeroizing::new(secret.value().to_vec()), matched))
    }

    fn unlock(&mut self, object: ObjectHandle, blob: &Sealed) -> tss_esapi::Result<SensitiveData> {
        let storage = match &self.keys {
            Some(keys) => keys.storage.handle,
            None => {
                return Err(tss_esapi::Error::WrapperError(
                    tss_esapi::WrapperErrorKind::InvalidHandleState,
                ));
            }
        };
        let session = self.session(storage, SessionType::Policy)?;
        let result = self.satisfy(session, blob).and_then(|()| {
            self.secretly(storage, |context, secret| {
                let sessions = (Some(session), Some(secret), None);
                context.execute_with_sessions(sessions, |context| context.unseal(object))
            })
        });
        self.flush(session);
        result
    }

    fn satisfy(&mut self, session: AuthSession, blob: &Sealed) -> tss_esapi::Result<()> {
        let session = PolicySession::try_from(session)?;
        let mut list = DigestList::new();
        for branch in branches(blob.pcrs, &blob.alternatives) {
            list.add(Digest::try_from(branch.as_slice())?)?;
        }
        let pcrs = selection(blob.pcrs)?;
        self.context.execute_without_session(|context| {
            // Without a digest it is about the values that they have.
            context.policy_pcr(session, Digest::default(), pcrs)?;
            context.policy_or(session, list)
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_policy_depends_on_every_value_and_on_their_order() {
        let pcr = |index| Pcr::new(index).unwrap();
        let pcrs: PcrSelection = [pcr(0), pcr(7)].into_iter().collect();
        let set = |a: u8, b: u8| PcrValues::from([(pcr(0), [a; 32]), (pcr(7), [b; 32])]);
        let one = policy(pcrs, &[set(1, 2)]);
        assert_eq!(one, policy(pcrs, &[set(1, 2), set(1, 2)]));
        assert_ne!(one, policy(pcrs, &[set(2, 1)]));
        assert_ne!(one, policy(pcrs, &[set(1, 2), set(1, 3)]));
        assert_ne!(
            one,
            policy([pcr(0), pcr(8)].into_iter().collect(), &[set(1, 2)])
        );
    }
}
