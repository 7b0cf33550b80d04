//! Ctrl-C as a flag: what runs notices it and returns, so that nothing is left behind.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Result, bail};
use tokio::signal::unix::{SignalKind, signal};

/// Whether the user wants an end.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Watches SIGINT, SIGTERM and SIGHUP. They are caught, not blocked: a blocked signal would stay blocked in every
    /// program that is started from here.
    pub fn watch() -> Result<Self> {
        let stop = Self::default();
        let flag = stop.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
        std::thread::spawn(move || runtime.block_on(flag.listen()));
        Ok(stop)
    }

    async fn listen(&self) -> io::Result<()> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
            self.0.store(true, Ordering::SeqCst);
        }
    }

    /// Whether that is so.
    pub fn is_wanted(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// An error once the user wants an end.
    pub fn check(&self) -> Result<()> {
        if self.is_wanted() {
            bail!("interrupted");
        }
        Ok(())
    }

    /// What was done, or that it was interrupted: what fails after Ctrl-C fails because of it.
    pub fn or_done<T>(&self, done: Result<T>) -> Result<T> {
        if done.is_err() {
            self.check()?;
        }
        done
    }
}
