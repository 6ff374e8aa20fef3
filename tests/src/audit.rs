//! What must be true when a test ends.

use std::path::Path;
use std::sync::Arc;

use db::Cut;
use journal::Journal;
use wattle::app::App;
use wattle::flow::archived::{self, Lines};

/// The ledger against itself: no gap, no break, lines equal transfers, every posting is whole.
pub async fn ledger(app: &Arc<App>) -> anyhow::Result<Vec<String>> {
    let mut findings = Vec::new();
    let (_, faults) = archived::check(app).await?;
    findings.extend(faults.iter().map(|fault| format!("archive: {fault:?}")));
    let mut tx = app.db.billing_tx().await?;
    for gap in tx
        .ledger_gap()
        .await?
        .iter()
        .filter(|gap| gap.gap_uj != 0 || gap.breaks != 0)
    {
        findings.push(format!("gap: {gap:?}"));
    }
    findings.extend(
        tx.receipt_mismatches(10)
            .await?
            .iter()
            .map(|mismatch| format!("mismatch: {mismatch:?}")),
    );
    findings.extend(
        tx.chain_breaks(10)
            .await?
            .iter()
            .map(|found| format!("chain: {found:?}")),
    );
    if tx.default_rows().await? > 0 {
        findings.push("rows in a default partition".into());
    }
    let usage_mismatches = tx.usage_mismatches().await?;
    if usage_mismatches > 0 {
        findings.push(format!(
            "{usage_mismatches} hours of usage are not what their lines sum up to"
        ));
    }
    let correction_mismatches = tx.correction_mismatches().await?;
    if correction_mismatches > 0 {
        findings.push(format!(
            "{correction_mismatches} corrections are not what was asked for"
        ));
    }
    let (mut cut, mut lines) = (Cut::first(500), Lines::of(&app.blobs));
    loop {
        let page = tx.windows(&cut).await?;
        for window in page.items {
            match tx.posting_get(window.key).await? {
                None => findings.push(format!("posting {} is gone", window.key)),
                Some(posting) => {
                    if let Err(error) = lines.whole(&mut tx, posting).await?.verify() {
                        findings.push(format!("posting {}: {error}", window.key));
                    }
                }
            }
        }
        cut.after = page.next;
        if cut.after.is_none() {
            return Ok(findings);
        }
    }
}

/// The ledger against the meter: what the scripted counter counted up to the last reading is placed.
pub async fn meter(app: &Arc<App>, counter_uj: u64) -> anyhow::Result<Vec<String>> {
    let gaps = app.db.billing_tx().await?.ledger_gap().await?;
    let mut findings = Vec::new();
    if gaps.is_empty() {
        findings.push("nothing was posted".to_owned());
    }
    for gap in gaps
        .iter()
        .filter(|gap| gap.end_uj > counter_uj || gap.end_uj == gap.start_uj)
    {
        findings.push(format!(
            "the meter counted {counter_uj} µJ, the ledger says {gap:?}"
        ));
    }
    Ok(findings)
}

/// The journal: everything reached Postgres.
pub async fn journal(dir: &Path) -> anyhow::Result<Vec<String>> {
    let options = wattle::app::journal_options(&crate::host::flags(dir, &[])?);
    let (_journal, recovered) = Journal::open(dir, options)?;
    let mut findings = Vec::new();
    if !recovered.undrained.is_empty() {
        findings.push(format!("{} postings were not drained", recovered.undrained.len()));
    }
    if let Some(unsealed) = recovered.unsealed
        && (!unsealed.slices.is_empty() || !unsealed.finished.is_empty())
    {
        findings.push(format!(
            "{} slices and {} calls were not sealed",
            unsealed.slices.len(),
            unsealed.finished.len()
        ));
    }
    Ok(findings)
}
