//! Lost events cost nothing but a comparison. A binary of its own, because it looks at the log of the whole process.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod world;

use std::{
    fs, io,
    sync::{Arc, Mutex},
};

use bus::Rows;
use tracing_subscriber::fmt::MakeWriter;
use world::{PORTS, Port, World, port, until_is};

const LIMIT: &str = "/proc/sys/fs/inotify/max_queued_events";

/// Lowers the limit on queued events for what is watched from here on, until it is dropped. The limit is read when an
/// inotify instance is made, so a moment is enough, and others hardly notice.
struct LowLimit(String);

impl LowLimit {
    fn set(events: u32) -> Self {
        let before = fs::read_to_string(LIMIT).unwrap();
        fs::write(LIMIT, events.to_string())
            .expect("lowering the limit on queued inotify events takes the super-user");
        Self(before)
    }
}

impl Drop for LowLimit {
    fn drop(&mut self) {
        fs::write(LIMIT, self.0.trim()).unwrap();
    }
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;
    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_final_value_is_missed_when_the_queue_overflows() {
    let log = Log::default();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_writer(log.clone())
        .init();
    let world = World::files();
    let bus = world.acting_as("zedagent");
    let limit = LowLimit::set(4);
    let subscription = bus.subscribe(&PORTS);
    drop(limit);
    let mut subscription = subscription.unwrap();
    let mut rows = Rows::new();
    for round in 0..20_u64 {
        // A new run of the writer each time, and the whole directory replaced now and then: those events get lost, too.
        if round % 5 == 4 {
            fs::remove_dir_all(world.root().join("run")).unwrap();
        }
        let mut publisher = world.acting_as("nim").publisher(&PORTS).unwrap();
        publisher.set_ready().unwrap();
        for n in 0..500_u64 {
            let key = format!("key-{}", (n + round * 100) % 600);
            publisher
                .publish(&key, &port("burst", round * 1000 + n))
                .unwrap();
            if n % 7 == 0 {
                publisher
                    .unpublish(&format!("key-{}", (n * 3) % 600))
                    .unwrap();
            }
        }
        rows.clone_from(publisher.rows());
        until_is(&mut subscription, &rows).await;
    }
    let last: &Port = rows.values().next().unwrap();
    assert_eq!(last.name, "burst");
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let overflows = log.matches("queue overflowed").count();
    assert!(
        overflows >= 10,
        "only {overflows} overflows: this test has proved nothing"
    );
}
