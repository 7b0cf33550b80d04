//! A supervisor in memory, for the tests of services that run units.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::watch;

use crate::{
    Exit, ExitKind, Phase, Reply, UnitName, UnitSpec, UnitState, UnitTable, Units, UnitsError,
    Watch,
};

/// Units in memory. It checks what the supervisor checks (specs, owners, names in use) and runs
/// nothing; tests end processes with [`FakeUnits::exit`]. Clones share the units.
#[derive(Clone, Debug)]
pub struct FakeUnits {
    caller: String,
    store: Arc<Mutex<Store>>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Store {
    units: BTreeMap<UnitName, (UnitSpec, UnitState)>,
    last_pid: u32,
    unreachable: bool,
    now: Timestamp,
    lingering: bool,
}

impl FakeUnits {
    /// A supervisor with no units, asked by the service `caller`.
    pub fn new(caller: &str) -> Self {
        Self {
            caller: caller.to_owned(),
            store: Arc::default(),
            changed: watch::Sender::new(0),
        }
    }

    /// The same supervisor, asked by another service.
    #[must_use]
    pub fn acting_as(&self, caller: &str) -> Self {
        Self {
            caller: caller.to_owned(),
            ..self.clone()
        }
    }

    /// Sets the time that new phases carry (the epoch before).
    pub fn set_now(&self, now: Timestamp) {
        self.store().now = now;
    }

    /// While set, every request fails as if the supervisor were away.
    pub fn set_unreachable(&self, unreachable: bool) {
        self.store().unreachable = unreachable;
    }

    /// While set, stopped units stay in [`Phase::Stopping`] until [`FakeUnits::exit`].
    pub fn set_lingering(&self, lingering: bool) {
        self.store().lingering = lingering;
    }

    /// Ends a unit's process. No effect on a unit that is not there or has ended.
    pub fn exit(&self, name: &UnitName, kind: ExitKind) {
        let mut store = self.store();
        let at = store.now;
        if let Some((_, state)) = store.units.get_mut(name)
            && !state.phase.is_ended()
        {
            state.phase = Phase::Ended { at };
            state.last_exit = Some(Exit { at, kind });
        }
        drop(store);
        self.notify();
    }

    /// The spec that a unit was started with.
    pub fn spec(&self, name: &UnitName) -> Option<UnitSpec> {
        self.store().units.get(name).map(|(spec, _)| spec.clone())
    }

    /// All units.
    pub fn table(&self) -> UnitTable {
        below(&self.store(), "")
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reach(&self) -> Result<MutexGuard<'_, Store>, UnitsError> {
        let store = self.store();
        if store.unreachable {
            return Err(UnitsError::Unreachable {
                socket: "fake".into(),
                reason: "it is away".into(),
            });
        }
        Ok(store)
    }

    fn notify(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    fn own(&self, name: &UnitName) -> Result<(), UnitsError> {
        if name.owner() == self.caller {
            return Ok(());
        }
        Err(UnitsError::Refused {
            reason: format!("{name} is not {}'s", self.caller),
        })
    }

    fn do_start(&self, spec: &UnitSpec) -> Result<UnitState, UnitsError> {
        spec.check()?;
        self.own(&spec.name)?;
        let mut store = self.reach()?;
        if let Some((old, state)) = store.units.get(&spec.name)
            && !state.phase.is_ended()
        {
            if old == spec && !matches!(state.phase, Phase::Stopping { .. }) {
                return Ok(state.clone());
            }
            return Err(UnitsError::Exists {
                reason: format!("{} lives", spec.name),
            });
        }
        store.last_pid += 1;
        let state = UnitState {
            name: spec.name.clone(),
            phase: Phase::Running {
                pid: 1000 + store.last_pid,
                since: store.now,
            },
            restarts: 0,
            last_exit: None,
            memory_bytes: None,
            uid: spec.sandbox.uid,
            labels: spec.labels.clone(),
            status_text: String::new(),
        };
        store
            .units
            .insert(spec.name.clone(), (spec.clone(), state.clone()));
        drop(store);
        self.notify();
        Ok(state)
    }

    fn do_stop(&self, name: &UnitName) -> Result<UnitState, UnitsError> {
        self.own(name)?;
        let mut store = self.reach()?;
        let (at, lingering) = (store.now, store.lingering);
        let Some((_, state)) = store.units.get_mut(name) else {
            return Err(UnitsError::NotFound { name: name.clone() });
        };
        if let Some(pid) = state.phase.pid() {
            if lingering {
                state.phase = Phase::Stopping { pid, since: at };
            } else {
                state.phase = Phase::Ended { at };
                state.last_exit = Some(Exit {
                    at,
                    kind: ExitKind::Signal(15),
                });
            }
        }
        let state = state.clone();
        drop(store);
        self.notify();
        Ok(state)
    }

    fn do_restart(&self, name: &UnitName) -> Result<UnitState, UnitsError> {
        self.own(name)?;
        let spec = self
            .spec(name)
            .ok_or_else(|| UnitsError::NotFound { name: name.clone() })?;
        self.exit(name, ExitKind::Signal(15));
        self.do_start(&spec)
    }

    fn do_forget(&self, name: &UnitName) -> Result<(), UnitsError> {
        self.own(name)?;
        let mut store = self.reach()?;
        match store.units.get(name) {
            None => Ok(()),
            Some((_, state)) if state.phase.is_ended() => {
                store.units.remove(name);
                drop(store);
                self.notify();
                Ok(())
            }
            Some(_) => Err(UnitsError::Failed {
                reason: format!("{name} has not ended"),
            }),
        }
    }
}

fn below(store: &Store, prefix: &str) -> UnitTable {
    store
        .units
        .iter()
        .filter(|(name, _)| name.as_str().starts_with(prefix))
        .map(|(name, (_, state))| (name.clone(), state.clone()))
        .collect()
}

fn ready<T: Send + 'static>(result: Result<T, UnitsError>) -> Reply<'static, T> {
    Box::pin(std::future::ready(result))
}

impl Units for FakeUnits {
    fn start(&self, spec: UnitSpec) -> Reply<'_, UnitState> {
        ready(self.do_start(&spec))
    }

