//! Names with fixed addresses: the device's `hosts` file, asked before any DNS server.

use std::collections::BTreeMap;
use std::net::IpAddr;

/// A parsed hosts file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hosts(BTreeMap<String, Vec<IpAddr>>);

impl Hosts {
    /// Parses lines `address name...`; `#` starts a comment. Lines that don't parse are
    /// skipped, as the C library does.
    pub fn parse(text: &str) -> Self {
        let mut hosts = Self::default();
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_whitespace();
            let Some(Ok(address)) = words.next().map(str::parse) else {
                continue;
            };
            for name in words {
                hosts.add(name, address);
            }
        }
        hosts
    }

    /// Adds an address of a name.
    pub fn add(&mut self, name: &str, address: IpAddr) {
        self.0.entry(normal(name)).or_default().push(address);
    }

    /// The addresses of a name; empty if it is not there.
    pub fn lookup(&self, name: &str) -> &[IpAddr] {
        self.0.get(&normal(name)).map_or(&[], Vec::as_slice)
    }
}

fn normal(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn reads_a_hosts_file() {
        let text =
            "# nothing\n10.0.0.1 evc.example EVC # the controller\nbad line\n::1 evc\n\n10.0.0.2\n";
        let hosts = Hosts::parse(text);
        let v4: IpAddr = "10.0.0.1".parse().unwrap();
        assert_eq!(hosts.lookup("Evc.Example."), [v4]);
        assert_eq!(hosts.lookup("evc"), [v4, "::1".parse().unwrap()]);
        assert!(hosts.lookup("line").is_empty());
    }
}
