//! Answers as people read them.

use std::fmt::Write as _;

use jiff::{SignedDuration, Timestamp};

use super::{Answer, Condition, Link, Nature, Trouble};
use crate::{
    output::{Cell, Output, Paint, printable},
    words,
};

fn paint(nature: Nature) -> Paint {
    match nature {
        Nature::Fault => Paint::Bad,
        Nature::Waits | Nature::Progress => Paint::Busy,
    }
}

fn verb(nature: Nature) -> &'static str {
    match nature {
        Nature::Fault => "blocked by",
        Nature::Waits => "waits at",
        Nature::Progress => "in progress at",
    }
}

/// The answer about one object, in lines.
pub fn answer(out: Output, answer: &Answer, now: Timestamp) -> String {
    let Answer {
        asked,
        state,
        blocked_by,
        chain,
        notes,
    } = answer;
    let mut text = format!(
        "{}: {}",
        out.paint(Paint::Strong, &printable(&asked.to_string())),
        printable(state)
    );
    match blocked_by {
        None => {
            let _ = writeln!(text, "; {}", out.paint(Paint::Good, "as wanted"));
        }
        Some(condition) => {
            text.push_str("\n\n");
            text.push_str(&condition_text(out, condition, now));
            text.push_str("\nthe way there\n");
            text.push_str(&chain_text(out, chain, paint(condition.nature)));
        }
    }
    for note in notes {
        let note = format!("note: {}", printable(note));
        let _ = writeln!(text, "{}", out.wrapped(Paint::Plain, &note, 0));
    }
    text
}

fn condition_text(out: Output, condition: &Condition, now: Timestamp) -> String {
    let Condition {
        subject,
        nature,
        text,
        code,
        causes,
        since,
        age_seconds: _,
        unchanged_seconds,
        attempts,
        next,
        retry_in_seconds: _,
        properties,
        remedy,
    } = condition;
    let mut lines: Vec<(String, Cell)> = vec![(
        verb(*nature).to_owned(),
        Cell::new(subject.to_string()).paint(paint(*nature)),
    )];
    let mut add = |label: &str, text: String| lines.push((label.to_owned(), Cell::new(text)));
    add("why", text.clone());
    for cause in causes {
        add("", cause.clone());
    }
    if let Some(code) = code {
        add("code", code.to_string());
    }
    if let Some(since) = since {
        let age = words::ago(*since, now);
        add("age", format!("{age}, since {}", words::time(*since)));
    } else if let Some(seconds) = unchanged_seconds {
        let age = words::duration(SignedDuration::from_secs(*seconds));
        add("unchanged", format!("for {age}"));
    }
    if *attempts > 0 {
        add("attempts", attempts.to_string());
    }
    if let Some(next) = next {
        let at = words::time(*next);
        if *nature == Nature::Fault {
            add(
                "next try",
                format!("{}, at {at}", words::next_try(*next, now)),
            );
        } else {
            add("until", format!("{}, at {at}", words::due(*next, now)));
        }
    } else if code.is_some() && *nature == Nature::Fault {
        add("next try", "when its inputs change".to_owned());
    }
    for property in properties {
        let default = if property.is_default {
            " (default)"
        } else {
            ""
        };
        add(
            "property",
            format!(
                "{} = {}{default}: {}",
                property.name, property.value, property.help
            ),
        );
    }
    if !remedy.is_empty() {
        add("remedy", remedy.clone());
    }
    let rows: Vec<Vec<Cell>> = lines
        .into_iter()
        .map(|(label, cell)| vec![Cell::new(label).paint(Paint::Dim), cell])
        .collect();
    indented(&out.indented(2).table(&[], &rows))
}

fn chain_text(out: Output, chain: &[Link], last: Paint) -> String {
    let deepest = chain.len().saturating_sub(1);
    let rows: Vec<Vec<Cell>> = chain
        .iter()
        .enumerate()
        .map(|(depth, link)| {
            let arrow = if depth == 0 { "" } else { "-> " };
            let paint = if depth == deepest { last } else { Paint::Plain };
            let blanks = "   ".repeat(depth.saturating_sub(1));
            vec![
                Cell::new(format!("{blanks}{arrow}{}", link.subject)).paint(paint),
                Cell::new(&link.state),
            ]
        })
        .collect();
    indented(&out.indented(2).table(&[], &rows))
}

fn indented(text: &str) -> String {
    text.lines().flat_map(|line| ["  ", line, "\n"]).collect()
}

/// Everything that is not as wanted, in lines.
pub fn troubles(out: Output, troubles: &[Trouble], now: Timestamp) -> String {
    if troubles.is_empty() {
        return format!("{}\n", out.paint(Paint::Good, "everything is as wanted"));
    }
    let mut text = String::new();
    for (index, Trouble { condition, affects }) in troubles.iter().enumerate() {
        if index > 0 {
            text.push('\n');
        }
        text.push_str(&headline(out, condition, now));
        let mut below = |line: &str| {
            let line = out.wrapped(Paint::Plain, &printable(line), 2);
            let _ = writeln!(text, "  {line}");
        };
        for cause in &condition.causes {
            below(cause);
        }
        if !condition.remedy.is_empty() && condition.nature != Nature::Progress {
            below(&format!("remedy: {}", condition.remedy));
        }
        let held: Vec<String> = affects
            .iter()
            .filter(|answer| answer.asked != condition.subject)
            .map(|answer| answer.asked.to_string())
            .collect();
        if !held.is_empty() {
            below(&format!("holds up: {}", held.join(", ")));
        }
    }
    text
}

/// Who, and the first line about it, with its line end.
pub fn headline(out: Output, condition: &Condition, now: Timestamp) -> String {
    let subject = printable(&condition.subject.to_string());
    let line = format!("{subject}: {}", printable(&first_line(condition, now)));
    // Wrapped while it is plain: colours take no room.
    let line = out.wrapped(Paint::Plain, &line, 0);
    match line.strip_prefix(&subject) {
        Some(rest) => format!("{}{rest}\n", out.paint(paint(condition.nature), &subject)),
        None => format!("{line}\n"),
    }
}

/// What, since when, until when: `text [code], for 3 min, 4 attempts, next in 20 s`.
fn first_line(condition: &Condition, now: Timestamp) -> String {
    let mut text = condition.text.clone();
    if let Some(code) = condition.code {
        let _ = write!(text, " [{code}]");
    }
    if let Some(since) = condition.since {
        let _ = write!(text, ", for {}", words::ago(since, now));
    } else if let Some(seconds) = condition.unchanged_seconds {
        let age = words::duration(SignedDuration::from_secs(seconds));
        let _ = write!(text, ", unchanged for {age}");
    }
    if condition.attempts > 0 {
        let attempts = usize::try_from(condition.attempts).unwrap_or(usize::MAX);
        let _ = write!(text, ", {}", words::count(attempts, "attempt"));
    }
    if let Some(next) = condition.next {
        let _ = if condition.nature == Nature::Fault {
            write!(text, ", next try {}", words::next_try(next, now))
        } else {
            write!(text, ", until {}", words::due(next, now))
        };
    }
    text
}
