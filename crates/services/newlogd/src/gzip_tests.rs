#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;
use crate::entry::Entry;

fn pack(header: &Header, lines: &[String]) -> Vec<Packed> {
    let mut packer = Packer::new(header.clone(), 1_700_000_000);
    let mut files = Vec::new();
    for line in lines {
        files.extend(packer.push(line).unwrap());
    }
    files.extend(packer.finish().unwrap());
    files
}

fn origin() -> Origin {
    Origin {
        device: "0f1e".to_owned(),
        image: "IMGA".to_owned(),
        version: "1.0".to_owned(),
    }
}

#[test]
fn a_device_file_has_a_comment_and_no_name() {
    let file = &pack(&Header::Device(origin()), &["{}".to_owned()])[0].bytes;
    assert_eq!(file[..3], [0x1f, 0x8b, 8]);
    assert_eq!(file[3], 1 << 4, "a comment and nothing else");
    assert_eq!(
        u32::from_le_bytes(file[4..8].try_into().unwrap()),
        1_700_000_000
    );
    assert_eq!(file[8], 2, "best compression");
    let comment = br#"{"devID":"0f1e","image":"IMGA","eveVersion":"1.0"}"#;
    assert_eq!(&file[10..10 + comment.len()], comment);
    assert_eq!(unpack(file).unwrap().origin, Some(origin()));
}

#[test]
fn an_application_file_has_its_name_in_latin_1() {
    let file = &pack(
        &Header::App("Zürich \0 ř 😀".to_owned()),
        &["{}".to_owned()],
    )[0]
    .bytes;
    assert_eq!(file[3], 1 << 3, "a name and nothing else");
    let name = b"Z\xfcrich \\u0000 \\u0159 \\ud83d\\ude00\0";
    assert_eq!(&file[10..10 + name.len()], name);
    let content = unpack(file).unwrap();
    assert_eq!(
        content.app.unwrap(),
        "Zürich \\u0000 \\u0159 \\ud83d\\ude00"
    );
    assert_eq!((content.origin, &*content.text), (None, "{}\n"));
}

#[test]
fn a_file_made_before_onboarding_gets_its_device_later() {
    let nobody = Origin {
        device: String::new(),
        version: "1.0 ř".to_owned(),
        ..origin()
    };
    let file = &pack(
        &Header::Device(nobody.clone()),
        &["{\"msgid\":1}".to_owned()],
    )[0]
    .bytes;
    let told = with_device(file, "0f1e").unwrap();
    let content = unpack(&told).unwrap();
    let expected = Origin {
        device: "0f1e".to_owned(),
        ..nobody
    };
    assert_eq!(content.origin, Some(expected));
    assert_eq!(content.text, "{\"msgid\":1}\n");
    assert_eq!(told[4..8], file[4..8]);
    assert_eq!(with_device(&told, "other"), None);
    assert_eq!(
        with_device(
            &pack(&Header::App("a".to_owned()), &["{}".to_owned()])[0].bytes,
            "x"
        ),
        None
    );
    assert_eq!(with_device(b"junk", "x"), None);
}

#[test]
fn ordinary_lines_fill_their_files() {
    let lines: Vec<String> = (0..40_000_u64)
        .map(|n| {
            Entry {
                content: format!(
                    "interface eth{} has carrier {}",
                    n % 7,
                    n.wrapping_mul(2_654_435_761) % 100_000
                ),
                source: "nim".to_owned(),
                msgid: n + 1,
                ..Entry::default()
            }
            .json()
        })
        .collect();
    let files = pack(&Header::Device(origin()), &lines);
    assert!(files.len() > 3);
    for file in &files[..files.len() - 1] {
        assert!(
            (TARGET - 5_000..=TARGET).contains(&file.bytes.len()),
            "{}",
            file.bytes.len()
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn no_file_is_too_large_and_no_line_lost(
        parts in prop::collection::vec((1_usize..17_000, any::<u64>(), any::<bool>()), 1..40)
    ) {
        let lines: Vec<String> = parts.iter().map(|(length, seed, random)| {
            let mut state = *seed | 1;
            let text: String = (0..*length).map(|_| {
                // xorshift: nothing to compress.
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                if *random { char::from(u8::try_from(state % 94).unwrap() + 33) } else { 'a' }
            }).collect();
            Entry { content: text, ..Entry::default() }.json()
        }).collect();
        let files = pack(&Header::Device(origin()), &lines);
        let mut all = String::new();
        for file in &files {
            prop_assert!(file.bytes.len() <= TARGET, "{}", file.bytes.len());
            let content = unpack(&file.bytes).unwrap();
            prop_assert_eq!(content.text.lines().count() as u64, file.lines);
            prop_assert_eq!(content.text.len() as u64, file.content);
            all.push_str(&content.text);
        }
        let expected: String = lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect();
        prop_assert!(all == expected);
    }
}
