//! Asks the guest again and again, as a user of the application would.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::Result;
use demo::Stage;

use crate::support::{field, page};

/// Who answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Who {
    /// Changes with every boot of the guest.
    pub boot: String,
    /// Boots from its volume.
    pub boots: u32,
    /// Changes with a purge.
    pub instance: String,
}

#[derive(Debug, Clone)]
struct Answer {
    asked: Instant,
    who: Option<Who>,
}

/// The answers so far.
#[derive(Debug, Default)]
pub(crate) struct Asker {
    answers: Mutex<Vec<Answer>>,
    is_over: AtomicBool,
}

/// Ends the asking when it is dropped, also by a panic.
pub(crate) struct End<'a>(&'a Asker);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::SeqCst);
    }
}

impl Asker {
    pub(crate) fn end_with_this(&self) -> End<'_> {
        End(self)
    }

    /// Asks until the end.
    pub(crate) fn ask(&self, stage: &Stage) {
        while !self.is_over.load(Ordering::SeqCst) {
            let asked = Instant::now();
            let who = who(stage).ok();
            self.answers.lock().unwrap().push(Answer { asked, who });
            sleep(Duration::from_millis(100));
        }
    }

    /// Forgets what was answered: it is another application's.
    pub(crate) fn forget(&self) {
        self.answers.lock().unwrap().clear();
    }

    /// The newest answer.
    pub(crate) fn last(&self) -> Option<Who> {
        self.answers.lock().unwrap().last()?.who.clone()
    }

    fn since(&self, since: Instant) -> Vec<Answer> {
        let answers = self.answers.lock().unwrap();
        let after = answers.iter().filter(|answer| answer.asked >= since);
        after.cloned().collect()
    }

    /// How many requests in a row had no answer, at most.
    pub(crate) fn longest_failure(&self, since: Instant) -> usize {
        let (mut longest, mut now) = (0, 0);
        for answer in self.since(since) {
            now = if answer.who.is_some() { 0 } else { now + 1 };
            longest = longest.max(now);
        }
        longest
    }

    /// Who answered, in their order.
    pub(crate) fn seen(&self, since: Instant) -> Vec<Who> {
        let answers = self.since(since);
        let mut seen: Vec<Who> = answers.into_iter().filter_map(|a| a.who).collect();
        seen.dedup();
        seen
    }
}

fn who(stage: &Stage) -> Result<Who> {
    let page = page(stage)?;
    Ok(Who {
        boot: field(&page, "boot-id")?,
        boots: field(&page, "boots")?.parse()?,
        instance: field(&page, "instance-id")?,
    })
}
