//! A bucket of S3, or of a store that speaks as S3 does, as the usual variables of the environment describe it.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey as Variable, Checksum, S3ConditionalPut};
use object_store::{BackoffConfig, ClientConfigKey, ObjectStore, RetryConfig};
use reqwest::Url;

/// How long a connection may take.
const CONNECT_WITHIN: &str = "5s";
/// How long an answer may take, all of it.
const ANSWER_WITHIN: &str = "10s";
/// How often something is asked again that may have passed, and how long after the first time at most.
const RETRIES: usize = 2;
const RETRY_WITHIN: Duration = Duration::from_secs(20);

/// Opens bucket `name`, without asking anything of it yet. Or says what is wrong with the environment, without any
/// secret of it.
pub fn open(name: &str) -> Result<Arc<dyn ObjectStore>, String> {
    // Only the first in a process is taken: it is the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    configure(AmazonS3Builder::from_env(), name)
}

fn configure(given: AmazonS3Builder, name: &str) -> Result<Arc<dyn ObjectStore>, String> {
    let retry = RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(2),
            base: 2.0,
        },
        max_retries: RETRIES,
        retry_timeout: RETRY_WITHIN,
    };
    are_plain(&given)?;
    has_credentials(&given)?;
    let builder = with_endpoint(given)?
        .with_bucket_name(name)
        // What is anchored stays: without this nothing would keep it from being written over.
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        // A bucket that locks its objects takes none without.
        .with_checksum_algorithm(Checksum::SHA256)
        .with_config(Variable::Client(ClientConfigKey::ConnectTimeout), CONNECT_WITHIN)
        .with_config(Variable::Client(ClientConfigKey::Timeout), ANSWER_WITHIN)
        .with_retry(retry);
    let store = builder.build().map_err(|error| super::reason(&error))?;
    Ok(Arc::new(store))
}

/// Whether each is fit for a header: others would not come to light before something is asked.
fn are_plain(given: &AmazonS3Builder) -> Result<(), String> {
    for variable in [
        Variable::AccessKeyId,
        Variable::SecretAccessKey,
        Variable::Token,
        Variable::Region,
    ] {
        let Some(value) = given.get_config_value(&variable) else {
            continue;
        };
        if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_graphic()) {
            let name = variable.as_ref().to_uppercase();
            return Err(format!(
                "{name} is empty or has something in it that is no letter, digit or sign"
            ));
        }
    }
    Ok(())
}

/// Whether it is said who asks. The role of a machine is asked for only where it is named: elsewhere nobody answers.
fn has_credentials(given: &AmazonS3Builder) -> Result<(), String> {
    let has = |variable| given.get_config_value(&variable).is_some();
    let ways = [
        has(Variable::AccessKeyId) && has(Variable::SecretAccessKey),
        has(Variable::WebIdentityTokenFile) && has(Variable::RoleArn),
        has(Variable::ContainerCredentialsRelativeUri),
        has(Variable::ContainerCredentialsFullUri) && has(Variable::ContainerAuthorizationTokenFile),
        has(Variable::MetadataEndpoint),
        is_set(given, Variable::SkipSignature),
    ];
    match ways.contains(&true) {
        true => Ok(()),
        false => Err(
            "there are no credentials in the environment: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or those of \
             a role"
                .to_owned(),
        ),
    }
}

