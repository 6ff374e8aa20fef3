//! Invoke: admit, queue, instantiate, run, record, reply.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use domain::posting::CallKind;
use domain::{InvocationId, Limits, Name, Outcome, TenantId, UsageCell};
use runtime::{Failure, Graphs, Request, Response};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Error;
use super::bare::bare;
use super::metered::{Recorded, call, metered};
use super::releases::{Body, Release};
use super::signature::{check_answer, check_request};
use crate::app::App;

/// An answered call.
pub struct Answer {
    /// The release that answered.
    pub release: u32,
    /// The outputs.
    pub response: Response,
    /// What was recorded.
    pub recorded: Recorded,
}

/// Calls a deployment. When the returned future is dropped, the call is cancelled and still recorded.
pub async fn invoke(
    app: &Arc<App>,
    tenant: TenantId,
    deployment: &Name,
    number: Option<u32>,
    mut request: Request,
) -> Result<Answer, Error> {
    if app.draining() {
        return Err(Error::Draining);
    }
    if app.journal.is_filling() {
        return Err(Error::JournalFilling);
    }
    if app.journal.poisoned().is_some() {
        return Err(Error::JournalBroken);
    }
    let started = Instant::now();
    let row = app.releases.row(app, tenant, deployment, number).await?;
    check_request(&row.spec.signature, &request)?;
    let place = app.admission.place(tenant, deployment, &row.spec.limits).await?;
    let deadline = started + Duration::from_millis(row.spec.limits.deadline_ms);

    let call = call(app, CallKind::Infer, tenant, Some((deployment, row.number)));
    let id = call.invocation;
    if request.id.is_empty() {
        request.id = id.to_string();
    }
    let cancel = CancellationToken::new();
    let _cancel_when_dropped = cancel.clone().drop_guard();
    let (host, release) = (app.clone(), row.number);
    let work = move |cell: Arc<UsageCell>| async move {
        let _place = place;
        let loaded = match host.releases.load(&host, tenant, &row, &cell).await {
            Ok(loaded) => loaded,
            Err(error) => return (Outcome::HostFault, Err(Stop::Host(error))),
        };
        let (graphs, settings) = (loaded.body.graphs(), loaded.settings.clone());
        let mut inv = invocation(id, &row.spec.limits, &cell, cancel, graphs, settings);
        inv.deadline = deadline;
        match run(&loaded, request, inv).await {
            Ok(response) => (Outcome::Ok, Ok(response)),
            Err(failure) => (failure.outcome, Err(Stop::Guest(failure))),
        }
    };
    let (result, recorded) = metered(app, call, work).await?;
    match result {
        Some(Ok(response)) => Ok(Answer {
            release,
            response,
            recorded,
        }),
        Some(Err(Stop::Host(error))) => Err(error),
        Some(Err(Stop::Guest(failure))) => Err(failed(id, failure)),
        None => Err(Error::Internal),
    }
}

enum Stop {
    Host(Error),
    Guest(Failure),
}

fn failed(invocation: InvocationId, failure: Failure) -> Error {
    Error::Failed {
        invocation,
        outcome: failure.outcome,
        code: failure.code,
        message: failure.message,
        retryable: failure.retryable,
    }
}

/// What the sandbox needs to know of a call that starts now.
pub fn invocation(
    invocation: InvocationId,
    limits: &Limits,
    cell: &Arc<UsageCell>,
    cancel: CancellationToken,
    graphs: Graphs,
    settings: Arc<BTreeMap<String, String>>,
) -> runtime::Invocation {
    runtime::Invocation {
        invocation,
        limits: limits.clone(),
        cell: cell.clone(),
        cancel,
        deadline: Instant::now() + Duration::from_millis(limits.deadline_ms),
        graphs,
        settings,
    }
}

async fn run(release: &Release, request: Request, inv: runtime::Invocation) -> Result<Response, Failure> {
    match &release.body {
        Body::Pipeline(pipeline, _) => {
            let wanted = request.outputs.clone();
            let response = pipeline.infer(request, inv).await?;
            check_answer(&release.row.spec.signature, &wanted, response)
        }
        Body::Graph(graph) => bare(graph, request, inv).await,
    }
}
