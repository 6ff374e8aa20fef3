//! From a call to a proof that holds without the host, and the ledger that is verified around it.

use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use domain::account::Account;
use domain::posting::{Call, CallKind, Posting, PostingKind, ReceiptLine, Transfer, TransferKind, Unit};
use domain::proof::ReceiptProof;
use domain::{Digest, Epoch, InvocationId, NodeId, Outcome, PublicKey, TenantId, Usage};
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _, PgConnection};
use tests::client::problem;
use tests::{TestHost, guests};
use time::OffsetDateTime;
use uuid::Uuid;
use wattle::anchors::Anchors;

/// `wattle` with nothing of this machine's environment.
async fn wattle(args: &[&str]) -> anyhow::Result<Output> {
    let mut command = tokio::process::Command::new(guests::wattle()?);
    Ok(command.args(args).env_clear().output().await?)
}

/// What `wattle … --json` says, and its exit code.
async fn told(args: &[&str]) -> anyhow::Result<(i32, Value)> {
    let output = wattle(&[args, &["--json"]].concat()).await?;
    let said = serde_json::from_slice(&output.stdout);
    let said = said.with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    Ok((output.status.code().context("no exit code")?, said))
}

fn echo() -> Value {
    json!([{ "name": "x", "shape": [2], "datatype": "FP32", "data": [1.5, -2.0] }])
}

