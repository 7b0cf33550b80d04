//! A state in which a device is stuck, how it gets there, and what `eve why` has to say.

use std::time::Duration;

use eve::{
    Device as Seen, Snapshot,
    snapshot::{RawTable, Supervisor, path},
    why::{Asked, Kind, Nature},
};
use model::code::Code;
use scenarios::sim::{AppWish, Device, State, Wish};

pub(crate) const MINUTE: Duration = Duration::from_secs(60);

/// A state in which a device is stuck.
pub(crate) struct Stuck {
    pub(crate) name: &'static str,
    /// What the controller wants from the beginning.
    wish: fn(&mut Wish),
    /// What is amiss from the beginning.
    before: fn(&mut State),
    /// The application runs before the next thing happens.
    deployed: bool,
    /// What happens then.
    then: fn(&mut Device),
    /// So much later it is looked at.
    later: Duration,
    /// What is asked.
    pub(crate) asked: (Asked, &'static str),
    /// Where it is stuck,
    pub(crate) at: (Kind, Nature),
    /// with which code,
    pub(crate) code: Option<Code>,
    /// and what is said of it.
    pub(crate) says: &'static str,
    /// Kinds on the way there.
    pub(crate) chain: &'static [Kind],
    /// The next try is so many seconds away, at least and at most.
    pub(crate) retry: Option<(i64, i64)>,
    /// A property that changes it.
    pub(crate) property: Option<&'static str>,
}

impl Stuck {
    pub(crate) fn of(name: &'static str, asked: Asked, object: &'static str) -> Self {
        Self {
            name,
            wish: |wish| {
                wish.apps.insert(1, AppWish::default());
            },
            before: |_| {},
            deployed: false,
            then: |_| {},
            later: 3 * MINUTE,
            asked: (asked, object),
            at: (Kind::App, Nature::Fault),
            code: None,
            says: "",
            chain: &[],
            retry: None,
            property: None,
        }
    }

    pub(crate) fn app(name: &'static str) -> Self {
        Self::of(name, Asked::App, "app 1")
    }

    /// Something is amiss from the beginning.
    pub(crate) fn before(self, before: fn(&mut State)) -> Self {
        Self { before, ..self }
    }

    /// The controller wants something else than an application.
    pub(crate) fn wish(self, wish: fn(&mut Wish)) -> Self {
        Self { wish, ..self }
    }

    /// What happens once the application runs.
    pub(crate) fn then(self, then: fn(&mut Device)) -> Self {
        Self {
            then,
            deployed: true,
            ..self
        }
    }

    /// What happens while the application is being prepared.
    pub(crate) fn then_at_once(self, then: fn(&mut Device)) -> Self {
        Self { then, ..self }
    }

    pub(crate) fn later(self, later: Duration) -> Self {
        Self { later, ..self }
    }

    /// What has to be said: a fault.
    pub(crate) fn fault(self, kind: Kind, code: Code, says: &'static str) -> Self {
        Self {
            at: (kind, Nature::Fault),
            code: Some(code),
            says,
            ..self
        }
    }

    pub(crate) fn waits(self, kind: Kind, says: &'static str) -> Self {
        Self {
            at: (kind, Nature::Waits),
            says,
            ..self
        }
    }

    /// It waits, and a fault says why.
    pub(crate) fn waits_for(self, kind: Kind, code: Code, says: &'static str) -> Self {
        Self {
            code: Some(code),
            ..self.waits(kind, says)
        }
    }

    pub(crate) fn progress(self, kind: Kind, says: &'static str) -> Self {
        Self {
            at: (kind, Nature::Progress),
            says,
            ..self
        }
    }

    /// The way there.
    pub(crate) fn by(self, chain: &'static [Kind]) -> Self {
        Self { chain, ..self }
    }

    /// The next try, in seconds.
    pub(crate) fn retry(self, from: i64, to: i64) -> Self {
        Self {
            retry: Some((from, to)),
            ..self
        }
    }

    pub(crate) fn property(self, name: &'static str) -> Self {
        Self {
            property: Some(name),
            ..self
        }
    }
}

/// The device as `eve` sees it, with every object written just now.
pub(crate) fn seen(device: &Device) -> Seen {
    let bus = &device.bus;
    let topics = bus.topics().unwrap().into_iter().map(|info| {
        let rows = bus.read_raw(&info.service, &info.name).unwrap();
        let at = device.now();
        let table = RawTable {
            changed: rows.keys().map(|key| (key.clone(), at)).collect(),
            rows,
            unreadable: Vec::new(),
            quarantined: Vec::new(),
            ready_at: None,
            info,
        };
        (path(&table.info.service, &table.info.name), table)
    });
    Seen::of(&Snapshot {
        at: device.now(),
        supervisor: Supervisor::Answers,
        topics: topics.collect(),
    })
}

/// Gets a device into the state.
pub(crate) async fn look(stuck: &Stuck) -> Device {
    let mut device = Device::new(1);
    device.machine.with(|s| {
        s.evc.want(stuck.wish);
        (stuck.before)(s);
    });
    device.pass(Duration::from_secs(2)).await;
    if stuck.deployed {
        let settled = |device: &Device| device.differences().is_empty();
        assert!(
            device.until(5 * MINUTE, settled).await,
            "{}: {:?}",
            stuck.name,
            device.differences()
        );
    }
    (stuck.then)(&mut device);
    device.pass(stuck.later).await;
    device
}
