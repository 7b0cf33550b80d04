//! The program under its names.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    process::{Command, Output},
};

const ZEDBOX: &str = env!("CARGO_BIN_EXE_zedbox");

fn output(program: impl AsRef<Path>, arguments: &[&str]) -> Output {
    Command::new(program.as_ref())
        .args(arguments)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn installed_twice_it_is_one_file_under_every_name() {
    let dir = tempfile::tempdir().unwrap();
    let bin = dir.path().join("usr/bin");
    for _ in 0..2 {
        let done = output(ZEDBOX, &["install", bin.to_str().unwrap()]);
        assert!(done.status.success(), "{}", text(&done.stderr));
    }
    let names = text(&output(ZEDBOX, &["list"]).stdout);
    let file = fs::metadata(bin.join("zedbox")).unwrap();
    for name in names.lines() {
        assert_eq!(fs::metadata(bin.join(name)).unwrap().ino(), file.ino());
    }
    let there = fs::read_dir(&bin).unwrap().count();
    assert_eq!(there, names.lines().count() + 1);
}

#[test]
fn a_link_is_the_service_and_so_is_the_first_word() {
    let dir = tempfile::tempdir().unwrap();
    output(ZEDBOX, &["install", dir.path().to_str().unwrap()]);
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    let flags = ["--root", root.to_str().unwrap(), "--dry-run"];
    // 4: it has looked at its bus and waits for its inputs.
    let linked = output(dir.path().join("zedmanager"), &flags);
    assert_eq!(linked.status.code(), Some(4), "{}", text(&linked.stderr));
    let words = [&["zedmanager"], &flags[..]].concat();
    let named = output(ZEDBOX, &words);
    assert_eq!(named.status.code(), Some(4), "{}", text(&named.stderr));
    assert_eq!(text(&named.stdout), text(&linked.stdout));
}

#[test]
fn other_words_are_refused() {
    let refused = output(ZEDBOX, &["zedmangler", "--once"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("zedmangler"));
}
