//! Files of the bus, after a power cut, a broken disk or a curious person. Each object is what its file
//! says or its last good copy, whole; what can't be read is kept aside; the writer comes up and goes on,
//! with a new generation.

use std::{
    fs,
    path::{Path, PathBuf},
};

use bus::{Bus, Object, Topic};
use model::{network::AssignedAddress, topics};

use crate::input;

type Row = AssignedAddress;
const TOPIC: Topic<Row> = topics::APP_INTERFACE_TO_NUM;
const GOOD: &str = r#"{"NetworkInstance":"00000000-0000-4000-8000-0000000000e7","Ip":"10.1.0.7","Subnet":"10.1.0.0/24"}"#;

/// Takes it as a row of every topic, then as the files of one.
pub fn check(bytes: &[u8]) {
    let [name, row, last, ready, generation, key] = input::parts(bytes);
    every_topic(row);
    every_topic(bytes);
    // One good neighbour, whatever else there is.
    let root = Root::new();
    let dir = root.topic();
    fs::create_dir_all(dir.join(".last")).expect("directories");
    fs::create_dir_all(dir.join(".keys")).expect("directories");
    fs::write(dir.join("good.json"), GOOD).expect("a file");
    let put = |path: PathBuf, bytes: &[u8]| {
        // Not every name can be a file's.
        let _ = fs::write(path, bytes);
    };
    let name = String::from_utf8_lossy(name).replace(['/', '\0'], "_");
    let name = if name == "good" { "another" } else { &name };
    put(dir.join(format!("{name}.json")), row);
    put(dir.join(".last").join(format!("{name}.json")), last);
    put(dir.join(".keys").join(name), key);
    for (name, content) in [("ready", ready), (".generation", generation)] {
        if !content.is_empty() {
            put(dir.join(name), content);
        }
    }
    taken_over(&root, [row, last]);
}

struct Root(tempfile::TempDir);

impl Root {
    fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() {
            tempfile::tempdir_in(memory)
        } else {
            tempfile::tempdir()
        };
        Self(dir.expect("a directory"))
    }

    fn topic(&self) -> PathBuf {
        let status = self.0.path().join("persist/status");
        status.join(TOPIC.service()).join(TOPIC.name())
    }
}

/// What a file may be read as.
fn is_honest(row: &Row, files: &[&[u8]]) -> bool {
    let good = TOPIC.decode(GOOD.as_bytes()).expect("a row");
    *row == good
        || files
            .iter()
            .any(|json| TOPIC.decode(json).is_ok_and(|object| object == *row))
}

fn taken_over(root: &Root, files: [&[u8]; 2]) {
    let bus = Bus::open(root.0.path(), TOPIC.service()).expect("a bus");
    let tools = bus.acting_as("tool");
    let before = tools.topics().expect("a list of topics");
    let known = before.first().map_or(0, |info| info.generation);
    let seen = tools.read(&TOPIC).expect("a reader");
    for row in seen.iter().flat_map(|rows| rows.values()) {
        assert!(is_honest(row, &files), "{row:?}");
    }
    let raw = tools.read_raw(TOPIC.service(), TOPIC.name());
    assert!(before.is_empty() || raw.is_ok_and(|rows| rows.contains_key("good")));

    let mut publisher = bus.publisher(&TOPIC).expect("its writer");
    assert!(publisher.rows().contains_key("good"), "a neighbour suffers");
    for row in publisher.rows().values() {
        assert!(is_honest(row, &files), "{row:?}");
    }
    for broken in publisher.quarantined() {
        assert!(broken.restored == publisher.rows().contains_key(&broken.key));
    }
    assert_eq!(tools.read(&TOPIC).expect("a reader"), None, "not ready yet");
    let generation = publisher.set_ready().expect("a generation");
    // A number that nobody can count on from is as good as none.
    assert!(generation > known || known > u64::MAX / 2, "{generation}");
    let new = TOPIC.decode(GOOD.as_bytes()).expect("a row");
    publisher.publish("new", &new).expect("a new row");
    let rows = tools.read(&TOPIC).expect("a reader").expect("it is ready");
    assert_eq!(rows, *publisher.rows());
    let expected = publisher.rows().clone();
    drop(publisher);
    let again = bus.publisher(&TOPIC).expect("its writer");
    assert_eq!(*again.rows(), expected, "after a restart");
    assert!(again.quarantined().is_empty(), "put aside twice");
}

/// What can be read can be written and read again, as the same.
fn stable<T: Object>(topic: &Topic<T>, bytes: &[u8]) {
    let Ok(object) = topic.decode(bytes) else {
        return;
    };
    let json = serde_json::to_vec(&object).expect("an object as JSON");
    let again = topic.decode(&json);
    assert!(
        again.is_ok_and(|again| again == object),
        "{}/{} changes: {}",
        topic.service(),
        topic.name(),
        String::from_utf8_lossy(&json)
    );
}

