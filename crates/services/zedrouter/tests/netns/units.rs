//! Units that are real processes, with the user and the capabilities that the supervisor gives them.

use std::{
    collections::BTreeMap,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use jiff::Timestamp;
use tokio::sync::watch;
use units::{
    Capability, Exit, ExitKind, Phase, Reply, UnitName, UnitSpec, UnitState, UnitTable, Units,
    UnitsError, Watch,
};

/// A supervisor for tests. What it runs ends with it.
pub struct Processes {
    running: Mutex<BTreeMap<UnitName, (UnitSpec, Child, Timestamp)>>,
    ended: Mutex<BTreeMap<UnitName, UnitSpec>>,
    table: watch::Sender<Option<Arc<UnitTable>>>,
    /// How many units were started.
    pub started: Mutex<usize>,
}

impl Processes {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            running: Mutex::default(),
            ended: Mutex::default(),
            table: watch::Sender::new(Some(Arc::default())),
            started: Mutex::default(),
        })
    }

    fn state(spec: &UnitSpec, phase: Phase) -> UnitState {
        UnitState {
            name: spec.name.clone(),
            phase,
            restarts: 0,
            last_exit: None,
            memory_bytes: None,
            uid: spec.sandbox.uid,
            labels: spec.labels.clone(),
            status_text: String::new(),
        }
    }

    fn all(&self) -> UnitTable {
        let at = Timestamp::UNIX_EPOCH;
        let running = self.running.lock().unwrap();
        let alive = running.values().map(|(spec, child, since)| {
            let (pid, since) = (child.id(), *since);
            Self::state(spec, Phase::Running { pid, since })
        });
        let ended = self.ended.lock().unwrap();
        let dead = ended.values().map(|spec| UnitState {
            last_exit: Some(Exit {
                at,
                kind: ExitKind::Signal(15),
            }),
            ..Self::state(spec, Phase::Ended { at })
        });
        alive
            .chain(dead)
            .map(|state| (state.name.clone(), state))
            .collect()
    }

    fn publish(&self) {
        self.table.send_replace(Some(Arc::new(self.all())));
    }

    fn do_start(&self, spec: UnitSpec) -> Result<UnitState, UnitsError> {
        spec.check()?;
        let mut running = self.running.lock().unwrap();
        if let Some((old, child, since)) = running.get(&spec.name) {
            let (pid, since) = (child.id(), *since);
            return if *old == spec {
                Ok(Self::state(old, Phase::Running { pid, since }))
            } else {
                let reason = format!("{} lives", spec.name);
                Err(UnitsError::Exists { reason })
            };
        }
        let word = |c: &Capability| c.as_str()[4..].to_lowercase();
        let caps: Vec<String> = spec.sandbox.capabilities.iter().map(word).collect();
        let plus = format!("-all,+{}", caps.join(",+"));
        let child = Command::new("setpriv")
            .args(["--reuid", &spec.sandbox.uid.to_string()])
            .args(["--regid", &spec.sandbox.gid.to_string(), "--clear-groups"])
            .args([
                "--inh-caps",
                &plus,
                "--bounding-set",
                &plus,
                "--ambient-caps",
                &plus,
            ])
            .args(["--no-new-privs", "--"])
            .args(&spec.argv)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let (pid, since) = (child.id(), Timestamp::now());
        let state = Self::state(&spec, Phase::Running { pid, since });
        self.ended.lock().unwrap().remove(&spec.name);
        running.insert(spec.name.clone(), (spec, child, since));
        drop(running);
        *self.started.lock().unwrap() += 1;
        self.publish();
        Ok(state)
    }

    fn do_stop(&self, name: &UnitName) -> Result<UnitState, UnitsError> {
        let gone = || UnitsError::NotFound { name: name.clone() };
        let (spec, mut child, _) = self.running.lock().unwrap().remove(name).ok_or_else(gone)?;
        end(&mut child);
        self.ended.lock().unwrap().insert(name.clone(), spec);
        self.publish();
        Ok(self.all()[name].clone())
    }
}

fn end(child: &mut Child) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
    child.wait().unwrap();
}

impl Drop for Processes {
    fn drop(&mut self) {
        for (_, child, _) in self.running.get_mut().unwrap().values_mut() {
            end(child);
        }
    }
}

fn ready<T: Send + 'static>(result: Result<T, UnitsError>) -> Reply<'static, T> {
    Box::pin(std::future::ready(result))
}

impl Units for Processes {
    fn start(&self, spec: UnitSpec) -> Reply<'_, UnitState> {
        ready(self.do_start(spec))
    }

    fn stop(&self, name: &UnitName) -> Reply<'_, UnitState> {
        ready(self.do_stop(name))
    }

    fn restart(&self, name: &UnitName) -> Reply<'_, UnitState> {
        let result = self.do_stop(name).and_then(|_| {
            let spec = self.ended.lock().unwrap()[name].clone();
            self.do_start(spec)
        });
        ready(result)
    }

    fn forget(&self, name: &UnitName) -> Reply<'_, ()> {
        self.ended.lock().unwrap().remove(name);
        self.publish();
        ready(Ok(()))
    }

    fn get(&self, name: &UnitName) -> Reply<'_, Option<UnitState>> {
        ready(Ok(self.all().get(name).cloned()))
    }

    fn list(&self, _: &str) -> Reply<'_, UnitTable> {
        ready(Ok(self.all()))
    }

    fn wait(&self, name: &UnitName) -> Reply<'_, UnitState> {
        ready(
            self.all()
                .get(name)
                .cloned()
                .ok_or_else(|| UnitsError::NotFound { name: name.clone() }),
        )
    }

    fn watch(&self, _: &str) -> Watch {
        self.table.subscribe()
    }
}
