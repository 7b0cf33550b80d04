//! `eve timeline`.

use super::{
    Verdict,
    args::{Global, TimelineArgs},
    snapshot,
};
use crate::{
    Device, Error, bundle,
    output::{self, Output},
    timeline::{Timeline, build, events, timeline_text},
};

pub(super) fn timeline(
    global: &Global,
    out: Output,
    args: &TimelineArgs,
) -> Result<Verdict, Error> {
    let timeline =
        match bundle::saved::<Timeline>(global.bundle.as_ref(), &global.root, bundle::TIMELINE)? {
            // Files in an archive know whole seconds only.
            Some(saved) => saved,
            None => build(&Device::of(&snapshot(global)?), &events(&global.root)),
        };
    if out.json {
        output::json(&timeline)?;
    } else {
        output::print(&timeline_text(out, &timeline, args.all))?;
    }
    Ok(if timeline.ready.is_some() {
        Verdict::Good
    } else {
        Verdict::NotAsWanted
    })
}
