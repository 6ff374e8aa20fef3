//! Large bodies: read within their tenant's room, and parsed apart from what serves others.

use serde_json::{Value, json};
use tests::client::Answer;
use tests::host::Tenant;
use tests::{Client, TestHost};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::v2::{input, mirror, refused};

const PATH: &str = "/v2/models/fp32-1/infer";

/// A call whose body is over 64 KiB.
fn large() -> Value {
    let numbers: Vec<f32> = (0..20_000).map(|number| number as f32 + 0.5).collect();
    input("FP32", &json!([numbers.len()]), &json!(numbers))
}

async fn chunked(client: &Client, body: &Value) -> anyhow::Result<Answer> {
    let chunks: Vec<_> = body
        .to_string()
        .into_bytes()
        .chunks(10_000)
        .map(<[u8]>::to_vec)
        .collect();
    let chunks = futures::stream::iter(chunks.into_iter().map(anyhow::Ok));
    let request = client.request(reqwest::Method::POST, PATH);
    client
        .send(request.body(reqwest::Body::wrap_stream(chunks)))
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_is_answered_and_its_mistakes_are_named() -> anyhow::Result<()> {
    let host = TestHost::start_with(&["--body-max-mib", "1"]).await?;
    let tenant = host.tenant("acacia").await?;
    mirror(&tenant, "FP32", 1).await?;
    let mut body = large();
    for answer in [
        tenant.invoke.post(PATH, &body).await?,
        chunked(&tenant.invoke, &body).await?,
    ] {
        let answer = answer.expect(200)?;
        assert_eq!(answer["outputs"][0]["data"], body["inputs"][0]["data"]);
    }
    body["inputs"][0]["data"][19_999] = json!("x");
    let error = refused(&tenant.invoke.post(PATH, &body).await?, 422, "invalid_field")?;
    assert!(error.starts_with("inputs[0].data:"), "{error}");

    let numbers = vec![0.123_456_789; 200_000];
    let body = input("FP32", &json!([numbers.len()]), &json!(numbers));
    refused(&tenant.invoke.post(PATH, &body).await?, 413, "body_too_large")?;
    refused(&chunked(&tenant.invoke, &body).await?, 413, "body_too_large")?;
    host.finish().await
}

/// Begins a call with the largest body, and leaves it there when the host asks for it.
async fn begin(tenant: &Tenant) -> anyhow::Result<TcpStream> {
    let address = tenant.invoke.url("").trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(address).await?;
    let key = tenant.invoke.key().unwrap_or_default();
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nhost: wattle\r\nauthorization: Bearer {key}\r\n\
         content-length: {}\r\nexpect: 100-continue\r\n\r\n",
        1 << 20
    );
    stream.write_all(head.as_bytes()).await?;
    let mut said = [0; 12];
    stream.read_exact(&mut said).await?;
    assert_eq!(&said, b"HTTP/1.1 100");
    Ok(stream)
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_wait_for_their_tenants_others() -> anyhow::Result<()> {
    let host = TestHost::start_with(&["--body-max-mib", "1"]).await?;
    let (tenant, neighbour) = (host.tenant("acacia").await?, host.tenant("birch").await?);
    mirror(&tenant, "FP32", 1).await?;
    mirror(&neighbour, "FP32", 1).await?;
    let held = [begin(&tenant).await?, begin(&tenant).await?];
    let client = tenant.invoke.clone();
    let third = tokio::spawn(async move { client.post(PATH, &large()).await });
    for _ in 0..3 {
        neighbour.invoke.post(PATH, &large()).await?.expect(200)?;
        let small = input("FP32", &json!([1]), &json!([1.0]));
        tenant.invoke.post(PATH, &small).await?.expect(200)?;
    }
    assert!(!third.is_finished(), "there is no room for it");
    drop(held);
    third.await??.expect(200)?;
    host.finish().await
}