    fn stop(&self, name: &UnitName) -> Reply<'_, UnitState> {
        ready(self.do_stop(name))
    }

    fn restart(&self, name: &UnitName) -> Reply<'_, UnitState> {
        ready(self.do_restart(name))
    }

    fn forget(&self, name: &UnitName) -> Reply<'_, ()> {
        ready(self.do_forget(name))
    }

    fn get(&self, name: &UnitName) -> Reply<'_, Option<UnitState>> {
        ready(
            self.reach()
                .map(|store| store.units.get(name).map(|(_, state)| state.clone())),
        )
    }

    fn list(&self, prefix: &str) -> Reply<'_, UnitTable> {
        ready(self.reach().map(|store| below(&store, prefix)))
    }

    fn wait(&self, name: &UnitName) -> Reply<'_, UnitState> {
        let name = name.clone();
        let mut changed = self.changed.subscribe();
        Box::pin(async move {
            loop {
                changed.mark_unchanged();
                match self.get(&name).await? {
                    None => return Err(UnitsError::NotFound { name }),
                    Some(state) if state.phase.is_ended() => return Ok(state),
                    Some(_) => {}
                }
                if changed.changed().await.is_err() {
                    return Err(UnitsError::NotFound { name });
                }
            }
        })
    }

    fn watch(&self, prefix: &str) -> Watch {
        let (sender, receiver) = watch::channel(Some(Arc::new(below(&self.store(), prefix))));
        let prefix = prefix.to_owned();
        let mut changed = self.changed.subscribe();
        let store = Arc::downgrade(&self.store);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    ended = changed.changed() => if ended.is_err() { return },
                    () = sender.closed() => return,
                }
                let Some(store) = store.upgrade() else { return };
                let table = below(
                    &store.lock().unwrap_or_else(PoisonError::into_inner),
                    &prefix,
                );
                sender.send_replace(Some(Arc::new(table)));
            }
        });
        receiver
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn spec(name: &str) -> UnitSpec {
        UnitSpec::new(name.parse().unwrap(), "/bin/sleep", 7).args(["9"])
    }

    #[tokio::test]
    async fn it_behaves_as_the_supervisor_does() {
        let units = FakeUnits::new("zedrouter");
        let name: UnitName = "zedrouter/dns".parse().unwrap();
        let mut watch = units.watch("zedrouter/");
        assert!(watch.borrow_and_update().as_ref().unwrap().is_empty());

        let first = units.start(spec("zedrouter/dns")).await.unwrap();
        assert_eq!(first, units.start(spec("zedrouter/dns")).await.unwrap());
        let other = units.start(spec("zedrouter/dns").args(["x"])).await;
        assert!(matches!(other, Err(UnitsError::Exists { .. })));
        let foreign = units.start(spec("domainmgr/a")).await;
        assert!(matches!(foreign, Err(UnitsError::Refused { .. })));
        watch.changed().await.unwrap();
        assert!(
            watch
                .borrow_and_update()
                .as_ref()
                .unwrap()
                .contains_key(&name)
        );

        let stopper = units.acting_as("nim").stop(&name).await;
        assert!(matches!(stopper, Err(UnitsError::Refused { .. })));
        let busy = units.forget(&name).await;
        assert!(matches!(busy, Err(UnitsError::Failed { .. })));
        let waiting = {
            let (units, name) = (units.clone(), name.clone());
            tokio::spawn(async move { units.wait(&name).await })
        };
        units.stop(&name).await.unwrap();
        assert!(waiting.await.unwrap().unwrap().phase.is_ended());
        units.forget(&name).await.unwrap();
        assert_eq!(units.get(&name).await.unwrap(), None);
        units.set_unreachable(true);
        assert!(units.list("").await.unwrap_err().is_transient());
    }
}