fn every_topic(bytes: &[u8]) {
    stable(&topics::SERVICE_STATUS, bytes);
    stable(&topics::ONBOARDING_STATUS, bytes);
    stable(&topics::CONTROLLER_CERT, bytes);
    stable(&topics::CONFIG_ITEMS, bytes);
    stable(&topics::ZEDAGENT_STATUS, bytes);
    stable(&topics::DEVICE_PORT_CONFIG, bytes);
    stable(&topics::PHYSICAL_IO_ADAPTERS, bytes);
    stable(&topics::DATASTORE_CONFIG, bytes);
    stable(&topics::CIPHER_CONTEXT, bytes);
    stable(&topics::CONTENT_TREE_CONFIG, bytes);
    stable(&topics::VOLUME_CONFIG, bytes);
    stable(&topics::NETWORK_INSTANCE_CONFIG, bytes);
    stable(&topics::APP_INSTANCE_CONFIG, bytes);
    stable(&topics::DEVICE_NETWORK_STATUS, bytes);
    stable(&topics::DEVICE_PORT_CONFIG_LIST, bytes);
    stable(&topics::DHCP_LEASE, bytes);
    stable(&topics::APP_INSTANCE_STATUS, bytes);
    stable(&topics::APP_COMMAND_COUNTERS, bytes);
    stable(&topics::VOLUME_REF_CONFIG, bytes);
    stable(&topics::APP_NETWORK_CONFIG, bytes);
    stable(&topics::DOMAIN_CONFIG, bytes);
    stable(&topics::CONTENT_TREE_STATUS, bytes);
    stable(&topics::BLOB_STATUS, bytes);
    stable(&topics::VOLUME_STATUS, bytes);
    stable(&topics::VOLUME_REF_STATUS, bytes);
    stable(&topics::DOWNLOADER_CONFIG, bytes);
    stable(&topics::VERIFY_IMAGE_CONFIG, bytes);
    stable(&topics::ACCESS_STATUS, bytes);
    stable(&topics::DISK_METRIC, bytes);
    stable(&topics::DOWNLOADER_STATUS, bytes);
    stable(&topics::VERIFY_IMAGE_STATUS, bytes);
    stable(&topics::DOMAIN_STATUS, bytes);
    stable(&topics::DOMAIN_METRIC, bytes);
    stable(&topics::CAPABILITIES, bytes);
    stable(&topics::NETWORK_INSTANCE_STATUS, bytes);
    stable(&topics::APP_NETWORK_STATUS, bytes);
    stable(&topics::NETWORK_METRICS, bytes);
    stable(&topics::UUID_PAIR_TO_NUM, bytes);
    stable(&topics::APP_INTERFACE_TO_NUM, bytes);
    stable(&topics::DELIVERY_JOURNAL, bytes);
    stable(&topics::NEWLOG_METRICS, bytes);
    stable(&topics::NODE_AGENT_STATUS, bytes);
    stable(&topics::DEVICE_OP_COUNTERS, bytes);
    stable(&topics::REBOOT_RECORD, bytes);
}

/// The fixtures of older versions as rows, and directories in several states.
pub fn seeds() -> Vec<Vec<u8>> {
    let half = &GOOD.as_bytes()[..GOOD.len() / 2];
    let good = GOOD.as_bytes();
    let long = "k".repeat(300);
    let hashed = {
        use sha2::Digest as _;
        let digest = sha2::Sha256::digest(&long);
        digest.iter().fold("%%".to_owned(), |name, byte| {
            use std::fmt::Write as _;
            let mut name = name;
            let _ = write!(name, "{byte:02x}");
            name
        })
    };
    let mut seeds = vec![
        input::join(&[b"a", good, b"", b"3\n", b"3\n", b""]),
        input::join(&[b"a", half, good, b"3\n", b"3\n", b""]),
        input::join(&[b"a", b"", half, b"", b"x", b""]),
        input::join(&[b"%2E.", b"null", good, b"", b"18446744073709551614\n", b""]),
        input::join(&[hashed.as_bytes(), good, b"", b"0", b"", long.as_bytes()]),
        input::join(&[hashed.as_bytes(), good, good, b"0", b"", b"another key"]),
        input::join(&[b"%", good, b"", b"1", b"1", b""]),
    ];
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../compat");
    collect(&fixtures, &mut |json| {
        seeds.push(input::join(&[b"a", &json]));
    });
    seeds
}

fn collect(dir: &Path, each: &mut dyn FnMut(Vec<u8>)) {
    let entries = fs::read_dir(dir).expect("fixtures");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a file").path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            collect(&path, each);
        } else {
            each(fs::read(path).expect("a fixture"));
        }
    }
}
