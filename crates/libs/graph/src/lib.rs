//! The order in which things that depend on each other are made, changed and removed.
//!
//! A service says what there should be (*intended*) and what there is (*current*), both as plain
//! values; [`diff`] answers with the steps from one to the other and with what has to wait. It
//! does no I/O and keeps no state, so a restart or a half-done plan is nothing special: the next
//! call starts from whatever is there.
//!
//! - An item should stand for one object outside (a bridge, its address, its being up are three),
//!   so that every half-made state has a name and converges.
//! - An item goes before what it needs goes, and comes after what it needs has come.
//! - A difference is changed in place where the item allows it, and then its dependents stay;
//!   otherwise the item and everything that stands on it is removed and made again.
//! - *External* items belong to somebody else. They can be needed, they are never touched.
//! - Whatever can't be made now is reported as [`Waiting`], with the reason; a cycle of needs is
//!   such a reason and never an endless loop.
//!
//! `diff.rs` decides, `components.rs` finds cycles, `dot.rs` draws.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt::{Debug, Display};

mod components;
mod diff;
mod dot;

pub use diff::diff;
pub use dot::dot;

/// One thing under management: a bridge, an address, a mount, a running helper process.
///
/// Two values with the same id are two versions of the same thing; `Eq` says whether anything has
/// to be done to get from one to the other.
pub trait Item: Clone + Eq {
    /// What names the item, unique among all items of one graph. Shown to people in DOT output.
    type Id: Ord + Clone + Debug + Display;

    /// The name of this item.
    fn id(&self) -> Self::Id;

    /// The items that must exist before this one and outlive it.
    fn needs(&self) -> Vec<Self::Id>;

    /// Whether this version can become `to` while it stays in use by its dependents. The default
    /// is that it can't: it is deleted and created again.
    fn can_change_to(&self, to: &Self) -> bool {
        let _ = to;
        false
    }

    /// Whether the item belongs to somebody else, such as a physical port. It is there (listed in
    /// `current`) or it is not; there is never a step for it.
    fn is_external(&self) -> bool {
        false
    }
}

/// Items by their id.
pub type Items<I> = BTreeMap<<I as Item>::Id, I>;

/// Collects items under their own ids; of two with the same id the later one stays.
pub fn items<I: Item>(all: impl IntoIterator<Item = I>) -> Items<I> {
    all.into_iter().map(|item| (item.id(), item)).collect()
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step<I> {
    /// Remove this item. Nothing that exists needs it at that moment.
    Delete(I),
    /// Make this item. It does not exist at that moment, and everything it needs does.
    Create(I),
    /// Turn `from` into `to` in place. Everything that `to` needs exists at that moment.
    Change {
        /// What is there.
        from: I,
        /// What should be there.
        to: I,
    },
}

impl<I: Item> Step<I> {
    /// The item as it is after the step, or was before its deletion.
    pub fn item(&self) -> &I {
        match self {
            Self::Delete(item) | Self::Create(item) | Self::Change { to: item, .. } => item,
        }
    }

    /// The id of the item that the step is about.
    pub fn id(&self) -> I::Id {
        self.item().id()
    }
}

/// Why an intended item can't be there now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle<Id> {
    /// It needs an item that is neither intended nor, as an external item, there.
    Absent(Id),
    /// It needs an external item that is there, but not as it is intended to be.
    Differs(Id),
    /// It needs an item that itself waits.
    Waits(Id),
    /// It needs itself by way of the other items listed, in order of id.
    Cycle(Vec<Id>),
    /// Something external has its name.
    Taken,
}

/// An intended item that can't be there now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting<I: Item> {
    /// The item as intended.
    pub item: I,
    /// Everything that is in its way, never empty.
    pub obstacles: Vec<Obstacle<I::Id>>,
}

/// What has to be done to get from the current to the intended items, as far as that is possible.
///
/// Iterating over it (by value) gives the steps one by one in an order that is always right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diff<I: Item> {
    /// Groups of steps. Those of one group don't depend on each other and may run at once, or in
    /// any order; a group may start when the one before it is done. Whatever can be deleted is
    /// deleted before anything else is made, so that names, ports and memory are free.
    pub levels: Vec<Vec<Step<I>>>,
    /// What is intended and has to wait.
    pub waiting: BTreeMap<I::Id, Waiting<I>>,
    /// Each cycle of needs among the intended items, by id. A mistake of whoever made the items.
    pub cycles: Vec<Vec<I::Id>>,
}

impl<I: Item> Diff<I> {
    /// All steps in order.
    pub fn steps(&self) -> impl Iterator<Item = &Step<I>> {
        self.levels.iter().flatten()
    }

    /// True if there is nothing to do (there may still be something to wait for).
    pub fn is_empty(&self) -> bool {
        self.levels.is_empty()
    }

    /// True if everything intended is there, and nothing else.
    pub fn is_settled(&self) -> bool {
        self.is_empty() && self.waiting.is_empty()
    }

    /// The first cause for which `id` waits: follows waiting needs to one that isn't just waiting
    /// for another. `None` if `id` doesn't wait.
    pub fn cause(&self, id: &I::Id) -> Option<(&Waiting<I>, &Obstacle<I::Id>)> {
        let mut waiting = self.waiting.get(id)?;
        // Never more hops than items: waiting needs form no cycle, but this must not rely on it.
        for _ in 0..=self.waiting.len() {
            let first = waiting.obstacles.first()?;
            match first {
                Obstacle::Waits(next) => waiting = self.waiting.get(next)?,
                Obstacle::Absent(_)
                | Obstacle::Differs(_)
                | Obstacle::Cycle(_)
                | Obstacle::Taken => return Some((waiting, first)),
            }
        }
        None
    }
}

impl<I: Item> IntoIterator for Diff<I> {
    type Item = Step<I>;
    type IntoIter = std::iter::Flatten<std::vec::IntoIter<Vec<Step<I>>>>;

    fn into_iter(self) -> Self::IntoIter {
        self.levels.into_iter().flatten()
    }
}
