//! The behaviour of the bus: every test here runs on both stores.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[macro_use]
mod world;

use bus::{Bus, BusError, Rows, Topic};
use serde_json::json;
use world::{KEPT_PORTS, PORTS, Port, World, port, stays, table, until, until_is};

/// Services keep these across threads.
const fn shared_between_threads<T: Send + Sync>() {}
const _: () = {
    shared_between_threads::<Bus>();
    shared_between_threads::<bus::Publisher<Port>>();
    shared_between_threads::<bus::Subscription<Port>>();
};

/// A writer whose directory would be elsewhere.
const ELSEWHERE: Topic<Port> = Topic::run("../nim", "PortStatus");

on_both_stores!(
    absent_is_not_empty,
    a_table_is_replaced,
    unchanged_objects_wake_nobody,
    single_objects_come_and_go,
    a_restarting_writer_freezes_the_table,
    rows_of_the_former_run_are_loaded_and_cleaned_up,
    generations_count_the_times_a_writer_became_ready,
    only_the_owner_publishes,
    bursts_end_with_the_last_value,
    delete_and_create_is_a_change,
    any_string_is_a_key,
    objects_have_no_size_limit,
    ten_thousand_rows,
    an_unreadable_object_harms_nobody,
    an_unreadable_persistent_object_is_restored,
    a_look_without_a_watch,
    tools_see_and_change_everything,
    the_bus_fires_when_any_subscription_changes,
    subscriptions_end,
    an_old_table_can_be_kept,
);

async fn absent_is_not_empty(world: World) {
    let reader = world.acting_as("zedagent");
    let mut early = reader.subscribe(&PORTS).unwrap();
    assert_eq!(early.rows(), None);
    let mut publisher = world.acting_as("nim").publisher(&PORTS).unwrap();
    publisher.publish("eth0", &port("eth0", 1)).unwrap();
    assert!(stays(&mut early).await);
    assert_eq!(early.rows(), None);
    assert_eq!(reader.subscribe(&PORTS).unwrap().rows(), None);
    publisher.set_ready().unwrap();
    until_is(&mut early, &table([("eth0", port("eth0", 1))])).await;
    // An empty table is complete, too.
    let mut empty = world.acting_as("nim").publisher(&KEPT_PORTS).unwrap();
    empty.set_ready().unwrap();
    assert_eq!(
        *reader.subscribe(&KEPT_PORTS).unwrap().rows().unwrap(),
        Rows::new()
    );
}

async fn a_table_is_replaced(world: World) {
    for topic in [&PORTS, &KEPT_PORTS] {
        let mut publisher = world.acting_as("nim").publisher(topic).unwrap();
        let mut subscription = world.acting_as("zedagent").subscribe(topic).unwrap();
        let first = table([
            ("a", port("a", 1)),
            ("b", port("b", 1)),
            ("c", port("c", 1)),
        ]);
        let changes = publisher.replace(&first).unwrap();
        assert_eq!(
            (changes.published, changes.removed),
            (vec!["a".into(), "b".into(), "c".into()], vec![])
        );
        publisher.set_ready().unwrap();
        until_is(&mut subscription, &first).await;
        let second = table([
            ("b", port("b", 2)),
            ("c", port("c", 1)),
            ("d", port("d", u64::MAX)),
        ]);
        let changes = publisher.replace(&second).unwrap();
        assert_eq!(
            (changes.published, changes.removed),
            (vec!["b".into(), "d".into()], vec!["a".into()])
        );
        until_is(&mut subscription, &second).await;
        assert!(publisher.replace(&second).unwrap().is_empty());
        assert_eq!(publisher.rows(), &second);
    }
}

async fn unchanged_objects_wake_nobody(world: World) {
    let mut publisher = world.acting_as("nim").publisher(&PORTS).unwrap();
    assert!(publisher.publish("a", &port("a", 1)).unwrap());
    publisher.set_ready().unwrap();
    let mut subscription = world.acting_as("zedagent").subscribe(&PORTS).unwrap();
    until_is(&mut subscription, &table([("a", port("a", 1))])).await;
    assert!(!publisher.publish("a", &port("a", 1)).unwrap());
    assert!(!publisher.unpublish("b").unwrap());
    publisher.set_ready().unwrap();
    assert!(stays(&mut subscription).await);
    // The same object written by somebody else is not a change either.
    let tool = world.acting_as("eve");
    tool.put_raw(
        "nim",
        "PortStatus",
        "a",
        &json!({"Counter": 1, "Name": "a", "Unknown": [1, 2]}),
    )
    .unwrap();
    assert!(stays(&mut subscription).await);
}

