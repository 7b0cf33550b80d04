//! Accepting connections, with or without TLS, and stopping in order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

use crate::cert::{CertHash, der_hash};

/// Connections at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 4096;
/// A client that is slower than this is not serious.
const HANDSHAKE: Duration = Duration::from_secs(15);
/// Time for the head of a request.
const HEAD: Duration = Duration::from_secs(30);
/// Time for connections to finish when the controller stops.
const GRACE: Duration = Duration::from_secs(3);

/// Hash of the certificate that the client showed, if any; in every request's extensions.
#[derive(Debug, Clone, Copy)]
pub struct PeerCert(pub Option<CertHash>);

/// Serves `app` on a listener until `stop` becomes true.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    app: Router,
    mut stop: watch::Receiver<bool>,
) {
    let acceptor = tls.map(TlsAcceptor::from);
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            _ = stop.wait_for(|stopped| *stopped) => break,
            accepted = listener.accept() => accepted,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, from)) => {
                let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
                    break;
                };
                let (acceptor, app, stop) = (acceptor.clone(), app.clone(), stop.clone());
                connections.spawn(async move {
                    connection(stream, from, acceptor, app, stop).await;
                    drop(permit);
                });
            }
            Err(error) => {
                // Out of file descriptors, mostly: let some connections end.
                tracing::warn!(%error, "accepting a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(GRACE, drained).await.is_err() {
        connections.abort_all();
    }
}

async fn connection(
    stream: TcpStream,
    from: SocketAddr,
    acceptor: Option<TlsAcceptor>,
    app: Router,
    stop: watch::Receiver<bool>,
) {
    let _ = stream.set_nodelay(true);
    let Some(acceptor) = acceptor else {
        return http(stream, from, PeerCert(None), app, stop).await;
    };
    match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            let certs = stream.get_ref().1.peer_certificates();
            let peer = PeerCert(certs.and_then(<[_]>::first).map(|cert| der_hash(cert)));
            http(stream, from, peer, app, stop).await;
        }
        Ok(Err(error)) => tracing::debug!(%from, %error, "TLS handshake"),
        Err(_) => tracing::debug!(%from, "TLS handshake took too long"),
    }
}

async fn http(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    from: SocketAddr,
    peer: PeerCert,
    app: Router,
    mut stop: watch::Receiver<bool>,
) {
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer);
        request.extensions_mut().insert(from);
        app.clone().oneshot(request)
    });
    let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD);
    builder.http2().timer(TokioTimer::new());
    let served = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(served);
    let mut stopping = false;
    let outcome = loop {
        tokio::select! {
            outcome = served.as_mut() => break outcome,
            _ = stop.wait_for(|stopped| *stopped), if !stopping => {
                stopping = true;
                served.as_mut().graceful_shutdown();
            }
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%from, error = %error, "connection");
    }
}
