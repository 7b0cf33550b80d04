//! The user's wish to end, as the demo hears it.

pub use demo::Stop;
