//! What each subcommand does, and what it prints.

use lab::guest::{self, Kind};
use lab::layout::{HOSTS, ZONE};
use lab::{Fault, Side, Site, World, record};
use std::error::Error;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

type Outcome = Result<ExitCode, Box<dyn Error>>;

/// How long a world may take to go down.
const DOWN_LIMIT: Duration = Duration::from_secs(20);

const FOREGROUND_ONLY: &str = "end it     Ctrl-C";

/// `lab up`: the world lives in this process.
pub(crate) fn up(uplinks: usize, nat: &[u8], lease: u32) -> Outcome {
    let builder = World::builder().uplinks(uplinks).lease_seconds(lease);
    let world = nat
        .iter()
        .fold(builder, |builder, index| builder.nat(*index))
        .build()?;
    println!("{}", world.name());
    print_world(&world);
    wait_for_end()?;
    drop(world);
    Ok(ExitCode::SUCCESS)
}

/// `lab up --detach`: the same in a process of its own; prints what that prints.
pub(crate) fn up_detached() -> Outcome {
    let arguments = std::env::args_os()
        .skip(1)
        .filter(|word| word != "--detach");
    let mut child = Command::new(std::env::current_exe()?)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // Not the caller's: whoever waits for the end of that would wait for the world's end.
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()?;
    let pipe = child.stdout.take().ok_or("no pipe to the world's owner")?;
    let mut lines = BufReader::new(pipe).lines();
    let Some(name) = lines.next().transpose()? else {
        let said = child.wait_with_output()?.stderr;
        eprint!("{}", String::from_utf8_lossy(&said));
        return Ok(ExitCode::FAILURE);
    };
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        if line != FOREGROUND_ONLY {
            println!("{line}");
        }
    }
    println!("end it     lab down {name}");
    Ok(ExitCode::SUCCESS)
}

fn print_world(world: &World) {
    println!("world      {} in {}", world.name(), world.dir().display());
    for uplink in world.uplinks() {
        let plan = uplink.plan;
        println!(
            "uplink {}   device {} {} by DHCP from {}{}",
            plan.index,
            plan.interface(),
            plan.device_address(),
            plan.gateway(),
            if plan.nat { ", behind NAT" } else { "" }
        );
    }
    for (host, address) in HOSTS {
        println!("outside    {host}.{ZONE} {address}");
    }
    let name = world.name();
    println!("look at it lab exec --world {name} device -- ip addr");
    println!("break it   lab fault --world {name} link-down 0");
    println!("{FOREGROUND_ONLY}");
    // The last line: a detached world must not print to a pipe that nobody reads any more.
    println!();
}

/// Returns on SIGINT or SIGTERM.
fn wait_for_end() -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        Ok(())
    })
}

/// `lab list`.
pub(crate) fn list() {
    let worlds = record::worlds(&record::base());
    if worlds.is_empty() {
        println!("no world is up");
    }
    for (dir, record) in worlds {
        match record {
            Some(record) => println!(
                "{}  {}  {} uplink(s)  {}",
                record.name,
                if record.owner.alive() {
                    format!("owner {}", record.owner.pid)
                } else {
                    "owner dead".to_owned()
                },
                record.uplinks.len(),
                dir.display()
            ),
            None => println!("{}  unfinished", dir.display()),
        }
    }
}

/// `lab exec`: ends as the command ends.
pub(crate) fn exec(world: Option<&str>, side: Side, words: &[String]) -> Outcome {
    let site = Site::find(world)?;
    let (program, arguments) = words.split_first().ok_or("no command")?;
    let status = site.attach_command(side, Command::new(program).args(arguments))?;
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    Ok(ExitCode::from(
        code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1),
    ))
}

/// `lab fault`.
pub(crate) fn fault(world: Option<&str>, words: &str) -> Outcome {
    let fault: Fault = words.parse()?;
    let site = Site::find(world)?;
    site.fault(&fault)?;
    println!("{}: {fault}", site.name);
    Ok(ExitCode::SUCCESS)
}

/// `lab down`.
pub(crate) fn down(world: Option<&str>, all: bool) -> Outcome {
    if all {
        for (dir, record) in record::worlds(&record::base()) {
            if let Some(record) = record {
                end(&dir, &record)?;
            }
        }
        return collect();
    }
    let name = Site::find(world)?.name;
    let found = record::worlds(&record::base())
        .into_iter()
        .find_map(|(dir, record)| {
            record
                .filter(|record| record.name == name)
                .map(|record| (dir, record))
        });
    if let Some((dir, record)) = found {
        end(&dir, &record)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn end(dir: &Path, record: &record::Record) -> std::io::Result<()> {
    record::end(dir, record, DOWN_LIMIT)?;
    println!("{} is gone", record.name);
    Ok(())
}

/// `lab gc`.
pub(crate) fn collect() -> Outcome {
    for name in record::collect(&record::base())? {
        println!("{name} is removed, its owner was dead");
    }
    Ok(ExitCode::SUCCESS)
}

/// `lab guest`.
pub(crate) fn guest(kind: Kind, out: Option<PathBuf>) -> Outcome {
    let started = Instant::now();
    let image = guest::image(kind, &out.unwrap_or_else(guest::default_cache))?;
    println!("image      {}", image.path.display());
    println!("size       {} bytes", image.size);
    println!("sha256     {}", image.sha256);
    println!("took       {:.1} s", started.elapsed().as_secs_f64());
    Ok(ExitCode::SUCCESS)
}
