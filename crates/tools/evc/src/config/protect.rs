//! Secrets of a configuration, encrypted for the one device that gets it. Pure.
//!
//! Encryption is a function of the keys and the secret: nothing random is in it, so an unchanged configuration stays
//! unchanged from poll to poll, and a secret that is encrypted anew with the next certificate keeps the digest by which
//! the device sees that it is the same. The digest travels in the clear, so each secret has a salt with it that only this
//! controller can make: otherwise a short password could be guessed from its digest.
//!
//! See `docs/decisions/103-secrets.md`.

use api::common::{
    CipherBlock, CipherContext, EncryptionBlock, EncryptionScheme, HashAlgorithm, KeyExchangeScheme,
};
use api::config::EdgeDevConfig;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cipher::{CurveError, Key, PeerKey};
use prost::Message as _;
use ring::hmac;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::build::{Built, config_hash};
use crate::pki::ExchangeKey;

/// The device that can read the secrets.
pub struct Recipient {
    context: CipherContext,
    key: Key,
    salt: hmac::Key,
}

impl std::fmt::Debug for Recipient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recipient")
            .field("device", &hex::encode(&self.context.device_cert_hash))
            .finish_non_exhaustive()
    }
}

/// What became of the secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Protection {
    /// There are none.
    NoSecrets,
    /// All are encrypted.
    Encrypted,
    /// The device has sent no certificate for key exchange: user data goes in the clear, and logins of datastores are
    /// left out.
    InTheClear {
        /// Applications whose user data is in the clear.
        apps: usize,
        /// Datastores whose login was left out.
        withheld: usize,
    },
}

impl Protection {
    /// For people.
    pub fn text(&self) -> String {
        match self {
            Self::NoSecrets => "none".to_owned(),
            Self::Encrypted => "encrypted for the device".to_owned(),
            Self::InTheClear { apps, withheld } => format!(
                "NOT encrypted, for the device has sent no certificate for key exchange: user data of {apps} apps in \
                 the clear, logins of {withheld} datastores withheld"
            ),
        }
    }
}

impl Recipient {
    /// The device with this certificate for key exchange, as it sent it. `salt` is the controller's own and never
    /// changes.
    pub fn new(device_pem: &[u8], own: &ExchangeKey, salt: &[u8; 32]) -> Result<Self, CurveError> {
        let peer = PeerKey::from_certificate(device_pem)?;
        let point = cipher::agree(&own.secret, &peer)?;
        let device_cert_hash = cipher::pem_hash(device_pem).to_vec();
        let names = [&own.hash[..], &device_cert_hash[..]].concat();
        let context = CipherContext {
            context_id: Uuid::new_v5(&Uuid::nil(), &names).to_string(),
            hash_scheme: HashAlgorithm::Sha25616bytes.into(),
            key_exchange_scheme: KeyExchangeScheme::KeaEcdh.into(),
            encryption_scheme: EncryptionScheme::SaAes256Cfb.into(),
            device_cert_hash,
            controller_cert_hash: own.hash.to_vec(),
        };
        Ok(Self {
            context,
            key: Key::derive(&point),
            salt: hmac::Key::new(hmac::HMAC_SHA256, salt),
        })
    }

    fn encrypt(&self, object: &str, mut secret: EncryptionBlock) -> CipherBlock {
        let plain = Zeroizing::new(secret.encode_to_vec());
        let salt = tag(&self.salt, &[object.as_bytes(), &plain]);
        // A field that its consumers don't look at.
        secret.encrypted_data = STANDARD.encode(salt);
        let clear = Zeroizing::new(secret.encode_to_vec());
        let iv_key = hmac::Key::new(hmac::HMAC_SHA256, self.key.bytes());
        let iv = tag(&iv_key, &[object.as_bytes(), &clear]);
        let sealed = self.key.encrypt(&iv, &clear);
        CipherBlock {
            cipher_context_id: self.context.context_id.clone(),
            initial_value: iv.to_vec(),
            cipher_data: sealed.data,
            clear_text_sha256: sealed.digest.0.to_vec(),
        }
    }
}

/// Sixteen bytes that only the holder of `key` can make of these parts.
fn tag(key: &hmac::Key, parts: &[&[u8]]) -> [u8; 16] {
    let mut context = hmac::Context::with_key(key);
    for part in parts {
        context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        context.update(part);
    }
    let mut short = [0; 16];
    short.copy_from_slice(&context.sign().as_ref()[..16]);
    short
}

/// Takes every secret out of the clear: encrypted for the recipient, or as [`Protection::InTheClear`] says.
pub fn protect(built: &mut Built, recipient: Option<&Recipient>) -> Protection {
    let protection = secrets(&mut built.config, recipient);
    if protection != Protection::NoSecrets {
        built.hash = config_hash(&built.config);
    }
    protection
}

fn secrets(config: &mut EdgeDevConfig, recipient: Option<&Recipient>) -> Protection {
    let (mut logins, mut apps) = (0, 0);
    for store in &mut config.datastores {
        let user = std::mem::take(&mut store.api_key);
        let password = std::mem::take(&mut store.password);
        if user.is_empty() && password.is_empty() {
            continue;
        }
        logins += 1;
        store.cipher_data = recipient.map(|to| {
            let secret = EncryptionBlock {
                ds_api_key: user,
                ds_password: password,
                ..EncryptionBlock::default()
            };
            to.encrypt(&format!("datastore {}", store.id), secret)
        });
    }
    for app in &mut config.apps {
        if app.user_data.is_empty() {
            continue;
        }
        apps += 1;
        if let Some(to) = recipient {
            let secret = EncryptionBlock {
                protected_user_data: std::mem::take(&mut app.user_data),
                ..EncryptionBlock::default()
            };
            let id = app.uuidandversion.as_ref().map_or("", |id| &id.uuid);
            app.cipher_data = Some(to.encrypt(&format!("app {id}"), secret));
        }
    }
    match recipient {
        _ if logins + apps == 0 => Protection::NoSecrets,
        Some(to) => {
            config.cipher_contexts.push(to.context.clone());
            Protection::Encrypted
        }
        None => Protection::InTheClear {
            apps,
            withheld: logins,
        },
    }
}
