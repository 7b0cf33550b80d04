//! The programs themselves, run by an interpreter of the few instructions that they are made of: so both
//! architectures are tested on either.
#![allow(clippy::unwrap_used)]

use super::*;
use numbers::{aarch64, x86_64};

const X86_64: u32 = 0xc000_003e;
const AARCH64: u32 = 0xc000_00b7;
const I386: u32 = 0x4000_0003;

const ALLOW: u32 = 0x7fff_0000;
const KILL: u32 = 0x8000_0000;
const DOES_NOT_EXIST: u32 = 0x0005_0000 | ENOSYS;
const NO_FAMILY: u32 = 0x0005_0000 | EAFNOSUPPORT;

/// Numbers of the calls that the tests make, of both architectures (asm/unistd.h).
mod numbers {
    pub(super) fn x86_64(name: &str) -> u32 {
        match name {
            "read" => 0,
            "socket" => 41,
            "clone" => 56,
            "fork" => 57,
            "execve" => 59,
            "kill" => 62,
            "chown" => 92,
            "ptrace" => 101,
            "mount" => 165,
            "seccomp" => 317,
            "io_uring_setup" => 425,
            "clone3" => 435,
            _ => unreachable!(),
        }
    }

    pub(super) fn aarch64(name: &str) -> u32 {
        match name {
            "read" => 63,
            "socket" => 198,
            "clone" => 220,
            "execve" => 221,
            "kill" => 129,
            "ptrace" => 117,
            "mount" => 40,
            "seccomp" => 277,
            "io_uring_setup" => 425,
            "clone3" => 435,
            _ => unreachable!(),
        }
    }
}

/// What one program answers to one call.
fn run(program: &BpfProgram, arch: u32, number: u32, arguments: &[u64]) -> u32 {
    let mut data = Vec::from(number.to_le_bytes());
    data.extend(arch.to_le_bytes());
    data.extend(0_u64.to_le_bytes());
    for index in 0..6 {
        data.extend(arguments.get(index).copied().unwrap_or(0).to_le_bytes());
    }
    let (mut at, mut value) = (0, 0_u32);
    loop {
        let step = &program[at];
        at += 1;
        let jump = |taken: bool| usize::from(if taken { step.jt } else { step.jf });
        match step.code {
            0x20 => {
                let start = step.k as usize;
                value = u32::from_le_bytes(data[start..start + 4].try_into().unwrap());
            }
            0x54 => value &= step.k,
            0x05 => at += step.k as usize,
            0x15 => at += jump(value == step.k),
            0x25 => at += jump(value > step.k),
            0x35 => at += jump(value >= step.k),
            0x06 => return step.k,
            other => unreachable!("instruction {other:#x}"),
        }
    }
}

/// What the kernel answers: the strictest of the three.
fn answer(filters: &Compiled, arch: u32, number: u32, arguments: &[u64]) -> u32 {
    let mut answers: Vec<_> = NAMES
        .iter()
        .map(|name| run(&filters.0[*name], arch, number, arguments))
        .collect();
    // As signed numbers of their action: KILL_PROCESS is the smallest.
    answers.sort_by_key(|answer| (answer & 0xffff_0000).cast_signed());
    answers[0]
}

struct Machine {
    arch: TargetArch,
    audit: u32,
    number: fn(&str) -> u32,
}

const MACHINES: [Machine; 2] = [
    Machine {
        arch: TargetArch::x86_64,
        audit: X86_64,
        number: x86_64,
    },
    Machine {
        arch: TargetArch::aarch64,
        audit: AARCH64,
        number: aarch64,
    },
];

impl Machine {
    fn asks(&self, calls: Calls, network: Network) -> impl Fn(&str, &[u64]) -> u32 {
        let filters = compile_for(Filter { calls, network }, self.arch).unwrap();
        let (audit, number) = (self.audit, self.number);
        move |name, arguments| answer(&filters, audit, number(name), arguments)
    }
}

fn everything() -> impl Iterator<Item = (&'static Machine, Calls, Network)> {
    MACHINES.iter().flat_map(|machine| {
        Calls::ALL.iter().flat_map(move |calls| {
            Network::ALL
                .iter()
                .map(move |network| (machine, *calls, *network))
        })
    })
}

