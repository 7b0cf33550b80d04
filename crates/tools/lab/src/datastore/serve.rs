//! The datastore's sockets: reads request heads, sends what `reply` planned.

use super::reply::{Cut, Head, Reply, plan};
use super::{Answered, Content, Shelf};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncSeekExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

/// Longest request head.
const HEAD_LIMIT: usize = 16 * 1024;
const BLOCK: u64 = 64 * 1024;

/// Serves both listeners until `stopped`; open connections end with it.
pub(super) fn run(
    plain: std::net::TcpListener,
    secure: std::net::TcpListener,
    tls: Arc<rustls::ServerConfig>,
    shelf: &Arc<Shelf>,
    stopped: oneshot::Receiver<()>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "the datastore has no runtime");
            return;
        }
    };
    let acceptor = TlsAcceptor::from(tls);
    runtime.block_on(async {
        let served = async {
            let plain = TcpListener::from_std(plain)?;
            let secure = TcpListener::from_std(secure)?;
            loop {
                let (stream, client, wrapped) = tokio::select! {
                    accepted = plain.accept() => { let (stream, client) = accepted?; (stream, client, false) }
                    accepted = secure.accept() => { let (stream, client) = accepted?; (stream, client, true) }
                };
                let shelf = Arc::clone(shelf);
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    // A client that goes away ends its own connection only.
                    let _ = if wrapped {
                        match acceptor.accept(stream).await {
                            Ok(stream) => converse(stream, client, &shelf, |s| s.get_ref().0).await,
                            Err(error) => Err(error),
                        }
                    } else {
                        converse(stream, client, &shelf, |s| s).await
                    };
                });
            }
        };
        tokio::select! {
            ended = served => {
                let ended: io::Result<()> = ended;
                tracing::error!(?ended, "the datastore lost its sockets");
            }
            _ = stopped => {}
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
}

async fn converse<S>(
    mut stream: S,
    client: SocketAddr,
    shelf: &Shelf,
    socket: impl Fn(&S) -> &TcpStream,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut rest = Vec::new();
    while let Some(head) = read_head(&mut stream, &mut rest).await? {
        let found = shelf.find(&head.path);
        let mut source = Source::open(found.as_ref().map(|(_, content)| content)).await?;
        let tag = found.map_or(String::new(), |(version, _)| format!("v{version}"));
        let reply = plan(&head, source.length(), &tag, shelf.next_trouble(&head.path));
        let mut sent = 0;
        let outcome = send(&mut stream, &mut source, &reply, &mut sent).await;
        shelf.state().answered.push(Answered {
            path: head.path,
            range: head.range,
            client: client.ip(),
            status: reply.status,
            sent,
        });
        match outcome? {
            Some(Cut::Stall) => {
                // Until the client has had enough.
                while stream.read(&mut [0; 512]).await? > 0 {}
                return Ok(());
            }
            Some(Cut::Reset) => {
                socket(&stream).set_zero_linger()?;
                return Ok(());
            }
            Some(Cut::Close) => break,
            None if reply.close => break,
            None => {}
        }
    }
    stream.shutdown().await
}

async fn read_head<S>(stream: &mut S, rest: &mut Vec<u8>) -> io::Result<Option<Head>>
where
    S: AsyncRead + Unpin,
{
    loop {
        if let Some(end) = rest.windows(4).position(|window| window == b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&rest[..end]).into_owned();
            rest.drain(..end + 4);
            return Head::parse(&text)
                .map(Some)
                .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not HTTP"));
        }
        if rest.len() > HEAD_LIMIT || stream.read_buf(rest).await? == 0 {
            return Ok(None);
        }
    }
}

async fn send<S>(
    stream: &mut S,
    source: &mut Source,
    reply: &Reply,
    sent: &mut u64,
) -> io::Result<Option<Cut>>
where
    S: AsyncWrite + Unpin,
{
    stream.write_all(reply.head.as_bytes()).await?;
    let (mut position, end) = reply.body;
    source.seek(position).await?;
    let stop = reply.cut.map_or(end, |(after, _)| after.min(end));
    while position < stop {
        let mut size = BLOCK.min(stop - position);
        if let Some(rate) = reply.bytes_per_second {
            // Twenty blocks a second look like a slow line and not like a stalling one.
            size = size.min((rate / 20).max(1));
            tokio::time::sleep(Duration::from_secs(size) / u32::try_from(rate).unwrap_or(u32::MAX))
                .await;
        }
        let mut block = source.read(position, size).await?;
        if let Some(at) = reply.flip {
            let index = at
                .checked_sub(position)
                .and_then(|i| usize::try_from(i).ok());
            if let Some(byte) = index.and_then(|index| block.get_mut(index)) {
                *byte ^= 1;
            }
        }
        stream.write_all(&block).await?;
        position += size;
        *sent += size;
    }
    stream.flush().await?;
    Ok(reply.cut.map(|(_, cut)| cut))
}

/// Where a body comes from.
enum Source {
    Nothing,
    Bytes(Arc<[u8]>),
    File(File, u64),
}

impl Source {
    async fn open(content: Option<&Content>) -> io::Result<Source> {
        Ok(match content {
            None => Source::Nothing,
            Some(Content::Bytes(bytes)) => Source::Bytes(Arc::clone(bytes)),
            Some(Content::File(path)) => match File::open(path).await {
                Ok(file) => {
                    let length = file.metadata().await?.len();
                    Source::File(file, length)
                }
                Err(_) => Source::Nothing,
            },
        })
    }

    fn length(&self) -> Option<u64> {
        match self {
            Source::Nothing => None,
            Source::Bytes(bytes) => Some(bytes.len() as u64),
            Source::File(_, length) => Some(*length),
        }
    }

    async fn seek(&mut self, position: u64) -> io::Result<()> {
        if let Source::File(file, _) = self {
            file.seek(io::SeekFrom::Start(position)).await?;
        }
        Ok(())
    }

    /// The next `size` bytes; `position` says where that is.
    async fn read(&mut self, position: u64, size: u64) -> io::Result<Vec<u8>> {
        let size = usize::try_from(size).map_err(io::Error::other)?;
        let start = usize::try_from(position).map_err(io::Error::other)?;
        match self {
            Source::Nothing => Ok(Vec::new()),
            Source::Bytes(bytes) => Ok(bytes
                .get(start..start + size)
                .map(<[u8]>::to_vec)
                .unwrap_or_default()),
            Source::File(file, _) => {
                let mut block = vec![0; size];
                file.read_exact(&mut block).await?;
                Ok(block)
            }
        }
    }
}
