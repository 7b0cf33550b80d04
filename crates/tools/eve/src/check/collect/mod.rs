//! Looking at the device that this command runs on, or whose namespaces it can enter.
//!
//! A device of a lab runs in namespaces of its own. Its processes are found by their root; what concerns the
//! network is looked at from within the network namespace of its services, in a thread that enters it.

mod files;
mod machine;
mod reach;
mod running;

use std::{fs::File, path::PathBuf, thread};

use nix::sched::{CloneFlags, setns};

use super::{Fact, Facts, World};
use crate::{Device, process};

/// The machine.
#[derive(Debug, Clone)]
pub struct Live {
    /// Where the device's directories are.
    pub root: PathBuf,
}

impl World for Live {
    fn look(&self, device: &Device) -> Facts {
        let processes = process::below(&self.root);
        let anchor = process::anchor(&processes);
        let not_live = match anchor {
            Some(_) => None,
            None => Some("no service of this device runs here".to_owned()),
        };
        let mut facts = Facts {
            not_live: not_live.clone(),
            root: std::path::absolute(&self.root).unwrap_or_else(|_| self.root.clone()),
            ..Facts::default()
        };
        files::look(&self.root, device, &mut facts);
        // Before the first start the machine is what there is to look at; beside a copy it is another one.
        if anchor.is_some() || self.root == std::path::Path::new("/") {
            machine::look(&self.root, &mut facts);
        } else {
            machine::skip("not this machine's device", &mut facts);
        }
        if let Some(anchor) = anchor {
            running::look(device, &processes, &mut facts);
            running::look_at_sockets(&processes, &mut facts);
            let looked = thread::scope(|scope| {
                let facts = &mut facts;
                let inside = scope.spawn(move || match enter(anchor) {
                    Ok(()) => {
                        running::look_at_network(facts);
                        reach::look(&self.root, device, facts);
                    }
                    Err(why) => skip_network(&why, facts),
                });
                inside.join().is_ok()
            });
            if !looked {
                skip_network("looking at the network has failed", &mut facts);
            }
        } else {
            let why = not_live.unwrap_or_default();
            facts.sockets = Fact::Skipped(why.clone());
            skip_network(&why, &mut facts);
        }
        facts
    }
}

/// Takes this thread into the network namespace of a process.
fn enter(pid: u32) -> Result<(), String> {
    enter_namespace(pid).map_err(|why| {
        format!("the device's network namespace can't be entered (try as root): {why}")
    })
}

pub(crate) fn enter_namespace(pid: u32) -> std::io::Result<()> {
    let theirs = format!("/proc/{pid}/ns/net");
    if std::fs::read_link(&theirs)? == std::fs::read_link("/proc/thread-self/ns/net")? {
        return Ok(());
    }
    setns(File::open(theirs)?, CloneFlags::CLONE_NEWNET)?;
    Ok(())
}

fn skip_network(why: &str, facts: &mut Facts) {
    facts.interfaces = Fact::Skipped(why.to_owned());
    facts.forwarding = Fact::Skipped(why.to_owned());
    facts.no_way = Some(why.to_owned());
    facts.dns.clear();
    facts.ways.clear();
}
