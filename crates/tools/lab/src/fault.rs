//! What can go wrong in a world, on request. Every fault acts on the kernel of the world's namespaces
//! or on its processes, so that it can be caused from another process as well (`lab fault`).

use crate::process::Process;
use crate::site::{Site, SiteError};
use nix::sys::signal::Signal;
use std::fmt;
use std::net::Ipv4Addr;
use std::process::Command;
use std::str::FromStr;

/// A fault, or the end of one. Uplinks are meant by index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Pull the cable of an uplink: the device loses its carrier.
    LinkDown(u8),
    /// Plug it in again.
    LinkUp(u8),
    /// Cut an uplink's router off the outside; DHCP and DNS go on.
    WanDown(u8),
    /// Connect it again.
    WanUp(u8),
    /// Let all packets to and from an address vanish, on every uplink.
    Blackhole(Ipv4Addr),
    /// Refuse all connections to an address, on every uplink.
    Reject(Ipv4Addr),
    /// End [`Fault::Blackhole`] and [`Fault::Reject`] for an address.
    Restore(Ipv4Addr),
    /// Limit an uplink, both ways, to so many kbit/s.
    Slow(u8, u32),
    /// End [`Fault::Slow`].
    Fast(u8),
    /// End an uplink's DNS server.
    DnsDown(u8),
    /// Start it again.
    DnsUp(u8),
    /// End an uplink's DHCP server.
    DhcpDown(u8),
    /// Start it again.
    DhcpUp(u8),
    /// `kill -9` every process of the device whose program has this name.
    Kill(String),
    /// SIGSTOP such processes: they hang.
    Freeze(String),
    /// SIGCONT such processes.
    Thaw(String),
}

/// The words did not name a fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no such fault: {words:?}; faults are {FAULTS}")]
pub struct NoSuchFault {
    words: String,
}

/// The faults as words, for people.
pub const FAULTS: &str = "link-down N, link-up N, wan-down N, wan-up N, blackhole IP, reject IP, \
    restore IP, slow N KBITS, fast N, dns-down N, dns-up N, dhcp-down N, dhcp-up N, kill PROGRAM, \
    freeze PROGRAM, thaw PROGRAM";

impl FromStr for Fault {
    type Err = NoSuchFault;

    fn from_str(text: &str) -> Result<Fault, NoSuchFault> {
        let error = || NoSuchFault {
            words: text.to_owned(),
        };
        let words: Vec<&str> = text.split_whitespace().collect();
        let uplink = |word: &str| word.parse::<u8>().map_err(|_| error());
        let address = |word: &str| word.parse::<Ipv4Addr>().map_err(|_| error());
        Ok(match *words.as_slice() {
            ["link-down", n] => Fault::LinkDown(uplink(n)?),
            ["link-up", n] => Fault::LinkUp(uplink(n)?),
            ["wan-down", n] => Fault::WanDown(uplink(n)?),
            ["wan-up", n] => Fault::WanUp(uplink(n)?),
            ["blackhole", ip] => Fault::Blackhole(address(ip)?),
            ["reject", ip] => Fault::Reject(address(ip)?),
            ["restore", ip] => Fault::Restore(address(ip)?),
            ["slow", n, kbits] => Fault::Slow(uplink(n)?, kbits.parse().map_err(|_| error())?),
            ["fast", n] => Fault::Fast(uplink(n)?),
            ["dns-down", n] => Fault::DnsDown(uplink(n)?),
            ["dns-up", n] => Fault::DnsUp(uplink(n)?),
            ["dhcp-down", n] => Fault::DhcpDown(uplink(n)?),
            ["dhcp-up", n] => Fault::DhcpUp(uplink(n)?),
            ["kill", program] => Fault::Kill(program.to_owned()),
            ["freeze", program] => Fault::Freeze(program.to_owned()),
            ["thaw", program] => Fault::Thaw(program.to_owned()),
            _ => return Err(error()),
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::LinkDown(n) => write!(f, "link-down {n}"),
            Fault::LinkUp(n) => write!(f, "link-up {n}"),
            Fault::WanDown(n) => write!(f, "wan-down {n}"),
            Fault::WanUp(n) => write!(f, "wan-up {n}"),
            Fault::Blackhole(ip) => write!(f, "blackhole {ip}"),
            Fault::Reject(ip) => write!(f, "reject {ip}"),
            Fault::Restore(ip) => write!(f, "restore {ip}"),
            Fault::Slow(n, kbits) => write!(f, "slow {n} {kbits}"),
            Fault::Fast(n) => write!(f, "fast {n}"),
            Fault::DnsDown(n) => write!(f, "dns-down {n}"),
            Fault::DnsUp(n) => write!(f, "dns-up {n}"),
            Fault::DhcpDown(n) => write!(f, "dhcp-down {n}"),
            Fault::DhcpUp(n) => write!(f, "dhcp-up {n}"),
            Fault::Kill(program) => write!(f, "kill {program}"),
            Fault::Freeze(program) => write!(f, "freeze {program}"),
            Fault::Thaw(program) => write!(f, "thaw {program}"),
        }
    }
}

impl Site {
    /// Causes `fault`. Causing what is already so is no error. Gives the server that it started, if
    /// any: the world's owner must wait for it in the end.
    pub fn fault(&self, fault: &Fault) -> Result<Option<Process>, SiteError> {
        match fault {
            Fault::DnsUp(n) => return self.start_server(*n, "dns"),
            Fault::DhcpUp(n) => return self.start_server(*n, "dhcp"),
            Fault::LinkDown(n) => self.router_ip(*n, "link set lan down\n"),
            Fault::LinkUp(n) => self.router_ip(*n, "link set lan up\n"),
            Fault::WanDown(n) => self.router_ip(*n, "link set wan down\n"),
            Fault::WanUp(n) => {
                let routes = self.uplink(*n)?.plan.router_routes();
                self.router_ip(*n, &format!("link set wan up\n{routes}"))
            }
            Fault::Blackhole(ip) => self.router_rules(&format!("add element ip lab blackholed {{ {ip} }}\n")),
            Fault::Reject(ip) => self.router_rules(&format!("add element ip lab rejected {{ {ip} }}\n")),
            // Adding first makes the deletion of what isn't there succeed, in one transaction.
            Fault::Restore(ip) => self.router_rules(&format!(
                "add element ip lab blackholed {{ {ip} }}\ndelete element ip lab blackholed {{ {ip} }}\n\
                 add element ip lab rejected {{ {ip} }}\ndelete element ip lab rejected {{ {ip} }}\n"
            )),
            Fault::Slow(n, kbits) => self.limit(*n, *kbits),
            Fault::Fast(n) => self.unlimit(*n),
            Fault::DnsDown(n) => self.end_server(*n, "dns"),
            Fault::DhcpDown(n) => self.end_server(*n, "dhcp"),
            Fault::Kill(program) => self.signal_device(program, Signal::SIGKILL),
            Fault::Freeze(program) => self.signal_device(program, Signal::SIGSTOP),
            Fault::Thaw(program) => self.signal_device(program, Signal::SIGCONT),
        }?;
        Ok(None)
    }

