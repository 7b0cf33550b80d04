//! A device in memory.
//!
//! ```text
//!   story ---> Wish (what the controller wants) ---> Evc --+         Truth: what may be stopped, removed, fetched
//!     |                                                    |              |  checked at every action
//!     +--> faults, crashes, outages, time                  v              v
//!   Device: seats of services, one turn at a time <--> Machine: disk, datastore, kernel, guests, controller
//!     |        each seat: the real Runtime<Service, Guarded<World>>
//!     +--> Bus::memory
//! ```
//!
//! - **One thing at a time, chosen by the seed.** The device holds every service's runtime and gives turns to those that are
//!   due in a random order; slow actions are tasks in virtual time. Nothing else is random, so a seed is a life.
//! - **A crash** drops a runtime and what it has in flight, between any two rows that it publishes and any two actions that
//!   it takes; the bus and the machine stay. **A reboot** takes `/run`, guests and kernel objects; `/persist` stays.
//! - **Worlds hold state and check preconditions.** What must never happen (a wanted guest stopped, a wanted volume
//!   removed, a file fetched twice) is found when it happens, by [`Device`] after every turn, with the last actions.
//! - At the end of a story everything is healed, and the device must become what the last config says, tell the
//!   controller so, and be quiet.
//!
//! Where to look: `device.rs` gives turns, `machine.rs` holds what the worlds share, `worlds/` has a world per
//! service, `truth.rs` knows what was asked of the device, `judge.rs` looks at the end, `story.rs` makes up lives.

mod chance;
mod device;
mod evc;
mod guard;
mod judge;
mod machine;
mod seat;
mod story;
mod truth;
mod wish;
mod worlds;

pub use device::{Device, SERVICES};
pub use evc::{Belief, Evc, Reach};
pub use machine::{Datastore, Disk, Guests, Kernel, Machine, Qemu, State, VolumeFile};
pub use story::{live, seeds};
pub use wish::{AppNumber, AppWish, Image, Part, Wish, app_id, digest};