async fn single_objects_come_and_go(world: World) {
    for topic in [&PORTS, &KEPT_PORTS] {
        let mut publisher = world.acting_as("nim").publisher(topic).unwrap();
        publisher.set_ready().unwrap();
        let mut subscription = world.acting_as("zedagent").subscribe(topic).unwrap();
        publisher.publish("a", &port("a", 1)).unwrap();
        until_is(&mut subscription, &table([("a", port("a", 1))])).await;
        publisher.publish("a", &port("a", 2)).unwrap();
        until_is(&mut subscription, &table([("a", port("a", 2))])).await;
        assert!(publisher.unpublish("a").unwrap());
        until_is(&mut subscription, &Rows::new()).await;
    }
}

async fn a_restarting_writer_freezes_the_table(world: World) {
    let first = table([("a", port("a", 1)), ("b", port("b", 1))]);
    let mut publisher = world.acting_as("nim").publisher(&PORTS).unwrap();
    publisher.replace(&first).unwrap();
    publisher.set_ready().unwrap();
    let mut subscription = world.acting_as("zedagent").subscribe(&PORTS).unwrap();
    until_is(&mut subscription, &first).await;
    drop(publisher);

    let mut publisher = world.acting_as("nim").publisher(&PORTS).unwrap();
    publisher.unpublish("a").unwrap();
    publisher.publish("c", &port("c", 2)).unwrap();
    assert!(stays(&mut subscription).await);
    assert_eq!(*subscription.rows().unwrap(), first);
    assert_eq!(subscription.generation(), None);
    assert_eq!(
        world
            .acting_as("zedagent")
            .subscribe(&PORTS)
            .unwrap()
            .rows(),
        None
    );

    publisher.set_ready().unwrap();
    subscription.changed().await;
    assert_eq!(
        *subscription.rows().unwrap(),
        table([("b", port("b", 1)), ("c", port("c", 2))])
    );
    assert_eq!(subscription.generation(), Some(2));
}

async fn rows_of_the_former_run_are_loaded_and_cleaned_up(world: World) {
    for topic in [&PORTS, &KEPT_PORTS] {
        let mut publisher = world.acting_as("nim").publisher(topic).unwrap();
        publisher
            .replace(&table([("old", port("old", 1)), ("both", port("both", 1))]))
            .unwrap();
        publisher.set_ready().unwrap();
        drop(publisher);
        let mut publisher = world.acting_as("nim").publisher(topic).unwrap();
        assert_eq!(publisher.rows().len(), 2);
        let changes = publisher
            .replace(&table([("both", port("both", 1)), ("new", port("new", 1))]))
            .unwrap();
        assert_eq!(
            (changes.published, changes.removed),
            (vec!["new".into()], vec!["old".into()])
        );
        publisher.set_ready().unwrap();
        let rows = world.acting_as("zedagent").read(topic).unwrap().unwrap();
        assert_eq!(rows.into_keys().collect::<Vec<_>>(), ["both", "new"]);
    }
}

async fn generations_count_the_times_a_writer_became_ready(world: World) {
    for topic in [&PORTS, &KEPT_PORTS] {
        for generation in 1..=3 {
            let mut publisher = world.acting_as("nim").publisher(topic).unwrap();
            assert_eq!(publisher.generation(), None);
            assert_eq!(publisher.set_ready().unwrap(), generation);
            assert_eq!(publisher.set_ready().unwrap(), generation);
        }
        // A writer that dies before it is ready doesn't lose count.
        drop(world.acting_as("nim").publisher(topic).unwrap());
        assert_eq!(
            world
                .acting_as("nim")
                .publisher(topic)
                .unwrap()
                .set_ready()
                .unwrap(),
            4
        );
    }
}

async fn only_the_owner_publishes(world: World) {
    let refused = world.acting_as("zedrouter").publisher(&PORTS);
    let Err(BusError::NotOwner {
        topic,
        owner,
        identity,
    }) = refused
    else {
        panic!("not refused")
    };
    assert_eq!(
        [&*topic, &*owner, &*identity],
        ["nim/PortStatus", "nim", "zedrouter"]
    );
    assert!(matches!(
        Bus::memory().publisher(&PORTS),
        Err(BusError::NotOwner { .. })
    ));
    assert!(matches!(
        world.acting_as("../nim").publisher(&ELSEWHERE),
        Err(BusError::BadName { .. })
    ));
}

