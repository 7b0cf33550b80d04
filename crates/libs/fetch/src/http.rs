//! Files by HTTP and HTTPS, resumed by `Range` and `If-Range`.

use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream;
use uplink::reqwest::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, HeaderName,
    IF_RANGE, LAST_MODIFIED, RANGE, RETRY_AFTER,
};
use uplink::reqwest::{Response, Url};
use uplink::{Attempt, HttpClient, Settings, Tls};

use zeroize::Zeroizing;

use crate::error::Problem;
use crate::source::{Opened, Resume, Source, Validator};

const REFUSAL_LIMIT: usize = 4096;
const REFUSAL_TEXT: usize = 200;

/// User name and password (EVE's API key and password) for basic authentication. Wiped when it goes.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// User name.
    pub user: Zeroizing<String>,
    /// Password.
    pub password: Zeroizing<String>,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Login(***)")
    }
}

/// A file behind a URL.
#[derive(Debug)]
pub struct HttpSource {
    url: Url,
    shown: String,
    login: Option<Login>,
    tls: Tls,
    settings: Settings,
}

impl HttpSource {
    /// Redirects that are followed.
    pub const REDIRECTS: usize = 10;

    /// A file; `settings` should have no limit for a whole request.
    pub fn new(url: Url, login: Option<Login>, tls: Tls, settings: Settings) -> Self {
        // Queries and user names may be secrets.
        let mut shown = url.clone();
        shown.set_query(None);
        let _ = shown.set_username("");
        let _ = shown.set_password(None);
        Self {
            shown: shown.to_string(),
            url,
            login,
            tls,
            settings,
        }
    }

    async fn ask(&self, client: &HttpClient, resume: Option<&Resume>) -> Result<Response, Problem> {
        // Bytes as they are in the file: a range of a compressed body is of no use.
        let mut request = client
            .get(self.url.clone())
            .header(ACCEPT_ENCODING, "identity");
        if let Some(login) = &self.login {
            request = request.basic_auth(&*login.user, Some(&*login.password));
        }
        if let Some(resume) = resume {
            request = request.header(RANGE, format!("bytes={}-", resume.offset));
            match &resume.validator {
                Some(Validator::ETag(proof) | Validator::LastModified(proof)) => {
                    request = request.header(IF_RANGE, proof);
                }
                None => {}
            }
        }
        request
            .send()
            .await
            .map_err(|error| self.explain(client, &error))
    }

    fn explain(&self, client: &HttpClient, error: &uplink::reqwest::Error) -> Problem {
        let mut failure = client.explain(error, &self.url);
        failure.detail = failure.detail.replace(self.url.as_str(), &self.shown);
        Problem::Transport(failure)
    }

    async fn begin(&self, attempt: &Attempt, resume: Option<&Resume>) -> Result<Opened, Problem> {
        let client = HttpClient::new(attempt, &self.tls, &self.settings)
            .map_err(|error| Problem::Client(format!("{error}: {}", error.source)))?;
        let response = self.ask(&client, resume).await?;
        let Some(resume) = resume else {
            return self.whole(client, response).await;
        };
        match part(&response, resume) {
            Part::Continues { total } => Ok(self.opened(client, response, resume.offset, total)),
            Part::Complete => Ok(Opened {
                start: resume.offset,
                total: Some(resume.offset),
                validator: resume.validator.clone(),
                body: stream::empty().boxed(),
            }),
            Part::Whole => self.whole(client, response).await,
            // The datastore contradicts itself or the file is another one: start again.
            Part::Useless => {
                drop(response);
                let response = self.ask(&client, None).await?;
                self.whole(client, response).await
            }
        }
    }

    /// An answer with the file from its first byte.
    async fn whole(&self, client: HttpClient, response: Response) -> Result<Opened, Problem> {
        let code = response.status().as_u16();
        if code == 206 {
            return Err(Problem::Range {
                asked: 0,
                why: "a part came without being asked for".to_owned(),
            });
        }
        if code != 200 {
            let retry_after = header(response.headers(), &RETRY_AFTER)
                .and_then(|seconds| seconds.trim().parse().ok())
                .map(Duration::from_secs);
            return Err(Problem::Code {
                code,
                text: refusal(response).await,
                retry_after,
            });
        }
        let encoding = header(response.headers(), &CONTENT_ENCODING)
            .filter(|encoding| !encoding.eq_ignore_ascii_case("identity"));
        if let Some(encoding) = encoding {
            return Err(Problem::Encoded(encoding.to_owned()));
        }
        let total = response.content_length();
        Ok(self.opened(client, response, 0, total))
    }

    fn opened(
        &self,
        client: HttpClient,
        response: Response,
        start: u64,
        total: Option<u64>,
    ) -> Opened {
        let validator = validator(response.headers());
        let (url, shown) = (self.url.clone(), self.shown.clone());
        let body = response.bytes_stream().map(move |chunk| {
            chunk.map_err(|error| {
                let mut failure = client.explain(&error, &url);
                failure.detail = failure.detail.replace(url.as_str(), &shown);
                Problem::Transport(failure)
            })
        });
        Opened {
            start,
            total,
            validator,
            body: body.boxed(),
        }
    }
}

