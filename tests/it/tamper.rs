//! A superuser of the database changes what was posted; each change is found, and the row is named.

use anyhow::Context as _;
use db::{Cut, Db, LedgerSpan, PostingInsert, PostingKey};
use domain::account::Account;
use domain::checkpoint::Record;
use domain::energy::{Provenance, Root};
use domain::posting::{
    Call, CallKind, Posting, PostingKind, PostingRoot, ReceiptLine, Transfer, TransferKind, Unit,
};
use domain::signature::Signer;
use domain::{Digest, Epoch, InvocationId, NodeId, Outcome, SigningKey, TenantId, Usage};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use tests::cluster;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;
use wattle::blobs::Blobs;
use wattle::flow::verify;

pub const NODE: NodeId = NodeId(Uuid::from_u128(0x40de));
const EPOCH: Epoch = Epoch(Uuid::from_u128(0xe));

fn transfer(ordinal: u32, amount: u64, tenant: Option<u128>, unit: Unit) -> Transfer {
    let tenant = tenant.map(|tenant| TenantId(Uuid::from_u128(tenant)));
    let fuel = unit == Unit::Fuel;
    Transfer {
        ordinal,
        credit: if fuel {
            Account::Fuel(NODE)
        } else {
            Account::Meter("modelled".into())
        },
        debit: tenant.map_or(Account::Idle, Account::Tenant),
        root: (!fuel).then(|| "modelled".to_owned()),
        unit,
        kind: if tenant.is_some() {
            TransferKind::Dynamic
        } else {
            TransferKind::Idle
        },
        tenant,
        deployment: tenant.map(|_| "echo".parse().unwrap()),
        release: tenant.map(|_| 1),
        amount,
        cites: None,
    }
}

fn line(seq: u64, tenant: u128, energy_uj: u64, to: OffsetDateTime) -> ReceiptLine {
    ReceiptLine {
        call: Call {
            invocation: InvocationId(Uuid::from_u128((u128::from(seq) << 8) | tenant)),
            kind: CallKind::Infer,
            tenant: TenantId(Uuid::from_u128(tenant)),
            deployment: Some("echo".parse().unwrap()),
            release: Some(1),
            started_at: to - Duration::MILLISECOND,
        },
        ordinal: 0,
        outcome: Some(Outcome::Ok),
        usage: Usage {
            fuel: 100,
            ..Usage::default()
        },
        energy_uj: Some(energy_uj),
    }
}

/// A window in which two tenants used 30 and 20 µJ, and nobody 50.
fn window(seq: u64, prev_hash: Digest, to: OffsetDateTime) -> Posting {
    let root = Root {
        name: "modelled".into(),
        kind: "modelled".into(),
        provenance: Provenance::Modelled,
        uncertainty_ppm: 300_000,
        model_version: 1,
    };
    sealed(Posting {
        node: NODE,
        epoch: EPOCH,
        seq,
        kind: PostingKind::Window,
        from: to - Duration::SECOND,
        to,
        fuel_schedule: 1,
        roots: vec![PostingRoot {
            root,
            boot_id: Uuid::from_u128(0xb007),
            start_uj: 1_000 + seq * 100,
            end_uj: 1_100 + seq * 100,
            faults: vec![],
        }],
        transfers: vec![
            transfer(0, 50, None, Unit::Uj),
            transfer(1, 30, Some(0xa), Unit::Uj),
            transfer(2, 20, Some(0xb), Unit::Uj),
            transfer(3, 100, Some(0xa), Unit::Fuel),
            transfer(4, 100, Some(0xb), Unit::Fuel),
        ],
        lines: vec![line(seq, 0xa, 30, to), line(seq, 0xb, 20, to)],
        input_digest: Digest::of(b"inputs"),
        merkle_root: Digest::ZERO,
        prev_hash,
        hash: Digest::ZERO,
    })
}

fn sealed(mut posting: Posting) -> Posting {
    posting.merkle_root = posting.compute_merkle_root();
    posting.hash = posting.compute_hash();
    posting
}

fn key(n: u8) -> SigningKey {
    SigningKey::from_seed(&[n; 32]).unwrap()
}

/// A ledger of five windows, the first four of them under two checkpoints.
pub struct Ledger {
    pub db: Db,
    blobs: Blobs,
    _folder: tempfile::TempDir,
    owner: PgConnection,
    database: String,
}

