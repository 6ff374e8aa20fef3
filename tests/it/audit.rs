//! The audit that ends every test sees what is wrong with a ledger, and names it.

use serde_json::json;
use sqlx::{Connection as _, Executor as _, Row as _};
use tests::TestHost;

/// The findings after one call, with the ledger changed behind the host's back. `change` gives the
/// epoch of the posting that it spoiled.
async fn findings_after(change: &'static str) -> anyhow::Result<(String, Vec<String>)> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    tenant.deploy("echo", &[], json!({})).await?;
    let inputs = json!([{ "name": "x", "shape": [2], "datatype": "FP32", "data": [1.5, -2.0] }]);
    let receipt = tenant.invoke.infer("echo", inputs).await?.receipt;
    let receipt = receipt.expect("a receipt");
    host.final_receipt(&tenant.read, &receipt).await?;

    let mut owner = sqlx::PgConnection::connect(&host.owner_url).await?;
    // As a superuser of ill will: without triggers, foreign keys and row-level security.
    owner.execute("set session_replication_role = replica").await?;
    let epoch = sqlx::query(change).fetch_one(&mut owner).await?.try_get(0)?;
    owner.close().await?;
    Ok((epoch, host.audit().await?))
}

fn names(findings: &[String], kind: &str, what: &str) -> bool {
    let found = |finding: &&String| finding.starts_with(kind) && finding.contains(what);
    findings.iter().any(|finding| found(&finding))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spoiled_counter_is_named() -> anyhow::Result<()> {
    let (epoch, findings) = findings_after(
        "update posting_root set end_uj = end_uj + 1
         where (node, epoch, seq, ordinal) =
             (select node, epoch, seq, ordinal from posting_root order by seq limit 1)
         returning epoch::text",
    )
    .await?;
    assert!(names(&findings, "posting", &epoch), "{findings:#?}");
    assert!(names(&findings, "gap", "breaks: 1"), "{findings:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spoiled_transfer_is_named() -> anyhow::Result<()> {
    let (epoch, findings) = findings_after(
        "update transfer set amount = amount + 1
         where (at, node, epoch, seq, ordinal) =
             (select at, node, epoch, seq, ordinal from transfer
              where kind = 'dynamic' and root is not null limit 1)
         returning epoch::text",
    )
    .await?;
    assert!(names(&findings, "posting", &epoch), "{findings:#?}");
    assert!(names(&findings, "gap", "gap_uj: 1"), "{findings:#?}");
    assert!(names(&findings, "mismatch", &epoch), "{findings:#?}");
    Ok(())
}
