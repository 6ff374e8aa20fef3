//! What stands in paths, queries and headers.

use anyhow::Context as _;
use reqwest::Method;
use serde_json::json;
use tests::TestHost;

use super::{Cases, NOTHING, invalid, refused};

#[tokio::test(flavor = "multi_thread")]
async fn paths_that_lead_nowhere() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    tenant.deploy("echo", &[], json!({})).await?;
    let long = "n".repeat(5_000);
    let names = [
        "-",
        "A",
        "a%00",
        "%00",
        "a%2Fb",
        "a%20b",
        "%C3%A4",
        "..%2F..",
        "%2e%2e%2fa",
        &long,
    ];
    let ids = [
        "x",
        "0",
        "%00",
        "-1",
        "%2e%2e%2fa",
        "00000000-0000-0000-0000-00000000000g",
        &long,
        NOTHING,
    ];
    let by_name = [
        (Method::GET, "/api/v1/components/{}/revisions"),
        (Method::POST, "/api/v1/components/{}/revisions"),
        (Method::GET, "/api/v1/graphs/{}/versions"),
        (Method::POST, "/api/v1/graphs/{}/versions"),
        (Method::DELETE, "/api/v1/components/{}"),
        (Method::DELETE, "/api/v1/graphs/{}"),
        (Method::GET, "/api/v1/deployments/{}"),
        (Method::DELETE, "/api/v1/deployments/{}"),
        (Method::POST, "/api/v1/deployments/{}/releases"),
        (Method::GET, "/api/v1/deployments/{}/releases/1"),
    ];
    let by_id = [
        (&host.admin, Method::GET, "/api/v1/tenants/{}", "tenant_not_found"),
        (
            &host.admin,
            Method::PATCH,
            "/api/v1/tenants/{}",
            "tenant_not_found",
        ),
        (&host.admin, Method::DELETE, "/api/v1/keys/{}", "key_not_found"),
        (
            &host.admin,
            Method::POST,
            "/api/v1/keys/{}/rotate",
            "key_not_found",
        ),
        (
            &tenant.manage,
            Method::DELETE,
            "/api/v1/components/echo/revisions/{}",
            "revision_not_found",
        ),
        (
            &tenant.manage,
            Method::DELETE,
            "/api/v1/graphs/echo/versions/{}",
            "version_not_found",
        ),
        (
            &tenant.manage,
            Method::GET,
            "/api/v1/receipts/{}",
            "receipt_not_found",
        ),
        (
            &tenant.manage,
            Method::GET,
            "/api/v1/deployments/echo/releases/{}",
            "release_not_found",
        ),
    ];
    let mut cases = Cases::default();
    for (method, route) in by_name {
        let route = |name: &str| {
            (
                route.replace("{}", name),
                tenant.manage.request(method.clone(), &route.replace("{}", name)),
            )
        };
        for name in names {
            let (case, request) = route(name);
            cases
                .send(&tenant.manage, &case, request.body("{}"), invalid("name"))
                .await;
        }
        let (case, request) = route("%ff");
        cases
            .send(&tenant.manage, &case, request.body("{}"), invalid("path"))
            .await;
    }
    for (caller, method, route, code) in by_id {
        for id in ids {
            let path = route.replace("{}", id);
            let request = caller.request(method.clone(), &path).body("{}");
            cases
                .send(caller, &format!("{method} {path}"), request, refused(404, code))
                .await;
        }
        let path = route.replace("{}", "%ff");
        let request = caller.request(method.clone(), &path).body("{}");
        cases.send(caller, &path, request, invalid("path")).await;
    }
    for number in [
        "2147483647",
        "2147483648",
        "4294967296",
        "99999999999999999999",
        "1.0",
        "-1",
        "0",
    ] {
        let path = format!("/api/v1/deployments/echo/releases/{number}");
        let request = tenant.read.request(Method::GET, &path);
        cases
            .send(&tenant.read, &path, request, refused(404, "release_not_found"))
            .await;
    }
    for path in [
        "/",
        "/api",
        "/api/v1",
        "/api/v1/tenants/",
        "/api/v2/tenants",
        "//api/v1/tenants",
        "/%00",
    ] {
        let request = host.admin.request(Method::GET, path);
        cases
            .send(&host.admin, path, request, refused(404, "route_not_found"))
            .await;
    }
    cases.none();
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_that_are_not_known() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    let document = host.admin.get("/api/openapi.json").await?.expect(200)?;
    let mut cases = Cases::default();
    // No route has a parameter of that name, or takes one twice.
    for (path, methods) in document["paths"].as_object().context("paths")? {
        let path = path
            .replace("{number}", "1")
            .replace("{id}", NOTHING)
            .replace("{name}", "a");
        if path.starts_with("/v2") {
            continue;
        }
        for (method, operation) in methods.as_object().context("methods")? {
            let method = Method::from_bytes(method.to_uppercase().as_bytes())?;
            for query in ["nothing=1", "nothing", "nothing=%ff&nothing=2"] {
                let path = format!("{path}?{query}");
                let request = host.admin.request(method.clone(), &path).body("{}");
                cases
                    .send(
                        &host.admin,
                        &format!("{method} {path}"),
                        request,
                        invalid("nothing"),
                    )
                    .await;
            }
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                let name = parameter["name"].as_str().context("a name")?;
                if parameter["in"] == "query" {
                    let path = format!("{path}?{name}=1&{name}=1");
                    let request = host.admin.request(method.clone(), &path);
                    cases
                        .send(&host.admin, &format!("{method} {path}"), request, invalid(name))
                        .await;
                }
            }
        }
    }
    for list in [
        "/api/v1/receipts",
        "/api/v1/ledger/windows",
        "/api/v1/ledger/archives",
    ] {
        let caller = match list {
            "/api/v1/receipts" => &tenant.read,
            _ => &host.admin,
        };
        for (query, field) in [
            ("limit=0", "limit"),
            ("limit=501", "limit"),
            ("limit=-1", "limit"),
            ("limit=", "limit"),
            ("limit=ten", "limit"),
            ("limit=4294967296", "limit"),
            ("limit=1%00", "limit"),
            ("cursor=", "cursor"),
            ("cursor=x", "cursor"),
            ("cursor=%00", "cursor"),
            ("cursor=1.5", "cursor"),
        ] {
            let path = format!("{list}?{query}");
            cases
                .send(caller, &path, caller.request(Method::GET, &path), invalid(field))
                .await;
        }
    }
    cases.none();
    // The protocol's own errors name it, too.
    let answer = tenant.invoke.get("/v2/models/a?nothing=1").await?;
    assert_eq!(
        (answer.status, &answer.body["field"]),
        (422, &json!("nothing")),
        "{}",
        answer.body
    );
    assert!(answer.body["error"].is_string());
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_none() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let anyone = host.admin.anonymous();
    let secret = host.admin.key().context("a key")?;
    let mut cases = Cases::default();
    for header in [
        String::new(),
        "Bearer".to_owned(),
        "Bearer ".to_owned(),
        secret.to_owned(),
        format!("Basic {secret}"),
        format!("Bearer{secret}"),
        format!("Bearer {secret}x"),
        format!("Bearer {}", secret.to_uppercase()),
        format!("Bearer {}", "x".repeat(10_000)),
        format!("Bearer {secret},{secret}"),
        "Bearer \u{e4}".to_owned(),
    ] {
        let request = anyone
            .request(Method::GET, "/api/v1/tenants")
            .header("authorization", header.as_bytes());
        cases
            .send(&anyone, &header, request, refused(401, "unauthorised"))
            .await;
    }
    cases.none();
    // What a method is not taken says which is.
    for (path, allow) in [
        ("/api/v1/tenants", "GET,HEAD,POST"),
        ("/v2", "GET,HEAD"),
        ("/api/openapi.json", "GET,HEAD"),
    ] {
        let response = anyone.request(Method::PATCH, path).send().await?;
        assert_eq!(response.status(), 405, "{path}");
        assert_eq!(response.headers()["allow"], allow, "{path}");
    }
    host.finish().await
}
