//! Asking a provider: in bounded time, for a bounded answer, and again only when it may help.

use std::time::Duration;

use reqwest::header::RETRY_AFTER;
use reqwest::{RequestBuilder, Response, StatusCode, Url};
use serde::de::DeserializeOwned;
use time::OffsetDateTime;
use time::format_description::well_known::Iso8601;

use crate::ProviderError;

/// How a provider is asked.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long a connection may take.
    pub connect_within: Duration,
    /// How long an answer may take, all of it.
    pub answer_within: Duration,
    /// How often to ask before giving up, the first time included.
    pub tries: u32,
    /// How long to wait before the second try where the provider does not say; twice that before the third.
    pub backoff: Duration,
    /// The longest wait that a provider may ask for and that is waited here.
    pub patience: Duration,
    /// Most bytes of an answer: a day of five-minute figures has 30 kB.
    pub max_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connect_within: Duration::from_secs(5),
            answer_within: Duration::from_secs(20),
            tries: 3,
            backoff: Duration::from_secs(2),
            patience: Duration::from_secs(60),
            max_bytes: 4 << 20,
        }
    }
}

/// A client of one provider.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: Url,
    options: Options,
}

impl Client {
    pub fn new(base: &str, options: Options) -> Result<Self, ProviderError> {
        let refused = || ProviderError::Url(base.to_owned());
        let url: Url = base.parse().map_err(|_| refused())?;
        // Only the first in a process is taken: it is the same one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let local = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        let builder = reqwest::Client::builder()
            .connect_timeout(options.connect_within)
            .timeout(options.answer_within)
            // A key in a header of the provider's own would go along to wherever it is sent.
            .redirect(reqwest::redirect::Policy::none());
        let builder = match (url.scheme(), local) {
            ("https", _) => builder,
            // In the clear only on this machine.
            ("http", true) => builder.no_proxy().tls_certs_only([]),
            _ => return Err(refused()),
        };
        Ok(Self {
            http: builder.build().map_err(unreachable)?,
            base: url,
            options,
        })
    }

    /// A request for `path` below the provider's address.
    pub fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<RequestBuilder, ProviderError> {
        let mut url = self.base.join(path).map_err(ProviderError::malformed)?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(self.http.get(url))
    }

    /// The JSON that `request` is answered with. What may pass is tried again: no connection, a status of 5xx, and
    /// 429 after the time that it names.
    pub async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, ProviderError> {
        let mut tries = 1;
        loop {
            let Some(again) = request.try_clone() else {
                return Err(ProviderError::malformed("a request that cannot be sent again"));
            };
            let (error, wait) = match self.answer(again).await {
                Ok(body) => return serde_json::from_slice(&body).map_err(malformed),
                Err(refused) => refused,
            };
            let Some(wait) = wait.filter(|wait| tries < self.options.tries && *wait <= self.options.patience)
            else {
                return Err(error);
            };
            tokio::time::sleep(wait.max(self.options.backoff * (1 << (tries - 1).min(16)))).await;
            tries += 1;
        }
    }

    /// The body, or why there is none and how long to wait at least before it is worth to ask again.
    async fn answer(&self, request: RequestBuilder) -> Result<Vec<u8>, (ProviderError, Option<Duration>)> {
        let sent = request.send().await;
        let reply = sent.map_err(|error| (unreachable(error), Some(Duration::ZERO)))?;
        let status = reply.status();
        if status.is_success() {
            return self.body(reply).await.map_err(|error| {
                let passes = matches!(error, ProviderError::Unreachable(_));
                (error, passes.then_some(Duration::ZERO))
            });
        }
        let asked = reply
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok());
        // Those who give a date instead are asked again after the usual wait.
        let wait = asked
            .and_then(|text| text.trim().parse().ok())
            .map(Duration::from_secs);
        let (code, wait_or_none) = (status.as_u16(), wait.unwrap_or_default());
        Err(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                (ProviderError::Unauthorised { status: code }, None)
            }
            StatusCode::TOO_MANY_REQUESTS => {
                let retry_after_s = wait_or_none.max(self.options.backoff).as_secs().max(1);
                (ProviderError::RateLimited { retry_after_s }, Some(wait_or_none))
            }
            status if status.is_server_error() => {
                (ProviderError::Status { status: code }, Some(wait_or_none))
            }
            _ => (ProviderError::Status { status: code }, None),
        })
    }

    async fn body(&self, mut reply: Response) -> Result<Vec<u8>, ProviderError> {
        let limit_bytes = self.options.max_bytes;
        let mut body = Vec::new();
        while let Some(chunk) = reply.chunk().await.map_err(unreachable)? {
            if body.len() + chunk.len() > limit_bytes {
                return Err(ProviderError::TooLarge { limit_bytes });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

fn unreachable(error: reqwest::Error) -> ProviderError {
    ProviderError::Unreachable(error.without_url())
}

/// Where the form breaks, without what stands there.
fn malformed(error: serde_json::Error) -> ProviderError {
    let kind = match error.classify() {
        serde_json::error::Category::Data => "a member is missing or of another type",
        _ => "it is no JSON",
    };
    ProviderError::malformed(format!("{kind}, line {} column {}", error.line(), error.column()))
}

/// An instant in ISO 8601, with or without seconds, as providers write it.
pub(crate) fn instant(text: &str) -> Result<OffsetDateTime, ProviderError> {
    let parsed = OffsetDateTime::parse(text, &Iso8601::DEFAULT);
    let at = parsed.map_err(|_| ProviderError::malformed("a time that is no ISO 8601"))?;
    let at = at.checked_to_offset(time::UtcOffset::UTC);
    at.ok_or_else(|| ProviderError::malformed("a time that no calendar has"))
}

/// The end of what begins at `from` and lasts for `span`.
pub(crate) fn end(from: OffsetDateTime, span: time::Duration) -> Result<OffsetDateTime, ProviderError> {
    let to = from.checked_add(span);
    to.ok_or_else(|| ProviderError::malformed("a time that no calendar has"))
}

/// The same in whole minutes of UTC, as providers take it.
pub(crate) fn minute(at: OffsetDateTime) -> String {
    let at = at.to_offset(time::UtcOffset::UTC);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_with_and_without_seconds() {
        for text in [
            "2018-01-20T12:00Z",
            "2018-01-20T12:00:00Z",
            "2018-01-20T12:00:00.000Z",
            "2018-01-20T13:00:00+01:00",
        ] {
            assert_eq!(minute(instant(text).unwrap()), "2018-01-20T12:00Z", "{text}");
        }
        for text in [
            "",
            "2018-01-20",
            "12:00",
            "noon",
            "9999-12-31T23:59:59-01:00",
            "-9999-01-01T00:00:00+01:00",
        ] {
            assert_eq!(instant(text).unwrap_err().code(), "intensity_malformed", "{text}");
        }
        let last = instant("9999-12-31T23:59:59Z").unwrap();
        let refused = end(last, time::Duration::SECOND).unwrap_err();
        assert_eq!(refused.code(), "intensity_malformed");
    }

    #[test]
    fn keys_leave_this_machine_only_encrypted() {
        for good in [
            "https://api.example.org",
            "http://127.0.0.1:1",
            "http://localhost:1/",
            "http://[::1]:1",
        ] {
            assert!(Client::new(good, Options::default()).is_ok(), "{good}");
        }
        for bad in ["http://api.example.org", "ftp://localhost", "api.example.org", ""] {
            let refused = Client::new(bad, Options::default()).unwrap_err();
            assert_eq!(refused.code(), "intensity_url", "{bad}");
        }
    }
}
