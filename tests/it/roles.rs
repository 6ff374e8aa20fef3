//! Who may call what: a row for each route of the API's document, a column for each kind of caller.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use reqwest::Method;
use serde_json::json;
use tests::{Client, TestHost};

/// The callers, in the order of the columns.
const CALLERS: [&str; 9] = [
    "anonymous",
    "admin",
    "billing",
    "auditor",
    "tenant:manage",
    "tenant:invoke",
    "tenant:read",
    "tenant:manage, suspended",
    "tenant:manage, revoked",
];

/// What each caller gets: `+` in (whatever becomes of the request then), `1` 401 unauthorised,
/// `3` 403 forbidden, `s` 403 tenant_suspended.
///
/// A new route needs a row: its method and path as the document has them, and one of these.
const ROUTES: &[(&str, &str, &str)] = &[
    ("GET", "/api/openapi.json", ANYONE),
    ("GET", "/api/v1/tenants", ADMIN),
    ("POST", "/api/v1/tenants", ADMIN),
    ("GET", "/api/v1/tenants/{id}", ADMIN),
    ("PATCH", "/api/v1/tenants/{id}", ADMIN),
    ("GET", "/api/v1/tenant", BELONGS),
    ("GET", "/api/v1/keys", KEYS),
    ("POST", "/api/v1/keys", KEYS),
    ("DELETE", "/api/v1/keys/{id}", KEYS),
    ("POST", "/api/v1/keys/{id}/rotate", KEYS),
    ("GET", "/api/v1/components", READ),
    ("GET", "/api/v1/components/{name}/revisions", READ),
    ("POST", "/api/v1/components/{name}/revisions", MANAGE),
    ("DELETE", "/api/v1/components/{name}", MANAGE),
    ("DELETE", "/api/v1/components/{name}/revisions/{revision}", MANAGE),
    ("GET", "/api/v1/graphs", READ),
    ("DELETE", "/api/v1/graphs/{name}", MANAGE),
    ("DELETE", "/api/v1/graphs/{name}/versions/{version}", MANAGE),
    ("GET", "/api/v1/graphs/{name}/versions", READ),
    ("POST", "/api/v1/graphs/{name}/versions", MANAGE),
    ("GET", "/api/v1/deployments", READ),
    ("POST", "/api/v1/deployments", MANAGE),
    ("GET", "/api/v1/deployments/{name}", READ),
    ("DELETE", "/api/v1/deployments/{name}", MANAGE),
    ("POST", "/api/v1/deployments/{name}/releases", MANAGE),
    ("GET", "/api/v1/deployments/{name}/releases", READ),
    ("GET", "/api/v1/deployments/{name}/releases/{number}", READ),
    ("GET", "/api/v1/receipts", BELONGS),
    ("GET", "/api/v1/receipts/{id}", BELONGS),
    ("GET", "/api/v1/receipts/{id}/proof", BELONGS),
    ("GET", "/api/v1/usage", USAGE),
    ("GET", "/api/v1/usage/graphs", USAGE),
    ("GET", "/api/v1/carbon", USAGE),
    ("GET", "/api/v1/audit", TRAIL),
    ("GET", "/api/v1/audit/export", TRAIL),
    ("GET", "/api/v1/ledger/balances", AUDIT),
    ("GET", "/api/v1/ledger/check", AUDIT),
    ("GET", "/api/v1/ledger/checkpoints", AUDIT),
    ("GET", "/api/v1/ledger/archives", AUDIT),
    ("POST", "/api/v1/ledger/archives", ADMIN),
    ("GET", "/api/v1/ledger/keys", KNOWN),
    ("POST", "/api/v1/ledger/keys/rotate", ADMIN),
    ("GET", "/api/v1/ledger/verify/postings", AUDIT),
    ("GET", "/api/v1/ledger/verify/checkpoints", AUDIT),
    ("GET", "/api/v1/ledger/verify/rest", AUDIT),
    ("GET", "/api/v1/ledger/meters", AUDIT),
    ("GET", "/api/v1/ledger/weights", AUDIT),
    ("GET", "/api/v1/ledger/windows", AUDIT),
    ("GET", "/api/v1/ledger/factors", AUDIT),
    ("POST", "/api/v1/ledger/factors", BILL),
    ("GET", "/api/v1/ledger/valuations", USAGE),
    ("GET", "/api/v1/ledger/corrections", USAGE),
    ("POST", "/api/v1/ledger/corrections", ADMIN),
    ("GET", "/api/v1/ledger/periods", AUDIT),
    ("POST", "/api/v1/ledger/periods/{month}/close", BILL),
    ("GET", "/api/v1/ledger/periods/{month}/export", USAGE),
    ("GET", "/api/v1/ledger/statements", USAGE),
    ("GET", "/api/v1/ledger/statements/{month}", USAGE),
    ("GET", "/api/v1/ledger/charges", USAGE),
    ("GET", "/api/v1/plans", USAGE),
    ("POST", "/api/v1/plans", ADMIN),
    ("GET", "/api/v1/nodes", AUDIT),
    ("POST", "/api/v1/nodes/{id}/lost", ADMIN),
    ("GET", "/v2", ANYONE),
    ("GET", "/v2/health/live", ANYONE),
    ("GET", "/v2/health/ready", ANYONE),
    ("GET", "/v2/models/{name}", BELONGS),
    ("GET", "/v2/models/{name}/ready", BELONGS),
    ("GET", "/v2/models/{name}/versions/{version}", BELONGS),
    ("GET", "/v2/models/{name}/versions/{version}/ready", BELONGS),
    ("POST", "/v2/models/{name}/infer", INVOKE),
    ("POST", "/v2/models/{name}/versions/{version}/infer", INVOKE),
];

