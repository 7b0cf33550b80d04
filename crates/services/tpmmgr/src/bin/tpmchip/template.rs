//! The keys as they are asked of the TPM.
//!
//! All are primary keys on P-256: the TPM derives them from its seed and the template, so a handle that
//! was lost is made again with the same key, and a TPM that was cleared, or another, shows by other keys.

use tss_esapi::Result;
use tss_esapi::abstraction::AsymmetricAlgorithmSelection;
use tss_esapi::abstraction::ek::create_ek_public_from_default_template_2;
use tss_esapi::attributes::ObjectAttributesBuilder;
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::resource_handles::Hierarchy;
use tss_esapi::structures::{
    Digest, EccParameter, EccPoint, EccScheme, HashScheme, KeyDerivationFunctionScheme,
    KeyedHashScheme, Public, PublicBuilder, PublicEccParametersBuilder, PublicKeyedHashParameters,
    SymmetricDefinitionObject,
};

/// A key at its handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Template {
    Endorsement,
    Storage,
    Quote,
    Ecdh,
    Device,
}

impl Template {
    /// EVE's handles.
    pub(crate) fn handle(self) -> u32 {
        match self {
            Self::Endorsement => 0x8100_0001,
            Self::Storage => 0x8100_0002,
            Self::Quote => 0x8100_0003,
            Self::Ecdh => 0x8100_0005,
            Self::Device => 0x817f_ffff,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Endorsement => "endorsement key",
            Self::Storage => "storage key",
            Self::Quote => "quote key",
            Self::Ecdh => "ECDH key",
            Self::Device => "device key",
        }
    }

    pub(crate) fn hierarchy(self) -> Hierarchy {
        match self {
            Self::Endorsement => Hierarchy::Endorsement,
            Self::Storage | Self::Quote | Self::Ecdh | Self::Device => Hierarchy::Owner,
        }
    }

    pub(crate) fn public(self) -> Result<Public> {
        let signing = || EccScheme::EcDsa(HashScheme::new(HashingAlgorithm::Sha256));
        let none = SymmetricDefinitionObject::Null;
        match self {
            Self::Endorsement => create_ek_public_from_default_template_2(
                AsymmetricAlgorithmSelection::Ecc(EccCurve::NistP256),
                None,
            ),
            Self::Storage => {
                let symmetric = SymmetricDefinitionObject::AES_128_CFB;
                key(Use::Decrypt, true, EccScheme::Null, symmetric, b"")
            }
            Self::Quote => key(Use::Sign, true, signing(), none, b"EVE quote"),
            // Nothing says in the key which scheme its peer uses: the TPM only multiplies.
            Self::Ecdh => key(Use::Decrypt, false, EccScheme::Null, none, b"EVE ECDH"),
            Self::Device => key(Use::Sign, false, signing(), none, b"EVE device"),
        }
    }

    /// Whether a key that is there can do what this one is for. It may have been made by another system.
    pub(crate) fn fits(self, found: &Public) -> bool {
        let Public::Ecc {
            object_attributes: is,
            parameters,
            ..
        } = found
        else {
            return false;
        };
        let kept = is.fixed_tpm() && is.fixed_parent() && is.sensitive_data_origin();
        let used = match self {
            Self::Endorsement | Self::Storage => is.decrypt() && is.restricted(),
            Self::Quote => is.sign_encrypt() && is.restricted(),
            Self::Ecdh => is.decrypt() && !is.restricted(),
            Self::Device => is.sign_encrypt() && !is.restricted(),
        };
        kept && used && parameters.ecc_curve() == EccCurve::NistP256
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Sign,
    Decrypt,
}

fn key(
    used_to: Use,
    restricted: bool,
    scheme: EccScheme,
    symmetric: SymmetricDefinitionObject,
    label: &[u8],
) -> Result<Public> {
    let (sign, decrypt) = (used_to == Use::Sign, used_to == Use::Decrypt);
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        // There is no authorization to guess, so a lock-out has nothing to protect.
        .with_no_da(true)
        .with_restricted(restricted)
        .with_sign_encrypt(sign)
        .with_decrypt(decrypt)
        .build()?;
    let parameters = PublicEccParametersBuilder::new()
        .with_ecc_scheme(scheme)
        .with_curve(EccCurve::NistP256)
        .with_symmetric(symmetric)
        .with_key_derivation_function_scheme(KeyDerivationFunctionScheme::Null)
        .with_is_signing_key(sign)
        .with_is_decryption_key(decrypt)
        .with_restricted(restricted)
        .build()?;
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_ecc_parameters(parameters)
        // A part of the derivation: one key for each purpose.
        .with_ecc_unique_identifier(EccPoint::new(
            EccParameter::try_from(label)?,
            EccParameter::default(),
        ))
        .build()
}

/// A secret that comes out under a policy only.
pub(crate) fn sealed(policy: [u8; 32]) -> Result<Public> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_no_da(true)
        .build()?;
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::KeyedHash)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_auth_policy(Digest::try_from(policy.as_slice())?)
        .with_keyed_hash_parameters(PublicKeyedHashParameters::new(KeyedHashScheme::Null))
        .with_keyed_hash_unique_identifier(Digest::default())
        .build()
}