async fn bursts_end_with_the_last_value(world: World) {
    let mut publisher = world.acting_as("nim").publisher(&PORTS).unwrap();
    publisher.set_ready().unwrap();
    let mut subscription = world.acting_as("zedagent").subscribe(&PORTS).unwrap();
    let seen = tokio::spawn(async move {
        let done =
            |rows: &Rows<Port>| rows.len() == 10 && rows.values().all(|port| port.counter == 500);
        let mut last = Rows::new();
        let mut seen = 0;
        while !done(&last) {
            tokio::time::timeout(world::PATIENCE, subscription.changed())
                .await
                .expect("the last values were never seen");
            let rows = subscription.rows().unwrap();
            for (key, port) in &*rows {
                assert!(
                    last.get(key)
                        .is_none_or(|last| last.counter <= port.counter)
                );
            }
            last.clone_from(&rows);
            seen += 1;
        }
        seen
    });
    for counter in 1..=500 {
        for key in 0..10 {
            publisher
                .publish(&key.to_string(), &port("burst", counter))
                .unwrap();
        }
    }
    assert!(seen.await.unwrap() <= 5001);
}

async fn delete_and_create_is_a_change(world: World) {
    let mut publisher = world.acting_as("nim").publisher(&PORTS).unwrap();
    publisher.publish("a", &port("a", 1)).unwrap();
    publisher.set_ready().unwrap();
    let mut subscription = world.acting_as("zedagent").subscribe(&PORTS).unwrap();
    until_is(&mut subscription, &table([("a", port("a", 1))])).await;
    for counter in 2..100 {
        publisher.unpublish("a").unwrap();
        publisher.publish("a", &port("a", counter)).unwrap();
        until_is(&mut subscription, &table([("a", port("a", counter))])).await;
        publisher.publish("b", &port("b", counter)).unwrap();
        publisher.unpublish("b").unwrap();
    }
    until_is(&mut subscription, &table([("a", port("a", 99))])).await;
}

async fn any_string_is_a_key(world: World) {
    let long = "k/".repeat(5000);
    let keys = [
        "",
        ".",
        "..",
        "../../etc/passwd",
        "a/b",
        "%",
        "%%",
        "ready",
        ".quarantine",
        "x.json",
        "\0\n",
        "Zürich 東京",
        &long,
    ];
    for topic in [&PORTS, &KEPT_PORTS] {
        let rows: Rows<Port> = keys
            .iter()
            .map(|key| ((*key).to_owned(), port(key, 1)))
            .collect();
        let mut publisher = world.acting_as("nim").publisher(topic).unwrap();
        publisher.replace(&rows).unwrap();
        publisher.set_ready().unwrap();
        let mut subscription = world.acting_as("zedagent").subscribe(topic).unwrap();
        until_is(&mut subscription, &rows).await;
        drop(publisher);
        let mut publisher = world.acting_as("nim").publisher(topic).unwrap();
        assert_eq!(publisher.rows(), &rows);
        assert_eq!(publisher.quarantined(), []);
        publisher.set_ready().unwrap();
        for key in keys {
            publisher.unpublish(key).unwrap();
        }
        until_is(&mut subscription, &Rows::new()).await;
    }
}

async fn objects_have_no_size_limit(world: World) {
    for topic in [&PORTS, &KEPT_PORTS] {
        let mut publisher = world.acting_as("nim").publisher(topic).unwrap();
        publisher.set_ready().unwrap();
        let mut subscription = world.acting_as("zedagent").subscribe(topic).unwrap();
        for size in [1 << 20, 5 << 20, 10] {
            let rows = table([("big", port(&"x".repeat(size), 1))]);
            publisher.replace(&rows).unwrap();
            until_is(&mut subscription, &rows).await;
        }
    }
}

