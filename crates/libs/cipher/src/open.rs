//! From a cipher block of the bus to what is in it.
//!
//! Two steps, so that services stay pure where they decide: [`Keys::find`] looks up what a block needs in the tables;
//! [`login`] and [`user_data`] ask the device's key and decrypt, where the secret is used.

use std::fmt;

use api::common::EncryptionBlock;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bus::Rows;
use futures::future::BoxFuture;
use model::{
    code::Code,
    security::{CipherBlock, CipherContext, ControllerCert},
};
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use zeroize::{Zeroize as _, Zeroizing};

use crate::curve::{CurveError, PeerKey};
use crate::key::{BlockError, Key, SharedPoint};

/// Most bytes of a block with user data: a mebibyte in base64, and room for the rest.
pub const MAX_USER_DATA: usize = 2 << 20;
/// Most bytes of a block with a login.
pub const MAX_LOGIN: usize = 64 << 10;

/// The device's private key for key exchange, wherever it lives.
pub trait Exchange: Send + Sync + fmt::Debug {
    /// What the key of the certificate with this hash has in common with `peer`.
    fn agree<'a>(
        &'a self,
        device_cert: &'a [u8],
        peer: &'a PeerKey,
    ) -> BoxFuture<'a, Result<SharedPoint, ExchangeError>>;
}

/// The key of a device that has none for key exchange.
#[derive(Debug, Clone, Copy)]
pub struct NoKey;

impl Exchange for NoKey {
    fn agree<'a>(
        &'a self,
        device_cert: &'a [u8],
        _: &'a PeerKey,
    ) -> BoxFuture<'a, Result<SharedPoint, ExchangeError>> {
        let (wanted, has) = (hex::encode(device_cert), "none".to_owned());
        Box::pin(async move { Err(ExchangeError::OtherKey { wanted, has }) })
    }
}

/// Why the device's key does not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExchangeError {
    /// The controller encrypted for another key.
    #[error("it is encrypted for the device's certificate {wanted}, but the device has {has}")]
    OtherKey {
        /// Hash of the certificate that the context names, hex.
        wanted: String,
        /// Of the one that the device has, hex; or that it has none.
        has: String,
    },
    /// Who holds the key does not answer now.
    #[error("the device's key does not answer: {0}")]
    Unavailable(String),
    /// It answers and does not do it.
    #[error("the device's key refuses: {0}")]
    Refused(String),
}

/// Why a block stays closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The block refers to nothing.
    #[error("there is no cipher context {0:?} in the config")]
    NoContext(String),
    /// The context can't be used; in the words of its fault.
    #[error("cipher context {id:?}: {why}")]
    Context {
        /// Which.
        id: String,
        /// Why.
        why: String,
    },
    /// The certificate may be on its way.
    #[error("the controller has not delivered its certificate {0}")]
    NoCertificate(String),
    /// Its key is of no use.
    #[error("the controller's certificate {hash}")]
    Certificate {
        /// Which, hex.
        hash: String,
        /// Why.
        #[source]
        source: CurveError,
    },
    /// The device's key.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    /// The block.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// What came out.
    #[error("what is in it is {0}")]
    Content(&'static str),
}

impl OpenError {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::NoContext(_)
            | Self::Context { .. }
            | Self::NoCertificate(_)
            | Self::Certificate { .. }
            | Self::Exchange(ExchangeError::OtherKey { .. }) => Code::CipherContext,
            Self::Exchange(ExchangeError::Unavailable(_) | ExchangeError::Refused(_)) => {
                Code::CipherKey
            }
            Self::Block(_) | Self::Content(_) => Code::CipherBlock,
        }
    }

    /// Whether it may be otherwise a moment later, with the same config.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NoCertificate(_)
            | Self::Exchange(ExchangeError::Unavailable(_) | ExchangeError::OtherKey { .. }) => {
                true
            }
            Self::NoContext(_)
            | Self::Context { .. }
            | Self::Certificate { .. }
            | Self::Exchange(ExchangeError::Refused(_))
            | Self::Block(_)
            | Self::Content(_) => false,
        }
    }
}

/// The keys of a block, as far as they are public.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    /// Hash of the device's certificate.
    pub device_cert: Vec<u8>,
    /// The controller's key.
    pub peer: PeerKey,
}

