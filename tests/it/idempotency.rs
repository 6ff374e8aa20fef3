//! A management call that is sent again under its idempotency key is not done again.

use std::time::Duration;

use anyhow::ensure;
use db::{Claimed, Scope};
use domain::Role;
use reqwest::Method;
use serde_json::{Value, json};
use tests::client::{Answer, problem};
use tests::process::HostProcess;
use tests::{Client, TestHost, guests};

/// A request under a key.
async fn under(
    client: &Client,
    key: &str,
    (method, path): (&str, &str),
    body: impl Into<reqwest::Body>,
) -> anyhow::Result<Answer> {
    let request = client
        .request(method.parse::<Method>()?, path)
        .header("idempotency-key", key);
    client.send(request.body(body)).await
}

/// Calls, uploads and releases that the host has run: each is charged.
async fn charged(host: &TestHost) -> anyhow::Result<u64> {
    let request = host.ops.request(Method::GET, "/metrics");
    let page = request.send().await?.error_for_status()?.text().await?;
    let lines = page
        .lines()
        .filter(|line| line.starts_with("wattle_invocations_total"));
    let counts = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    Ok(counts.sum())
}

/// Sends a request twice; the second answer is the first one's, but for the secret of a key.
async fn twice(client: &Client, call: (&str, &str), body: Vec<u8>) -> anyhow::Result<Value> {
    let key = format!("once-{}-{}", call.0, call.1);
    let first = under(client, &key, call, body.clone()).await?;
    ensure!(!first.replayed && first.status < 300, "{call:?}: {}", first.body);
    let second = under(client, &key, call, body).await?;
    ensure!(second.replayed, "{call:?} was done again: {}", second.body);
    let (mut shown, mut again) = (first.body.clone(), second.body);
    if let Some(secret) = shown.as_object_mut().and_then(|shown| shown.remove("secret")) {
        ensure!(again["secret"].is_null() && !again.to_string().contains(secret.as_str().unwrap()));
        let note = again.as_object_mut().and_then(|again| again.remove("note"));
        ensure!(
            note.is_some_and(|note| note.to_string().contains("/rotate")),
            "{again}"
        );
    }
    ensure!(
        (second.status, &again) == (first.status, &shown),
        "{call:?}: {again} for {shown}"
    );
    ensure!(
        second.content_type == first.content_type,
        "{call:?}: {}",
        second.content_type
    );
    ensure!(second.receipt.is_none(), "{call:?} was charged again");
    Ok(first.body)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_done_once() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let json = |value: Value| value.to_string().into_bytes();
    let made = twice(
        &host.admin,
        ("POST", "/api/v1/tenants"),
        json(json!({ "name": "oak" })),
    )
    .await?;
    let path = format!("/api/v1/tenants/{}", made["id"].as_str().unwrap());
    twice(
        &host.admin,
        ("PATCH", &path),
        json(json!({ "concurrency_max": 2 })),
    )
    .await?;
    let new = json(json!({ "name": "m", "role": "tenant:manage", "tenant": made["id"] }));
    let key = twice(&host.admin, ("POST", "/api/v1/keys"), new).await?;
    let manage = host.admin.with_key(key["secret"].as_str().unwrap());
    let path = format!("/api/v1/keys/{}", key["id"].as_str().unwrap());
    let rotated = twice(
        &host.admin,
        ("POST", &format!("{path}/rotate")),
        b"{\"overlap_s\":3600}".to_vec(),
    )
    .await?;
    let rotated = format!("/api/v1/keys/{}", rotated["id"].as_str().unwrap());
    twice(&host.admin, ("DELETE", &rotated), Vec::new()).await?;

    let component = guests::guest("echo")?;
    twice(&manage, ("POST", "/api/v1/components/echo/revisions"), component).await?;
    twice(
        &manage,
        ("POST", "/api/v1/graphs/net/versions"),
        guests::model("tabular.onnx")?,
    )
    .await?;
    let new = json!({ "name": "echo", "component": { "name": "echo" } });
    twice(&manage, ("POST", "/api/v1/deployments"), json(new)).await?;
    let new = json!({ "component": { "name": "echo" } });
    let release = twice(&manage, ("POST", "/api/v1/deployments/echo/releases"), json(new)).await?;
    assert_eq!(release["release"], 2);
    for path in ["deployments/echo", "components/echo", "graphs/net"] {
        twice(&manage, ("DELETE", &format!("/api/v1/{path}")), Vec::new()).await?;
    }
    assert_eq!(charged(&host).await?, 4, "two uploads and two releases");
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_stands_for_one_request_of_one_scope() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let (tenant, neighbour) = (host.tenant("acacia").await?, host.tenant("birch").await?);
    let tenants = ("POST", "/api/v1/tenants");
    under(&host.admin, "k", tenants, r#"{"name":"oak"}"#)
        .await?
        .expect(201)?;
    for (call, body) in [
        (tenants, r#"{"name":"elm"}"#),
        (("POST", "/api/v1/keys"), r#"{"name":"oak"}"#),
        (("DELETE", "/api/v1/keys/x"), ""),
    ] {
        let answer = under(&host.admin, "k", call, body).await?;
        problem(&answer, 422, "idempotency_key_reused")?;
    }
    let echo = guests::guest("echo")?;
    let upload = ("POST", "/api/v1/components/echo/revisions");
    for client in [&tenant.manage, &neighbour.manage] {
        let answer = under(client, "k", upload, echo.clone()).await?;
        assert!(!answer.replayed && answer.status == 201, "{}", answer.body);
    }
    let other = under(&tenant.manage, "k", upload, [echo.as_slice(), b"x"].concat()).await?;
    problem(&other, 422, "idempotency_key_reused")?;
    // Another role of the tenant has keys of its own, and no way to what it may not do.
    problem(
        &under(&tenant.read, "k", upload, echo.clone()).await?,
        403,
        "forbidden",
    )?;
    problem(
        &under(&host.admin.anonymous(), "k", tenants, "{}").await?,
        401,
        "unauthorised",
    )?;

    for key in ["", "a b", &"x".repeat(256), "ü"] {
        let answer = under(&host.admin, key, tenants, r#"{"name":"ash"}"#).await?;
        problem(&answer, 422, "invalid_field")?;
        assert_eq!(answer.body["field"], "idempotency-key", "{key:?}");
    }
    let request = host.admin.request(Method::POST, "/api/v1/tenants");
    let two = request
        .header("idempotency-key", "a")
        .header("idempotency-key", "b");
    problem(&host.admin.send(two.body("{}")).await?, 422, "invalid_field")?;
    let long = "~".repeat(255);
    under(&host.admin, &long, tenants, r#"{"name":"ash"}"#)
        .await?
        .expect(201)?;
    let read = under(&host.admin, "k", ("GET", "/api/v1/tenants"), "").await?;
    assert!(read.status == 200 && !read.replayed, "a read is a read");
    host.finish().await
}

/// A retry of a call costs, so a caller who believes that it does not is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_of_a_model_takes_no_key() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    tenant.deploy("echo", &[], json!({})).await?;
    let body = r#"{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1]}]}"#;
    for path in ["/v2/models/echo/infer", "/v2/models/echo/versions/1/infer"] {
        let answer = under(&tenant.invoke, "k", ("POST", path), body).await?;
        assert_eq!((answer.status, answer.code()), (422, "idempotency_key_not_taken"));
        assert!(answer.body["error"].is_string(), "{}", answer.body);
    }
    assert_eq!(charged(&host).await?, 2, "the upload and the deployment");
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_many_at_once_does_it() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    let echo = guests::guest("echo")?;
    let upload = ("POST", "/api/v1/components/echo/revisions");
    let calls = (0..8).map(|_| under(&tenant.manage, "k", upload, echo.clone()));
    let answers = futures::future::try_join_all(calls).await?;
    for answer in &answers {
        if answer.status != 201 {
            problem(answer, 409, "idempotency_key_in_use")?;
            assert_eq!(answer.retry_after_s, Some(1));
        }
    }
    let done = answers
        .iter()
        .filter(|answer| answer.status == 201 && !answer.replayed);
    assert_eq!(done.count(), 1, "{answers:?}");
    let after = under(&tenant.manage, "k", upload, echo).await?;
    assert!(after.status == 201 && after.replayed, "{}", after.body);
    assert_eq!(charged(&host).await?, 1);
    host.finish().await
}

/// What would not be the same again is not kept: what the host could not do, and what may be allowed later.
#[tokio::test(flavor = "multi_thread")]
async fn refusals_of_the_moment_are_not_kept() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    let upload = ("POST", "/api/v1/components/echo/revisions");
    let echo = guests::guest("echo")?;
    let send = async || under(&tenant.manage, "k", upload, echo.clone()).await;
    for (change, back, status, code) in [
        (
            json!({ "status": "suspended" }),
            json!({ "status": "active" }),
            403,
            "tenant_suspended",
        ),
        (
            json!({ "uploads_max_per_hour": 0 }),
            json!({ "uploads_max_per_hour": null }),
            429,
            "upload_quota",
        ),
        (
            json!({ "storage_max_bytes": 1 }),
            json!({ "storage_max_bytes": null }),
            507,
            "storage_quota_exceeded",
        ),
    ] {
        host.change(&tenant, change).await?;
        problem(&send().await?, status, code)?;
        host.change(&tenant, back).await?;
    }
    let done = send().await?;
    assert!(done.status == 201 && !done.replayed, "{}", done.body);
    assert!(send().await?.replayed);

    // A refusal of the request itself is kept, and what it cost was paid once.
    let before = charged(&host).await?;
    let bad = under(&tenant.manage, "bad", upload, "no wasm").await?;
    problem(&bad, 422, "invalid_component")?;
    let again = under(&tenant.manage, "bad", upload, "no wasm").await?;
    problem(&again, 422, "invalid_component")?;
    assert!(again.replayed && again.body == bad.body, "{}", again.body);
    assert_eq!(charged(&host).await?, before + 1);
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_lost_its_claim_does_nothing() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    let scope = Scope {
        tenant: Some(tenant.id.parse()?),
        role: Role::TenantManage,
    };
    let claim = async |at| {
        let by = (host.app.node, host.app.clock.mint());
        host.app.db.idempotency_claim(scope, "k", by, at).await
    };
    let now = host.app.clock.now();
    let Claimed::Mine(first) = claim(now).await? else {
        panic!("it is free")
    };
    let delete = ("DELETE", "/api/v1/deployments/none");
    let answer = under(&tenant.manage, "k", delete, "").await?;
    problem(&answer, 409, "idempotency_key_in_use")?;
    assert_eq!(answer.retry_after_s, Some(1));
    host.app.db.idempotency_release(&first).await?;

    // A slow upload whose key another attempt takes over meanwhile.
    let (echo, path) = (guests::guest("echo")?, "/api/v1/components/echo/revisions");
    let (send, receive) = tokio::sync::mpsc::unbounded_channel();
    send.send(bytes::Bytes::from(echo.clone()))?;
    let body = futures::stream::unfold(receive, |mut receive| async {
        let chunk = receive.recv().await?;
        Some((Ok::<_, std::io::Error>(chunk), receive))
    });
    let (client, body) = (tenant.manage.clone(), reqwest::Body::wrap_stream(body));
    let slow = tokio::spawn(async move { under(&client, "k", ("POST", path), body).await });
    while !matches!(claim(now).await?, Claimed::Running) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let late = claim(now + time::Duration::hours(1)).await?;
    assert!(matches!(late, Claimed::Mine(_)));
    drop(send);
    problem(&slow.await??, 409, "idempotency_key_in_use")?;
    let listed = tenant.read.get("/api/v1/components").await?.expect(200)?;
    assert_eq!(listed["items"], json!([]), "nothing was committed");
    host.finish().await
}

/// A host that dies in the middle of a call leaves neither half of it, and its key free.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_locks_no_key() -> anyhow::Result<()> {
    let mut host = HostProcess::new()?;
    host.start("standard", None).await?;
    let manage = host.manager().await?;
    let secret = manage.key().unwrap().to_owned();
    host.terminate().await?;

    // It dies when the upload is recorded and not yet noted.
    host.start("standard", Some("after-journal:1")).await?;
    let (echo, upload) = (
        guests::guest("echo")?,
        ("POST", "/api/v1/components/echo/revisions"),
    );
    let client = host.client(Some(&secret))?;
    assert!(under(&client, "k", upload, echo.clone()).await.is_err());
    host.until_killed().await?;

    host.start("standard", None).await?;
    let client = host.client(Some(&secret))?;
    let again = under(&client, "k", upload, echo.clone()).await?;
    assert!(again.status == 201 && !again.replayed, "{}", again.body);
    host.kill()?;
    host.start("standard", None).await?;
    let client = host.client(Some(&secret))?;
    let kept = under(&client, "k", upload, echo).await?;
    assert!(kept.replayed, "the result outlives the host");
    assert_eq!((kept.status, kept.body), (201, again.body));
    host.terminate().await
}
