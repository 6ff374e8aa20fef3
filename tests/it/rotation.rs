//! Keys are rotated, and a tenant keeps its own.

use std::time::Duration;

use serde_json::{Value, json};
use tests::client::problem;
use tests::{Client, TestHost};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

fn text<'a>(value: &'a Value, member: &str) -> &'a str {
    value[member].as_str().unwrap_or_default()
}

async fn rotate(by: &Client, key: &Value, overlap_s: u64) -> anyhow::Result<tests::client::Answer> {
    let path = format!("/api/v1/keys/{}/rotate", text(key, "id"));
    by.post(&path, &json!({ "overlap_s": overlap_s })).await
}

async fn until_refused(client: &Client) -> anyhow::Result<()> {
    for _ in 0..600 {
        let answer = client.get("/api/v1/tenant").await?;
        if answer.status == 401 {
            return problem(&answer, 401, "unauthorised").map(drop);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    anyhow::bail!("the old secret still works")
}

fn in_hours(hours: i64) -> String {
    (OffsetDateTime::now_utc() + time::Duration::hours(hours))
        .format(&Rfc3339)
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_secret_takes_the_old_ones_place() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    let new = json!({ "name": "ci", "role": "tenant:read", "tenant": tenant.id, "expires_at": in_hours(1) });
    let first = host.admin.post("/api/v1/keys", &new).await?.expect(201)?;
    let old = host.admin.with_key(text(&first, "secret"));
    old.get("/api/v1/tenant").await?.expect(200)?;

    let second = rotate(&host.admin, &first, 0).await?.expect(201)?;
    assert_ne!(
        (&second["id"], &second["secret"]),
        (&first["id"], &first["secret"])
    );
    for same in ["name", "role", "tenant"] {
        assert_eq!(second[same], first[same], "{same}");
    }
    assert!(
        second["expires_at"].is_string() && second["note"].is_null(),
        "{second}"
    );
    problem(&old.get("/api/v1/tenant").await?, 401, "unauthorised")?;
    problem(&rotate(&host.admin, &first, 0).await?, 409, "key_ended")?;

    // Both work for a while; what is left of the old one never grows.
    let third = rotate(&host.admin, &second, 3_600).await?.expect(201)?;
    let (old, new) = (text(&second, "secret"), text(&third, "secret"));
    for secret in [old, new] {
        host.admin
            .with_key(secret)
            .get("/api/v1/tenant")
            .await?
            .expect(200)?;
    }
    let fourth = rotate(&host.admin, &second, 1).await?.expect(201)?;
    until_refused(&host.admin.with_key(old)).await?;
    problem(&rotate(&host.admin, &second, 0).await?, 409, "key_ended")?;
    host.admin
        .with_key(text(&fourth, "secret"))
        .get("/api/v1/tenant")
        .await?
        .expect(200)?;

    let bound = rotate(&host.admin, &third, 604_801).await?;
    problem(&bound, 422, "invalid_field")?;
    assert_eq!(bound.body["field"], "overlap_s");
    rotate(&host.admin, &third, 604_800).await?.expect(201)?;
    let nobody = json!({ "id": uuid::Uuid::nil() });
    problem(&rotate(&host.admin, &nobody, 0).await?, 404, "key_not_found")?;
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_keeps_its_own_keys_and_widens_none() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let (tenant, neighbour) = (host.tenant("acacia").await?, host.tenant("birch").await?);
    let make = async |by: &Client, more: Value| {
        let mut body = json!({ "name": "own", "role": "tenant:invoke" });
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        by.post("/api/v1/keys", &body).await
    };
    let own = make(&tenant.manage, json!({})).await?.expect(201)?;
    assert_eq!(own["tenant"], tenant.id);
    host.admin
        .with_key(text(&own, "secret"))
        .get("/api/v1/tenant")
        .await?
        .expect(200)?;
    make(
        &tenant.manage,
        json!({ "tenant": tenant.id, "role": "tenant:manage" }),
    )
    .await?
    .expect(201)?;
    let listed = tenant.manage.get("/api/v1/keys").await?.expect(200)?;
    let keys = listed["items"].as_array().unwrap();
    assert_eq!(keys.len(), 5, "{listed}");
    assert!(keys.iter().all(|key| key["tenant"] == tenant.id), "{listed}");

    for role in ["admin", "billing", "auditor"] {
        problem(
            &make(&tenant.manage, json!({ "role": role })).await?,
            403,
            "forbidden",
        )?;
    }
    let foreign = make(&tenant.manage, json!({ "tenant": neighbour.id })).await?;
    problem(&foreign, 404, "tenant_not_found")?;
    for client in [&tenant.invoke, &tenant.read] {
        problem(&make(client, json!({})).await?, 403, "forbidden")?;
        problem(&client.get("/api/v1/keys").await?, 403, "forbidden")?;
    }
    let admins = host.admin.get("/api/v1/keys").await?.expect(200)?["items"].clone();
    for key in admins.as_array().unwrap() {
        if key["tenant"] == tenant.id {
            continue;
        }
        problem(&rotate(&tenant.manage, key, 0).await?, 404, "key_not_found")?;
        let path = format!("/api/v1/keys/{}", text(key, "id"));
        problem(&tenant.manage.delete(&path).await?, 404, "key_not_found")?;
    }
    let rotated = rotate(&tenant.manage, &own, 0).await?.expect(201)?;
    let path = format!("/api/v1/keys/{}", text(&rotated, "id"));
    tenant.manage.delete(&path).await?.expect(204)?;
    until_refused(&host.admin.with_key(text(&rotated, "secret"))).await?;

    // What was lent for a time makes nothing that lasts longer.
    let lent = json!({ "role": "tenant:manage", "expires_at": in_hours(2) });
    let lent = make(&tenant.manage, lent).await?.expect(201)?;
    let lent_key = host.admin.with_key(text(&lent, "secret"));
    for longer in [json!({}), json!({ "expires_at": in_hours(3) })] {
        let answer = make(&lent_key, longer).await?;
        problem(&answer, 422, "invalid_field")?;
        assert_eq!(answer.body["field"], "expires_at");
    }
    make(&lent_key, json!({ "expires_at": in_hours(1) }))
        .await?
        .expect(201)?;
    let eternal = make(&tenant.manage, json!({})).await?.expect(201)?;
    problem(&rotate(&lent_key, &eternal, 0).await?, 422, "invalid_field")?;
    rotate(&lent_key, &lent, 0).await?.expect(201)?;
    host.finish().await
}
