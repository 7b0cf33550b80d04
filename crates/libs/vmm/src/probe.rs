//! Hardware acceleration or emulation: decided by really running a vCPU.
//!
//! `/dev/kvm` that opens, a VM that can be created and even a vCPU that executes a few
//! instructions prove nothing: there are hosts whose KVM emulates the kernel mode of a guest at a
//! millionth of its speed, so that a booting guest looks hung. A timed loop tells them apart: real
//! hardware turns it [`TURNS`] times in 1 to 2 ms, such a host in more than a second.
//!
//! ```text
//! forced by configuration ---------------------------------------------> Kvm or Tcg
//! no vmx/svm flag, or neither kvm_intel nor kvm_amd (not even opened) --> Tcg
//! loop within LIMIT ----------------------------------------------------> Kvm
//! loop not within LIMIT, once ------------------------------------------> again (a loaded machine)
//!                        twice, or any other failure -------------------> Tcg
//! ```
//!
//! The loop runs in a child process, not in a thread: a vCPU that never comes back, or a KVM that
//! blocks in the kernel, costs one process that is killed and, if need be, abandoned; the service
//! goes on. The child is the calling program itself, started with [`CHILD_ARGUMENT`]; its `main`
//! calls [`child_main`] first. A program that doesn't gets `Tcg`, never a wrong `Kvm`.
//!
//! Cost: nothing on a host without the CPU flag, else the start of a process and at most
//! 2 x (start + [`LIMIT`]). The answer holds until the next boot; callers keep it.

use std::fs::OpenOptions;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

mod child;

pub use child::{Child, child_main, run_loop};

/// First argument of the child process.
pub const CHILD_ARGUMENT: &str = "--probe-kvm-in-this-process";
/// Turns of the guest's loop.
pub const TURNS: u32 = 2_000_000;
/// Time that the loop may take, from the moment in which the child is about to run the vCPU.
pub const LIMIT: Duration = Duration::from_millis(300);

/// How guests of this device execute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Accel {
    /// By the CPU itself.
    Kvm,
    /// By translation in QEMU: 10 to 30 times slower, works everywhere.
    Tcg {
        /// Why not by the CPU.
        reason: TcgReason,
    },
}

/// Why guests are emulated.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum TcgReason {
    /// The configuration says so.
    #[error("emulation is forced by configuration")]
    Forced,
    /// No probe exists for this CPU architecture.
    #[error("no probe for CPU architecture {0}")]
    Architecture(String),
    /// The CPU, or the hypervisor around this machine, offers no virtualization.
    #[error("/proc/cpuinfo has neither vmx nor svm")]
    NoCpuFlag,
    /// The CPU could, the kernel has no driver for it.
    #[error("neither kvm_intel nor kvm_amd is loaded")]
    NoModule,
    /// A vCPU executes, but not on the hardware.
    #[error("a vCPU did not finish {turns} turns within {limit_ms} ms, twice")]
    TooSlow {
        /// Turns of the loop.
        turns: u32,
        /// Limit in milliseconds.
        limit_ms: u64,
    },
    /// No vCPU could be run.
    #[error("KVM is unusable: {0}")]
    Unusable(String),
}

/// What the configuration says about acceleration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Force {
    /// Find out.
    #[default]
    Auto,
    /// Emulate even where the hardware could.
    Tcg,
    /// Use KVM whatever the probe would say, for a host that it misjudges.
    Kvm,
}

/// What the host says about itself, without `/dev/kvm` being opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Architecture of the CPU, as Rust names it.
    pub architecture: String,
    /// `/proc/cpuinfo` lists `vmx` or `svm`.
    pub cpu_flag: bool,
    /// `/sys/module` has `kvm_intel` or `kvm_amd`.
    pub module: bool,
}

/// How one attempt to run the loop ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The guest's loop ended in time.
    InTime,
    /// The vCPU was started and did not end its loop within the limit.
    TooSlow,
    /// It was not started, or ended otherwise; in words.
    Failed(String),
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Known.
    Settled(Accel),
    /// Run the loop (again).
    Run,
}

/// The decision, from what is known so far; pure.
pub fn decide(force: Force, facts: &Facts, outcomes: &[Outcome]) -> Verdict {
    let tcg = |reason| Verdict::Settled(Accel::Tcg { reason });
    match force {
        Force::Kvm => return Verdict::Settled(Accel::Kvm),
        Force::Tcg => return tcg(TcgReason::Forced),
        Force::Auto => {}
    }
    if facts.architecture != "x86_64" {
        return tcg(TcgReason::Architecture(facts.architecture.clone()));
    }
    if !facts.cpu_flag {
        return tcg(TcgReason::NoCpuFlag);
    }
    if !facts.module {
        return tcg(TcgReason::NoModule);
    }
    match outcomes {
        [] | [Outcome::TooSlow] => Verdict::Run,
        [.., Outcome::InTime] => Verdict::Settled(Accel::Kvm),
        [.., Outcome::Failed(why)] => tcg(TcgReason::Unusable(why.clone())),
        [.., Outcome::TooSlow] => tcg(TcgReason::TooSlow {
            turns: TURNS,
            limit_ms: u64::try_from(LIMIT.as_millis()).unwrap_or(u64::MAX),
        }),
    }
}

