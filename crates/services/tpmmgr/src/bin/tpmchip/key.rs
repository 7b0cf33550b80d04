//! The keys at their handles: found, or made; and what they do.

use tpm::{SharedPoint, Signature, Zeroizing};
use tss_esapi::constants::tss::{TPM2_RH_NULL, TPM2_ST_HASHCHECK};
use tss_esapi::handles::{KeyHandle, ObjectHandle, PersistentTpmHandle, TpmHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::dynamic_handles::Persistent;
use tss_esapi::interface_types::resource_handles::Provision;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{
    Digest, EccParameter, EccPoint, HashScheme, HashcheckTicket, Public, Signature as TssSignature,
    SignatureScheme,
};
use tss_esapi::traits::Marshall;
use tss_esapi::tss2_esys::TPMT_TK_HASHCHECK;

use crate::error::of;
use crate::template::Template;
use crate::tss::Tss;
use tpmmgr::chip::{ChipError, KeySet, PublicKey};

/// Handles of the first persistent object.
const PERSISTENT: u32 = 0x8100_0000;

/// A key that is there.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) handle: KeyHandle,
    /// Its public point, SEC1 uncompressed.
    pub(crate) point: Vec<u8>,
    /// `TPM2_PUBLIC`.
    pub(crate) public_area: Vec<u8>,
}

/// The keys.
#[derive(Clone, Debug)]
pub(crate) struct KeyHandles {
    /// Of the TPM itself.
    pub(crate) endorsement: Found,
    /// That others are sealed under.
    pub(crate) storage: Found,
    /// That signs quotes.
    pub(crate) quote: Found,
    /// That controllers encrypt to.
    pub(crate) ecdh: Found,
    /// The device's.
    pub(crate) device: Found,
}

impl KeyHandles {
    /// As others know them.
    pub(crate) fn known(self, made: &[String]) -> KeySet {
        let public = |found: Found| PublicKey {
            point: found.point,
            public_area: found.public_area,
        };
        KeySet {
            endorsement: public(self.endorsement),
            quote: public(self.quote),
            ecdh: public(self.ecdh),
            device: public(self.device),
            made: made.to_vec(),
        }
    }
}

impl Tss {
    /// The keys, made where they are not there. `expected` is the point of the device's certificate: a TPM
    /// whose device key is another is not touched.
    pub(crate) fn prepare(&mut self, expected: Option<&[u8]>) -> Result<KeyHandles, ChipError> {
        self.keys = None;
        self.made.clear();
        let present = self.handles(PERSISTENT)?;
        let device = self.find_or_make(&present, Template::Device, expected)?;
        let keys = KeyHandles {
            device,
            endorsement: self.find_or_make(&present, Template::Endorsement, None)?,
            storage: self.find_or_make(&present, Template::Storage, None)?,
            quote: self.find_or_make(&present, Template::Quote, None)?,
            ecdh: self.find_or_make(&present, Template::Ecdh, None)?,
        };
        self.keys = Some(keys.clone());
        Ok(keys)
    }

    /// The keys as they are; nothing is made.
    pub(crate) fn keys(&mut self) -> Result<KeyHandles, ChipError> {
        if let Some(keys) = &self.keys {
            return Ok(keys.clone());
        }
        let present = self.handles(PERSISTENT)?;
        let mut find = |template: Template| match self.find(&present, template)? {
            Some(found) => Ok(found),
            None => Err(ChipError::Keys(format!(
                "the TPM has no {} any more",
                template.name()
            ))),
        };
        let keys = KeyHandles {
            device: find(Template::Device)?,
            endorsement: find(Template::Endorsement)?,
            storage: find(Template::Storage)?,
            quote: find(Template::Quote)?,
            ecdh: find(Template::Ecdh)?,
        };
        self.keys = Some(keys.clone());
        Ok(keys)
    }

    fn find(&mut self, present: &[u32], template: Template) -> Result<Option<Found>, ChipError> {
        if !present.contains(&template.handle()) {
            return Ok(None);
        }
        let read = |tss: &mut Self| {
            let handle = PersistentTpmHandle::new(template.handle())?;
            let handle = tss
                .context
                .tr_from_tpm_public(TpmHandle::Persistent(handle))?;
            let handle = KeyHandle::from(handle);
            let (public, _, _) = tss.context.read_public(handle)?;
            Ok((handle, public))
        };
        let (handle, public) = read(self).map_err(of("show a key"))?;
        if !template.fits(&public) {
            return Err(ChipError::Keys(format!(
                "what the TPM has at {:#x} is no {}",
                template.handle(),
                template.name()
            )));
        }
        Ok(Some(found(handle, &public)?))
    }

