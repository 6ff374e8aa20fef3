//! When windows end.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tests::TestHost;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::v2::{call, input, mirror};

/// Ten minutes to a window in slices of ten seconds, and claims enough after ten.
const CROWDED: [&str; 6] = [
    "--slice-ms",
    "10000",
    "--window-slices",
    "60",
    "--window-claims",
    "10",
];

#[tokio::test(flavor = "multi_thread")]
async fn many_calls_end_slices_and_windows_before_their_time() -> anyhow::Result<()> {
    let host = TestHost::start_with(&CROWDED).await?;
    let tenant = host.tenant("acacia").await?;
    let name = mirror(&tenant, "FP32", 1).await?;
    let body = input("FP32", &json!([1]), &json!([0.5]));
    // No window is shorter than a second.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (mut receipts, enough) = (Vec::new(), host.app.config.slice_calls());
    for _ in 0..enough + 20 {
        let answer = call(&tenant, &name, &body).await?;
        ensure!(answer.status == 200, "{}", answer.body);
        receipts.push(answer.receipt.context("a receipt")?);
    }
    for receipt in [&receipts[0], &receipts[enough - 4]] {
        let receipt = host.final_receipt(&tenant.read, receipt).await?;
        assert_eq!(receipt["outcome"], "ok", "{receipt}");
    }
    let [length] = lengths(&host).await?[..] else {
        anyhow::bail!("not one window");
    };
    // The first slice was over before the host was ready; the second would have been over after as long.
    assert!(length < Duration::from_secs(19), "{length}");
    host.finish().await
}

/// How long each window lasted.
async fn lengths(host: &TestHost) -> anyhow::Result<Vec<time::Duration>> {
    let windows = host.admin.get("/api/v1/ledger/windows").await?.expect(200)?;
    let at = |window: &Value, end: &str| -> anyhow::Result<OffsetDateTime> {
        Ok(OffsetDateTime::parse(
            window[end].as_str().context("a time")?,
            &Rfc3339,
        )?)
    };
    let windows = windows["items"].as_array().context("items")?;
    let lengths = windows
        .iter()
        .map(|window| Ok(at(window, "to")? - at(window, "from")?));
    lengths.collect()
}

/// Tenants see their windows' energy: in one that is shorter, they would see more of the node than is theirs.
#[tokio::test(flavor = "multi_thread")]
async fn no_window_is_shorter_than_a_second() -> anyhow::Result<()> {
    let brief = [
        "--slice-ms",
        "50",
        "--window-slices",
        "600",
        "--window-claims",
        "1",
    ];
    let host = TestHost::start_with(&brief).await?;
    let tenant = host.tenant("acacia").await?;
    let name = mirror(&tenant, "FP32", 1).await?;
    let body = input("FP32", &json!([1]), &json!([0.5]));
    for _ in 0..2 {
        let answer = call(&tenant, &name, &body).await?;
        let receipt = answer.receipt.context("a receipt")?;
        host.final_receipt(&tenant.read, &receipt).await?;
    }
    let lengths = lengths(&host).await?;
    ensure!(lengths.len() > 1, "{lengths:?}");
    let expected = |length: &time::Duration| (1.0..15.0).contains(&length.as_seconds_f64());
    ensure!(lengths.iter().all(expected), "{lengths:?}");
    host.finish().await
}
