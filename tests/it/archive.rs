//! Old receipt lines leave the database for the blob store; receipts, proofs and checks find them there.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use db::{PostingInsert, PostingKey};
use domain::proof::ReceiptProof;
use domain::{Epoch, NodeId, TenantId};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use tests::client::problem;
use tests::host::Tenant;
use tests::process::{self, HostProcess};
use tests::{Client, TestHost, guests};
use wattle::flow::archived::Lines;
use wattle::flow::collect::collect;

/// What `wattle … --json` says, and its exit code.
async fn told(host: &TestHost, args: &[&str]) -> anyhow::Result<(i32, Value)> {
    let (url, key) = (host.admin.url(""), host.admin.key().context("a key")?);
    let mut command = tokio::process::Command::new(guests::wattle()?);
    command.args(args).args(["--json", "--url", &url, "--key", key]);
    let output = command.env_clear().output().await?;
    let said = serde_json::from_slice(&output.stdout);
    let said = said.with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    Ok((output.status.code().context("no exit code")?, said))
}

fn echo() -> Value {
    json!([{ "name": "x", "shape": [2], "datatype": "FP32", "data": [1.5, -2.0] }])
}

/// Waits until a checkpoint covers a receipt, and gives the receipt.
async fn covered(reader: &Client, id: &str) -> anyhow::Result<Value> {
    for _ in 0..600 {
        let receipt = reader.get(&format!("/api/v1/receipts/{id}")).await?;
        if receipt.body["checkpoint"].is_u64() {
            return receipt.expect(200);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    anyhow::bail!("no checkpoint covers receipt {id}")
}

async fn lines_left(url: &str) -> anyhow::Result<i64> {
    let mut owner = PgConnection::connect(url).await?;
    let lines = sqlx::query_scalar("select count(*) from receipt_line")
        .fetch_one(&mut owner)
        .await?;
    owner.close().await?;
    Ok(lines)
}

/// Asks until all lines are old enough and have left: what the last pass did.
async fn archived(admin: &Client, owner_url: &str) -> anyhow::Result<Value> {
    for _ in 0..50 {
        let passed = admin
            .post("/api/v1/ledger/archives", &json!({}))
            .await?
            .expect(201)?;
        if lines_left(owner_url).await? == 0 {
            return Ok(passed);
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    anyhow::bail!("receipt lines stay")
}

/// A tenant with a call that a checkpoint covers: its receipt.
async fn called(host: &TestHost, name: &str) -> anyhow::Result<(Tenant, Value)> {
    let tenant = host.tenant(name).await?;
    tenant.deploy("echo", &[], json!({})).await?;
    let called = tenant.invoke.infer("echo", echo()).await?;
    let id = called.receipt.context("a receipt")?;
    let receipt = covered(&tenant.read, &id).await?;
    Ok((tenant, receipt))
}

/// The file of the only archive.
async fn blob(host: &TestHost) -> anyhow::Result<PathBuf> {
    let (archives, _) = host.admin.pages("/api/v1/ledger/archives", 9).await?;
    let [archive] = &archives[..] else {
        anyhow::bail!("{archives:?}");
    };
    let digest = archive["digest"].as_str().context("a digest")?;
    let hex = digest.trim_start_matches("sha256:");
    Ok(host.data().join(format!("blobs/sha256/{}/{hex}", &hex[..2])))
}

const HOT: [&str; 4] = ["--receipts-hot-s", "1", "--checkpoint-s", "1"];

#[tokio::test(flavor = "multi_thread")]
async fn what_is_archived_is_found_proven_and_checked_as_before() -> anyhow::Result<()> {
    let host = TestHost::start_with(&HOT).await?;
    let (tenant, receipt) = called(&host, "acacia").await?;
    let (other, _) = called(&host, "banksia").await?;
    let id = receipt["id"].as_str().context("an id")?;
    let path = format!("/api/v1/receipts/{id}");
    let proof = tenant.read.get(&format!("{path}/proof")).await?.expect(200)?;
    let before = lines_left(&host.owner_url).await?;
    ensure!(before >= 6, "publish, deploy and call of two tenants: {before}");

    let (code, passed) = told(&host, &["ledger", "archive"]).await?;
    assert_eq!(code, 0, "{passed}");
    archived(&host.admin, &host.owner_url).await?;
    let (code, listed) = told(&host, &["ledger", "archives"]).await?;
    let lines = listed["items"].as_array().context("items")?.iter();
    let lines: i64 = lines.filter_map(|item| item["lines"].as_i64()).sum();
    assert_eq!((code, lines), (0, before), "{listed}");

    assert_eq!(tenant.read.get(&path).await?.expect(200)?, receipt);
    problem(&other.read.get(&path).await?, 404, "receipt_not_found")?;
    let again = tenant.read.get(&format!("{path}/proof")).await?.expect(200)?;
    assert_eq!(again, proof);
    let keys = host.admin.get("/api/v1/ledger/keys").await?.expect(200)?;
    let signer = keys["items"][0]["key"].as_str().context("a key")?.parse()?;
    serde_json::from_value::<ReceiptProof>(again)?.verify(&[signer])?;
    let hot = tenant.read.get("/api/v1/receipts").await?.expect(200)?;
    assert_eq!(hot["items"], json!([]), "the list has what is in the database");

    let (code, said) = told(&host, &["ledger", "verify"]).await?;
    assert_eq!((code, &said["verified"]), (0, &json!(true)), "{said}");
    let check = host.admin.get("/api/v1/ledger/check").await?.expect(200)?;
    assert_eq!(
        (&check["gap_uj"], &check["mismatches"], &check["usage_mismatches"]),
        (&json!(0), &json!(0), &json!(0)),
        "{check}"
    );
    assert_eq!(check["archive_faults"], json!([]), "{check}");

    // Nothing is left to do; each time that an admin asked is in the trail.
    let passed = host
        .admin
        .post("/api/v1/ledger/archives", &json!({}))
        .await?
        .expect(201)?;
    assert_eq!((&passed["archives"], &passed["dropped"]), (&json!(0), &json!(0)));
    let (trail, _) = host
        .admin
        .pages("/api/v1/audit?action=ledger.archive", 99)
        .await?;
    ensure!(trail.len() >= 3, "{trail:?}");

    // What was posted is known, and is not posted again.
    let posting = &receipt["lines"][0]["posting"];
    let key = PostingKey {
        node: NodeId(posting["node"].as_str().context("a node")?.parse()?),
        epoch: Epoch(posting["epoch"].as_str().context("an epoch")?.parse()?),
        seq: posting["seq"].as_u64().context("a number")?,
    };
    let mut tx = host.app.db.billing_tx().await?;
    let posting = tx.posting_get(key).await?.context("a posting")?;
    let posting = Lines::of(&host.app.blobs).whole(&mut tx, posting).await?;
    drop(tx);
    ensure!(!posting.lines.is_empty());
    let mut tx = host.app.db.writer_tx().await?;
    assert_eq!(tx.posting_insert(&posting).await?, PostingInsert::Exists);
    tx.commit().await?;
    assert_eq!(lines_left(&host.owner_url).await?, 0);
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_is_gone_or_altered_is_named() -> anyhow::Result<()> {
    let host = TestHost::start_with(&HOT).await?;
    let (tenant, receipt) = called(&host, "acacia").await?;
    let id = receipt["id"].as_str().context("an id")?;
    let path = format!("/api/v1/receipts/{id}");
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    archived(&host.admin, &host.owner_url).await?;
    let blob = blob(&host).await?;
    // The collector leaves it alone, whatever its age.
    collect(&host.app, Duration::ZERO).await?;
    let bytes = std::fs::read(&blob)?;
    let mut altered = bytes.clone();
    let middle = altered.len() / 2;
    altered[middle] ^= 1;

    for (file, code, word) in [
        (Some(&altered), "archive_damaged", "another digest"),
        (None, "archive_missing", "has no sha256:"),
    ] {
        match file {
            Some(bytes) => std::fs::write(&blob, bytes)?,
            None => std::fs::remove_file(&blob)?,
        }
        for path in [&path, &format!("{path}/proof")] {
            let detail = problem(&tenant.read.get(path).await?, 500, code)?;
            ensure!(detail.contains("archive 1 ") && detail.contains(word), "{detail}");
        }
        let (exit, said) = told(&host, &["ledger", "verify"]).await?;
        let fault = &said["fault"];
        assert_eq!(
            (exit, &fault["row"], &fault["code"]),
            (1, &json!("archive 1"), &json!(code)),
            "{said}"
        );
        let check = host.admin.get("/api/v1/ledger/check").await?.expect(200)?;
        let faults = &check["archive_faults"];
        assert_eq!(
            (&faults[0]["archive"], &faults[0]["code"]),
            (&json!(1), &json!(code)),
            "{check}"
        );
        let (exit, _) = told(&host, &["ledger", "check"]).await?;
        assert_eq!(exit, 1);
    }
    std::fs::write(&blob, &bytes)?;
    assert_eq!(tenant.read.get(&path).await?.expect(200)?, receipt);

    // What the ledger keeps of it is held against it, too.
    let mut owner = PgConnection::connect(&host.owner_url).await?;
    for statement in [
        "set session_replication_role = replica",
        "update archive_sum set fuel = fuel + 1 where posting = (select max(posting) from archive_sum) and ordinal = 0",
    ] {
        sqlx::raw_sql(statement).execute(&mut owner).await?;
    }
    let check = host.admin.get("/api/v1/ledger/check").await?.expect(200)?;
    assert_eq!(check["archive_faults"][0]["code"], "archive_damaged", "{check}");
    assert_eq!(check["mismatches"], 1, "{check}");
    sqlx::raw_sql(
        "update archive_sum set fuel = fuel - 1 where posting = (select max(posting) from archive_sum) and ordinal = 0",
    )
    .execute(&mut owner)
    .await?;
    owner.close().await?;
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_into_archives_waits_for_the_tenants_own_turn() -> anyhow::Result<()> {
    let host = TestHost::start_with(&HOT).await?;
    let (tenant, receipt) = called(&host, "acacia").await?;
    let (other, others) = called(&host, "banksia").await?;
    archived(&host.admin, &host.owner_url).await?;
    let path = |receipt: &Value| {
        let id = receipt["id"].as_str().context("an id")?;
        anyhow::Ok(format!("/api/v1/receipts/{id}"))
    };
    let id = TenantId(tenant.id.parse()?);
    let turns = [
        host.app.admission.read(Some(id)).await?,
        host.app.admission.read(Some(id)).await?,
    ];
    let (reader, own) = (tenant.read.clone(), path(&receipt)?);
    let waiting = tokio::spawn(async move { reader.get(&own).await });
    for _ in 0..20 {
        let answer = other.read.get(&path(&others)?).await?;
        assert_eq!(answer.expect(200)?, others, "another tenant waits for nobody");
    }
    assert!(!waiting.is_finished(), "a third look has to wait");
    drop(turns);
    assert_eq!(waiting.await??.expect(200)?, receipt);
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_between_the_steps_loses_nothing_and_is_made_good() -> anyhow::Result<()> {
    let mut host = HostProcess::new()?;
    let played = killed(&mut host).await;
    if played.is_err() {
        eprintln!("the hosts' last words:\n{}", host.log_tail());
    }
    played
}

async fn killed(host: &mut HostProcess) -> anyhow::Result<()> {
    host.add_flags(&["--receipts-hot-s", "1"]);
    host.start("standard", None).await?;
    let admin = host.admin().await?.key().context("a key")?.to_owned();
    let caller = process::tenant(&host.client(Some(&admin))?, "acacia").await?;
    let caller = caller.key().context("a key")?.to_owned();
    host.client(Some(&caller))?.deploy("echo", &[], json!({})).await?;
    for point in ["archive-written:1", "archived:1"] {
        let answer = host.client(Some(&caller))?.infer("echo", echo()).await?;
        let id = answer.receipt.context("a receipt")?;
        host.terminate().await?;
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        host.start("standard", Some(point)).await?;
        let before = lines_left(&host.owner_url()?).await?;
        ensure!(before > 0);
        let asked = host.client(Some(&admin))?;
        let cut_off = asked.post("/api/v1/ledger/archives", &json!({})).await;
        ensure!(cut_off.is_err(), "{cut_off:?}");
        host.until_killed().await?;

        host.start("standard", None).await?;
        let (admin, caller) = (host.client(Some(&admin))?, host.client(Some(&caller))?);
        assert_eq!(lines_left(&host.owner_url()?).await?, before, "{point}");
        let check = admin.get("/api/v1/ledger/check").await?.expect(200)?;
        let sound = |check: &Value| {
            let counts = ["gap_uj", "mismatches", "usage_mismatches"].map(|name| check[name].as_u64());
            counts == [Some(0); 3] && check["archive_faults"] == json!([])
        };
        ensure!(sound(&check), "{check}");
        let path = format!("/api/v1/receipts/{id}");
        let receipt = caller.get(&path).await?.expect(200)?;
        archived(&admin, &host.owner_url()?).await?;
        assert_eq!(caller.get(&path).await?.expect(200)?, receipt, "{point}");
        let check = admin.get("/api/v1/ledger/check").await?.expect(200)?;
        ensure!(sound(&check), "{check}");
        let verified = admin.get("/api/v1/ledger/verify/postings?limit=500").await?;
        assert_eq!(verified.expect(200)?["fault"], Value::Null);
    }
    host.terminate().await
}
