//! Who made an object.

use std::fmt;

/// The number that the kernel keeps with an object: group of an interface, protocol of an
/// address, route or rule.
///
/// Known numbers of others: 0 nobody said, 1 to 4 the kernel and people with `ip`, 16 and 42 and
/// 186 to 192 routing and DHCP daemons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Owner(pub u8);

impl Owner {
    /// Nobody said who.
    pub const UNKNOWN: Self = Self(0);
    /// The kernel, of routes and rules.
    pub const KERNEL: Self = Self(2);
    /// The service that connects the device.
    pub const NIM: Self = Self(101);
    /// The service that connects applications.
    pub const ZEDROUTER: Self = Self(102);
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::UNKNOWN => f.write_str("nobody"),
            Self::KERNEL => f.write_str("the kernel"),
            Self::NIM => f.write_str("nim"),
            Self::ZEDROUTER => f.write_str("zedrouter"),
            Self(number) => write!(f, "number {number}"),
        }
    }
}
