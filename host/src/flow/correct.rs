//! Correct: what an admin asked to repair is sealed as a posting of its own, in the chain of this node.
//!
//! A correction is kept in Postgres with its audit line before it is sealed, so a crash loses none, and it is sealed
//! once: one that has a posting in the ledger, or was given to whoever seals, is not given again.

use std::sync::Arc;
use std::time::Duration;

use domain::correction::Correction;
use tokio::time::Instant;

use super::Error;
use crate::app::App;

/// How often it is looked for corrections that nobody told of, such as those that a restart left.
const LOOK: Duration = Duration::from_secs(60);

/// When it is looked again while postings wait for Postgres.
const AGAIN: Duration = Duration::from_millis(200);

/// Looks every minute and whenever a correction was asked for, until the task is aborted.
pub async fn run(app: Arc<App>) {
    let mut next = LOOK;
    loop {
        let look = Instant::now() + next;
        tokio::select! {
            () = tokio::time::sleep_until(look) => {}
            () = app.correction_asked.notified() => {}
        }
        next = LOOK;
        match due(&app).await {
            Ok(Some(corrections)) => {
                for correction in corrections {
                    if app.corrections.send(correction).await.is_err() {
                        return;
                    }
                }
            }
            Ok(None) => next = AGAIN,
            Err(error) => tracing::warn!(%error, "corrections are not sealed yet: tried again in a minute"),
        }
    }
}

/// The corrections that this node is to seal; none while postings wait for Postgres, which may be theirs.
async fn due(app: &App) -> Result<Option<Vec<Correction>>, db::DbError> {
    if app.metrics.are_postings_waiting() {
        return Ok(None);
    }
    let mut tx = app.db.billing_tx().await?;
    Ok(Some(tx.corrections_due(app.node).await?))
}

/// Keeps a correction in `tx` for this node to seal, if the posting that it cites moved as much to the tenant as it
/// takes back. Commit, then tell [`App::correction_asked`].
pub async fn ask(app: &App, tx: &mut db::AdminTx, correction: &Correction) -> Result<(), Error> {
    let Some(moved) = tx.correctable(correction).await? else {
        return Err(Error::invalid(
            "cites",
            "the ledger has no posting with this hash",
        ));
    };
    if i128::from(moved) + i128::from(correction.amount) < 0 {
        let message = format!(
            "of what this posting moved to the tenant's deployment, {moved} are left: take no more off than these"
        );
        return Err(Error::invalid("amount", message));
    }
    Ok(tx.correction_insert(app.node, correction).await?)
}
