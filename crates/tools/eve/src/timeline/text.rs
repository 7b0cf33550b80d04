//! A timeline as people read it: one line for each phase, with a bar.

use std::fmt::Write as _;

use jiff::{SignedDuration, Timestamp};

use super::{Lane, Nature, Span, Timeline};
use crate::{
    output::{Cell, Output, Paint, printable},
    words,
};

/// Columns of the bars.
const WIDTH: i64 = 40;
/// Longer texts are cut off.
const LONGEST: usize = 48;

/// The timeline. Without `all` it ends when the device was ready.
pub fn timeline(out: Output, timeline: &Timeline, all: bool) -> String {
    let Timeline {
        boot,
        reason,
        ready,
        missing,
        lanes,
    } = timeline;
    let mut text = format!("booted {}", words::time(*boot));
    if !reason.is_empty() {
        let _ = write!(text, ": {}", printable(reason));
    }
    if let Some(at) = ready {
        let took = out.paint(Paint::Good, &format!("ready after {}", seconds(*boot, *at)));
        let _ = writeln!(text, "; {took}");
    } else {
        let _ = writeln!(text, "; {}", out.paint(Paint::Bad, "not ready"));
        for what in missing {
            let _ = writeln!(text, "  {}", printable(what));
        }
    }
    let last = match ready {
        Some(at) if !all => Some(*at),
        Some(_) | None => lanes
            .iter()
            .flat_map(|lane| &lane.spans)
            .map(|span| span.until.unwrap_or(span.from))
            .max(),
    };
    let Some(last) = last else {
        text.push_str("nothing is known of what happened since\n");
        return text;
    };
    let shown: Vec<&Lane> = lanes
        .iter()
        .filter(|lane| lane.spans.first().is_some_and(|span| span.from <= last))
        .collect();
    for services in [true, false] {
        let rows: Vec<Vec<Cell>> = shown
            .iter()
            .filter(|lane| lane.service == services)
            .flat_map(|lane| rows(lane, *boot, last))
            .collect();
        if rows.is_empty() {
            continue;
        }
        let scale = format!("0 s{:>width$}", seconds(*boot, last), width = 37);
        let what = if services { "SERVICE" } else { "OBJECT" };
        let header = [what, "PHASE", "AT", "TOOK", &scale];
        text.push('\n');
        text.push_str(&out.table(&header, &rows));
    }
    text
}

fn rows(lane: &Lane, boot: Timestamp, last: Timestamp) -> Vec<Vec<Cell>> {
    let spans = lane.spans.iter().filter(|span| span.from <= last);
    let row = |(index, span): (usize, &Span)| {
        let paint = match span.nature {
            Nature::Work => Paint::Plain,
            Nature::Done => Paint::Good,
            Nature::Trouble => Paint::Bad,
        };
        let name = if index == 0 { lane.name.as_str() } else { "" };
        let took = match (span.nature, span.until) {
            (_, Some(until)) => seconds(span.from, until),
            (Nature::Work, None) => "goes on".to_owned(),
            (Nature::Done | Nature::Trouble, None) => String::new(),
        };
        vec![
            Cell::new(name),
            Cell::new(cut(&span.phase)).paint(paint),
            Cell::new(format!("{:>8}", seconds(boot, span.from))),
            Cell::new(format!("{took:>8}")),
            Cell::new(bar(span, boot, last)).paint(paint),
        ]
    };
    spans.enumerate().map(row).collect()
}

fn cut(text: &str) -> String {
    if text.chars().count() <= LONGEST {
        return text.to_owned();
    }
    let mut text: String = text.chars().take(LONGEST - 3).collect();
    text.push_str("...");
    text
}

/// Seconds with two decimals, beyond some minutes in larger units.
fn seconds(from: Timestamp, until: Timestamp) -> String {
    let took = until.duration_since(from);
    if took < SignedDuration::from_secs(600) {
        let hundredths = took.as_millis().max(0) / 10;
        format!("{}.{:02} s", hundredths / 100, hundredths % 100)
    } else {
        words::duration(took)
    }
}

fn bar(span: &Span, boot: Timestamp, last: Timestamp) -> String {
    let total = i64::try_from(last.duration_since(boot).as_micros())
        .unwrap_or(i64::MAX)
        .max(1);
    let column = |at: Timestamp| -> i64 {
        let micros = i64::try_from(at.duration_since(boot).as_micros()).unwrap_or(i64::MAX);
        let column = i128::from(micros) * i128::from(WIDTH) / i128::from(total);
        i64::try_from(column).unwrap_or(WIDTH).clamp(0, WIDTH - 1)
    };
    let from = column(span.from);
    let (mark, until) = match span.nature {
        Nature::Work => ('#', span.until.map_or(WIDTH - 1, column)),
        Nature::Done => ('|', from),
        Nature::Trouble => ('!', from),
    };
    (0..=until.max(from))
        .map(|at| if at < from { ' ' } else { mark })
        .collect()
}
