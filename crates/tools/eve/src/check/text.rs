//! Checks as people read them.

use std::fmt::Write as _;

use super::{CATALOGUE, Check, Group, Outcome, Summary, sandbox::Row};
use crate::{
    output::{Cell, Output, Paint, printable},
    words,
};

/// Where the name of a check begins.
const BELOW: usize = 15;

fn word(result: Outcome) -> (&'static str, Paint) {
    match result {
        Outcome::Ok => ("ok", Paint::Good),
        Outcome::Warn => ("WARN", Paint::Busy),
        Outcome::Fail => ("FAIL", Paint::Bad),
        Outcome::Skipped => ("skipped", Paint::Dim),
    }
}

/// Checks by group, one line each, remedies below; then how many ended how. With `problems` only warnings
/// and failures are shown.
pub fn checks(out: Output, checks: &[Check], problems: bool) -> String {
    let mut text = String::new();
    for group in Group::ALL {
        let shown: Vec<&Check> = checks
            .iter()
            .filter(|check| check.group == *group)
            .filter(|check| !problems || check.result >= Outcome::Warn)
            .collect();
        if shown.is_empty() {
            continue;
        }
        if !text.is_empty() {
            text.push('\n');
        }
        let _ = writeln!(text, "{}", out.paint(Paint::Strong, &group.to_string()));
        let rows: Vec<Vec<Cell>> = shown.iter().map(|check| row(check)).collect();
        for (index, (line, check)) in out.rows(&rows).iter().zip(&shown).enumerate() {
            text.push_str(line);
            // Several in a row with the same remedy share it.
            let next = shown.get(index + 1).map(|next| &next.remedy);
            if !check.remedy.is_empty() && next != Some(&check.remedy) {
                let remedy = format!("remedy: {}", printable(&check.remedy));
                let remedy = out.wrapped(Paint::Dim, &remedy, BELOW);
                let _ = writeln!(text, "{:BELOW$}{remedy}", "");
            }
        }
    }
    let Summary {
        ok,
        warn,
        fail,
        skipped,
    } = Summary::of(checks);
    if !text.is_empty() {
        text.push('\n');
    }
    let paint = |paint, count: usize, what: &str| {
        let text = format!("{count} {what}");
        if count == 0 {
            text
        } else {
            out.paint(paint, &text)
        }
    };
    let _ = writeln!(
        text,
        "{}, {}, {}, {}",
        paint(Paint::Good, ok, "ok"),
        paint(
            Paint::Busy,
            warn,
            if warn == 1 { "warning" } else { "warnings" }
        ),
        paint(Paint::Bad, fail, "failed"),
        paint(Paint::Dim, skipped, "skipped"),
    );
    text
}

fn row(check: &Check) -> Vec<Cell> {
    let (word, paint) = word(check.result);
    let subject = match check.subject.as_str() {
        "" => check.id.to_owned(),
        subject => format!("{} [{subject}]", check.id),
    };
    let detail = if check.result == Outcome::Skipped {
        Cell::new(&check.detail).paint(Paint::Dim)
    } else {
        Cell::new(&check.detail)
    };
    vec![
        Cell::new(format!("{:>4}", check.number)).paint(Paint::Dim),
        Cell::new(format!("{word:<7}")).paint(paint),
        Cell::new(subject),
        detail,
    ]
}

/// The catalogue.
pub fn list(out: Output) -> String {
    let rows: Vec<Vec<Cell>> = CATALOGUE
        .iter()
        .map(|spec| {
            vec![
                Cell::new(format!("{:>4}", spec.number)),
                Cell::new(spec.id),
                Cell::new(spec.group.word()),
                Cell::new(spec.title),
            ]
        })
        .collect();
    out.table(&["  NO", "CHECK", "GROUP", "ASKS WHETHER"], &rows)
}

/// What each process may, as the kernel enforces it.
pub fn sandbox(out: Output, rows: &[Row]) -> String {
    let cells = |row: &Row| {
        let paint = if row.differences.is_empty() {
            Paint::Plain
        } else {
            Paint::Bad
        };
        vec![
            Cell::new(words::short(&row.unit)).paint(paint),
            Cell::new(row.user()),
            Cell::new(row.groups()),
            Cell::new(row.capabilities()),
            Cell::new(row.no_new_privileges()),
            Cell::new(row.calls()),
            Cell::new(row.network()),
            Cell::new(row.memory()),
            Cell::new(row.landlock()),
            Cell::new(row.paths()),
        ]
    };
    let header = [
        "UNIT",
        "UID",
        "GROUPS",
        "CAPABILITIES",
        "NEW PRIVILEGES",
        "SYSTEM CALLS",
        "NETWORK",
        "MEMORY",
        "LANDLOCK",
        "PATHS BESIDE THE BUS",
    ];
    out.table(&header, &rows.iter().map(cells).collect::<Vec<_>>())
}
