//! Writes the seeds of a target into a directory, for its fuzzer: `corpus <target> <directory>`.

use std::{fs, path::Path, process::ExitCode};

use fuzz::{TARGETS, Target};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [] => {
            for target in TARGETS {
                println!("{}\t{}", target.name, target.what);
            }
            ExitCode::SUCCESS
        }
        [name, dir] => match Target::named(name).map(|target| write(target, Path::new(dir))) {
            Some(Ok(())) => ExitCode::SUCCESS,
            Some(Err(error)) => {
                eprintln!("{dir}: {error}");
                ExitCode::FAILURE
            }
            None => {
                eprintln!("there is no target {name}");
                ExitCode::FAILURE
            }
        },
        _ => {
            eprintln!("corpus [<target> <directory>]");
            ExitCode::FAILURE
        }
    }
}

fn write(target: &Target, dir: &Path) -> std::io::Result<()> {
    fs::create_dir_all(dir)?;
    for (at, seed) in (target.seeds)().iter().enumerate() {
        fs::write(dir.join(format!("seed-{at:03}")), seed)?;
    }
    Ok(())
}