impl Source for HttpSource {
    fn url(&self) -> &str {
        &self.shown
    }

    fn open<'a>(
        &'a self,
        attempt: &'a Attempt,
        resume: Option<&'a Resume>,
    ) -> BoxFuture<'a, Result<Opened, Problem>> {
        Box::pin(self.begin(attempt, resume))
    }
}

/// What an answer to a request for the rest means.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    /// It goes on where it was asked to.
    Continues { total: Option<u64> },
    /// There is no rest.
    Complete,
    /// The whole file comes (or a refusal).
    Whole,
    /// It can't be used.
    Useless,
}

fn part(response: &Response, resume: &Resume) -> Part {
    let range = header(response.headers(), &CONTENT_RANGE);
    let same = match (&resume.validator, validator(response.headers())) {
        (Some(Validator::ETag(wanted)), Some(Validator::ETag(found))) => *wanted == found,
        _ => true,
    };
    read_part(response.status().as_u16(), range, same, resume.offset)
}

fn read_part(code: u16, range: Option<&str>, same: bool, offset: u64) -> Part {
    match (code, range.and_then(content_range)) {
        (
            206,
            Some(Range {
                start: Some(start),
                total,
            }),
        ) if start == offset && same => Part::Continues { total },
        (
            416,
            Some(Range {
                start: None,
                total: Some(total),
            }),
        ) if total == offset && same => Part::Complete,
        (206 | 416, _) => Part::Useless,
        _ => Part::Whole,
    }
}

/// A `Content-Range`: `bytes 5-9/10`, `bytes 5-9/*`, `bytes */10`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    start: Option<u64>,
    total: Option<u64>,
}

fn content_range(text: &str) -> Option<Range> {
    let (span, total) = text.trim().strip_prefix("bytes ")?.trim().split_once('/')?;
    let total = match total {
        "*" => None,
        number => Some(number.parse::<u64>().ok()?),
    };
    if span == "*" {
        return Some(Range { start: None, total });
    }
    let (start, end) = span.split_once('-')?;
    let (start, end) = (start.parse::<u64>().ok()?, end.parse::<u64>().ok()?);
    // A part that is not the rest would end too early.
    let is_rest = start <= end && total.is_none_or(|total| end.checked_add(1) == Some(total));
    is_rest.then_some(Range {
        start: Some(start),
        total,
    })
}

/// A weak entity tag proves nothing about bytes.
fn validator(headers: &HeaderMap) -> Option<Validator> {
    let strong = header(headers, &ETAG).filter(|tag| tag.starts_with('"'));
    strong
        .map(|tag| Validator::ETag(tag.to_owned()))
        .or_else(|| {
            header(headers, &LAST_MODIFIED).map(|date| Validator::LastModified(date.to_owned()))
        })
}

fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// What the datastore says to its refusal, if it is plain text.
async fn refusal(mut response: Response) -> String {
    let plain = header(response.headers(), &CONTENT_TYPE)
        .is_none_or(|kind| kind.starts_with("text/plain") || kind.contains("json"));
    if !plain {
        return String::new();
    }
    let mut body = Vec::new();
    while body.len() < REFUSAL_LIMIT {
        let Ok(Some(chunk)) = response.chunk().await else {
            break;
        };
        body.extend_from_slice(&chunk);
    }
    let text = String::from_utf8_lossy(&body);
    let words: Vec<&str> = text.split_whitespace().collect();
    words
        .join(" ")
        .chars()
        .filter(|c| !c.is_control())
        .take(REFUSAL_TEXT)
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn answers_to_a_range() {
        let table = [
            (
                206,
                Some("bytes 5-9/10"),
                true,
                Part::Continues { total: Some(10) },
            ),
            (
                206,
                Some("bytes 5-9/*"),
                true,
                Part::Continues { total: None },
            ),
            (206, Some("bytes 5-9/10"), false, Part::Useless),
            (206, Some("bytes 4-9/10"), true, Part::Useless),
            (206, Some("bytes 5-7/10"), true, Part::Useless),
            (206, Some("bytes 5-/10"), true, Part::Useless),
            (206, None, true, Part::Useless),
            (206, Some("lines 5-9/10"), true, Part::Useless),
            (416, Some("bytes */5"), true, Part::Complete),
            (416, Some("bytes */4"), true, Part::Useless),
            (416, None, true, Part::Useless),
            (200, None, true, Part::Whole),
            (200, Some("bytes 5-9/10"), true, Part::Whole),
            (404, None, true, Part::Whole),
        ];
        for (code, range, same, expected) in table {
            assert_eq!(
                read_part(code, range, same, 5),
                expected,
                "{code} {range:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn ranges_never_panic(text in ".{0,40}", tail in "bytes [0-9*/-]{0,30}") {
            let _ = (content_range(&text), content_range(&tail));
        }

        #[test]
        fn a_written_range_is_read(start: u64, length in 1u64..1000) {
            let Some(end) = start.checked_add(length) else { return Ok(()) };
            let text = format!("bytes {start}-{}/{end}", end - 1);
            prop_assert_eq!(content_range(&text), Some(Range { start: Some(start), total: Some(end) }));
        }
    }
}
