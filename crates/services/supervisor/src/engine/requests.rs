//! What callers ask for, allowed already (`server.rs`, `authority.rs`): how it changes the fleet.
//!
//! A request only changes what is wanted; the turn that follows does the work, and then the answer
//! is given, so that a caller sees the effect of what it asked for.

use std::collections::BTreeMap;

use jiff::Timestamp;
use tokio::sync::oneshot;
use units::{UnitName, UnitSpec, UnitState, UnitsError};

use super::{Engine, now};
use crate::filter::Filter;
use crate::machine::{Goal, Life, Origin, Unit};
use crate::plan::{Fleet, Mode};
use crate::server::{Asked, Op};

/// Transient units that one owner may have.
const UNITS_PER_OWNER: usize = 256;
/// Ended transient units of one owner whose record is kept.
const ENDED_PER_OWNER: usize = 64;
/// An answer that is given when the turn has taken effect: the state of this unit, if it is about one.
pub(super) struct Answer {
    to: oneshot::Sender<Result<Option<UnitState>, UnitsError>>,
    about: Result<Option<UnitName>, UnitsError>,
}

impl Engine {
    pub(super) fn handle(&mut self, asked: Asked) {
        let Asked { by, op, answer } = asked;
        let about = match op {
            Op::Start(spec, filter) => self.ask_start(*spec, filter, &by).map(Some),
            Op::Stop(name) => {
                tracing::info!(unit = %name, %by, "asked to stop");
                self.change(name, |unit| unit.want_down(now())).map(Some)
            }
            Op::Restart(name) if self.mode == Mode::Serving => {
                tracing::info!(unit = %name, %by, "asked to restart");
                self.change(name, Unit::want_again).map(Some)
            }
            Op::Restart(_) => Err(ending()),
            Op::Forget(name) => self.forget(name).map(|()| None),
            Op::Down(down, reason) => {
                tracing::warn!(%by, ?down, %reason, "the machine is going down");
                self.down = Some(down);
                self.end(Mode::Halting);
                Ok(None)
            }
        };
        self.answers.push(Answer { to: answer, about });
    }

    /// Gives the answers: what was asked for has taken effect, and shows on the board.
    pub(super) fn answer(&mut self) {
        let now = now();
        for Answer { to, about } in std::mem::take(&mut self.answers) {
            let reply = match about {
                Err(error) => Err(error),
                Ok(None) => Ok(None),
                Ok(Some(name)) => match self.fleet.get(&name) {
                    Some(unit) => Ok(Some(self.state(unit, now))),
                    None => Err(UnitsError::NotFound { name }),
                },
            };
            // Whoever asked may have gone.
            let _ = to.send(reply);
        }
    }

    fn ask_start(
        &mut self,
        spec: UnitSpec,
        filter: Filter,
        by: &str,
    ) -> Result<UnitName, UnitsError> {
        if self.mode != Mode::Serving {
            return Err(ending());
        }
        let name = spec.name.clone();
        if let Some(old) = self.fleet.get(&name)
            && !old.is_ended()
        {
            if old.spec == spec && old.goal == Goal::Up {
                return Ok(name);
            }
            let what = if old.goal == Goal::Up {
                "lives with another spec"
            } else {
                "has not ended yet"
            };
            return Err(UnitsError::Exists {
                reason: format!("unit {name} {what}"),
            });
        }
        let alive = self.fleet.values().filter(|unit| {
            unit.origin == Origin::Transient
                && unit.spec.name.owner() == name.owner()
                && !unit.is_ended()
        });
        if alive.count() >= UNITS_PER_OWNER {
            return Err(UnitsError::Failed {
                reason: format!("{} has {UNITS_PER_OWNER} units already", name.owner()),
            });
        }
        tracing::info!(unit = %name, %by, "asked to start");
        self.parts.world.clear(&name);
        let mut unit = Unit::new(spec, Origin::Transient);
        unit.filter = filter;
        self.fleet.insert(name.clone(), unit);
        Ok(name)
    }

    fn change(
        &mut self,
        name: UnitName,
        change: impl FnOnce(&mut Unit),
    ) -> Result<UnitName, UnitsError> {
        match self.fleet.get_mut(&name) {
            Some(unit) => {
                change(unit);
                Ok(name)
            }
            None => Err(UnitsError::NotFound { name }),
        }
    }

    fn forget(&mut self, name: UnitName) -> Result<(), UnitsError> {
        match self.fleet.get(&name) {
            None => Err(UnitsError::NotFound { name }),
            Some(unit) if !unit.is_ended() => Err(UnitsError::Failed {
                reason: format!("unit {name} has not ended"),
            }),
            Some(unit) if unit.origin == Origin::Service => Err(UnitsError::Invalid {
                reason: format!("{name} is a service"),
            }),
            Some(_) => {
                self.fleet.remove(&name);
                self.parts.world.clear(&name);
                Ok(())
            }
        }
    }
}

fn ending() -> UnitsError {
    UnitsError::Failed {
        reason: "everything is being stopped".into(),
    }
}

/// The oldest ended transient units of owners that have too many.
pub(super) fn surplus(fleet: &Fleet) -> Vec<UnitName> {
    let mut ended: BTreeMap<&str, Vec<(Timestamp, &UnitName)>> = BTreeMap::new();
    for (name, unit) in fleet {
        if let (Life::Ended { at }, Origin::Transient) = (&unit.life, unit.origin) {
            ended.entry(name.owner()).or_default().push((*at, name));
        }
    }
    ended
        .into_values()
        .flat_map(|mut units| {
            units.sort();
            let surplus = units.len().saturating_sub(ENDED_PER_OWNER);
            units.truncate(surplus);
            units.into_iter().map(|(_, name)| name.clone())
        })
        .collect()
}