impl Keys {
    /// Those of the context that a block names.
    pub fn find(
        block: &CipherBlock,
        contexts: &Rows<CipherContext>,
        certs: &Rows<ControllerCert>,
    ) -> Result<Self, OpenError> {
        let id = &block.context;
        let context = contexts
            .get(id)
            .ok_or_else(|| OpenError::NoContext(id.clone()))?;
        let unusable = |why: String| OpenError::Context {
            id: id.clone(),
            why,
        };
        if let Some(fault) = &context.fault {
            return Err(unusable(fault.text.clone()));
        }
        let hash = &context.controller_cert_hash;
        let cert = certs
            .get(hash)
            .ok_or_else(|| OpenError::NoCertificate(hash.clone()))?;
        let peer = PeerKey::from_certificate(cert.pem.as_bytes()).map_err(|source| {
            OpenError::Certificate {
                hash: hash.clone(),
                source,
            }
        })?;
        let device_cert = hex::decode(&context.device_cert_hash)
            .map_err(|_| unusable("its device certificate has no hash".to_owned()))?;
        Ok(Self { device_cert, peer })
    }
}

/// Name and password at a datastore.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// Name, or id of an API key.
    pub user: Zeroizing<String>,
    /// Password, or the API key.
    pub password: Zeroizing<String>,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(***)")
    }
}

/// Decrypts the login of a datastore.
pub async fn login(
    block: &CipherBlock,
    keys: &Keys,
    exchange: &dyn Exchange,
) -> Result<Login, OpenError> {
    let mut content = open(block, keys, exchange, MAX_LOGIN).await?;
    let login = Login {
        user: Zeroizing::new(std::mem::take(&mut content.0.ds_api_key)),
        password: Zeroizing::new(std::mem::take(&mut content.0.ds_password)),
    };
    if login.user.is_empty() && login.password.is_empty() {
        return Err(OpenError::Content("no login"));
    }
    Ok(login)
}

/// Decrypts the user data of an application; in the clear, not base64.
pub async fn user_data(
    block: &CipherBlock,
    keys: &Keys,
    exchange: &dyn Exchange,
) -> Result<Zeroizing<String>, OpenError> {
    let content = open(block, keys, exchange, MAX_USER_DATA).await?;
    let text = content.0.protected_user_data.trim();
    if text.is_empty() {
        return Err(OpenError::Content("no user data"));
    }
    let bytes = STANDARD
        .decode(text)
        .map_err(|_| OpenError::Content("user data that is not base64"))?;
    String::from_utf8(bytes)
        .map(Zeroizing::new)
        .map_err(|error| {
            error.into_bytes().zeroize();
            OpenError::Content("user data that is not UTF-8 text")
        })
}

/// First 16 bytes of the SHA-256 of a certificate's PEM text: how a context names the device's.
pub fn pem_hash(pem: &[u8]) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&Sha256::digest(pem)[..16]);
    short
}

async fn open(
    block: &CipherBlock,
    keys: &Keys,
    exchange: &dyn Exchange,
    limit: usize,
) -> Result<Content, OpenError> {
    let bytes = block.cipher_data.0.len();
    // Before the key is asked for anything.
    if bytes > limit {
        return Err(BlockError::TooLarge { bytes, limit }.into());
    }
    let point = exchange.agree(&keys.device_cert, &keys.peer).await?;
    decrypt(block, &point)
}

/// Decrypts with what was agreed.
fn decrypt(block: &CipherBlock, point: &SharedPoint) -> Result<Content, OpenError> {
    let key = Key::derive(point);
    let clear = key.decrypt(
        &block.initial_value.0,
        &block.cipher_data.0,
        &block.clear_text_sha256,
    )?;
    EncryptionBlock::decode(clear.as_slice())
        .map(Content)
        .map_err(|_| OpenError::Content("no EncryptionBlock"))
}

/// What was encrypted; wiped when it goes.
struct Content(EncryptionBlock);

impl Drop for Content {
    fn drop(&mut self) {
        // By name, so that a new field has to be wiped too.
        let EncryptionBlock {
            ds_api_key,
            ds_password,
            wifi_user_name,
            wifi_password,
            protected_user_data,
            cellular_net_username,
            cellular_net_password,
            cluster_token,
            user: _,
            encrypted_data,
            cellular_net_attach_username,
            cellular_net_attach_password,
            gzip_registration_manifest_yaml,
            scep_challenge_password,
        } = &mut self.0;
        for text in [
            ds_api_key,
            ds_password,
            wifi_user_name,
            wifi_password,
            protected_user_data,
            cellular_net_username,
            cellular_net_password,
            cluster_token,
            encrypted_data,
            cellular_net_attach_username,
            cellular_net_attach_password,
            scep_challenge_password,
        ] {
            text.zeroize();
        }
        gzip_registration_manifest_yaml.zeroize();
    }
}
