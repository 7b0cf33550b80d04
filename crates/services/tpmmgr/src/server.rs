//! The gRPC side: checks who asks and that the question makes sense, and hands it to the keys.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::server::UdsConnectInfo;
use tonic::{Request, Response, Status};
use tpm::wire::{self, v1};
use tpm::{Pcr, PcrError, PcrSelection, TpmError, Zeroizing};
use v1::tpm_server::{Tpm, TpmServer};

use crate::authority::{Caller, Wish};
use crate::keys::Keys;

/// No request is larger: a point, a secret, an NV index with eight sets of PCRs at most.
const LONGEST_REQUEST: usize = 64 * 1024;

/// A socket that can't be served.
#[derive(Debug, thiserror::Error)]
#[error("can't serve {}", .path.display())]
pub struct ServeError {
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

/// Serves the socket below `root` until the process ends.
pub fn serve(root: &Path, keys: Keys) -> Result<(), ServeError> {
    let socket = root.join(tpm::SOCKET);
    let failed = |source| ServeError {
        path: socket.clone(),
        source,
    };
    match std::fs::remove_file(&socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        Ok(()) | Err(_) => {}
    }
    if let Some(dir) = socket.parent() {
        std::fs::create_dir_all(dir).map_err(failed)?;
    }
    let listener = UnixListener::bind(&socket).map_err(failed)?;
    // Its group is that of the directory: `eve`. What each of them may ask is in `authority.rs`.
    std::fs::set_permissions(&socket, PermissionsExt::from_mode(0o660)).map_err(failed)?;
    let service = TpmServer::new(Desk(keys)).max_decoding_message_size(LONGEST_REQUEST);
    tokio::spawn(async move {
        let served = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(UnixListenerStream::new(listener))
            .await;
        tracing::error!(?served, "the socket is no longer served");
    });
    Ok(())
}

struct Desk(Keys);

fn allowed<T>(request: &Request<T>, wish: Wish<'_>) -> Result<(), Status> {
    let peer = request
        .extensions()
        .get::<UdsConnectInfo>()
        .and_then(|info| info.peer_cred);
    let may = match peer {
        Some(peer) => Caller::new(peer.uid()).may(wish),
        None => Err(TpmError::Refused {
            reason: "the kernel does not say who asks".to_owned(),
        }),
    };
    may.map_err(|error| {
        tracing::warn!(%error, "asked");
        refuse(&error)
    })
}

fn refuse(error: &TpmError) -> Status {
    wire::status_from_error(error)
}

fn answer<T, W>(
    result: Result<T, TpmError>,
    form: impl FnOnce(T) -> W,
) -> Result<Response<W>, Status> {
    match result {
        Ok(value) => Ok(Response::new(form(value))),
        Err(error) => Err(refuse(&error)),
    }
}

fn invalid(reason: String) -> Status {
    refuse(&TpmError::Invalid { reason })
}

fn selection(indices: &[u32]) -> Result<PcrSelection, Status> {
    wire::selection_from_wire(indices).map_err(|error: PcrError| invalid(error.to_string()))
}

#[tonic::async_trait]
impl Tpm for Desk {
    async fn describe(
        &self,
        request: Request<v1::DescribeRequest>,
    ) -> Result<Response<v1::Description>, Status> {
        allowed(&request, Wish::Look)?;
        Ok(Response::new(wire::description_to_wire(&self.0.describe())))
    }

    async fn sign(
        &self,
        request: Request<v1::SignRequest>,
    ) -> Result<Response<v1::SignReply>, Status> {
        let key = wire::key_from_wire(request.get_ref().key).map_err(|e| refuse(&e))?;
        allowed(&request, Wish::Sign(key))?;
        let digest = wire::asked(&request.get_ref().digest, "digest").map_err(|e| refuse(&e))?;
        answer(self.0.sign(key, digest).await, |signature| v1::SignReply {
            signature: signature.0.to_vec(),
        })
    }

