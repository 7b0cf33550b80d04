//! A datastore of local files: GET and HEAD with ranges and entity tags, over HTTP or HTTPS.

use std::io::SeekFrom;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, HeaderName,
    HeaderValue, IF_MATCH, IF_NONE_MATCH, IF_RANGE, RANGE,
};
use http::{Method, StatusCode};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

/// Bytes read from a file at once.
const CHUNK: usize = 64 * 1024;

/// The files of `folder` as a router.
pub fn router(folder: PathBuf) -> Router {
    Router::new().fallback(handle).with_state(Arc::new(folder))
}

async fn handle(State(folder): State<Arc<PathBuf>>, request: Request) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = answer(&folder, &method, &path, request.headers()).await;
    let status = response.status().as_u16();
    let range = request
        .headers()
        .get(RANGE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or("");
    tracing::info!(%method, path, range, status, "datastore");
    response
}

/// Which bytes of a file are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// All of it.
    Whole,
    /// From the first to the last, both included.
    Part(u64, u64),
    /// The range asked for is not there.
    Unsatisfiable,
}

/// What a `Range` header asks for of `len` bytes. Headers of other shapes are ignored, as HTTP
/// allows; several ranges at once are one of them.
pub fn span(range: Option<&str>, len: u64) -> Span {
    let Some(text) = range.and_then(|r| r.trim().strip_prefix("bytes=")) else {
        return Span::Whole;
    };
    let Some((first, last)) = text.split_once('-') else {
        return Span::Whole;
    };
    let number = |text: &str| text.trim().parse::<u64>().ok();
    match (first.trim(), last.trim()) {
        ("", suffix) => match number(suffix) {
            Some(0) => Span::Unsatisfiable,
            Some(_) if len == 0 => Span::Unsatisfiable,
            Some(n) => Span::Part(len.saturating_sub(n), len - 1),
            None => Span::Whole,
        },
        (first, last) => match (number(first), number(last)) {
            (Some(first), _) if first >= len && (last.is_empty() || number(last).is_some()) => {
                Span::Unsatisfiable
            }
            (Some(first), None) if last.is_empty() => Span::Part(first, len - 1),
            (Some(first), Some(last)) if first <= last => Span::Part(first, last.min(len - 1)),
            _ => Span::Whole,
        },
    }
}

