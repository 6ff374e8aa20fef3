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

/// A posting that the ledger refuses is said, and stays in the journal with all after it.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_posting_is_said_and_kept() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    tenant.deploy("echo", &[], json!({})).await?;
    let inputs = json!([{ "name": "x", "shape": [2], "datatype": "FP32", "data": [1.5, -2.0] }]);
    let receipt = tenant.invoke.infer("echo", inputs.clone()).await?.receipt;
    host.final_receipt(&tenant.read, &receipt.expect("a receipt"))
        .await?;
    let mut owner = sqlx::PgConnection::connect(&host.owner_url).await?;
    // The key of a window that is still to come, with another content.
    let spoilt = owner.execute(
        "insert into posting (node, epoch, seq, kind, began_at, ended_at, fuel_schedule, input_digest,
             merkle_root, prev_hash, hash)
         select node, epoch, seq + 3, kind, began_at, ended_at, fuel_schedule, input_digest, merkle_root,
             sha256(hash), sha256(prev_hash)
         from posting order by id desc limit 1",
    );
    assert_eq!(spoilt.await?.rows_affected(), 1);
    owner.close().await?;

    let mut ready = host.ops.get("/readyz").await?;
    for _ in 0..600 {
        if ready.status == 503 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        ready = host.ops.get("/readyz").await?;
    }
    assert_eq!(
        (ready.status, ready.code()),
        (503, "ledger_refuses"),
        "{}",
        ready.body
    );
    let reason = ready.body["reason"].as_str().unwrap();
    assert!(reason.contains("another content"), "{reason}");
    let page = host
        .ops
        .request(reqwest::Method::GET, "/metrics")
        .send()
        .await?
        .text()
        .await?;
    assert!(page.contains("\nwattle_ledger_refuses 1\n"), "{page}");
    let check = host.admin.get("/api/v1/ledger/check").await?.expect(200)?;
    assert_eq!(check["refused"].as_str(), Some(reason));
    // It serves on.
    tenant.invoke.infer("echo", inputs).await?.expect(200)?;
    let findings = host.audit().await?;
    assert!(
        findings
            .iter()
            .any(|finding| finding.ends_with("postings were not drained")),
        "{findings:#?}"
    );
    assert!(
        !findings.iter().any(|finding| finding.contains("not sealed")),
        "{findings:#?}"
    );
    Ok(())
}

/// A journal that cannot be written seals nothing more, and calls are refused rather than run unrecorded.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_journal_refuses_calls() -> anyhow::Result<()> {
    let host = TestHost::start_with(&["--journal-max-mib", "1"]).await?;
    let tenant = host.tenant("acacia").await?;
    tenant.deploy("echo", &[], json!({})).await?;
    // The next segment has nowhere to go.
    std::fs::remove_dir_all(host.data().join("journal"))?;
    let inputs = json!([{ "name": "x", "shape": [2], "datatype": "FP32", "data": [1.5, -2.0] }]);
    let mut answered = 0;
    let refused = loop {
        let answer = tenant.invoke.infer("echo", inputs.clone()).await?;
        if answer.status != 200 {
            break answer;
        }
        answered += 1;
        assert!(answered < 20_000, "the journal goes on");
    };
    assert_eq!(refused.status, 503, "{}", refused.body);
    let refused = tenant.invoke.infer("echo", inputs).await?;
    assert_eq!((refused.status, refused.code()), (503, "journal_broken"));
    let ready = host.ops.get("/readyz").await?;
    assert_eq!((ready.status, ready.code()), (503, "journal_broken"));
    // What was sealed before is posted; nothing after it is, and the books of what is there balance.
    let findings = host.audit().await?;
    assert!(findings.is_empty(), "{findings:#?}");
    Ok(())
}
