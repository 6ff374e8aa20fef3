//! The management API: who may do what, what is refused and how, and what is seen of it afterwards.

use std::time::Duration;

use anyhow::Context as _;
use reqwest::Method;
use serde_json::{Value, json};
use tests::client::problem;
use tests::host::Tenant;
use tests::{TestHost, guests};

/// One number in and out of `echo`.
fn number() -> Value {
    json!([{ "name": "x", "shape": [1], "datatype": "FP32", "data": [1.0] }])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_sees_nothing_of_another() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let (one, two) = (host.tenant("one").await?, host.tenant("two").await?);
    one.deploy("tabular", &[("net", "tabular.onnx")], json!({}))
        .await?;
    let inputs = json!([{ "name": "rows", "shape": [1, 100], "datatype": "FP32", "data": vec![0.5; 100] }]);
    let answer = one.invoke.infer("tabular", inputs.clone()).await?;
    let receipt = format!(
        "/api/v1/receipts/{}",
        answer.receipt.as_deref().context("a receipt")?
    );
    answer.expect(200)?;
    // While it is provisional, and when it is in the ledger.
    assert_eq!(two.read.get(&receipt).await?.code(), "receipt_not_found");
    host.final_receipt(&one.read, receipt.rsplit('/').next().unwrap_or_default())
        .await?;

    for (path, code) in [
        ("/api/v1/components/tabular/revisions", "component_not_found"),
        ("/api/v1/graphs/tabular/versions", "graph_not_found"),
        ("/api/v1/deployments/tabular", "deployment_not_found"),
        ("/api/v1/deployments/tabular/releases/1", "deployment_not_found"),
        (&receipt, "receipt_not_found"),
    ] {
        one.read.get(path).await?.expect(200)?;
        problem(&two.read.get(path).await?, 404, code)?;
    }
    for path in [
        "/api/v1/components",
        "/api/v1/graphs",
        "/api/v1/deployments",
        "/api/v1/receipts",
    ] {
        let seen = one.read.get(path).await?.expect(200)?;
        assert_ne!(seen["items"], json!([]), "{path}");
        assert_eq!(
            two.read.get(path).await?.expect(200)?["items"],
            json!([]),
            "{path}"
        );
    }
    assert_eq!(
        two.invoke.infer("tabular", inputs).await?.code(),
        "deployment_not_found"
    );
    assert_eq!(two.invoke.get("/v2/models/tabular").await?.status, 404);
    problem(
        &two.manage.delete("/api/v1/deployments/tabular").await?,
        404,
        "deployment_not_found",
    )?;

    // Not even a digest that it knows makes another's upload its own.
    let graphs = one
        .read
        .get("/api/v1/graphs/tabular/versions")
        .await?
        .expect(200)?;
    let version = &graphs["items"][0]["version"];
    let body = json!({ "name": "mine", "graphs": { "net": { "name": "tabular", "version": version } } });
    problem(
        &two.manage.post("/api/v1/deployments", &body).await?,
        404,
        "graph_not_found",
    )?;
    two.manage
        .push_graph("tabular", guests::model("tabular.onnx")?)
        .await?;
    two.manage.post("/api/v1/deployments", &body).await?.expect(201)?;
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_have_caps() -> anyhow::Result<()> {
    let flags = [
        "--component-max-mib",
        "1",
        "--graph-max-mib",
        "1",
        "--body-max-mib",
        "1",
    ];
    let host = TestHost::start_with(&flags).await?;
    let tenant = host.tenant("acacia").await?;
    tenant.deploy("echo", &[], json!({})).await?;
    for bytes in [(1 << 20) + 1, 20 << 20] {
        for path in ["/api/v1/components/big/revisions", "/api/v1/graphs/big/versions"] {
            let detail = problem(
                &tenant.manage.upload(path, vec![0; bytes]).await?,
                413,
                "body_too_large",
            )?;
            assert!(detail.contains("1048576"), "{detail}");
        }
        let name = "n".repeat(bytes);
        let answer = tenant
            .manage
            .post("/api/v1/deployments", &json!({ "name": name }))
            .await?;
        problem(&answer, 413, "body_too_large")?;
        let answer = tenant
            .invoke
            .post("/v2/models/echo/infer", &json!({ "id": name }))
            .await?;
        assert_eq!((answer.status, answer.code()), (413, "body_too_large"));
        assert!(answer.body["error"].is_string());
    }
    // Who is refused before the body is looked at is told so too.
    let uploaded = tenant
        .read
        .upload("/api/v1/components/big/revisions", vec![0; 20 << 20])
        .await?;
    problem(&uploaded, 403, "forbidden")?;
    let uploaded = tenant
        .read
        .anonymous()
        .upload("/api/v1/graphs/big/versions", vec![0; 20 << 20])
        .await?;
    problem(&uploaded, 401, "unauthorised")?;
    // A cap is no more than that: what fits is looked at.
    let answer = tenant
        .manage
        .upload("/api/v1/components/big/revisions", vec![0; 1 << 20])
        .await?;
    problem(&answer, 422, "invalid_component")?;
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_named() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    tenant.deploy("echo", &[], json!({})).await?;
    let echo = |more: &str| format!(r#"{{"name":"d","component":{{"name":"echo"}}{more}}}"#);
    let cases = [
        ("{".to_owned(), "body"),
        ("[]".to_owned(), "body"),
        (echo("") + "x", "body"),
        ("{}".to_owned(), "name"),
        (r#"{"name":"Not A Name"}"#.to_owned(), "name"),
        (r#"{"name":7}"#.to_owned(), "name"),
        (r#"{"name":"d"}"#.to_owned(), "graphs"),
        (
            r#"{"name":"d","component":{"name":"echo","revision":"sha256:12"}}"#.to_owned(),
            "component.revision",
        ),
        (echo(r#","limit":{}"#), "limit"),
        (echo(r#","limits":{"fule":1}"#), "limits.fule"),
        (echo(r#","limits":{"fuel":"much"}"#), "limits.fuel"),
        (echo(r#","limits":{"fuel":-1}"#), "limits.fuel"),
        (echo(r#","limits":{"fuel":0}"#), "limits.fuel"),
        (echo(r#","limits":{"deadline_ms":600001}"#), "limits.deadline_ms"),
        (
            echo(r#","limits":{"memory_bytes":8589934592}"#),
            "limits.memory_bytes",
        ),
        (echo(r#","settings":{"labels":1}"#), "settings.labels"),
        (
            echo(&format!(r#","settings":{{"big":"{}"}}"#, "x".repeat(70_000))),
            "settings",
        ),
        (echo(r#","graphs":{"UPPER":{"name":"g"}}"#), "graphs.UPPER"),
    ];
    let mut misnamed = Vec::new();
    for (body, field) in cases {
        let request = tenant
            .manage
            .request(Method::POST, "/api/v1/deployments")
            .body(body.clone());
        let detail =
            problem(&tenant.manage.send(request).await?, 422, "invalid_field").context(body.clone())?;
        if !detail.starts_with(&format!("{field}:")) {
            misnamed.push(format!("{body}: {detail}"));
        }
    }
    assert!(misnamed.is_empty(), "{misnamed:#?}");
    for (path, status, code) in [
        ("/api/v1/components/Not-A-Name/revisions", 422, "invalid_field"),
        ("/api/v1/deployments/echo/releases/2", 404, "release_not_found"),
        ("/api/v1/deployments/echo/releases/x", 404, "release_not_found"),
        ("/api/v1/receipts?limit=0", 422, "invalid_field"),
        ("/api/v1/receipts?limit=501", 422, "invalid_field"),
        ("/api/v1/receipts?cursor=x", 422, "invalid_field"),
        ("/api/v1/receipts?page=2", 422, "invalid_field"),
        ("/api/v1/nothing", 404, "route_not_found"),
        ("/", 404, "route_not_found"),
    ] {
        problem(&tenant.read.get(path).await?, status, code).context(path)?;
    }
    for path in ["/api/v1/deployments", "/api/v1/receipts", "/api/v1/ledger/check"] {
        let request = tenant.manage.request(Method::PUT, path);
        let detail = problem(&tenant.manage.send(request).await?, 405, "method_not_allowed")?;
        assert!(detail.contains("PUT"), "{detail}");
    }
    let body = json!({ "name": "e", "component": { "name": "nobody" } });
    problem(
        &tenant.manage.post("/api/v1/deployments", &body).await?,
        404,
        "component_not_found",
    )?;
    let body = json!({ "name": "acacia" });
    problem(
        &host.admin.post("/api/v1/tenants", &body).await?,
        409,
        "tenant_exists",
    )?;
    host.finish().await
}

/// The release that answers a call of `path`, by the output's type.
async fn answering(tenant: &Tenant, path: &str, datatype: &str) -> anyhow::Result<Value> {
    let body = json!({ "inputs": [{ "name": "x", "shape": [1], "datatype": datatype, "data": [1] }] });
    let body = tenant
        .invoke
        .post(&format!("{path}/infer"), &body)
        .await?
        .expect(200)?;
    assert_eq!(body["outputs"][0]["datatype"], datatype);
    Ok(body["model_version"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn releases_are_numbered_and_a_deployment_points_to_the_last() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    let spec = |dtype: &str| json!({ "component": { "name": "mirror" }, "settings": { "dtype": dtype } });
    tenant.deploy("mirror", &[], spec("FP32")).await?;
    let releases = "/api/v1/deployments/mirror/releases";
    assert_eq!(answering(&tenant, "/v2/models/mirror", "FP32").await?, "1");

    let again =
        json!({ "name": "mirror", "component": { "name": "mirror" }, "settings": { "dtype": "FP32" } });
    problem(
        &tenant.manage.post("/api/v1/deployments", &again).await?,
        409,
        "deployment_exists",
    )?;
    let second = tenant.manage.post(releases, &spec("INT64")).await?.expect(201)?;
    assert_eq!(
        (&second["release"], &second["settings"]["dtype"]),
        (&json!(2), &json!("INT64"))
    );
    assert_eq!(answering(&tenant, "/v2/models/mirror", "INT64").await?, "2");
    assert_eq!(
        answering(&tenant, "/v2/models/mirror/versions/1", "FP32").await?,
        "1"
    );
    assert_eq!(
        answering(&tenant, "/v2/models/mirror/versions/2", "INT64").await?,
        "2"
    );
    // A release that cannot describe itself is none.
    let answer = tenant.manage.post(releases, &spec("FP8")).await?;
    let detail = problem(&answer, 422, "unknown-type")?;
    assert!(detail.contains("FP8"), "{detail}");
    let shown = tenant.read.get("/api/v1/deployments/mirror").await?.expect(200)?;
    assert_eq!(shown["release"], 2, "{shown}");
    let first = tenant.read.get(&format!("{releases}/1")).await?.expect(200)?;
    assert_eq!(first["signature"]["inputs"][0]["dtype"], "FP32", "{first}");
    assert!(
        first["component"]["revision"]
            .as_str()
            .is_some_and(|digest| digest.starts_with("sha256:")),
        "{first}"
    );

    tenant
        .manage
        .delete("/api/v1/deployments/mirror")
        .await?
        .expect(204)?;
    for path in [
        "/api/v1/deployments/mirror",
        "/api/v1/deployments/mirror/releases/1",
    ] {
        problem(&tenant.read.get(path).await?, 404, "deployment_not_found")?;
    }
    for path in ["/v2/models/mirror/infer", "/v2/models/mirror/versions/1/infer"] {
        let answer = tenant.invoke.post(path, &json!({ "inputs": number() })).await?;
        assert_eq!((answer.status, answer.code()), (404, "deployment_not_found"));
    }
    problem(
        &tenant.manage.post(releases, &spec("FP32")).await?,
        404,
        "deployment_not_found",
    )?;
    problem(
        &tenant.manage.delete("/api/v1/deployments/mirror").await?,
        404,
        "deployment_not_found",
    )?;
    let back = tenant
        .manage
        .post("/api/v1/deployments", &again)
        .await?
        .expect(201)?;
    assert_eq!(
        back["release"], 3,
        "its numbers go on, since receipts name them: {back}"
    );
    assert_eq!(answering(&tenant, "/v2/models/mirror", "FP32").await?, "3");
    host.finish().await
}

/// Waits until `count` windows are in the ledger.
async fn until_windows(host: &TestHost, count: usize) -> anyhow::Result<()> {
    loop {
        let windows = host.admin.get("/api/v1/ledger/windows").await?.expect(200)?;
        if windows["items"]
            .as_array()
            .is_some_and(|items| items.len() >= count)
        {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn receipts_and_the_ledger_are_read_page_by_page() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    tenant.deploy("echo", &[], json!({})).await?;
    let mut ids = Vec::new();
    for _ in 0..5 {
        let answer = tenant.invoke.infer("echo", number()).await?;
        ids.push(answer.receipt.clone().context("a receipt")?);
        answer.expect(200)?;
    }
    for id in &ids {
        host.final_receipt(&tenant.read, id).await?;
    }
    let (all, count) = tenant.read.pages("/api/v1/receipts", 2).await?;
    let seen: Vec<_> = all
        .iter()
        .filter(|item| item["kind"] == "infer")
        .map(|item| item["id"].clone())
        .collect();
    // Ids begin with their instant, to the millisecond.
    ids.sort_unstable_by(|a, b| b.cmp(a));
    assert_eq!(json!(seen), json!(ids), "newest first, each once");
    assert_eq!(all.len(), 7, "publish, deploy and five calls: {all:?}");
    assert_eq!(count, 4);
    let (whole, _) = tenant.read.pages("/api/v1/receipts", 500).await?;
    assert_eq!(whole, all);

    until_windows(&host, 4).await?;
    for role in ["billing", "auditor"] {
        let reader = host.key(role, None).await?;
        let check = reader.get("/api/v1/ledger/check").await?.expect(200)?;
        for clean in [
            "gap_uj",
            "breaks",
            "mismatches",
            "chain_breaks",
            "unattributed_uj",
        ] {
            assert_eq!(check[clean], 0, "{check}");
        }
        let sums = &check["tenants"][0];
        assert_eq!(sums["tenant"], json!(tenant.id));
        assert_eq!(
            (&sums["receipts_uj"], &sums["fuel_receipts"]),
            (&sums["dynamic_uj"], &sums["fuel_transfers"])
        );
        assert!(
            sums["dynamic_uj"].as_i64() > Some(0) && sums["fuel_receipts"].as_i64() > Some(0),
            "{check}"
        );
        let balances = reader.get("/api/v1/ledger/balances").await?.expect(200)?;
        assert!(balances.to_string().contains(&tenant.id), "{balances}");
        let (windows, pages) = reader.pages("/api/v1/ledger/windows", 2).await?;
        assert!(windows.len() >= 4 && pages > 1, "{windows:?}");
        let key = |window: &Value| (window["epoch"].to_string(), window["seq"].to_string());
        let mut keys: Vec<_> = windows.iter().map(key).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), windows.len(), "each window once");
    }
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_and_says_when_to_try_again() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    let limits =
        json!({ "fuel": 1_000_000_000_000_u64, "deadline_ms": 60_000, "concurrency": 1, "queue": 1 });
    tenant.deploy("loop", &[], json!({ "limits": limits })).await?;
    tenant.deploy("echo", &[], json!({})).await?;
    let body = json!({ "component": { "name": "loop" }, "limits": limits });
    let releases = "/api/v1/deployments/loop/releases";
    tenant.manage.post(releases, &body).await?.expect(201)?;
    // The releases of a deployment share its places.
    let call = |version: u32| {
        let client = tenant.invoke.clone();
        let path = format!("/v2/models/loop/versions/{version}/infer");
        tokio::spawn(async move { client.post(&path, &json!({ "inputs": [] })).await })
    };
    let running = call(1);
    while host.app.live.running() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let waiting = call(2);
    while host.app.admission.waiting() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let request = tenant.invoke.request(Method::POST, "/v2/models/loop/infer");
    let response = request.json(&json!({ "inputs": [] })).send().await?;
    assert_eq!(response.status(), 429);
    assert!(
        response.headers().contains_key("retry-after") && !response.headers().contains_key("wattle-receipt")
    );
    assert_eq!(response.json::<Value>().await?["code"], "queue_full");
    // Another deployment of the tenant has places of its own.
    tenant.invoke.infer("echo", number()).await?.expect(200)?;
    waiting.abort();
    running.abort();
    while host.app.live.running() + host.app.admission.waiting() as usize > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    host.finish().await
}
