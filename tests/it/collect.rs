//! Deleting hides; bytes go when nothing needs them, whatever else happens meanwhile.

use std::time::Duration;

use serde_json::{Value, json};
use tests::client::problem;
use tests::host::Tenant;
use tests::{TestHost, guests};
use wattle::flow::collect::{Removed, collect};

const NOTHING: Removed = Removed { blobs: 0, code: 0 };

fn echo() -> Value {
    json!([{ "name": "x", "shape": [2], "datatype": "FP32", "data": [1.5, -2.0] }])
}

async fn used_bytes(tenant: &Tenant) -> anyhow::Result<u64> {
    let own = tenant.read.get("/api/v1/tenant").await?.expect(200)?;
    Ok(own["quotas"]["storage_used_bytes"].as_u64().unwrap())
}

fn deployment() -> Value {
    json!({ "name": "echo", "component": { "name": "echo" } })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_stays_for_its_deployments_and_then_goes() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    let now = async || collect(&host.app, Duration::ZERO).await;
    tenant.deploy("echo", &[], json!({})).await?;
    let bytes = used_bytes(&tenant).await?;
    assert!(bytes > 0);

    tenant
        .manage
        .delete("/api/v1/components/echo")
        .await?
        .expect(204)?;
    let again = tenant.manage.delete("/api/v1/components/echo").await?;
    problem(&again, 404, "component_not_found")?;
    let listed = tenant.read.get("/api/v1/components").await?.expect(200)?;
    assert_eq!(listed["items"], json!([]));
    let gone = tenant.read.get("/api/v1/components/echo/revisions").await?;
    problem(&gone, 404, "component_not_found")?;
    let anew = json!({ "component": { "name": "echo" } });
    let refused = tenant
        .manage
        .post("/api/v1/deployments/echo/releases", &anew)
        .await?;
    problem(&refused, 404, "component_not_found")?;

    assert_eq!(now().await?, NOTHING, "a release needs it");
    assert_eq!(used_bytes(&tenant).await?, bytes);
    host.app.releases.forget_all(tenant.id.parse()?);
    tenant.invoke.infer("echo", echo()).await?.expect(200)?;

    tenant
        .manage
        .delete("/api/v1/deployments/echo")
        .await?
        .expect(204)?;
    assert_eq!(used_bytes(&tenant).await?, 0, "it takes no room any more");
    let grace = Duration::from_secs(900);
    assert_eq!(
        collect(&host.app, grace).await?,
        NOTHING,
        "a call may still need it"
    );
    assert_eq!(now().await?, Removed { blobs: 1, code: 1 });
    assert_eq!(now().await?, NOTHING);

    // The same bytes again are the same revision, and everything is there again.
    tenant.deploy("echo", &[], json!({})).await?;
    tenant.invoke.infer("echo", echo()).await?.expect(200)?;
    assert_eq!(used_bytes(&tenant).await?, bytes);
    let old = tenant.invoke.get("/v2/models/echo/versions/1").await?;
    assert_eq!(
        (old.status, old.code()),
        (404, "release_not_found"),
        "the first life is over"
    );
    tenant
        .invoke
        .get("/v2/models/echo/versions/2")
        .await?
        .expect(200)?;
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_goes_alone_and_bytes_of_a_neighbour_stay() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let (tenant, neighbour) = (host.tenant("acacia").await?, host.tenant("birch").await?);
    let net = guests::model("tabular.onnx")?;
    let longer = [net.as_slice(), &[0xfa, 0x3f, 1, 1]].concat();
    let kept = tenant.manage.push_graph("net", net.clone()).await?;
    let dropped = tenant.manage.push_graph("net", longer.clone()).await?;
    let theirs = neighbour.manage.push_graph("net", longer).await?;
    assert_eq!(dropped, theirs);

    let path = format!("/api/v1/graphs/net/versions/{dropped}");
    tenant.manage.delete(&path).await?.expect(204)?;
    problem(&tenant.manage.delete(&path).await?, 404, "version_not_found")?;
    let nonsense = tenant.manage.delete("/api/v1/graphs/net/versions/newest").await?;
    problem(&nonsense, 404, "version_not_found")?;
    let listed = tenant
        .read
        .get("/api/v1/graphs/net/versions")
        .await?
        .expect(200)?;
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    assert_eq!(listed["items"][0]["version"], kept);
    let pick = json!({ "name": "net", "graphs": { "net": { "name": "net", "version": dropped } } });
    problem(
        &tenant.manage.post("/api/v1/deployments", &pick).await?,
        404,
        "graph_not_found",
    )?;

    assert_eq!(
        collect(&host.app, Duration::ZERO).await?,
        NOTHING,
        "the neighbour has them"
    );
    neighbour
        .manage
        .post("/api/v1/deployments", &pick)
        .await?
        .expect(201)?;
    tenant.manage.delete("/api/v1/graphs/net").await?.expect(204)?;
    problem(
        &tenant.manage.delete("/api/v1/graphs/net").await?,
        404,
        "graph_not_found",
    )?;
    assert_eq!(
        collect(&host.app, Duration::ZERO).await?.blobs,
        1,
        "what nobody has goes"
    );
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_of_a_closed_tenant_goes_and_what_a_crash_left() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    tenant
        .deploy("slow", &[("net", "tabular.onnx")], json!({ "backend": "rten" }))
        .await?;
    let orphan = bytes::Bytes::from_static(b"written, and never noted");
    host.app.blobs.put(domain::Digest::of(&orphan), orphan).await?;
    let draft = host.data().join("compiled/x.draft");
    std::fs::write(&draft, "half a file")?;
    assert_eq!(
        collect(&host.app, Duration::ZERO).await?,
        Removed { blobs: 1, code: 1 }
    );
    assert!(!draft.exists());
    host.change(&tenant, json!({ "status": "closed" })).await?;
    assert_eq!(
        collect(&host.app, Duration::ZERO).await?,
        Removed { blobs: 2, code: 1 }
    );
    host.finish().await
}

/// Whoever comes second sees what the first has done: an upload that was answered can always be deployed.
#[tokio::test(flavor = "multi_thread")]
async fn uploads_and_collections_take_turns() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let (tenant, neighbour) = (host.tenant("acacia").await?, host.tenant("birch").await?);
    let (component, mut removed) = (guests::guest("echo")?, 0);
    for round in 0..12 {
        let uploads = futures::future::try_join(
            tenant.manage.push_component("echo", component.clone()),
            neighbour.manage.push_component("echo", component.clone()),
        );
        let collections = async {
            let mut blobs = 0;
            for _ in 0..20 {
                blobs += collect(&host.app, Duration::ZERO).await?.blobs;
                tokio::task::yield_now().await;
            }
            anyhow::Ok(blobs)
        };
        let (uploaded, blobs) = tokio::join!(uploads, collections);
        uploaded?;
        removed += blobs?;
        tenant
            .manage
            .post("/api/v1/deployments", &deployment())
            .await?
            .expect(201)?;
        host.app.releases.forget_all(tenant.id.parse()?);
        collect(&host.app, Duration::ZERO).await?;
        let answer = tenant.invoke.infer("echo", echo()).await?;
        assert_eq!(answer.status, 200, "round {round}: {}", answer.body);
        tenant
            .manage
            .delete("/api/v1/deployments/echo")
            .await?
            .expect(204)?;
        for owner in [&tenant, &neighbour] {
            owner
                .manage
                .delete("/api/v1/components/echo")
                .await?
                .expect(204)?;
        }
    }
    assert!(
        removed > 0,
        "the collector never had anything to do beside an upload"
    );
    host.finish().await
}
