//! Why a guest ended, in words that a person can act upon.

use agent::Turn;
use jiff::Timestamp;
use model::{code::Code, fault::Fault, id::AppId};
use vmm::qmp::RunState;

use crate::{Domainmgr, Guest, subject};

/// Lines of each kind that are kept.
pub const LINES: usize = 5;
/// Longest line that is kept, in characters.
pub const LINE_MAX: usize = 200;

/// QEMU stays and says that its guest is over.
pub(super) fn over(
    turn: &Turn<'_, Domainmgr>,
    app: AppId,
    guest: &Guest,
    state: RunState,
    next: Option<Timestamp>,
) -> Fault {
    let text = match state {
        RunState::Shutdown => "the guest powered itself off",
        RunState::GuestPanicked => "the guest's kernel panicked",
        RunState::Watchdog => "the guest's watchdog fired",
        RunState::InternalError => "QEMU can't go on with the guest (internal error)",
        RunState::Debug
        | RunState::FinishMigrate
        | RunState::Inmigrate
        | RunState::IoError
        | RunState::Paused
        | RunState::Postmigrate
        | RunState::Prelaunch
        | RunState::RestoreVm
        | RunState::Running
        | RunState::SaveVm
        | RunState::Suspended
        | RunState::Colo
        | RunState::Unknown => "the guest does not go on",
    };
    fault(turn, Code::DomainCrashed, app, text.to_owned(), guest, next)
}

/// QEMU itself is gone; `started` says whether the guest had run.
pub(super) fn ended(
    turn: &Turn<'_, Domainmgr>,
    app: AppId,
    guest: &Guest,
    how: &str,
    started: bool,
    next: Option<Timestamp>,
) -> Fault {
    let (code, text) = if started {
        (Code::DomainCrashed, format!("QEMU ended by itself: {how}"))
    } else {
        (Code::DomainStart, format!("QEMU did not start: {how}"))
    };
    fault(turn, code, app, text, guest, next)
}

fn fault(
    turn: &Turn<'_, Domainmgr>,
    code: Code,
    app: AppId,
    text: String,
    guest: &Guest,
    next: Option<Timestamp>,
) -> Fault {
    let mut fault = Fault::new(code, subject(app), text, turn.now).transient(true);
    fault.next = next;
    fault.attempts = 1;
    if let Some(event) = &guest.seen.last_event {
        fault.causes.push(format!("last event: {event}"));
    }
    let words = &guest.words;
    fault
        .causes
        .extend(words.qemu.iter().map(|line| format!("QEMU: {line}")));
    fault
        .causes
        .extend(words.console.iter().map(|line| format!("console: {line}")));
    fault
}

/// The last lines of some output as plain text: no control characters, no empty lines, bounded.
pub fn last_lines(output: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(output);
    let mut lines: Vec<String> = text
        .split(['\n', '\r'])
        .map(plain)
        .filter(|line| !line.is_empty())
        .collect();
    lines.split_off(lines.len().saturating_sub(LINES))
}

/// A line without terminal sequences.
fn plain(line: &str) -> String {
    let mut plain = String::new();
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            // Parameters, then one final letter.
            if chars.next_if_eq(&'[').is_some() {
                while chars.next_if(|c| !('@'..='~').contains(c)).is_some() {}
            }
            chars.next();
        } else if !c.is_control() {
            plain.push(c);
        }
    }
    shortened(plain.trim())
}

/// A long line without its middle: QEMU quotes whole arguments before it says what is wrong.
fn shortened(line: &str) -> String {
    let length = line.chars().count();
    if length <= LINE_MAX {
        return line.to_owned();
    }
    let head = LINE_MAX / 4;
    let tail = length - (LINE_MAX - head - 5);
    let begin: String = line.chars().take(head).collect();
    let end: String = line.chars().skip(tail).collect();
    format!("{begin} ... {end}")
}

/// Of QEMU's log, what was written since it was started: its lines begin with the time, and those
/// without one belong to the line before.
pub fn since<'a>(log: &'a str, started: &Timestamp) -> Vec<&'a str> {
    let mut current = false;
    log.lines()
        .filter(|line| {
            let first = line.split_whitespace().next().unwrap_or_default();
            if let Ok(at) = first.parse::<Timestamp>() {
                current = at >= *started;
            }
            current
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_last_lines_are_plain_and_few() {
        let output = b"a\n\x1b[1;31mred\x1b[0m\r\n\x00\x07\nlogin: \xff";
        assert_eq!(last_lines(output), ["a", "red", "login: \u{fffd}"]);
        let many = "x\n".repeat(100) + &"y".repeat(1000) + "the cause";
        let lines = last_lines(many.as_bytes());
        assert_eq!((lines.len(), lines[LINES - 1].len()), (LINES, LINE_MAX));
        assert!(lines[LINES - 1].ends_with("the cause"));
        assert!(last_lines(b"\x1b[").is_empty() && last_lines(b"\x1b").is_empty());
    }

    #[test]
    fn only_what_this_qemu_said_counts() {
        let log = "2025-01-01T00:00:01.5Z qemu: old\nmore of it\n2025-01-01T00:00:09Z qemu: new\nand more\n";
        let started = "2025-01-01T00:00:05Z".parse().unwrap();
        assert_eq!(
            since(log, &started),
            ["2025-01-01T00:00:09Z qemu: new", "and more"]
        );
    }
}