impl Facts {
    /// Reads them below `root` (`/` on a device). What can't be read counts as absent.
    pub fn read(root: &Path) -> Self {
        let cpuinfo = std::fs::read_to_string(root.join("proc/cpuinfo")).unwrap_or_default();
        let modules = root.join("sys/module");
        Self {
            architecture: std::env::consts::ARCH.to_owned(),
            cpu_flag: has_cpu_flag(&cpuinfo),
            module: ["kvm_intel", "kvm_amd"]
                .iter()
                .any(|name| modules.join(name).exists()),
        }
    }
}

/// Whether a `/proc/cpuinfo` lists hardware virtualization.
pub fn has_cpu_flag(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(key, _)| key.trim() == "flags")
        .flat_map(|(_, flags)| flags.split_ascii_whitespace())
        .any(|flag| flag == "vmx" || flag == "svm")
}

/// Decides for this host: reads the facts below `root` and runs the loop in `child` as often as
/// [`decide`] wants.
pub async fn probe(root: &Path, force: Force, child: &Child) -> Accel {
    let facts = Facts::read(root);
    let mut outcomes = Vec::new();
    loop {
        match decide(force, &facts, &outcomes) {
            Verdict::Settled(accel) => return accel,
            Verdict::Run => outcomes.push(child.run(TURNS, LIMIT).await),
        }
    }
}

/// Whether a device file opens for reading and writing.
pub(crate) fn opens(path: &Path) -> bool {
    OpenOptions::new().read(true).write(true).open(path).is_ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use proptest::prelude::*;

    use super::*;

    fn capable() -> Facts {
        Facts {
            architecture: "x86_64".into(),
            cpu_flag: true,
            module: true,
        }
    }

    fn tcg(reason: TcgReason) -> Verdict {
        Verdict::Settled(Accel::Tcg { reason })
    }

    #[test]
    fn a_word_of_the_configuration_needs_no_vcpu() {
        let mut facts = capable();
        facts.cpu_flag = false;
        let kvm = Verdict::Settled(Accel::Kvm);
        assert_eq!(decide(Force::Kvm, &facts, &[]), kvm);
        assert_eq!(decide(Force::Tcg, &capable(), &[]), tcg(TcgReason::Forced));
    }

    #[test]
    fn without_flag_or_module_kvm_is_not_touched() {
        let mut facts = capable();
        facts.module = false;
        assert_eq!(decide(Force::Auto, &facts, &[]), tcg(TcgReason::NoModule));
        facts.cpu_flag = false;
        assert_eq!(decide(Force::Auto, &facts, &[]), tcg(TcgReason::NoCpuFlag));
        facts.architecture = "aarch64".into();
        let other = tcg(TcgReason::Architecture("aarch64".into()));
        assert_eq!(decide(Force::Auto, &facts, &[]), other);
    }

    #[test]
    fn slow_once_is_no_verdict_slow_twice_is() {
        let slow = Outcome::TooSlow;
        let auto = |outcomes: &[Outcome]| decide(Force::Auto, &capable(), outcomes);
        assert_eq!(auto(std::slice::from_ref(&slow)), Verdict::Run);
        let in_time = [slow.clone(), Outcome::InTime];
        assert_eq!(auto(&in_time), Verdict::Settled(Accel::Kvm));
        assert!(matches!(
            auto(&[slow.clone(), slow]),
            Verdict::Settled(Accel::Tcg {
                reason: TcgReason::TooSlow { limit_ms: 300, .. }
            })
        ));
    }

    #[test]
    fn flags_are_words_of_the_flags_line() {
        assert!(has_cpu_flag("model name\t: x\nflags\t\t: fpu vmx sse\n"));
        assert!(has_cpu_flag("flags : svm\n"));
        assert!(!has_cpu_flag(
            "vmx flags\t: ept vpid\nflags\t: fpu svm_lock\n"
        ));
        assert!(!has_cpu_flag("model name: a vmx machine\n"));
        assert!(!has_cpu_flag(""));
    }

    #[test]
    fn the_answer_can_be_kept() {
        let accel = Accel::Tcg {
            reason: TcgReason::NoCpuFlag,
        };
        let text = serde_json::to_string(&accel).unwrap();
        assert_eq!(serde_json::from_str::<Accel>(&text).unwrap(), accel);
    }

    proptest! {
        #[test]
        fn the_loop_runs_at_most_twice(slow in prop::collection::vec(any::<bool>(), 2..5)) {
            let outcomes: Vec<_> = slow
                .iter()
                .map(|slow| if *slow { Outcome::TooSlow } else { Outcome::InTime })
                .collect();
            prop_assert_ne!(decide(Force::Auto, &capable(), &outcomes), Verdict::Run);
        }
    }
}
