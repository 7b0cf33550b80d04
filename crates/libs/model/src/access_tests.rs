#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn part(bytes: &[u8]) -> Vec<u8> {
    let len = u32::try_from(bytes.len()).unwrap().to_be_bytes();
    [&len[..], bytes].concat()
}

fn blob(parts: &[&[u8]]) -> Vec<u8> {
    parts.iter().flat_map(|bytes| part(bytes)).collect()
}

fn line(kind: &str, parts: &[&[u8]]) -> String {
    let all: Vec<&[u8]> = std::iter::once(kind.as_bytes())
        .chain(parts.iter().copied())
        .collect();
    format!("{kind} {}", BASE64_STANDARD.encode(blob(&all)))
}

fn ed25519(fill: u8) -> String {
    line("ssh-ed25519", &[&[fill; 32]])
}

fn rsa(bytes: usize) -> String {
    let mut modulus = vec![0xff; bytes + 1];
    modulus[0] = 0;
    line("ssh-rsa", &[&[1, 0, 1], &modulus])
}

fn point(len: usize) -> Vec<u8> {
    let mut point = vec![7; len];
    point[0] = 4;
    point
}

fn problem(text: &str) -> KeyProblem {
    parse_keys(text).unwrap_err().problem
}

#[test]
fn every_accepted_kind_is_read_and_written_back() {
    let lines = [
        ed25519(1),
        line("ecdsa-sha2-nistp256", &[b"nistp256", &point(65)]),
        line("ecdsa-sha2-nistp384", &[b"nistp384", &point(97)]),
        line("ecdsa-sha2-nistp521", &[b"nistp521", &point(133)]),
        line("sk-ssh-ed25519@openssh.com", &[&[1; 32], b"ssh:"]),
        line(
            "sk-ecdsa-sha2-nistp256@openssh.com",
            &[b"nistp256", &point(65), b"ssh:work"],
        ),
        rsa(256),
        format!("{} Ada, second floor", ed25519(2)),
    ];
    let text = lines.join("\n");
    let keys = parse_keys(&text).unwrap();
    assert_eq!(keys.len(), lines.len());
    assert_eq!(keys_text(&keys), text);
    assert_eq!(keys[7].comment(), "Ada, second floor");
}

#[test]
fn blank_lines_comments_and_repetitions_are_left_out() {
    let text = format!("# who\r\n\n  {}\r\n\t\n{} again\n", ed25519(1), ed25519(1));
    let keys = parse_keys(&text).unwrap();
    assert_eq!(keys.len(), 1);
    assert_eq!(parse_keys("").unwrap(), []);
    assert_eq!(parse_keys(" \n#\n").unwrap(), []);
}

#[test]
fn one_bad_line_refuses_all_and_is_named() {
    let text = format!("{}\n# fine\nssh-dss AAAA\n", ed25519(1));
    let error = parse_keys(&text).unwrap_err();
    assert_eq!(error.line, 3);
    assert!(error.to_string().starts_with("line 3: "), "{error}");
}

#[test]
fn nothing_but_a_whole_key_is_accepted() {
    let good = ed25519(1);
    for options in [
        "command=\"sh\" ",
        "from=\"10.0.0.0/8\" ",
        "restrict ",
        "no-pty,command=\"x\" ",
        "cert-authority ",
        "@revoked * ",
    ] {
        assert_eq!(problem(&format!("{options}{good}")), KeyProblem::Kind);
    }
    assert_eq!(problem("true"), KeyProblem::Kind);
    assert_eq!(problem("SSH-ED25519 AAAA"), KeyProblem::Kind);
    assert_eq!(
        problem("ssh-ed25519-cert-v01@openssh.com AAAA"),
        KeyProblem::Kind
    );
    assert_eq!(problem("ssh-ed25519"), KeyProblem::Missing);
    assert_eq!(problem("ssh-ed25519 A-A="), KeyProblem::Base64);
    assert_eq!(problem(&good[..good.len() - 4]), KeyProblem::Shape);
    let other_kind = good.replace("ssh-ed25519 ", "ssh-rsa ");
    assert_eq!(problem(&other_kind), KeyProblem::Shape);
    let more = line("ssh-ed25519", &[&[1; 32], b"more"]);
    assert_eq!(problem(&more), KeyProblem::Shape);
    let other_curve = line("ecdsa-sha2-nistp256", &[b"nistp384", &point(97)]);
    assert_eq!(problem(&other_curve), KeyProblem::Shape);
    let compressed = line("ecdsa-sha2-nistp256", &[b"nistp256", &[2; 33]]);
    assert_eq!(problem(&compressed), KeyProblem::Shape);
    let website = line("sk-ssh-ed25519@openssh.com", &[&[1; 32], b"https://x"]);
    assert_eq!(problem(&website), KeyProblem::Shape);
    assert_eq!(problem(&rsa(128)), KeyProblem::RsaSize);
    assert_eq!(problem(&rsa(2050)), KeyProblem::RsaSize);
    let negative = line("ssh-rsa", &[&[1, 0, 1], &[0xff; 256]]);
    assert_eq!(problem(&negative), KeyProblem::Shape);
    let exponent = line("ssh-rsa", &[&[1], &[&[0][..], &[0xff; 256]].concat()]);
    assert_eq!(problem(&exponent), KeyProblem::Shape);
    assert_eq!(problem(&format!("{good} a\u{1b}[2Jb")), KeyProblem::Comment);
    assert_eq!(
        problem(&format!("{good} {}", "x".repeat(201))),
        KeyProblem::Comment
    );
    assert_eq!(
        problem(&format!("{good} {}", "x".repeat(5000))),
        KeyProblem::TooLong
    );
    let many: Vec<String> = (0..=MOST_KEYS)
        .map(|n| ed25519(u8::try_from(n).unwrap()))
        .collect();
    assert_eq!(problem(&many.join("\n")), KeyProblem::TooMany);
}

proptest! {
    #[test]
    fn any_text_is_taken_and_what_is_accepted_is_one_line_a_key(text in any::<String>()) {
        if let Ok(keys) = parse_keys(&text) {
            prop_assert_eq!(parse_keys(&keys_text(&keys)), Ok(keys));
        }
    }

    #[test]
    fn a_damaged_key_is_refused_or_another_key(at in 0_usize..51, bit in 0_u8..8) {
        let mut bytes = blob(&[b"ssh-ed25519", &[1; 32]]);
        bytes[at] ^= 1 << bit;
        let text = format!("ssh-ed25519 {}", BASE64_STANDARD.encode(&bytes));
        match parse_keys(&text) {
            Ok(keys) => prop_assert!(at >= 19 && keys[0].blob() == bytes),
            Err(_) => prop_assert!(at < 19),
        }
    }
}
