//! Requests made from the API's document by Schemathesis, valid and not, in the three ways to be known to
//! the host. Whatever it says is wrong with the host or with the document.

use std::process::Stdio;

use anyhow::{Context as _, ensure};
use serde_json::json;
use tests::guests::workspace;
use tests::host::Tenant;
use tests::{Client, TestHost};

/// Fixed, so that a run finds what the run before found.
const SEED: &str = "1";
/// Requests at most for each route in the phase that makes them up; what can be counted out comes whole.
const EXAMPLES: &str = "10";

/// Runs every check against the host as `caller`.
async fn check(caller: &Client) -> anyhow::Result<()> {
    let folder = workspace().join(".tools/schemathesis");
    let program = folder.join("bin/schemathesis");
    ensure!(
        program.exists(),
        "{} is missing: run cargo xtask schemathesis",
        program.display()
    );
    let scratch = tempfile::tempdir()?;
    let mut command = tokio::process::Command::new("python3");
    command
        .env("PYTHONPATH", &folder)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        // It keeps what it found before; a run must not depend on that.
        .current_dir(&scratch)
        .arg(program)
        .arg("--config-file")
        .arg(workspace().join("tests/schemathesis/config.toml"))
        .args([
            "run",
            "--checks",
            "all",
            "--no-color",
            "--seed",
            SEED,
            "--max-examples",
            EXAMPLES,
        ])
        .arg(caller.url("/api/openapi.json"))
        .stdin(Stdio::null())
        .kill_on_drop(true);
    if let Some(key) = caller.key() {
        command
            .arg("--header")
            .arg(format!("Authorization: Bearer {key}"));
    }
    let output = command.output().await.context("python3 does not start")?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    // Requests were made, and judged.
    ensure!(said.contains("Stateful (in"), "{said}");
    Ok(())
}

/// A tenant with a deployment under the name that the document has for an example.
async fn acacia(host: &TestHost) -> anyhow::Result<Tenant> {
    let tenant = host.tenant("acacia").await?;
    tenant.deploy("echo", &[], json!({ "name": "filetype" })).await?;
    Ok(tenant)
}

#[tokio::test(flavor = "multi_thread")]
async fn as_an_admin() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    acacia(&host).await?;
    check(&host.admin).await?;
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn as_a_tenant() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = acacia(&host).await?;
    check(&tenant.manage).await?;
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn as_anyone() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    acacia(&host).await?;
    check(&host.admin.anonymous()).await?;
    host.finish().await
}
