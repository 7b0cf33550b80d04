//! The product's main job on one machine, for real: a controller, a datastore and a device in a
//! world of network namespaces, from power-on to an application that answers.
//!
//! [`Stage`] is that set-up, for the demo as for scenario tests and benches; [`watch`] turns the
//! device's bus into what a person wants to see of it.
#![forbid(unsafe_code)]

pub mod http;
pub mod stage;
pub mod stop;
pub mod watch;

pub use stage::{Options, Stage};
pub use stop::Stop;
pub use watch::{Line, Mark, Marks, View};
