//! A program that tries what it is told to and says what came of it. Installed as a service's binary by
//! `tests/processes/inside.rs`, it shows from inside what the service's row allows.
//!
//! It reads its orders from `<root>/etc/probe/<its name>`, one a line, waits for the file, obeys, and stays.
//! Each line of its output is an order, a colon and `yes`, or `no` with the kernel's error. An order
//! whose call ends the process has no answer.
//!
//! The raw calls are what an attacker makes who is not bound by any library.
#![allow(unsafe_code, clippy::unwrap_used, clippy::expect_used)]

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

fn main() {
    let mut arguments = std::env::args();
    let program = arguments.next().unwrap_or_default();
    let root = PathBuf::from(arguments.nth(1).expect("--root DIR"));
    let name = Path::new(&program).file_name().expect("a name");
    let orders = root.join("etc/probe").join(name);
    let text = loop {
        match fs::read_to_string(&orders) {
            Ok(text) => break text,
            Err(_) => pause(20),
        }
    };
    for order in text.lines() {
        // Said first: the call may be the last.
        print!("{order}: ");
        let _ = io::stdout().flush();
        match obey(order) {
            Ok(()) => println!("yes"),
            Err(error) => println!("no, {error}"),
        }
    }
    println!("done");
    loop {
        pause(1000);
    }
}

fn pause(milliseconds: u64) {
    std::thread::sleep(Duration::from_millis(milliseconds));
}

fn obey(order: &str) -> io::Result<()> {
    let words: Vec<_> = order.split(' ').collect();
    match words[..] {
        ["read", path] => fs::read(path).map(drop),
        ["list", path] => fs::read_dir(path).map(drop),
        ["open", path] => OpenOptions::new().write(true).open(path).map(drop),
        ["make", path] => {
            let made = OpenOptions::new().write(true).create_new(true).open(path);
            made.and_then(|mut file| file.write_all(b"{}"))
        }
        ["move", from, to] => fs::rename(from, to),
        ["remove", path] => fs::remove_file(path),
        ["run", program] => Command::new(program).status().map(drop),
        ["thread"] => std::thread::Builder::new()
            .spawn(|| ())
            .map(|thread| drop(thread.join())),
        ["tcp", address] => {
            let address = address.parse().map_err(io::Error::other)?;
            TcpStream::connect_timeout(&address, Duration::from_secs(3)).map(drop)
        }
        ["listen", address] => TcpListener::bind(address).map(drop),
        ["udp", address] => {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.send_to(b"x", address).map(drop)
        }
        ["socket", family, kind] => {
            let (family, kind) = (number(family), number(kind));
            // SAFETY: takes numbers, gives a descriptor that nobody uses.
            checked(unsafe { libc::socket(family, kind, 0) }.into())
        }
        ["interfaces", count] => {
            let text = fs::read_to_string("/proc/self/net/dev")?;
            let found = text.lines().count().saturating_sub(2);
            if found == usize::try_from(number(count)).unwrap_or_default() {
                Ok(())
            } else {
                Err(io::Error::other(format!("there are {found}")))
            }
        }
        ["signal", "user", first, last] => signal(number(first)..=number(last)),
        ["memory", "user", first, last] => memory(number(first)..=number(last)),
        ["call", name] => call(name),
        _ => Err(io::Error::other("no such order")),
    }
}

fn number(text: &str) -> i32 {
    text.parse().expect("a number")
}

fn checked(answer: i64) -> io::Result<()> {
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// A process of one of these users that is not this one.
fn process_of(users: &std::ops::RangeInclusive<i32>) -> io::Result<i32> {
    for _ in 0..500 {
        for entry in fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry
                .file_name()
                .to_str()
                .and_then(|text| text.parse().ok())
            else {
                continue;
            };
            let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
            let user = status.lines().find_map(|line| line.strip_prefix("Uid:"));
            let user = user.and_then(|line| line.split_whitespace().next());
            let is_one = user.is_some_and(|user| users.contains(&number(user)));
            if is_one && pid != i32::try_from(std::process::id()).unwrap_or_default() {
                return Ok(pid);
            }
        }
        pause(20);
    }
    Err(io::Error::other("there is no such process"))
}

fn signal(users: std::ops::RangeInclusive<i32>) -> io::Result<()> {
    let pid = process_of(&users)?;
    // SAFETY: takes numbers. `tgkill` exists for every unit, `kill` only for some.
    checked(unsafe { libc::syscall(libc::SYS_tgkill, pid, pid, libc::SIGKILL) })
}

fn memory(users: std::ops::RangeInclusive<i32>) -> io::Result<()> {
    fs::read(format!("/proc/{}/mem", process_of(&users)?)).map(drop)
}

/// A raw system call, with arguments that would do no harm if it were let through.
fn call(name: &str) -> io::Result<()> {
    let nowhere = c"/nonexistent".as_ptr();
    let null = std::ptr::null::<libc::c_void>();
    let parent = std::os::unix::process::parent_id();
    // SAFETY: the pointers are null or to a string that lasts; where the kernel writes through one, it
    // finds null and says so.
    checked(unsafe {
        match name {
            "ptrace" => libc::syscall(libc::SYS_ptrace, libc::PTRACE_ATTACH, parent, null, null),
            "process_vm_readv" => {
                libc::syscall(libc::SYS_process_vm_readv, parent, null, 0, null, 0, 0)
            }
            "mount" => libc::syscall(libc::SYS_mount, nowhere, nowhere, null, 0, null),
            "umount2" => libc::syscall(libc::SYS_umount2, nowhere, 0),
            "chroot" => libc::syscall(libc::SYS_chroot, nowhere),
            "init_module" => libc::syscall(libc::SYS_init_module, null, 0, null),
            "kexec_load" => libc::syscall(libc::SYS_kexec_load, 0, 0, null, 0),
            "bpf" => libc::syscall(libc::SYS_bpf, 0, null, 0),
            "perf_event_open" => libc::syscall(libc::SYS_perf_event_open, null, 0, 0, -1, 0),
            "keyctl" => libc::syscall(libc::SYS_keyctl, 0, 0, 0, 0, 0),
            "unshare" => libc::syscall(libc::SYS_unshare, libc::CLONE_NEWUSER),
            "setns" => libc::syscall(libc::SYS_setns, -1, 0),
            "clone-newuser" => {
                let flags = libc::CLONE_NEWUSER | libc::CLONE_THREAD;
                libc::syscall(libc::SYS_clone, flags, null, null, null, null)
            }
            "reboot" => libc::syscall(libc::SYS_reboot, 0, 0, 0, null),
            "fork" => {
                let child = libc::fork();
                if child == 0 {
                    libc::_exit(0);
                }
                child.into()
            }
            "io_uring_setup" => libc::syscall(libc::SYS_io_uring_setup, 1, null),
            "userfaultfd" => libc::syscall(libc::SYS_userfaultfd, 1),
            "clone3" => libc::syscall(libc::SYS_clone3, null, 0),
            "seccomp" => libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, null),
            _ => return Err(io::Error::other("no such call")),
        }
    })
}
