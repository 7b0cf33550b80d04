//! One request over one port, with every check of the answer that does not need the
//! controller's certificates.

use std::time::Duration;

use uplink::reqwest::header::{CONTENT_TYPE as CONTENT_TYPE_HEADER, HeaderMap, RETRY_AFTER};
use uplink::reqwest::{Response, Url};
use uplink::{Attempt, HttpClient, Settings, Tls};
use uuid::Uuid;

use crate::endpoint::{CONTENT_TYPE, Endpoint};
use crate::error::{AttemptError, Problem};
use crate::status::SenderStatus;

/// Bytes of a refusal's body that are read for people.
const REFUSAL_LIMIT: usize = 4096;
/// Characters of it that are kept.
const REFUSAL_TEXT: usize = 200;
const LONGEST_PAUSE: Duration = Duration::from_hours(24);

/// A request that is ready to be sent over any port.
#[derive(Debug)]
pub(crate) struct Prepared<'a> {
    pub(crate) endpoint: Endpoint,
    pub(crate) url: Url,
    /// None makes it a GET; an empty body a POST.
    pub(crate) body: Option<Vec<u8>>,
    /// Sent while the UUID is not known.
    pub(crate) serials: Option<(&'a str, &'a str)>,
    pub(crate) tls: &'a Tls,
}

/// An answer with a code of success.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) code: u16,
    pub(crate) body: Vec<u8>,
}

impl Prepared<'_> {
    /// Sends it over one port.
    pub(crate) async fn send(
        &self,
        attempt: &Attempt,
        settings: &Settings,
    ) -> Result<Received, AttemptError> {
        self.exchange(attempt, settings)
            .await
            .map_err(|problem| self.error(attempt, problem))
    }

    /// `problem` with everything about the attempt.
    pub(crate) fn error(&self, attempt: &Attempt, problem: Problem) -> AttemptError {
        AttemptError {
            port: attempt.port.clone(),
            source_address: attempt.source,
            url: self.url.to_string(),
            proxy: attempt.proxies.for_url(&self.url).map(ToString::to_string),
            problem,
        }
    }

    async fn exchange(&self, attempt: &Attempt, settings: &Settings) -> Result<Received, Problem> {
        let client = HttpClient::new(attempt, self.tls, settings)
            .map_err(|error| Problem::Client(format!("{error}: {}", error.source)))?;
        let transport = |error| Problem::Transport(client.explain(&error, &self.url));
        let mut request = match &self.body {
            None => client.get(self.url.clone()),
            Some(body) => client
                .post(self.url.clone())
                .header(CONTENT_TYPE_HEADER, CONTENT_TYPE)
                .body(body.clone()),
        };
        request = request.header("X-Request-Id", Uuid::new_v4().to_string());
        if let Some((serial, soft_serial)) = self.serials {
            for (name, value) in [("X-Serial-Number", serial), ("X-Soft-Serial", soft_serial)] {
                if !value.is_empty() {
                    request = request.header(name, value);
                }
            }
        }
        let response = request.send().await.map_err(transport)?;
        let code = response.status().as_u16();
        if SenderStatus::of_http(code).is_some() {
            let retry_after = retry_after(response.headers());
            return Err(Problem::Code {
                code,
                text: refusal(response).await,
                retry_after,
            });
        }
        let kind = header(response.headers(), CONTENT_TYPE_HEADER.as_str());
        let limit = self.endpoint.body_limit();
        let body = read(response, limit)
            .await
            .map_err(|stopped| match stopped {
                Stopped::TooLarge => Problem::TooLarge(limit),
                Stopped::Failed(error) => transport(error),
            })?;
        if !body.is_empty() && !self.endpoint.content().accepts(kind.as_deref()) {
            return Err(Problem::ContentType(kind));
        }
        Ok(Received { code, body })
    }
}

enum Stopped {
    TooLarge,
    Failed(uplink::reqwest::Error),
}

/// The whole body, never more than `limit` bytes of it in memory.
async fn read(mut response: Response, limit: usize) -> Result<Vec<u8>, Stopped> {
    let too_large = |length: usize| length > limit;
    let promised = response
        .content_length()
        .map(|length| usize::try_from(length).unwrap_or(usize::MAX));
    if promised.is_some_and(too_large) {
        return Err(Stopped::TooLarge);
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(Stopped::Failed)? {
        if too_large(body.len() + chunk.len()) {
            return Err(Stopped::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// What the controller (or a proxy, or a portal) says to its refusal, if it is plain text.
async fn refusal(response: Response) -> String {
    let html = header(response.headers(), CONTENT_TYPE_HEADER.as_str())
        .is_some_and(|kind| kind.starts_with("text/html"));
    if html {
        return "an HTML page".to_owned();
    }
    match read(response, REFUSAL_LIMIT).await {
        Ok(body) => words(body),
        Err(_) => String::new(),
    }
}

/// The begin of a refusal's body on one line, for people; nothing if it is not plain text.
pub fn words(body: Vec<u8>) -> String {
    let Ok(text) = String::from_utf8(body) else {
        return String::new();
    };
    let text: String = text.trim().chars().take(REFUSAL_TEXT).collect();
    if text.chars().any(|c| c.is_control() && !c.is_whitespace()) {
        return String::new();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned)
}

/// How long the controller wants to be left alone. Only the form in seconds; controllers don't send dates.
/// Longer than a day is not believed: a device must not be sent away for good by one header.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = header(headers, RETRY_AFTER.as_str())?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_PAUSE))
}
