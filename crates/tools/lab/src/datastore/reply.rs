//! What the datastore answers, decided purely: request head, content length and trouble in, the head
//! of the answer and the part of the content to send out.

use super::Trouble;
use std::fmt::Write as _;

/// A request head as far as a file server looks at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) range: Option<String>,
    pub(super) close: bool,
}

impl Head {
    /// Reads the text before the empty line; `None` when that is no HTTP.
    pub(super) fn parse(text: &str) -> Option<Head> {
        let mut lines = text.split("\r\n");
        let mut words = lines.next()?.split(' ');
        let (method, target, version) = (words.next()?, words.next()?, words.next()?);
        let mut head = Head {
            method: method.to_owned(),
            path: target.split(['?', '#']).next()?.to_owned(),
            range: None,
            close: version == "HTTP/1.0",
        };
        for line in lines.filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':')?;
            let value = value.trim();
            if name.eq_ignore_ascii_case("range") {
                head.range = Some(value.to_owned());
            } else if name.eq_ignore_ascii_case("connection") {
                head.close = value.eq_ignore_ascii_case("close");
            }
        }
        Some(head)
    }
}

/// The answer to one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) status: u16,
    /// Status line and headers with the empty line.
    pub(super) head: String,
    /// First byte of the content to send, and the one after the last.
    pub(super) body: (u64, u64),
    /// What to do when so many bytes of the body are out, counted from the content's start.
    pub(super) cut: Option<(u64, Cut)>,
    /// Byte of the content whose lowest bit is turned.
    pub(super) flip: Option<u64>,
    pub(super) bytes_per_second: Option<u64>,
    pub(super) close: bool,
}

/// How a body ends before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// The connection stays open and silent.
    Stall,
    /// The connection is reset.
    Reset,
    /// The connection is closed as if all had been sent.
    Close,
}

/// Plans the answer. `length` is `None` where nothing is published.
pub(super) fn plan(head: &Head, length: Option<u64>, tag: &str, trouble: Option<Trouble>) -> Reply {
    if head.method != "GET" && head.method != "HEAD" {
        return refusal(405, head);
    }
    if let Some(Trouble::Status(status)) = trouble {
        return refusal(status, head);
    }
    let Some(length) = length else {
        return refusal(404, head);
    };
    let range = match (&head.range, trouble) {
        (Some(_), Some(Trouble::NoRange)) | (None, _) => None,
        (Some(range), _) => Some(parse_range(range, length)),
    };
    let (status, (start, end)) = match range {
        None | Some(Range::Ignored) => (200, (0, length)),
        Some(Range::Bytes(start, end)) => (206, (start, end)),
        Some(Range::Unsatisfiable) => {
            let mut reply = refusal(416, head);
            insert(&mut reply.head, &format!("Content-Range: bytes */{length}"));
            return reply;
        }
    };
    let claimed = match trouble {
        Some(Trouble::WrongLength(claimed)) => claimed,
        _ => end - start,
    };
    let mut text = format!(
        "HTTP/1.1 {status} {}\r\nContent-Type: application/octet-stream\r\nContent-Length: {claimed}\r\nETag: \"{tag}\"\r\n",
        reason(status)
    );
    if trouble != Some(Trouble::NoRange) {
        text.push_str("Accept-Ranges: bytes\r\n");
    }
    if status == 206 {
        let _ = write!(
            text,
            "Content-Range: bytes {start}-{}/{length}\r\n",
            end.saturating_sub(1)
        );
    }
    let cut = match trouble {
        Some(Trouble::Stall { after }) => Some((after, Cut::Stall)),
        Some(Trouble::Reset { after }) => Some((after, Cut::Reset)),
        Some(Trouble::Close { after }) => Some((after, Cut::Close)),
        Some(Trouble::WrongLength(_)) => Some((end, Cut::Close)),
        _ => None,
    };
    let close = head.close || cut.is_some();
    text.push_str(if close {
        "Connection: close\r\n\r\n"
    } else {
        "\r\n"
    });
    Reply {
        status,
        head: text,
        body: if head.method == "HEAD" {
            (0, 0)
        } else {
            (start, end)
        },
        cut: cut.filter(|_| head.method == "GET"),
        flip: match trouble {
            Some(Trouble::Flip { at }) => Some(at),
            _ => None,
        },
        bytes_per_second: match trouble {
            Some(Trouble::Slow { bytes_per_second }) => Some(bytes_per_second.max(1)),
            _ => None,
        },
        close,
    }
}