/// Waits until a checkpoint covers a receipt, and gives its number.
async fn covered(reader: &tests::Client, id: &str) -> anyhow::Result<u64> {
    for _ in 0..600 {
        let receipt = reader.get(&format!("/api/v1/receipts/{id}")).await?;
        if let Some(number) = receipt.body["checkpoint"].as_u64() {
            ensure!(receipt.body["state"] == "final", "{}", receipt.body);
            return Ok(number);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    anyhow::bail!("no checkpoint covers receipt {id}")
}

/// The public keys that the ledger lists, the oldest first.
pub async fn keys(caller: &tests::Client) -> anyhow::Result<Vec<PublicKey>> {
    let keys = caller.get("/api/v1/ledger/keys").await?.expect(200)?;
    let keys = keys["items"].as_array().context("items")?.iter();
    keys.map(|item| Ok(item["key"].as_str().context("a key")?.parse()?))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_is_proven_offline_and_to_its_tenant_alone() -> anyhow::Result<()> {
    let host = TestHost::start_with(&["--checkpoint-s", "1"]).await?;
    let (tenant, other) = (host.tenant("acacia").await?, host.tenant("banksia").await?);
    for tenant in [&tenant, &other] {
        tenant.deploy("echo", &[], json!({})).await?;
    }
    let (mine, theirs) = tokio::try_join!(
        tenant.invoke.infer("echo", echo()),
        other.invoke.infer("echo", echo())
    )?;
    let (mine, theirs) = (
        mine.receipt.context("a receipt")?,
        theirs.receipt.context("a receipt")?,
    );
    covered(&other.read, &theirs).await?;
    let number = covered(&tenant.read, &mine).await?;
    let path = format!("/api/v1/receipts/{mine}/proof");
    problem(&other.read.get(&path).await?, 404, "receipt_not_found")?;
    let proof = tenant.read.get(&path).await?.expect(200)?;

    // All that it says of others are digests.
    let text = proof.to_string();
    let node = host.app.node.to_string();
    for word in [&theirs, &other.id, "scripted", "roots", "transfers"] {
        ensure!(!text.contains(word), "{word} is in {text}");
    }
    ensure!(text.contains(&node));
    let parsed: ReceiptProof = serde_json::from_value(proof.clone())?;
    let signers = keys(&tenant.invoke).await?;
    let proven = parsed.verify(&signers)?;
    let receipt = tenant
        .read
        .get(&format!("/api/v1/receipts/{mine}"))
        .await?
        .expect(200)?;
    assert_eq!(receipt["checkpoint"], number);
    assert_eq!(json!(proven.energy_uj), receipt["energy_uj"]);
    assert_eq!(json!(proven.usage.fuel), receipt["fuel"]);
    assert_eq!(json!(proven.outcome), receipt["outcome"]);

    // The command line, without a host.
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("proof.json");
    let url = host.admin.url("");
    let read = tenant.read.key().context("a key")?;
    let name = file.display().to_string();
    let brought = wattle(&[
        "receipt", "proof", &mine, "--out", &name, "--url", &url, "--key", read,
    ])
    .await?;
    ensure!(brought.status.success(), "{brought:?}");
    let key = signers[0].to_string();
    let verify = ["receipt", "verify", &name, "--key", &key];
    let (code, said) = told(&verify).await?;
    assert_eq!((code, &said["proven"]), (0, &json!(true)), "{said}");
    assert_eq!(said["energy_uj"], receipt["energy_uj"]);
    let strange = PublicKey([9; 32]).to_string();
    let (code, said) = told(&["receipt", "verify", &name, "--key", &strange]).await?;
    assert_eq!((code, &said["proven"]), (1, &json!(false)));
    ensure!(
        said["fault"]
            .as_str()
            .unwrap()
            .contains("not a key that was given"),
        "{said}"
    );
    let mut changed = proof.clone();
    changed["lines"][0]["usage"]["fuel"] = json!(1);
    std::fs::write(&file, changed.to_string())?;
    let (code, said) = told(&verify).await?;
    assert_eq!(code, 1);
    ensure!(
        said["fault"]
            .as_str()
            .unwrap()
            .starts_with("line 0 is not in posting"),
        "{said}"
    );
    std::fs::write(&file, "{}")?;
    let (code, said) = told(&verify).await?;
    assert_eq!(code, 1);
    ensure!(
        said["fault"].as_str().unwrap().starts_with("it is no proof"),
        "{said}"
    );
    for wrong in [
        &["receipt", "verify", &name][..],
        &["receipt", "verify", &name, "--key", read],
    ] {
        let output = wattle(wrong).await?;
        let said = String::from_utf8(output.stderr)?;
        assert_eq!(output.status.code(), Some(2), "{said}");
        ensure!(said.contains("ed25519:") && !said.contains(read), "{said}");
    }
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_waits_for_the_checkpoint() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    tenant.deploy("echo", &[], json!({})).await?;
    let called = tenant.invoke.infer("echo", echo()).await?;
    let id = called.receipt.context("a receipt")?;
    let path = format!("/api/v1/receipts/{id}/proof");
    let early = tenant.read.get(&path).await?;
    ensure!(
        matches!(early.code(), "receipt_not_final" | "receipt_not_proven"),
        "{}",
        early.body
    );
    host.final_receipt(&tenant.read, &id).await?;
    let early = tenant.read.get(&path).await?;
    problem(&early, 409, "receipt_not_proven")?;
    ensure!(
        early.retry_after_s.is_some_and(|s| (1..=3_600).contains(&s)),
        "{early:?}"
    );
    let unknown = "/api/v1/receipts/00000000-0000-7000-8000-000000000000/proof";
    problem(&tenant.read.get(unknown).await?, 404, "receipt_not_found")?;
    problem(
        &tenant.read.get("/api/v1/receipts/x/proof").await?,
        404,
        "receipt_not_found",
    )?;
    // A pass of the host's own task makes the first one, and none more within the hour.
    for _ in 0..2 {
        wattle::flow::checkpoint::pass(&host.app).await?;
        assert_eq!(
            host.admin.pages("/api/v1/ledger/checkpoints", 9).await?.0.len(),
            1
        );
    }
    assert_eq!(covered(&tenant.read, &id).await?, 1);
    let started = Instant::now();
    tenant.read.get(&path).await?.expect(200)?;
    eprintln!("a proof took {:?}", started.elapsed());
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_long_answers_take_turns() -> anyhow::Result<()> {
    const SOON: Duration = Duration::from_millis(150);
    let host = TestHost::start().await?;
    let (tenant, other) = (host.tenant("acacia").await?, host.tenant("banksia").await?);
    let nothing = "00000000-0000-7000-8000-000000000000";
    let paths = [
        &format!("/api/v1/receipts/{nothing}/proof"),
        "/api/v1/receipts",
        "/api/v1/usage",
        "/api/v1/carbon",
        "/api/v1/audit",
        "/api/v1/audit/export",
        "/api/v1/ledger/valuations",
        "/api/v1/ledger/charges",
        "/api/v1/ledger/periods/2026-01/export",
    ];
    let own = Some(tenant.id.parse()?);
    let turns = [
        host.app.admission.read(own).await?,
        host.app.admission.read(own).await?,
    ];
    for path in paths {
        let waits = tokio::time::timeout(SOON, tenant.read.get(path)).await;
        ensure!(waits.is_err(), "{path} took no turn");
        let answer = other.read.get(path).await?;
        ensure!(matches!(answer.status, 200 | 404), "{path}: {answer:?}");
    }
    host.admin.get("/api/v1/usage").await?.expect(200)?;
    tenant.read.get("/api/v1/tenant").await?.expect(200)?;
    drop(turns);
    for path in paths {
        let answer = tenant.read.get(path).await?;
        ensure!(matches!(answer.status, 200 | 404), "{path}: {answer:?}");
    }
    host.finish().await
}

/// The first window of another node, with so many calls of one tenant, none of them metered.
pub fn crowded(node: u64, tenant: TenantId, calls: u64, to: OffsetDateTime) -> Posting {
    let line = |n: u64| ReceiptLine {
        call: Call {
            invocation: InvocationId(Uuid::from_u64_pair(node, n + 1)),
            kind: CallKind::Infer,
            tenant,
            deployment: Some("echo".parse().unwrap()),
            release: Some(1),
            started_at: to,
        },
        ordinal: 0,
        outcome: Some(Outcome::Ok),
        usage: Usage {
            fuel: 1,
            ..Usage::default()
        },
        energy_uj: None,
    };
    let node = NodeId(Uuid::from_u64_pair(0, node));
    let mut posting = Posting {
        node,
        epoch: Epoch(Uuid::from_u128(1)),
        seq: 0,
        kind: PostingKind::Window,
        from: to,
        to,
        fuel_schedule: 1,
        roots: vec![],
        transfers: vec![Transfer {
            ordinal: 0,
            credit: Account::Fuel(node),
            debit: Account::Tenant(tenant),
            root: None,
            unit: Unit::Fuel,
            kind: TransferKind::Dynamic,
            tenant: Some(tenant),
            deployment: Some("echo".parse().unwrap()),
            release: Some(1),
            amount: calls,
            cites: None,
        }],
        lines: (0..calls).map(line).collect(),
        input_digest: Digest::ZERO,
        merkle_root: Digest::ZERO,
        prev_hash: Digest::ZERO,
        hash: Digest::ZERO,
    };
    posting.merkle_root = posting.compute_merkle_root();
    posting.hash = posting.compute_hash();
    posting
}

#[tokio::test(flavor = "multi_thread")]
async fn one_call_among_ten_thousand_is_proven_in_no_time() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    let posting = crowded(
        0xc0,
        tenant.id.parse()?,
        10_000,
        OffsetDateTime::now_utc().replace_nanosecond(0)?,
    );
    let mut tx = host.app.db.writer_tx().await?;
    tx.posting_insert(&posting).await?;
    tx.commit().await?;
    wattle::flow::checkpoint::pass(&host.app).await?;
    let middle = posting.lines[5_000].call.invocation;
    let path = format!("/api/v1/receipts/{middle}/proof");
    let mut took = Vec::new();
    for _ in 0..5 {
        let started = Instant::now();
        let proof = tenant.read.get(&path).await?.expect(200)?;
        took.push(started.elapsed());
        let proof: ReceiptProof = serde_json::from_value(proof)?;
        assert_eq!(proof.lines[0].to_posting.len(), 14, "no more than its steps");
        proof.verify(&keys(&tenant.read).await?)?;
    }
    took.sort();
    eprintln!("a proof out of 10,000 calls took {took:?}");
    ensure!(took[0] < Duration::from_secs(1), "{took:?}");
    host.finish().await
}

/// What `wattle ledger verify` says, with the keys and anchors given.
async fn verified(host: &TestHost, anchors: &Path, keys: &[PublicKey]) -> anyhow::Result<(i32, Value)> {
    let (url, anchors) = (host.admin.url(""), anchors.display().to_string());
    let auditor = host.key("auditor", None).await?;
    let auditor = auditor.key().context("a key")?;
    let keys: Vec<_> = keys.iter().map(ToString::to_string).collect();
    let signed_by = keys.join(",");
    let line = [
        "ledger",
        "verify",
        "--url",
        &url,
        "--key",
        auditor,
        "--anchors",
        &anchors,
    ];
    told(&[&line[..], &["--signed-by", &signed_by]].concat()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_rotate_and_a_rolled_back_ledger_is_found_out() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let anchored = folder.path().display().to_string();
    let host = TestHost::start_with(&["--checkpoint-s", "1", "--anchors", &anchored]).await?;
    let anchors = Anchors::directory(folder.path());
    let until_anchored = async |number: u64| {
        for _ in 0..600 {
            if anchors.numbers().await?.contains(&number) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        anyhow::bail!("checkpoint {number} is not anchored")
    };
    until_anchored(1).await?;
    let seed = std::fs::read(host.data().join("keys/ledger-signing"))?;
    let rotated = host
        .admin
        .post("/api/v1/ledger/keys/rotate", &json!({}))
        .await?
        .expect(201)?;
    let listed = keys(&host.admin).await?;
    assert_eq!(listed.len(), 2);
    assert_eq!(
        (&rotated["key"], &rotated["follows"]),
        (&json!(listed[1]), &json!(listed[0]))
    );
    assert_ne!(
        std::fs::read(host.data().join("keys/ledger-signing"))?,
        seed,
        "the old seed is gone"
    );
    ensure!(!host.data().join("keys/ledger-signing.next").exists());
    let audit = host
        .admin
        .get("/api/v1/audit?action=ledger.rotate_key")
        .await?
        .expect(200)?;
    assert_eq!(audit["items"][0]["object"], json!(listed[1]));
    let count = host.admin.pages("/api/v1/ledger/checkpoints", 99).await?.0.len();
    until_anchored(count as u64 + 2).await?;
    let newest = anchors.newest(0).await?.context("an anchor")?;
    assert_eq!(anchors.read(1).await?.checkpoint.signer, listed[0]);
    assert_eq!(anchors.read(newest).await?.checkpoint.signer, listed[1]);

    let (code, said) = verified(&host, folder.path(), &listed).await?;
    assert_eq!((code, &said["verified"]), (0, &json!(true)), "{said}");
    ensure!(
        said["anchors"].as_u64() >= Some(newest) && said["postings"].as_u64() > Some(0),
        "{said}"
    );
    // A key that one does not know signs nothing.
    let (code, said) = verified(&host, folder.path(), &listed[..1]).await?;
    ensure!(
        code == 1
            && said["fault"]["what"]
                .as_str()
                .unwrap()
                .contains("none of the keys"),
        "{said}"
    );

    // No checkpoint is made while the key is held: the last one is anchored and then taken out of the ledger.
    let held = host.app.signer.lock().await;
    let (all, _) = host.admin.pages("/api/v1/ledger/checkpoints", 99).await?;
    let last = all.last().context("a checkpoint")?["signed"]["checkpoint"]["number"]
        .as_u64()
        .context("its number")?;
    until_anchored(last).await?;
    let mut owner = PgConnection::connect(&host.owner_url).await?;
    owner.execute("set session_replication_role = replica").await?;
    for table in ["checkpoint_head", "checkpoint"] {
        let statement = format!("delete from {table} where number = {last}");
        let done = owner.execute(sqlx::AssertSqlSafe(statement)).await?;
        ensure!(done.rows_affected() > 0);
    }
    owner.close().await?;
    let (code, said) = verified(&host, folder.path(), &listed).await?;
    assert_eq!(
        (code, &said["fault"]["row"]),
        (1, &json!(format!("checkpoint {last}"))),
        "{said}"
    );
    ensure!(
        said["fault"]["what"].as_str().unwrap().contains("rolled back"),
        "{said}"
    );
    drop(held);
    // The host sees it too, signs nothing more and says so.
    let mut page = String::new();
    for _ in 0..600 {
        page = host
            .ops
            .request(reqwest::Method::GET, "/metrics")
            .send()
            .await?
            .text()
            .await?;
        if page.contains("\nwattle_checkpoint_fault 1\n") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ensure!(page.contains("\nwattle_checkpoint_fault 1\n"), "{page}");
    let refused = wattle::flow::checkpoint::pass(&host.app).await.unwrap_err();
    ensure!(refused.to_string().contains("rolled back"), "{refused}");
    host.finish().await
}
