//! `plan` decides and does nothing else: no file, network, process, clock, randomness or task.

use std::path::Path;

use anyhow::Result;

use crate::tree;

const IMPURE: &[&str] = &[
    "std::fs",
    "fs::",
    "std::process",
    "Command::",
    "std::env",
    "std::thread",
    "tokio",
    "Timestamp::now",
    "Instant",
    "SystemTime",
    "rand::",
    "TcpStream",
    "UdpSocket",
    "UnixStream",
    "reqwest",
    "Uuid::new_v4",
    "async ",
    ".await;",
    ".await?",
    ".await)",
    "Mutex",
    "static mut",
];

pub(crate) fn check(root: &Path) -> Result<Vec<String>> {
    let mut breaches = Vec::new();
    for (path, text) in tree::sources(root, "crates/services")? {
        let is_plan = path.file_name().is_some_and(|n| n == "plan.rs")
            || path.iter().any(|part| part == "plan");
        if !is_plan || path.iter().any(|part| part == "tests") {
            continue;
        }
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for (number, line) in code.lines().enumerate() {
            let line = line.split("//").next().unwrap_or_default();
            for word in IMPURE.iter().filter(|word| line.contains(**word)) {
                breaches.push(format!(
                    "{}:{}: a plan is pure, this uses {:?}",
                    path.display(),
                    number + 1,
                    word.trim()
                ));
            }
        }
    }
    Ok(breaches)
}
