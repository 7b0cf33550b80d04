//! Which system calls and which networks each kind of unit may use. Data; `filter.rs` enforces it.
//!
//! The lists of what is allowed were made from what `strace -f` saw during the demo and the lab's
//! scenarios, completed by the calls that the C library and the runtime make on paths that did not
//! happen to be taken then. What is in no list does not exist for the unit (`ENOSYS`, so that a
//! library takes the way that it has for older kernels). What only an attacker makes ends the
//! process ([`HOSTILE`]).

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

/// What system calls a unit may make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Calls {
    /// Files, threads, sockets. It starts no program and no process.
    Plain,
    /// Also starts the programs that its row names, and none of the system's.
    Companion,
    /// Also starts programs and looks after them.
    Programs,
    /// Also signals the units that run as its own user.
    Router,
    /// No programs, but gives directories to other services' users.
    Owners,
    /// Starts programs (QEMU's self-description among them) and gives files to guests' users.
    Guests,
    /// QEMU. Its own filter (`-sandbox`) comes on top. No processes but threads.
    Emulator,
    /// dnsmasq.
    Resolver,
    /// A person's login: no filter at all, and nobody's choice (`units::login`). Not in [`Calls::ALL`], which are filters.
    Login,
    /// Everything that any of the others may: for units that root starts to bring up or test a device.
    #[default]
    Wide,
}

/// What network a unit may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// Unix sockets only, in an empty network namespace of its own.
    Nothing,
    /// Unix sockets only, in the device's network namespace: it sees which interfaces there are.
    Local,
    /// TCP sockets that listen on the ports of screens and connect to nothing. In the device's network
    /// namespace, because that is where the taps are.
    Screen,
    /// Internet sockets.
    Internet,
    /// Internet, netlink and packet sockets: it makes the network.
    #[default]
    Everything,
}

impl Calls {
    /// All that are enforced by filters, from little to much.
    pub const ALL: &'static [Calls] = &[
        Self::Plain,
        Self::Companion,
        Self::Programs,
        Self::Router,
        Self::Owners,
        Self::Guests,
        Self::Emulator,
        Self::Resolver,
        Self::Wide,
    ];

    /// The calls that it may make; `clone` is added in `filter.rs`. `legacy` are those that only x86-64 has.
    pub(crate) fn allowed(self, legacy: bool) -> BTreeSet<&'static str> {
        let lists: &[&List] = match self {
            Self::Plain => &[&PLAIN],
            Self::Companion => &[&PLAIN, &PROCESSES],
            Self::Programs | Self::Router => &[&PLAIN, &PROCESSES, &TOOLS],
            Self::Owners => &[&PLAIN, &OWNERS],
            Self::Guests => &[&PLAIN, &PROCESSES, &TOOLS, &OWNERS, &EMULATOR],
            Self::Emulator => &[&PLAIN, &TOOLS, &EMULATOR],
            Self::Resolver => &[&PLAIN, &PROCESSES, &RESOLVER],
            // Not asked for: see `filter::compile`.
            Self::Login => &[],
            Self::Wide => &[&PLAIN, &PROCESSES, &TOOLS, &OWNERS, &EMULATOR, &RESOLVER],
        };
        lists.iter().flat_map(|list| list.calls(legacy)).collect()
    }

    /// Whether it may have processes beside its own, and so programs that it starts.
    pub fn has_processes(self) -> bool {
        !matches!(self, Self::Plain | Self::Owners | Self::Emulator)
    }

    /// Whether it may start the system's programs.
    pub fn starts_programs(self) -> bool {
        self.has_processes() && self != Self::Companion
    }

    /// Whether it may signal processes outside its own sandbox (of the same user: for others the kernel
    /// asks for a capability that no unit has).
    pub fn signals_others(self) -> bool {
        matches!(self, Self::Router | Self::Login | Self::Wide)
    }
}

impl Network {
    /// All of them, from little to much.
    pub const ALL: &'static [Network] = &[
        Self::Nothing,
        Self::Local,
        Self::Screen,
        Self::Internet,
        Self::Everything,
    ];

    /// Whether it may connect to addresses at all.
    pub fn connects(self) -> bool {
        matches!(self, Self::Internet | Self::Everything)
    }

    /// The address families that it may have sockets of.
    pub(crate) fn families(self) -> &'static [u64] {
        match self {
            Self::Nothing | Self::Local => &[UNIX],
            Self::Screen | Self::Internet => &[UNIX, INET, INET6],
            Self::Everything => &[UNIX, INET, INET6, NETLINK, PACKET],
        }
    }
}

