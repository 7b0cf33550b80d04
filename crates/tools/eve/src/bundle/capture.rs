//! What the kernel says: output of programs, bounded in time and size.

use std::{
    fmt::Write as _,
    io::{Read as _, Seek as _},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Longest time for a program.
const LIMIT: Duration = Duration::from_secs(10);
/// Longest output, from its end.
const SIZE: u64 = 1 << 20;

/// Name of the file, and the command. Those of the network are run in the device's network namespace.
pub(super) const COMMANDS: &[(&str, &[&str])] = &[
    ("network/addresses.txt", &["ip", "-details", "address"]),
    ("network/links.txt", &["ip", "-statistics", "link"]),
    ("network/rules.txt", &["ip", "rule"]),
    ("network/rules6.txt", &["ip", "-6", "rule"]),
    (
        "network/routes.txt",
        &["ip", "route", "show", "table", "all"],
    ),
    (
        "network/routes6.txt",
        &["ip", "-6", "route", "show", "table", "all"],
    ),
    ("network/neighbours.txt", &["ip", "neighbour"]),
    ("network/nftables.txt", &["nft", "list", "ruleset"]),
    ("network/conntrack.txt", &["conntrack", "-S"]),
    ("system/disks.txt", &["df", "-k"]),
    ("system/inodes.txt", &["df", "-i"]),
    ("system/kernel.txt", &["uname", "-a"]),
    ("system/messages.txt", &["dmesg"]),
];

/// Files of `/proc`.
pub(super) const FILES: &[(&str, &str)] = &[
    ("network/sockets-tcp.txt", "/proc/thread-self/net/tcp"),
    ("network/sockets-udp.txt", "/proc/thread-self/net/udp"),
    ("system/memory.txt", "/proc/meminfo"),
    ("system/load.txt", "/proc/loadavg"),
    ("system/uptime.txt", "/proc/uptime"),
    ("system/mounts.txt", "/proc/self/mounts"),
    ("system/cmdline.txt", "/proc/cmdline"),
];

/// What a program prints, or why it printed nothing.
pub(super) fn run(argv: &[&str]) -> Result<String, String> {
    let [program, arguments @ ..] = argv else {
        return Err("no program".to_owned());
    };
    let failed = |error: std::io::Error| format!("{program}: {error}");
    // A file takes any amount; a pipe would have to be emptied meanwhile.
    let mut file = tempfile::tempfile().map_err(failed)?;
    let output = file.try_clone().map_err(failed)?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::from(output.try_clone().map_err(failed)?))
        .stdout(Stdio::from(output))
        .spawn()
        .map_err(failed)?;
    let begun = Instant::now();
    let ended = loop {
        match child.try_wait() {
            Ok(Some(status)) => break format!("{status}"),
            Ok(None) if begun.elapsed() < LIMIT => thread::sleep(Duration::from_millis(10)),
            Ok(None) | Err(_) => {
                let _ = child.kill();
                let _ = child.wait();
                break format!("did not end within {} s", LIMIT.as_secs());
            }
        }
    };
    let size = file.metadata().map_err(failed)?.len();
    let from = size.saturating_sub(SIZE);
    file.seek(std::io::SeekFrom::Start(from)).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(SIZE).read_to_end(&mut bytes).map_err(failed)?;
    let mut text = format!("$ {}\n", argv.join(" "));
    text.push_str(&String::from_utf8_lossy(&bytes));
    if ended != "exit status: 0" {
        let _ = writeln!(text, "\n({ended})");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn output_errors_and_missing_programs_are_told() {
        assert_eq!(run(&["echo", "a"]).unwrap(), "$ echo a\na\n");
        assert!(
            run(&["sh", "-c", "echo b >&2; exit 3"])
                .unwrap()
                .contains("b\n\n(exit status: 3)")
        );
        assert!(
            run(&["no-such-program"])
                .unwrap_err()
                .contains("no-such-program")
        );
    }
}
