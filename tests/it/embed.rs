//! The `embed` pipeline: sentences to unit vectors, with the tokenizer in the guest.
//!
//! The known numbers are those of ONNX Runtime 1.32 on the same graph, behind the tokenizer of the model's
//! makers.

use anyhow::Context as _;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::json;
use tests::TestHost;
use tests::client::Answer;
use tests::host::Tenant;

/// Backends add in different orders.
const TOLERANCE: f32 = 5e-4;

async fn deployed(host: &TestHost) -> anyhow::Result<Tenant> {
    let tenant = host.tenant("acacia").await?;
    let limits = json!({ "limits": { "deadline_ms": 120_000 } });
    tenant
        .deploy("embed", &[("minilm", "minilm.onnx")], limits)
        .await?;
    Ok(tenant)
}

async fn call(tenant: &Tenant, texts: &[impl AsRef<[u8]>]) -> anyhow::Result<Answer> {
    let data: Vec<_> = texts.iter().map(|text| BASE64_STANDARD.encode(text)).collect();
    let input = json!({
        "name": "text", "shape": [texts.len()], "datatype": "BYTES",
        "parameters": { "content_type": "base64" }, "data": data,
    });
    tenant.invoke.infer("embed", json!([input])).await
}

/// The tokens that a call's models were given.
async fn tokens(host: &TestHost, tenant: &Tenant, answer: Answer) -> anyhow::Result<Option<u64>> {
    let id = answer.receipt.clone().context("a receipt")?;
    answer.expect(200)?;
    let receipt = host.final_receipt(&tenant.read, &id).await?;
    Ok(receipt["work"][0]["tokens"].as_u64())
}

/// The vector of each text, and how many texts were cut.
async fn embed(tenant: &Tenant, texts: &[&str]) -> anyhow::Result<(Vec<Vec<f32>>, u64)> {
    let body = call(tenant, texts).await?.expect(200)?;
    assert_eq!(body["outputs"][0]["shape"], json!([texts.len(), 384]));
    let numbers: Vec<f32> = serde_json::from_value(body["outputs"][0]["data"].clone())?;
    let truncated = body["parameters"]["truncated"]
        .as_u64()
        .context("no 'truncated'")?;
    Ok((numbers.chunks(384).map(<[f32]>::to_vec).collect(), truncated))
}

fn product(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn sentences_of_like_meaning_are_near() -> anyhow::Result<()> {
    known_products(TestHost::start().await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn sentences_are_as_near_on_onnx_runtime() -> anyhow::Result<()> {
    known_products(TestHost::start_with_onnxruntime().await?).await
}

async fn known_products(host: TestHost) -> anyhow::Result<()> {
    let tenant = deployed(&host).await?;
    let texts = [
        "A man is eating food.",
        "Someone is having a meal.",
        "The stock market fell sharply today.",
    ];
    let (vectors, truncated) = embed(&tenant, &texts).await?;
    assert_eq!(truncated, 0);
    for vector in &vectors {
        let length = product(vector, vector).sqrt();
        assert!((length - 1.0).abs() < 1e-5, "a length of {length}");
    }
    let like = product(&vectors[0], &vectors[1]);
    let unlike = product(&vectors[0], &vectors[2]);
    assert!((like - 0.6853).abs() < TOLERANCE, "{like}");
    assert!((unlike - 0.0077).abs() < TOLERANCE, "{unlike}");

    // Alone a text is not filled up to its neighbours' length.
    let (alone, _) = embed(&tenant, &texts[..1]).await?;
    let same = product(&alone[0], &vectors[0]);
    assert!((same - 1.0).abs() < 1e-5, "{same}");
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn words_are_split_as_the_model_learnt_them() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = deployed(&host).await?;
    let texts = [
        "Naïve café — Ünïcödé, don't; 你好 world!",
        "  naive CAFE\u{301}\t—\r\nunicode , don ' t ; 你 好\u{0} wor\u{ad}ld !",
        "naive cafe unicode dont world",
    ];
    let (vectors, _) = embed(&tenant, &texts).await?;
    let known = [-0.00514, 0.01267, 0.03521, 0.00295, 0.02178, -0.07074];
    for (got, want) in vectors[0].iter().zip(known) {
        assert!((got - want).abs() < TOLERANCE, "{got} instead of {want}");
    }
    let same = product(&vectors[0], &vectors[1]);
    assert!((same - 1.0).abs() < 1e-5, "the same words: {same}");
    let other = product(&vectors[0], &vectors[2]);
    assert!(other < 0.99, "other words: {other}");
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn long_texts_are_cut_and_the_answer_says_so() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = deployed(&host).await?;
    // 256 tokens with the two marks.
    let fitting = "word ".repeat(254);
    let long = format!("{fitting} and more");
    let (vectors, truncated) = embed(&tenant, &[&fitting, "short", &long]).await?;
    assert_eq!(truncated, 1);
    let same = product(&vectors[0], &vectors[2]);
    assert!((same - 1.0).abs() < 1e-5, "{same}");
    let (_, truncated) = embed(&tenant, &[&fitting]).await?;
    assert_eq!(truncated, 0);
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn receipts_and_usage_have_the_tokens_that_the_model_was_given() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = deployed(&host).await?;
    // Six words and signs, between two marks.
    let answer = call(&tenant, &["A man is eating food."]).await?;
    assert_eq!(tokens(&host, &tenant, answer).await?, Some(8));
    let before = used(&tenant).await?;
    // The shorter text is filled up.
    let answer = call(&tenant, &["A man is eating food.", "A man."]).await?;
    assert_eq!(tokens(&host, &tenant, answer).await?, Some(16));
    assert_eq!(used(&tenant).await? - before, 16);
    host.finish().await
}

/// The tokens of the tenant's models, golden checks included.
async fn used(tenant: &Tenant) -> anyhow::Result<u64> {
    let sums = tenant.read.get("/api/v1/usage/graphs").await?.expect(200)?;
    sums["items"][0]["tokens"].as_u64().context("tokens")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_text_has_a_code() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = deployed(&host).await?;
    let many = vec!["x"; 257];
    let cases: [(&str, Vec<&[u8]>); 5] = [
        ("empty-text", vec![b""]),
        ("empty-text", vec![b"a text", b" \t\n "]),
        ("empty-text", vec!["\u{301}\u{0}".as_bytes()]),
        ("malformed-text", vec![b"a text", b"caf\xe9"]),
        (
            "too-many-texts",
            many.iter().map(|text| text.as_bytes()).collect(),
        ),
    ];
    for (code, texts) in cases {
        let answer = call(&tenant, &texts).await?;
        assert_eq!(answer.code(), code, "{}", answer.body);
        assert!(
            matches!(answer.status, 400..=499),
            "{}: {}",
            answer.status,
            answer.body
        );
    }
    let none: [&str; 0] = [];
    assert_eq!(embed(&tenant, &none).await?, (Vec::new(), 0));
    // A page without a space is one unknown word, however long.
    let (vectors, truncated) = embed(&tenant, &[&"x".repeat(1 << 20), &"y".repeat(101)]).await?;
    let same = product(&vectors[0], &vectors[1]);
    assert!((same - 1.0).abs() < 1e-5 && truncated == 0, "{same}");
    host.finish().await
}
