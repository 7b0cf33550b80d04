//! Network instances in the real kernel: each test in namespaces of its own, guests and the outside
//! in others, real dnsmasq and DHCP clients. Needs root, `nft`, `conntrack`, `dnsmasq`, `busybox`,
//! `ping` and `setpriv`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    unreachable_pub
)]

mod local;
mod privileges;
mod site;
mod stay;
mod switch;
mod units;
#[path = "../wishes/mod.rs"]
mod wishes;
