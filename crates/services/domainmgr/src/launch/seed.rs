//! What a guest is told at its first start.

use model::domain::DomainConfig;
use sha2::{Digest, Sha256};
use vmm::{
    seed::{Seed, dhcp_on_all},
    spec::Mac,
};

/// The NoCloud seed; none without user data. `user_data` is that of `config` in the clear, wherever it came from.
///
/// The identity of the instance follows the user data and the volume that the guest boots from: cloud-init
/// begins anew when the controller changes the one or a purge makes the other anew, and not after a
/// restart.
pub fn seed(config: &DomainConfig, user_data: &str) -> Option<Seed> {
    if user_data.is_empty() {
        return None;
    }
    let macs: Vec<Mac> = config.vifs.iter().map(|vif| Mac(vif.mac.0)).collect();
    Some(Seed {
        instance_id: instance_id(config, user_data),
        hostname: host_name(config),
        user_data: user_data.as_bytes().to_vec(),
        network_config: (!macs.is_empty()).then(|| dhcp_on_all(&macs)),
        vendor_data: None,
    })
}

fn instance_id(config: &DomainConfig, user_data: &str) -> String {
    let mut hash = Sha256::new();
    if let Some(disk) = config.disks.first() {
        hash.update(disk.volume.to_string());
    }
    hash.update([0]);
    hash.update(user_data);
    format!("{}-{}", config.app, hex::encode(&hash.finalize()[..8]))
}

/// The name for people as a DNS label; the UUID's beginning when nothing is left of it.
fn host_name(config: &DomainConfig) -> String {
    let mut name = String::new();
    for c in config.display_name.chars().take(63) {
        if c.is_ascii_alphanumeric() {
            name.push(c.to_ascii_lowercase());
        } else if !name.ends_with('-') {
            name.push('-');
        }
    }
    let name = name.trim_matches('-');
    if name.is_empty() {
        let uuid = config.app.to_string();
        format!("app-{}", &uuid[..8])
    } else {
        name.to_owned()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::launch::tests::config;

    #[test]
    fn a_new_instance_is_one_with_other_user_data_or_another_boot_volume() {
        let mut guest = config();
        assert_eq!(seed(&guest, ""), None);
        let script = "#!/bin/sh\n";
        let first = seed(&guest, script).unwrap();
        guest.incarnation += 1;
        guest.display_name = "other".into();
        let restarted = seed(&guest, script).unwrap();
        assert_eq!(restarted.instance_id, first.instance_id);
        guest.disks[0].volume.generation += 1;
        let purged = seed(&guest, script).unwrap();
        assert_ne!(purged.instance_id, first.instance_id);
        let other = seed(&guest, "#!/bin/sh\ntrue\n").unwrap();
        assert_ne!(other.instance_id, purged.instance_id);
        assert!(purged.to_image().is_ok());
        assert!(purged.network_config.unwrap().contains("02:16:3e:00:00:01"));
    }

    #[test]
    fn every_name_gives_a_host_name() {
        for (name, host) in [
            ("Web Shop (v2)", "web-shop-v2"),
            ("\u{fc}ber", "ber"),
            ("---", "app-00000000"),
            ("", "app-00000000"),
        ] {
            let mut guest = config();
            guest.display_name = name.into();
            let seed = seed(&guest, "x").unwrap();
            assert_eq!(seed.hostname, host);
            assert!(seed.to_image().is_ok(), "{name}");
        }
    }
}
