//! A call with a live usage cell, recorded however it ends.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use domain::posting::{Call, CallKind, Finished};
use domain::{InvocationId, Name, Outcome, TenantId, UsageCell};
use futures::FutureExt as _;
use journal::Record;
use tracing::{Instrument as _, Span};

use super::Error;
use super::brief::brief_first;
use crate::app::App;
use crate::fault;

/// A recorded call: what the reply says of it.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The journalled record.
    pub finished: Arc<Finished>,
    /// The provisional energy in microjoules, once a slice has taught what use costs; the final figure
    /// comes with the window.
    pub provisional_uj: Option<u64>,
}

/// On whose threads a call begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    /// The guests'.
    Guests,
    /// The caller's, as long as it is brief.
    Here,
}

/// A call that is admitted now.
pub fn call(app: &App, kind: CallKind, tenant: TenantId, deployment: Option<(&Name, u32)>) -> Call {
    Call {
        invocation: app.clock.invocation(),
        kind,
        tenant,
        deployment: deployment.map(|(name, _)| name.clone()),
        release: deployment.map(|(_, release)| release),
        started_at: app.clock.now(),
    }
}

/// Runs `work` for `call` and journals what it used before this returns. Nothing of any kind runs on another
/// way, so this is where a host that drains or cannot keep records refuses.
///
/// The work goes on when the caller goes away, so the record is made all the same; whoever wants the
/// work itself to end early cancels it through a token of its own. A panic becomes a host fault.
pub async fn metered<T, F>(
    app: &Arc<App>,
    call: Call,
    begin: Where,
    work: impl FnOnce(Arc<UsageCell>) -> F,
) -> Result<(Option<T>, Recorded), Error>
where
    T: Send + 'static,
    F: Future<Output = (Outcome, T)> + Send + 'static,
{
    if app.journal.is_filling() {
        return Err(match app.ledger_fault() {
            Some(_) => Error::LedgerRefuses,
            None => Error::JournalFilling,
        });
    }
    if app.journal.poisoned().is_some() {
        return Err(Error::JournalBroken);
    }
    // The next slice tries again, and ends this where there is room.
    if app.journal.is_disk_full() {
        return Err(Error::DiskFull);
    }
    let metered = !app.config.unmetered;
    let cell = Arc::new(if metered {
        UsageCell::default()
    } else {
        UsageCell::of_fuel()
    });
    if metered {
        app.live.begin(call.clone(), cell.clone())?;
    }
    // It may be large, and is moved some times on its way to a thread.
    let work = Box::pin(work(cell.clone()));
    let host = app.clone();
    // To make a span takes longer than much of what a call does: in those of deployments, whoever logs says the id.
    let span = match call.kind {
        CallKind::Infer => Span::none(),
        CallKind::Publish | CallKind::Deploy => span(call.invocation),
    };
    let (used, guests) = (cell.clone(), app.guests.clone());
    let run = async move {
        let (outcome, value) = match AssertUnwindSafe(work).catch_unwind().await {
            Ok((outcome, value)) => (outcome, Some(value)),
            Err(_panic) => {
                tracing::error!(invocation = %call.invocation, "a call panicked in the host");
                (Outcome::HostFault, None)
            }
        };
        let finished = Finished {
            call,
            outcome,
            usage: cell.snapshot(),
        };
        record(&host, finished).await.map(|recorded| (value, recorded))
    };
    let run = run.instrument(span);
    let ran = match begin {
        Where::Guests => guests.spawn(run).await,
        Where::Here => brief_first(Box::pin(run), used, guests).await,
    };
    ran.map_err(|_| Error::Internal)?
}

/// Whatever is logged within it carries the call's id.
pub fn span(invocation: InvocationId) -> Span {
    tracing::error_span!("call", %invocation)
}

/// Journals an ended call, then lets the next slice claim it.
async fn record(app: &App, finished: Finished) -> Result<Recorded, Error> {
    if app.config.unmetered {
        return Ok(Recorded {
            finished: Arc::new(finished),
            provisional_uj: None,
        });
    }
    let provisional_uj = app.learnt.provisional_uj(&finished.call, &finished.usage);
    let finished = Arc::new(finished);
    let record = Record::Finished(finished.clone());
    let journalled = app.journal.append(&record).await;
    fault::point("after-journal");
    app.metrics.ended(&finished);
    // Also when the journal failed and no reply leaves: the next slice still claims what was used.
    app.live.end(finished.clone(), provisional_uj);
    journalled?;
    Ok(Recorded {
        finished,
        provisional_uj,
    })
}
