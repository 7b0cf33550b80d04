//! The life of a lease, by its age.
//!
//! ```text
//!  granted        T1            T2          end
//!     |-- Fresh --|-- Renewing --|- Rebinding -|- Expired
//! ```
//! Its age is counted in the time since boot: the clock of a device may jump by years.

use std::time::Duration;

use model::port::DhcpLease;

use super::LeaseNews;

/// Where in its life a lease is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stand {
    /// Nothing has to be done for so long.
    Fresh(Duration),
    /// Its server is asked for more time, for so long.
    Renewing(Duration),
    /// Any server is asked for more time, for so long.
    Rebinding(Duration),
    /// It must not be used any more.
    Expired,
}

/// Where in its life a lease is at this uptime.
pub(super) fn stand(lease: &DhcpLease, uptime: Duration) -> Stand {
    let seconds = |n: u32| Duration::from_secs(n.into());
    // Both are of the same clock; one that is from later is from another boot.
    let Some(age) = uptime.checked_sub(Duration::from_secs(lease.obtained_uptime)) else {
        return Stand::Expired;
    };
    let until = |end: u32| seconds(end).checked_sub(age).filter(|left| !left.is_zero());
    if let Some(left) = until(lease.renew_seconds) {
        Stand::Fresh(left)
    } else if let Some(left) = until(lease.rebind_seconds) {
        Stand::Renewing(left)
    } else if let Some(left) = until(lease.lease_seconds) {
        Stand::Rebinding(left)
    } else {
        Stand::Expired
    }
}

/// The lease in force: what was learned in this process, else what is remembered.
pub(super) fn in_force<'a>(
    remembered: Option<&'a DhcpLease>,
    news: Option<&'a LeaseNews>,
    uptime: Duration,
) -> Option<&'a DhcpLease> {
    let lease = match news {
        Some(LeaseNews::Granted(lease)) => Some(lease),
        Some(LeaseNews::Refused) => None,
        None => remembered,
    };
    lease.filter(|lease| stand(lease, uptime) != Stand::Expired)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use jiff::Timestamp;

    use super::*;

    fn lease() -> DhcpLease {
        DhcpLease {
            if_name: "eth0".parse().unwrap(),
            address: "10.1.0.7/24".parse().unwrap(),
            gateways: Vec::new(),
            dns_servers: Vec::new(),
            ntp_servers: Vec::new(),
            domain_name: String::new(),
            mtu: None,
            server: "10.1.0.1".parse().unwrap(),
            obtained: Timestamp::UNIX_EPOCH,
            obtained_uptime: 1000,
            lease_seconds: 120,
            renew_seconds: 60,
            rebind_seconds: 105,
        }
    }

    #[test]
    fn a_lease_ages_with_the_uptime() {
        let s = Duration::from_secs;
        let at = |age: u64| stand(&lease(), s(1000 + age));
        assert_eq!(at(0), Stand::Fresh(s(60)));
        assert_eq!(at(59), Stand::Fresh(s(1)));
        assert_eq!(at(60), Stand::Renewing(s(45)));
        assert_eq!(at(105), Stand::Rebinding(s(15)));
        assert_eq!(at(120), Stand::Expired);
        assert_eq!(stand(&lease(), s(12)), Stand::Expired, "of another boot");
    }

    #[test]
    fn what_was_just_learned_counts_more_than_what_is_remembered() {
        let (old, new) = (
            lease(),
            DhcpLease {
                lease_seconds: 900,
                ..lease()
            },
        );
        let at = Duration::from_secs(1010);
        assert_eq!(in_force(Some(&old), None, at), Some(&old));
        let granted = LeaseNews::Granted(new.clone());
        assert_eq!(in_force(Some(&old), Some(&granted), at), Some(&new));
        assert_eq!(in_force(Some(&old), Some(&LeaseNews::Refused), at), None);
        assert_eq!(in_force(Some(&old), None, Duration::from_secs(9999)), None);
    }
}
