//! The Open Inference Protocol in JSON: every type, every mistake, metadata and graphs without a component.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tests::client::Answer;
use tests::host::Tenant;
use tests::{TestHost, guests};

/// Deploys `mirror` for a type under the type's name in lower case.
pub async fn mirror(tenant: &Tenant, datatype: &str, rank: usize) -> anyhow::Result<String> {
    let name = format!("{}-{rank}", datatype.to_lowercase());
    let settings = json!({ "dtype": datatype, "rank": rank.to_string() });
    tenant
        .deploy("mirror", &[], json!({ "name": name, "settings": settings }))
        .await?;
    Ok(name)
}

pub async fn call(tenant: &Tenant, deployment: &str, body: &Value) -> anyhow::Result<Answer> {
    tenant
        .invoke
        .post(&format!("/v2/models/{deployment}/infer"), body)
        .await
}

pub fn input(datatype: &str, shape: &Value, data: &Value) -> Value {
    json!({ "inputs": [{ "name": "x", "shape": shape, "datatype": datatype, "data": data }] })
}

/// A call of a mirror whose input has its members in the order of the protocol's own examples. A [`Value`] has them in
/// that of the alphabet, where elements come before their type.
async fn call_in_order(
    tenant: &Tenant,
    deployment: &str,
    datatype: &str,
    shape: &Value,
    data: &Value,
) -> anyhow::Result<Answer> {
    let body = format!(
        r#"{{"inputs":[{{"name":"x","shape":{shape},"datatype":"{datatype}","data":{data},"more":[{{}}]}}]}}"#
    );
    let path = format!("/v2/models/{deployment}/infer");
    let request = tenant.invoke.request(reqwest::Method::POST, &path);
    tenant.invoke.send(request.body(body)).await
}

