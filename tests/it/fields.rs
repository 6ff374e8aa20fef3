//! Every place of a request, filled wrongly: the answer is a problem that names the place, and never a 500.

use anyhow::{Context as _, ensure};
use reqwest::{Method, RequestBuilder};
use serde_json::json;
use tests::client::{Answer, problem};
use tests::{Client, TestHost};

/// What a wrong request must be answered.
struct Wanted<'a> {
    status: u16,
    code: &'a str,
    field: Option<&'a str>,
}

fn invalid(field: &str) -> Wanted<'_> {
    Wanted {
        status: 422,
        code: "invalid_field",
        field: Some(field),
    }
}

fn refused(status: u16, code: &str) -> Wanted<'_> {
    Wanted {
        status,
        code,
        field: None,
    }
}

/// What differs from what was wanted.
fn judge(answer: &Answer, wanted: &Wanted<'_>) -> anyhow::Result<()> {
    let detail = problem(answer, wanted.status, wanted.code)?;
    let field = answer.body["field"].as_str();
    ensure!(
        field == wanted.field,
        "it names {field:?} instead of {:?}: {detail}",
        wanted.field
    );
    if let Some(field) = wanted.field {
        ensure!(detail.starts_with(&format!("{field}: ")), "{detail}");
    }
    Ok(())
}

/// Sends each request and tells of all that were answered wrongly.
#[derive(Default)]
struct Cases(Vec<String>);

impl Cases {
    async fn send(&mut self, caller: &Client, name: &str, request: RequestBuilder, wanted: Wanted<'_>) {
        let judged = async { judge(&caller.send(request).await?, &wanted) }.await;
        if let Err(error) = judged {
            let name: String = name.chars().take(160).collect();
            self.0.push(format!("{name}: {error}"));
        }
    }

    async fn json(&mut self, caller: &Client, method: Method, path: &str, body: &str, wanted: Wanted<'_>) {
        let name = format!("{method} {path} {body}");
        let request = caller.request(method, path);
        let request = request
            .header("content-type", "application/json")
            .body(body.to_owned());
        self.send(caller, &name, request, wanted).await;
    }

    fn none(self) {
        assert!(self.0.is_empty(), "{:#?}", self.0);
    }
}

const NOTHING: &str = "00000000-0000-7000-8000-000000000000";

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
    for list in ["/api/v1/receipts", "/api/v1/ledger/windows"] {
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
