//! Keys that are to log in, what sshd says of who came in, and the kernel's lists of sockets. Whatever comes, a key that is
//! accepted is one line without options that is read back as itself, as is the property that holds it.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use listeners::Protocol;
use model::{
    access::{MOST_KEYS, SSH, keys_text, parse_keys},
    config_item::parse_item,
};

/// Takes one input.
pub fn check(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let _ = accessmgr::accepted(&text);
    for protocol in [Protocol::Tcp, Protocol::Udp6, Protocol::Raw] {
        let _ = listeners::inet(&text, protocol);
    }
    let _ = listeners::packet(&text);
    let _ = listeners::unix(&text);

    let Ok(keys) = parse_keys(&text) else {
        assert!(parse_item(SSH, &text).is_err(), "the property takes less");
        return;
    };
    assert!(keys.len() <= MOST_KEYS);
    let written = keys_text(&keys);
    assert_eq!(parse_keys(&written).as_ref(), Ok(&keys));
    assert_eq!(parse_item(SSH, &text).as_deref(), Ok(written.as_str()));
    assert_eq!(written.lines().count(), keys.len());
    for (line, key) in written.lines().zip(&keys) {
        assert!(!line.chars().any(char::is_control), "{line:?}");
        let words: Vec<&str> = line.splitn(3, ' ').collect();
        assert_eq!(words[0], key.kind());
        assert_eq!(BASE64_STANDARD.decode(words[1]).as_deref(), Ok(key.blob()));
        assert!(accessmgr::fingerprint(key.blob()).starts_with("SHA256:"));
    }
}

/// Real ones.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut blob = Vec::new();
    for part in [&b"ssh-ed25519"[..], &[7; 32]] {
        blob.extend(u32::try_from(part.len()).unwrap().to_be_bytes());
        blob.extend_from_slice(part);
    }
    let key = format!("ssh-ed25519 {} ada", BASE64_STANDARD.encode(blob));
    [
        key.clone(),
        format!("# two\n\n{key}\r\nfrom=\"10.0.0.1\" {key}\n"),
        format!("Accepted publickey for root from 10.0.0.1 port 5 ssh2: ED25519 SHA256:x\n{key}"),
        "sl local\n 0: 0100007F:0035 00000000:0000 0A 0:0 00:0 0 0 0 4711 1\n".to_owned(),
        "Num\n0: 00000002 00000000 00010000 0001 01 17 /run/a b.sock\n".to_owned(),
        "sk\n0 3 3 0003 2 1 0 0 999\n".to_owned(),
    ]
    .map(String::into_bytes)
    .into()
}
