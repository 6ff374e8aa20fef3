//! What a tenant may store, and what stays loaded.

use serde_json::json;
use tests::{TestHost, guests};

async fn upload(
    tenant: &tests::host::Tenant,
    kind: &str,
    name: &str,
    bytes: Vec<u8>,
) -> (u16, String, String) {
    let (folder, leaf) = if kind == "graph" {
        ("graphs", "versions")
    } else {
        ("components", "revisions")
    };
    let path = format!("/api/v1/{folder}/{name}/{leaf}");
    let answer = tenant.manage.upload(&path, bytes).await.unwrap();
    let detail = answer.body["detail"].as_str().unwrap_or_default().to_owned();
    (answer.status, answer.code().to_owned(), detail)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_storage_has_a_quota() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    let (echo, net) = (guests::guest("echo")?, guests::model("tabular.onnx")?);
    let (status, ..) = upload(&tenant, "component", "echo", echo.clone()).await;
    assert_eq!(status, 201);
    let listed = tenant
        .read
        .get("/api/v1/components/echo/revisions")
        .await?
        .expect(200)?;
    let used = listed["items"][0]["bytes"].as_u64().unwrap();

    let quota = format!("/api/v1/tenants/{}", tenant.id);
    let set = async |client: &tests::Client, max_bytes: serde_json::Value| {
        client
            .patch(&quota, &json!({ "storage_max_bytes": max_bytes }))
            .await
    };
    let limit = used + net.len() as u64 - 1;
    assert_eq!(set(&tenant.manage, json!(limit)).await?.code(), "forbidden");
    assert_eq!(set(&host.admin, json!(-1)).await?.code(), "invalid_field");
    assert_eq!(set(&host.admin, json!(u64::MAX)).await?.code(), "invalid_field");
    let shown = set(&host.admin, json!(limit)).await?.expect(200)?;
    assert_eq!(shown["storage_max_bytes"], limit);

    let (status, code, detail) = upload(&tenant, "graph", "net", net.clone()).await;
    assert_eq!((status, code.as_str()), (507, "storage_quota_exceeded"));
    assert!(
        detail.contains(&used.to_string()) && detail.contains(&limit.to_string()),
        "{detail}"
    );
    let (status, ..) = upload(&tenant, "component", "twin", echo.clone()).await;
    assert_eq!(status, 201, "what is stored already takes no room");
    let neighbour = host.tenant("birch").await?;
    let (status, ..) = upload(&neighbour, "graph", "net", net.clone()).await;
    assert_eq!(status, 201, "each tenant has a quota of its own");
    set(&host.admin, json!(null)).await?.expect(200)?;
    let (status, ..) = upload(&tenant, "graph", "net", net).await;
    assert_eq!(status, 201, "the default has room");
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_at_once_stay_within_the_quota() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    let net = guests::model("tabular.onnx")?;
    // Trailing bytes of an unknown field number: other files, the same model.
    let files: Vec<Vec<u8>> = (0..6_u8)
        .map(|number| [net.as_slice(), &[0xfa, 0x3f, 1, number]].concat())
        .collect();
    let max_bytes = files[0].len() as u64 * 3;
    host.change(&tenant, json!({ "storage_max_bytes": max_bytes }))
        .await?;
    let uploads = files
        .into_iter()
        .map(|bytes| upload(&tenant, "graph", "net", bytes));
    let answers = futures::future::join_all(uploads).await;
    let count = |status: u16| answers.iter().filter(|answer| answer.0 == status).count();
    assert_eq!((count(201), count(507)), (3, 3), "{answers:?}");
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployed_release_is_warm() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    tenant.deploy("echo", &[], json!({})).await?;
    let inputs = json!([{ "name": "x", "shape": [2], "datatype": "FP32", "data": [1.5, -2.0] }]);
    tenant.invoke.infer("echo", inputs.clone()).await?.expect(200)?;
    assert_eq!(host.app.releases.loads(), 0, "the first call found it loaded");
    let again = json!({ "component": { "name": "echo" } });
    tenant
        .manage
        .post("/api/v1/deployments/echo/releases", &again)
        .await?
        .expect(201)?;
    tenant.invoke.infer("echo", inputs.clone()).await?.expect(200)?;
    assert_eq!(host.app.releases.loads(), 0, "so it is after a new release");
    host.app
        .releases
        .forget(tenant.id.parse().unwrap(), &"echo".parse().unwrap());
    tenant.invoke.infer("echo", inputs).await?.expect(200)?;
    assert_eq!(host.app.releases.loads(), 1, "what is not there is loaded");
    host.finish().await
}

/// What is let go is loaded again, and a call that holds it does not notice.
#[tokio::test(flavor = "multi_thread")]
async fn eviction_under_load_breaks_no_call() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    tenant
        .deploy("tabular", &[("net", "tabular.onnx")], json!({}))
        .await?;
    let known: serde_json::Value = serde_json::from_slice(&guests::model("tabular.json")?)?;
    let rows = json!([{ "name": "rows", "shape": [1, 100], "datatype": "FP32", "data": known["rows"][0] }]);
    let (id, name) = (tenant.id.parse().unwrap(), "tabular".parse().unwrap());
    let expected = tenant.invoke.infer("tabular", rows.clone()).await?.expect(200)?["outputs"].clone();
    let calls = (0..4).map(|_| async {
        for _ in 0..25 {
            let answer = tenant.invoke.infer("tabular", rows.clone()).await?.expect(200)?;
            assert_eq!(answer["outputs"], expected);
            host.app.releases.forget(id, &name);
        }
        anyhow::Ok(())
    });
    futures::future::try_join_all(calls).await?;
    assert!(
        host.app.releases.loads() >= 24,
        "{} loads",
        host.app.releases.loads()
    );
    host.finish().await
}

/// What a tenant pays and waits for an upload tells nothing of its neighbours'.
#[tokio::test(flavor = "multi_thread")]
async fn a_neighbours_component_is_compiled_again() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let compiled = || std::fs::read_dir(host.data().join("compiled")).unwrap().count();
    for (number, name) in [(1, "acacia"), (2, "birch")] {
        let tenant = host.tenant(name).await?;
        for _ in 0..2 {
            tenant
                .manage
                .push_component("echo", guests::guest("echo")?)
                .await?;
            assert_eq!(compiled(), number, "one for each tenant");
        }
    }
    host.finish().await
}