    async fn ecdh(
        &self,
        request: Request<v1::EcdhRequest>,
    ) -> Result<Response<v1::EcdhReply>, Status> {
        allowed(&request, Wish::Ecdh)?;
        let shared = self.0.ecdh(request.into_inner().peer).await;
        answer(shared, |point| wire::point_to_wire(&point))
    }

    async fn quote(
        &self,
        request: Request<v1::QuoteRequest>,
    ) -> Result<Response<v1::QuoteReply>, Status> {
        allowed(&request, Wish::Quote)?;
        let v1::QuoteRequest { nonce, event_log } = request.into_inner();
        answer(self.0.quote(nonce, event_log).await, wire::quote_to_wire)
    }

    async fn seal(
        &self,
        request: Request<v1::SealRequest>,
    ) -> Result<Response<v1::SealReply>, Status> {
        allowed(&request, Wish::Slot(&request.get_ref().slot))?;
        let v1::SealRequest {
            slot,
            secret,
            pcrs,
            expected,
        } = request.into_inner();
        let secret = Zeroizing::new(secret);
        let expected = expected
            .into_iter()
            .map(wire::pcrs_from_wire)
            .collect::<Result<_, _>>()
            .map_err(invalid)?;
        let sealed = self.0.seal(slot, secret, selection(&pcrs)?, expected).await;
        answer(sealed, |()| v1::SealReply {})
    }

    async fn unseal(
        &self,
        request: Request<v1::SlotRequest>,
    ) -> Result<Response<v1::UnsealReply>, Status> {
        allowed(&request, Wish::Slot(&request.get_ref().slot))?;
        let unsealed = self.0.unseal(&request.get_ref().slot).await;
        answer(unsealed, |unsealed| wire::unsealed_to_wire(&unsealed))
    }

    async fn inspect(
        &self,
        request: Request<v1::SlotRequest>,
    ) -> Result<Response<v1::Slot>, Status> {
        allowed(&request, Wish::Slot(&request.get_ref().slot))?;
        let slot = self.0.inspect(&request.get_ref().slot);
        answer(slot, |slot| wire::slot_to_wire(&slot))
    }

    async fn erase(
        &self,
        request: Request<v1::SlotRequest>,
    ) -> Result<Response<v1::EraseReply>, Status> {
        allowed(&request, Wish::Slot(&request.get_ref().slot))?;
        let erased = self.0.erase(&request.get_ref().slot);
        answer(erased, |()| v1::EraseReply {})
    }

    async fn read_pcrs(
        &self,
        request: Request<v1::ReadPcrsRequest>,
    ) -> Result<Response<v1::PcrValues>, Status> {
        allowed(&request, Wish::Look)?;
        let pcrs = selection(&request.get_ref().pcrs)?;
        let values = self.0.read_pcrs(pcrs).await;
        answer(values, |values| wire::pcrs_to_wire(&values))
    }

    async fn extend_pcr(
        &self,
        request: Request<v1::ExtendPcrRequest>,
    ) -> Result<Response<v1::PcrValues>, Status> {
        allowed(&request, Wish::Extend)?;
        let pcr = Pcr::new(request.get_ref().pcr).map_err(|e| invalid(e.to_string()))?;
        let digest = wire::asked(&request.get_ref().digest, "digest").map_err(|e| refuse(&e))?;
        let values = self.0.extend_pcr(pcr, digest).await;
        answer(values, |values| wire::pcrs_to_wire(&values))
    }

    async fn read_nv(
        &self,
        request: Request<v1::NvRequest>,
    ) -> Result<Response<v1::NvContent>, Status> {
        let index = request.get_ref().index;
        allowed(&request, Wish::Nv(index))?;
        answer(self.0.read_nv(index).await, |data| v1::NvContent { data })
    }

    async fn write_nv(
        &self,
        request: Request<v1::WriteNvRequest>,
    ) -> Result<Response<v1::WriteNvReply>, Status> {
        allowed(&request, Wish::Nv(request.get_ref().index))?;
        let v1::WriteNvRequest { index, data } = request.into_inner();
        answer(self.0.write_nv(index, data).await, |()| v1::WriteNvReply {})
    }
}
