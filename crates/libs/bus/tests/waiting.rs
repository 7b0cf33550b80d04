//! Who waits for changes of files: a task in each runtime that readers wait in, a thread where there is none.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod world;

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use bus::{Bus, Publisher};
use tokio::{
    runtime::{Builder, Runtime},
    sync::watch,
    time::timeout,
};
use world::{PATIENCE, PORTS, Port, World, port, table, until_is};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn ready_publisher(world: &World) -> Publisher<Port> {
    let mut publisher = world.acting_as("nim").publisher(&PORTS).unwrap();
    publisher.set_ready().unwrap();
    publisher
}

/// Waits without a runtime and without looking at any table.
fn rings(changed: &watch::Receiver<u64>) -> bool {
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE {
        if changed.has_changed().unwrap() {
            return true;
        }
        sleep(Duration::from_millis(1));
    }
    false
}

fn marked(bus: &Bus) -> watch::Receiver<u64> {
    let mut changed = bus.changed();
    changed.mark_unchanged();
    changed
}

#[test]
fn changes_are_noted_without_a_runtime() {
    let world = World::files();
    let mut publisher = ready_publisher(&world);
    let bus = world.acting_as("zedagent");
    let subscription = bus.subscribe(&PORTS).unwrap();
    for counter in 0..20 {
        let changed = marked(&bus);
        publisher.publish("a", &port("a", counter)).unwrap();
        assert!(rings(&changed));
        assert_eq!(
            *subscription.rows().unwrap(),
            table([("a", port("a", counter))])
        );
    }
}

#[test]
fn a_runtime_that_ends_is_replaced() {
    let world = World::files();
    let mut publisher = ready_publisher(&world);
    let bus = world.acting_as("zedagent");
    let first = runtime();
    let mut subscription = first.block_on(async { bus.subscribe(&PORTS).unwrap() });
    drop(first);
    // By a thread at first,
    let changed = marked(&bus);
    publisher.publish("a", &port("a", 1)).unwrap();
    assert!(rings(&changed));
    // then by whatever runtime somebody waits in.
    runtime().block_on(async {
        until_is(&mut subscription, &table([("a", port("a", 1))])).await;
        publisher.publish("a", &port("a", 2)).unwrap();
        until_is(&mut subscription, &table([("a", port("a", 2))])).await;
    });
    let changed = marked(&bus);
    publisher.publish("a", &port("a", 3)).unwrap();
    assert!(rings(&changed));
}

#[test]
fn a_runtime_that_stands_still_holds_nobody_up() {
    let world = World::files();
    let mut publisher = ready_publisher(&world);
    let bus = world.acting_as("zedagent");
    let still = runtime();
    let mut subscription = still.block_on(async { bus.subscribe(&PORTS).unwrap() });
    runtime().block_on(async {
        for counter in 0..20 {
            publisher.publish("a", &port("a", counter)).unwrap();
            until_is(&mut subscription, &table([("a", port("a", counter))])).await;
            // The same for those who wait for any change.
            let mut changed = marked(&bus);
            publisher.publish("b", &port("b", counter)).unwrap();
            timeout(PATIENCE, changed.changed()).await.unwrap().unwrap();
            publisher.unpublish("b").unwrap();
        }
    });
    drop(still);
}

#[tokio::test]
async fn a_look_sees_what_was_published_before_it() {
    let world = World::files();
    let mut publisher = ready_publisher(&world);
    let subscription = world.acting_as("zedagent").subscribe(&PORTS).unwrap();
    // Nobody else gets a chance to run: there is no await.
    for counter in 0..500 {
        publisher.publish("a", &port("a", counter)).unwrap();
        assert_eq!(subscription.rows().unwrap()["a"].counter, counter);
    }
    publisher.unpublish("a").unwrap();
    assert!(subscription.rows().unwrap().is_empty());
}

#[tokio::test]
async fn nothing_is_left_of_a_bus_that_was_closed() {
    let world = World::files();
    let _publisher = ready_publisher(&world);
    // Each takes one of the 128 inotify instances that a user may have.
    for _ in 0..300 {
        let subscription = world.acting_as("zedagent").subscribe(&PORTS);
        assert!(subscription.unwrap().rows().unwrap().is_empty());
        tokio::task::yield_now().await;
    }
    std::thread::spawn(move || {
        for _ in 0..300 {
            let subscription = world.acting_as("zedagent").subscribe(&PORTS);
            assert!(subscription.unwrap().rows().unwrap().is_empty());
            sleep(Duration::from_millis(1));
        }
    })
    .join()
    .unwrap();
}
