//! Named points of the loop at which a test makes the process fail.
//!
//! The lab names a directory (`supervisor --points DIR`); a service of a debug build reads its order from
//! `<DIR>/<service>`, one line: what happens, where, and for actions the kind of their subject.
//!
//! ```text
//! panic after-publish            memory before-action bridge            panic in-action *
//! ```
//!
//! Release builds have no such code. Nobody but the machine's root can give an order: the directory comes from the
//! unit's environment, which only the supervisor's command line sets, and the file counts only if it is root's and no
//! other user can write it (decision 060).

use std::{fmt, path::PathBuf};

/// Environment variable with the directory of orders.
const DIRECTORY: &str = "EVE_POINTS";
/// Where `memory` gives up: more than any service's limit.
const MEMORY: usize = 2 << 30;

/// A place in the loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point<'a> {
    /// A plan was made and nothing of it done.
    BeforePublish,
    /// The report is on the bus, no action was taken.
    AfterPublish,
    /// An action on this subject comes next.
    BeforeAction(&'a str),
    /// Within a slow action on this subject.
    InAction(&'a str),
    /// A quick action on this subject was taken, or a slow one started, and no further one.
    AfterAction(&'a str),
}

impl fmt::Display for Point<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = |subject: &str| subject.split(' ').next().unwrap_or_default().to_owned();
        match self {
            Self::BeforePublish => f.write_str("before-publish"),
            Self::AfterPublish => f.write_str("after-publish"),
            Self::BeforeAction(subject) => write!(f, "before-action {}", kind(subject)),
            Self::InAction(subject) => write!(f, "in-action {}", kind(subject)),
            Self::AfterAction(subject) => write!(f, "after-action {}", kind(subject)),
        }
    }
}

/// What is ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Panic,
    /// Take memory until the kernel has none to give.
    Memory,
}

/// Where this process looks for its order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Points {
    order: Option<PathBuf>,
}

impl Points {
    /// As the environment says, in debug builds.
    pub(crate) fn from_env(service: &str) -> Self {
        if !cfg!(debug_assertions) {
            return Self::default();
        }
        Self {
            order: std::env::var_os(DIRECTORY).map(|dir| PathBuf::from(dir).join(service)),
        }
    }

    /// Fails here if that is ordered.
    pub(crate) fn pass(&self, point: Point<'_>) {
        let Some(order) = self.order() else { return };
        match chosen(&order, point) {
            Some(What::Panic) => panic!("ordered at the point {point}"),
            Some(What::Memory) => exhaust(point),
            None => {}
        }
    }

    #[cfg(debug_assertions)]
    fn order(&self) -> Option<String> {
        use std::os::unix::fs::MetadataExt as _;
        let file = self.order.as_ref()?;
        let meta = std::fs::symlink_metadata(file).ok()?;
        let trusted = meta.is_file() && meta.uid() == 0 && meta.mode() & 0o022 == 0;
        trusted.then(|| std::fs::read_to_string(file).ok())?
    }

    #[cfg(not(debug_assertions))]
    fn order(&self) -> Option<String> {
        let Self { order: _ } = self;
        None
    }
}

/// What an order says about a point.
fn chosen(order: &str, point: Point<'_>) -> Option<What> {
    let (what, place) = order.trim().split_once(' ')?;
    let what = match what {
        "panic" => What::Panic,
        "memory" => What::Memory,
        _ => return None,
    };
    let here = point.to_string();
    let any = place
        .strip_suffix('*')
        .is_some_and(|start| here.starts_with(start));
    (place == here || any).then_some(what)
}

/// Takes and touches memory until the kernel ends the process.
fn exhaust(point: Point<'_>) {
    let mut taken: Vec<Vec<u8>> = Vec::new();
    while taken.iter().map(Vec::len).sum::<usize>() < MEMORY {
        taken.push(vec![1; 8 << 20]);
    }
    panic!("no memory limit at the point {point}");
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn an_order_names_one_point_or_all_of_a_kind() {
        let bridge = Point::BeforeAction("bridge bn1");
        assert_eq!(
            chosen("panic before-action bridge\n", bridge),
            Some(What::Panic)
        );
        assert_eq!(chosen("memory before-action *", bridge), Some(What::Memory));
        for other in [
            "panic before-action",
            "panic before-action brid",
            "panic after-action *",
            "before-action bridge",
            "exit before-action bridge",
            "",
        ] {
            assert_eq!(chosen(other, bridge), None, "{other}");
        }
        assert_eq!(
            chosen("panic after-publish", Point::AfterPublish),
            Some(What::Panic)
        );
    }

    #[test]
    fn an_order_that_another_user_could_have_written_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("nim");
        std::fs::write(&file, "panic after-publish").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).unwrap();
        let points = Points {
            order: Some(file.clone()),
        };
        points.pass(Point::AfterPublish);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        Points { order: Some(link) }.pass(Point::AfterPublish);
        Points::default().pass(Point::AfterPublish);
        let root = std::fs::metadata(&file).is_ok_and(|meta| {
            use std::os::unix::fs::MetadataExt as _;
            meta.uid() == 0
        });
        let failed = std::panic::catch_unwind(|| points.pass(Point::AfterPublish)).is_err();
        assert_eq!(failed, root, "an order counts when it is root's");
    }
}
