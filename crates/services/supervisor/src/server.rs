//! The gRPC side: checks who asks, hands requests to the engine, answers questions from the board.
//!
//! The engine is one task that owns all state; requests reach it through a channel, and it shows the
//! state of all units on a board (`tokio::sync::watch`) that everything else reads.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::transport::server::UdsConnectInfo;
use tonic::{Request, Response, Status};
use units::wire::{self, v1};
use units::{UnitName, UnitSpec, UnitState, UnitTable, UnitsError, ids, login};
use v1::supervisor_server::{Supervisor, SupervisorServer};

use crate::authority::{Caller, Facts};
use crate::filter::Filter;
use crate::power::Down;

/// The state of all units, for everybody to read.
pub(crate) type Board = watch::Receiver<Arc<UnitTable>>;

/// What the engine is asked to do; allowed already.
#[derive(Debug)]
pub(crate) enum Op {
    /// Start a transient unit, with the system calls and the network that its owner's units have.
    Start(Box<UnitSpec>, Filter),
    /// End a unit.
    Stop(UnitName),
    /// End its process and start another.
    Restart(UnitName),
    /// Drop an ended unit.
    Forget(UnitName),
    /// Stop everything and bring the machine down.
    Down(Down, String),
}

/// A request with where its answer goes. Requests that concern no unit are answered with `None`.
#[derive(Debug)]
pub(crate) struct Asked {
    /// Who asks, for the log.
    pub by: String,
    /// What for.
    pub op: Op,
    /// The answer.
    pub answer: oneshot::Sender<Result<Option<UnitState>, UnitsError>>,
}

/// A socket that can't be served.
#[derive(Debug, thiserror::Error)]
#[error("can't serve {path}: {source} (a path of a socket may have 107 bytes)", path = path.display())]
pub(crate) struct ServeError {
    path: PathBuf,
    source: std::io::Error,
}

/// Serves the socket of the device below `root` until the task is aborted.
pub(crate) fn serve(
    root: &Path,
    socket: &Path,
    engine: mpsc::Sender<Asked>,
    board: Board,
) -> Result<JoinHandle<()>, ServeError> {
    let failed = |source| ServeError {
        path: socket.to_owned(),
        source,
    };
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(socket).map_err(failed)?;
    std::os::unix::fs::chown(socket, Some(0), Some(ids::EVE_GID)).map_err(failed)?;
    std::fs::set_permissions(socket, PermissionsExt::from_mode(0o660)).map_err(failed)?;
    let service = SupervisorServer::new(Desk {
        root: root.to_owned(),
        engine,
        board,
    });
    Ok(tokio::spawn(async move {
        let served = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(UnixListenerStream::new(listener))
            .await;
        tracing::error!(?served, "the socket is no longer served");
    }))
}

struct Desk {
    root: PathBuf,
    engine: mpsc::Sender<Asked>,
    board: Board,
}

/// Makes the directory in which sshd locks up the part of itself that talks to strangers.
fn make_ready_for_sshd() -> Result<(), UnitsError> {
    let made = match std::fs::create_dir(login::SSHD_EMPTY) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(()),
        other => other,
    };
    let mode = std::fs::Permissions::from_mode(0o755);
    made.and_then(|()| std::fs::set_permissions(login::SSHD_EMPTY, mode))
        .map_err(|error| UnitsError::Failed {
            reason: format!("{}: {error}", login::SSHD_EMPTY),
        })
}

/// The groups of the devices that guests use; only those that are not root's.
fn device_groups() -> Vec<u32> {
    ["/dev/kvm", "/dev/net/tun", "/dev/vhost-net"]
        .iter()
        .filter_map(|path| std::fs::metadata(path).ok())
        .map(|metadata| metadata.gid())
        .filter(|gid| *gid != 0)
        .collect()
}

fn caller<T>(request: &Request<T>) -> Result<Caller, UnitsError> {
    request
        .extensions()
        .get::<UdsConnectInfo>()
        .and_then(|info| info.peer_cred)
        .map(|peer| Caller::new(peer.uid()))
        .ok_or_else(|| UnitsError::Refused {
            reason: "the kernel does not say who asks".into(),
        })
}

fn parse_name(text: &str) -> Result<UnitName, UnitsError> {
    text.parse()
        .map_err(|error: units::NameError| UnitsError::Invalid {
            reason: error.to_string(),
        })
}

fn unit(result: Result<UnitState, UnitsError>) -> Result<Response<v1::Unit>, Status> {
    match result {
        Ok(state) => Ok(Response::new(wire::state_to_wire(&state))),
        Err(error) => Err(wire::status_from_error(&error)),
    }
}

fn list(table: &UnitTable, prefix: &str) -> v1::UnitList {
    v1::UnitList {
        units: table
            .iter()
            .filter(|(name, _)| name.as_str().starts_with(prefix))
            .map(|(_, state)| wire::state_to_wire(state))
            .collect(),
    }
}

