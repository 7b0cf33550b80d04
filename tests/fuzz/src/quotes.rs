//! What a device's TPM says: event logs, quotes, descriptions of keys. Read by the controller before it trusts the sender.

use api::attest::{TpmHashAlgo, TpmPcrValue, ZAttestQuote};
use evc::{
    cert::Certificate,
    decide::attest::{
        baseline::{Comparison, PCRS, compare, measured},
        endorsement::{Makers, check_public, judge},
        eventlog::{self, MAX_LOG},
        quote::{check_attest, verify},
    },
};
use prost::Message as _;

use crate::{
    input::{join, parts},
    keys::{DEVICE, NOW},
};

/// Takes a log, an attestation and a key, or a whole quote.
pub fn check(bytes: &[u8]) {
    let [log, attest, public] = parts(bytes);
    let _ = (check_attest(attest), check_public(public));
    let device = Certificate::from_pem(DEVICE.cert_pem.as_bytes()).expect("a certificate");
    let pem = DEVICE.cert_pem.as_bytes();
    if let Ok(shown) = judge(pem, public, &device, &Makers::default(), NOW) {
        assert!(shown.is(&shown.key));
    }
    if let Ok(unpacked) = eventlog::unpack(log) {
        assert!(unpacked.len() <= MAX_LOG);
    }
    if let Ok(read) = eventlog::parse(log) {
        for event in &read.events {
            assert!(event.pcr < 24 && event.digest.len() == 64);
            let text = &event.text;
            assert!(
                text.chars().count() <= 160 && !text.chars().any(char::is_control),
                "{text:?}"
            );
        }
        assert!(read.replay().keys().all(|pcr| *pcr < 24));
        quoted(&ZAttestQuote {
            pcr_values: read
                .replay()
                .into_iter()
                .map(|(index, value)| TpmPcrValue {
                    index,
                    hash_algo: TpmHashAlgo::Sha256.into(),
                    value: value.to_vec(),
                })
                .collect(),
            ..ZAttestQuote::default()
        });
    }
    if let Ok(quote) = ZAttestQuote::decode(bytes) {
        assert!(
            verify(&quote, &device, b"0123456789abcdef").is_err(),
            "nobody signed it"
        );
        quoted(&quote);
    }
}

fn quoted(quote: &ZAttestQuote) {
    let state = measured(quote);
    assert!(
        state
            .explained
            .iter()
            .all(|pcr| state.pcrs.contains_key(pcr))
    );
    assert_eq!(compare(&state, &[]), Comparison::NoBaseline);
    assert_eq!(
        compare(&state, std::slice::from_ref(&state)),
        Comparison::Accepted
    );
    let mut other = state.clone();
    other.pcrs.insert(PCRS[0], "other".to_owned());
    match compare(&state, &[other]) {
        Comparison::Changed(changes) => assert_eq!((changes.len(), changes[0].pcr), (1, PCRS[0])),
        told => panic!("{told:?}"),
    }
    let json = serde_json::to_string(&state).expect("kept");
    assert_eq!(
        serde_json::from_str::<evc::decide::attest::baseline::Measured>(&json).expect("read"),
        state
    );
}

/// A log of a few measurements, and an attestation.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut spec = b"Spec ID Event03\0".to_vec();
    spec.extend([0, 0, 0, 0, 0, 2, 0, 2, 1, 0, 0, 0, 0x0b, 0, 32, 0, 0]);
    let mut log = vec![0; 4];
    log.extend([3, 0, 0, 0]);
    log.extend([0; 20]);
    log.extend([u8::try_from(spec.len()).expect("short"), 0, 0, 0]);
    log.extend(spec);
    for (pcr, kind, text) in [
        (0_u8, 8_u32, "firmware"),
        (4, 0x8000_0003, "shim"),
        (8, 0xd, "linux /vmlinuz\0"),
    ] {
        log.extend([pcr, 0, 0, 0]);
        log.extend(kind.to_le_bytes());
        log.extend([1, 0, 0, 0, 0x0b, 0]);
        log.extend([pcr; 32]);
        log.extend([u8::try_from(text.len()).expect("short"), 0, 0, 0]);
        log.extend(text.as_bytes());
    }
    let mut attest = vec![0xff, 0x54, 0x43, 0x47, 0x80, 0x18, 0, 0, 0, 4, 1, 2, 3, 4];
    attest.extend([0; 25]);
    attest.extend([0, 0, 0, 1, 0, 0x0b, 3, 0xff, 0xff, 0, 0, 2, 9, 9]);
    let mut public = vec![
        0, 0x23, 0, 0x0b, 0, 3, 0, 0xb2, 0, 0, 0, 0x10, 0, 0x10, 0, 3, 0, 0x10,
    ];
    public.extend([0, 2, 1, 2, 0, 2, 3, 4]);
    let rsa = [
        0, 1, 0, 0x0b, 0, 3, 0, 0xb2, 0, 0, 0, 0x10, 0, 0x10, 8, 0, 0, 0, 0, 0, 0, 2, 5, 6,
    ];
    let quote = ZAttestQuote {
        attest_data: attest.clone(),
        signature: vec![0x30, 6, 2, 1, 1, 2, 1, 1],
        pcr_values: vec![TpmPcrValue {
            index: 0,
            hash_algo: TpmHashAlgo::Sha256.into(),
            value: vec![1; 32],
        }],
        ..ZAttestQuote::default()
    };
    vec![
        join(&[&log, &attest, &public]),
        join(&[&log[..65], &attest[..20], &rsa]),
        quote.encode_to_vec(),
    ]
}
