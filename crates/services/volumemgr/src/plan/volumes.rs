//! Each wanted volume: there, to be made, or waiting, and for what.

use std::collections::BTreeMap;

use agent::Turn;
use model::{
    code::Code,
    content::{ContentPhase, ContentTreeConfig},
    fault::Fault,
    id::{Digest, VolumeKey},
    volume::{ImageFormat, VolumeConfig, VolumeOrigin, VolumePhase, VolumeStatus},
};

use crate::{
    Do, Image, Recipe, VolumeFile, Volumemgr,
    plan::{
        blobs::{Blob, State},
        space::{Budget, human},
        voucher::{Voucher, voucher},
        wanted::Want,
    },
    subject,
};

/// The rows of all wanted volumes, and how the missing ones are made. Marks the blobs that are
/// needed and takes what everything needs from the budget, what runs first.
pub fn volumes<'a>(
    turn: &Turn<'_, Volumemgr>,
    wants: &BTreeMap<VolumeKey, Want<'a>>,
    blobs: &mut BTreeMap<Digest, Blob<'a>>,
    budget: &mut Budget,
) -> Vec<(VolumeStatus, Option<Do>)> {
    let mut order: Vec<_> = wants.iter().collect();
    order.sort_by_key(|(key, _)| !turn.jobs.is_running(&subject(**key)));
    order
        .into_iter()
        .map(|(key, want)| volume(turn, *key, want, blobs, budget))
        .collect()
}

/// The row of a volume that is there.
pub fn existing(key: VolumeKey, file: &VolumeFile, old: Option<&VolumeStatus>) -> VolumeStatus {
    let VolumeFile {
        path,
        format,
        virtual_bytes,
        used_bytes,
    } = file;
    VolumeStatus {
        key,
        display_name: old.map(|row| row.display_name.clone()).unwrap_or_default(),
        phase: VolumePhase::Created,
        content_tree: old.and_then(|row| row.content_tree),
        path: Some(path.clone()),
        format: *format,
        virtual_size_bytes: *virtual_bytes,
        used_bytes: used_bytes.next_multiple_of(1 << 20),
        referenced_by: Vec::new(),
        read_only: old.is_some_and(|row| row.read_only) || *format == ImageFormat::Iso,
        fault: None,
    }
}

fn volume<'a>(
    turn: &Turn<'_, Volumemgr>,
    key: VolumeKey,
    want: &Want<'a>,
    blobs: &mut BTreeMap<Digest, Blob<'a>>,
    budget: &mut Budget,
) -> (VolumeStatus, Option<Do>) {
    let Turn {
        desired,
        actual,
        now,
        ..
    } = *turn;
    let old = desired.own.volumes.get(&key.to_string());
    let mut row = match actual.volumes.get(&key) {
        Some(file) => existing(key, file, old),
        None => missing(key),
    };
    row.referenced_by.clone_from(&want.apps);
    if let Some(VolumeConfig {
        display_name,
        origin,
        read_only,
        ..
    }) = want.config
    {
        row.display_name.clone_from(display_name);
        row.content_tree = match origin {
            VolumeOrigin::Blank => None,
            VolumeOrigin::Content(tree) => Some(*tree),
        };
        row.read_only = *read_only || row.format == ImageFormat::Iso;
    }
    if row.phase == VolumePhase::Created {
        return (row, None);
    }
    let next = match want.config {
        Some(config) => next(turn, key, config, blobs, budget),
        None => Next::Wait {
            phase: not_there("volume not in the config"),
            fault: None,
        },
    };
    let action = match next {
        Next::Wait { phase, fault } => {
            row.phase = phase;
            row.fault = fault;
            None
        }
        Next::Fail { code, text } => {
            row.phase = VolumePhase::Failed;
            row.fault = Some(Fault::new(code, subject(key), text, now));
            None
        }
        Next::NoSpace { needed, available } => {
            let text = format!(
                "it needs {}, {} are available",
                human(needed),
                human(available)
            );
            row.phase = VolumePhase::AwaitSpace;
            row.fault =
                Some(Fault::new(Code::VolumeSpace, subject(key), text, now).transient(true));
            None
        }
        Next::Make(recipe) => {
            let percent = turn
                .jobs
                .progress(&subject(key))
                .map_or(0, agent::Progressed::percent);
            row.phase = VolumePhase::Creating { percent };
            row.format = recipe.format;
            row.virtual_size_bytes = recipe.size_bytes;
            row.fault = turn.jobs.fault(&subject(key)).cloned();
            if row.fault.is_some() && !turn.jobs.is_running(&subject(key)) {
                row.phase = VolumePhase::Failed;
            }
            Some(Do::Create(recipe))
        }
    };
    row.fault = row
        .fault
        .map(|fault| fault.continuing(old.and_then(|row| row.fault.as_ref())));
    (row, action)
}