impl Desk {
    async fn ask(&self, caller: Caller, op: Op) -> Result<Option<UnitState>, UnitsError> {
        let gone = || UnitsError::Failed {
            reason: "it is ending".into(),
        };
        let (answer, answered) = oneshot::channel();
        let by = caller.describe();
        let asked = Asked { by, op, answer };
        self.engine.send(asked).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    async fn ask_unit(&self, caller: Caller, op: Op) -> Result<UnitState, UnitsError> {
        self.ask(caller, op)
            .await?
            .ok_or_else(|| UnitsError::Answer {
                reason: "no state".into(),
            })
    }

    async fn start_unit(
        &self,
        request: Request<v1::StartRequest>,
    ) -> Result<UnitState, UnitsError> {
        let caller = caller(&request)?;
        let spec = request.into_inner().spec.ok_or(UnitsError::Invalid {
            reason: "no spec".into(),
        })?;
        let spec = wire::spec_from_wire(spec)?;
        let facts = Facts {
            device_groups: &device_groups(),
            remote_access_disabled: login::remote_access_disabled(&self.root),
        };
        caller.may_start(&spec, &self.root, &facts)?;
        if login::is_login(&self.root, &spec) {
            make_ready_for_sshd()?;
        }
        self.ask_unit(caller, Op::Start(Box::new(spec), caller.filter()))
            .await
    }

    /// Reads the name and checks that the caller may manage that unit.
    fn managed(request: &Request<v1::NameRequest>) -> Result<(Caller, UnitName), UnitsError> {
        let caller = caller(request)?;
        let name = parse_name(&request.get_ref().name)?;
        caller.may_manage(&name)?;
        Ok((caller, name))
    }

    async fn stop_unit(&self, request: Request<v1::NameRequest>) -> Result<UnitState, UnitsError> {
        let (caller, name) = Self::managed(&request)?;
        self.ask_unit(caller, Op::Stop(name)).await
    }

    async fn restart_unit(
        &self,
        request: Request<v1::NameRequest>,
    ) -> Result<UnitState, UnitsError> {
        let (caller, name) = Self::managed(&request)?;
        self.ask_unit(caller, Op::Restart(name)).await
    }

    async fn forget_unit(&self, request: Request<v1::NameRequest>) -> Result<(), UnitsError> {
        let (caller, name) = Self::managed(&request)?;
        self.ask(caller, Op::Forget(name)).await.map(|_| ())
    }

    async fn bring_down(&self, request: Request<v1::RebootRequest>) -> Result<(), UnitsError> {
        let caller = caller(&request)?;
        caller.may_reboot()?;
        let request = request.into_inner();
        let down = if request.power_off {
            Down::PowerOff
        } else {
            Down::Reboot
        };
        let reason = request.reason.chars().take(500).collect();
        self.ask(caller, Op::Down(down, reason)).await.map(|_| ())
    }

    fn get_unit(&self, name: &str) -> Result<UnitState, UnitsError> {
        let name = parse_name(name)?;
        let state = self.board.borrow().get(&name).cloned();
        state.ok_or(UnitsError::NotFound { name })
    }

    async fn ended_unit(&self, name: &str) -> Result<UnitState, UnitsError> {
        let mut board = self.board.clone();
        loop {
            board.mark_unchanged();
            let state = self.get_unit(name)?;
            if state.phase.is_ended() {
                return Ok(state);
            }
            board.changed().await.map_err(|_| UnitsError::Failed {
                reason: "it is ending".into(),
            })?;
        }
    }
}

type Lists = Pin<Box<dyn tokio_stream::Stream<Item = Result<v1::UnitList, Status>> + Send>>;

#[tonic::async_trait]
impl Supervisor for Desk {
    async fn start(
        &self,
        request: Request<v1::StartRequest>,
    ) -> Result<Response<v1::Unit>, Status> {
        unit(self.start_unit(request).await)
    }

    async fn stop(&self, request: Request<v1::NameRequest>) -> Result<Response<v1::Unit>, Status> {
        unit(self.stop_unit(request).await)
    }

    async fn restart(
        &self,
        request: Request<v1::NameRequest>,
    ) -> Result<Response<v1::Unit>, Status> {
        unit(self.restart_unit(request).await)
    }

    async fn forget(
        &self,
        request: Request<v1::NameRequest>,
    ) -> Result<Response<v1::ForgetReply>, Status> {
        match self.forget_unit(request).await {
            Ok(()) => Ok(Response::new(v1::ForgetReply {})),
            Err(error) => Err(wire::status_from_error(&error)),
        }
    }

    async fn get(&self, request: Request<v1::NameRequest>) -> Result<Response<v1::Unit>, Status> {
        unit(self.get_unit(&request.get_ref().name))
    }

    async fn list(
        &self,
        request: Request<v1::ListRequest>,
    ) -> Result<Response<v1::UnitList>, Status> {
        let table = self.board.borrow().clone();
        Ok(Response::new(list(&table, &request.get_ref().prefix)))
    }

    async fn wait(&self, request: Request<v1::NameRequest>) -> Result<Response<v1::Unit>, Status> {
        unit(self.ended_unit(&request.get_ref().name).await)
    }

    type WatchStream = Lists;

    async fn watch(
        &self,
        request: Request<v1::ListRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let prefix = request.into_inner().prefix;
        let mut board = self.board.clone();
        // One slot: a slow reader gets the newest list next, not every list.
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut last = None;
            loop {
                let now = list(&board.borrow_and_update().clone(), &prefix);
                if last.as_ref() != Some(&now) {
                    if sender.send(Ok(now.clone())).await.is_err() {
                        return;
                    }
                    last = Some(now);
                }
                tokio::select! {
                    changed = board.changed() => if changed.is_err() { return },
                    () = sender.closed() => return,
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn reboot(
        &self,
        request: Request<v1::RebootRequest>,
    ) -> Result<Response<v1::RebootReply>, Status> {
        match self.bring_down(request).await {
            Ok(()) => Ok(Response::new(v1::RebootReply {})),
            Err(error) => Err(wire::status_from_error(&error)),
        }
    }
}
