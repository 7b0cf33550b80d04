//! `supervisor/ServiceStatus` on the bus.

use std::path::{Path, PathBuf};

use bus::{Bus, BusError, Publisher, Rows};
use model::service::ServiceStatus;
use model::topics::SERVICE_STATUS;

/// Where the state of units is published.
pub(crate) trait Publish: Send {
    /// Makes the published table these rows. Failures are the publisher's own matter: the supervisor
    /// runs its units whether somebody sees it or not.
    fn publish(&mut self, rows: &Rows<ServiceStatus>);
}

/// The bus in the files below the root. After a failure it is opened anew at the next turn.
pub(crate) struct OnBus {
    root: PathBuf,
    publisher: Option<Publisher<ServiceStatus>>,
    failing: bool,
}

impl OnBus {
    /// Opens nothing yet.
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            publisher: None,
            failing: false,
        }
    }

    fn try_publish(&mut self, rows: &Rows<ServiceStatus>) -> Result<(), BusError> {
        let publisher = if let Some(publisher) = &mut self.publisher {
            publisher
        } else {
            let bus = Bus::open(&self.root, "supervisor")?;
            self.publisher.insert(bus.publisher(&SERVICE_STATUS)?)
        };
        publisher.replace(rows)?;
        publisher.set_ready()?;
        Ok(())
    }
}

impl Publish for OnBus {
    fn publish(&mut self, rows: &Rows<ServiceStatus>) {
        match self.try_publish(rows) {
            Ok(()) => self.failing = false,
            Err(error) => {
                if !self.failing {
                    tracing::error!(%error, "ServiceStatus can't be published");
                }
                self.failing = true;
                self.publisher = None;
            }
        }
    }
}
