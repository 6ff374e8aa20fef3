//! The log: JSON line by line, a call's lines carry its id, and nobody's secret is in it.

use std::process::Command;

use anyhow::Context as _;
use serde_json::{Value, json};
use tests::guests;
use tests::process::HostProcess;

#[tokio::test(flavor = "multi_thread")]
async fn a_calls_lines_have_its_id_and_no_line_has_a_secret() -> anyhow::Result<()> {
    let mut host = HostProcess::new()?;
    host.add_flags(&["--log-format", "json", "--log-filter", "trace"]);
    host.start("standard", None).await?;
    let bootstrap = host.bootstrap_key()?;
    let manager = host.manager().await?;
    let (wrong, setting) = ("wattle_hunter2hunter2hunter2hunter2", "hunter3-of-the-release");
    manager.push_component("logger", guests::guest("logger")?).await?;
    let body = json!({
        "name": "logger", "component": { "name": "logger" },
        "settings": { "token": setting }, "limits": { "log_bytes": 10_000 },
    });
    manager.post("/api/v1/deployments", &body).await?.expect(201)?;
    let call = |count: u64| json!({ "inputs": [], "parameters": { "count": count } });
    let path = "/v2/models/logger/infer";
    let answered = manager.post(path, &call(3)).await?;
    let stopped = manager.post(path, &call(1_000)).await?;
    assert_eq!(
        (answered.status, stopped.status),
        (200, 422),
        "{} {}",
        answered.body,
        stopped.body
    );
    for secret in [wrong, &bootstrap] {
        assert_eq!(manager.with_key(secret).post(path, &call(1)).await?.status, 401);
    }
    let key = manager.key().context("a key")?.to_owned();
    host.terminate().await?;

    let log = host.whole_log();
    for secret in [wrong, setting, &bootstrap, &key] {
        let found = log.lines().find(|line| line.contains(secret));
        assert_eq!(found, None, "a secret is in the log");
    }
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
        .collect::<Result<_, _>>()?;
    let (answered, stopped) = (
        answered.receipt.context("a receipt")?,
        stopped.receipt.context("a receipt")?,
    );
    let of = |receipt: &str| lines.iter().filter(|line| line["invocation"] == *receipt).count();
    let noted = |receipt: &str| {
        let mut notes = lines.iter().filter(|line| line["target"] == "guest");
        notes
            .by_ref()
            .filter(|line| line["invocation"] == *receipt && line["text"].is_string())
            .count()
    };
    assert_eq!(noted(&answered), 3, "what the guest wrote");
    assert!(
        of(&answered) >= 3 && of(&stopped) > noted(&stopped),
        "what the host says of a stopped call"
    );
    for line in &lines {
        assert!(
            line["timestamp"].is_string() && line["level"].is_string(),
            "{line}"
        );
        assert!(
            line["target"] != "guest" || line["invocation"].is_string(),
            "{line}"
        );
    }
    Ok(())
}

#[test]
fn the_databases_password_is_in_no_message() -> anyhow::Result<()> {
    let data = tempfile::tempdir()?;
    let output = Command::new(guests::wattle()?)
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
            "--log-filter",
            "trace",
        ])
        .args(["--meter-root", &format!("test-{}", uuid::Uuid::new_v4().simple())])
        .arg("--data")
        .arg(data.path())
        .env("DATABASE_URL", "postgres://host:hunter4@127.0.0.1:1/wattle")
        .env(
            "DATABASE_OWNER_URL",
            "postgres://owner:hunter5@127.0.0.1:1/wattle",
        )
        .output()?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said)?;
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("the database could not be opened") && !said.contains("hunter"),
        "{said}"
    );
    Ok(())
}
