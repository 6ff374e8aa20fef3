//! Replies: what they cost, what has no form in JSON, and that a failed call has its receipt too.

use anyhow::Context as _;
use reqwest::Method;
use serde_json::{Value, json};
use tests::{TestHost, guests};

use crate::v2::{call, input, mirror, refused};

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_says_what_it_cost() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    tenant
        .deploy("tabular", &[("net", "tabular.onnx")], json!({}))
        .await?;
    let inputs = json!([{ "name": "rows", "shape": [1, 100], "datatype": "FP32", "data": vec![0.5; 100] }]);
    let request = tenant.invoke.request(Method::POST, "/v2/models/tabular/infer");
    let response = request
        .json(&json!({ "inputs": inputs }))
        .send()
        .await?
        .error_for_status()?;
    let header = |name: &str| {
        anyhow::Ok(
            response
                .headers()
                .get(name)
                .context(name.to_owned())?
                .to_str()?
                .to_owned(),
        )
    };
    let timing = header("server-timing")?;
    let spans: Vec<_> = timing
        .split(", ")
        .filter_map(|span| span.split_once(";dur="))
        .collect();
    assert_eq!(
        spans.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
        ["guest", "model", "total"],
        "{timing}"
    );
    for (name, ms) in spans {
        assert!(ms.parse::<f64>()? > 0.0, "{name}: {timing}");
    }
    let provisional: u64 = header("wattle-energy-uj")?.parse()?;
    let receipt = host
        .final_receipt(&tenant.read, &header("wattle-receipt")?)
        .await?;
    assert!(provisional > 0);
    assert_eq!(receipt["fuel"], header("wattle-fuel")?.parse::<u64>()?);
    assert_eq!(receipt["fuel_schedule"], domain::usage::FUEL_SCHEDULE);
    let work = &receipt["work"][0];
    assert_eq!(
        (&work["runs"], &work["rows"]),
        (&json!(1), &json!(1)),
        "{receipt}"
    );
    assert_eq!(work["cpu_ns"], receipt["model_ns"]);
    let lines = receipt["lines"].as_array().context("lines")?;
    for sum in ["fuel", "cpu_ns", "model_ns", "energy_uj"] {
        let total: u64 = lines.iter().filter_map(|line| line[sum].as_u64()).sum();
        assert_eq!(receipt[sum], total, "{sum}: {receipt}");
    }
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_that_are_none_come_and_go_as_words() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    let words = json!(["NaN", "Infinity", "-Infinity", 0.1, -0.0]);
    for datatype in ["FP32", "FP64"] {
        let name = mirror(&tenant, datatype, 1).await?;
        let body = call(&tenant, &name, &input(datatype, &json!([5]), &words))
            .await?
            .expect(200)?;
        assert_eq!(body["outputs"][0]["data"], words, "{datatype}");
    }
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_without_a_form_in_json_is_refused_before_it_costs() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    for datatype in ["FP16", "BF16"] {
        let settings = json!({ "settings": { "half": datatype } });
        tenant.deploy("halves", &[], settings).await?;
        let infer = async |outputs: Value| {
            call(&tenant, "halves", &json!({ "inputs": [], "outputs": outputs })).await
        };
        for (outputs, field) in [
            (json!([]), "outputs:"),
            (json!([{ "name": "whole" }, { "name": "half" }]), "outputs[1]:"),
        ] {
            let answer = infer(outputs).await?;
            let error = refused(&answer, 422, "invalid_field")?;
            assert!(error.starts_with(field) && error.contains(datatype), "{error}");
            assert_eq!(answer.receipt, None);
        }
        let answer = infer(json!([{ "name": "whole" }])).await?;
        assert_eq!(answer.output("whole"), &json!(0.5));
        tenant
            .manage
            .delete("/api/v1/deployments/halves")
            .await?
            .expect(204)?;
    }
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_has_a_bound_of_its_own() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    let settings = json!({ "dtype": "BOOL" });
    let more = json!({ "settings": settings, "limits": { "output_bytes": 100_000 } });
    tenant.deploy("mirror", &[], more).await?;
    // A `false` takes six bytes in JSON, a `true` five.
    for (count, fits) in [(70_000, true), (99_000, false)] {
        let body = input("BOOL", &json!([count]), &json!(vec![false; count]));
        let answer = call(&tenant, "mirror", &body).await?;
        let id = answer.receipt.clone().context("a receipt")?;
        let outcome = if fits {
            assert_eq!(answer.expect(200)?["outputs"][0]["shape"], json!([count]));
            "ok"
        } else {
            let error = refused(&answer, 422, "output_exceeded")?;
            assert!(
                error.contains("JSON") && error.contains("limits.output_bytes"),
                "{error}"
            );
            "output_exceeded"
        };
        let receipt = host.final_receipt(&tenant.read, &id).await?;
        assert_eq!(receipt["outcome"], outcome);
    }
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_the_host_fails_has_its_receipt_too() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    tenant
        .manage
        .push_graph("tabular", guests::model("tabular.onnx")?)
        .await?;
    let raw = json!({ "name": "raw", "graphs": { "net": { "name": "tabular" } } });
    tenant
        .manage
        .post("/api/v1/deployments", &raw)
        .await?
        .expect(201)?;
    // As after a restart: the first call loads the release, and finds its graph gone.
    host.app.releases.forget(tenant.id.parse()?, &"raw".parse()?);
    std::fs::remove_dir_all(host.data().join("blobs"))?;
    let inputs = json!([{ "name": "input", "shape": [1, 100], "datatype": "FP32", "data": vec![0.5; 100] }]);
    let answer = tenant.invoke.infer("raw", inputs).await?;
    refused(&answer, 503, "blob_store_unavailable")?;
    assert!(answer.timing.is_some() && answer.fuel == Some(0), "{answer:?}");
    let id = answer.receipt.context("a receipt")?;
    assert_eq!(answer.body["receipt"], json!(id));
    let receipt = host.final_receipt(&tenant.read, &id).await?;
    assert_eq!(receipt["outcome"], "host_fault");
    host.finish().await
}
