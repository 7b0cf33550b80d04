//! Waiting for events: somebody has to, wherever the readers wait.
//!
//! The tokio runtime in which a reader waits gets a task that waits for the inotify descriptor with it: from the event to
//! the reader everything happens on one thread, without a switch to another. Where there is no runtime a thread waits. A
//! runtime may end before the bus does; then a thread takes its place, unless another runtime waits already.
//!
//! More than one may wait: whoever is first sorts the events, the others find nothing.

use std::{
    collections::HashMap,
    io::{self, PipeReader, PipeWriter},
    os::fd::OwnedFd,
    sync::{Arc, Mutex, Weak},
    thread,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    runtime::{Handle, Id},
    task::AbortHandle,
};

use crate::{file::watch::Watch, lock::Lock};

/// Who waits for events. Ends them all when dropped.
#[derive(Default)]
pub(super) struct Followers(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    /// The runtimes that have or had a task. One without a handle has ended, or will be given its handle at once.
    tasks: HashMap<Id, Option<AbortHandle>>,
    /// Its thread ends when this is dropped.
    thread: Option<PipeWriter>,
}

impl Followers {
    /// Makes sure that somebody waits where the caller is about to. `watch` is what these are the followers of.
    pub(super) fn ensure(&self, watch: &Arc<Watch>) -> io::Result<()> {
        let Ok(runtime) = Handle::try_current() else {
            return self.0.held().ensure_thread(watch);
        };
        {
            // A runtime in which waiting came to an end has ended itself or is not made for it: no second try.
            let mut waiting = self.0.held();
            if waiting.tasks.contains_key(&runtime.id()) {
                return Ok(());
            }
            waiting.tasks.insert(runtime.id(), None);
        }
        let place = Place {
            watch: Arc::downgrade(watch),
            runtime: runtime.id(),
        };
        // Not under the lock: a runtime that is ending drops the task, which gives its place back, before this returns.
        let task = runtime.spawn(follow(watch.descriptor(), place));
        let mut waiting = self.0.held();
        waiting
            .tasks
            .insert(runtime.id(), Some(task.abort_handle()));
        Ok(())
    }

    /// The task in this runtime has ended, and not because it was told to.
    fn gone(&self, runtime: Id, watch: &Arc<Watch>) {
        let mut waiting = self.0.held();
        waiting.tasks.insert(runtime, None);
        let mut others = waiting.tasks.values().flatten();
        if others.all(AbortHandle::is_finished)
            && let Err(error) = waiting.ensure_thread(watch)
        {
            tracing::error!(%error, "no thread to wait for changes; they are seen when somebody looks");
        }
    }
}

impl Drop for Followers {
    fn drop(&mut self) {
        for task in self.0.held().tasks.values().flatten() {
            task.abort();
        }
    }
}

impl Waiting {
    fn ensure_thread(&mut self, watch: &Arc<Watch>) -> io::Result<()> {
        if self.thread.is_some() {
            return Ok(());
        }
        let (end, alive) = io::pipe()?;
        let descriptor = watch.descriptor();
        let watch = Arc::downgrade(watch);
        thread::Builder::new()
            .name("bus-events".into())
            .spawn(move || follow_in_thread(&descriptor, &watch, &end))?;
        self.thread = Some(alive);
        Ok(())
    }
}

/// A task's place among the followers. Dropped with the task, also when that was never run.
struct Place {
    watch: Weak<Watch>,
    runtime: Id,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(watch) = self.watch.upgrade() {
            watch.followers().gone(self.runtime, &watch);
        }
    }
}

#[expect(
    deprecated,
    reason = "what replaces it is unsafe; an owned descriptor stays open as long as it has to"
)]
async fn follow(descriptor: Arc<OwnedFd>, place: Place) {
    let descriptor = match AsyncFd::with_interest(descriptor, Interest::READABLE) {
        Ok(descriptor) => descriptor,
        Err(error) => {
            tracing::warn!(%error, "the runtime can't wait for inotify");
            return;
        }
    };
    loop {
        let mut events = match descriptor.readable().await {
            Ok(events) => events,
            Err(error) => {
                tracing::warn!(%error, "the runtime can't wait for inotify any more");
                return;
            }
        };
        // Before draining: an event that comes while that is done makes it readable again.
        events.clear_ready();
        let Some(watch) = place.watch.upgrade() else {
            return;
        };
        watch.drain();
    }
}

fn follow_in_thread(descriptor: &OwnedFd, watch: &Weak<Watch>, end: &PipeReader) {
    loop {
        let mut events = [
            PollFd::new(descriptor, PollFlags::IN),
            PollFd::new(end, PollFlags::IN),
        ];
        match poll(&mut events, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => {
                tracing::error!(%error, "can't wait for changes; they are seen when somebody looks");
                return;
            }
        }
        if !events[1].revents().is_empty() {
            return;
        }
        let Some(watch) = watch.upgrade() else {
            return;
        };
        watch.drain();
    }
}
