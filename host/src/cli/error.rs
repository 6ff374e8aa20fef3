//! What goes wrong on the command line, and the exit codes of it.

use std::error::Error;
use std::io;
use std::process::ExitCode;

use reqwest::StatusCode;

use crate::config::ConfigErrors;

/// The host did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No answer came.
    #[error("{url} does not answer ({cause})")]
    Unreachable {
        /// The host's address.
        url: String,
        /// The innermost cause.
        cause: String,
        /// What to do about it.
        next: &'static str,
    },
    /// The host said no.
    #[error("{detail} [{code}, HTTP {status}{}]", receipt.as_ref().map(|id| format!(", receipt {id}")).unwrap_or_default())]
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// The stable code, or `unknown`.
        code: String,
        /// For people.
        detail: String,
        /// The receipt, where a call was accepted and failed: it has a cost.
        receipt: Option<String>,
    },
    /// An answer that this version does not understand.
    #[error("the host's answer to {path} is not what this version expects: {cause}")]
    Unexpected {
        /// What was asked.
        path: String,
        /// Why it does not fit.
        cause: String,
    },
}

impl ClientError {
    /// Whether the key is missing or may not do this.
    pub fn is_unauthorised(&self) -> bool {
        matches!(self, Self::Refused { status, .. }
            if matches!(*status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN))
    }

    /// Whether a limit of the host, the tenant or the deployment refused it.
    pub fn is_limit(&self) -> bool {
        let Self::Refused { status, code, .. } = self else {
            return false;
        };
        matches!(
            *status,
            StatusCode::PAYLOAD_TOO_LARGE | StatusCode::TOO_MANY_REQUESTS
        ) || code.ends_with("_exceeded")
            || matches!(code.as_str(), "fuel_exhausted" | "queue_timeout")
    }

    /// Whether there is no such thing.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if *status == StatusCode::NOT_FOUND)
    }

    /// What to do about it, where that is known.
    pub fn next_step(&self) -> Option<&'static str> {
        let (status, code) = match self {
            Self::Unreachable { next, .. } => return Some(next),
            Self::Refused { status, code, .. } => (status, code.as_str()),
            Self::Unexpected { .. } => return Some(WRONG_ADDRESS),
        };
        match *status {
            _ if self.is_limit() => Some(
                "send less or try again later; `wattle deploy … --limit` raises a deployment's own limits",
            ),
            // Each refusal of a host has a code.
            status if code == "unknown" && status.is_client_error() => Some(WRONG_ADDRESS),
            _ if code == "tls_required" => Some("write https:// in --url"),
            StatusCode::UNAUTHORIZED => {
                Some("give a valid key with --key or WATTLE_KEY; the first is in <data>/bootstrap-admin-key")
            }
            StatusCode::FORBIDDEN => {
                Some("use a key whose role allows this; an admin makes one with `wattle key create`")
            }
            StatusCode::NOT_FOUND => Some("see what there is with the `list` subcommands"),
            StatusCode::CONFLICT if code.starts_with("receipt_not_") => {
                Some("wait for the next checkpoint; `wattle receipt <id>` says when one covers it")
            }
            StatusCode::CONFLICT => Some("choose another name"),
            StatusCode::SERVICE_UNAVAILABLE => {
                Some("try again in a moment; `wattle doctor` says what is missing")
            }
            status if status.is_server_error() => Some("the host's log says more, by the receipt's id"),
            _ => None,
        }
    }
}

const WRONG_ADDRESS: &str =
    "see whether --url or WATTLE_URL names a host's API; by default it is http://127.0.0.1:8700";

/// No answer came from `url`: why, and what to do about it.
pub fn unreachable(url: &str, error: &reqwest::Error) -> ClientError {
    let mut next = "start a host with `wattle serve`, or name one with --url or WATTLE_URL";
    if error.is_timeout() {
        next = "see whether --url is right, and whether a firewall is between";
    }
    let mut cause: &(dyn Error + 'static) = error;
    while let Some(inner) = inside(cause) {
        cause = inner;
        // Only this text tells it.
        if cause.to_string() == "dns error" {
            next = "see whether the name in --url or WATTLE_URL is right";
        }
    }
    if let Some(tls) = cause.downcast_ref() {
        next = tls_step(tls);
    }
    ClientError::Unreachable {
        url: url.to_owned(),
        cause: cause.to_string(),
        next,
    }
}

/// What `error` was made of. An I/O error passes over what it wraps and gives that one's source.
fn inside<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(wrapped) => Some(wrapped),
        None => error.source(),
    }
}

fn tls_step(error: &rustls::Error) -> &'static str {
    use rustls::{CertificateError as Certificate, Error as Tls};
    match error {
        // Another issuer of the same name signed it.
        Tls::InvalidCertificate(Certificate::UnknownIssuer | Certificate::BadSignature) => {
            "if the host has a CA of its own, give its certificate with --ca-file or WATTLE_CA_FILE"
        }
        Tls::InvalidCertificate(
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. },
        ) => "write a name in --url that the host's certificate has",
        Tls::InvalidCertificate(Certificate::Expired | Certificate::ExpiredContext { .. }) => {
            "renew the host's certificate: it reads the new one by itself"
        }
        Tls::InvalidMessage(_) => "no TLS is spoken there: write http:// in --url",
        _ => "see whether --url is right; the host's operator knows its certificate",
    }
}

/// Wrong usage that only shows after parsing, such as a file that is not there.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(String);

/// A [`UsageError`] that says `message`.
pub fn usage(message: impl Into<String>) -> anyhow::Error {
    UsageError(message.into()).into()
}

/// The exit code for `error`.
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    if error.is::<UsageError>() || error.is::<ConfigErrors>() {
        return ExitCode::from(2);
    }
    match error.downcast_ref::<ClientError>() {
        Some(error) if error.is_unauthorised() => ExitCode::from(3),
        Some(error) if error.is_limit() => ExitCode::from(4),
        _ => ExitCode::FAILURE,
    }
}

/// Whether nobody reads on: `wattle receipt list | head` ends when `head` has enough, and has not failed.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, code: &str) -> ClientError {
        let status = StatusCode::from_u16(status).unwrap();
        ClientError::Refused {
            status,
            code: code.into(),
            detail: "no".into(),
            receipt: None,
        }
    }

    #[test]
    fn refusals_are_told_apart() {
        for (error, unauthorised, limit) in [
            (refused(401, "unauthorised"), true, false),
            (refused(403, "forbidden"), true, false),
            (refused(429, "queue_full"), false, true),
            (refused(413, "body_too_large"), false, true),
            (refused(503, "queue_timeout"), false, true),
            (refused(422, "fuel_exhausted"), false, true),
            (refused(504, "deadline_exceeded"), false, true),
            (refused(404, "not_found"), false, false),
            (refused(500, "internal"), false, false),
        ] {
            assert_eq!(
                (error.is_unauthorised(), error.is_limit()),
                (unauthorised, limit),
                "{error}"
            );
            assert!(error.next_step().is_some(), "{error}");
        }
    }

    #[test]
    fn exit_codes_are_those_of_the_help() {
        for (error, code) in [
            (anyhow::anyhow!("x"), ExitCode::FAILURE),
            (usage("x"), ExitCode::from(2)),
            (ConfigErrors(Vec::new()).into(), ExitCode::from(2)),
            (
                anyhow::Error::from(refused(401, "unauthorised")).context("deploying"),
                ExitCode::from(3),
            ),
            (refused(429, "queue_full").into(), ExitCode::from(4)),
        ] {
            assert_eq!(exit_code(&error), code, "{error:#}");
        }
    }
}