/// The endpoint in its normal form, if there is one: of HTTPS, or of HTTP where that is allowed.
fn with_endpoint(given: AmazonS3Builder) -> Result<AmazonS3Builder, String> {
    let endpoint = given.get_config_value(&Variable::S3Endpoint);
    let Some(endpoint) = endpoint.or_else(|| given.get_config_value(&Variable::Endpoint)) else {
        return Ok(given);
    };
    // It is not shown: somebody may have put a password there.
    let refused = || Err("AWS_ENDPOINT_URL is no https://HOST".to_owned());
    let Ok(url) = endpoint.parse::<Url>() else {
        return refused();
    };
    let is_bare = url.username().is_empty() && url.password().is_none();
    let is_whole = url.has_host() && url.query().is_none() && url.fragment().is_none();
    let given = match url.scheme() {
        _ if !is_bare || !is_whole => return refused(),
        "https" => given,
        // No certificate is needed, and the machine may have none.
        "http" if is_set(&given, Variable::Client(ClientConfigKey::AllowHttp)) => {
            given.with_config(Variable::Client(ClientConfigKey::NoSystemCertificates), "true")
        }
        "http" => {
            let next = "write https://, or set AWS_ALLOW_HTTP=true";
            return Err(format!(
                "AWS_ENDPOINT_URL is http://, where others can listen: {next}"
            ));
        }
        _ => return refused(),
    };
    Ok(given.with_config(Variable::S3Endpoint, url.as_str().trim_end_matches('/')))
}

/// Whether a switch is on, in any of the words for it.
fn is_set(given: &AmazonS3Builder, switch: Variable) -> bool {
    let value = given.get_config_value(&switch).unwrap_or_default();
    matches!(
        value.to_ascii_lowercase().as_str(),
        "1" | "true" | "on" | "yes" | "y"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of these variables and no others.
    fn opened(variables: &[(&str, &str)]) -> Result<(), String> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let given = variables
            .iter()
            .fold(AmazonS3Builder::new(), |given, (name, value)| {
                given.with_config(name.parse().unwrap(), *value)
            });
        configure(given, "ledgers").map(|_| ())
    }

    const KEYS: [(&str, &str); 2] = [("aws_access_key_id", "AKID"), ("aws_secret_access_key", "hush")];
    /// With it no certificate of the machine is read.
    const LOCAL: [(&str, &str); 2] = [
        ("aws_endpoint_url", "http://127.0.0.1:9000/"),
        ("aws_allow_http", "true"),
    ];

    #[test]
    fn whoever_asks_must_be_known() {
        for good in [
            &KEYS[..],
            &[("aws_container_credentials_relative_uri", "/v2/credentials/x")],
            &[("aws_metadata_endpoint", "http://169.254.169.254")],
            &[("aws_skip_signature", "true")],
        ] {
            assert_eq!(opened(&[good, &LOCAL].concat()), Ok(()), "{good:?}");
        }
        for bad in [
            &[][..],
            &KEYS[..1],
            &KEYS[1..],
            &[("aws_role_arn", "arn")],
            &[("aws_skip_signature", "no")],
        ] {
            let refused = opened(&[bad, &LOCAL].concat()).unwrap_err();
            assert!(
                refused.contains("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
                "{bad:?}: {refused}"
            );
        }
    }

    #[test]
    fn what_no_header_takes_is_named_and_not_shown() {
        for (name, value) in [
            ("aws_session_token", "hush\n"),
            ("aws_session_token", ""),
            ("aws_secret_access_key", "hush hush"),
            ("aws_region", "hüsh"),
        ] {
            let refused = opened(&[&KEYS[..], &LOCAL, &[(name, value)]].concat()).unwrap_err();
            assert!(
                refused.contains(&name.to_uppercase()) && !refused.contains("hush"),
                "{refused}"
            );
        }
    }

    #[test]
    fn an_endpoint_is_of_https_unless_http_is_allowed() {
        for bad in [
            "",
            "127.0.0.1:9000",
            "ftp://127.0.0.1",
            "https://",
            "https://me:hush@127.0.0.1",
            "http://me@127.0.0.1",
            "https://127.0.0.1?hush",
        ] {
            let refused = opened(&[&KEYS[..], &LOCAL, &[("aws_endpoint_url", bad)]].concat()).unwrap_err();
            assert_eq!(refused, "AWS_ENDPOINT_URL is no https://HOST", "{bad}");
        }
        let refused = opened(&[&KEYS[..], &LOCAL[..1]].concat()).unwrap_err();
        assert!(refused.contains("AWS_ALLOW_HTTP=true"), "{refused}");
    }
}
