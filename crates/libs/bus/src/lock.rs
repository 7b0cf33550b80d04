//! Locks whose data stays sound when a holder panics: every critical section here leaves it consistent at each step.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Taking a lock without a second failure path.
pub(crate) trait Lock<T> {
    fn held(&self) -> MutexGuard<'_, T>;
}

impl<T> Lock<T> for Mutex<T> {
    fn held(&self) -> MutexGuard<'_, T> {
        self.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
