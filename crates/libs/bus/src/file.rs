//! The bus in files: see the crate's documentation for the layout.
//!
//! `layout.rs` says where everything is and makes directories, `write.rs` is the writer's side, `read.rs` the readers',
//! `watch.rs` learns of changes from inotify, `follow.rs` waits for them.
//!
//! On restart nothing has to be repaired: what a killed writer left is either complete or a file in `.bus-tmp`, which the
//! next writer of the topic removes.

mod follow;
pub mod layout;
mod read;
mod watch;
mod write;

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use crate::{
    BusError,
    error::Doing,
    feed::Feed,
    file::{layout::Layout, watch::Watch, write::FileWriter},
    lock::Lock,
    store::{Known, Names, Raw, ReadyMark, Sink, Store, Summary, Writer},
    topic::Place,
};

/// All topics below one root directory.
pub(crate) struct FileStore {
    layout: Layout,
    /// One inotify instance per process is enough, and none for those who only write.
    watch: Mutex<Option<Arc<Watch>>>,
}

impl FileStore {
    pub(crate) fn open(root: &Path) -> Result<Self, BusError> {
        // The kernel reports changes by the path that was asked for: it has to be the same whatever the current directory.
        let root = std::path::absolute(root).doing("find the absolute path of", root)?;
        Ok(Self {
            layout: Layout::new(root),
            watch: Mutex::new(None),
        })
    }

    fn watch(&self) -> Result<Arc<Watch>, BusError> {
        let mut watch = self.watch.held();
        if let Some(watch) = &*watch {
            return Ok(Arc::clone(watch));
        }
        let new = Watch::new(self.layout.root())?;
        *watch = Some(Arc::clone(&new));
        Ok(new)
    }

    fn existing_watch(&self) -> Option<Arc<Watch>> {
        self.watch.held().clone()
    }
}

impl Store for FileStore {
    fn writer(&self, place: &Place) -> Result<Box<dyn Writer>, BusError> {
        Ok(Box::new(FileWriter::take_over(&self.layout, place)?))
    }

    fn intruder(&self, place: &Place) -> Result<Box<dyn Writer>, BusError> {
        Ok(Box::new(FileWriter::beside(&self.layout, place)?))
    }

    fn scan(
        &self,
        place: &Place,
        known: &dyn Known,
        sinks: &mut [&mut Sink<'_>],
    ) -> Result<Names, BusError> {
        read::scan(&self.layout.topic(place), known, sinks)
    }

    fn fetch<'a>(
        &self,
        place: &Place,
        name: &'a str,
        buffer: &'a mut Vec<u8>,
    ) -> Result<Option<Raw<'a>>, BusError> {
        read::fetch(&self.layout.topic(place), name, buffer)
    }

    fn last_good(&self, place: &Place, name: &str) -> Result<Option<Vec<u8>>, BusError> {
        read::last_good(&self.layout.topic(place), name)
    }

    fn ready(
        &self,
        place: &Place,
        seen: Option<&ReadyMark>,
    ) -> Result<Option<ReadyMark>, BusError> {
        read::ready(&self.layout.topic(place), seen)
    }

    fn attach(&self, place: &Place, feed: &Arc<Feed>) -> Result<(), BusError> {
        let watch = self.watch()?;
        let followed = watch.followers().ensure(&watch);
        followed.map_err(|source| BusError::Watch {
            path: self.layout.root().to_owned(),
            source,
        })?;
        watch.attach(&self.layout.topic(place), feed)
    }

    fn detach(&self, _place: &Place, feed: &Arc<Feed>) {
        if let Some(watch) = self.existing_watch() {
            watch.detach(feed);
        }
    }

    fn catch_up(&self) {
        if let Some(watch) = self.existing_watch() {
            watch.drain();
        }
    }

    fn follow(&self) {
        if let Some(watch) = self.existing_watch()
            && let Err(error) = watch.followers().ensure(&watch)
        {
            tracing::error!(%error, "nobody waits for changes here; they are seen when somebody looks");
        }
    }

    fn places(&self) -> Result<Vec<Place>, BusError> {
        read::places(&self.layout)
    }

    fn summary(&self, place: &Place) -> Result<Summary, BusError> {
        read::summary(&self.layout.topic(place))
    }
}
