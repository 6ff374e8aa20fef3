//! A stand-in for S3: a bucket in memory, spoken to over HTTP, that believes nobody whose signature is wrong.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::header::{ETAG, IF_NONE_MATCH};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use domain::Digest;
use reqwest::Url;
use ring::hmac;
use tokio::net::TcpListener;

/// The bucket that there is.
pub const BUCKET: &str = "ledgers";
/// What nobody may find in a log or an error.
pub const SECRET: &str = "hush/the+secret/of/the/bucket/0123456789";
/// The same.
pub const TOKEN: &str = "hush/the+token/of/the/session==";

const KEY_ID: &str = "AKIDWATTLE";
const REGION: &str = "eu-test-1";
/// Keys in a page: far fewer than S3 gives, so that there are more pages.
const PAGE: usize = 2;

/// A running stand-in. Its bucket is empty at first.
pub struct S3 {
    address: SocketAddr,
    bucket: Arc<Bucket>,
}

#[derive(Default)]
struct Bucket {
    objects: Mutex<BTreeMap<String, Bytes>>,
    refuses: AtomicBool,
    whole_lists: AtomicUsize,
}

impl S3 {
    /// Starts one on a free port.
    pub async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (address, bucket) = (listener.local_addr()?, Arc::<Bucket>::default());
        let router = Router::new().fallback(answer).with_state(bucket.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { address, bucket })
    }

    /// The variables by which it is found, and by which it knows a caller.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT_URL", format!("http://{}", self.address)),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("AWS_REGION", REGION.to_owned()),
            ("AWS_ACCESS_KEY_ID", KEY_ID.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
            ("AWS_SESSION_TOKEN", TOKEN.to_owned()),
            ("NO_PROXY", "127.0.0.1".to_owned()),
        ]
    }

    /// Whether it refuses everybody from now on.
    pub fn refuse(&self, all: bool) {
        self.bucket.refuses.store(all, Relaxed);
    }

    /// The keys in the bucket, in their order.
    pub fn keys(&self) -> Vec<String> {
        self.bucket.objects().keys().cloned().collect()
    }

    /// What is under `key`.
    pub fn get(&self, key: &str) -> Option<Bytes> {
        self.bucket.objects().get(key).cloned()
    }

    /// Puts something into the bucket, or replaces it.
    pub fn put(&self, key: String, content: impl Into<Bytes>) {
        self.bucket.objects().insert(key, content.into());
    }

    /// Takes something out of the bucket.
    pub fn remove(&self, key: &str) {
        self.bucket.objects().remove(key);
    }

    /// How often somebody began to list the bucket from its first key.
    pub fn whole_lists(&self) -> usize {
        self.bucket.whole_lists.load(Relaxed)
    }
}

impl Bucket {
    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Bytes>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A page of ListObjectsV2.
    fn list(&self, query: &BTreeMap<String, String>) -> Response {
        let given = |name| query.get(name).map(String::as_str);
        let (prefix, delimiter) = (given("prefix").unwrap_or_default(), given("delimiter"));
        let after = given("continuation-token").or(given("start-after"));
        if after.is_none() {
            self.whole_lists.fetch_add(1, Relaxed);
        }
        let objects = self.objects();
        let mut found = objects
            .iter()
            .filter(|(key, _)| key.starts_with(prefix) && Some(key.as_str()) > after);
        let (mut page, mut last) = (String::new(), "");
        for (key, content) in found.by_ref().take(PAGE) {
            last = key;
            let folder = delimiter.and_then(|delimiter| key[prefix.len()..].split_once(delimiter));
            // Writing to a string cannot fail.
            let _ = match (folder, delimiter) {
                (Some((folder, _)), Some(delimiter)) => write!(
                    page,
                    "<CommonPrefixes><Prefix>{prefix}{folder}{delimiter}</Prefix></CommonPrefixes>"
                ),
                _ => write!(
                    page,
                    "<Contents><Key>{key}</Key><LastModified>2027-01-31T00:00:00.000Z</LastModified>\
                     <ETag>&quot;{}&quot;</ETag><Size>{}</Size><StorageClass>STANDARD</StorageClass></Contents>",
                    Digest::of(content).hex(),
                    content.len()
                ),
            };
        }
        let next = match found.next() {
            Some(_) => format!("<NextContinuationToken>{last}</NextContinuationToken>"),
            None => String::new(),
        };
        let is_truncated = !next.is_empty();
        let form = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
                    <ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">";
        format!(
            "{form}<Name>{BUCKET}</Name><IsTruncated>{is_truncated}</IsTruncated>{page}{next}</ListBucketResult>"
        )
        .into_response()
    }

    /// An object is put where there is none; nothing else may be put here.
    fn create(&self, key: &str, parts: &Parts, content: Bytes) -> Response {
        if parts.headers.get(IF_NONE_MATCH).is_none_or(|value| value != "*") {
            return refusal(StatusCode::BAD_REQUEST, "PutIsNotConditional", parts);
        }
        let checksum = BASE64_STANDARD.encode(Digest::of(&content).0);
        if parts
            .headers
            .get("x-amz-checksum-sha256")
            .is_none_or(|value| *value != checksum)
        {
            return refusal(StatusCode::BAD_REQUEST, "BadDigest", parts);
        }
        let mut objects = self.objects();
        if objects.contains_key(key) {
            return refusal(StatusCode::PRECONDITION_FAILED, "PreconditionFailed", parts);
        }
        let tag = tag(&content);
        objects.insert(key.to_owned(), content);
        ([(ETAG, tag)], "").into_response()
    }
}

