//! Callers that are slow on purpose: each is ended, and none keeps another out.

use std::time::Duration;

use serde_json::{Value, json};
use tests::TestHost;
use tests::host::Tenant;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A connection to the API.
async fn connect(host: &TestHost) -> anyhow::Result<TcpStream> {
    let address = host.admin.url("").trim_start_matches("http://").to_owned();
    Ok(TcpStream::connect(address).await?)
}

/// What comes until the host closes the connection; a host that never does fails the test by its time.
async fn rest(stream: &mut TcpStream) -> anyhow::Result<String> {
    let mut text = Vec::new();
    let _reset_after_the_reply = stream.read_to_end(&mut text).await;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn head(tenant: &Tenant, path: &str, bytes: usize) -> anyhow::Result<String> {
    let key = tenant.manage.key().unwrap_or_default();
    Ok(format!(
        "POST {path} HTTP/1.1\r\nhost: wattle\r\nauthorization: Bearer {key}\r\ncontent-length: {bytes}\r\n\r\n"
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_sends_no_request_is_closed() -> anyhow::Result<()> {
    let host = TestHost::start_with(&["--header-timeout-ms", "200"]).await?;
    let live = "GET /v2/health/live HTTP/1.1\r\nhost: wattle\r\n\r\n";
    for (sent, replies) in [("", 0), ("GET /v2/health/li", 0), (live, 1)] {
        let mut stream = connect(&host).await?;
        stream.write_all(sent.as_bytes()).await?;
        let answer = rest(&mut stream).await?;
        assert_eq!(
            answer.matches("HTTP/1.1 200 OK").count(),
            replies,
            "{sent}: {answer}"
        );
    }
    // One header line after the other, each in time, is no way around it.
    let mut stream = connect(&host).await?;
    stream.write_all(b"GET / HTTP/1.1\r\n").await?;
    while stream.write_all(b"x: y\r\n").await.is_ok() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    host.finish().await
}

const BODIES: [&str; 4] = [
    "/v2/models/echo/infer",
    "/api/v1/deployments",
    "/api/v1/components/echo/revisions",
    "/api/v1/graphs/echo/versions",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stalls_is_a_problem_of_its_own() -> anyhow::Result<()> {
    let host = TestHost::start_with(&["--stall-timeout-ms", "200"]).await?;
    let tenant = host.tenant("acacia").await?;
    for path in BODIES {
        let mut stream = connect(&host).await?;
        stream.write_all(head(&tenant, path, 100)?.as_bytes()).await?;
        stream.write_all(b"{ \"name\": ").await?;
        let answer = rest(&mut stream).await?;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{path}: {answer}");
        assert!(answer.contains("\"code\":\"body_timeout\""), "{path}: {answer}");
    }
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_trickles_does_not_come_for_ever() -> anyhow::Result<()> {
    let host = TestHost::start_with(&["--body-timeout-ms", "300"]).await?;
    let tenant = host.tenant("acacia").await?;
    for path in BODIES {
        let (mut reading, mut writing) = connect(&host).await?.into_split();
        writing
            .write_all(head(&tenant, path, 1 << 20)?.as_bytes())
            .await?;
        let trickle = tokio::spawn(async move {
            while writing.write_all(b" ").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        let mut answer = vec![0; 1_024];
        let length = reading.read(&mut answer).await?;
        let answer = String::from_utf8_lossy(&answer[..length]);
        assert!(answer.starts_with("HTTP/1.1 408 "), "{path}: {answer}");
        trickle.await?;
    }
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_does_not_read_loses_its_connection() -> anyhow::Result<()> {
    // With one connection, another caller is answered only when the slow one's has ended.
    let flags = [
        "--concurrency",
        "1",
        "--connections",
        "1",
        "--header-timeout-ms",
        "100",
        "--stall-timeout-ms",
        "500",
    ];
    let host = TestHost::start_with(&flags).await?;
    let tenant = host.tenant("acacia").await?;
    tenant.deploy("echo", &[], json!({})).await?;
    // More than the sockets' buffers hold.
    let numbers = 2_000_000;
    let input =
        json!({ "name": "x", "shape": [numbers], "datatype": "FP32", "data": vec![0.015625; numbers] });
    let body = json!({ "inputs": [input] }).to_string();
    let mut stream = connect(&host).await?;
    stream
        .write_all(head(&tenant, "/v2/models/echo/infer", body.len())?.as_bytes())
        .await?;
    stream.write_all(body.as_bytes()).await?;
    host.ops.get("/livez").await?;
    // It waits in the backlog meanwhile.
    tenant.read.get("/api/v1/receipts").await?.expect(200)?;
    let answer = rest(&mut stream).await?;
    assert!(
        answer.starts_with("HTTP/1.1 200 OK"),
        "{}",
        &answer[..answer.len().min(300)]
    );
    let (head, read) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    assert!(
        read.len() < length.unwrap_or("0").parse()?,
        "it was cut off: {head}"
    );
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_do_nothing_lock_nobody_out() -> anyhow::Result<()> {
    let flags = [
        "--concurrency",
        "2",
        "--connections",
        "2",
        "--header-timeout-ms",
        "500",
    ];
    let host = TestHost::start_with(&flags).await?;
    let mut idle = Vec::new();
    for _ in 0..8 {
        idle.push(connect(&host).await?);
    }
    // The operators have a listener of their own, and everyone gets a turn in the end.
    let ready: Value = host.ops.get("/readyz").await?.expect(200)?;
    assert_eq!(ready["ready"], true);
    host.admin.get("/api/v1/tenants").await?.expect(200)?;
    host.finish().await
}
