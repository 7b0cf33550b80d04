//! What helper programs print: nft and qemu-img, in versions that nobody has seen yet. A listing that is
//! not understood is an error; one that holds a table is that table.

use nft::{Family, Listing, Name, Table};
use vmm::image::{CheckReport, ImageInfo};

/// Reads it as the output of each of them.
pub fn check(bytes: &[u8]) {
    if let Ok(listing) = Listing::parse(bytes) {
        assert_eq!(Listing::parse(bytes).ok().as_ref(), Some(&listing));
        let counted = listing.counts().count();
        assert!(counted <= bytes.len());
        let table = table();
        // Our fingerprint is in no input.
        assert!(!listing.holds(&table).expect("a table"), "it is not there");
        table.updating(&listing).expect("an update of anything");
    }
    if let Ok(info) = serde_json::from_slice::<ImageInfo>(bytes) {
        let _ = info.base;
    }
    if let Ok(report) = serde_json::from_slice::<CheckReport>(bytes) {
        let sound = report.corruptions == 0 && report.check_errors == 0;
        assert_eq!(report.is_usable(), sound);
    }
}

fn table() -> Table {
    Table::new(Family::Inet, Name::new("t_t").expect("a name"))
}

/// Their output on a device.
pub fn seeds() -> Vec<Vec<u8>> {
    let nft = r#"{"nftables": [{"metainfo": {"version": "1.0.6", "release_name": "Lester Gooch #5", "json_schema_version": 1}},
        {"table": {"family": "inet", "name": "t_t", "handle": 1}},
        {"counter": {"family": "inet", "name": "rev-1", "table": "t_t", "handle": 1, "packets": 0, "bytes": 18446744073709551615}},
        {"map": {"family": "inet", "name": "m", "table": "t_t", "type": ["iface_index", "ipv4_addr"], "handle": 3, "map": "verdict"}},
        {"set": {"family": "inet", "name": "s", "table": "t_t", "type": "ipv4_addr", "handle": 4, "flags": ["timeout"], "timeout": 60}},
        {"chain": {"family": "inet", "table": "t_t", "name": "c", "handle": 5, "type": "filter", "hook": "forward", "prio": -5, "policy": "drop"}},
        {"rule": {"family": "inet", "table": "t_t", "chain": "c", "handle": 6, "comment": "tag", "expr": [{"accept": null}]}}]}"#;
    let info = r#"{"virtual-size": 1073741824, "filename": "/x", "cluster-size": 65536, "format": "qcow2", "actual-size": 200704,
        "format-specific": {"type": "qcow2", "data": {"compat": "1.1"}}, "backing-filename": "/y", "dirty-flag": false}"#;
    let check = r#"{"image-end-offset": 262144, "total-clusters": 16384, "check-errors": 0, "corruptions": 1, "leaks": 2, "filename": "x", "format": "qcow2"}"#;
    [nft, info, check]
        .map(|text| text.as_bytes().to_vec())
        .to_vec()
}
