//! `eve check`.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::{
    Verdict,
    args::{CheckArgs, Global},
    snapshot,
};
use crate::{
    Device, Error, bundle,
    check::{self, Check, Facts, Group, Outcome, SandboxRow, Summary, World, collect::Live},
    output::{self, Output},
};

/// The answer as JSON.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Answer {
    at: jiff::Timestamp,
    /// Why live checks were skipped, if they were.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_live: Option<String>,
    summary: Summary,
    checks: Vec<Check>,
    /// What every process may; with the group `sandbox` only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    sandbox: Vec<SandboxRow>,
}

pub(super) fn check(global: &Global, out: Output, args: &CheckArgs) -> Result<Verdict, Error> {
    if args.list {
        if out.json {
            output::json(&check::CATALOGUE)?;
        } else {
            output::print(&check::list_text(out))?;
        }
        return Ok(Verdict::Good);
    }
    let wanted = wanted(&args.which)?;
    if let Some(saved) =
        bundle::saved::<Saved>(global.bundle.as_ref(), &global.root, bundle::CHECK)?
    {
        return show_saved(out, args, &wanted, saved);
    }
    let device = Device::of(&snapshot(global)?);
    let facts = Live {
        root: global.root.clone(),
    }
    .look(&device);
    let checks: Vec<Check> = check::evaluate(&device, &facts)
        .into_iter()
        .filter(|check| wanted.is_empty() || wanted.contains(&check.number))
        .collect();
    let failed = checks.iter().any(|check| check.result == Outcome::Fail);
    // Asked for alone, the table is the answer.
    let table = args.which.iter().any(|word| word == Group::Sandbox.word());
    let rows = if table {
        check::sandbox_rows(&device, &facts)
    } else {
        Vec::new()
    };
    if out.json {
        output::json(&answer(&device, &facts, checks, rows))?;
    } else {
        let mut text = String::new();
        if let Some(why) = &facts.not_live {
            let _ = writeln!(text, "{why}: only what was written down is checked\n");
        }
        if table {
            text.push_str(&check::sandbox_text(out, &rows));
            text.push('\n');
        }
        text.push_str(&check::checks_text(out, &checks, args.problems));
        output::print(&text)?;
    }
    Ok(if failed {
        Verdict::NotAsWanted
    } else {
        Verdict::Good
    })
}

pub(super) fn answer(
    device: &Device,
    facts: &Facts,
    checks: Vec<Check>,
    sandbox: Vec<SandboxRow>,
) -> Answer {
    Answer {
        at: device.at,
        not_live: facts.not_live.clone(),
        summary: Summary::of(&checks),
        checks,
        sandbox,
    }
}

/// Checks as they were answered on a device, in its bundle.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    at: jiff::Timestamp,
    #[serde(default)]
    not_live: Option<String>,
    checks: Vec<SavedCheck>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SavedCheck {
    number: u16,
    subject: String,
    result: Outcome,
    detail: String,
    remedy: String,
}

fn show_saved(
    out: Output,
    args: &CheckArgs,
    wanted: &[u16],
    saved: Saved,
) -> Result<Verdict, Error> {
    let check = |saved: SavedCheck| {
        // Another version may have had checks that this one does not know.
        let spec = check::CATALOGUE
            .iter()
            .find(|spec| spec.number == saved.number)?;
        Some(Check {
            number: spec.number,
            id: spec.id,
            group: spec.group,
            title: spec.title,
            subject: saved.subject,
            result: saved.result,
            detail: saved.detail,
            remedy: saved.remedy,
        })
    };
    let checks: Vec<Check> = saved
        .checks
        .into_iter()
        .filter_map(check)
        .filter(|check| wanted.is_empty() || wanted.contains(&check.number))
        .collect();
    let failed = checks.iter().any(|check| check.result == Outcome::Fail);
    if out.json {
        output::json(&Answer {
            at: saved.at,
            not_live: saved.not_live,
            summary: Summary::of(&checks),
            checks,
            sandbox: Vec::new(),
        })?;
    } else {
        let text = format!(
            "as answered on the device at {}\n\n{}",
            crate::words::time(saved.at),
            check::checks_text(out, &checks, args.problems)
        );
        output::print(&text)?;
    }
    Ok(if failed {
        Verdict::NotAsWanted
    } else {
        Verdict::Good
    })
}

/// The numbers of the checks that are meant: by number, name, the beginning of a name before a dot, or group.
fn wanted(words: &[String]) -> Result<Vec<u16>, Error> {
    let mut numbers = Vec::new();
    for word in words {
        let fits = check::CATALOGUE.iter().filter(|spec| {
            spec.group.word() == word
                || spec.id == word
                || spec.id.split('.').next() == Some(word)
                || spec.number.to_string() == *word
        });
        let found: Vec<u16> = fits.map(|spec| spec.number).collect();
        if found.is_empty() {
            let groups: Vec<&str> = Group::ALL.iter().map(|group| group.word()).collect();
            return Err(Error::NotFound {
                kind: "check".to_owned(),
                name: word.clone(),
                hint: format!(
                    "; the groups are {}; see eve check --list",
                    groups.join(", ")
                ),
            });
        }
        numbers.extend(found);
    }
    Ok(numbers)
}