/// What happens next with a volume that is not there.
enum Next {
    Wait {
        phase: VolumePhase,
        fault: Option<Fault>,
    },
    Fail {
        code: Code,
        text: String,
    },
    NoSpace {
        needed: u64,
        available: u64,
    },
    Make(Recipe),
}

fn next(
    turn: &Turn<'_, Volumemgr>,
    key: VolumeKey,
    config: &VolumeConfig,
    blobs: &mut BTreeMap<Digest, Blob<'_>>,
    budget: &mut Budget,
) -> Next {
    if let Some(fault) = &config.fault {
        keep_begun(turn, config, blobs, budget);
        return Next::Wait {
            phase: VolumePhase::Failed,
            fault: Some(fault.clone()),
        };
    }
    let runs = turn.jobs.is_running(&subject(key));
    match config.origin {
        VolumeOrigin::Blank => match config.max_size_bytes {
            0 => Next::Fail {
                code: Code::ConfigInvalid,
                text: "a blank volume needs a size".to_owned(),
            },
            size => make(
                Recipe {
                    key,
                    format: ImageFormat::Qcow2,
                    image: None,
                    size_bytes: whole_sectors(size),
                },
                runs,
                budget,
            ),
        },
        VolumeOrigin::Content(id) => {
            let Some(tree) = turn.desired.trees.get(&id.to_string()) else {
                // Config comes in pieces: the tree may be on its way.
                return Next::Wait {
                    phase: not_there("content tree not in the config"),
                    fault: None,
                };
            };
            let Some(blob) = blobs.get_mut(&tree.sha256) else {
                return Next::Wait {
                    phase: not_there("content tree not known yet"),
                    fault: None,
                };
            };
            of_content(turn, key, config, tree, blob, budget, runs)
        }
    }
}

/// A faulty config begins nothing, and throws nothing away that has begun.
fn keep_begun(
    turn: &Turn<'_, Volumemgr>,
    config: &VolumeConfig,
    blobs: &mut BTreeMap<Digest, Blob<'_>>,
    budget: &mut Budget,
) {
    if let VolumeOrigin::Content(id) = config.origin
        && let Some(tree) = turn.desired.trees.get(&id.to_string())
        && let Some(blob) = blobs.get_mut(&tree.sha256)
    {
        keep_begun_blob(turn, config, blob, budget);
    }
}

fn keep_begun_blob(
    turn: &Turn<'_, Volumemgr>,
    config: &VolumeConfig,
    blob: &mut Blob<'_>,
    budget: &mut Budget,
) {
    if !blob.needed && blob.loaded().is_none() && blob.has_begun(turn.desired) {
        budget.charge(blob.cost(config.max_size_bytes));
        blob.needed = true;
    }
}

