//! More than one checkpoint can take.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use db::{Cut, LedgerSpan};
use domain::checkpoint::MOST_POSTINGS;
use domain::posting::Posting;
use domain::proof::ReceiptProof;
use domain::{Digest, NodeId};
use sqlx::{Connection as _, PgConnection};
use tests::TestHost;
use time::OffsetDateTime;
use uuid::Uuid;
use wattle::flow::{checkpoint, verify};

use crate::proof::{crowded, keys};

/// So many windows of one more node in which nothing happened, as if that node had posted them.
async fn quiet(owner: &mut PgConnection, like: &Posting, windows: u64) -> anyhow::Result<()> {
    let mut last = Posting {
        node: NodeId(Uuid::from_u128(0xc1)),
        transfers: vec![],
        lines: vec![],
        ..like.clone()
    };
    last.merkle_root = last.compute_merkle_root();
    last.hash = Digest::ZERO;
    let (mut seqs, mut before, mut hashes) = (Vec::new(), Vec::new(), Vec::new());
    for seq in 0..windows {
        (last.seq, last.prev_hash) = (seq, last.hash);
        last.hash = last.compute_hash();
        seqs.push(i64::try_from(seq)?);
        before.push(last.prev_hash.0.to_vec());
        hashes.push(last.hash.0.to_vec());
    }
    let done = sqlx::query(
        "insert into posting (node, epoch, seq, kind, began_at, ended_at, fuel_schedule, input_digest, merkle_root,
             prev_hash, hash)
         select $1, $2, t.seq, 'window', $3, $4, $5, $6, $7, t.prev_hash, t.hash
         from unnest($8::bigint[], $9::bytea[], $10::bytea[]) as t (seq, prev_hash, hash)
         order by t.seq",
    )
    .bind(last.node.0)
    .bind(last.epoch.0)
    .bind(last.from)
    .bind(last.to)
    .bind(i64::from(last.fuel_schedule))
    .bind(&last.input_digest.0[..])
    .bind(&last.merkle_root.0[..])
    .bind(seqs)
    .bind(before)
    .bind(hashes)
    .execute(owner)
    .await?;
    ensure!(done.rows_affected() == windows, "{done:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_checkpoint_cannot_take_is_the_next_ones_at_once() -> anyhow::Result<()> {
    let host = TestHost::start().await?;
    let tenant = host.tenant("acacia").await?;
    let (id, now) = (
        tenant.id.parse()?,
        OffsetDateTime::now_utc().replace_nanosecond(0)?,
    );
    let (first, last) = (crowded(0xc0, id, 1, now), crowded(0xc2, id, 1, now));
    let mut owner = PgConnection::connect(&host.owner_url).await?;
    let mut tx = host.app.db.writer_tx().await?;
    tx.posting_insert(&first).await?;
    tx.commit().await?;
    quiet(&mut owner, &first, MOST_POSTINGS.into()).await?;
    let mut tx = host.app.db.writer_tx().await?;
    tx.posting_insert(&last).await?;
    tx.commit().await?;
    owner.close().await?;

    checkpoint::pass(&host.app).await?;
    let made = host
        .app
        .db
        .billing_tx()
        .await?
        .checkpoints_list(&Cut::first(9))
        .await?;
    let postings = made.items.iter().map(|row| row.signed.checkpoint.postings);
    let postings: BTreeSet<u64> = postings.collect();
    ensure!(made.items.len() == 2, "one pass makes both: {postings:?}");
    assert_eq!(postings.last(), Some(&MOST_POSTINGS.into()));
    ensure!(
        postings.first() >= Some(&2),
        "the rest of the node and the last: {postings:?}"
    );
    let (span, cut) = (LedgerSpan::default(), Cut::first(9));
    let checked = verify::checkpoints(&host.app.db, span, &cut).await?;
    assert_eq!((checked.checked, checked.fault), (2, None));
    // The ledger's own order, piece by piece.
    let mut cut = Cut::first(1_000);
    let mut verified = 0;
    loop {
        let part = verify::postings(&host.app.db, &host.app.blobs, span, &cut).await?;
        assert_eq!(part.fault, None);
        verified += part.checked;
        cut.after = part.next;
        if cut.after.is_none() {
            break;
        }
    }
    ensure!(verified >= u64::from(MOST_POSTINGS) + 2, "{verified}");

    // Proofs come out of both, the longer way from the full one.
    let signers = keys(&tenant.read).await?;
    for (posting, number, steps) in [(&first, 1, 13), (&last, 2, 1)] {
        let call = posting.lines[0].call.invocation;
        let proof = tenant.read.get(&format!("/api/v1/receipts/{call}/proof")).await?;
        let proof: ReceiptProof = serde_json::from_value(proof.expect(200)?)?;
        proof.verify(&signers)?;
        let line = proof.lines.first().context("a line")?;
        assert_eq!(line.checkpoint, number);
        ensure!(line.to_checkpoint.len() >= steps, "{}", line.to_checkpoint.len());
    }
    host.finish().await
}
