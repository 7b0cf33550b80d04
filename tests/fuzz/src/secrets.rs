//! Secrets of a config: cipher blocks, the certificates that their keys come from, and what is in them. Whatever
//! comes, what is carried on keeps its limits, what was encrypted comes out as it was, and nothing else comes out.

use std::sync::LazyLock;

use api::{
    common::{CipherBlock as WireBlock, CipherContext as WireContext, EncryptionBlock},
    config::{AppInstanceConfig, DatastoreConfig, EdgeDevConfig, UuiDandVersion, VmConfig},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bus::Rows;
use cipher::{Exchange, ExchangeError, Key, Keys, OpenError, PeerKey, SharedPoint};
use futures::{FutureExt as _, future::BoxFuture};
use model::{
    id::DeviceId,
    security::{CipherBlock, CipherContext, ControllerCert, ControllerCertKind, Octets},
};
use prost::Message as _;
use zedagent::translate::translate;

use crate::{
    input::{join, parts},
    keys::{CONTROLLER, DEVICE, now},
};

const ID: &str = "00000000-0000-4000-8000-0000000000d5";

/// The device's key, in software.
#[derive(Debug)]
struct Own(p256::SecretKey);

impl Exchange for Own {
    fn agree<'a>(
        &'a self,
        _: &'a [u8],
        peer: &'a PeerKey,
    ) -> BoxFuture<'a, Result<SharedPoint, ExchangeError>> {
        let point = cipher::agree(&self.0, peer);
        Box::pin(async move { point.map_err(|e| ExchangeError::Refused(e.to_string())) })
    }
}

static OWN: LazyLock<Own> =
    LazyLock::new(|| Own(p256::SecretKey::from_slice(&[7; 32]).expect("a key")));
static KEY: LazyLock<Key> = LazyLock::new(|| {
    let peer = PeerKey::from_certificate(CONTROLLER.cert_pem.as_bytes()).expect("its key");
    Key::derive(&cipher::agree(&OWN.0, &peer).expect("a point"))
});

/// Takes a block, a certificate and a clear text, which may each be anything.
pub fn check(bytes: &[u8]) {
    let [block, pem, clear] = parts(bytes);
    let mut carried = None;
    if let Ok(wire) = WireBlock::decode(block) {
        carried = translated(&wire);
    }
    let sealed = KEY.encrypt(&[9; 16], clear);
    let own = CipherBlock {
        context: "c".to_owned(),
        initial_value: Octets(vec![9; 16]),
        cipher_data: Octets(sealed.data),
        clear_text_sha256: sealed.digest,
    };
    content(&own, clear);
    for block in carried.iter().chain([&own]) {
        foreign(block, pem);
    }
}

/// As zedagent carries it on.
fn translated(wire: &WireBlock) -> Option<CipherBlock> {
    let context = WireContext {
        context_id: wire.cipher_context_id.clone(),
        hash_scheme: 1,
        key_exchange_scheme: 1,
        encryption_scheme: 1,
        device_cert_hash: vec![0; 16],
        controller_cert_hash: vec![1; 32],
    };
    let id = UuiDandVersion {
        uuid: ID.to_owned(),
        version: String::new(),
    };
    let config = EdgeDevConfig {
        id: Some(id.clone()),
        cipher_contexts: vec![context],
        datastores: vec![DatastoreConfig {
            id: ID.to_owned(),
            d_type: 2,
            fqdn: "d.example".to_owned(),
            cipher_data: Some(wire.clone()),
            ..DatastoreConfig::default()
        }],
        apps: vec![AppInstanceConfig {
            uuidandversion: Some(id),
            fixedresources: Some(VmConfig {
                memory: 1024,
                ..VmConfig::default()
            }),
            cipher_data: Some(wire.clone()),
            ..AppInstanceConfig::default()
        }],
        ..EdgeDevConfig::default()
    };
    let device: DeviceId = ID.parse().expect("an id");
    let to = translate(&config, device, None, now()).expect("it is for this device");
    let (store, app) = (&to.datastores[ID], &to.apps[ID]);
    assert_eq!(store.credentials.is_none(), store.fault.is_some());
    if store.credentials.is_some() {
        assert_eq!(
            store.credentials, app.secret_user_data,
            "the larger limit takes it too"
        );
    }
    let block = app.secret_user_data.clone()?;
    assert_eq!(block.initial_value.0.len(), 16);
    assert!((1..=2 << 20).contains(&block.cipher_data.0.len()));
    let json = serde_json::to_vec(&block).expect("on the bus");
    let back: CipherBlock = serde_json::from_slice(&json).expect("from the bus");
    assert_eq!(back, block);
    Some(block)
}

