//! `eve watch`.

use std::{collections::BTreeMap, time::Duration};

use bus::{Bus, Subscription};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::{
    Verdict,
    args::{Global, SelectArgs},
    diff,
};
use crate::{
    Error,
    difference::{self, ObjectChange},
    output::{self, Output, Paint},
    snapshot::IDENTITY,
};

/// So often new topics are looked for.
const LOOK: Duration = Duration::from_secs(1);

/// One line of `--json`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Seen<'a> {
    at: Timestamp,
    #[serde(flatten)]
    change: &'a ObjectChange,
}

struct Watched {
    subscription: Subscription<Value>,
    rows: BTreeMap<String, Value>,
}

pub(super) fn watch(global: &Global, out: Output, args: &SelectArgs) -> Result<Verdict, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Output)?;
    runtime.block_on(follow(global, out, args))
}

/// Never returns but by an error: the end is a signal, or a reader that has gone.
async fn follow(global: &Global, out: Output, args: &SelectArgs) -> Result<Verdict, Error> {
    let bus = Bus::open(&global.root, IDENTITY)?;
    let mut changed = bus.changed();
    let mut topics: BTreeMap<(String, String), Watched> = BTreeMap::new();
    let mut first = true;
    loop {
        for (service, topic) in wanted(&bus, args)? {
            if topics.contains_key(&(service.clone(), topic.clone())) {
                continue;
            }
            let subscription = bus.watch_raw(&service, &topic)?;
            // What was there before is not news; a topic that appears later is.
            let rows = if first {
                current(&subscription)
            } else {
                BTreeMap::new()
            };
            topics.insert((service, topic), Watched { subscription, rows });
        }
        if first && !out.json {
            let count = crate::words::count(topics.len(), "topic");
            eprintln!("eve: watching {count}; stop with Ctrl-C");
        }
        first = false;
        for ((service, topic), watched) in &mut topics {
            let now = current(&watched.subscription);
            for change in difference::tables(service, topic, &watched.rows, &now) {
                if args
                    .key
                    .as_ref()
                    .is_none_or(|key| change.key.starts_with(key))
                {
                    show(out, &change)?;
                }
            }
            watched.rows = now;
        }
        // Either end is a reason to look again; a closed channel can't be, for `bus` holds it open.
        let _ = tokio::time::timeout(LOOK, changed.changed()).await;
    }
}

fn current(subscription: &Subscription<Value>) -> BTreeMap<String, Value> {
    let rows = subscription.rows();
    rows.map(|rows| (*rows).clone()).unwrap_or_default()
}

/// Topics to watch: those that are there, and the one that was named even if it is not.
fn wanted(bus: &Bus, args: &SelectArgs) -> Result<Vec<(String, String)>, Error> {
    if let (Some(service), Some(topic)) = (&args.service, &args.topic) {
        return Ok(vec![(service.clone(), topic.clone())]);
    }
    let topics = bus.topics()?.into_iter();
    Ok(topics
        .filter(|info| {
            args.service
                .as_ref()
                .is_none_or(|service| info.service == *service)
        })
        .map(|info| (info.service, info.name))
        .collect())
}

fn show(out: Output, change: &ObjectChange) -> Result<(), Error> {
    let at = Timestamp::now();
    if out.json {
        return output::json_line(&Seen { at, change });
    }
    let time = at.strftime("%H:%M:%S%.3f").to_string();
    output::print(&format!(
        "{} {}",
        out.paint(Paint::Dim, &time),
        diff::text(out, change)
    ))
}