/// Checks that an answer is an error in the protocol's form, and gives its text.
pub fn refused(answer: &Answer, status: u16, code: &str) -> anyhow::Result<String> {
    let body = &answer.body;
    ensure!(
        (answer.status, answer.code()) == (status, code),
        "{} instead of {status} {code}: {body}",
        answer.status
    );
    ensure!(
        answer.content_type == "application/json",
        "{}",
        answer.content_type
    );
    Ok(body["error"].as_str().context("an error in words")?.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_goes_through_unchanged() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    let cases = [
        ("BOOL", json!([true, false])),
        ("UINT8", json!([0, u8::MAX])),
        ("INT8", json!([i8::MIN, i8::MAX])),
        ("UINT16", json!([0, u16::MAX])),
        ("INT16", json!([i16::MIN, i16::MAX])),
        ("UINT32", json!([0, u32::MAX])),
        ("INT32", json!([i32::MIN, i32::MAX])),
        ("UINT64", json!([0, u64::MAX])),
        ("INT64", json!([i64::MIN, i64::MAX])),
        ("FP32", json!([-1.5, 16_777_216.0])),
        // The first is one of those that a quick parser gets wrong by a bit.
        ("FP64", json!([0.20065696742249206, f64::MAX])),
        ("BYTES", json!(["", "Grüße \u{0}\n"])),
    ];
    for (datatype, data) in &cases {
        let name = mirror(&tenant, datatype, 1).await?;
        let body = call(&tenant, &name, &input(datatype, &json!([2]), data))
            .await?
            .expect(200)?;
        let output = json!([{ "name": "x", "datatype": datatype, "shape": [2], "data": data }]);
        assert_eq!(body["outputs"], output, "{datatype}");
        let body = call_in_order(&tenant, &name, datatype, &json!([2]), data)
            .await?
            .expect(200)?;
        assert_eq!(body["outputs"], output, "{datatype}");
        let empty = call(&tenant, &name, &input(datatype, &json!([0]), &json!([])))
            .await?
            .expect(200)?;
        assert_eq!(empty["outputs"][0]["data"], json!([]), "{datatype}");
    }
    for datatype in ["FP16", "BF16"] {
        let name = mirror(&tenant, datatype, 1).await?;
        let answer = call(&tenant, &name, &input(datatype, &json!([1]), &json!([1.0]))).await?;
        let error = refused(&answer, 422, "invalid_field")?;
        assert!(
            error.starts_with("inputs[0].datatype:") && error.contains("FP32"),
            "{error}"
        );
    }
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn nested_data_and_bytes_in_base64() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    let square = mirror(&tenant, "INT32", 2).await?;
    let nested = input("INT32", &json!([2, 3]), &json!([[1, 2, 3], [4, 5, 6]]));
    let body = call(&tenant, &square, &nested).await?.expect(200)?;
    assert_eq!(body["outputs"][0]["data"], json!([1, 2, 3, 4, 5, 6]));
    assert_eq!(body["outputs"][0]["shape"], json!([2, 3]));
    let scalar = mirror(&tenant, "FP64", 0).await?;
    let body = call(&tenant, &scalar, &input("FP64", &json!([]), &json!([0.5])))
        .await?
        .expect(200)?;
    assert_eq!(
        (&body["outputs"][0]["shape"], &body["outputs"][0]["data"]),
        (&json!([]), &json!([0.5]))
    );

    let bytes = mirror(&tenant, "BYTES", 1).await?;
    let encoded = |data: Value| {
        let mut body = input("BYTES", &json!([2]), &data);
        body["inputs"][0]["parameters"] = json!({ "content_type": "base64" });
        body
    };
    let body = call(&tenant, &bytes, &encoded(json!(["/w==", ""])))
        .await?
        .expect(200)?;
    let output = &body["outputs"][0];
    assert_eq!(
        (&output["data"], &output["parameters"]["content_type"]),
        (&json!(["/w==", ""]), &json!("base64"))
    );
    let body = call(&tenant, &bytes, &encoded(json!(["YQ==", "Yg=="])))
        .await?
        .expect(200)?;
    let output = &body["outputs"][0];
    assert_eq!(
        (&output["data"], &output["parameters"]),
        (&json!(["a", "b"]), &Value::Null),
        "text is text"
    );
    let error = refused(
        &call(&tenant, &bytes, &encoded(json!(["a", "?"]))).await?,
        422,
        "invalid_field",
    )?;
    assert!(
        error.contains("inputs[0].data") && error.contains("base64"),
        "{error}"
    );

    let mut body = input("BYTES", &json!([1]), &json!(["a"]));
    body["id"] = json!("mine");
    body["parameters"] = json!({ "text": "t", "number": 1.5, "list": [true, null] });
    let answer = call(&tenant, &bytes, &body).await?.expect(200)?;
    assert_eq!(
        (&answer["id"], &answer["parameters"]),
        (&body["id"], &body["parameters"])
    );
    assert_eq!(
        (&answer["model_name"], &answer["model_version"]),
        (&json!(bytes), &json!("1"))
    );
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_refused_by_name_and_costs_nothing() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    let out_of_range = [
        ("BOOL", json!([2])),
        ("UINT8", json!([256])),
        ("UINT8", json!([-1])),
        ("INT8", json!([-129])),
        ("UINT16", json!([65_536])),
        ("INT16", json!([32_768])),
        ("UINT32", json!([4_294_967_296_u64])),
        ("INT32", json!([-2_147_483_649_i64])),
        ("INT32", json!([1.5])),
        ("UINT64", json!([-1])),
        ("UINT64", json!([18_446_744_073_709_551_616.0])),
        ("INT64", json!([9_223_372_036_854_775_808_u64])),
        ("FP32", json!([1e39])),
        ("FP32", json!(["1"])),
        ("FP32", json!([true])),
        ("FP64", json!([null])),
        ("FP64", json!([{ "x": 1 }])),
        ("BYTES", json!([1])),
    ];
    for (datatype, data) in &out_of_range {
        let name = mirror(&tenant, datatype, 1)
            .await
            .or_else(|_| anyhow::Ok(format!("{}-1", datatype.to_lowercase())))?;
        let answer = call(&tenant, &name, &input(datatype, &json!([1]), data)).await?;
        let error = refused(&answer, 422, "invalid_field").context(data.to_string())?;
        assert!(error.starts_with("inputs[0].data:"), "{datatype}: {error}");
        assert_eq!(answer.receipt, None);
        let answer = call_in_order(&tenant, &name, datatype, &json!([1]), data).await?;
        let error = refused(&answer, 422, "invalid_field").context(data.to_string())?;
        let field = match *datatype {
            "BYTES" => "inputs[0].data:",
            _ => "inputs[0].data[0]",
        };
        assert!(error.starts_with(field), "{datatype}: {error}");
    }
    let (one, x) = (json!([1]), |more: Value| json!({ "inputs": [more] }));
    let good = json!({ "name": "x", "shape": [1], "datatype": "FP32", "data": [1.0] });
    let outputs = |outputs: Value| json!({ "inputs": [good.clone()], "outputs": outputs });
    let cases = [
        (json!({}), "inputs:"),
        (json!([]), "body:"),
        (json!({ "inputs": {} }), "inputs:"),
        (json!({ "inputs": [] }), "inputs:"),
        (json!({ "inputs": [good, good] }), "inputs[1]:"),
        (json!({ "inputs": vec![&good; 257] }), "inputs:"),
        (input("FP32", &json!([2]), &json!([1.0])), "inputs[0]:"),
        (input("FP32", &json!([1]), &json!([1.0, 2.0])), "inputs[0]:"),
        (
            input("FP32", &json!([4_294_967_295_u32, 4_294_967_295_u32]), &json!([])),
            "inputs[0]:",
        ),
        (input("FP32", &json!([1, 1]), &json!([1.0])), "inputs[0]:"),
        (input("FP32", &json!([-1]), &json!([1.0])), "inputs[0].shape[0]:"),
        (input("FP64", &one, &json!([1.0])), "inputs[0]:"),
        (input("FP33", &one, &json!([1.0])), "inputs[0].datatype:"),
        (
            x(json!({ "name": "y", "shape": [1], "datatype": "FP32", "data": [1.0] })),
            "inputs[0]:",
        ),
        (
            x(json!({ "name": "x", "shape": [1], "datatype": "FP32" })),
            "inputs[0].data:",
        ),
        (x(json!(["x", [1], "FP32", {}, [1.0]])), "inputs[0]:"),
        (outputs(json!([{ "name": "y" }])), "outputs[0]:"),
        (outputs(json!([{ "name": "x" }, { "name": "x" }])), "outputs[1]:"),
    ];
    let (tail, path) = (r#""name":"x","shape":[1]}]}"#, "/v2/models/fp32-1/infer");
    for (twice, field) in [
        (r#""datatype":"FP32","data":[1.0],"datatype":"INT32""#, "datatype"),
        (r#""datatype":"FP32","data":[1.0],"data":[2.0]"#, "data"),
    ] {
        let request = tenant.invoke.request(reqwest::Method::POST, path);
        let body = format!(r#"{{"inputs":[{{{twice},{tail}"#);
        let answer = tenant.invoke.send(request.body(body)).await?;
        let error = refused(&answer, 422, "invalid_field")?;
        assert!(error.contains(&format!("duplicate field `{field}`")), "{error}");
    }
    for (body, field) in cases {
        let answer = call(&tenant, "fp32-1", &body).await?;
        let error = refused(&answer, 422, "invalid_field").context(body.to_string())?;
        assert!(error.starts_with(field), "{body}: {error}");
        assert_eq!(answer.receipt, None);
    }
    let page = tenant.read.get("/api/v1/receipts?limit=500").await?.expect(200)?;
    let calls = page["items"].as_array().context("items")?;
    assert!(calls.iter().all(|call| call["kind"] != "infer"), "{calls:?}");
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn health_metadata_and_the_protocols_own_errors() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    tenant
        .deploy("tabular", &[("net", "tabular.onnx")], json!({}))
        .await?;
    let anyone = host.admin.anonymous();
    assert_eq!(
        anyone.get("/v2/health/live").await?.expect(200)?,
        json!({ "live": true })
    );
    assert_eq!(
        anyone.get("/v2/health/ready").await?.expect(200)?,
        json!({ "ready": true })
    );
    let server = anyone.get("/v2").await?.expect(200)?;
    assert_eq!(
        (&server["name"], &server["extensions"]),
        (&json!("wattle"), &json!([]))
    );
    assert!(server["version"].is_string());

    let model = json!({
        "name": "tabular", "versions": ["1"], "platform": "wattle_pipeline",
        "inputs": [{ "name": "rows", "datatype": "FP32", "shape": [-1, 100] }],
        "outputs": [{ "name": "probability", "datatype": "FP32", "shape": [-1, 1] }],
    });
    for path in ["/v2/models/tabular", "/v2/models/tabular/versions/1"] {
        assert_eq!(tenant.read.get(path).await?.expect(200)?, model);
        let ready = tenant.invoke.get(&format!("{path}/ready")).await?.expect(200)?;
        assert_eq!(ready, json!({ "name": "tabular", "ready": true }));
    }
    for (path, code) in [
        ("/v2/models/nobody", "deployment_not_found"),
        ("/v2/models/nobody/ready", "deployment_not_found"),
        ("/v2/models/tabular/versions/2", "release_not_found"),
        ("/v2/models/tabular/versions/two/ready", "release_not_found"),
        ("/v2/nothing", "route_not_found"),
    ] {
        refused(&tenant.read.get(path).await?, 404, code).context(path)?;
    }
    refused(&anyone.get("/v2/models/tabular").await?, 401, "unauthorised")?;
    refused(&tenant.read.infer("tabular", json!([])).await?, 403, "forbidden")?;
    refused(
        &tenant.read.get("/v2/models/tabular/infer").await?,
        405,
        "method_not_allowed",
    )?;
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_choose_among_the_outputs() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    let labels = String::from_utf8(guests::model("magika.labels.json")?)?;
    tenant
        .deploy("filetype", &[], json!({ "settings": { "labels": labels } }))
        .await?;
    // An empty file is named without the graph.
    let inputs = json!([{ "name": "file", "shape": [1], "datatype": "BYTES", "data": [""] }]);
    for (wanted, given) in [
        (json!([]), json!(["label", "score"])),
        (json!([{ "name": "score" }]), json!(["score"])),
        (
            json!([{ "name": "score" }, { "name": "label" }]),
            json!(["score", "label"]),
        ),
    ] {
        let body = json!({ "inputs": inputs, "outputs": wanted });
        let body = call(&tenant, "filetype", &body).await?.expect(200)?;
        let outputs = body["outputs"].as_array().context("outputs")?;
        let names: Vec<_> = outputs.iter().map(|output| output["name"].clone()).collect();
        assert_eq!(json!(names), given);
    }
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_without_a_component_serves_its_graph() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    tenant
        .manage
        .push_graph("tabular", guests::model("tabular.onnx")?)
        .await?;
    let spec = |limits: Value| json!({ "name": "raw", "graphs": { "net": { "name": "tabular" } }, "limits": limits });
    let deployed = tenant
        .manage
        .post("/api/v1/deployments", &spec(json!({})))
        .await?
        .expect(201)?;
    assert_eq!(deployed["component"], Value::Null);
    let model = tenant.read.get("/v2/models/raw").await?.expect(200)?;
    assert_eq!(model["platform"], "onnx");
    assert_eq!(
        model["inputs"],
        json!([{ "name": "input", "datatype": "FP32", "shape": [-1, 100] }])
    );
    let output = &model["outputs"][0]["name"];

    let inputs = json!([{ "name": "input", "shape": [3, 100], "datatype": "FP32", "data": vec![0.5; 300] }]);
    let answer = call(
        &tenant,
        "raw",
        &json!({ "inputs": inputs, "outputs": [{ "name": output }] }),
    )
    .await?;
    let receipt = answer.receipt.clone().context("a receipt")?;
    let body = answer.expect(200)?;
    assert_eq!(
        (&body["outputs"][0]["name"], &body["outputs"][0]["shape"]),
        (output, &json!([3, 1]))
    );
    let receipt = host.final_receipt(&tenant.read, &receipt).await?;
    assert_eq!(
        (&receipt["work"][0]["runs"], &receipt["work"][0]["rows"]),
        (&json!(1), &json!(3)),
        "{receipt}"
    );
    assert_eq!(
        (&receipt["bytes_in"], &receipt["bytes_out"]),
        (&json!(1_200), &json!(12)),
        "{receipt}"
    );
    assert!(
        receipt["fuel"].as_u64() > Some(0) && receipt["peak_memory_bytes"] == 0,
        "{receipt}"
    );

    let error = refused(
        &call(
            &tenant,
            "raw",
            &json!({ "inputs": inputs, "outputs": [{ "name": "y" }] }),
        )
        .await?,
        422,
        "invalid_field",
    )?;
    assert!(error.starts_with("outputs[0]:"), "{error}");
    for (limits, code) in [
        (json!({ "fuel": 100 }), "fuel_exhausted"),
        (json!({ "output_bytes": 11 }), "output_exceeded"),
    ] {
        tenant
            .manage
            .post(
                "/api/v1/deployments/raw/releases",
                &json!({ "graphs": spec(json!({}))["graphs"], "limits": limits }),
            )
            .await?
            .expect(201)?;
        let answer = call(&tenant, "raw", &json!({ "inputs": inputs })).await?;
        refused(&answer, 422, code)?;
        let receipt = host
            .final_receipt(&tenant.read, &answer.receipt.context("a receipt")?)
            .await?;
        assert_eq!(receipt["outcome"], code);
    }
    host.finish().await
}