async fn ten_thousand_rows(world: World) {
    let rows: Rows<Port> = (0..10_000)
        .map(|n| (format!("key-{n}"), port("many", n)))
        .collect();
    let mut publisher = world.acting_as("nim").publisher(&PORTS).unwrap();
    let mut early = world.acting_as("zedagent").subscribe(&PORTS).unwrap();
    publisher.replace(&rows).unwrap();
    publisher.set_ready().unwrap();
    until_is(&mut early, &rows).await;
    let mut late = world.acting_as("zedagent").subscribe(&PORTS).unwrap();
    until_is(&mut late, &rows).await;
    publisher.publish("key-77", &port("changed", 1)).unwrap();
    until(&mut early, |rows| {
        rows["key-77"].name == "changed" && rows.len() == 10_000
    })
    .await;
    publisher.replace(&Rows::new()).unwrap();
    until_is(&mut late, &Rows::new()).await;
}

async fn an_unreadable_object_harms_nobody(world: World) {
    let good = table([("a", port("a", 1)), ("b", port("b", 1))]);
    let mut publisher = world.acting_as("nim").publisher(&PORTS).unwrap();
    publisher.replace(&good).unwrap();
    publisher.set_ready().unwrap();
    let mut subscription = world.acting_as("zedagent").subscribe(&PORTS).unwrap();
    until_is(&mut subscription, &good).await;
    let tool = world.acting_as("eve");
    tool.put_raw("nim", "PortStatus", "a", &json!({"Name": 7}))
        .unwrap();
    publisher.publish("b", &port("b", 2)).unwrap();
    until_is(
        &mut subscription,
        &table([("a", port("a", 1)), ("b", port("b", 2))]),
    )
    .await;
    assert_eq!(
        subscription.unreadable().into_keys().collect::<Vec<_>>(),
        ["a"]
    );
    // Who comes later has no good value of it, but all others.
    assert_eq!(
        world.acting_as("zedagent").read(&PORTS).unwrap().unwrap(),
        table([("b", port("b", 2))])
    );
    drop(publisher);

    let mut publisher = world.acting_as("nim").publisher(&PORTS).unwrap();
    let [quarantined] = publisher.quarantined() else {
        panic!("one was unreadable")
    };
    assert_eq!((&*quarantined.key, quarantined.restored), ("a", false));
    let [info] = &*tool.topics().unwrap() else {
        panic!("one topic")
    };
    assert_eq!(
        (info.rows, info.quarantined, info.ready, info.generation),
        (1, 1, false, 1)
    );
    publisher.publish("a", &port("a", 3)).unwrap();
    publisher.set_ready().unwrap();
    until_is(
        &mut subscription,
        &table([("a", port("a", 3)), ("b", port("b", 2))]),
    )
    .await;
    assert!(subscription.unreadable().is_empty());
}

async fn an_unreadable_persistent_object_is_restored(world: World) {
    let mut publisher = world.acting_as("nim").publisher(&KEPT_PORTS).unwrap();
    publisher.publish("a", &port("a", 1)).unwrap();
    publisher.publish("a", &port("a", 2)).unwrap();
    publisher.set_ready().unwrap();
    drop(publisher);
    let tool = world.acting_as("eve");
    tool.put_raw("nim", "PortList", "a", &json!("scrambled"))
        .unwrap();
    // Readers use the last good copy at once, and don't touch the directory.
    let reader = world.acting_as("zedagent");
    assert_eq!(
        reader.read(&KEPT_PORTS).unwrap().unwrap(),
        table([("a", port("a", 2))])
    );
    assert_eq!(
        tool.read_raw("nim", "PortList").unwrap()["a"],
        json!("scrambled")
    );
    for restored in [true, false] {
        let publisher = world.acting_as("nim").publisher(&KEPT_PORTS).unwrap();
        assert_eq!(publisher.rows(), &table([("a", port("a", 2))]));
        assert_eq!(publisher.quarantined().len(), usize::from(restored));
        assert!(
            publisher
                .quarantined()
                .iter()
                .all(|quarantined| quarantined.restored)
        );
    }
    assert_eq!(tool.read_raw("nim", "PortList").unwrap()["a"]["Counter"], 2);
    assert_eq!(tool.topics().unwrap()[0].quarantined, 1);
}

async fn a_look_without_a_watch(world: World) {
    let reader = world.acting_as("zedagent");
    assert_eq!(reader.read(&PORTS).unwrap(), None);
    let mut publisher = world.acting_as("nim").publisher(&PORTS).unwrap();
    publisher.publish("a", &port("a", 1)).unwrap();
    assert_eq!(reader.read(&PORTS).unwrap(), None);
    publisher.set_ready().unwrap();
    assert_eq!(
        reader.read(&PORTS).unwrap(),
        Some(table([("a", port("a", 1))]))
    );
}