#[test]
fn every_class_runs_and_none_may_attack() {
    for (machine, calls, network) in everything() {
        let ask = machine.asks(calls, network);
        assert_eq!(ask("read", &[]), ALLOW);
        assert_eq!(ask("execve", &[]), ALLOW, "the unit's program itself");
        assert_eq!(ask("clone", &[0x003d_0f00]), ALLOW, "a thread");
        for name in ["ptrace", "mount"] {
            assert_eq!(ask(name, &[]), KILL, "{name} {calls} {network}");
        }
        for flag in NAMESPACES {
            assert_eq!(ask("clone", &[flag | 0x11]), KILL, "{flag:#x}");
            assert_eq!(ask("clone", &[flag | THREAD]), KILL, "{flag:#x}");
        }
        for name in ["clone3", "io_uring_setup"] {
            assert_eq!(ask(name, &[]), DOES_NOT_EXIST, "{name}");
        }
        assert_eq!(
            ask("seccomp", &[]) == ALLOW,
            matches!(calls, Calls::Emulator | Calls::Guests | Calls::Wide)
        );
    }
}

#[test]
fn only_those_that_start_programs_make_processes() {
    for (machine, calls, network) in everything() {
        let ask = machine.asks(calls, network);
        let expected = if calls.has_processes() {
            ALLOW
        } else {
            DOES_NOT_EXIST
        };
        // As `fork` and `posix_spawn` of the C library do it.
        for flags in [0x0120_0011, 0x4111] {
            assert_eq!(ask("clone", &[flags]), expected, "{calls}");
        }
        if machine.audit == X86_64 {
            assert_eq!(ask("fork", &[]), expected);
        }
    }
}

#[test]
fn sockets_are_of_the_networks_families() {
    const DGRAM: u64 = 2;
    let flags = 0o2_000_000 | 0o4_000;
    for (machine, calls, network) in everything() {
        let ask = machine.asks(calls, network);
        let may = |family: u64, kind: u64| {
            let answer = ask("socket", &[family, kind | flags, 0]);
            assert!([ALLOW, NO_FAMILY].contains(&answer), "{answer:#x}");
            // The kernel looks at the lower half only, and so must the filter.
            assert_eq!(ask("socket", &[family | 1 << 32, kind, 0]), answer);
            answer == ALLOW
        };
        let internet = !matches!(network, Network::Nothing | Network::Local);
        assert!(may(1, SOCK_STREAM) && may(1, DGRAM), "unix sockets");
        for family in [INET, INET6] {
            assert_eq!(may(family, SOCK_STREAM), internet);
            for kind in [DGRAM, 3] {
                assert_eq!(may(family, kind), internet && network != Network::Screen);
            }
        }
        for family in [16, 17] {
            assert_eq!(may(family, 3), network == Network::Everything);
        }
        // VSOCK, ALG (kernel crypto), XDP, Bluetooth, and one that does not exist.
        for family in [40, 38, 44, 31, 77] {
            assert!(!may(family, SOCK_STREAM), "{family}");
        }
    }
}

#[test]
fn calls_of_another_table_do_not_get_through() {
    for (machine, calls, network) in everything() {
        let filters = compile_for(Filter { calls, network }, machine.arch).unwrap();
        assert_eq!(answer(&filters, I386, 26, &[]), KILL);
        if machine.audit == X86_64 {
            // x32: the same architecture, numbers with a bit of their own.
            let x32 = 0x4000_0000;
            for number in [0, 41, 101, 165, 521] {
                assert_eq!(answer(&filters, X86_64, x32 | number, &[]), DOES_NOT_EXIST);
            }
        }
    }
}

#[test]
fn what_is_hostile_is_in_no_list() {
    for calls in Calls::ALL {
        for legacy in [true, false] {
            let allowed = calls.allowed(legacy);
            for name in HOSTILE.calls(true) {
                assert!(!allowed.contains(name), "{calls} allows {name}");
            }
            assert!(Calls::Plain.allowed(legacy).is_subset(&allowed));
            assert!(allowed.is_subset(&Calls::Wide.allowed(legacy)));
        }
    }
    let owners: Vec<_> = Calls::ALL
        .iter()
        .filter(|calls| calls.allowed(true).contains("chown"))
        .collect();
    assert_eq!(owners, [&Calls::Owners, &Calls::Guests, &Calls::Wide]);
}

#[test]
fn a_login_has_no_filter_and_is_no_class_of_services() {
    let filter = Filter {
        calls: Calls::Login,
        network: Network::Everything,
    };
    assert!(compile(filter).unwrap().0.is_empty());
    assert!(!Calls::ALL.contains(&Calls::Login));
    assert!(
        crate::table::SERVICES
            .iter()
            .all(|service| service.calls != Calls::Login)
    );
}

#[test]
fn the_programs_fit_into_the_kernel() {
    for (machine, calls, network) in everything() {
        let filters = compile_for(Filter { calls, network }, machine.arch).unwrap();
        for name in NAMES {
            assert!(filters.0[name].len() < 2048, "{name}");
        }
    }
    assert!(compile_for(Filter::default(), TargetArch::riscv64).is_err());
}