    fn find_or_make(
        &mut self,
        present: &[u32],
        template: Template,
        expected: Option<&[u8]>,
    ) -> Result<Found, ChipError> {
        let is_other = |found: &Found| expected.is_some_and(|point| point != found.point);
        let other = || {
            ChipError::Keys(
                "the TPM's device key is not that of the device's certificate: \
                 the TPM was cleared, or is another one"
                    .to_owned(),
            )
        };
        if let Some(found) = self.find(present, template)? {
            return if is_other(&found) {
                Err(other())
            } else {
                Ok(found)
            };
        }
        let made = |tss: &mut Self| {
            let public = template.public()?;
            tss.authorized(|context| {
                context.create_primary(template.hierarchy(), public, None, None, None, None)
            })
        };
        let made = made(self).map_err(of("make a key"))?;
        let transient = ObjectHandle::from(made.key_handle);
        let kept = match found(made.key_handle, &made.out_public) {
            Ok(found) if is_other(&found) => Err(other()),
            Ok(_) => self.persist(transient, template),
            Err(error) => Err(error),
        };
        let _ = self.context.flush_context(transient);
        let handle = kept?;
        self.made.push(template.name().to_owned());
        found(handle, &made.out_public)
    }

    fn persist(&mut self, key: ObjectHandle, template: Template) -> Result<KeyHandle, ChipError> {
        let keep = |tss: &mut Self| {
            let at = Persistent::Persistent(PersistentTpmHandle::new(template.handle())?);
            tss.authorized(|context| context.evict_control(Provision::Owner, key, at))
        };
        keep(self).map(KeyHandle::from).map_err(of("keep a key"))
    }

    /// Signs a SHA-256 digest with the device's key.
    pub(crate) fn sign(&mut self, digest: &[u8; 32]) -> Result<Signature, ChipError> {
        let key = self.keys()?.device.handle;
        let sign = |tss: &mut Self| {
            // A key that signs anything asks for no proof that the TPM made the digest.
            let ticket = HashcheckTicket::try_from(TPMT_TK_HASHCHECK {
                tag: TPM2_ST_HASHCHECK,
                hierarchy: TPM2_RH_NULL,
                digest: tss_esapi::tss2_esys::TPM2B_DIGEST::default(),
            })?;
            let scheme = SignatureScheme::EcDsa {
                hash_scheme: HashScheme::new(HashingAlgorithm::Sha256),
            };
            let digest = Digest::try_from(digest.as_slice())?;
            tss.authorized(|context| context.sign(key, digest, scheme, ticket))
        };
        raw(&sign(self).map_err(of("sign"))?)
    }

    /// Multiplies a point, given as SEC1 uncompressed, by the ECDH key.
    pub(crate) fn ecdh(&mut self, x: [u8; 32], y: [u8; 32]) -> Result<SharedPoint, ChipError> {
        let keys = self.keys()?;
        let multiply = |tss: &mut Self| {
            let point = EccPoint::new(
                EccParameter::try_from(x.as_slice())?,
                EccParameter::try_from(y.as_slice())?,
            );
            tss.secretly(keys.storage.handle, |context, session| {
                let auth = (Some(AuthSession::Password), Some(session), None);
                context.execute_with_sessions(auth, |c| c.ecdh_z_gen(keys.ecdh.handle, point))
            })
        };
        let shared = multiply(self).map_err(of("share a point"))?;
        Ok(SharedPoint {
            x: Zeroizing::new(padded(shared.x())?),
            y: Zeroizing::new(padded(shared.y())?),
        })
    }
}

fn found(handle: KeyHandle, public: &Public) -> Result<Found, ChipError> {
    let Public::Ecc { unique, .. } = public else {
        return Err(ChipError::Keys("a key is not on P-256".to_owned()));
    };
    let mut point = vec![4];
    point.extend(padded(unique.x())?);
    point.extend(padded(unique.y())?);
    Ok(Found {
        handle,
        point,
        public_area: public.marshall().map_err(of("show a key"))?,
    })
}

/// A TPM may leave out leading zeros.
pub(crate) fn padded(value: &EccParameter) -> Result<[u8; 32], ChipError> {
    let bytes = value.value();
    let mut padded = [0; 32];
    let Some(start) = padded.len().checked_sub(bytes.len()) else {
        return Err(ChipError::Keys("a number is too long for P-256".to_owned()));
    };
    padded[start..].copy_from_slice(bytes);
    Ok(padded)
}

/// A signature as `r || s`.
pub(crate) fn raw(signature: &TssSignature) -> Result<Signature, ChipError> {
    let TssSignature::EcDsa(signature) = signature else {
        return Err(ChipError::Keys("a signature is not ECDSA".to_owned()));
    };
    let mut raw = [0; 64];
    raw[..32].copy_from_slice(&padded(signature.signature_r())?);
    raw[32..].copy_from_slice(&padded(signature.signature_s())?);
    Ok(Signature(raw))
}