impl fmt::Display for Calls {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Plain => "plain",
            Self::Companion => "companion",
            Self::Programs => "programs",
            Self::Router => "router",
            Self::Owners => "owners",
            Self::Guests => "guests",
            Self::Emulator => "emulator",
            Self::Resolver => "resolver",
            Self::Login => "login",
            Self::Wide => "wide",
        })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Nothing => "none",
            Self::Local => "local",
            Self::Screen => "screen",
            Self::Internet => "internet",
            Self::Everything => "all",
        })
    }
}

/// Calls of all architectures, and those older ones of x86-64 that later architectures never had.
pub(crate) struct List {
    everywhere: &'static [&'static str],
    legacy: &'static [&'static str],
}

impl List {
    /// Those of an architecture.
    pub(crate) fn calls(&self, legacy: bool) -> impl Iterator<Item = &'static str> + use<> {
        let legacy = if legacy { self.legacy } else { &[] };
        self.everywhere.iter().chain(legacy).copied()
    }
}

/// Address families, the same on all architectures.
const UNIX: u64 = 1;
/// IPv4.
pub(crate) const INET: u64 = 2;
/// IPv6.
pub(crate) const INET6: u64 = 10;
const NETLINK: u64 = 16;
const PACKET: u64 = 17;

/// The TCP ports of guests' screens (VNC displays 0 to 99).
pub(crate) const SCREEN_PORTS: std::ops::RangeInclusive<u16> = 5900..=5999;

/// What only an attacker or a broken program does here: it ends the process, and the supervisor saves
/// the evidence. New namespaces by `clone` are added in `filter.rs`.
///
/// What a library may try to see whether the kernel has it (io_uring, userfaultfd, clone3, memfd_secret)
/// is not here; it is in no list, and so does not exist.
pub(crate) const HOSTILE: List = List {
    everywhere: &[
        // Other processes' memory and files.
        "ptrace",
        "process_vm_readv",
        "process_vm_writev",
        "process_madvise",
        "pidfd_getfd",
        // Another view of the file system.
        "mount",
        "umount2",
        "pivot_root",
        "chroot",
        "move_mount",
        "open_tree",
        "fsopen",
        "fsconfig",
        "fsmount",
        "fspick",
        "mount_setattr",
        "open_by_handle_at",
        "quotactl",
        "quotactl_fd",
        "fanotify_init",
        // Other namespaces.
        "unshare",
        "setns",
        // The kernel and the machine.
        "init_module",
        "finit_module",
        "delete_module",
        "kexec_load",
        "kexec_file_load",
        "bpf",
        "perf_event_open",
        "lookup_dcookie",
        "syslog",
        "reboot",
        "swapon",
        "swapoff",
        "acct",
        "vhangup",
        "sethostname",
        "setdomainname",
        "settimeofday",
        "clock_settime",
        "personality",
        // Kernel keyrings.
        "keyctl",
        "add_key",
        "request_key",
    ],
    legacy: &["iopl", "ioperm", "modify_ldt", "uselib", "_sysctl"],
};