fn tag(content: &[u8]) -> String {
    format!("\"{}\"", Digest::of(content).hex())
}

async fn answer(State(bucket): State<Arc<Bucket>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, 1 << 20).await else {
        return refusal(StatusCode::BAD_REQUEST, "IncompleteBody", &parts);
    };
    if believed(&parts, &body).is_none() {
        return refusal(StatusCode::FORBIDDEN, "SignatureDoesNotMatch", &parts);
    }
    if bucket.refuses.load(Relaxed) {
        return refusal(StatusCode::FORBIDDEN, "AccessDenied", &parts);
    }
    let path = parts.uri.path().trim_start_matches('/');
    let (name, key) = path.split_once('/').unwrap_or((path, ""));
    if name != BUCKET {
        return refusal(StatusCode::NOT_FOUND, "NoSuchBucket", &parts);
    }
    match (&parts.method, key) {
        (&Method::GET, "") => bucket.list(&query(&parts).into_iter().collect()),
        (&Method::GET | &Method::HEAD, _) => match bucket.objects().get(key) {
            Some(content) => ([(ETAG, tag(content))], Body::from(content.clone())).into_response(),
            None => refusal(StatusCode::NOT_FOUND, "NoSuchKey", &parts),
        },
        (&Method::PUT, _) => bucket.create(key, &parts, body),
        _ => refusal(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", &parts),
    }
}

/// An error as S3 answers it, which repeats what was asked: a session's token too.
fn refusal(status: StatusCode, code: &str, parts: &Parts) -> Response {
    let asked: String = parts
        .headers
        .iter()
        .filter_map(|(name, value)| Some(format!("{name}:{}\n", value.to_str().ok()?)))
        .collect();
    let form = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";
    let body = format!(
        "{form}<Error><Code>{code}</Code><Message>No.</Message><CanonicalRequest>{asked}</CanonicalRequest></Error>"
    );
    (status, body).into_response()
}

/// Something, if a request is signed as the holder of the key signs it.
///
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html>
fn believed(parts: &Parts, body: &[u8]) -> Option<()> {
    const ALGORITHM: &str = "AWS4-HMAC-SHA256";
    let header = |name: &str| parts.headers.get(name)?.to_str().ok();
    let authorization = header("authorization")?.strip_prefix(ALGORITHM)?;
    let given: BTreeMap<_, _> = authorization
        .split(',')
        .filter_map(|part| part.trim().split_once('='))
        .collect();
    let signed = *given.get("SignedHeaders")?;
    let must_be_signed = [
        "host",
        "x-amz-content-sha256",
        "x-amz-date",
        "x-amz-security-token",
    ];
    let names: Vec<_> = signed.split(';').collect();
    let (at, hash) = (header("x-amz-date")?, header("x-amz-content-sha256")?);
    let date = at.get(..8)?;
    let scope = format!("{date}/{REGION}/s3/aws4_request");
    let is_known = *given.get("Credential")? == format!("{KEY_ID}/{scope}")
        && header("x-amz-security-token")? == TOKEN
        && must_be_signed.iter().all(|name| names.contains(name))
        && hash == Digest::of(body).hex();
    let headers = names
        .iter()
        .map(|name| Some(format!("{name}:{}\n", header(name)?)));
    let headers: String = headers.collect::<Option<_>>()?;
    let mut query: Vec<_> = query(parts)
        .iter()
        .map(|(name, value)| (encoded(name), encoded(value)))
        .collect();
    query.sort();
    let query: Vec<_> = query
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let request = [
        parts.method.as_str(),
        parts.uri.path(),
        &query.join("&"),
        &headers,
        signed,
        hash,
    ];
    let request = Digest::of(request.join("\n").as_bytes()).hex();
    let text = [ALGORITHM, at, &scope, &request].join("\n");
    let mut key = format!("AWS4{SECRET}").into_bytes();
    for part in [date, REGION, "s3", "aws4_request", &text] {
        let by = hmac::Key::new(hmac::HMAC_SHA256, &key);
        key = hmac::sign(&by, part.as_bytes()).as_ref().to_vec();
    }
    (is_known && *given.get("Signature")? == hex::encode(key)).then_some(())
}

/// What stands behind the question mark, decoded.
fn query(parts: &Parts) -> Vec<(String, String)> {
    let query = parts.uri.query().unwrap_or_default();
    let url = Url::parse(&format!("http://bucket/?{query}"));
    let pairs = |url: Url| url.query_pairs().into_owned().collect();
    url.map(pairs).unwrap_or_default()
}

/// Text as it is signed: all but letters, digits and four signs in percent.
fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        match byte {
            b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => encoded.push(char::from(byte)),
            byte => encoded.push_str(&format!("%{byte:02X}")),
        }
        encoded
    })
}