async fn answer(folder: &Path, method: &Method, path: &str, headers: &HeaderMap) -> Response {
    if method != Method::GET && method != Method::HEAD {
        return plain(StatusCode::METHOD_NOT_ALLOWED);
    }
    let Some(path) = inside(folder, path) else {
        return plain(StatusCode::NOT_FOUND);
    };
    let Ok(mut file) = File::open(&path).await else {
        return plain(StatusCode::NOT_FOUND);
    };
    let meta = match file.metadata().await {
        Ok(meta) if meta.is_file() => meta,
        _ => return plain(StatusCode::NOT_FOUND),
    };
    let (len, tag) = (meta.len(), entity_tag(&meta));
    let header = |name: HeaderName| headers.get(name).and_then(|v| v.to_str().ok());
    if header(IF_MATCH).is_some_and(|wanted| !listed(wanted, &tag)) {
        return plain(StatusCode::PRECONDITION_FAILED);
    }
    if header(IF_NONE_MATCH).is_some_and(|known| listed(known, &tag)) {
        let mut response = plain(StatusCode::NOT_MODIFIED);
        put(&mut response, ETAG, &tag);
        return response;
    }
    // A range of another version would be glued to the wrong bytes.
    let range = header(RANGE).filter(|_| header(IF_RANGE).is_none_or(|known| known == tag));
    let (status, first, count) = match span(range, len) {
        Span::Whole => (StatusCode::OK, 0, len),
        Span::Part(first, last) => (StatusCode::PARTIAL_CONTENT, first, last - first + 1),
        Span::Unsatisfiable => {
            let mut response = plain(StatusCode::RANGE_NOT_SATISFIABLE);
            put(&mut response, CONTENT_RANGE, &format!("bytes */{len}"));
            return response;
        }
    };
    if file.seek(SeekFrom::Start(first)).await.is_err() {
        return plain(StatusCode::INTERNAL_SERVER_ERROR);
    }
    let body = if method == Method::HEAD {
        Body::empty()
    } else {
        stream(file, count)
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    put(&mut response, ETAG, &tag);
    put(&mut response, ACCEPT_RANGES, "bytes");
    put(&mut response, CONTENT_TYPE, "application/octet-stream");
    put(&mut response, CONTENT_LENGTH, &count.to_string());
    if status == StatusCode::PARTIAL_CONTENT {
        let last = first + count - 1;
        put(
            &mut response,
            CONTENT_RANGE,
            &format!("bytes {first}-{last}/{len}"),
        );
    }
    response
}

fn plain(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

fn put(response: &mut Response, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

fn listed(header: &str, tag: &str) -> bool {
    header
        .split(',')
        .map(str::trim)
        .any(|known| known == "*" || known == tag)
}

/// Changes whenever the file does.
fn entity_tag(meta: &std::fs::Metadata) -> String {
    use std::os::unix::fs::MetadataExt as _;
    format!(
        "\"{:x}-{:x}-{:x}-{:x}\"",
        meta.ino(),
        meta.len(),
        meta.mtime(),
        meta.mtime_nsec()
    )
}

/// The file of a URL path, if it can only be below the folder.
fn inside(folder: &Path, path: &str) -> Option<PathBuf> {
    let path = unescape(path.trim_start_matches('/'))?;
    let relative = Path::new(&path);
    let ordinary = relative
        .components()
        .all(|c| matches!(c, Component::Normal(_)));
    if path.is_empty() || path.contains('\0') || !ordinary {
        return None;
    }
    let full = folder.join(relative).canonicalize().ok()?;
    full.starts_with(folder.canonicalize().ok()?)
        .then_some(full)
}

fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first == b'%' {
            let (code, tail) = rest.split_at_checked(2)?;
            bytes.extend(hex::decode(code).ok()?);
            rest = tail;
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).ok()
}

fn stream(file: File, count: u64) -> Body {
    let state = (file, count);
    let chunks = futures_stream(state);
    Body::from_stream(chunks)
}

fn futures_stream(
    state: (File, u64),
) -> impl futures::Stream<Item = Result<Bytes, std::io::Error>> {
    futures::stream::try_unfold(state, |(mut file, left)| async move {
        if left == 0 {
            return Ok(None);
        }
        let want = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        let mut chunk = vec![0; want];
        let got = file.read(&mut chunk).await?;
        if got == 0 {
            return Err(std::io::Error::other("the file became shorter"));
        }
        chunk.truncate(got);
        Ok(Some((Bytes::from(chunk), (file, left - got as u64))))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_of_every_shape() {
        assert_eq!(span(None, 10), Span::Whole);
        assert_eq!(span(Some("bytes=0-"), 10), Span::Part(0, 9));
        assert_eq!(span(Some("bytes=3-5"), 10), Span::Part(3, 5));
        assert_eq!(span(Some("bytes=3-99"), 10), Span::Part(3, 9));
        assert_eq!(span(Some("bytes=-4"), 10), Span::Part(6, 9));
        assert_eq!(span(Some("bytes=-40"), 10), Span::Part(0, 9));
        assert_eq!(span(Some("bytes=10-"), 10), Span::Unsatisfiable);
        assert_eq!(span(Some("bytes=-0"), 10), Span::Unsatisfiable);
        assert_eq!(span(Some("bytes=0-"), 0), Span::Unsatisfiable);
        for ignored in [
            "items=0-1",
            "bytes=5-3",
            "bytes=a-b",
            "bytes=0-1,3-4",
            "bytes=7",
        ] {
            assert_eq!(span(Some(ignored), 10), Span::Whole, "{ignored}");
        }
    }

    #[test]
    fn nothing_outside_the_folder_is_reachable() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("files");
        std::fs::create_dir_all(folder.join("sub")).unwrap();
        std::fs::write(folder.join("sub/a b"), "x").unwrap();
        std::fs::write(dir.path().join("secret"), "x").unwrap();
        std::os::unix::fs::symlink("../secret", folder.join("link")).unwrap();
        assert!(inside(&folder, "/sub/a%20b").is_some());
        for path in [
            "/../secret",
            "/%2e%2e/secret",
            "/link",
            "/",
            "//etc/passwd",
            "/sub/%00",
        ] {
            assert_eq!(inside(&folder, path), None, "{path}");
        }
    }

    proptest! {
        #[test]
        fn a_part_is_always_inside(text in "bytes=[0-9]{0,4}-[0-9]{0,4}", len in 0_u64..2000) {
            if let Span::Part(first, last) = span(Some(&text), len) {
                prop_assert!(first <= last && last < len);
            }
        }
    }
}