/// What every unit needs; `clone` for threads is added in `filter.rs`.
const PLAIN: List = List {
    everywhere: &[
        // Itself.
        "brk",
        "capget",
        "execve",
        "execveat",
        "exit",
        "exit_group",
        "get_robust_list",
        "getcpu",
        "getegid",
        "geteuid",
        "getgid",
        "getgroups",
        "getpgid",
        "getpid",
        "getppid",
        "getrandom",
        "getresgid",
        "getresuid",
        "getrlimit",
        "getrusage",
        "getsid",
        "gettid",
        "getuid",
        "madvise",
        "membarrier",
        "mmap",
        "mprotect",
        "mremap",
        "msync",
        "munmap",
        "prctl",
        "prlimit64",
        "restart_syscall",
        "rseq",
        "sched_getaffinity",
        "sched_getparam",
        "sched_getscheduler",
        "sched_yield",
        "set_robust_list",
        "set_tid_address",
        "sysinfo",
        "times",
        "umask",
        "uname",
        // Signals and time.
        "clock_getres",
        "clock_gettime",
        "clock_nanosleep",
        "futex",
        "gettimeofday",
        "nanosleep",
        "rt_sigaction",
        "rt_sigpending",
        "rt_sigprocmask",
        "rt_sigreturn",
        "rt_sigsuspend",
        "rt_sigtimedwait",
        "setitimer",
        "sigaltstack",
        "tgkill",
        "timerfd_create",
        "timerfd_gettime",
        "timerfd_settime",
        "tkill",
        // Files.
        "chdir",
        "close",
        "close_range",
        "copy_file_range",
        "dup",
        "dup3",
        "faccessat",
        "faccessat2",
        "fadvise64",
        "fallocate",
        "fchdir",
        "fchmod",
        "fchmodat",
        "fchmodat2",
        "fcntl",
        "fdatasync",
        // Where a log begins (crate `logfile`).
        "fgetxattr",
        "getxattr",
        "flock",
        "fstat",
        "fstatfs",
        "fsync",
        "ftruncate",
        "getcwd",
        "getdents64",
        "ioctl",
        "linkat",
        "lseek",
        "mkdirat",
        "newfstatat",
        "openat",
        "openat2",
        "pipe2",
        "pread64",
        "preadv",
        "preadv2",
        "pwrite64",
        "pwritev",
        "pwritev2",
        "read",
        "readahead",
        "readlinkat",
        "readv",
        "renameat",
        "renameat2",
        "sendfile",
        "splice",
        "statfs",
        "statx",
        "symlinkat",
        "sync_file_range",
        "syncfs",
        "truncate",
        "unlinkat",
        "utimensat",
        "write",
        "writev",
        // Events.
        "epoll_create1",
        "epoll_ctl",
        "epoll_pwait",
        "epoll_pwait2",
        "eventfd2",
        "inotify_add_watch",
        "inotify_init1",
        "inotify_rm_watch",
        "ppoll",
        "pselect6",
        // Sockets; of which families, says `Network`.
        "accept",
        "accept4",
        "bind",
        "connect",
        "getpeername",
        "getsockname",
        "getsockopt",
        "listen",
        "recvfrom",
        "recvmmsg",
        "recvmsg",
        "sendmmsg",
        "sendmsg",
        "sendto",
        "setsockopt",
        "shutdown",
        "socket",
        "socketpair",
    ],
    legacy: &[
        "access",
        "arch_prctl",
        "chmod",
        "creat",
        "dup2",
        "epoll_create",
        "epoll_wait",
        "eventfd",
        "getdents",
        "inotify_init",
        "link",
        "lstat",
        "mkdir",
        "open",
        "pipe",
        "poll",
        "readlink",
        "rename",
        "rmdir",
        "select",
        "stat",
        "symlink",
        "time",
        "unlink",
    ],
};

/// Processes and their ends; `clone` in general is added in `filter.rs`.
const PROCESSES: List = List {
    everywhere: &[
        "kill",
        "pidfd_open",
        "pidfd_send_signal",
        "setpgid",
        "setsid",
        "wait4",
        "waitid",
    ],
    legacy: &["fork", "getpgrp", "vfork"],
};

/// What the tools of QEMU need beside [`PLAIN`]; they are started by services, too.
const TOOLS: List = List {
    everywhere: &[
        "get_mempolicy",
        "io_cancel",
        "io_destroy",
        "io_getevents",
        "io_setup",
        "io_submit",
        "set_mempolicy",
        "signalfd4",
    ],
    legacy: &[],
};

/// Giving files away.
const OWNERS: List = List {
    everywhere: &["fchown", "fchownat", "fsetxattr"],
    legacy: &["chown", "lchown"],
};

/// QEMU with guests; its own filter needs `seccomp`.
const EMULATOR: List = List {
    everywhere: &[
        "io_pgetevents",
        "kill",
        "mbind",
        "memfd_create",
        "mincore",
        "mlock",
        "mlock2",
        "munlock",
        "rt_sigqueueinfo",
        "rt_tgsigqueueinfo",
        "sched_get_priority_max",
        "sched_get_priority_min",
        "sched_setaffinity",
        "seccomp",
        "timer_create",
        "timer_delete",
        "timer_getoverrun",
        "timer_gettime",
        "timer_settime",
        "vmsplice",
    ],
    legacy: &[],
};

/// dnsmasq: it sheds rights that it does not have.
const RESOLVER: List = List {
    everywhere: &["capset", "setgid", "setgroups", "setuid"],
    legacy: &["alarm"],
};
