//! Devices in every state, and their directories.

mod disk;
mod healthy;
mod rows;
mod spoil;

pub(crate) use disk::*;
pub(crate) use healthy::*;
pub(crate) use rows::*;
pub(crate) use spoil::*;
