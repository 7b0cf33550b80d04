//! The gRPC client of tpmmgr.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::FutureExt;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

use crate::wire::{self, v1};
use crate::{
    Description, Key, Pcr, PcrSelection, PcrValues, Quote, Reply, SealedSlot, SharedPoint,
    Signature, Tpm, TpmError, Unsealed,
};
use v1::tpm_client::TpmClient;

/// tpmmgr's socket, below the root.
pub const SOCKET: &str = "run/tpmmgr/tpmmgr.sock";

/// Longest wait for an answer. A TPM takes some 50 ms for a signature and seconds for a key.
const ANSWER: Duration = Duration::from_secs(30);

/// The keeper of the keys of the device below a root, over its unix socket.
///
/// Cheap to clone. It connects when first used and again whenever the connection is lost, so it may be made
/// before tpmmgr listens and outlives its restarts.
#[derive(Clone, Debug)]
pub struct Client {
    grpc: TpmClient<Channel>,
    socket: PathBuf,
    longest: Duration,
}

impl Client {
    /// tpmmgr of the device below `root`. Nothing is sent before the first request.
    ///
    /// Fails with [`TpmError::NoRuntime`] outside of a tokio runtime.
    pub fn connect(root: &Path) -> Result<Self, TpmError> {
        Self::connect_socket(&root.join(SOCKET))
    }

    /// tpmmgr behind this socket.
    pub fn connect_socket(socket: &Path) -> Result<Self, TpmError> {
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(TpmError::NoRuntime);
        }
        let path = socket.to_owned();
        // The authority is never resolved: the connector knows where to go.
        let channel = Endpoint::from_static("http://tpmmgr").connect_with_connector_lazy(
            tower::service_fn(move |_| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            }),
        );
        Ok(Self {
            grpc: TpmClient::new(channel),
            socket: socket.to_owned(),
            longest: ANSWER,
        })
    }

    /// The same with another longest wait for an answer.
    #[must_use]
    pub fn waiting(mut self, longest: Duration) -> Self {
        self.longest = longest;
        self
    }

    /// Its socket.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Sends a request; a tpmmgr that hangs does not hang its callers.
    async fn ask<T, A>(
        &self,
        message: T,
        call: impl AsyncFnOnce(TpmClient<Channel>, Request<T>) -> Result<Response<A>, Status>,
    ) -> Result<A, TpmError> {
        let answer =
            tokio::time::timeout(self.longest, call(self.grpc.clone(), Request::new(message)))
                .await
                .unwrap_or_else(|_| {
                    let text = format!("no answer within {:?}", self.longest);
                    Err(Status::new(Code::DeadlineExceeded, text))
                });
        answer
            .map(Response::into_inner)
            .map_err(|status| wire::error_from_status(&status, &self.socket))
    }
}

/// `None` where there is nothing.
fn found<T>(result: Result<T, TpmError>) -> Result<Option<T>, TpmError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(TpmError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn slot(name: &str) -> v1::SlotRequest {
    v1::SlotRequest {
        slot: name.to_owned(),
    }
}

macro_rules! ask {
    ($self:ident, $call:ident, $message:expr) => {
        $self.ask($message, async |mut grpc: TpmClient<Channel>, request| {
            grpc.$call(request).await
        })
    };
}

impl Tpm for Client {
    fn describe(&self) -> Reply<'_, Description> {
        async move {
            let answer = ask!(self, describe, v1::DescribeRequest {}).await?;
            wire::description_from_wire(answer)
        }
        .boxed()
    }

    fn sign(&self, key: Key, digest: [u8; 32]) -> Reply<'_, Signature> {
        let request = v1::SignRequest {
            key: wire::key_to_wire(key).into(),
            digest: digest.to_vec(),
        };
        async move {
            let answer = ask!(self, sign, request).await?;
            wire::array(&answer.signature, "signature").map(Signature)
        }
        .boxed()
    }

    fn ecdh(&self, peer: &[u8]) -> Reply<'_, SharedPoint> {
        let request = v1::EcdhRequest {
            peer: peer.to_vec(),
        };
        async move { wire::point_from_wire(ask!(self, ecdh, request).await?) }.boxed()
    }

    fn quote(&self, nonce: &[u8], event_log: bool) -> Reply<'_, Quote> {
        let request = v1::QuoteRequest {
            nonce: nonce.to_vec(),
            event_log,
        };
        async move { wire::quote_from_wire(ask!(self, quote, request).await?) }.boxed()
    }

    fn seal(
        &self,
        slot: &str,
        secret: &[u8],
        pcrs: PcrSelection,
        expected: &[PcrValues],
    ) -> Reply<'_, ()> {
        let request = v1::SealRequest {
            slot: slot.to_owned(),
            secret: secret.to_vec(),
            pcrs: wire::selection_to_wire(pcrs),
            expected: expected.iter().map(wire::pcrs_to_wire).collect(),
        };
        async move { ask!(self, seal, request).await.map(|v1::SealReply {}| ()) }.boxed()
    }

    fn unseal(&self, name: &str) -> Reply<'_, Unsealed> {
        let request = slot(name);
        async move { wire::unsealed_from_wire(ask!(self, unseal, request).await?) }.boxed()
    }

    fn inspect(&self, name: &str) -> Reply<'_, Option<SealedSlot>> {
        let request = slot(name);
        async move {
            found(ask!(self, inspect, request).await)?
                .map(wire::slot_from_wire)
                .transpose()
        }
        .boxed()
    }

    fn erase(&self, name: &str) -> Reply<'_, ()> {
        let request = slot(name);
        async move { ask!(self, erase, request).await.map(|v1::EraseReply {}| ()) }.boxed()
    }

    fn read_pcrs(&self, pcrs: PcrSelection) -> Reply<'_, PcrValues> {
        let request = v1::ReadPcrsRequest {
            pcrs: wire::selection_to_wire(pcrs),
        };
        async move { wire::answered_pcrs(ask!(self, read_pcrs, request).await?) }.boxed()
    }

    fn extend_pcr(&self, pcr: Pcr, digest: [u8; 32]) -> Reply<'_, PcrValues> {
        let request = v1::ExtendPcrRequest {
            pcr: pcr.index(),
            digest: digest.to_vec(),
        };
        async move { wire::answered_pcrs(ask!(self, extend_pcr, request).await?) }.boxed()
    }

    fn read_nv(&self, index: u32) -> Reply<'_, Option<Vec<u8>>> {
        let request = v1::NvRequest { index };
        async move {
            let answer = found(ask!(self, read_nv, request).await)?;
            Ok(answer.map(|content| content.data))
        }
        .boxed()
    }

    fn write_nv(&self, index: u32, data: &[u8]) -> Reply<'_, ()> {
        let request = v1::WriteNvRequest {
            index,
            data: data.to_vec(),
        };
        async move {
            ask!(self, write_nv, request)
                .await
                .map(|v1::WriteNvReply {}| ())
        }
        .boxed()
    }
}
