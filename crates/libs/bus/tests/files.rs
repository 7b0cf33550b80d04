//! What only the file store can be asked: directories that come and go, damaged files, lost events, modes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod world;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use bus::{Bus, Rows};
use serde_json::json;
use world::{KEPT_PORTS, PORTS, World, port, stays, table, until, until_is};

fn topic_dir(root: &Path) -> PathBuf {
    root.join("run/nim/PortStatus")
}

fn kept_dir(root: &Path) -> PathBuf {
    root.join("persist/status/nim/PortList")
}

#[tokio::test]
async fn files_are_where_people_look_for_them() {
    let world = World::files();
    let mut publisher = world.acting_as("nim").publisher(&PORTS).unwrap();
    publisher.publish("eth0", &port("eth0", 7)).unwrap();
    publisher.set_ready().unwrap();
    let dir = topic_dir(world.root());
    assert_eq!(
        fs::read_to_string(dir.join("eth0.json")).unwrap(),
        r#"{"Name":"eth0","Counter":7}"#
    );
    assert_eq!(fs::read_to_string(dir.join("ready")).unwrap(), "1\n");
    let mut kept = world.acting_as("nim").publisher(&KEPT_PORTS).unwrap();
    kept.publish("eth0", &port("eth0", 7)).unwrap();
    assert!(kept_dir(world.root()).join("eth0.json").exists());
}

