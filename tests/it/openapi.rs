//! The API's document and the page that shows it.

use anyhow::Context as _;
use serde_json::{Value, json};
use tests::TestHost;

/// Every reference in a document.
fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            found.extend(members.get("$ref").and_then(Value::as_str).map(str::to_owned));
            members.values().for_each(|member| references(member, found));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_is_whole() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let document = host
        .admin
        .anonymous()
        .get("/api/openapi.json")
        .await?
        .expect(200)?;
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["security"], json!([{ "key": [] }]));
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 100, "{} references", found.len());
    let dangling = |path: &&String| document.pointer(path.trim_start_matches('#')).is_none();
    assert_eq!(
        found.iter().filter(dangling).collect::<Vec<_>>(),
        Vec::<&String>::new()
    );

    let mut ids = Vec::new();
    for (path, methods) in document["paths"].as_object().context("paths")? {
        for (method, operation) in methods.as_object().context("methods")? {
            let name = format!("{method} {path}");
            ids.push(
                operation["operationId"]
                    .as_str()
                    .context(name.clone())?
                    .to_owned(),
            );
            assert!(operation["summary"].is_string(), "{name} has no summary");
            assert_eq!(operation["tags"].as_array().context("tags")?.len(), 1, "{name}");
            for (status, response) in operation["responses"].as_object().context("responses")? {
                let said = response["$ref"].is_string()
                    || response["description"].as_str().is_some_and(|d| !d.is_empty());
                assert!(said, "{name} does not say what {status} is");
            }
        }
    }
    let count = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), count, "an operation's id stands twice");
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_needs_no_other_server() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let anyone = host.admin.anonymous();
    let file = async |path: &str| {
        let request = anyone.request(reqwest::Method::GET, path);
        anyhow::Ok(request.send().await?.error_for_status()?.text().await?)
    };
    // By way of the redirection that a reader without the slash gets.
    let page = file("/docs").await?;
    assert!(!page.contains("://"), "{page}");
    for name in [
        "swagger-ui.css",
        "swagger-ui-bundle.js",
        "swagger-ui-standalone-preset.js",
    ] {
        assert!(page.contains(name), "{page}");
        assert!(file(&format!("/docs/{name}")).await?.len() > 10_000, "{name}");
    }
    let script = file("/docs/swagger-initializer.js").await?;
    assert!(script.contains("\"/api/openapi.json\""), "{script}");
    assert!(script.contains("\"validatorUrl\": \"none\""), "{script}");
    host.finish().await
}
