//! Volumes and content trees.

use api::info::{
    ContentResources, UsageInfo, VolumeResources, ZInfoContentTree, ZInfoTypes, ZInfoVolume,
    ZSwState, z_info_msg::InfoContent,
};
use model::{
    content::{ContentPhase, ContentTreeStatus},
    volume::{VolumePhase, VolumeStatus},
};

use super::{Content, Messages, error, gone};
use crate::Desired;

const VOLUME: &str = "volume.";
const TREE: &str = "content-tree.";

pub(super) fn infos(desired: &Desired, all: &mut Messages) {
    if let Some(volumes) = &desired.volumes {
        for (key, status) in volumes.iter() {
            all.insert(
                format!("{VOLUME}{key}"),
                volume_content(volume(status), false),
            );
        }
        gone(desired, VOLUME, all, |id| {
            let (uuid, generation) = id.split_once('#').unwrap_or((id, "0"));
            let generation_count = generation.parse().unwrap_or(0);
            volume_content(
                ZInfoVolume {
                    uuid: uuid.to_owned(),
                    generation_count,
                    ..ZInfoVolume::default()
                },
                true,
            )
        });
    }
    if let Some(trees) = &desired.content_trees {
        for (key, status) in trees.iter() {
            all.insert(format!("{TREE}{key}"), tree_content(tree(status), false));
        }
        gone(desired, TREE, all, |id| {
            tree_content(
                ZInfoContentTree {
                    uuid: id.to_owned(),
                    ..ZInfoContentTree::default()
                },
                true,
            )
        });
    }
}

fn volume_content(info: ZInfoVolume, last: bool) -> Content {
    Content::new(ZInfoTypes::ZiVolume, InfoContent::Vinfo(info), last)
}

fn tree_content(info: ZInfoContentTree, last: bool) -> Content {
    Content::new(ZInfoTypes::ZiContentTree, InfoContent::Cinfo(info), last)
}

fn volume(status: &VolumeStatus) -> ZInfoVolume {
    let (state, percent) = match &status.phase {
        VolumePhase::AwaitContent {
            done_bytes,
            total_bytes,
            ..
        } => (
            ZSwState::DownloadStarted,
            percent(*done_bytes, *total_bytes),
        ),
        VolumePhase::AwaitSpace => (ZSwState::Initial, 0),
        VolumePhase::Creating { percent } => (ZSwState::CreatingVolume, u32::from(*percent)),
        VolumePhase::Created => (ZSwState::CreatedVolume, 100),
        VolumePhase::Deleting => (ZSwState::Halting, 0),
        VolumePhase::Failed => (ZSwState::Error, 0),
    };
    let references = u32::try_from(status.referenced_by.len()).unwrap_or(u32::MAX);
    ZInfoVolume {
        uuid: status.key.volume.to_string(),
        display_name: status.display_name.clone(),
        usage: Some(UsageInfo {
            ref_count: references,
            ..UsageInfo::default()
        }),
        resources: Some(VolumeResources {
            max_size_bytes: status.virtual_size_bytes,
            cur_size_bytes: status.used_bytes,
        }),
        state: state.into(),
        progress_percentage: percent,
        volume_err: status.fault.as_ref().map(error),
        generation_count: i64::try_from(status.key.generation).unwrap_or(i64::MAX),
    }
}

fn tree(status: &ContentTreeStatus) -> ZInfoContentTree {
    let (state, percent) = match &status.phase {
        ContentPhase::Waiting => (ZSwState::Initial, 0),
        ContentPhase::Downloading {
            done_bytes,
            total_bytes,
        } => (
            ZSwState::DownloadStarted,
            percent(*done_bytes, *total_bytes),
        ),
        ContentPhase::Verifying { percent } => (ZSwState::Verifying, u32::from(*percent)),
        ContentPhase::Loaded => (ZSwState::Loaded, 100),
        ContentPhase::Failed => (ZSwState::Error, 0),
    };
    ZInfoContentTree {
        uuid: status.id.to_string(),
        display_name: status.display_name.clone(),
        sha256: status.sha256.to_string(),
        resources: Some(ContentResources {
            cur_size_bytes: status.size_bytes,
        }),
        state: state.into(),
        progress_percentage: percent,
        err: status.fault.as_ref().map(error),
        ..ZInfoContentTree::default()
    }
}

/// In steps of ten: the controller need not hear of each.
fn percent(done: u64, total: u64) -> u32 {
    let percent = u128::from(done) * 10 / u128::from(total.max(1)) * 10;
    u32::try_from(percent.min(100)).unwrap_or(100)
}
