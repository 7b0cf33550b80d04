//! Writers that do anything, restart all the time, and readers that must never see anything but complete tables. On both
//! stores.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[macro_use]
mod world;

use std::sync::atomic::{AtomicBool, Ordering};

use bus::Rows;
use proptest::prelude::*;
use world::{PORTS, World, port, until_is};

on_both_stores!(
    a_reader_never_sees_an_incomplete_table,
    random_histories_end_alike
);

/// A writer that restarts all the time and each time makes a table in which all rows agree.
async fn a_reader_never_sees_an_incomplete_table(world: World) {
    const ROWS: u64 = 20;
    const LIVES: u64 = 100;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for life in 0..LIVES {
                let mut publisher = world.acting_as("nim").publisher(&PORTS).unwrap();
                // Every other life has other keys, so that rows come and go.
                let keys = (life % 2 * 10)..(life % 2 * 10 + ROWS);
                for key in keys.clone() {
                    publisher
                        .publish(&key.to_string(), &port("p", life))
                        .unwrap();
                }
                publisher
                    .replace(&keys.map(|key| (key.to_string(), port("p", life))).collect())
                    .unwrap();
                publisher.set_ready().unwrap();
                if life % 10 == 0 {
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
            }
            done.store(true, Ordering::Release);
        });
        let subscription = world.acting_as("zedagent").subscribe(&PORTS).unwrap();
        let started = std::time::Instant::now();
        let mut last = 0;
        loop {
            let over = done.load(Ordering::Acquire);
            if let Some(rows) = subscription.rows() {
                let life = rows.values().next().unwrap().counter;
                assert_eq!(rows.len() as u64, ROWS, "life {life}: {rows:?}");
                assert!(rows.values().all(|port| port.counter == life), "{rows:?}");
                assert!(life >= last, "life {life} after {last}");
                last = life;
                if over && life == LIVES - 1 {
                    return;
                }
            }
            assert!(
                started.elapsed() < world::PATIENCE,
                "the last table was never seen, only {last}"
            );
        }
    });
}

#[derive(Clone, Debug)]
enum Act {
    Publish(u8, u64),
    Unpublish(u8),
    Replace(Vec<(u8, u64)>),
    Ready,
    Restart,
    Look,
}

fn history() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => (0..6_u8, any::<u64>()).prop_map(|(key, value)| Act::Publish(key, value)),
        2 => (0..6_u8).prop_map(Act::Unpublish),
        1 => prop::collection::vec((0..6_u8, 0..3_u64), 0..6).prop_map(Act::Replace),
        2 => Just(Act::Ready),
        1 => Just(Act::Restart),
        3 => Just(Act::Look),
    ];
    prop::collection::vec(act, 1..40)
}

/// Whatever a writer does: what a subscriber has in the end is the last complete table, and a new one sees the same.
async fn random_histories_end_alike(world: World) {
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 64,
        ..ProptestConfig::default()
    });
    let runtime = tokio::runtime::Handle::current();
    let fresh = || match &world {
        World::Memory(_) => World::memory(),
        World::Files(_) => World::files(),
    };
    tokio::task::block_in_place(|| {
        runner.run(&history(), |acts| {
            runtime.block_on(live(fresh(), acts));
            Ok(())
        })
    })
    .unwrap();
}

async fn live(world: World, acts: Vec<Act>) {
    let key = |key: u8| format!("k/{key}");
    let mut publisher = world.acting_as("nim").publisher(&PORTS).unwrap();
    let mut subscription = world.acting_as("zedagent").subscribe(&PORTS).unwrap();
    let mut model = Rows::new();
    let mut complete = None;
    let mut ready = false;
    for act in acts {
        match act {
            Act::Publish(k, value) => {
                publisher.publish(&key(k), &port("p", value)).unwrap();
                model.insert(key(k), port("p", value));
            }
            Act::Unpublish(k) => {
                assert_eq!(
                    publisher.unpublish(&key(k)).unwrap(),
                    model.remove(&key(k)).is_some()
                );
            }
            Act::Replace(rows) => {
                model = rows
                    .into_iter()
                    .map(|(k, value)| (key(k), port("p", value)))
                    .collect();
                publisher.replace(&model).unwrap();
            }
            Act::Ready => {
                publisher.set_ready().unwrap();
                ready = true;
            }
            Act::Restart => {
                drop(publisher);
                publisher = world.acting_as("nim").publisher(&PORTS).unwrap();
                assert_eq!(publisher.rows(), &model);
                ready = false;
            }
            Act::Look => drop(subscription.rows()),
        }
        if ready {
            complete = Some(model.clone());
        }
    }
    let now = world.acting_as("zedagent").subscribe(&PORTS).unwrap();
    assert_eq!(
        now.rows().map(|rows| (*rows).clone()),
        ready.then(|| model.clone())
    );
    // A reader that looked seldom may have missed tables that were complete only for a while, never the present one.
    match complete {
        Some(complete) if ready => until_is(&mut subscription, &complete).await,
        Some(_) | None => assert!(subscription.rows().is_none_or(|_| complete.is_some())),
    }
}
