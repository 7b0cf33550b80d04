//! Downloads from datastores onto the device's disk.
//!
//! [`download`] walks the ways to the outside in order of cost until the whole file is
//! there. What arrived is never thrown away without need: a broken download goes on where
//! it stopped, over the next port or after the next boot, as long as the file at the
//! datastore is provably the same. The digest of everything on the disk is known the
//! moment the last byte is written.
//!
//! - [`source`]: what a datastore must be able to do ([`Source`]), and which one a
//!   [`model::content::DatastoreConfig`] means ([`source_for`]); one file per protocol,
//!   so far [`http`];
//! - [`download`](mod@download): the walk, the limits, the stall detection;
//! - [`partial`]: the unfinished file and what is known about it (`.part`, `.part.json`);
//! - [`writer`]: the thread that writes and hashes;
//! - [`error`]: what went wrong, over which port.
//!
//! Memory is bounded: a few chunks are in flight, whatever the file's size. Dropping the
//! future cancels the download and leaves a part that the next call resumes. Nothing here
//! retries after the last port; the service's runtime does.
#![forbid(unsafe_code)]

pub mod download;
pub mod error;
pub mod http;
pub mod partial;
pub mod source;
pub mod writer;

pub use download::{Downloaded, Limits, Progress, download};
pub use error::{AttemptError, FetchError, Problem};
pub use http::{HttpSource, Login};
pub use source::{Opened, Resume, Source, SourceError, Validator, source_for};
