//! Tenants: suspended, resumed, closed; and what of it other hosts and running calls see.

use std::time::Duration;

use db::{TenantChange, TenantStatus};
use serde_json::{Value, json};
use tests::client::problem;
use tests::host::Tenant;
use tests::{TestHost, guests};

fn echo() -> Value {
    json!([{ "name": "x", "shape": [2], "datatype": "FP32", "data": [1.5, -2.0] }])
}

async fn until_code(tenant: &Tenant, code: &str) -> anyhow::Result<()> {
    for _ in 0..600 {
        if change(tenant).await?.code() == code {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    anyhow::bail!("it does not come to {code}")
}

/// A change of the tenant that leaves no trace where it is admitted.
async fn change(tenant: &Tenant) -> anyhow::Result<tests::client::Answer> {
    tenant.manage.delete("/api/v1/deployments/none").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_tenant_reads_what_it_has_and_comes_back() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    tenant.deploy("echo", &[], json!({})).await?;
    let receipt = tenant.invoke.infer("echo", echo()).await?.receipt.unwrap();

    let shown = host.change(&tenant, json!({ "status": "suspended" })).await?;
    assert_eq!(shown["status"], "suspended");
    problem(&change(&tenant).await?, 403, "tenant_suspended")?;
    let call = tenant.invoke.infer("echo", echo()).await?;
    assert_eq!((call.status, call.code()), (403, "tenant_suspended"));
    let upload = tenant
        .manage
        .upload("/api/v1/components/echo/revisions", guests::guest("echo")?);
    problem(&upload.await?, 403, "tenant_suspended")?;
    problem(&tenant.manage.get("/api/v1/keys").await?, 403, "tenant_suspended")?;
    for path in [
        "/api/v1/receipts",
        &format!("/api/v1/receipts/{receipt}"),
        "/api/v1/components",
        "/api/v1/deployments/echo",
        "/api/v1/tenant",
    ] {
        tenant.read.get(path).await?.expect(200)?;
    }
    let own = tenant.read.get("/api/v1/tenant").await?.expect(200)?;
    assert_eq!(own["status"], "suspended");
    let neighbour = host.tenant("birch").await?;
    problem(&change(&neighbour).await?, 404, "deployment_not_found")?;

    host.change(&tenant, json!({ "status": "active" })).await?;
    problem(&change(&tenant).await?, 404, "deployment_not_found")?;
    tenant.invoke.infer("echo", echo()).await?.expect(200)?;
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_host_decides_is_heeded_and_code_is_let_go() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    tenant.deploy("echo", &[], json!({})).await?;
    tenant.invoke.infer("echo", echo()).await?.expect(200)?;
    assert_eq!(host.app.releases.loads(), 0);
    let set = async |status| {
        let mut tx = host.app.db.admin_tx().await?;
        let change = TenantChange {
            status: Some(status),
            ..TenantChange::default()
        };
        tx.tenant_update(tenant.id.parse()?, &change).await?;
        tx.commit().await?;
        anyhow::Ok(())
    };
    set(TenantStatus::Suspended).await?;
    until_code(&tenant, "tenant_suspended").await?;
    set(TenantStatus::Active).await?;
    until_code(&tenant, "deployment_not_found").await?;
    tenant.invoke.infer("echo", echo()).await?.expect(200)?;
    assert!(host.app.releases.loads() > 0, "it was let go and loaded again");
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_runs_ends_by_its_own_limits() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    tenant
        .deploy("slow", &[("net", "tabular.onnx")], json!({ "backend": "rten" }))
        .await?;
    let row = vec![0.5; 100];
    let body = json!({
        "inputs": [{ "name": "input", "shape": [1, 100], "datatype": "FP32", "data": row }],
        "parameters": { "runs": 20_000 },
    });
    let invoke = tenant.invoke.clone();
    let call = tokio::spawn(async move { invoke.post("/v2/models/slow/infer", &body).await });
    while host.app.live.running() == 0 {
        assert!(!call.is_finished(), "it was too quick");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    host.change(&tenant, json!({ "status": "closed" })).await?;
    assert!(host.app.live.running() > 0, "it still runs");
    let answer = call.await??;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let receipt = answer.receipt.unwrap();
    let mut lines = Vec::new();
    while lines.is_empty() {
        let mut tx = host.app.db.tenant_tx(tenant.id.parse()?).await?;
        lines = tx.receipt_get(receipt.parse()?).await?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn closed_is_for_good_and_the_ledger_keeps_the_name() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    tenant.deploy("echo", &[], json!({})).await?;
    let receipt = tenant.invoke.infer("echo", echo()).await?.receipt.unwrap();
    host.final_receipt(&tenant.read, &receipt).await?;
    let keys = host.admin.get("/api/v1/keys").await?.expect(200)?["items"].clone();
    let of_tenant = |key: &&Value| key["tenant"] == tenant.id;
    let key = keys.as_array().unwrap().iter().find(of_tenant).unwrap();
    let rotate = format!("/api/v1/keys/{}/rotate", key["id"].as_str().unwrap());

    host.change(&tenant, json!({ "status": "closed" })).await?;
    for (client, path) in [
        (&tenant.manage, "/api/v1/tenant"),
        (&tenant.read, "/api/v1/receipts"),
        (&tenant.invoke, "/v2/models/echo"),
    ] {
        let answer = client.get(path).await?;
        assert_eq!((answer.status, answer.code()), (403, "tenant_closed"), "{path}");
    }
    let path = format!("/api/v1/tenants/{}", tenant.id);
    for status in ["active", "suspended"] {
        let answer = host.admin.patch(&path, &json!({ "status": status })).await?;
        problem(&answer, 409, "tenant_closed")?;
    }
    host.change(&tenant, json!({ "status": "closed" })).await?;
    let new = json!({ "name": "late", "role": "tenant:read", "tenant": tenant.id });
    problem(
        &host.admin.post("/api/v1/keys", &new).await?,
        409,
        "tenant_closed",
    )?;
    problem(&host.admin.post(&rotate, &json!({})).await?, 409, "tenant_closed")?;
    let again = host
        .admin
        .post("/api/v1/tenants", &json!({ "name": "acacia" }))
        .await?;
    problem(&again, 409, "tenant_exists")?;
    let listed = host.admin.get(&path).await?.expect(200)?;
    assert_eq!(
        (&listed["name"], &listed["status"]),
        (&json!("acacia"), &json!("closed"))
    );
    assert_eq!(listed["quotas"]["storage_used_bytes"], 0);
    let balances = host.admin.get("/api/v1/ledger/balances").await?.expect(200)?;
    assert!(balances.to_string().contains(&tenant.id), "{balances}");

    for (change, field) in [
        (json!({ "status": "gone" }), "status"),
        (json!({ "state": "active" }), "state"),
    ] {
        let answer = host.admin.patch(&path, &change).await?;
        problem(&answer, 422, "invalid_field")?;
        assert_eq!(answer.body["field"], field);
    }
    host.finish().await
}
