//! The downloader's binary; see the library.

use std::process::ExitCode;

use downloader::{Downloader, Shell};

fn main() -> ExitCode {
    agent::run::<Downloader, _, _, _>(Shell::open)
}
