//! Bearer keys: how the first comes about, what each is refused, and how keys end.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tests::client::problem;
use tests::process::HostProcess;
use tests::{Client, TestHost, guests};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

fn text<'a>(body: &'a Value, key: &str) -> anyhow::Result<&'a str> {
    body[key].as_str().with_context(|| format!("no {key} in {body}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bootstrap_key_is_spent_once_there_is_an_admin() -> anyhow::Result<()> {
    // The harness has used it for the first admin key.
    let host = TestHost::start().await?;
    let path = host.data().join("bootstrap-admin-key");
    assert_eq!(std::fs::metadata(&path)?.permissions().mode() & 0o777, 0o600);
    let bootstrap = host.admin.with_key(std::fs::read_to_string(&path)?.trim());
    for path in ["/api/v1/tenants", "/api/v1/keys"] {
        problem(&bootstrap.get(path).await?, 401, "bootstrap_key_spent")?;
    }
    let body = json!({ "name": "more", "role": "admin" });
    problem(
        &bootstrap.post("/api/v1/keys", &body).await?,
        401,
        "bootstrap_key_spent",
    )?;

    let keys = host.admin.get("/api/v1/keys").await?.expect(200)?;
    assert_eq!(keys["items"].as_array().map(Vec::len), Some(1), "{keys}");
    assert!(!keys.to_string().contains("secret"), "{keys}");

    // It does not come back with the last revocation.
    let id = text(&keys["items"][0], "id")?;
    host.admin
        .delete(&format!("/api/v1/keys/{id}"))
        .await?
        .expect(204)?;
    let detail = problem(&bootstrap.get("/api/v1/keys").await?, 401, "bootstrap_key_spent")?;
    assert!(detail.contains("wattle key recover"), "{detail}");
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_holds_the_data_directory_recovers_from_lost_admin_keys() -> anyhow::Result<()> {
    let mut host = HostProcess::new()?;
    host.start("standard", None).await?;
    let body = json!({ "name": "admin", "role": "admin" });
    let bootstrap = host.client(Some(&host.bootstrap_key()?))?;
    problem(
        &bootstrap.get("/api/v1/tenants").await?,
        403,
        "first_admin_key_only",
    )?;
    problem(
        &bootstrap.get("/api/v1/ledger/check").await?,
        403,
        "first_admin_key_only",
    )?;
    let billing = json!({ "name": "b", "role": "billing" });
    problem(
        &bootstrap.post("/api/v1/keys", &billing).await?,
        403,
        "first_admin_key_only",
    )?;
    // Of several at once, one makes a key.
    let asked = futures::future::try_join_all((0..6).map(|_| bootstrap.post("/api/v1/keys", &body))).await?;
    let (made, refused): (Vec<_>, Vec<_>) = asked.iter().partition(|answer| answer.status == 201);
    assert_eq!((made.len(), refused.len()), (1, 5), "{asked:?}");
    for answer in refused {
        problem(answer, 401, "bootstrap_key_spent")?;
    }

    let mut recover = std::process::Command::new(guests::wattle()?);
    let recover = recover
        .args(["key", "recover", "--data"])
        .arg(host.data())
        .output()?;
    ensure!(recover.status.success(), "{recover:?}");
    let path = String::from_utf8(recover.stdout)?.trim().to_owned();
    assert_eq!(std::fs::metadata(&path)?.permissions().mode() & 0o777, 0o600);
    let secret = std::fs::read_to_string(&path)?;
    // It is read at a start.
    problem(
        &bootstrap.with_key(secret.trim()).get("/api/v1/keys").await?,
        401,
        "unauthorised",
    )?;
    host.terminate().await?;
    host.start("standard", None).await?;

    let recovery = host.client(Some(secret.trim()))?;
    problem(&recovery.get("/api/v1/keys").await?, 403, "first_admin_key_only")?;
    let both = tokio::join!(
        recovery.post("/api/v1/keys", &body),
        recovery.post("/api/v1/keys", &body)
    );
    let (made, refused) = match (both.0?, both.1?) {
        (one, two) if one.status == 201 => (one, two),
        (one, two) => (two, one),
    };
    problem(&refused, 401, "unauthorised")?;
    let key = made.expect(201)?;
    problem(&recovery.get("/api/v1/keys").await?, 401, "unauthorised")?;
    assert!(!std::fs::exists(&path)?, "it is good for one admin key");
    let admin = recovery.with_key(text(&key, "secret")?);
    let keys = admin.get("/api/v1/keys").await?.expect(200)?;
    assert_eq!(keys["items"].as_array().map(Vec::len), Some(2), "{keys}");
    // What each secret was used for is known for ever.
    let (acts, _) = admin.pages("/api/v1/audit?action=key.create", 500).await?;
    let actors: Vec<_> = acts.iter().map(|act| (&act["actor"], &act["key"])).collect();
    let (recovery, bootstrap) = (json!("recovery"), json!("bootstrap"));
    assert_eq!(actors, [(&recovery, &Value::Null), (&bootstrap, &Value::Null)]);
    host.terminate().await
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_end_by_revocation_and_by_time() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    let make = async |more: Value| {
        let mut body = json!({ "name": "short", "role": "tenant:read", "tenant": tenant.id });
        body.as_object_mut()
            .context("an object")?
            .extend(more.as_object().cloned().unwrap_or_default());
        host.admin.post("/api/v1/keys", &body).await
    };
    let path = "/api/v1/deployments";

    let key = make(json!({})).await?.expect(201)?;
    let client = host.admin.with_key(text(&key, "secret")?);
    client.get(path).await?.expect(200)?;
    let revoke = format!("/api/v1/keys/{}", text(&key, "id")?);
    host.admin.delete(&revoke).await?.expect(204)?;
    problem(&client.get(path).await?, 401, "unauthorised")?;
    host.admin.delete("/api/v1/keys/nobody").await?.expect(404)?;

    // As another node would revoke: this one sees it when its row is a second old.
    let key = make(json!({})).await?.expect(201)?;
    let client = host.admin.with_key(text(&key, "secret")?);
    client.get(path).await?.expect(200)?;
    let mut tx = host.app.db.admin_tx().await?;
    tx.key_revoke(text(&key, "id")?.parse()?).await?;
    tx.commit().await?;
    until_refused(&client, path).await?;

    let soon = (OffsetDateTime::now_utc() + Duration::from_millis(1_500)).format(&Rfc3339)?;
    let key = make(json!({ "expires_at": soon })).await?.expect(201)?;
    let client = host.admin.with_key(text(&key, "secret")?);
    client.get(path).await?.expect(200)?;
    until_refused(&client, path).await?;

    let past = (OffsetDateTime::now_utc() - Duration::from_secs(1)).format(&Rfc3339)?;
    for (more, named) in [
        (json!({ "expires_at": past }), "expires_at"),
        (json!({ "expires_at": "tomorrow" }), "expires_at"),
        (json!({ "role": "king" }), "role"),
        (json!({ "role": "admin" }), "tenant"),
        (json!({ "tenant": null }), "tenant"),
        (json!({ "name": "" }), "name"),
    ] {
        let detail = problem(&make(more).await?, 422, "invalid_field")?;
        assert!(detail.contains(named), "{detail}");
    }
    problem(
        &make(json!({ "tenant": uuid::Uuid::nil() })).await?,
        404,
        "tenant_not_found",
    )?;
    host.finish().await
}

async fn until_refused(client: &Client, path: &str) -> anyhow::Result<()> {
    for _ in 0..600 {
        let answer = client.get(path).await?;
        if answer.status == 401 {
            return problem(&answer, 401, "unauthorised").map(drop);
        }
        answer.expect(200)?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    anyhow::bail!("the key is still taken")
}
