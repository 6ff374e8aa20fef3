//! Quotas of a tenant: each is set, shown, crossed, and its neighbour's own.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::Connection as _;
use tests::client::problem;
use tests::host::Tenant;
use tests::{TestHost, guests};

async fn quotas(tenant: &Tenant) -> anyhow::Result<Value> {
    Ok(tenant.read.get("/api/v1/tenant").await?.expect(200)?["quotas"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_have_an_hourly_quota() -> anyhow::Result<()> {
    let host = TestHost::start_with(&["--uploads-max-per-hour", "3"]).await?;
    let tenant = host.tenant("acacia").await?;
    let (path, echo) = ("/api/v1/components/echo/revisions", guests::guest("echo")?);
    let upload = async |tenant: &Tenant, bytes: &[u8]| tenant.manage.upload(path, bytes.to_vec()).await;
    assert_eq!(quotas(&tenant).await?["uploads_max_per_hour"], 3);
    host.change(&tenant, json!({ "uploads_max_per_hour": 2 })).await?;
    upload(&tenant, &echo).await?.expect(201)?;
    problem(&upload(&tenant, b"no wasm").await?, 422, "invalid_component")?;
    let refused = upload(&tenant, &echo).await?;
    problem(&refused, 429, "upload_quota")?;
    let retry_after_s = refused.retry_after_s.unwrap();
    assert!((1..=3_600).contains(&retry_after_s), "{retry_after_s}");
    let graph = tenant
        .manage
        .upload("/api/v1/graphs/net/versions", guests::model("tabular.onnx")?);
    problem(&graph.await?, 429, "upload_quota")?;
    let shown = quotas(&tenant).await?;
    assert_eq!(
        (&shown["uploads_used"], &shown["uploads_max_per_hour"]),
        (&json!(2), &json!(2))
    );
    assert!(shown["uploads_reset_at"].is_string(), "{shown}");
    upload(&host.tenant("birch").await?, &echo).await?.expect(201)?;

    host.change(&tenant, json!({ "uploads_max_per_hour": null }))
        .await?;
    upload(&tenant, &echo).await?.expect(200)?;
    problem(&upload(&tenant, &echo).await?, 429, "upload_quota")?;
    let shown = host.change(&tenant, json!({ "uploads_max_per_hour": 0 })).await?;
    assert_eq!(
        (&shown["uploads_max_per_hour"], &shown["quotas"]["uploads_used"]),
        (&json!(0), &json!(3))
    );
    problem(&upload(&tenant, &echo).await?, 429, "upload_quota")?;
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_has_a_concurrency_of_its_own() -> anyhow::Result<()> {
    let host = TestHost::start_with(&["--tenant-concurrency", "3"]).await?;
    let tenant = host.tenant("acacia").await?;
    let limits = json!({ "concurrency": 8, "queue": 1, "deadline_ms": 60_000 });
    let more = json!({ "backend": "rten", "limits": limits });
    tenant.deploy("slow", &[("net", "tabular.onnx")], more).await?;
    let row = vec![0.5; 100];
    let body = json!({
        "inputs": [{ "name": "input", "shape": [1, 100], "datatype": "FP32", "data": row }],
        "parameters": { "runs": 8_000 },
    });
    // Of four calls, `max` run, one waits, and the others are refused.
    let refused = async || {
        let calls = (0..4).map(|_| tenant.invoke.post("/v2/models/slow/infer", &body));
        let answers = futures::future::try_join_all(calls).await?;
        assert!(
            answers.iter().all(|answer| [200, 429].contains(&answer.status)),
            "{answers:?}"
        );
        anyhow::Ok(
            answers
                .iter()
                .filter(|answer| answer.code() == "queue_full")
                .count(),
        )
    };
    assert_eq!(quotas(&tenant).await?["concurrency_max"], 3);
    assert_eq!(refused().await?, 0);
    let shown = host.change(&tenant, json!({ "concurrency_max": 1 })).await?;
    assert_eq!(
        (&shown["concurrency_max"], &shown["quotas"]["concurrency_max"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(refused().await?, 2);
    host.change(&tenant, json!({ "concurrency_max": null })).await?;
    assert_eq!(refused().await?, 0);

    let path = format!("/api/v1/tenants/{}", tenant.id);
    for (field, value) in [
        ("concurrency_max", json!(0)),
        ("concurrency_max", json!(u32::MAX)),
        ("concurrency_max", json!(-1)),
        ("uploads_max_per_hour", json!(u32::MAX)),
        ("uploads_max_per_hour", json!("many")),
        ("storage_max_bytes", json!(u64::MAX)),
    ] {
        let answer = host.admin.patch(&path, &json!({ field: value })).await?;
        problem(&answer, 422, "invalid_field")?;
        assert_eq!(answer.body["field"], field, "{value}");
    }
    let nobody = format!("/api/v1/tenants/{}", uuid::Uuid::nil());
    problem(
        &host.admin.patch(&nobody, &json!({})).await?,
        404,
        "tenant_not_found",
    )?;
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_makes_room_once_and_not_without_end() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    let net = guests::model("tabular.onnx")?;
    let file = |number: u8| [net.as_slice(), &[0xfa, 0x3f, 1, number]].concat();
    let bytes = file(0).len() as u64;
    host.change(&tenant, json!({ "storage_max_bytes": bytes }))
        .await?;
    let path = "/api/v1/graphs/net/versions";
    let upload = async |number| tenant.manage.upload(path, file(number)).await;
    let delete = async || tenant.manage.delete("/api/v1/graphs/net").await?.expect(204);
    upload(0).await?.expect(201)?;
    assert_eq!(quotas(&tenant).await?["storage_used_bytes"], bytes);
    problem(&upload(1).await?, 507, "storage_quota_exceeded")?;
    delete().await?;
    assert_eq!(quotas(&tenant).await?["storage_used_bytes"], 0);
    upload(1).await?.expect(201)?;
    delete().await?;
    // Twice the quota lies on the disk now.
    let detail = problem(&upload(2).await?, 507, "storage_not_collected")?;
    assert!(detail.contains(&(bytes * 2).to_string()), "{detail}");
    // Bytes that were let go of long ago are gone, by a clock that the test does not have to wait for.
    let mut owner = sqlx::PgConnection::connect(&host.owner_url).await?;
    let aged = "update graph_version set hidden_at = hidden_at - interval '1 day'";
    sqlx::Executor::execute(&mut owner, aged).await?;
    upload(2).await?.expect(201)?;
    let removed = wattle::flow::collect::collect(&host.app, Duration::ZERO).await?;
    assert_eq!(removed.blobs, 2);
    host.finish().await
}
