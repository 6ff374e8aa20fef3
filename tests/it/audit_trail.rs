//! Who did what.

use serde_json::{Value, json};
use tests::client::problem;
use tests::{TestHost, guests};

fn lines(events: &[Value]) -> Vec<(&str, &str, Option<&str>)> {
    events
        .iter()
        .map(|event| {
            (
                event["action"].as_str().unwrap(),
                event["actor"].as_str().unwrap(),
                event["tenant"].as_str(),
            )
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_act_leaves_a_line_and_a_refusal_none() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    let id = Some(tenant.id.as_str());
    tenant
        .deploy("tabular", &[("net", "tabular.onnx")], json!({}))
        .await?;
    let release = json!({ "component": { "name": "tabular" }, "graphs": { "net": { "name": "tabular" } } });
    let releases = "/api/v1/deployments/tabular/releases";
    tenant.manage.post(releases, &release).await?.expect(201)?;
    tenant
        .manage
        .delete("/api/v1/deployments/tabular")
        .await?
        .expect(204)?;
    host.change(&tenant, json!({ "storage_max_bytes": 7 })).await?;
    let keys = format!("/api/v1/keys?role=tenant%3Ainvoke&tenant={}", tenant.id);
    let key = host.admin.get(&keys).await?.expect(200)?["items"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    host.admin
        .delete(&format!("/api/v1/keys/{key}"))
        .await?
        .expect(204)?;

    // What is refused leaves nothing.
    tenant.manage.post(releases, &release).await?.expect(404)?;
    tenant
        .manage
        .upload("/api/v1/components/x/revisions", b"no wasm".to_vec())
        .await?
        .expect(422)?;
    tenant
        .manage
        .upload("/api/v1/graphs/x/versions", guests::model("magika.onnx")?)
        .await?
        .expect(507)?;
    host.admin
        .post("/api/v1/tenants", &json!({ "name": "acacia" }))
        .await?
        .expect(409)?;

    let (events, _) = host.admin.pages("/api/v1/audit", 3).await?;
    assert_eq!(
        lines(&events),
        [
            ("key.revoke", "key", id),
            ("tenant.update", "key", id),
            ("deployment.hide", "key", id),
            ("deployment.release", "key", id),
            ("deployment.create", "key", id),
            ("graph.upload", "key", id),
            ("component.upload", "key", id),
            ("key.create", "key", id),
            ("key.create", "key", id),
            ("key.create", "key", id),
            ("tenant.create", "key", id),
            ("key.create", "bootstrap", None),
        ]
    );
    let (first, last) = (&events[0], &events[11]);
    assert_eq!((&first["object"], &first["role"]), (&json!(key), &json!("admin")));
    assert_eq!(first["key"], last["object"], "the first admin key has done it");
    assert_eq!(last["key"], Value::Null);
    assert_eq!(events[1]["details"], json!({ "storage_max_bytes": 7 }));
    assert_eq!(
        (&events[3]["object"], &events[3]["details"], &events[3]["role"]),
        (
            &json!("tabular"),
            &json!({ "release": 2 }),
            &json!("tenant:manage")
        )
    );
    let text = json!(events).to_string();
    assert!(!text.contains("wattle_"), "a secret is in the trail: {text}");
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_sees_what_concerns_it() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let (one, two) = (host.tenant("acacia").await?, host.tenant("banksia").await?);
    one.manage.push_component("echo", guests::guest("echo")?).await?;
    let auditor = host.key("auditor", None).await?;
    let (all, _) = auditor.pages("/api/v1/audit", 500).await?;
    for (tenant, count) in [(&one, 5), (&two, 4)] {
        let (own, _) = tenant.read.pages("/api/v1/audit", 2).await?;
        let expected: Vec<_> = all
            .iter()
            .filter(|event| event["tenant"] == json!(tenant.id))
            .collect();
        assert_eq!(own.iter().collect::<Vec<_>>(), expected);
        assert_eq!(own.len(), count);
        let filtered = format!("/api/v1/audit?tenant={}", tenant.id);
        assert_eq!(auditor.pages(&filtered, 500).await?.0, own);
    }
    let foreign = two.read.get(&format!("/api/v1/audit?tenant={}", one.id)).await?;
    problem(&foreign, 422, "invalid_field")?;
    let by = format!("/api/v1/audit?key={}&action=component.upload", one_key(&all));
    assert_eq!(auditor.pages(&by, 500).await?.0.len(), 1);
    host.finish().await
}

/// The key that uploaded.
fn one_key(events: &[Value]) -> &str {
    let upload = events.iter().find(|event| event["action"] == "component.upload");
    upload.unwrap()["key"].as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_act_whose_line_cannot_be_written_is_not_done() -> anyhow::Result<()> {
    use sqlx::{Connection as _, Executor as _};
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    tenant.deploy("echo", &[], json!({})).await?;
    let mut owner = sqlx::PgConnection::connect(&host.owner_url).await?;
    owner
        .execute(
            "alter table audit_event add constraint closed check (action <> 'deployment.hide') not valid",
        )
        .await?;
    owner.close().await?;
    let answer = tenant.manage.delete("/api/v1/deployments/echo").await?;
    assert_eq!(answer.status, 500, "{}", answer.body);
    tenant.read.get("/api/v1/deployments/echo").await?.expect(200)?;
    host.finish().await
}