#[tokio::test]
async fn readers_create_nothing() {
    let world = World::files();
    let reader = world.acting_as("zedagent");
    let subscription = reader.subscribe(&PORTS).unwrap();
    assert_eq!(
        (subscription.rows(), reader.read(&KEPT_PORTS).unwrap()),
        (None, None)
    );
    assert_eq!(fs::read_dir(world.root()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_root_that_comes_later_is_seen() {
    let above = tempfile::tempdir().unwrap();
    let root = above.path().join("device/root");
    let mut subscription = Bus::open(&root, "zedagent")
        .unwrap()
        .subscribe(&PORTS)
        .unwrap();
    assert_eq!(subscription.rows(), None);
    let mut publisher = Bus::open(&root, "nim").unwrap().publisher(&PORTS).unwrap();
    publisher.publish("a", &port("a", 1)).unwrap();
    publisher.set_ready().unwrap();
    until_is(&mut subscription, &table([("a", port("a", 1))])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_publisher_is_seen_at_once() {
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let world = World::files();
        let mut subscription = world.acting_as("zedagent").subscribe(&PORTS).unwrap();
        assert!(stays(&mut subscription).await);
        let started = Instant::now();
        let seen = tokio::spawn(async move {
            until(&mut subscription, |rows| rows.len() == 1).await;
            started.elapsed()
        });
        let mut publisher = world.acting_as("nim").publisher(&PORTS).unwrap();
        publisher.publish("a", &port("a", 1)).unwrap();
        publisher.set_ready().unwrap();
        best = best.min(seen.await.unwrap());
    }
    // Five milliseconds are the aim; a loaded machine gets some grace, polling would not pass.
    assert!(best < Duration::from_millis(20), "{best:?}");
}

#[tokio::test]
async fn removed_and_replaced_directories_are_followed() {
    let world = World::files();
    let dir = topic_dir(world.root());
    let first = table([("a", port("a", 1)), ("b", port("b", 1))]);
    let mut publisher = world.acting_as("nim").publisher(&PORTS).unwrap();
    publisher.replace(&first).unwrap();
    publisher.set_ready().unwrap();
    let mut subscription = world.acting_as("zedagent").subscribe(&PORTS).unwrap();
    until_is(&mut subscription, &first).await;
    for (counter, level) in (2..).zip([0, 0, 1, 2, 2, 1, 0, 3, 0]) {
        // The topic's directory, the service's, all of run, or the root itself; removed or moved away.
        let victim = dir.ancestors().nth(level).unwrap();
        if counter % 2 == 0 || level == 3 {
            fs::remove_dir_all(victim).unwrap();
        } else {
            let away = victim.with_extension(format!("old{counter}"));
            fs::rename(victim, &away).unwrap();
            // What happens in the old directory is of no interest any more.
            fs::write(away.join("a.json"), "{").unwrap();
        }
        assert_eq!(
            subscription.rows().unwrap().len(),
            2,
            "what is gone is not empty"
        );
        let rows = table([("a", port("a", counter)), ("c", port("c", counter))]);
        publisher.replace(&rows).unwrap();
        until(&mut subscription, |seen| {
            seen.get("a") == rows.get("a") && seen.get("c") == rows.get("c")
        })
        .await;
        assert_eq!(subscription.rows().unwrap().len(), 2, "level {level}");
        assert!(subscription.unreadable().is_empty());
    }
}

#[tokio::test]
async fn a_directory_that_was_replaced_by_hand_is_read() {
    let world = World::files();
    let dir = topic_dir(world.root());
    let mut publisher = world.acting_as("nim").publisher(&PORTS).unwrap();
    publisher.publish("a", &port("a", 1)).unwrap();
    publisher.set_ready().unwrap();
    let mut subscription = world.acting_as("zedagent").subscribe(&PORTS).unwrap();
    until_is(&mut subscription, &table([("a", port("a", 1))])).await;
    // A complete directory takes the place of the old one in two renames.
    let new = dir.with_extension("new");
    fs::create_dir(&new).unwrap();
    fs::write(
        new.join("z.json"),
        json!({"Name": "z", "Counter": 9}).to_string(),
    )
    .unwrap();
    fs::write(new.join("ready"), "1\n").unwrap();
    fs::rename(&dir, dir.with_extension("old")).unwrap();
    fs::rename(&new, &dir).unwrap();
    until_is(&mut subscription, &table([("z", port("z", 9))])).await;
    // The writer finds out with its next change, and makes the table its own again.
    publisher.publish("b", &port("b", 2)).unwrap();
    until_is(
        &mut subscription,
        &table([("a", port("a", 1)), ("b", port("b", 2))]),
    )
    .await;
    assert!(!dir.join("z.json").exists());
}

#[tokio::test]
async fn files_written_in_place_count_when_they_are_complete() {
    let world = World::files();
    let mut publisher = world.acting_as("nim").publisher(&PORTS).unwrap();
    publisher.set_ready().unwrap();
    let mut subscription = world.acting_as("zedagent").subscribe(&PORTS).unwrap();
    until_is(&mut subscription, &Rows::new()).await;
    let file = topic_dir(world.root()).join("a.json");
    for counter in 1..50 {
        fs::write(&file, json!({"Name": "a", "Counter": counter}).to_string()).unwrap();
        until_is(&mut subscription, &table([("a", port("a", counter))])).await;
    }
    // Neither other files nor links nor directories are rows.
    fs::write(topic_dir(world.root()).join("note.txt"), "x").unwrap();
    fs::create_dir(topic_dir(world.root()).join("dir.json")).unwrap();
    assert!(stays(&mut subscription).await);
    assert_eq!(
        world
            .acting_as("nim")
            .publisher(&PORTS)
            .unwrap()
            .rows()
            .len(),
        1
    );
}

#[tokio::test]
async fn damaged_persistent_files_are_quarantined_and_the_last_good_copy_is_used() {
    let damages: [fn(&Path); 4] = [
        |file| fs::write(file, "").unwrap(),
        |file| {
            let json = fs::read(file).unwrap();
            fs::write(file, &json[..json.len() / 2]).unwrap();
        },
        |file| fs::write(file, [0xff; 100]).unwrap(),
        |file| fs::write(file, "[]").unwrap(),
    ];
    for damage in damages {
        let world = World::files();
        let dir = kept_dir(world.root());
        let mut publisher = world.acting_as("nim").publisher(&KEPT_PORTS).unwrap();
        publisher
            .replace(&table([
                ("once", port("once", 1)),
                ("twice", port("twice", 1)),
            ]))
            .unwrap();
        publisher.publish("twice", &port("twice", 2)).unwrap();
        publisher.publish("fine", &port("fine", 1)).unwrap();
        publisher.set_ready().unwrap();
        let mut subscription = world.acting_as("zedagent").subscribe(&KEPT_PORTS).unwrap();
        let all = until(&mut subscription, |rows| rows.len() == 3).await;
        drop(publisher);
        damage(&dir.join("once.json"));
        damage(&dir.join("twice.json"));
        // A reader that has seen them keeps what it has; one that has not takes the copy.
        while subscription.unreadable().len() < 2 {
            assert_eq!(subscription.rows().unwrap(), all);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let late = world
            .acting_as("zedagent")
            .read(&KEPT_PORTS)
            .unwrap()
            .unwrap();
        assert_eq!(
            late,
            table([("fine", port("fine", 1)), ("twice", port("twice", 1))])
        );
        assert!(!dir.join(".quarantine").exists());

        let publisher = world.acting_as("nim").publisher(&KEPT_PORTS).unwrap();
        assert_eq!(publisher.rows(), &late);
        let seen: Vec<_> = publisher
            .quarantined()
            .iter()
            .map(|q| (&*q.key, q.restored))
            .collect();
        assert_eq!(seen.len(), 2);
        assert!(seen.contains(&("once", false)) && seen.contains(&("twice", true)));
        assert!(
            dir.join(".quarantine/once.json").exists()
                && dir.join(".quarantine/twice.json").exists()
        );
        assert!(!dir.join("once.json").exists() && dir.join("twice.json").exists());
        drop(publisher);
        assert_eq!(
            world
                .acting_as("nim")
                .publisher(&KEPT_PORTS)
                .unwrap()
                .quarantined(),
            []
        );
    }
}

#[tokio::test]
async fn a_copy_of_a_deleted_object_never_comes_back() {
    let world = World::files();
    let dir = kept_dir(world.root());
    let mut publisher = world.acting_as("nim").publisher(&KEPT_PORTS).unwrap();
    publisher.publish("a", &port("a", 1)).unwrap();
    publisher.publish("a", &port("a", 2)).unwrap();
    // As if the power had failed after the first step of a removal.
    fs::remove_file(dir.join("a.json")).unwrap();
    drop(publisher);
    let mut publisher = world.acting_as("nim").publisher(&KEPT_PORTS).unwrap();
    assert!(publisher.rows().is_empty());
    publisher.publish("a", &port("a", 9)).unwrap();
    drop(publisher);
    fs::write(dir.join("a.json"), "").unwrap();
    assert!(
        world
            .acting_as("nim")
            .publisher(&KEPT_PORTS)
            .unwrap()
            .rows()
            .is_empty()
    );
}

#[tokio::test]
async fn a_long_key_without_its_key_file_is_quarantined() {
    let world = World::files();
    let mut publisher = world.acting_as("nim").publisher(&PORTS).unwrap();
    publisher
        .publish(&"long".repeat(100), &port("a", 1))
        .unwrap();
    publisher.publish("b", &port("b", 1)).unwrap();
    publisher.set_ready().unwrap();
    fs::remove_dir_all(topic_dir(world.root()).join(".keys")).unwrap();
    let rows = world.acting_as("zedagent").read(&PORTS).unwrap().unwrap();
    assert_eq!(rows, table([("b", port("b", 1))]));
    drop(publisher);
    let publisher = world.acting_as("nim").publisher(&PORTS).unwrap();
    assert_eq!(
        (publisher.rows().len(), publisher.quarantined().len()),
        (1, 1)
    );
}

#[tokio::test]
async fn a_failed_publish_is_tried_again() {
    let world = World::files();
    let mut publisher = world.acting_as("nim").publisher(&PORTS).unwrap();
    publisher.publish("a", &port("a", 1)).unwrap();
    publisher.set_ready().unwrap();
    // A directory in the way of one object; the others get through.
    let obstacle = topic_dir(world.root()).join("b.json");
    fs::create_dir_all(obstacle.join("full")).unwrap();
    let wanted = table([
        ("a", port("a", 2)),
        ("b", port("b", 2)),
        ("c", port("c", 2)),
    ]);
    let error = publisher.replace(&wanted).unwrap_err().to_string();
    assert!(error.contains("b.json"), "{error}");
    assert_eq!(
        publisher.rows(),
        &table([("a", port("a", 2)), ("c", port("c", 2))])
    );
    fs::remove_dir_all(obstacle).unwrap();
    assert_eq!(publisher.replace(&wanted).unwrap().published, ["b"]);
    // So does a staging directory that somebody tidied up.
    fs::remove_dir_all(world.root().join("run/.bus-tmp")).unwrap();
    publisher.publish("a", &port("a", 3)).unwrap();
    assert_eq!(
        world.acting_as("zedagent").read(&PORTS).unwrap().unwrap()["a"].counter,
        3
    );
}

/// Publishes with whatever umask this process was started with. Does nothing unless this program has started it.
#[test]
fn umask_process() {
    let Some(root) = std::env::var_os("BUS_TEST_UMASK_ROOT") else {
        return;
    };
    let bus = Bus::open(Path::new(&root), "nim").unwrap();
    for topic in [&PORTS, &KEPT_PORTS] {
        let mut publisher = bus.publisher(topic).unwrap();
        publisher
            .publish(&"long".repeat(100), &port("a", 1))
            .unwrap();
        publisher.set_ready().unwrap();
    }
}

#[test]
fn modes_do_not_depend_on_the_umask() {
    for umask in ["000", "077"] {
        let root = tempfile::tempdir().unwrap();
        let status = Command::new("sh")
            .args([
                "-c",
                &format!("umask {umask}; exec \"$0\" --exact umask_process"),
            ])
            .arg(std::env::current_exe().unwrap())
            .env("BUS_TEST_UMASK_ROOT", root.path())
            .output()
            .unwrap();
        assert!(status.status.success());
        for dir in [topic_dir(root.path()), kept_dir(root.path())] {
            assert_eq!(
                fs::metadata(&dir).unwrap().permissions().mode() & 0o777,
                0o750
            );
            assert_eq!(
                fs::metadata(dir.parent().unwrap())
                    .unwrap()
                    .permissions()
                    .mode()
                    & 0o777,
                0o750
            );
            let mut files = 0;
            for entry in fs::read_dir(&dir).unwrap().map(Result::unwrap) {
                let (mode, is_dir) = (
                    entry.metadata().unwrap().permissions().mode() & 0o777,
                    entry.path().is_dir(),
                );
                assert_eq!(
                    mode,
                    if is_dir { 0o750 } else { 0o640 },
                    "{}",
                    entry.path().display()
                );
                files += 1;
            }
            assert_eq!(files, 4, "a row, ready, .generation, .keys");
        }
    }
}
