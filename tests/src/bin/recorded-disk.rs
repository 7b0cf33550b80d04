//! A disk that records what is done to it: `recorded-disk DIRECTORY SIZE LOG`. Started by `scenarios::disk::Rig`.
#![forbid(unsafe_code)]

use std::{env, io, path::Path};

fn main() -> io::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [dir, size, log] = arguments.as_slice() else {
        return Err(io::Error::other("usage: recorded-disk DIRECTORY SIZE LOG"));
    };
    let size = size.parse().map_err(io::Error::other)?;
    scenarios::disk::serve(Path::new(dir), size, Path::new(log))
}
