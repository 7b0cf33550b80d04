//! The ways in for a person, in words.

use jiff::Timestamp;
use model::access::{AccessPhase, AccessReason, AccessStatus, Way};

use crate::{Device, words};

/// One way: whether it is open, since when and why, for whom, and who is in.
pub(crate) fn text(row: &AccessStatus, now: Timestamp) -> String {
    let since = words::ago(row.since, now);
    let phase = match row.phase {
        AccessPhase::Closed => "shut",
        AccessPhase::Opening => "being opened",
        AccessPhase::Open => "OPEN",
        AccessPhase::Closing => "being shut",
    };
    let reason = match row.reason {
        AccessReason::Nothing => None,
        AccessReason::Property => Some(format!("by {}", row.way.property())),
        AccessReason::FirstBoot => {
            Some("by /config/authorized_keys until the first config".to_owned())
        }
        AccessReason::Disabled => Some("and stays so by /config/remote_access_disabled".to_owned()),
    };
    let mut parts = vec![format!("{phase} for {since}")];
    parts.extend(reason);
    if !row.places.is_empty() {
        let what = match (row.way, row.phase) {
            // What is named of USB is what does not get in.
            (Way::Usb, _) => "kept out: ",
            (Way::Ssh | Way::Console | Way::Vga, _) => "",
        };
        parts.push(format!("{what}{}", row.places.join(", ")));
    }
    if !row.keys.is_empty() {
        let keys = row.keys.iter().map(|key| match key.comment.as_str() {
            "" => key.fingerprint.clone(),
            comment => format!("{} ({comment})", key.fingerprint),
        });
        parts.push(format!("for {}", keys.collect::<Vec<_>>().join(", ")));
    }
    let sessions = row.sessions.iter().map(|session| {
        let key = session.key.as_deref().unwrap_or("no key yet");
        let since = words::ago(session.since, now);
        format!("{} is connected for {since} by {key}", session.from)
    });
    parts.extend(sessions);
    parts.join(", ")
}

/// All of them in one line; none while accessmgr has not spoken.
pub(crate) fn line(device: &Device) -> Option<(String, bool)> {
    let rows: Vec<&AccessStatus> = device.access.rows.values().collect();
    if rows.is_empty() {
        return None;
    }
    let told: Vec<String> = rows
        .iter()
        .filter(|row| row.phase != AccessPhase::Closed || row.reason == AccessReason::Disabled)
        .map(|row| format!("{} {}", row.way, text(row, device.at)))
        .collect();
    let is_shut = rows.iter().all(|row| row.phase == AccessPhase::Closed);
    let line = match (is_shut, told.is_empty()) {
        (_, true) => "none: ssh, console, USB keyboards and screen are shut".to_owned(),
        (true, false) => format!("none; {}", told.join("; ")),
        (false, false) => told.join("; "),
    };
    Some((line, is_shut))
}