fn of_content(
    turn: &Turn<'_, Volumemgr>,
    key: VolumeKey,
    config: &VolumeConfig,
    tree: &ContentTreeConfig,
    blob: &mut Blob<'_>,
    budget: &mut Budget,
    runs: bool,
) -> Next {
    if let Some(fault) = &tree.fault {
        keep_begun_blob(turn, config, blob, budget);
        return Next::Wait {
            phase: VolumePhase::Failed,
            fault: Some(fault.clone()),
        };
    }
    match voucher(turn, tree) {
        Voucher::Good => {}
        Voucher::Awaited => {
            keep_begun_blob(turn, config, blob, budget);
            return Next::Wait {
                phase: not_there("its signature is being judged"),
                fault: None,
            };
        }
        Voucher::Refused(fault) => {
            keep_begun_blob(turn, config, blob, budget);
            return Next::Wait {
                phase: VolumePhase::Failed,
                fault: Some(*fault),
            };
        }
    }
    if tree.format == ImageFormat::Container {
        return Next::Fail {
            code: Code::VolumeCreate,
            text: "a container image can't become a disk".to_owned(),
        };
    }
    let Some((path, _)) = blob.loaded() else {
        return await_content(turn, config, blob, budget);
    };
    let size = match turn.actual.images.get(&blob.digest) {
        Some(Image { file_bytes, qcow2 }) => match (tree.format, qcow2) {
            (ImageFormat::Qcow2, Err(why)) => {
                return Next::Fail {
                    code: Code::VolumeCreate,
                    text: format!("unusable image: {why}"),
                };
            }
            (ImageFormat::Qcow2, Ok(size)) => *size,
            (ImageFormat::Raw | ImageFormat::Iso | ImageFormat::Container, _) => *file_bytes,
        },
        None => {
            return Next::Fail {
                code: Code::VolumeContent,
                text: format!("{} is not there", path.display()),
            };
        }
    };
    let size_bytes = match tree.format {
        // A disc has the size that it was made with.
        ImageFormat::Iso => size,
        ImageFormat::Raw | ImageFormat::Qcow2 | ImageFormat::Container => {
            whole_sectors(size.max(config.max_size_bytes))
        }
    };
    let recipe = Recipe {
        key,
        format: tree.format,
        image: Some(path.clone()),
        size_bytes,
    };
    blob.needed = true;
    make(recipe, runs, budget)
}

fn make(recipe: Recipe, runs: bool, budget: &mut Budget) -> Next {
    let needed = recipe.size_bytes;
    if runs {
        budget.charge(needed);
    } else if !budget.take(needed) {
        return Next::NoSpace {
            needed,
            available: budget.available(),
        };
    }
    Next::Make(recipe)
}

/// Disks are made of these.
fn whole_sectors(bytes: u64) -> u64 {
    bytes.checked_next_multiple_of(512).unwrap_or(bytes)
}

/// The blob is not there yet. It is needed only when there is space for it and for the volume.
fn await_content(
    turn: &Turn<'_, Volumemgr>,
    config: &VolumeConfig,
    blob: &mut Blob<'_>,
    budget: &mut Budget,
) -> Next {
    if let State::Wrong { fault, by: _ } = &blob.state {
        let fault = Some(fault.clone());
        blob.needed = true;
        return Next::Wait {
            phase: VolumePhase::Failed,
            fault,
        };
    }
    // Another volume has paid for the blob already.
    let needed = if blob.needed {
        config.max_size_bytes
    } else {
        blob.cost(config.max_size_bytes)
    };
    if blob.has_begun(turn.desired) {
        budget.charge(needed);
    } else if !budget.take(needed) {
        return Next::NoSpace {
            needed,
            available: budget.available(),
        };
    }
    blob.needed = true;
    let (phase, fault) = (blob.phase(), blob.fault().cloned());
    let (done_bytes, total_bytes) = blob.progress();
    let content = match phase {
        ContentPhase::Failed => {
            return Next::Wait {
                phase: VolumePhase::Failed,
                fault,
            };
        }
        ContentPhase::Waiting => "waiting",
        ContentPhase::Downloading { .. } => "downloading",
        ContentPhase::Verifying { .. } => "verifying",
        ContentPhase::Loaded => "loaded",
    };
    let phase = VolumePhase::AwaitContent {
        done_bytes,
        total_bytes,
        content: content.to_owned(),
    };
    Next::Wait { phase, fault }
}

fn not_there(what: &str) -> VolumePhase {
    VolumePhase::AwaitContent {
        done_bytes: 0,
        total_bytes: 0,
        content: what.to_owned(),
    }
}

fn missing(key: VolumeKey) -> VolumeStatus {
    VolumeStatus {
        key,
        display_name: String::new(),
        phase: not_there(""),
        content_tree: None,
        path: None,
        format: ImageFormat::Raw,
        virtual_size_bytes: 0,
        used_bytes: 0,
        referenced_by: Vec::new(),
        read_only: false,
        fault: None,
    }
}
