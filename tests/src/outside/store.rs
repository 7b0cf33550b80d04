//! A datastore that misbehaves.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::sleep,
};

use super::wire::{self, Request, head};

/// What is wrong with a datastore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ill {
    /// Resets every transfer after a fifth of the file.
    Resets,
    /// Always sends the whole file, and resets the first four transfers in its middle.
    IgnoresRanges,
    /// Another entity tag for every answer, and resets as [`Ill::Resets`].
    ChangesTag,
    /// Sends the client from here to here.
    Redirects,
    /// Announces the whole file and sends half of it.
    Short,
    /// Sends more than it announces.
    Long,
    /// Announces and sends a file that is a byte longer.
    Longer,
    /// Half of the file, then nothing.
    Stalls,
    /// A part that was not asked for.
    WrongPart,
    /// 404.
    Missing,
    /// 401.
    Forbidden,
    /// 503, and asks for so many seconds.
    Busy(u64),
    /// Other bytes of the same number.
    WrongBytes,
    /// A compressed body that nobody asked for.
    Packed,
    /// A page, as the portal of a hotel.
    Portal,
    /// Nobody listens.
    Down,
}

impl Ill {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::Resets,
        Self::IgnoresRanges,
        Self::ChangesTag,
        Self::Redirects,
        Self::Short,
        Self::Long,
        Self::Longer,
        Self::Stalls,
        Self::WrongPart,
        Self::Missing,
        Self::Forbidden,
        Self::Busy(500),
        Self::WrongBytes,
        Self::Packed,
        Self::Portal,
        Self::Down,
    ];
}

/// A server with one file.
pub struct Store {
    /// Where it is.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    file: Vec<u8>,
    /// The `Authorization` that it wants.
    login: Option<&'static str>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    ill: Option<Ill>,
    /// Answers, and bytes of the file in them.
    answers: usize,
    bytes: usize,
}

impl Drop for Store {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Store {
    /// With this file, ill or well.
    pub async fn with(file: &[u8], ill: Option<Ill>) -> Self {
        Self::new(file, ill, None).await
    }

    /// Gives it to those alone who send this `Authorization`.
    pub async fn locked(file: &[u8], login: &'static str) -> Self {
        Self::new(file, None, Some(login)).await
    }

    async fn new(file: &[u8], ill: Option<Ill>, login: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = State {
            ill,
            ..State::default()
        };
        let shared = Arc::new(Shared {
            file: file.to_vec(),
            login,
            state: Mutex::new(state),
        });
        let serving = Arc::clone(&shared);
        let task = wire::accept(listener, move |stream| {
            let shared = Arc::clone(&serving);
            async move { shared.serve(stream).await }
        });
        Self {
            address,
            shared,
            task,
        }
    }

    /// It is well again.
    pub fn heal(&self) {
        self.shared.set(|state| state.ill = None);
    }

    /// Answers and bytes of files since the last call.
    pub fn take(&self) -> (usize, usize) {
        self.shared.set(|state| {
            (
                std::mem::take(&mut state.answers),
                std::mem::take(&mut state.bytes),
            )
        })
    }
}

impl Shared {
    fn set<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        let (ill, number) = self.set(|state| {
            state.answers += 1;
            (state.ill, state.answers)
        });
        if ill == Some(Ill::Down) {
            return stream.set_zero_linger();
        }
        let Some(request) = Request::read(&mut stream).await else {
            return Ok(());
        };
        if self.login.is_some() && request.header("authorization") != self.login {
            return stream.write_all(&head(401, &[], 0)).await;
        }
        let file = &self.file;
        let from = match ill {
            Some(Ill::IgnoresRanges) => None,
            _ => request.range(),
        };
        let start = from.unwrap_or(0).min(file.len());
        let tag = match ill {
            Some(Ill::ChangesTag) => format!("\"{number}\""),
            _ => "\"1\"".to_owned(),
        };
        let range = format!("bytes {start}-{}/{}", file.len() - 1, file.len());
        let headers = [("etag", tag.as_str()), ("content-range", range.as_str())];
        let usual = |length: usize| match from {
            Some(_) => head(206, &headers, length),
            None => head(200, &headers[..1], length),
        };
        let rest = &file[start..];
        let fifth = (file.len() / 5).min(rest.len());
        let half = (file.len() / 2).min(rest.len());
        match ill {
            Some(Ill::Resets | Ill::ChangesTag) => {
                self.send(&mut stream, &usual(rest.len()), &rest[..fifth])
                    .await?;
                return self.reset(stream).await;
            }
            Some(Ill::IgnoresRanges) if number <= 4 => {
                self.send(&mut stream, &usual(rest.len()), &rest[..half])
                    .await?;
                return self.reset(stream).await;
            }
            None | Some(Ill::IgnoresRanges) => {
                self.send(&mut stream, &usual(rest.len()), rest).await?;
            }
            Some(Ill::Redirects) => {
                let to = [("location", request.path.as_str())];
                stream.write_all(&head(302, &to, 0)).await?;
            }
            Some(Ill::Short) => {
                self.send(&mut stream, &usual(rest.len()), &rest[..half])
                    .await?;
            }
            Some(Ill::Long) => {
                self.send(&mut stream, &usual(rest.len()), rest).await?;
                stream.write_all(b"and more than that").await?;
            }
            Some(Ill::Longer) => {
                let mut longer = file.clone();
                longer.push(0);
                let head = head(200, &headers[..1], longer.len());
                self.send(&mut stream, &head, &longer).await?;
            }
            Some(Ill::Stalls) => {
                self.send(&mut stream, &usual(rest.len()), &rest[..half])
                    .await?;
                sleep(Duration::from_secs(60)).await;
            }
            Some(Ill::WrongPart) => {
                let headers = [headers[0], ("content-range", "bytes 3-9/10")];
                let head = head(206, &headers, 7);
                self.send(&mut stream, &head, &[7; 7]).await?;
            }
            Some(Ill::Missing) => stream.write_all(&head(404, &[], 0)).await?,
            Some(Ill::Forbidden) => stream.write_all(&head(401, &[], 0)).await?,
            Some(Ill::Busy(seconds)) => {
                let seconds = seconds.to_string();
                let head = head(503, &[("retry-after", &seconds)], 0);
                stream.write_all(&head).await?;
            }
            Some(Ill::WrongBytes) => {
                let wrong: Vec<u8> = file.iter().map(|byte| byte ^ 1).collect();
                let head = head(200, &headers[..1], wrong.len());
                self.send(&mut stream, &head, &wrong).await?;
            }
            Some(Ill::Packed) => {
                let headers = [headers[0], ("content-encoding", "gzip")];
                let head = head(200, &headers, file.len());
                self.send(&mut stream, &head, file).await?;
            }
            Some(Ill::Portal) => {
                let page = b"<html>Welcome to the Grand Hotel</html>";
                let head = head(200, &[("content-type", "text/html")], page.len());
                self.send(&mut stream, &head, page).await?;
            }
            Some(Ill::Down) => {}
        }
        stream.shutdown().await
    }

    async fn send(&self, stream: &mut TcpStream, head: &[u8], body: &[u8]) -> io::Result<()> {
        stream.write_all(head).await?;
        stream.write_all(body).await?;
        stream.flush().await?;
        self.set(|state| state.bytes += body.len());
        Ok(())
    }

    async fn reset(&self, stream: TcpStream) -> io::Result<()> {
        // What was sent has to arrive first.
        sleep(Duration::from_millis(50)).await;
        stream.set_zero_linger()
    }
}
