//! `eve support-bundle`.

use std::{fmt::Write as _, fs, path::PathBuf};

use super::{
    Verdict,
    args::{BundleArgs, Global},
    check, ps, snapshot, status,
};
use crate::{
    Device, Error,
    bundle::{self, Answers, Options},
    check::{World as _, checks_text, collect::Live, evaluate, sandbox_rows, sandbox_text},
    output::{self, Output},
    timeline::{build, events, timeline_text},
    why, words,
};

pub(super) fn bundle(global: &Global, out: Output, args: &BundleArgs) -> Result<Verdict, Error> {
    let snapshot = snapshot(global)?;
    let device = Device::of(&snapshot);
    let file = args
        .out
        .clone()
        .unwrap_or_else(|| PathBuf::from(bundle::default_name(&device)));
    let options = Options {
        root: global.root.clone(),
        file,
        consoles: args.consoles,
    };
    let manifest = bundle::write(&options, &snapshot, &answers(global, &device)?)?;
    if out.json {
        output::json(&manifest)?;
        return Ok(Verdict::Good);
    }
    let size = fs::metadata(&options.file).map_or(0, |found| found.len());
    let mut text = format!(
        "{}: {}, {} ({} unpacked); secrets masked in {}\n",
        options.file.display(),
        words::count(manifest.files, "file"),
        words::size(size),
        words::size(manifest.bytes),
        words::count(
            usize::try_from(manifest.masked).unwrap_or(usize::MAX),
            "place"
        ),
    );
    for what in &manifest.left_out {
        let _ = writeln!(text, "left out: {what}");
    }
    output::print(&text)?;
    Ok(Verdict::Good)
}

/// What other commands say now.
fn answers(global: &Global, device: &Device) -> Result<Answers, Error> {
    let plain = Output {
        json: false,
        colour: false,
        width: None,
    };
    let facts = Live {
        root: global.root.clone(),
    }
    .look(device);
    let checks = evaluate(device, &facts);
    let sandbox = sandbox_rows(device, &facts);
    let timeline = build(device, &events(&global.root));
    let troubles = why::troubles(device, None);
    let texts = vec![
        ("status.txt", status::text(plain, device)),
        ("ps.txt", ps::text(plain, device)),
        ("why.txt", why::troubles_text(plain, &troubles, device.at)),
        ("check.txt", checks_text(plain, &checks, false)),
        ("sandbox.txt", sandbox_text(plain, &sandbox)),
        ("timeline.txt", timeline_text(plain, &timeline, true)),
    ];
    Ok(Answers {
        check: output::pretty(&check::answer(device, &facts, checks, sandbox))?,
        timeline: output::pretty(&timeline)?,
        texts,
    })
}