async fn tools_see_and_change_everything(world: World) {
    let tool = world.acting_as("eve");
    assert_eq!(tool.topics().unwrap(), []);
    assert!(matches!(
        tool.read_raw("nim", "PortStatus"),
        Err(BusError::NoTopic { .. })
    ));
    assert!(!tool.delete_raw("nim", "PortStatus", "a").unwrap());
    let mut watch = tool.watch_raw("nim", "PortStatus").unwrap();
    assert_eq!(watch.rows().unwrap().len(), 0);
    // Feeding a service that runs alone: its input has no writer.
    let mut subscription = world.acting_as("zedagent").subscribe(&PORTS).unwrap();
    tool.put_raw(
        "nim",
        "PortStatus",
        "a",
        &json!({"Name": "a", "Counter": 1}),
    )
    .unwrap();
    until(&mut watch, |rows| {
        rows.get("a").is_some_and(|row| row["Counter"] == 1)
    })
    .await;
    assert_eq!(subscription.rows(), None);
    assert_eq!(tool.set_ready_raw("nim", "PortStatus").unwrap(), 1);
    until_is(&mut subscription, &table([("a", port("a", 1))])).await;
    let _publisher = world.acting_as("nim").publisher(&KEPT_PORTS).unwrap();
    let topics = tool.topics().unwrap();
    let seen: Vec<_> = topics
        .iter()
        .map(|t| (&*t.name, t.persistent, t.ready, t.generation, t.rows))
        .collect();
    assert_eq!(
        seen,
        [
            ("PortList", true, false, 0, 0),
            ("PortStatus", false, true, 1, 1)
        ]
    );
    assert!(tool.delete_raw("nim", "PortStatus", "a").unwrap());
    until_is(&mut subscription, &Rows::new()).await;
    until(&mut watch, Rows::is_empty).await;
}

async fn the_bus_fires_when_any_subscription_changes(world: World) {
    let reader = world.acting_as("zedagent");
    let other = reader.acting_as("zedrouter");
    let mut changed = reader.clone().changed();
    let (ports, kept) = (
        reader.subscribe(&PORTS).unwrap(),
        reader.subscribe(&KEPT_PORTS).unwrap(),
    );
    let mut publisher = world.acting_as("nim").publisher(&PORTS).unwrap();
    publisher.publish("a", &port("a", 1)).unwrap();
    publisher.set_ready().unwrap();
    let mut publisher = world.acting_as("nim").publisher(&KEPT_PORTS).unwrap();
    publisher.publish("a", &port("a", 1)).unwrap();
    publisher.set_ready().unwrap();
    while ports.rows().is_none() || kept.rows().is_none() {
        tokio::time::timeout(world::PATIENCE, changed.changed())
            .await
            .unwrap()
            .unwrap();
    }
    assert_eq!(*other.changed().borrow(), 0);
}

async fn subscriptions_end(world: World) {
    let mut publisher = world.acting_as("nim").publisher(&PORTS).unwrap();
    publisher.set_ready().unwrap();
    let reader = world.acting_as("zedagent");
    let changed = reader.changed();
    let kept = reader.subscribe(&KEPT_PORTS).unwrap();
    for _ in 0..10 {
        let mut subscription = reader.subscribe(&PORTS).unwrap();
        until_is(&mut subscription, &Rows::new()).await;
    }
    // Nobody listens to this topic any more.
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    let before = *changed.borrow();
    publisher.publish("a", &port("a", 1)).unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    assert_eq!(*changed.borrow(), before);
    // The other one is as alive as before, though they shared directories.
    let mut publisher = world.acting_as("nim").publisher(&KEPT_PORTS).unwrap();
    publisher.set_ready().unwrap();
    let mut kept = kept;
    until_is(&mut kept, &Rows::new()).await;
}

async fn an_old_table_can_be_kept(world: World) {
    let mut publisher = world.acting_as("nim").publisher(&PORTS).unwrap();
    publisher.publish("a", &port("a", 1)).unwrap();
    publisher.set_ready().unwrap();
    let mut subscription = world.acting_as("zedagent").subscribe(&PORTS).unwrap();
    let old = until(&mut subscription, |rows| rows.len() == 1).await;
    publisher.publish("a", &port("a", 2)).unwrap();
    until_is(&mut subscription, &table([("a", port("a", 2))])).await;
    assert_eq!(old["a"].counter, 1);
}
