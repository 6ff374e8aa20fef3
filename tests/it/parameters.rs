//! Parameters of the V2 protocol: both ways, wherever they can be, and within their bounds.

use anyhow::Context as _;
use reqwest::Method;
use serde_json::{Value, json};
use tests::TestHost;
use tests::host::Tenant;

use crate::v2::{call, refused};

/// Deploys `contract`, which puts parameters wherever they can be.
async fn contract(host: &TestHost) -> anyhow::Result<Tenant> {
    let tenant = host.tenant("acacia").await?;
    let settings = json!({ "settings": { "unit": "°C \"\\\n" } });
    tenant
        .deploy("contract", &[("net", "tabular.onnx")], settings)
        .await?;
    Ok(tenant)
}

fn rows() -> Value {
    json!({ "name": "rows", "shape": [1, 100], "datatype": "FP32", "data": vec![0.5; 100] })
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_go_both_ways_everywhere() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = contract(&host).await?;
    let unit = json!({ "unit": "°C \"\\\n" });
    let model = tenant.read.get("/v2/models/contract").await?.expect(200)?;
    let expected = json!({
        "name": "contract", "versions": ["1"], "platform": "wattle_pipeline",
        "inputs": [
            { "name": "rows", "datatype": "FP32", "shape": [-1, 100], "parameters": unit },
            { "name": "bias", "datatype": "FP32", "shape": [1], "optional": true },
        ],
        "outputs": [
            { "name": "answer", "datatype": "FP32", "shape": [-1, 1], "parameters": { "range": [0, 1] } },
            { "name": "seen", "datatype": "BYTES", "shape": [-1], "optional": true },
        ],
        "parameters": { "classes": ["no", "yes"] },
    });
    assert_eq!(model, expected);

    let plain = call(&tenant, "contract", &json!({ "inputs": [rows()] })).await?;
    let plain = plain.expect(200)?;
    let outputs = plain["outputs"].as_array().context("outputs")?;
    assert_eq!((outputs.len(), &outputs[0]["parameters"]), (1, &unit), "{plain}");
    assert_eq!(plain["parameters"], json!({ "rows": 1 }));

    let mut rows = rows();
    rows["parameters"] = json!({ "source": { "row": [7, null] }, "binary_data_size": 400 });
    let bias = json!({ "name": "bias", "shape": [1], "datatype": "FP32", "data": [10.0],
        "parameters": { "content_type": "base64" } });
    let body = json!({
        "inputs": [rows, bias],
        "outputs": [
            { "name": "seen", "parameters": { "classification": 3, "binary_data": false } },
            { "name": "answer" },
        ],
        "parameters": { "sequence_id": 42, "binary_data_output": false },
    });
    let answer = call(&tenant, "contract", &body).await?.expect(200)?;
    let seen = json!({
        "name": "seen", "datatype": "BYTES", "shape": [4], "parameters": { "count": 4 },
        "data": [
            "rows.source={\"row\":[7,null]}", "bias.content_type=\"base64\"",
            "seen.classification=3", "request.sequence_id=42",
        ],
    });
    assert_eq!(answer["outputs"][0], seen);
    let biased = |body: &Value, index: usize| body["outputs"][index]["data"][0].as_f64();
    let (with, without) = (
        biased(&answer, 1).context("a number")?,
        biased(&plain, 0).context("one")?,
    );
    assert!((with - without - 10.0).abs() < 1e-5, "{with} and {without}");
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_says_its_details_and_what_it_cost() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = contract(&host).await?;
    let body = json!({ "inputs": [rows()], "parameters": { "fail": { "left": 3 } } });
    let answer = call(&tenant, "contract", &body).await?;
    let error = refused(&answer, 422, "as-asked")?;
    assert_eq!(error, "the caller asked for it");
    let receipt = answer.receipt.clone().context("a receipt")?;
    let expected = json!({
        "error": error, "code": "as-asked", "retryable": true, "receipt": receipt,
        "parameters": { "why": { "left": 3 } },
    });
    assert_eq!(answer.body, expected);
    let provisional = answer.energy_uj.context("a provisional figure")?;
    assert!(provisional > 0);
    let timing = answer.timing.context("server-timing")?;
    assert!(
        timing.contains("guest;dur=") && timing.contains("total;dur="),
        "{timing}"
    );
    let fuel = answer.fuel.context("fuel")?;
    let receipt = host.final_receipt(&tenant.read, &receipt).await?;
    assert_eq!(
        (&receipt["outcome"], &receipt["fuel"]),
        (&json!("guest_failure"), &json!(fuel))
    );
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_that_break_the_rules_are_refused_by_name() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = contract(&host).await?;
    let post = async |text: String| {
        let request = tenant.invoke.request(Method::POST, "/v2/models/contract/infer");
        tenant.invoke.send(request.body(text)).await
    };
    let many: serde_json::Map<_, _> = (0..257).map(|n| (n.to_string(), json!(n))).collect();
    let long_key = format!("{{\"{}\": 1}}", "k".repeat(257));
    let long_value = format!("{{\"k\": \"{}\"}}", "v".repeat(65_535));
    for parameters in [
        "[]",
        "{\"k\": 1, \"k\": 2}",
        "{\"k\": 1e999}",
        "{\"k\": \"\\ud800\"}",
        &long_key,
        &long_value,
        &json!(many).to_string(),
    ] {
        let rows = rows();
        let with = |mut tensor: Value| {
            tensor["parameters"] = json!("HERE");
            tensor
        };
        for (field, body) in [
            ("parameters", json!({ "inputs": [rows], "parameters": "HERE" })),
            ("inputs[0].parameters", json!({ "inputs": [with(rows.clone())] })),
            (
                "outputs[0].parameters",
                json!({ "inputs": [rows], "outputs": [with(json!({ "name": "answer" }))] }),
            ),
        ] {
            let answer = post(body.to_string().replace("\"HERE\"", parameters)).await?;
            let error =
                refused(&answer, 422, "invalid_field").with_context(|| format!("{parameters:.60}"))?;
            assert!(error.starts_with(field), "{error:.200}");
            assert_eq!(answer.receipt, None);
        }
    }
    host.finish().await
}