enum Range {
    Bytes(u64, u64),
    Unsatisfiable,
    /// Several ranges or another unit: a server may answer with the whole.
    Ignored,
}

fn parse_range(text: &str, length: u64) -> Range {
    let Some(spec) = text.strip_prefix("bytes=") else {
        return Range::Ignored;
    };
    let Some((first, last)) = spec.split_once('-') else {
        return Range::Ignored;
    };
    let bounds = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => (first, last.saturating_add(1).min(length)),
        (Ok(first), Err(_)) if last.is_empty() => (first, length),
        (Err(_), Ok(tail)) if first.is_empty() && tail > 0 => (length.saturating_sub(tail), length),
        _ => return Range::Ignored,
    };
    if bounds.0 >= length {
        Range::Unsatisfiable
    } else {
        Range::Bytes(bounds.0, bounds.1)
    }
}

fn refusal(status: u16, head: &Head) -> Reply {
    let ending = if head.close {
        "Connection: close\r\n\r\n"
    } else {
        "\r\n"
    };
    Reply {
        status,
        head: format!(
            "HTTP/1.1 {status} {}\r\nContent-Length: 0\r\n{ending}",
            reason(status)
        ),
        body: (0, 0),
        cut: None,
        flip: None,
        bytes_per_second: None,
        close: head.close,
    }
}

fn insert(head: &mut String, line: &str) {
    head.truncate(head.len() - 2);
    let _ = write!(head, "{line}\r\n\r\n");
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        206 => "Partial Content",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        416 => "Range Not Satisfiable",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Other",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use proptest::prelude::*;

    fn get(range: Option<&str>) -> Head {
        let range = range.map_or(String::new(), |range| format!("Range: {range}\r\n"));
        Head::parse(&format!("GET /a?b=c HTTP/1.1\r\nHost: x\r\n{range}")).unwrap()
    }

    #[test]
    fn ranges_are_served_as_the_standard_says() {
        let cases = [
            (None, 200, (0, 10)),
            (Some("bytes=0-3"), 206, (0, 4)),
            (Some("bytes=4-"), 206, (4, 10)),
            (Some("bytes=4-400"), 206, (4, 10)),
            (Some("bytes=-3"), 206, (7, 10)),
            (Some("bytes=10-"), 416, (0, 0)),
            (Some("bytes=0-1,4-5"), 200, (0, 10)),
            (Some("lines=1-2"), 200, (0, 10)),
        ];
        for (range, status, body) in cases {
            let reply = plan(&get(range), Some(10), "t", None);
            assert_eq!((reply.status, reply.body), (status, body), "{range:?}");
            assert!(reply.head.ends_with("\r\n\r\n"));
        }
        let partial = plan(&get(Some("bytes=4-")), Some(10), "t", None);
        assert!(partial.head.contains("Content-Range: bytes 4-9/10\r\n"));
        assert!(partial.head.contains("Content-Length: 6\r\n"));
    }

    #[test]
    fn trouble_changes_the_answer() {
        let head = get(Some("bytes=2-"));
        let plan = |trouble| plan(&head, Some(10), "t", Some(trouble));
        assert_eq!(plan(Trouble::Status(503)).status, 503);
        assert_eq!(plan(Trouble::NoRange).body, (0, 10));
        assert_eq!(plan(Trouble::Reset { after: 5 }).cut, Some((5, Cut::Reset)));
        assert!(
            plan(Trouble::WrongLength(99))
                .head
                .contains("Content-Length: 99\r\n")
        );
        assert_eq!(plan(Trouble::Flip { at: 3 }).flip, Some(3));
    }

    #[test]
    fn what_is_not_there_or_not_read_is_refused() {
        assert_eq!(plan(&get(None), None, "t", None).status, 404);
        let post = Head::parse("POST / HTTP/1.1\r\n").unwrap();
        assert_eq!(plan(&post, Some(1), "t", None).status, 405);
        assert!(Head::parse("hello").is_none());
    }

    proptest! {
        #[test]
        fn no_head_and_no_range_breaks_the_server(text in ".{0,200}", range in "bytes=[-0-9]{0,40}", length in 0_u64..1000) {
            let _ = Head::parse(&text);
            let reply = plan(&get(Some(&range)), Some(length), "t", None);
            prop_assert!(reply.body.0 <= reply.body.1 && reply.body.1 <= length);
        }
    }
}