impl Ledger {
    pub async fn new() -> anyhow::Result<Self> {
        let cluster = tokio::task::spawn_blocking(cluster::shared_cluster).await??;
        let database = cluster::fresh_database_name();
        let mut admin = PgConnection::connect(&cluster.url(postgres::OWNER_ROLE, "postgres")).await?;
        admin
            .execute(AssertSqlSafe(format!("create database {database}")))
            .await?;
        let owner_url = cluster.url(postgres::OWNER_ROLE, &database);
        let run_url = cluster.url(postgres::HOST_ROLE, &database);
        let db = Db::open(&owner_url, &run_url, &db::Options::default()).await?;
        let mut owner = PgConnection::connect(&owner_url).await?;
        // Without triggers, foreign keys and row-level security.
        owner.execute("set session_replication_role = replica").await?;
        let mut tx = db.admin_tx().await?;
        let signer = Signer {
            key: key(1).public(),
            since: OffsetDateTime::UNIX_EPOCH,
            succession: None,
        };
        tx.signer_insert(NODE, &signer).await?;
        tx.commit().await?;
        let (now, mut prev) = (OffsetDateTime::now_utc().replace_nanosecond(0)?, Digest::ZERO);
        for seq in 0..5 {
            let posting = window(seq, prev, now + Duration::SECOND * i32::try_from(seq)?);
            prev = posting.hash;
            let mut tx = db.writer_tx().await?;
            assert_eq!(tx.posting_insert(&posting).await?, PostingInsert::Inserted);
            tx.commit().await?;
            if seq == 1 || seq == 3 {
                checkpoint(&db, &key(1), posting.to + Duration::MILLISECOND * 500).await?;
            }
        }
        let folder = tempfile::tempdir()?;
        Ok(Self {
            db,
            blobs: Blobs::open(folder.path())?,
            _folder: folder,
            owner,
            database,
        })
    }

    /// Runs statements as the superuser.
    async fn tamper(&mut self, statements: &str) -> anyhow::Result<()> {
        let done = self.owner.execute(AssertSqlSafe(statements.to_owned())).await?;
        anyhow::ensure!(done.rows_affected() > 0, "nothing was changed by {statements}");
        Ok(())
    }

    /// The first row that does not fit, and why, in the order of `wattle ledger verify`.
    async fn fault(&self) -> anyhow::Result<Option<(String, String)>> {
        let (span, cut) = (LedgerSpan::default(), Cut::first(100));
        let parts = [
            verify::postings(&self.db, &self.blobs, span, &cut).await?,
            verify::checkpoints(&self.db, span, &cut).await?,
            verify::rest(&self.db, span).await?,
        ];
        let fault = parts.into_iter().find_map(|part| part.fault);
        Ok(fault.map(|fault| (fault.row, fault.what)))
    }

    /// Asserts that a change is found, and its undoing too.
    async fn found(&mut self, change: &str, undo: &str, row: &str, what: &str) -> anyhow::Result<()> {
        self.tamper(change).await?;
        let (found, why) = self
            .fault()
            .await?
            .with_context(|| format!("not found: {change}"))?;
        assert!(found == row && why.contains(what), "{change}: {found}: {why}");
        self.tamper(undo).await?;
        assert_eq!(self.fault().await?, None, "{undo}");
        Ok(())
    }

    async fn posting(&self, seq: u64) -> anyhow::Result<Posting> {
        let key = PostingKey {
            node: NODE,
            epoch: EPOCH,
            seq,
        };
        let found = self.db.billing_tx().await?.posting_get(key).await?;
        found.context("a posting")
    }

    pub async fn finish(self) -> anyhow::Result<()> {
        self.db.close().await;
        self.owner.close().await?;
        let cluster = tokio::task::spawn_blocking(cluster::shared_cluster).await??;
        let mut admin = PgConnection::connect(&cluster.url(postgres::OWNER_ROLE, "postgres")).await?;
        let drop = format!("drop database {} with (force)", self.database);
        admin.execute(AssertSqlSafe(drop)).await?;
        Ok(())
    }
}

async fn checkpoint(db: &Db, key: &SigningKey, at: OffsetDateTime) -> anyhow::Result<Record> {
    let mut tx = db.writer_tx().await?;
    tx.checkpoints_lock().await?;
    let last = tx.checkpoint_last().await?;
    let number = last.as_ref().map(|last| last.signed.checkpoint.number);
    let postings = tx.postings_uncovered(number, 100).await?;
    let record = Record::make(last.as_ref(), &postings, at, key);
    tx.checkpoint_insert(&record).await?;
    tx.commit().await?;
    Ok(record)
}

