//! The Open Inference Protocol in JSON: every type, every mistake, and what a reply says of its cost.

use anyhow::{Context as _, ensure};
use reqwest::Method;
use serde_json::{Value, json};
use tests::client::Answer;
use tests::host::Tenant;
use tests::{TestHost, guests};

/// Deploys `mirror` for a type under the type's name in lower case.
async fn mirror(tenant: &Tenant, datatype: &str, rank: usize) -> anyhow::Result<String> {
    let name = format!("{}-{rank}", datatype.to_lowercase());
    let settings = json!({ "dtype": datatype, "rank": rank.to_string() });
    tenant
        .deploy("mirror", &[], json!({ "name": name, "settings": settings }))
        .await?;
    Ok(name)
}

async fn call(tenant: &Tenant, deployment: &str, body: &Value) -> anyhow::Result<Answer> {
    tenant
        .invoke
        .post(&format!("/v2/models/{deployment}/infer"), body)
        .await
}

fn input(datatype: &str, shape: &Value, data: &Value) -> Value {
    json!({ "inputs": [{ "name": "x", "shape": shape, "datatype": datatype, "data": data }] })
}

/// Checks that an answer is an error in the protocol's form, and gives its text.
fn refused(answer: &Answer, status: u16, code: &str) -> anyhow::Result<String> {
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
        ("FP64", json!([1e-300, f64::MAX])),
        ("BYTES", json!(["", "Grüße \u{0}\n"])),
    ];
    for (datatype, data) in &cases {
        let name = mirror(&tenant, datatype, 1).await?;
        let body = call(&tenant, &name, &input(datatype, &json!([2]), data))
            .await?
            .expect(200)?;
        let output = json!([{ "name": "x", "datatype": datatype, "shape": [2], "data": data }]);
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
    }
    let (one, x) = (json!([1]), |more: Value| json!({ "inputs": [more] }));
    let good = json!({ "name": "x", "shape": [1], "datatype": "FP32", "data": [1.0] });
    let outputs = |outputs: Value| json!({ "inputs": [good.clone()], "outputs": outputs });
    let cases = [
        (json!({}), "body:"),
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
            "inputs[0]:",
        ),
        (outputs(json!([{ "name": "y" }])), "outputs[0]:"),
        (outputs(json!([{ "name": "x" }, { "name": "x" }])), "outputs[1]:"),
    ];
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
