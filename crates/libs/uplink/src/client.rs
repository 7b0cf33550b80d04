//! The HTTP client of one attempt.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, Url, redirect};
use thiserror::Error;

use crate::choice::Attempt;
use crate::failure::{Failure, explain};
use crate::hosts::Hosts;
use crate::proxy::ProxyRules;
use crate::resolver::{PortResolver, SharedResolver};
use crate::stage::{Begun, Stage};
use crate::tls::Tls;

/// What all clients of a service have in common.
#[derive(Debug, Clone)]
pub struct Settings {
    /// For DNS lookup, TCP and TLS together (`timer.dial.timeout`); the lookup may take half.
    pub connect_timeout: Duration,
    /// For a whole request with its answer; none for downloads (`timer.send.timeout`).
    pub request_timeout: Option<Duration>,
    /// Redirects to follow; with 0 the redirect itself is the answer.
    pub redirects: usize,
    /// Text of the User-Agent header.
    pub user_agent: String,
    /// Names with fixed addresses.
    pub hosts: Arc<Hosts>,
}

impl Default for Settings {
    /// EVE's defaults: 10 s to connect, 120 s for a request, no redirects.
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            request_timeout: Some(Duration::from_mins(2)),
            redirects: 0,
            user_agent: concat!("eve/", env!("CARGO_PKG_VERSION")).to_owned(),
            hosts: Arc::default(),
        }
    }
}

/// The client can't be made.
#[derive(Debug, Error)]
#[error("no HTTP client for {attempt}")]
pub struct ClientError {
    /// For which attempt.
    pub attempt: String,
    /// Why.
    #[source]
    pub source: reqwest::Error,
}

/// Why a redirect was not followed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RedirectRefused {
    /// One more than allowed.
    #[error("more than {limit} redirects, the last one to {to}")]
    TooMany {
        /// Allowed.
        limit: usize,
        /// Where it would have gone.
        to: String,
    },
    /// From https to http: anybody on the way could change what comes.
    #[error("redirect from https to {to}")]
    Insecure {
        /// Where it would have gone.
        to: String,
    },
}

/// A client whose connections leave from one source address of one port; every request
/// opens a connection of its own.
#[derive(Debug, Clone)]
pub struct HttpClient {
    client: Client,
    stage: Arc<Stage>,
    proxies: Arc<ProxyRules>,
}

impl HttpClient {
    /// A client for `attempt`. Requests must not run at the same time on one client:
    /// explanations of failures would mix.
    pub fn new(attempt: &Attempt, tls: &Tls, settings: &Settings) -> Result<Self, ClientError> {
        let stage = Arc::new(Stage::default());
        let resolver = PortResolver::new(
            attempt,
            Arc::clone(&settings.hosts),
            settings.connect_timeout / 2,
            Arc::clone(&stage),
        );
        let mut builder = Client::builder()
            // First: without it the environment's proxy variables count.
            .no_proxy()
            .local_address(attempt.source)
            .dns_resolver(SharedResolver(Arc::new(resolver)))
            .tls_backend_preconfigured(tls.for_client(Arc::clone(&stage)))
            .http1_only()
            .pool_max_idle_per_host(0)
            .connect_timeout(settings.connect_timeout)
            .referer(false)
            .user_agent(settings.user_agent.as_str())
            .redirect(redirects(settings.redirects));
        if let Some(timeout) = settings.request_timeout {
            builder = builder.timeout(timeout);
        }
        if !attempt.proxies.is_empty() {
            builder = builder.proxy(proxy(Arc::clone(&attempt.proxies)));
        }
        let client = builder.build().map_err(|source| ClientError {
            attempt: attempt.to_string(),
            source,
        })?;
        Ok(Self {
            client,
            stage,
            proxies: Arc::clone(&attempt.proxies),
        })
    }

    /// Begins a GET request.
    pub fn get(&self, url: Url) -> reqwest::RequestBuilder {
        self.stage.begin(Begun::Connect);
        self.client.get(url)
    }

    /// Begins a POST request.
    pub fn post(&self, url: Url) -> reqwest::RequestBuilder {
        self.stage.begin(Begun::Connect);
        self.client.post(url)
    }

    /// True if a request to `url` goes through a proxy.
    pub fn is_proxied(&self, url: &Url) -> bool {
        self.proxies.for_url(url).is_some()
    }

    /// What an error of a request to `url`, made with this client, means.
    pub fn explain(&self, error: &reqwest::Error, url: &Url) -> Failure {
        explain(error, self.stage.begun(), self.is_proxied(url))
    }
}

/// Decides per URL, because a redirect can lead to a host that the exceptions name.
fn proxy(rules: Arc<ProxyRules>) -> reqwest::Proxy {
    reqwest::Proxy::custom(move |url| {
        let proxy = rules.for_url(url)?;
        let mut address = Url::parse(&proxy.url()).ok()?;
        if let Some((user, password)) = proxy.login() {
            address.set_username(user).ok()?;
            address.set_password(Some(password)).ok()?;
        }
        Some(address)
    })
}

fn redirects(limit: usize) -> redirect::Policy {
    if limit == 0 {
        return redirect::Policy::none();
    }
    redirect::Policy::custom(move |attempt| {
        let to = attempt.url().to_string();
        let was_secure = attempt
            .previous()
            .last()
            .is_some_and(|url| url.scheme() == "https");
        if was_secure && attempt.url().scheme() != "https" {
            return attempt.error(RedirectRefused::Insecure { to });
        }
        if attempt.previous().len() > limit {
            return attempt.error(RedirectRefused::TooMany { limit, to });
        }
        attempt.follow()
    })
}
