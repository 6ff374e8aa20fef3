//! Lists, read page by page and with their filters.

use anyhow::Context as _;
use serde_json::{Value, json};
use tests::client::problem;
use tests::host::Tenant;
use tests::{Client, TestHost, guests};

fn fields<'a>(items: &'a [Value], field: &str) -> Vec<&'a str> {
    items.iter().filter_map(|item| item[field].as_str()).collect()
}

/// Three components, graphs and deployments of two uploads and two releases each.
async fn furnish(tenant: &Tenant) -> anyhow::Result<()> {
    let echo = guests::guest("echo")?;
    // A custom section of its own makes other bytes of the same component.
    let twin = [&echo[..], &[0, 3, 1, b't', 0]].concat();
    let models = [guests::model("tabular.onnx")?, guests::model("magika.onnx")?];
    for name in ["a", "b-1", "b-2"] {
        for bytes in [&echo, &twin] {
            tenant.manage.push_component(name, bytes.clone()).await?;
        }
        for bytes in &models {
            tenant.manage.push_graph(name, bytes.clone()).await?;
        }
        let release = json!({ "component": { "name": name } });
        let mut deployment = release.clone();
        deployment["name"] = json!(name);
        tenant
            .manage
            .post("/api/v1/deployments", &deployment)
            .await?
            .expect(201)?;
        let path = format!("/api/v1/deployments/{name}/releases");
        tenant.manage.post(&path, &release).await?.expect(201)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_list_is_read_page_by_page() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    let other = host.tenant("banksia").await?;
    furnish(&tenant).await?;
    let read = &tenant.read;
    let lists: [(&Client, &str, usize); 9] = [
        (&host.admin, "/api/v1/tenants", 2),
        (&host.admin, "/api/v1/keys", 7),
        (read, "/api/v1/components", 3),
        (read, "/api/v1/components/a/revisions", 2),
        (read, "/api/v1/graphs", 3),
        (read, "/api/v1/graphs/a/versions", 2),
        (read, "/api/v1/deployments", 3),
        (read, "/api/v1/deployments/a/releases", 2),
        (&host.admin, "/api/v1/audit", 27),
    ];
    for (client, path, count) in lists {
        let (whole, pages) = client.pages(path, 500).await?;
        assert_eq!((whole.len(), pages), (count, 1), "{path}");
        // A page that ends with the list's last row has no next.
        for limit in [1, count] {
            let (all, pages) = client.pages(path, limit).await?;
            assert_eq!(all, whole, "{path} by {limit}");
            assert_eq!(pages, count / limit, "{path} by {limit}");
        }
    }
    let (releases, _) = read.pages("/api/v1/deployments/a/releases", 1).await?;
    assert_eq!(
        (&releases[0]["release"], &releases[1]["release"]),
        (&json!(2), &json!(1))
    );
    for path in [
        "/api/v1/components/a/revisions",
        "/api/v1/graphs/a/versions",
        "/api/v1/deployments/a/releases",
    ] {
        other.read.get(path).await?.expect(404)?;
    }
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_is_good_for_its_own_list() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let (one, two) = (host.tenant("acacia").await?, host.tenant("banksia").await?);
    for tenant in [&one, &two] {
        for name in ["a", "b"] {
            tenant.manage.push_component(name, guests::guest("echo")?).await?;
        }
    }
    let page = one.read.get("/api/v1/components?limit=1").await?.expect(200)?;
    let cursor = page["next"].as_str().context("a next page")?;
    for (client, path) in [
        (&one.read, "/api/v1/deployments"),
        (&one.read, "/api/v1/components/a/revisions"),
        (&one.read, "/api/v1/receipts"),
        (&host.admin, "/api/v1/tenants"),
        (&host.admin, "/api/v1/ledger/windows"),
    ] {
        let answer = client.get(&format!("{path}?cursor={cursor}")).await?;
        problem(&answer, 422, "invalid_field")?;
        assert_eq!(answer.body["field"], "cursor", "{path}: {}", answer.body);
    }
    // It is a place and no right: another tenant stands at the same place among its own.
    let theirs = two
        .read
        .get(&format!("/api/v1/components?cursor={cursor}"))
        .await?;
    let theirs = theirs.expect(200)?;
    assert_eq!(
        fields(theirs["items"].as_array().context("items")?, "component"),
        ["b"]
    );
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_list_does_not_know_is_refused_by_name() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    let cases = [
        (&host.admin, "/api/v1/tenants?status=asleep", "status"),
        (&host.admin, "/api/v1/tenants?limit=0", "limit"),
        (&host.admin, "/api/v1/tenants?limit=501", "limit"),
        (&host.admin, "/api/v1/tenants?limit=many", "limit"),
        (&host.admin, "/api/v1/tenants?cursor=", "cursor"),
        (&host.admin, "/api/v1/tenants?prefix=A", "prefix"),
        (&host.admin, "/api/v1/tenants?colour=red", "colour"),
        (&host.admin, "/api/v1/keys?role=king", "role"),
        (&host.admin, "/api/v1/keys?revoked=maybe", "revoked"),
        (&host.admin, "/api/v1/keys?tenant=acacia", "tenant"),
        (&tenant.read, "/api/v1/components?name=a", "name"),
        (&tenant.read, "/api/v1/receipts?outcome=sad", "outcome"),
        (&tenant.read, "/api/v1/receipts?kind=train", "kind"),
        (&tenant.read, "/api/v1/receipts?from=yesterday", "from"),
        (&tenant.read, "/api/v1/audit?action=tenant.rename", "action"),
        (&tenant.read, "/api/v1/usage?to=2026-11-24T00:30:00Z", "to"),
        (&tenant.read, "/api/v1/usage?group_by=day,hour", "group_by"),
        (&tenant.read, "/api/v1/usage?group_by=", "group_by"),
        (&tenant.read, "/api/v1/usage?group_by=graph", "group_by"),
        (
            &tenant.read,
            "/api/v1/usage/graphs?from=2026-11-24T00:30:00Z",
            "from",
        ),
        (&tenant.read, "/api/v1/usage/graphs?group_by=kind", "group_by"),
        (
            &tenant.read,
            "/api/v1/usage/graphs?group_by=day,graph,hour",
            "group_by",
        ),
        (&tenant.read, "/api/v1/usage/graphs?graph=net", "graph"),
    ];
    for (client, path, field) in cases {
        let answer = client.get(path).await?;
        problem(&answer, 422, "invalid_field")?;
        assert_eq!(answer.body["field"], field, "{path}: {}", answer.body);
    }
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_leave_in_what_they_name() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    host.tenant("banksia").await?;
    tenant.deploy("echo", &[], json!({})).await?;
    tenant.deploy("trap", &[], json!({})).await?;
    let inputs = json!([{ "name": "x", "shape": [2], "datatype": "FP32", "data": [1.5, -2.0] }]);
    let answer = tenant.invoke.infer("echo", inputs).await?;
    let receipt = answer.receipt.clone().context("a receipt")?;
    let first = host.final_receipt(&tenant.read, &receipt).await?;
    let trapped = tenant
        .invoke
        .infer("trap", json!([]))
        .await?
        .receipt
        .context("a receipt")?;
    host.final_receipt(&tenant.read, &trapped).await?;
    let at = first["started_at"].as_str().context("an instant")?;

    let count = async |client: &Client, path: &str| anyhow::Ok(client.pages(path, 500).await?.0.len());
    for (path, expected) in [
        ("/api/v1/tenants?status=active", 2),
        ("/api/v1/tenants?status=closed", 0),
        ("/api/v1/tenants?prefix=ban", 1),
        ("/api/v1/keys?role=admin", 1),
        ("/api/v1/keys?role=tenant%3Aread&revoked=false", 2),
        ("/api/v1/keys?revoked=true", 0),
        (&format!("/api/v1/keys?tenant={}", tenant.id), 3),
    ] {
        assert_eq!(count(&host.admin, path).await?, expected, "{path}");
    }
    for (path, expected) in [
        ("/api/v1/deployments?prefix=e", 1),
        ("/api/v1/components?prefix=t", 1),
        ("/api/v1/receipts?deployment=echo", 2),
        ("/api/v1/receipts?deployment=echo&kind=infer", 1),
        ("/api/v1/receipts?kind=publish", 2),
        ("/api/v1/receipts?outcome=trapped", 1),
        ("/api/v1/receipts?outcome=cancelled", 0),
        (&format!("/api/v1/receipts?from={at}"), 2),
        (&format!("/api/v1/receipts?to={at}"), 4),
        (&format!("/api/v1/receipts?from={at}&to={at}"), 0),
    ] {
        assert_eq!(count(&tenant.read, path).await?, expected, "{path}");
    }
    host.finish().await
}
