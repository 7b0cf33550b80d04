//! Secrets: carried on as the controller encrypted them. Nobody decrypts here.

use api::{
    common::{
        CipherBlock as WireBlock, CipherContext as WireContext, EncryptionScheme, HashAlgorithm,
        KeyExchangeScheme,
    },
    config::{EdgeDevConfig, NetworkConfig},
};
use bus::Rows;
use jiff::Timestamp;
use model::{
    code::Code,
    id::Digest,
    port::WirelessNetwork,
    security::{CipherBlock, CipherContext, Octets},
};

use super::{Problem, Translated, insert};

/// Most bytes of a login, and of user data: a mebibyte in base64 with room for the rest.
pub(super) const LOGIN: usize = 64 << 10;
pub(super) const USER_DATA: usize = 2 << 20;

pub(super) fn contexts(config: &EdgeDevConfig, now: Timestamp, to: &mut Translated) {
    for (position, from) in config.cipher_contexts.iter().enumerate() {
        let id = from.context_id.trim();
        if id.is_empty() {
            let object = format!("cipher context number {}", position + 1);
            to.faults.push(context("it has no id").fault(object, now));
            continue;
        }
        let row = CipherContext {
            id: id.to_owned(),
            device_cert_hash: hex::encode(&from.device_cert_hash),
            controller_cert_hash: hex::encode(&from.controller_cert_hash),
            fault: scheme(from)
                .err()
                .map(|problem| problem.fault(format!("cipher context {id}"), now)),
        };
        insert(
            "cipher context",
            &mut to.cipher_contexts,
            id.to_owned(),
            row,
            &mut to.faults,
            now,
        );
    }
}

fn context(text: impl Into<String>) -> Problem {
    Problem {
        code: Code::CipherContext,
        text: text.into(),
    }
}

fn scheme(from: &WireContext) -> Result<(), Problem> {
    if KeyExchangeScheme::try_from(from.key_exchange_scheme) != Ok(KeyExchangeScheme::KeaEcdh) {
        return Err(context(format!(
            "key exchange scheme {} is not known",
            from.key_exchange_scheme
        )));
    }
    if EncryptionScheme::try_from(from.encryption_scheme) != Ok(EncryptionScheme::SaAes256Cfb) {
        return Err(context(format!(
            "encryption scheme {} is not known",
            from.encryption_scheme
        )));
    }
    // The hash names certificates only; both lengths are looked up byte for byte.
    match HashAlgorithm::try_from(from.hash_scheme) {
        Ok(HashAlgorithm::Sha25616bytes | HashAlgorithm::Sha25632bytes) => {}
        Ok(HashAlgorithm::Invalid) | Err(_) => {
            return Err(context(format!(
                "hash scheme {} is not known",
                from.hash_scheme
            )));
        }
    }
    for (whose, hash) in [
        ("device", &from.device_cert_hash),
        ("controller", &from.controller_cert_hash),
    ] {
        if !matches!(hash.len(), 16 | 32) {
            return Err(context(format!(
                "the hash of the {whose}'s certificate has {} bytes, not 16 or 32",
                hash.len()
            )));
        }
    }
    Ok(())
}

/// A secret of at most `limit` bytes, as far as it can be judged without its key.
pub(super) fn block(
    from: Option<&WireBlock>,
    limit: usize,
    contexts: &Rows<CipherContext>,
) -> Result<Option<CipherBlock>, Problem> {
    let Some(from) = from else { return Ok(None) };
    let bad = |text: String| Problem {
        code: Code::CipherBlock,
        text,
    };
    let id = from.cipher_context_id.trim();
    match contexts.get(id) {
        None => {
            return Err(context(format!(
                "there is no cipher context {id:?} in the config"
            )));
        }
        Some(CipherContext {
            fault: Some(fault), ..
        }) => return Err(context(format!("cipher context {id}: {}", fault.text))),
        Some(_) => {}
    }
    if from.initial_value.len() != 16 {
        let bytes = from.initial_value.len();
        return Err(bad(format!("initialValue has {bytes} bytes instead of 16")));
    }
    let bytes = from.cipher_data.len();
    if bytes == 0 {
        return Err(bad("it is empty".to_owned()));
    }
    if bytes > limit {
        return Err(bad(format!(
            "it has {bytes} bytes, of which {limit} are taken"
        )));
    }
    let digest: [u8; 32] = from.clear_text_sha256.as_slice().try_into().map_err(|_| {
        let bytes = from.clear_text_sha256.len();
        bad(format!("clearTextSha256 has {bytes} bytes instead of 32"))
    })?;
    Ok(Some(CipherBlock {
        context: id.to_owned(),
        initial_value: Octets(from.initial_value.clone()),
        cipher_data: Octets(from.cipher_data.clone()),
        clear_text_sha256: Digest(digest),
    }))
}

/// The wireless networks of a port. A login in the clear is not carried on; the network then is one without.
pub(super) fn wireless(
    network: &NetworkConfig,
    contexts: &Rows<CipherContext>,
    note: &mut impl FnMut(Problem),
) -> Vec<WirelessNetwork> {
    let Some(from) = &network.wireless else {
        return Vec::new();
    };
    let mut row = |name: &str, priority, secret: Option<&WireBlock>, is_plain| {
        let about = |problem: Problem| Problem {
            text: format!("network {name:?}: {}", problem.text),
            ..problem
        };
        if is_plain && secret.is_none() {
            note(about(plain()));
        }
        let credentials = block(secret, LOGIN, contexts).unwrap_or_else(|problem| {
            note(about(problem));
            None
        });
        WirelessNetwork {
            name: name.to_owned(),
            priority,
            credentials,
        }
    };
    let mut rows = Vec::new();
    for wifi in &from.wifi_cfg {
        let is_plain = !wifi.password.is_empty() || wifi.crypto.is_some();
        rows.push(row(
            &wifi.wifi_ssid,
            wifi.priority,
            wifi.cipher_data.as_ref(),
            is_plain,
        ));
    }
    for modem in &from.cellular_cfg {
        for point in &modem.access_points {
            rows.push(row(&point.apn, 0, point.cipher_data.as_ref(), false));
        }
    }
    rows
}

/// A login that anybody between the controller and here could read.
pub(super) fn plain() -> Problem {
    Problem {
        code: Code::CipherPlain,
        text: "its login is not encrypted, so it is not used".to_owned(),
    }
}
