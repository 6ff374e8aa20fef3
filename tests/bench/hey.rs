//! Load by Debian's `hey`, which shares the machine with what it loads.

use std::path::Path;

use anyhow::{Context as _, ensure};
use serde_json::Value;

/// Connections that call at once, each as soon as it has its answer.
pub const CONNECTIONS: u32 = 16;

/// What `hey` saw.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Calls that were answered, all of them with 200.
    pub calls: u64,
    /// Calls a second.
    pub rps: f64,
    /// Milliseconds that half of the calls took at most.
    pub p50_ms: f64,
    /// Milliseconds that 99 in a hundred calls took at most.
    pub p99_ms: f64,
}

/// A call with one input of FP32, its members in the order of V2's own examples, which clients keep: the elements come
/// behind their type, so that they can be read at once.
pub fn call(name: &str, shape: &[u32], data: &Value) -> String {
    format!(r#"{{"inputs":[{{"name":"{name}","shape":{shape:?},"datatype":"FP32","data":{data}}}]}}"#)
}

/// Posts the JSON in `body` to `url` for some seconds, with a bearer key if the server wants one.
pub async fn hey(url: &str, key: Option<&str>, body: &Path, seconds: u64) -> anyhow::Result<Load> {
    let mut command = tokio::process::Command::new("hey");
    command
        .args([
            "-z",
            &format!("{seconds}s"),
            "-c",
            &CONNECTIONS.to_string(),
            "-m",
            "POST",
        ])
        .args(["-T", "application/json", "-D"])
        .arg(body);
    if let Some(key) = key {
        command.args(["-H", &format!("authorization: Bearer {key}")]);
    }
    let output = command.arg(url).output().await;
    let output = output.context("hey did not start: apt-get install hey")?;
    load(&String::from_utf8_lossy(&output.stdout))
}

fn load(report: &str) -> anyhow::Result<Load> {
    let statuses = report.split("Status code distribution:").nth(1);
    let statuses = statuses.unwrap_or_default();
    let good = statuses.matches('[').count() == 1;
    let calls = statuses
        .split_once("[200]")
        .and_then(|(_, rest)| rest.split_whitespace().next())
        .and_then(|calls| calls.parse().ok());
    let (true, Some(calls)) = (good, calls) else {
        anyhow::bail!("not all 200:\n{report}");
    };
    ensure!(calls > 0, "no calls:\n{report}");
    let line = |what: &str| {
        let line = report.lines().find(|line| line.contains(what));
        line.with_context(|| format!("hey's report has no '{what}'"))
    };
    // `  99% in 0.0117 secs`
    let milliseconds = |what: &str| {
        let seconds = line(what)?.split_whitespace().nth(2).unwrap_or_default();
        anyhow::Ok(seconds.parse::<f64>()? * 1e3)
    };
    let rps = line("Requests/sec")?.split_whitespace().last();
    Ok(Load {
        calls,
        rps: rps.unwrap_or_default().parse()?,
        p50_ms: milliseconds("50% in")?,
        p99_ms: milliseconds("99% in")?,
    })
}