    fn router_ip(&self, uplink: u8, batch: &str) -> Result<(), SiteError> {
        Ok(self.uplink(uplink)?.router.ip(batch)?)
    }

    fn router_rules(&self, script: &str) -> Result<(), SiteError> {
        for uplink in &self.uplinks {
            uplink
                .router
                .exec_with_input(Command::new("nft").args(["-f", "-"]), script)?;
        }
        Ok(())
    }

    fn limit(&self, uplink: u8, kbits: u32) -> Result<(), SiteError> {
        let rate = format!("{kbits}kbit");
        for link in ["lan", "wan"] {
            self.uplink(uplink)?.router.exec(
                Command::new("tc")
                    .args([
                        "qdisc", "replace", "dev", link, "root", "tbf", "rate", &rate,
                    ])
                    .args(["burst", "16kb", "latency", "400ms"]),
            )?;
        }
        Ok(())
    }

    fn unlimit(&self, uplink: u8) -> Result<(), SiteError> {
        for link in ["lan", "wan"] {
            self.uplink(uplink)?.router.exec(
                Command::new("tc").args(["qdisc", "replace", "dev", link, "root", "pfifo"]),
            )?;
        }
        Ok(())
    }

    fn signal_device(&self, program: &str, signal: Signal) -> Result<(), SiteError> {
        let found: Vec<_> = self
            .device_entrance
            .processes()
            .into_iter()
            .filter(|running| running.name == program)
            .collect();
        if found.is_empty() {
            return Err(SiteError::NoProcess(program.to_owned()));
        }
        for running in found {
            running.signal(signal);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn what_is_printed_can_be_typed() {
        let faults = [
            Fault::LinkDown(1),
            Fault::Slow(0, 256),
            Fault::Restore(Ipv4Addr::new(198, 51, 100, 10)),
            Fault::Kill("nim".into()),
        ];
        for fault in faults {
            assert_eq!(fault.to_string().parse::<Fault>().unwrap(), fault);
        }
    }

    #[test]
    fn a_wrong_word_is_answered_with_the_right_ones() {
        let error = "link-dwn 0".parse::<Fault>().unwrap_err().to_string();
        assert!(error.contains("link-dwn 0") && error.contains("link-down N"));
        assert!("blackhole here".parse::<Fault>().is_err());
        assert!("link-down".parse::<Fault>().is_err());
    }
}
