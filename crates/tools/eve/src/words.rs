//! Times, sizes and keys as people read them.

use jiff::{SignedDuration, Timestamp};

/// A duration in its two largest units: `3 min 20 s`, `2 d 4 h`, `0 s`. A negative one counts as none.
pub fn duration(duration: SignedDuration) -> String {
    let seconds = duration.as_secs().max(0);
    let parts = [
        (seconds / 86_400, "d"),
        (seconds / 3600 % 24, "h"),
        (seconds / 60 % 60, "min"),
        (seconds % 60, "s"),
    ];
    let first = parts
        .iter()
        .position(|(count, _)| *count > 0)
        .unwrap_or(parts.len() - 1);
    parts
        .iter()
        .skip(first)
        .take(2)
        .enumerate()
        .filter(|(index, (count, _))| *index == 0 || *count > 0)
        .map(|(_, (count, unit))| format!("{count} {unit}"))
        .collect::<Vec<_>>()
        .join(" ")
}

/// How long ago `then` was, seen from `now`.
pub fn ago(then: Timestamp, now: Timestamp) -> String {
    duration(now.duration_since(then))
}

/// How long ago something was whose time is known to the minute, cut off: `less than 2 min ago`, `17 min ago`.
pub fn ago_to_the_minute(then: Timestamp, now: Timestamp) -> String {
    let minutes = now.duration_since(then).as_secs().max(0) / 60;
    if minutes < 5 {
        format!("less than {} min ago", minutes + 1)
    } else {
        format!("{} ago", duration(SignedDuration::from_mins(minutes)))
    }
}

/// When `then` is, seen from `now`: `in 4 s`, `due now`, `due for 3 min`.
pub fn due(then: Timestamp, now: Timestamp) -> String {
    match then.duration_since(now).as_secs() {
        left if left > 0 => format!("in {}", duration(then.duration_since(now))),
        0 => "due now".to_owned(),
        _ => format!("due for {}", ago(then, now)),
    }
}

/// When the next try is, seen from `now`: `in 4 s`, `now`, `under way for 5 s`.
pub fn next_try(then: Timestamp, now: Timestamp) -> String {
    match then.duration_since(now).as_secs() {
        left if left > 0 => format!("in {}", duration(then.duration_since(now))),
        0 => "now".to_owned(),
        _ => format!("under way for {}", ago(then, now)),
    }
}

/// A time without the fraction of a second, in UTC.
pub fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

const UNITS: [(u64, &str); 4] = [
    (1 << 40, "TiB"),
    (1 << 30, "GiB"),
    (1 << 20, "MiB"),
    (1 << 10, "KiB"),
];

/// A size with one decimal: `12.5 MiB`, `0 bytes`.
pub fn size(bytes: u64) -> String {
    for (unit, name) in UNITS {
        if bytes >= unit {
            let tenths = u128::from(bytes) * 10 / u128::from(unit);
            return format!("{}.{} {name}", tenths / 10, tenths % 10);
        }
    }
    format!("{bytes} bytes")
}

/// How much of a size is there: `12.5 MiB of 60.0 MiB`, or only the first when the whole is unknown.
pub fn part(done: u64, total: u64) -> String {
    if total == 0 {
        size(done)
    } else {
        format!("{} of {}", size(done), size(total))
    }
}

/// A key short enough for a line: the first group of a UUID (with the generation that follows it), the
/// first twelve digits of a digest, also behind one `owner/` or `kind.`; anything else whole.
pub fn short(key: &str) -> String {
    for mark in ['/', '.'] {
        if let Some((before, id)) = key.split_once(mark)
            && !id.contains(mark)
        {
            return format!("{before}{mark}{}", short_id(id));
        }
    }
    short_id(key)
}

fn short_id(key: &str) -> String {
    let (id, rest) = match key.split_once('#') {
        Some((id, generation)) => (id, format!("#{generation}")),
        None => (key, String::new()),
    };
    let is_hex = |text: &str| text.bytes().all(|b| b.is_ascii_hexdigit());
    if uuid::Uuid::parse_str(id).is_ok() && id.len() == 36 {
        format!("{}{rest}", &id[..8])
    } else if key.len() == 64 && is_hex(key) {
        key[..12].to_owned()
    } else {
        key.to_owned()
    }
}

/// `1 object`, `2 objects`.
pub fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_read_well() {
        for (seconds, text) in [
            (-5, "0 s"),
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (200, "3 min 20 s"),
            (3600, "1 h"),
            (3601, "1 h"),
            (7_260, "2 h 1 min"),
            (90_000, "1 d 1 h"),
        ] {
            assert_eq!(duration(SignedDuration::from_secs(seconds)), text);
        }
        let now = Timestamp::from_second(1_000).unwrap();
        let at = |s| Timestamp::from_second(s).unwrap();
        assert_eq!(ago_to_the_minute(at(941), now), "less than 1 min ago");
        assert_eq!(ago_to_the_minute(at(940), now), "less than 2 min ago");
        assert_eq!(ago_to_the_minute(at(1), now), "16 min ago");
        assert_eq!(next_try(at(1_004), now), "in 4 s");
        assert_eq!(next_try(at(1_000), now), "now");
        assert_eq!(next_try(at(995), now), "under way for 5 s");
        assert_eq!(due(at(1_004), now), "in 4 s");
        assert_eq!(due(at(1_000), now), "due now");
        assert_eq!(due(at(820), now), "due for 3 min");
    }

    #[test]
    fn sizes_and_keys_read_well() {
        assert_eq!(size(0), "0 bytes");
        assert_eq!(size(13_107_200), "12.5 MiB");
        assert_eq!(size(u64::MAX), "16777215.9 TiB");
        assert_eq!(part(1024, 0), "1.0 KiB");
        assert_eq!(
            short("6ba7b810-9dad-11d1-80b4-00c04fd430c8#3"),
            "6ba7b810#3"
        );
        assert_eq!(short(&"ab".repeat(32)), "abababababab");
        assert_eq!(short("eth0"), "eth0");
        assert_eq!(
            short("domainmgr/6ba7b810-9dad-11d1-80b4-00c04fd430c8"),
            "domainmgr/6ba7b810"
        );
        assert_eq!(short("a/b/c"), "a/b/c");
    }

    proptest! {
        #[test]
        fn any_key_and_any_time_has_words(key in any::<String>(), seconds: i64) {
            let _ = short(&key);
            let _ = duration(SignedDuration::from_secs(seconds));
        }
    }
}
