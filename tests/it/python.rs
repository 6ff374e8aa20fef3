//! Guests in Python: the SDK, the sandbox as CPython sees it, and the pipeline `rank`.

use anyhow::ensure;
use serde_json::{Value, json};
use tests::TestHost;
use tests::client::Answer;
use tests::host::Tenant;

use crate::probe;

const GUEST: &str = "pyprobe";

#[tokio::test(flavor = "multi_thread")]
async fn python_sees_an_empty_world_and_ends_only_itself() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = probe::deployed(&host, GUEST).await?;
    probe::every_type(&host, &tenant, GUEST).await?;

    for (how, said) in [
        ("environment", &["0", "0"][..]),
        ("open", &["FileNotFoundError"]),
        ("write", &["FileNotFoundError"]),
        ("list", &["FileNotFoundError"]),
        ("connect", &["PermissionError"]),
        ("resolve", &["gaierror"]),
        ("thread", &["RuntimeError"]),
        ("process", &["OSError"]),
        ("import", &["ModuleNotFoundError"]),
        ("clock", &["True", "True"]),
    ] {
        assert_eq!(probe::said(&tenant, GUEST, how).await?, said, "{how}");
    }
    let first = probe::said(&tenant, GUEST, "random").await?;
    let second = probe::said(&tenant, GUEST, "random").await?;
    ensure!(
        first[0] != second[0] && first[1] != second[1],
        "the snapshot's seed is not kept"
    );

    let ends = [
        ("fail", 422, "no-such-luck", "guest_failure"),
        ("graph", 422, "graph-not-found", "guest_failure"),
        ("raise", 422, "uncaught-exception", "guest_failure"),
        ("wrong", 422, "uncaught-exception", "guest_failure"),
        ("recurse", 422, "uncaught-exception", "guest_failure"),
        ("nest", 422, "trapped", "trapped"),
        ("exit", 422, "trapped", "trapped"),
        ("abort", 422, "trapped", "trapped"),
        ("fill", 422, "memory_exceeded", "memory_exceeded"),
        ("loop", 422, "fuel_exhausted", "fuel_exhausted"),
        ("chatter", 422, "log_exceeded", "log_exceeded"),
    ];
    probe::ends(&host, &tenant, GUEST, &ends).await?;
    host.finish().await
}

async fn rank(tenant: &Tenant, query: &str, documents: &[&str], parameters: Value) -> anyhow::Result<Answer> {
    let text = |name: &str, texts: &[&str]| json!({ "name": name, "shape": [texts.len()], "datatype": "BYTES", "data": texts });
    let inputs = [text("query", &[query]), text("document", documents)];
    let body = json!({ "inputs": inputs, "parameters": parameters });
    tenant.invoke.post("/v2/models/rank/infer", &body).await
}

/// The order of the documents, and the score of each in that order.
async fn ranked(
    tenant: &Tenant,
    query: &str,
    documents: &[&str],
    parameters: Value,
) -> anyhow::Result<(Vec<usize>, Vec<f64>)> {
    let body = rank(tenant, query, documents, parameters).await?.expect(200)?;
    let data = |index: usize| body["outputs"][index]["data"].clone();
    Ok((serde_json::from_value(data(0))?, serde_json::from_value(data(1))?))
}

/// The products of a query's vector with those of documents, by the pipeline `embed`.
async fn products(tenant: &Tenant, query: &str, documents: &[&str]) -> anyhow::Result<Vec<f64>> {
    let texts = [&[query], documents].concat();
    let input = json!([{ "name": "text", "shape": [texts.len()], "datatype": "BYTES", "data": texts }]);
    let body = tenant.invoke.infer("embed", input).await?.expect(200)?;
    let numbers: Vec<f64> = serde_json::from_value(body["outputs"][0]["data"].clone())?;
    let (query, documents) = numbers.split_at(384);
    let product = |vector: &[f64]| vector.iter().zip(query).map(|(a, b)| a * b).sum();
    Ok(documents.chunks(384).map(product).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn rank_puts_the_likest_first() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    let limits = json!({ "limits": { "deadline_ms": 120_000, "fuel": 100_000_000_000_u64 } });
    for pipeline in ["embed", "rank"] {
        tenant
            .deploy(pipeline, &[("minilm", "minilm.onnx")], limits.clone())
            .await?;
    }
    let query = "A man is eating food.";
    let documents = [
        "The stock market fell sharply today.",
        "Someone is having a meal.",
    ];
    let (order, scores) = ranked(&tenant, query, &documents, json!({})).await?;
    assert_eq!(order, [1, 0]);
    // The numbers of ONNX Runtime 1.32 on the same graph, behind the tokenizer of the model's makers.
    for (got, want) in scores.iter().zip([0.6853, 0.0077]) {
        ensure!((got - want).abs() < 5e-4, "{got} instead of {want}");
    }

    // Two tokenizers, written apart, agree.
    let long = "A man, a plan, a canal. ".repeat(60);
    let documents = [
        "Naïve café — Ünïcödé, don't; 你好 world!",
        "  naive CAFE\u{301}\t—\r\nunicode , don ' t ; 你 好\u{0} wor\u{ad}ld !",
        "Ὀδυσσεύς, ΟΔΥΣΣΕΥΣ; İstanbul_2026 $5 ^^ x́y ﬁne",
        &long,
        &"x".repeat(101),
    ];
    let (order, scores) = ranked(&tenant, "naive cafe unicode", &documents, json!({})).await?;
    let products = products(&tenant, "naive cafe unicode", &documents).await?;
    assert_eq!(order.len(), documents.len());
    for (index, score) in order.iter().zip(&scores) {
        ensure!(
            (score - products[*index]).abs() < 5e-4,
            "{index}: {score} and {products:?}"
        );
    }
    ensure!(scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
    let (best, _) = ranked(&tenant, "naive cafe unicode", &documents, json!({ "top": 2 })).await?;
    assert_eq!(best, order[..2]);
    let (none, _) = ranked(&tenant, query, &[], json!({})).await?;
    assert_eq!(none, [0_usize; 0]);

    let many = vec!["x"; 129];
    for (code, query, documents, parameters) in [
        ("empty-text", " \u{301}", &["x"][..], json!({})),
        ("empty-text", "x", &["x", ""], json!({})),
        ("too-many-documents", "x", &many, json!({})),
        ("wrong-parameter", "x", &["x"], json!({ "top": 0 })),
        ("wrong-parameter", "x", &["x"], json!({ "top": true })),
        ("wrong-parameter", "x", &["x"], json!({ "top": "2" })),
    ] {
        let answer = rank(&tenant, query, documents, parameters).await?;
        assert_eq!((answer.status, answer.code()), (422, code), "{}", answer.body);
    }
    host.finish().await
}
