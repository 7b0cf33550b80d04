//! Which files have to go.
//!
//! First those that the controller has anyway, then the oldest of the others. Room is made for some time at once: a
//! fiftieth of the quota, so that not every new file has to remove another one.

use crate::{
    index::Index,
    name::{FileName, Queue},
};

/// Files that the controller refused are kept for whoever finds out why; not more than these.
pub const FAILED_KEPT: usize = 1000;
/// So much a round of collecting may add before room is made again.
pub const ROUND: u64 = 1024 * 1024;

/// Bytes that log files may have: the property's megabytes, at most a tenth of the disk.
pub fn quota(megabytes: u64, disk: u64) -> u64 {
    (megabytes * 1_000_000).min(disk / 10)
}

/// Above this room is made. A small quota must not be made of reserve alone.
fn trigger(quota: u64) -> u64 {
    quota - ROUND.min(quota / 10)
}

/// The files to remove now. What is being sent stays.
pub fn victims(index: &Index, quota: u64, sending: Option<FileName>) -> Vec<(Queue, FileName)> {
    let surplus = index.count(Queue::Failed).saturating_sub(FAILED_KEPT);
    let failed = index.files(Queue::Failed);
    let mut victims: Vec<_> = failed.take(surplus).collect();
    let refused: u64 = victims.iter().map(|(_, bytes)| bytes).sum();
    let mut gone: Vec<_> = victims
        .drain(..)
        .map(|(name, _)| (Queue::Failed, name))
        .collect();
    let mut bytes = index.bytes() - refused;
    let trigger = trigger(quota);
    if bytes <= trigger {
        return gone;
    }
    let aim = trigger - quota / 50;
    let sent = index
        .files(Queue::Sent)
        .map(|(name, bytes)| (Queue::Sent, name, bytes));
    let mut others: Vec<_> = [Queue::Device, Queue::App, Queue::Failed]
        .into_iter()
        .flat_map(|queue| {
            let skip = if queue == Queue::Failed { surplus } else { 0 };
            let files = index.files(queue).skip(skip);
            files.map(move |(name, bytes)| (queue, name, bytes))
        })
        .filter(|(_, name, _)| Some(*name) != sending)
        .collect();
    others.sort_by_key(|(_, name, _)| *name);
    for (queue, name, size) in sent.chain(others) {
        if bytes <= aim {
            break;
        }
        bytes -= size;
        gone.push((queue, name));
    }
    gone
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::name::Stream;

    fn name(ms: u64) -> FileName {
        FileName {
            ms,
            stream: Stream::Device,
        }
    }

    #[test]
    fn the_quota_is_a_tenth_of_the_disk_at_most() {
        assert_eq!(quota(2048, 1_000_000_000_000), 2_048_000_000);
        assert_eq!(quota(2048, 1_000_000_000), 100_000_000);
    }

    proptest! {
        #[test]
        fn the_sent_go_first_then_the_oldest_and_not_more_than_needed(
            files in prop::collection::vec((0_usize..4, 1_u64..60_000), 1..600),
            megabytes in 1_u64..20,
        ) {
            let mut index = Index::default();
            for (ms, (queue, bytes)) in files.iter().enumerate() {
                index.add(Queue::ALL[*queue], name(ms as u64), *bytes);
            }
            let quota = megabytes * 1_000_000;
            let sending = index.oldest(Queue::Device);
            let gone = victims(&index, quota, sending);
            prop_assert!(gone.iter().all(|(_, name)| Some(*name) != sending));
            let mut left = index.clone();
            for (queue, name) in &gone {
                left.remove(*queue, *name);
            }
            prop_assert!(left.bytes() <= quota);
            if let Some((queue, name)) = gone.last() {
                prop_assert!(index.bytes() > trigger(quota));
                if *queue != Queue::Sent {
                    prop_assert_eq!(left.count(Queue::Sent), 0);
                    let older = [Queue::Device, Queue::App, Queue::Failed].into_iter()
                        .flat_map(|q| left.files(q)).filter(|(n, _)| n < name && Some(*n) != sending).count();
                    prop_assert_eq!(older, 0);
                }
                let size = index.files(*queue).find(|(n, _)| n == name).unwrap().1;
                prop_assert!(left.bytes() + size > trigger(quota) - quota / 50);
            }
            prop_assert!(victims(&left, quota, sending).is_empty());
        }
    }

    #[test]
    fn refused_files_are_bounded() {
        let mut index = Index::default();
        for ms in 0..1003 {
            index.add(Queue::Failed, name(ms), 10);
        }
        let expected: Vec<_> = (0..3).map(|ms| (Queue::Failed, name(ms))).collect();
        assert_eq!(victims(&index, 10_000_000, None), expected);
    }
}
