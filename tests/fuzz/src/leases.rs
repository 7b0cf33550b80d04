//! Lease files of dnsmasq, and what else zedrouter keeps beside them. Guests choose their names and
//! client ids, so a line may hold anything; a lease is somebody's, and of this bridge.

use std::collections::BTreeSet;

use model::network::NetworkInstanceConfig;
use zedrouter::world::leases_in;

use crate::config::{example, message, translated};

/// Reads it as a lease file and as the last good config of an instance.
pub fn check(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let leases: Vec<_> = leases_in("bn1", &text).collect();
    assert!(leases.len() <= text.lines().count());
    // Addresses are read without white space around them, and with dashes as well as colons.
    let words: BTreeSet<String> = text
        .split([' ', '\n', '\r'])
        .map(|word| word.trim().to_lowercase().replace('-', ":"))
        .collect();
    for lease in &leases {
        assert_eq!(lease.bridge, "bn1");
        assert!(words.contains(&lease.mac.to_string()), "whose? {lease:?}");
    }
    // Line by line is the same.
    let single = text.lines().flat_map(|line| leases_in("bn1", line));
    assert!(single.eq(leases.iter().cloned()));
    if let Ok(kept) = serde_json::from_slice::<NetworkInstanceConfig>(bytes) {
        let json = serde_json::to_string(&kept).expect("a config as JSON");
        assert_eq!(
            serde_json::from_str::<NetworkInstanceConfig>(&json).ok(),
            Some(kept)
        );
    }
}

/// What dnsmasq writes.
pub fn seeds() -> Vec<Vec<u8>> {
    let text = "1800003600 02:16:3e:01:02:03 10.1.0.2 web ff:01:02\n\
                0 02:16:3e:01:02:04 10.1.0.3 * *\n\
                9223372036854775807 02:16:3e:01:02:05 10.1.0.4 a b c\n\
                duid 00:01:00:01:2a:2b:2c:2d:02:16:3e:01:02:03\n\
                1800003600 16785410 fd00::2 * 00:01\n";
    let mut seeds = vec![text.as_bytes().to_vec(), b"-1 x".to_vec()];
    let example = translated(&message(&example()));
    let kept = example.network_instances.values();
    seeds.extend(kept.map(|config| serde_json::to_vec(config).expect("a config as JSON")));
    seeds
}