fn row(seq: u64) -> String {
    format!("posting {NODE}/{EPOCH}/{seq}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_value_is_named() -> anyhow::Result<()> {
    let mut ledger = Ledger::new().await?;
    assert_eq!(ledger.fault().await?, None);
    for (set, undo, filter, what) in [
        (
            "transfer set amount = amount + 1",
            "transfer set amount = amount - 1",
            "seq = 1 and ordinal = 1",
            "root 'modelled'",
        ),
        // Both sides of the law: the lines say otherwise.
        (
            "transfer set amount = amount + case ordinal when 0 then 1 else -1 end",
            "transfer set amount = amount - case ordinal when 0 then 1 else -1 end",
            "seq = 1 and ordinal in (0, 1)",
            "deployment",
        ),
        // What moves nothing between the sums.
        (
            "transfer set release = 2",
            "transfer set release = 1",
            "seq = 1 and ordinal = 1",
            "lines say",
        ),
        (
            "posting_root set uncertainty_ppm = 1",
            "posting_root set uncertainty_ppm = 300000",
            "seq = 1",
            "has the hash",
        ),
        (
            "receipt_block set cpu_ns[1] = 7",
            "receipt_block set cpu_ns[1] = 0",
            "seq = 1",
            "Merkle root",
        ),
        (
            "receipt_block set outcome[1] = 'trapped'",
            "receipt_block set outcome[1] = 'ok'",
            "seq = 1",
            "Merkle root",
        ),
        (
            "posting set kind = 'correction'",
            "posting set kind = 'window'",
            "seq = 1",
            "contradicts itself",
        ),
        // No host writes such a word.
        (
            "receipt_block set outcome[1] = 'bogus'",
            "receipt_block set outcome[1] = 'ok'",
            "seq = 1",
            "bogus",
        ),
        (
            "posting set input_digest = sha256('x')",
            "posting set input_digest = sha256('inputs')",
            "seq = 1",
            "has the hash",
        ),
    ] {
        let statement = |set: &str| format!("update {set} where {filter}");
        ledger
            .found(&statement(set), &statement(undo), &row(1), what)
            .await?;
    }
    ledger.finish().await
}

/// A correction that takes 5 µJ off a tenant, as it is sealed where its hash covers what it cites or not.
fn correction(seq: u64, before: &Posting, cites: Option<Digest>) -> Posting {
    let tenant = TenantId(Uuid::from_u128(0xa));
    sealed(Posting {
        seq,
        kind: PostingKind::Correction,
        from: before.to,
        roots: vec![],
        transfers: vec![Transfer {
            credit: Account::Tenant(tenant),
            debit: Account::Platform,
            root: None,
            kind: TransferKind::Correction,
            release: None,
            cites,
            ..transfer(0, 5, Some(0xa), Unit::Uj)
        }],
        lines: vec![],
        prev_hash: before.hash,
        ..before.clone()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_correction_cites_is_under_its_hash() -> anyhow::Result<()> {
    let mut ledger = Ledger::new().await?;
    let (cited, last) = (ledger.posting(1).await?.hash, ledger.posting(4).await?);
    let new = correction(5, &last, Some(cited));
    let old = correction(6, &new, None);
    for posting in [&new, &old] {
        let mut tx = ledger.db.writer_tx().await?;
        assert_eq!(tx.posting_insert(posting).await?, PostingInsert::Inserted);
        tx.commit().await?;
        assert_eq!(ledger.fault().await?, None);
    }
    assert_eq!(ledger.posting(5).await?, new);
    let undo = "update transfer set cites = (select hash from posting where seq = 1) where seq = 5";
    for other in ["(select hash from posting where seq = 2)", "null"] {
        let change = format!("update transfer set cites = {other} where seq = 5");
        ledger.found(&change, undo, &row(5), "has the hash").await?;
    }
    // One whose hash says nothing of it fits as it did: an older host wrote so.
    let as_before = undo.replace("seq = 5", "seq = 6");
    ledger.tamper(&as_before).await?;
    assert_eq!(ledger.fault().await?, None);
    // No window cites anything.
    let change =
        "update transfer set cites = (select hash from posting where seq = 1) where seq = 2 and ordinal = 1";
    let undo = "update transfer set cites = null where seq = 2 and ordinal = 1";
    ledger.found(change, undo, &row(2), "contradicts itself").await?;
    ledger.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_or_moved_row_is_named() -> anyhow::Result<()> {
    let mut ledger = Ledger::new().await?;
    ledger
        .tamper(
            "create table kept_posting as select * from posting; create table kept_transfer as select * from transfer;
             create table kept_block as select at, node, epoch, seq, block, tenant, fuel_schedule, invocation, ordinal,
                 kind, deployment, release, started_at, outcome, fuel, cpu_ns, model_ns, bytes_in, bytes_out,
                 peak_memory_bytes, energy_uj, work from receipt_block",
        )
        .await?;
    let posting = |seq: u64| {
        (
            format!("delete from posting where seq = {seq}"),
            format!(
                "insert into posting overriding system value select * from kept_posting where seq = {seq}"
            ),
        )
    };
    let (delete, undo) = posting(1);
    // It is missed by the one that follows it.
    ledger.found(&delete, &undo, &row(2), "it follows").await?;
    let (delete, undo) = posting(3);
    ledger.found(&delete, &undo, &row(4), "it follows").await?;
    // The last one of all is under no checkpoint, but its rows are there still.
    let (delete, undo) = posting(4);
    ledger
        .found(
            &delete,
            &undo,
            &format!("posting_root modelled of {}", row(4)),
            "no posting",
        )
        .await?;
    ledger
        .found(
            "delete from transfer where seq = 2 and ordinal = 4",
            "insert into transfer select * from kept_transfer where seq = 2 and ordinal = 4",
            &row(2),
            "transfers",
        )
        .await?;
    ledger
        .found(
            "delete from receipt_block where seq = 2 and 20 = any(energy_uj)",
            "insert into receipt_block (at, node, epoch, seq, block, tenant, fuel_schedule, invocation, ordinal, kind,
                 deployment, release, started_at, outcome, fuel, cpu_ns, model_ns, bytes_in, bytes_out,
                 peak_memory_bytes, energy_uj, work)
             select * from kept_block where seq = 2 and 20 = any(energy_uj)",
            &row(2),
            "lines say",
        )
        .await?;
    // Reordered: two postings change places, or two transfers of one.
    let swap = "update posting set id = case seq when 1 then (select id from kept_posting where seq = 2)
                                                else (select id from kept_posting where seq = 1) end
                where seq in (1, 2)";
    ledger
        .tamper("alter table posting alter column id drop identity")
        .await
        .ok();
    ledger
        .found(
            &format!("alter table posting drop constraint posting_id_key cascade; {swap}"),
            "update posting p set id = k.id from kept_posting k where k.hash = p.hash",
            &row(2),
            "it follows",
        )
        .await?;
    ledger
        .found(
            "update transfer set ordinal = 3 - ordinal + 1000 where seq = 2 and ordinal in (1, 2);
             update transfer set ordinal = ordinal - 1000 where seq = 2 and ordinal > 999",
            "update transfer set ordinal = 3 - ordinal + 1000 where seq = 2 and ordinal in (1, 2);
             update transfer set ordinal = ordinal - 1000 where seq = 2 and ordinal > 999",
            &row(2),
            "has the hash",
        )
        .await?;
    ledger.finish().await
}

/// Rewrites posting 2 and every link after it, so that each posting and the chain are whole again.
async fn rewrite(ledger: &mut Ledger) -> anyhow::Result<()> {
    let mut prev = ledger.posting(1).await?.hash;
    for seq in 2..5 {
        let mut posting = ledger.posting(seq).await?;
        posting.prev_hash = prev;
        if seq == 2 {
            posting.transfers[1].amount += 5;
            posting.transfers[0].amount -= 5;
            posting.lines[0].energy_uj = Some(35);
        }
        let posting = sealed(posting);
        prev = posting.hash;
        let hex = |digest: Digest| format!("decode('{}', 'hex')", digest.hex());
        ledger
            .tamper(&format!(
                "update posting set prev_hash = {}, merkle_root = {}, hash = {} where seq = {seq}",
                hex(posting.prev_hash),
                hex(posting.merkle_root),
                hex(posting.hash)
            ))
            .await?;
    }
    ledger
        .tamper(
            "update transfer set amount = case ordinal when 0 then 45 else 35 end where seq = 2 and ordinal in (0, 1);
             update receipt_block set energy_uj[1] = 35 where seq = 2 and energy_uj[1] = 30",
        )
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewritten_batch_is_named_by_the_checkpoint() -> anyhow::Result<()> {
    let mut ledger = Ledger::new().await?;
    rewrite(&mut ledger).await?;
    let (found, why) = ledger.fault().await?.context("not found")?;
    let named = format!("{} is not the one that checkpoint 2 covers", row(2));
    assert!(found == "checkpoint 2" && why.contains(&named), "{found}: {why}");

    // Even where the checkpoint is rewritten too: with the leaves and heads that fit, nobody can sign it.
    ledger
        .tamper("delete from checkpoint_head where number = 2; delete from checkpoint where number = 2")
        .await?;
    checkpoint(&ledger.db, &key(1), OffsetDateTime::now_utc()).await?;
    ledger
        .tamper("update checkpoint set signature = sha256('x') || sha256('y') where number = 2")
        .await?;
    let (found, why) = ledger.fault().await?.context("not found")?;
    assert!(
        found == "checkpoint 2" && why.contains("signature"),
        "{found}: {why}"
    );

    // With a key of one's own it fits itself, but not whoever knows the right keys or has the anchors.
    let mut tx = ledger.db.admin_tx().await?;
    let signer = Signer {
        key: key(2).public(),
        since: OffsetDateTime::UNIX_EPOCH,
        succession: None,
    };
    tx.signer_insert(NODE, &signer).await?;
    tx.commit().await?;
    ledger
        .tamper("delete from checkpoint_head where number = 2; delete from checkpoint where number = 2")
        .await?;
    let forged = checkpoint(&ledger.db, &key(2), OffsetDateTime::now_utc()).await?;
    assert_eq!(ledger.fault().await?, None);
    let first = ledger.db.billing_tx().await?.checkpoint_get(1).await?;
    let known = [Signer {
        key: key(1).public(),
        ..signer
    }];
    let error = forged.verify(first.as_ref(), &known).unwrap_err();
    assert!(
        error.to_string().contains("none of the keys that are trusted"),
        "{error}"
    );
    ledger.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_checkpoint_is_named() -> anyhow::Result<()> {
    let mut ledger = Ledger::new().await?;
    ledger
        .tamper("create table kept as select * from checkpoint; create table kept_head as select * from checkpoint_head")
        .await?;
    let back = "delete from checkpoint; insert into checkpoint select * from kept;
                delete from checkpoint_head; insert into checkpoint_head select * from kept_head";
    for (change, row, what) in [
        (
            "update checkpoint set at = at + interval '1 hour' where number = 1",
            "checkpoint 1",
            "signature",
        ),
        (
            "update checkpoint set merkle_root = heads_root where number = 2",
            "checkpoint 2",
            "signature",
        ),
        (
            "update checkpoint set leaves = substr(leaves, 33) || substr(leaves, 1, 32) where number = 2",
            "checkpoint 2",
            "leaves",
        ),
        (
            "update checkpoint_head set seq = 2 where number = 2",
            "checkpoint 2",
            "heads",
        ),
        (
            "delete from checkpoint_head where number = 1",
            "checkpoint 1",
            "heads",
        ),
        (
            "update checkpoint_head set posting = posting - 1 where number = 2",
            "checkpoint 2",
            "covers 2 postings, and the ledger has 1",
        ),
        // Rolled back in its middle, or at its beginning.
        (
            "delete from checkpoint where number = 1",
            "checkpoint 2",
            "checkpoint 1 is missing",
        ),
        (
            "delete from signer",
            "checkpoint 1",
            "none of the keys that are trusted",
        ),
    ] {
        ledger.tamper(change).await?;
        let (found, why) = ledger
            .fault()
            .await?
            .with_context(|| format!("not found: {change}"))?;
        assert!(found == row && why.contains(what), "{change}: {found}: {why}");
        ledger.tamper(back).await?;
    }
    ledger.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_span_is_verified_with_the_checkpoints_around_it() -> anyhow::Result<()> {
    let mut ledger = Ledger::new().await?;
    let third = ledger.posting(2).await?;
    let span = LedgerSpan {
        from: Some(third.to),
        to: Some(third.to + Duration::SECOND),
    };
    let cut = Cut::first(100);
    assert_eq!(
        verify::postings(&ledger.db, &ledger.blobs, span, &cut)
            .await?
            .checked,
        1
    );
    assert_eq!(verify::checkpoints(&ledger.db, span, &cut).await?.checked, 2);
    // Piece by piece it is the same.
    let (mut cut, mut checked) = (Cut::first(2), 0);
    loop {
        let part = verify::postings(&ledger.db, &ledger.blobs, LedgerSpan::default(), &cut).await?;
        checked += part.checked;
        cut.after = part.next;
        if cut.after.is_none() {
            break;
        }
    }
    assert_eq!(checked, 5);
    let one = verify::checkpoints(&ledger.db, LedgerSpan::default(), &Cut::first(1)).await?;
    assert_eq!((one.checked, one.next), (1, Some(1)));
    ledger
        .tamper("update transfer set amount = 31 where seq = 1 and ordinal = 1")
        .await?;
    assert_eq!(
        verify::postings(&ledger.db, &ledger.blobs, span, &Cut::first(9))
            .await?
            .fault,
        None
    );
    ledger.finish().await
}
