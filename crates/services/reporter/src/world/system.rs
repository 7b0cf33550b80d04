//! What the kernel says of the machine: `/proc` and `uname`.

use std::{fs, thread::available_parallelism};

use model::network::InterfaceMetric;

use crate::messages::System;

/// What does not change while the device is up.
pub(super) fn constants() -> System {
    System {
        machine: nix::sys::utsname::uname()
            .map(|u| u.machine().to_string_lossy().into_owned())
            .unwrap_or_default(),
        cpus: available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1)),
        memory_kib: memory("MemTotal:"),
        ..System::default()
    }
}

/// All of it.
pub(super) fn measure() -> System {
    System {
        available_kib: memory("MemAvailable:"),
        busy_ns: busy_ns(&fs::read_to_string("/proc/stat").unwrap_or_default()),
        interfaces: interfaces(&fs::read_to_string("/proc/net/dev").unwrap_or_default()),
        ..constants()
    }
}

fn memory(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|kib| kib.parse().ok())
        .unwrap_or(0)
}

/// proc(5): user, nice, system, idle, iowait, irq, softirq, steal in hundredths of a second.
fn busy_ns(stat: &str) -> u64 {
    let Some(line) = stat.lines().find(|l| l.starts_with("cpu ")) else {
        return 0;
    };
    let ticks: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .filter_map(|t| t.parse().ok())
        .collect();
    let busy: u64 = ticks
        .iter()
        .enumerate()
        .filter(|(i, _)| ![3, 4].contains(i) && *i < 8)
        .map(|(_, t)| t)
        .sum();
    busy * 10_000_000
}

fn interfaces(text: &str) -> Vec<InterfaceMetric> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| name.trim() != "lo")
        .filter_map(|(name, rest)| {
            let n: Vec<u64> = rest
                .split_whitespace()
                .filter_map(|v| v.parse().ok())
                .collect();
            let &[
                rx_bytes,
                rx_packets,
                _,
                rx_drops,
                _,
                _,
                _,
                _,
                tx_bytes,
                tx_packets,
                _,
                tx_drops,
                ..,
            ] = n.as_slice()
            else {
                return None;
            };
            let name = name.trim().to_owned();
            Some(InterfaceMetric {
                name,
                rx_bytes,
                rx_packets,
                rx_drops,
                tx_bytes,
                tx_packets,
                tx_drops,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        let dev = "Inter-|   Receive\n face |bytes\n  eth0: 100 2 0 1 0 0 0 0 300 4 0 5 0 0 0 0\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n";
        let [eth0] = interfaces(dev)
            .try_into()
            .unwrap_or_else(|v| panic!("{v:?}"));
        assert_eq!(
            (eth0.rx_bytes, eth0.rx_drops, eth0.tx_packets, eth0.tx_drops),
            (100, 1, 4, 5)
        );
        assert_eq!(
            busy_ns("cpu  1 2 3 100 50 6 7 8 9 10\ncpu0 1\n"),
            270_000_000
        );
        assert!(interfaces("garbage: 1 2\n").is_empty());
    }
}
