//! Signatures of images and the certificates of those who made them. Whatever comes, only what the signer
//! below the device's root has signed counts, and what a config says of a signature is carried on whole or not at all.

use api::config::{ContentTree, DatastoreConfig, EdgeDevConfig, SignatureInfo, UuiDandVersion};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use controller::Signer as _;
use model::{
    content::ImageSignature,
    id::{DeviceId, Digest},
    security::Octets,
};
use verifier::signature::judge;
use zedagent::translate::translate;

use crate::{
    input::{join, parts},
    keys::{CONTROLLER, DEVICE, ROOTS, now},
};

const ID: &str = "00000000-0000-4000-8000-0000000000d5";
const IMAGE: Digest = Digest([7; 32]);

/// Takes a signature, the text of a signer's certificate and that of those in between, which may each be anything.
pub fn check(bytes: &[u8]) {
    let [signature, signer, between] = parts(bytes);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let given = ImageSignature {
        signature: Octets(signature.to_vec()),
        signer_pem: text(signer),
        between_pem: text(between),
    };
    judged(&given);
    // By somebody whose key it is, as far as the certificate goes.
    judged(&ImageSignature {
        signature: Octets(signed()),
        ..given.clone()
    });
    // In the config both ways: as it should be, and as it stands.
    let url = |bytes: &[u8]| format!("data:;base64,{}", STANDARD.encode(bytes));
    carried(signature, &url(signer), &url(between));
    carried(signature, &text(signer), &text(between));
}

fn signed() -> Vec<u8> {
    let signature = CONTROLLER.key.sign_digest(&IMAGE.0).expect("a signature");
    signature.0.to_vec()
}

fn judged(signature: &ImageSignature) {
    match judge(signature, IMAGE, &ROOTS, now().into()) {
        Ok(signer) => {
            assert!(!signer.is_empty());
            // There is one key below the root, and one signature of the image by it in this form; who finds another has
            // the key.
            let der = tpm::Signature(signed().try_into().expect("64 bytes")).to_der();
            let own = [signed(), der.expect("DER")];
            assert!(own.contains(&signature.signature.0), "a stranger vouches");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// As zedagent carries it on.
fn carried(signature: &[u8], signer: &str, between: &str) {
    let id = UuiDandVersion {
        uuid: ID.to_owned(),
        version: String::new(),
    };
    let config = EdgeDevConfig {
        id: Some(id),
        datastores: vec![DatastoreConfig {
            id: ID.to_owned(),
            d_type: 2,
            fqdn: "d.example".to_owned(),
            ..DatastoreConfig::default()
        }],
        content_info: vec![ContentTree {
            uuid: ID.to_owned(),
            ds_ids_list: vec![ID.to_owned()],
            url: "x".to_owned(),
            iformat: 1,
            sha256: IMAGE.to_string(),
            siginfo: Some(SignatureInfo {
                signature: signature.to_vec(),
                signercerturl: signer.to_owned(),
                intercertsurl: between.to_owned(),
            }),
            ..ContentTree::default()
        }],
        ..EdgeDevConfig::default()
    };
    let device: DeviceId = ID.parse().expect("an id");
    let to = translate(&config, device, None, now()).expect("it is for this device");
    let tree = &to.content_trees[ID];
    let is_empty = signature.is_empty() && signer.is_empty() && between.is_empty();
    match &tree.signature {
        Some(taken) => {
            assert_eq!(taken.signature.0, signature);
            assert!(!signature.is_empty() && signature.len() <= 1 << 10);
            assert!(taken.signer_pem.len() + taken.between_pem.len() <= 128 << 10);
        }
        None => assert_eq!(tree.fault.is_none(), is_empty, "taken for an unsigned one"),
    }
}

/// Good ones, and some in which something is wrong.
pub fn seeds() -> Vec<Vec<u8>> {
    let (good, device) = (CONTROLLER.cert_pem.as_bytes(), DEVICE.cert_pem.as_bytes());
    let der = tpm::Signature(signed().try_into().expect("64 bytes")).to_der();
    let der = der.expect("DER");
    vec![
        join(&[&signed(), good, b""]),
        join(&[&der, good, device]),
        join(&[&der, device, good]),
        join(&[&der[..70], good, b"-----BEGIN CERTIFICATE-----"]),
        join(&[b"0", b"data:;base64,AAAA", b"https://x/y.pem"]),
        join(&[b"", b"", b""]),
    ]
}
