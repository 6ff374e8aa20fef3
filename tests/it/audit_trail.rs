//! Who did what.

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _};
use tests::client::problem;
use tests::{Client, TestHost, guests};

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

/// The bytes of an export.
async fn export(reader: &Client, query: &str) -> anyhow::Result<bytes::Bytes> {
    let path = format!("/api/v1/audit/export{query}");
    let response = reader.request(Method::GET, &path).send().await?;
    Ok(response.error_for_status()?.bytes().await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trail_is_exported_whole_and_the_export_is_in_it() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let (one, two) = (host.tenant("acacia").await?, host.tenant("banksia").await?);
    one.manage.push_component("echo", guests::guest("echo")?).await?;
    let auditor = host.key("auditor", None).await?;
    let (mut all, _) = auditor.pages("/api/v1/audit", 500).await?;
    all.reverse();
    let json: Value = serde_json::from_slice(&export(&auditor, "?format=json").await?)?;
    assert_eq!(json["items"], json!(all));
    let csv = String::from_utf8(export(&auditor, "").await?.to_vec())?;
    let lines: Vec<_> = csv.split("\r\n").collect();
    assert_eq!(lines[0], "id,at,actor,key,role,tenant,action,object,details");
    // The header, the acts, the export before this one, and nothing behind the last line.
    assert_eq!(lines.len(), all.len() + 3, "{csv}");
    let upload = all
        .iter()
        .position(|act| act["action"] == "component.upload")
        .unwrap();
    let text = |name: &str| all[upload][name].as_str().unwrap();
    let expected = format!(
        "{},{},key,{},tenant:manage,{},component.upload,echo,",
        all[upload]["id"],
        text("at"),
        text("key"),
        one.id
    );
    assert!(lines[upload + 1].starts_with(&expected), "{}", lines[upload + 1]);
    assert!(
        lines[upload + 1].ends_with("\"\"}\""),
        "its details are JSON in a cell: {}",
        lines[upload + 1]
    );

    // A tenant takes away what concerns it, by the same filters.
    let own = export(&two.read, "?format=json&action=key.create").await?;
    let own: Value = serde_json::from_slice(&own)?;
    let expected: Vec<_> = all
        .iter()
        .filter(|act| act["tenant"] == json!(two.id) && act["action"] == "key.create")
        .collect();
    assert_eq!((own["items"].clone(), expected.len()), (json!(expected), 3));
    let (exports, _) = auditor.pages("/api/v1/audit?action=audit.export", 500).await?;
    let exports: Vec<_> = exports
        .iter()
        .map(|act| {
            (
                act["role"].as_str().unwrap(),
                &act["tenant"],
                act["details"].clone(),
            )
        })
        .collect();
    let acts = |acts: usize, format: &str| json!({ "acts": acts, "format": format });
    assert_eq!(
        exports,
        [
            ("tenant:read", &json!(two.id), acts(3, "json")),
            ("auditor", &Value::Null, acts(all.len() + 1, "csv")),
            ("auditor", &Value::Null, acts(all.len(), "json")),
        ]
    );

    // The command line, into a file.
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("audit.csv").display().to_string();
    let (url, key) = (host.admin.url(""), two.read.key().unwrap_or_default().to_owned());
    let mut command = tokio::process::Command::new(guests::wattle()?);
    command.args([
        "audit", "--url", &url, "--key", &key, "--export", "csv", "--output", &file,
    ]);
    let done = command.env_clear().output().await?;
    assert!(done.status.success(), "{done:?}");
    let written = std::fs::read_to_string(file)?;
    assert_eq!(written.lines().count(), 6, "{written}");

    // Not even the owner takes a line back.
    let mut owner = sqlx::PgConnection::connect(&host.owner_url).await?;
    for change in [
        "delete from audit_event",
        "update audit_event set object = 'x'",
        "truncate audit_event",
    ] {
        assert!(owner.execute(change).await.is_err(), "{change}");
    }
    owner.close().await?;
    host.finish().await
}
