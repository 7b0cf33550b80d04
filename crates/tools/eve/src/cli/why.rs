//! `eve why`.

use super::{
    Verdict,
    args::{Global, WhyArgs},
    snapshot,
};
use crate::{
    Device, Error,
    output::{self, Output},
    why::{Asked, answer_text, troubles, troubles_text},
};

pub(super) fn why(global: &Global, out: Output, args: &WhyArgs) -> Result<Verdict, Error> {
    let (kind, name) = args.meant()?;
    // There is one of each.
    let name = name.or(match kind {
        Some(Asked::Onboarding) => Some("onboarding"),
        Some(Asked::Config) => Some("config"),
        Some(
            Asked::App
            | Asked::Volume
            | Asked::Network
            | Asked::Port
            | Asked::Report
            | Asked::Service
            | Asked::Access,
        )
        | None => None,
    });
    let device = Device::of(&snapshot(global)?);
    let good = if let Some(name) = name {
        let answer = crate::why::why(&device, kind, name)?;
        if out.json {
            output::json(&answer)?;
        } else {
            output::print(&answer_text(out, &answer, device.at))?;
        }
        answer.is_as_wanted()
    } else {
        let troubles = troubles(&device, kind);
        if out.json {
            output::json(&troubles)?;
        } else {
            output::print(&troubles_text(out, &troubles, device.at))?;
        }
        troubles.is_empty()
    };
    Ok(if good {
        Verdict::Good
    } else {
        Verdict::NotAsWanted
    })
}