//                     anonymous
//                     |admin
//                     ||billing
//                     |||auditor
//                     ||||manage
//                     |||||invoke
//                     ||||||read
//                     |||||||suspended
//                     ||||||||revoked
const ANYONE: &str = "+++++++++";
const KNOWN: &str = "1+++++++1";
const ADMIN: &str = "1+3333331";
const AUDIT: &str = "1+++33331";
const BILL: &str = "1++333331";
const BELONGS: &str = "1333++++1";
const USAGE: &str = "1++++3++1";
const TRAIL: &str = "1+3++3++1";
const KEYS: &str = "1+33+33s1";
const READ: &str = "1333+3++1";
const INVOKE: &str = "1333++3s1";
const MANAGE: &str = "1333+33s1";

async fn callers(host: &TestHost) -> anyhow::Result<Vec<Client>> {
    let tenant = host.tenant("acacia").await?;
    let suspended = host.tenant("wattle").await?;
    let id = suspended.id.parse()?;
    let mut tx = host.app.db.admin_tx().await?;
    let change = db::TenantChange {
        status: Some(db::TenantStatus::Suspended),
        ..db::TenantChange::default()
    };
    tx.tenant_update(id, &change).await?;
    tx.commit().await?;
    let revoked = host.key("tenant:manage", Some(&tenant.id)).await?;
    let keys = host.admin.get("/api/v1/keys").await?.expect(200)?;
    let newest = keys["items"]
        .as_array()
        .context("keys")?
        .iter()
        .max_by_key(|key| key["id"].as_str());
    let id = newest.context("a key")?["id"].as_str().context("an id")?;
    host.admin
        .delete(&format!("/api/v1/keys/{id}"))
        .await?
        .expect(204)?;
    Ok(vec![
        host.admin.anonymous(),
        host.admin.clone(),
        host.key("billing", None).await?,
        host.key("auditor", None).await?,
        tenant.manage,
        tenant.invoke,
        tenant.read,
        suspended.manage,
        revoked,
    ])
}

/// The mark of what a caller got.
async fn mark(caller: &Client, method: &str, path: &str) -> anyhow::Result<char> {
    // Names and ids that nothing has: who gets in changes nothing.
    let path = path
        .replace("{name}", "nothing")
        .replace("{number}", "1")
        .replace("{version}", "1")
        .replace("{revision}", "1")
        .replace("{month}", "1970-01");
    let path = path.replace("{id}", "00000000-0000-7000-8000-000000000000");
    ensure!(!path.contains('{'), "say what stands in {path}");
    let mut request = caller.request(Method::from_bytes(method.as_bytes())?, &path);
    if matches!(method, "POST" | "PUT" | "PATCH") {
        request = request.json(&json!({}));
    }
    let answer = caller.send(request).await?;
    let code = answer.code().to_owned();
    ensure!(answer.status < 500, "{}: {}", answer.status, answer.body);
    match (answer.status, &code[..]) {
        (401, "unauthorised") => Ok('1'),
        (403, "forbidden") => Ok('3'),
        (403, "tenant_suspended") => Ok('s'),
        (401 | 403, code) => anyhow::bail!("no mark for {code}"),
        _ => Ok('+'),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_admits_whom_it_should() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let callers = callers(&host).await?;
    let mut wrong = Vec::new();
    for (method, path, expected) in ROUTES {
        assert_eq!(expected.len(), CALLERS.len(), "{method} {path}");
        for ((caller, name), expected) in callers.iter().zip(CALLERS).zip(expected.chars()) {
            let got = mark(caller, method, path).await;
            let got = got.with_context(|| format!("{method} {path} as {name}"))?;
            if got != expected {
                wrong.push(format!("{method} {path} as {name}: {got} instead of {expected}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_of_the_document_has_a_row() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let document = host.admin.get("/api/openapi.json").await?.expect(200)?;
    let mut documented = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().context("paths")? {
        let methods = methods.as_object().context("methods")?.iter();
        for (method, operation) in methods {
            let method = method.to_uppercase();
            let row = ROUTES.iter().find(|row| (row.0, row.1) == (&method, path));
            // What the document calls open to anyone is so, and nothing else.
            let open = operation["security"] == json!([{}]);
            ensure!(row.is_none_or(|row| (row.2 == ANYONE) == open), "{method} {path}");
            documented.insert(format!("{method} {path}"));
        }
    }
    let rows = ROUTES
        .iter()
        .map(|(method, path, _)| format!("{method} {path}"))
        .collect();
    let missing: Vec<_> = documented.difference(&rows).collect();
    let gone: Vec<_> = rows.difference(&documented).collect();
    assert!(
        missing.is_empty() && gone.is_empty(),
        "without a row: {missing:#?}, without a route: {gone:#?}"
    );
    host.finish().await
}
