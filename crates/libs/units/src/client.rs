//! The gRPC client of the supervisor.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use crate::wire::{self, v1};
use crate::{Reply, UnitName, UnitSpec, UnitState, UnitTable, Units, UnitsError, Watch};
use v1::supervisor_client::SupervisorClient;

/// The supervisor's socket, below the root.
pub const SOCKET: &str = "run/supervisor/supervisor.sock";

/// Longest wait for an answer that the supervisor gives at once.
const ANSWER: Duration = Duration::from_secs(30);
/// Pause between attempts to follow units while the supervisor is away.
const RECONNECT: Duration = Duration::from_millis(200);

/// The supervisor of the device below a root, over its unix socket.
///
/// Cheap to clone. It connects when first used and again whenever the connection is lost, so it
/// may be made before the supervisor listens and outlives its restarts.
#[derive(Clone, Debug)]
pub struct Client {
    grpc: SupervisorClient<Channel>,
    socket: PathBuf,
}

/// A channel to a unix socket that connects when used.
///
/// Fails with [`UnitsError::NoRuntime`] outside of a tokio runtime.
pub fn connect_socket(socket: &Path) -> Result<Channel, UnitsError> {
    if tokio::runtime::Handle::try_current().is_err() {
        return Err(UnitsError::NoRuntime);
    }
    let path = socket.to_owned();
    // The authority is never resolved: the connector knows where to go.
    Ok(
        Endpoint::from_static("http://supervisor").connect_with_connector_lazy(tower::service_fn(
            move |_| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            },
        )),
    )
}

impl Client {
    /// The supervisor of the device below `root`. Nothing is sent before the first request.
    ///
    /// Fails with [`UnitsError::NoRuntime`] outside of a tokio runtime.
    pub fn connect(root: &Path) -> Result<Self, UnitsError> {
        let socket = root.join(SOCKET);
        Ok(Self {
            grpc: SupervisorClient::new(connect_socket(&socket)?),
            socket,
        })
    }

    /// Asks for a reboot (or for power off): everything is stopped in order first.
    ///
    /// Only nodeagent (and root) may; the decision and its reason are its to record.
    pub async fn reboot(&self, reason: &str, power_off: bool) -> Result<(), UnitsError> {
        let request = short(v1::RebootRequest {
            reason: reason.to_owned(),
            power_off,
        });
        let answer = self.grpc.clone().reboot(request).await;
        self.answer(answer, None).map(|v1::RebootReply {}| ())
    }

    fn answer<T>(
        &self,
        answer: Result<Response<T>, Status>,
        name: Option<&UnitName>,
    ) -> Result<T, UnitsError> {
        answer
            .map(Response::into_inner)
            .map_err(|status| wire::error_from_status(&status, &self.socket, name))
    }

    fn unit(
        &self,
        answer: Result<Response<v1::Unit>, Status>,
        name: &UnitName,
    ) -> Result<UnitState, UnitsError> {
        wire::state_from_wire(self.answer(answer, Some(name))?)
    }
}

fn short<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(ANSWER);
    request
}

fn named(name: &UnitName) -> v1::NameRequest {
    v1::NameRequest {
        name: name.to_string(),
    }
}

fn table(list: v1::UnitList) -> Result<UnitTable, UnitsError> {
    list.units
        .into_iter()
        .map(|unit| wire::state_from_wire(unit).map(|state| (state.name.clone(), state)))
        .collect()
}

impl Units for Client {
    fn start(&self, spec: UnitSpec) -> Reply<'_, UnitState> {
        Box::pin(async move {
            spec.check()?;
            let request = short(v1::StartRequest {
                spec: Some(wire::spec_to_wire(&spec)?),
            });
            self.unit(self.grpc.clone().start(request).await, &spec.name)
        })
    }

    fn stop(&self, name: &UnitName) -> Reply<'_, UnitState> {
        let name = name.clone();
        Box::pin(async move {
            let answer = self.grpc.clone().stop(short(named(&name))).await;
            self.unit(answer, &name)
        })
    }

    fn restart(&self, name: &UnitName) -> Reply<'_, UnitState> {
        let name = name.clone();
        Box::pin(async move {
            let answer = self.grpc.clone().restart(short(named(&name))).await;
            self.unit(answer, &name)
        })
    }

    fn forget(&self, name: &UnitName) -> Reply<'_, ()> {
        let name = name.clone();
        Box::pin(async move {
            let answer = self.grpc.clone().forget(short(named(&name))).await;
            match self.answer(answer, Some(&name)) {
                Ok(v1::ForgetReply {}) | Err(UnitsError::NotFound { .. }) => Ok(()),
                Err(error) => Err(error),
            }
        })
    }

    fn get(&self, name: &UnitName) -> Reply<'_, Option<UnitState>> {
        let name = name.clone();
        Box::pin(async move {
            let answer = self.grpc.clone().get(short(named(&name))).await;
            match self.unit(answer, &name) {
                Ok(state) => Ok(Some(state)),
                Err(UnitsError::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        })
    }

    fn list(&self, prefix: &str) -> Reply<'_, UnitTable> {
        let request = short(v1::ListRequest {
            prefix: prefix.to_owned(),
        });
        Box::pin(async move { table(self.answer(self.grpc.clone().list(request).await, None)?) })
    }

    fn wait(&self, name: &UnitName) -> Reply<'_, UnitState> {
        let name = name.clone();
        Box::pin(async move {
            let answer = self.grpc.clone().wait(Request::new(named(&name))).await;
            self.unit(answer, &name)
        })
    }

    fn watch(&self, prefix: &str) -> Watch {
        let (sender, receiver) = watch::channel(None);
        let follower = Follower {
            client: self.clone(),
            prefix: prefix.to_owned(),
            sender,
        };
        tokio::spawn(follower.run());
        receiver
    }
}

/// Keeps one watch's table up to date until nobody looks at it any more.
struct Follower {
    client: Client,
    prefix: String,
    sender: watch::Sender<Option<Arc<UnitTable>>>,
}

impl Follower {
    async fn run(self) {
        let mut reachable = true;
        while !self.sender.is_closed() {
            let ended = tokio::select! {
                ended = self.follow() => ended,
                () = self.sender.closed() => return,
            };
            let reached = !matches!(ended, Err(UnitsError::Unreachable { .. }));
            if reachable != reached {
                tracing::debug!(?ended, "the supervisor's list of units");
            }
            reachable = reached;
            tokio::time::sleep(RECONNECT).await;
        }
    }

    async fn follow(&self) -> Result<(), UnitsError> {
        let request = Request::new(v1::ListRequest {
            prefix: self.prefix.clone(),
        });
        let answer = self.client.grpc.clone().watch(request).await;
        let mut stream = self.client.answer(answer, None)?;
        loop {
            let message = stream
                .message()
                .await
                .map_err(|status| wire::error_from_status(&status, &self.client.socket, None))?;
            let Some(list) = message else { return Ok(()) };
            let now = Arc::new(table(list)?);
            self.sender.send_if_modified(|last| {
                let differs = last.as_deref() != Some(&*now);
                if differs {
                    *last = Some(now);
                }
                differs
            });
        }
    }
}
