//! What is sent in bodies.

use anyhow::Context as _;
use reqwest::Method;
use serde_json::json;
use tests::TestHost;
use tests::client::problem;

use super::{Cases, NOTHING, invalid, refused};

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_no_object() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    tenant.deploy("echo", &[], json!({})).await?;
    let change = format!("/api/v1/tenants/{}", tenant.id);
    let routes = [
        (&host.admin, Method::POST, "/api/v1/tenants"),
        (&host.admin, Method::PATCH, change.as_str()),
        (&host.admin, Method::POST, "/api/v1/keys"),
        (&host.admin, Method::POST, "/api/v1/plans"),
        (&host.admin, Method::POST, "/api/v1/ledger/corrections"),
        (&tenant.manage, Method::POST, "/api/v1/deployments"),
        (&tenant.manage, Method::POST, "/api/v1/deployments/echo/releases"),
    ];
    let deep = format!(r#"{{"name":{}"#, "[".repeat(100_000));
    let bodies: [(&[u8], &str); 16] = [
        (b"", "body"),
        (b" ", "body"),
        (b"null", "body"),
        (b"true", "body"),
        (b"7", "body"),
        (b"\"name\"", "body"),
        (b"[]", "body"),
        (br#"["acacia"]"#, "body"),
        (br#"[{"name":"acacia"}]"#, "body"),
        (b"{", "body"),
        (b"\xef\xbb\xbf{}", "body"),
        (b"{\"\xff\":1}", "body"),
        (b"\xff\xfe{\0}\0", "body"),
        (br#"{"nothing":1}"#, "nothing"),
        (br#"{"name":"a","name":"a"}"#, "name"),
        (br#"{"\u0000":1}"#, "\0"),
    ];
    let mut cases = Cases::default();
    for (caller, method, path) in routes {
        for (body, field) in bodies {
            let name = format!("{method} {path} {}", String::from_utf8_lossy(body));
            let request = caller.request(method.clone(), path);
            let request = request
                .header("content-type", "application/json")
                .body(body.to_vec());
            cases.send(caller, &name, request, invalid(field)).await;
        }
        let answer = caller
            .send(caller.request(method.clone(), path).body(deep.clone()))
            .await?;
        problem(&answer, 422, "invalid_field").with_context(|| format!("{method} {path}, deep"))?;
        for kind in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "application/jsonp",
            "json",
            "",
        ] {
            let request = caller
                .request(method.clone(), path)
                .header("content-type", kind)
                .body("{}");
            let name = format!("{method} {path} as '{kind}'");
            cases
                .send(caller, &name, request, refused(415, "unsupported_media_type"))
                .await;
        }
        // With parameters, and in capitals, it is JSON all the same.
        let request = caller.request(method.clone(), path);
        let request = request
            .header("content-type", "Application/JSON; charset=utf-8")
            .body("{");
        cases
            .send(caller, "with a charset", request, invalid("body"))
            .await;
    }
    cases.none();
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_of_what_admins_send() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    let (long, id) = ("n".repeat(101), &tenant.id);
    let key = |more: &str| format!(r#"{{"name":"k","role":"auditor"{more}}}"#);
    let named = |name: &str| format!(r#"{{"name":"{name}","role":"auditor"}}"#);
    let roled = |role: &str| format!(r#"{{"name":"k","role":{role}}}"#);
    let keys = [
        ("{}".to_owned(), "name"),
        (r#"{"name":"k"}"#.to_owned(), "role"),
        (r#"{"name":null,"role":"admin"}"#.to_owned(), "name"),
        (r#"{"name":["k"],"role":"admin"}"#.to_owned(), "name"),
        (named(""), "name"),
        (named(&long), "name"),
        (named("\\u0000"), "name"),
        (named("a\\nb"), "name"),
        (roled("null"), "role"),
        (roled("7"), "role"),
        (roled(r#""Admin""#), "role"),
        (roled(r#""tenant""#), "role"),
        (roled(r#"{"admin":null}"#), "role"),
        (roled(r#""tenant:read""#), "tenant"),
        (key(&format!(r#","tenant":"{id}""#)), "tenant"),
        (key(r#","tenant":"acacia""#), "tenant"),
        (key(r#","tenant":7"#), "tenant"),
        (key(r#","expires_at":7"#), "expires_at"),
        (key(r#","expires_at":"tomorrow""#), "expires_at"),
        (key(r#","expires_at":"2100-02-30T00:00:00Z""#), "expires_at"),
        (key(r#","expires_at":"2000-01-01T00:00:00Z""#), "expires_at"),
        (key(r#","expires_at":"9999-12-31T23:59:59-01:00""#), "expires_at"),
        (key(r#","secret":"mine""#), "secret"),
    ];
    let names = [
        "null",
        "7",
        "{}",
        "[]",
        r#""""#,
        r#""A""#,
        r#""-a""#,
        r#""a b""#,
        r#""a/b""#,
        r#""\u0000""#,
        r#""ä""#,
        r#""nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn""#,
    ];
    let sizes = [
        "-1",
        "1.5",
        "1e3",
        r#""1""#,
        "true",
        "[]",
        "{}",
        "9223372036854775808",
        "18446744073709551616",
    ];

    let (admin, mut cases) = (&host.admin, Cases::default());
    for (body, field) in &keys {
        cases
            .json(admin, Method::POST, "/api/v1/keys", body, invalid(field))
            .await;
    }
    let unknown = format!(r#"{{"name":"k","role":"tenant:read","tenant":"{NOTHING}"}}"#);
    cases
        .json(
            admin,
            Method::POST,
            "/api/v1/keys",
            &unknown,
            refused(404, "tenant_not_found"),
        )
        .await;
    for name in names {
        let body = format!(r#"{{"name":{name}}}"#);
        cases
            .json(admin, Method::POST, "/api/v1/tenants", &body, invalid("name"))
            .await;
    }
    let again = r#"{"name":"acacia"}"#;
    cases
        .json(
            admin,
            Method::POST,
            "/api/v1/tenants",
            again,
            refused(409, "tenant_exists"),
        )
        .await;
    for size in sizes {
        let path = format!("/api/v1/tenants/{id}");
        for field in ["storage_max_bytes", "concurrency_max", "uploads_max_per_hour"] {
            let body = format!(r#"{{"{field}":{size}}}"#);
            cases
                .json(admin, Method::PATCH, &path, &body, invalid(field))
                .await;
        }
    }
    for status in ["7", r#""gone""#, r#"{"active":null}"#, r#"["active"]"#] {
        let path = format!("/api/v1/tenants/{id}");
        let body = format!(r#"{{"status":{status}}}"#);
        cases
            .json(admin, Method::PATCH, &path, &body, invalid("status"))
            .await;
    }
    let path = format!("/api/v1/tenants/{NOTHING}");
    cases
        .json(
            admin,
            Method::PATCH,
            &path,
            r#"{"storage_max_bytes":1}"#,
            refused(404, "tenant_not_found"),
        )
        .await;
    cases.none();

    // What fits to the letter is taken.
    let longest = format!(
        r#"{{"name":"{}","role":"auditor","expires_at":"9999-12-31T23:59:59Z"}}"#,
        "ä".repeat(100)
    );
    let request = admin.request(Method::POST, "/api/v1/keys").body(longest);
    admin.send(request).await?.expect(201)?;
    admin.get("/api/v1/keys").await?.expect(200)?;
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_of_deployments() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    tenant.deploy("echo", &[], json!({})).await?;
    let digest = format!("sha256:{}", "0".repeat(64));
    let wrong = [
        (r#""component":[]"#.to_owned(), "component"),
        (r#""component":["echo"]"#.to_owned(), "component"),
        (r#""component":"echo""#.to_owned(), "component"),
        (r#""component":{}"#.to_owned(), "component.name"),
        (r#""component":{"name":7}"#.to_owned(), "component.name"),
        (
            r#""component":{"name":"echo","revision":"newest"}"#.to_owned(),
            "component.revision",
        ),
        (
            r#""component":{"name":"echo","revision":1}"#.to_owned(),
            "component.revision",
        ),
        (
            r#""component":{"name":"echo","name":"echo"}"#.to_owned(),
            "component.name",
        ),
        (
            r#""component":{"name":"echo","tag":"x"}"#.to_owned(),
            "component.tag",
        ),
        (r#""graphs":[]"#.to_owned(), "graphs"),
        (r#""graphs":{}"#.to_owned(), "graphs"),
        (r#""graphs":{"g":"tabular"}"#.to_owned(), "graphs.g"),
        (r#""graphs":{"g":["tabular"]}"#.to_owned(), "graphs.g"),
        (r#""graphs":{"g":{}}"#.to_owned(), "graphs.g.name"),
        (
            r#""graphs":{"g":{"name":"x"},"g":{"name":"x"}}"#.to_owned(),
            "graphs.g",
        ),
        (r#""graphs":{"":{"name":"x"}}"#.to_owned(), "graphs"),
        (
            format!(
                r#""component":{{"name":"echo"}},"graphs":{{{}}}"#,
                (0..17)
                    .map(|n| format!(r#""g{n}":{{"name":"x"}}"#))
                    .collect::<Vec<_>>()
                    .join(",")
            ),
            "graphs",
        ),
        (
            r#""component":{"name":"echo"},"settings":[]"#.to_owned(),
            "settings",
        ),
        (
            r#""component":{"name":"echo"},"settings":{"a":1}"#.to_owned(),
            "settings.a",
        ),
        (
            r#""component":{"name":"echo"},"settings":{"a":null}"#.to_owned(),
            "settings.a",
        ),
        (
            r#""component":{"name":"echo"},"settings":{"a":"1","a":"2"}"#.to_owned(),
            "settings.a",
        ),
        (
            r#""component":{"name":"echo"},"settings":{"a":"\u0000"}"#.to_owned(),
            "settings.a",
        ),
        (
            r#""component":{"name":"echo"},"settings":{"\u0000":"a"}"#.to_owned(),
            "settings.\0",
        ),
        (
            format!(
                r#""component":{{"name":"echo"}},"settings":{{"a":"{}"}}"#,
                "x".repeat(65_536)
            ),
            "settings",
        ),
        (
            r#""component":{"name":"echo"},"limits":[1,1,1,1,1,1,1,1,1,1]"#.to_owned(),
            "limits",
        ),
        (
            r#""component":{"name":"echo"},"limits":{"cpu":1}"#.to_owned(),
            "limits.cpu",
        ),
    ];
    let backends = ["null", "7", "\"\"", "\"Rten\"", r#"{"rten":null}"#, r#"["rten"]"#];
    let missing = [
        (
            r#""component":{"name":"nothing"}"#.to_owned(),
            "component_not_found",
        ),
        (
            format!(r#""component":{{"name":"echo","revision":"{digest}"}}"#),
            "component_not_found",
        ),
        (
            r#""graphs":{"g":{"name":"nothing"}}"#.to_owned(),
            "graph_not_found",
        ),
    ];
    let mut cases = Cases::default();
    let manage = &tenant.manage;
    for (path, name) in [
        ("/api/v1/deployments", r#""name":"d","#),
        ("/api/v1/deployments/echo/releases", ""),
    ] {
        for (members, field) in &wrong {
            let body = format!("{{{name}{members}}}");
            cases
                .json(manage, Method::POST, path, &body, invalid(field))
                .await;
        }
        for (members, code) in &missing {
            let body = format!("{{{name}{members}}}");
            cases
                .json(manage, Method::POST, path, &body, refused(404, code))
                .await;
        }
        for backend in backends {
            let body = format!(r#"{{{name}"component":{{"name":"echo"}},"backend":{backend}}}"#);
            cases
                .json(manage, Method::POST, path, &body, invalid("backend"))
                .await;
        }
        for limit in limits() {
            for value in [
                "0",
                "-1",
                "null",
                "1.5",
                "\"1\"",
                "18446744073709551615",
                "18446744073709551616",
            ] {
                let body =
                    format!(r#"{{{name}"component":{{"name":"echo"}},"limits":{{"{limit}":{value}}}}}"#);
                let field = format!("limits.{limit}");
                cases
                    .json(manage, Method::POST, path, &body, invalid(&field))
                    .await;
            }
        }
    }
    // Out of order: a release before its deployment.
    let body = r#"{"component":{"name":"echo"}}"#;
    let path = "/api/v1/deployments/nothing/releases";
    cases
        .json(
            manage,
            Method::POST,
            path,
            body,
            refused(404, "deployment_not_found"),
        )
        .await;
    cases.none();
    host.finish().await
}

fn limits() -> Vec<String> {
    let limits = serde_json::to_value(domain::Limits::default()).unwrap();
    limits.as_object().unwrap().keys().cloned().collect()
}
