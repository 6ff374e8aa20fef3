//! Prove: a receipt with the way from each of its lines up to a signed checkpoint.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use db::{BillingTx, DbError, ReceiptLineRow};
use domain::checkpoint::{CheckedPosting, Record};
use domain::proof::{ProvenLine, ReceiptProof, VERSION};
use domain::{InvocationId, TenantId, merkle};

use super::archived::{self, Lines};
use super::{Error, checkpoint};
use crate::app::App;

/// The proof of a tenant's receipt. Refused while the receipt is provisional or a line of it is not covered.
pub async fn prove(app: &App, tenant: TenantId, invocation: InvocationId) -> Result<ReceiptProof, Error> {
    // Asked first: between the two questions a receipt may become final, never the other way.
    let pending = app.live.pending(invocation);
    let is_pending = pending.is_some_and(|pending| pending.finished.call.tenant == tenant);
    // Whoever asks for a proof has had its turn.
    let (rows, _) = archived::receipt(app, tenant, invocation, async { Ok(()) }).await?;
    let Some(last) = rows.last() else {
        return Err(match is_pending {
            true => Error::ReceiptNotFinal(invocation),
            false => Error::not_found("receipt", invocation),
        });
    };
    if last.line.outcome.is_none() {
        return Err(Error::ReceiptNotFinal(invocation));
    }
    let call = last.line.call.clone();
    let mut tx = app.db.billing_tx().await?;
    let (mut lines, mut checkpoints) = (Vec::new(), BTreeMap::new());
    let mut of_others = Lines::of(&app.blobs);
    for row in &rows {
        lines.push(proven(app, &mut tx, row, &mut of_others, &mut checkpoints).await?);
    }
    Ok(ReceiptProof {
        version: VERSION,
        receipt: invocation,
        kind: call.kind,
        tenant,
        deployment: call.deployment,
        release: call.release,
        started_at: call.started_at,
        lines,
        checkpoints: checkpoints.into_values().map(|record| record.signed).collect(),
    })
}

async fn proven(
    app: &App,
    tx: &mut BillingTx,
    row: &ReceiptLineRow,
    lines: &mut Lines<'_>,
    checkpoints: &mut BTreeMap<u64, Record>,
) -> Result<ProvenLine, Error> {
    let call = &row.line.call;
    let odd = |field: &'static str| odd(field, &row.posting);
    let found = tx.posting_checked(row.posting).await?;
    let (posting, covered) = found.ok_or_else(|| odd("posting"))?;
    let number = covered.ok_or_else(|| Error::ReceiptNotProven {
        receipt: call.invocation,
        retry_after_s: checkpoint::due_in_s(app.clock.now(), app.config.checkpoint_s),
    })?;
    let record = match checkpoints.entry(number) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(new) => {
            let record = tx.checkpoint_get(number).await?;
            new.insert(record.ok_or_else(|| odd("checkpoint"))?)
        }
    };
    let leaf = posting.leaf();
    let place = record.leaves.iter().position(|of| *of == leaf);
    let place = place.ok_or_else(|| odd("checkpoint.leaves"))?;
    let to_checkpoint = merkle::steps(&record.leaves, place).unwrap_or_default();
    Ok(ProvenLine {
        ordinal: row.line.ordinal,
        outcome: row.line.outcome,
        usage: row.line.usage.clone(),
        energy_uj: row.line.energy_uj,
        to_posting: steps_to(tx, lines, &posting, call.invocation)
            .await?
            .ok_or_else(|| odd("receipt_line"))?,
        posting,
        to_checkpoint,
        checkpoint: number,
    })
}

/// The steps from the line of a call to its posting's root. Only digests of the lines of others leave this function.
async fn steps_to(
    tx: &mut BillingTx,
    lines: &mut Lines<'_>,
    posting: &CheckedPosting,
    invocation: InvocationId,
) -> Result<Option<Vec<merkle::Step>>, Error> {
    let (calls, leaves): (Vec<_>, Vec<_>) = lines.leaves(tx, posting).await?.into_iter().unzip();
    let place = calls.iter().position(|call| *call == invocation);
    Ok(place.and_then(|place| merkle::steps(&leaves, place)))
}

/// The ledger has been tampered with: `wattle ledger verify` says where.
fn odd(field: &'static str, posting: &db::PostingKey) -> Error {
    Error::Db(DbError::Inconsistent {
        field,
        value: format!("a proof of what posting {posting} says does not come together"),
    })
}