/// What was encrypted for this device comes out as it was.
fn content(block: &CipherBlock, clear: &[u8]) {
    let keys = Keys {
        device_cert: vec![],
        peer: PeerKey::from_certificate(CONTROLLER.cert_pem.as_bytes()).expect("its key"),
    };
    let inside = EncryptionBlock::decode(clear).unwrap_or_default();
    let login = cipher::login(block, &keys, &*OWN)
        .now_or_never()
        .expect("at once");
    match login {
        Ok(login) => {
            assert_eq!(*login.user, inside.ds_api_key);
            assert_eq!(*login.password, inside.ds_password);
        }
        Err(error) => told(&error),
    }
    let data = cipher::user_data(block, &keys, &*OWN)
        .now_or_never()
        .expect("at once");
    match data {
        Ok(text) => {
            let inside = STANDARD.decode(inside.protected_user_data.trim());
            assert_eq!(text.as_bytes(), inside.expect("base64"));
        }
        Err(error) => told(&error),
    }
}

/// A block with somebody else's certificate.
fn foreign(block: &CipherBlock, pem: &[u8]) {
    let id = block.context.clone();
    let context = CipherContext {
        id: id.clone(),
        device_cert_hash: "00".repeat(16),
        controller_cert_hash: "c".to_owned(),
        fault: None,
    };
    let cert = ControllerCert {
        kind: ControllerCertKind::EcdhExchange,
        pem: String::from_utf8_lossy(pem).into_owned(),
        hash: "c".to_owned(),
        not_after: now(),
    };
    let certs = Rows::from([("c".to_owned(), cert)]);
    match Keys::find(block, &Rows::from([(id, context)]), &certs) {
        Ok(keys) => {
            let known = PeerKey::from_certificate(CONTROLLER.cert_pem.as_bytes());
            let opened = cipher::login(block, &keys, &*OWN)
                .now_or_never()
                .expect("at once");
            match opened {
                Ok(_) => assert_eq!(Ok(keys.peer), known, "opened with another key"),
                Err(error) => told(&error),
            }
        }
        Err(error) => told(&error),
    }
}

fn told(error: &OpenError) {
    assert!(!error.to_string().is_empty());
    let _ = (error.code().meaning(), error.is_transient());
}

/// Blocks as controllers make them, and texts in which something is wrong.
pub fn seeds() -> Vec<Vec<u8>> {
    let secret = EncryptionBlock {
        ds_api_key: "hans".to_owned(),
        ds_password: "pear".to_owned(),
        protected_user_data: STANDARD.encode("#!/bin/sh\n"),
        ..EncryptionBlock::default()
    };
    let clear = secret.encode_to_vec();
    let sealed = KEY.encrypt(&[9; 16], &clear);
    let block = WireBlock {
        cipher_context_id: "c".to_owned(),
        initial_value: vec![9; 16],
        cipher_data: sealed.data,
        clear_text_sha256: sealed.digest.0.to_vec(),
    };
    let short = WireBlock {
        initial_value: vec![9; 15],
        ..block.clone()
    };
    let no_base64 = EncryptionBlock {
        protected_user_data: "%".to_owned(),
        ..EncryptionBlock::default()
    };
    let whole = block.encode_to_vec();
    vec![
        join(&[&whole, CONTROLLER.cert_pem.as_bytes(), &clear]),
        join(&[
            &whole,
            DEVICE.cert_pem.as_bytes(),
            &no_base64.encode_to_vec(),
        ]),
        join(&[&short.encode_to_vec(), b"", b""]),
        join(&[
            &WireBlock::default().encode_to_vec(),
            b"-----BEGIN CERTIFICATE-----",
            &[8, 1],
        ]),
    ]
}
