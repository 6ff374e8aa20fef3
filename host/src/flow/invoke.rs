//! Invoke: admit, queue, instantiate, run, record, reply.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use domain::posting::CallKind;
use domain::{DType, InvocationId, Limits, Name, Outcome, TenantId, UsageCell};
use runtime::{Failure, Graphs, Request, Response};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::Error;
use super::bare::bare;
use super::brief::{SMALL_BYTES, is_brief};
use super::metered::{Recorded, Where, call, metered, span};
use super::releases::{Body, Release};
use super::signature::{check_answer, check_encoding, check_request};
use crate::app::App;

/// An answered call.
pub struct Answer<T> {
    /// The answer as the caller's protocol writes it.
    pub reply: T,
    /// What was recorded.
    pub recorded: Recorded,
}

/// A request, and the CPU time in nanoseconds that it took to get it out of the caller's protocol.
pub struct Parsed {
    /// What is asked.
    pub request: Request,
    /// What parsing cost: the call pays for it.
    pub cpu_ns: u64,
}

impl From<Request> for Parsed {
    fn from(request: Request) -> Self {
        Self { request, cpu_ns: 0 }
    }
}

/// How the caller's protocol writes answers.
pub struct Encoding<F> {
    /// What it is called, for messages.
    pub name: &'static str,
    /// Whether elements of a type have a form in it.
    pub has: fn(DType) -> bool,
    /// Writes the answer of a release to the caller's id, within its limits. It is a part of the call: metered,
    /// and done before the call's place is free.
    pub encode: F,
}

/// Calls a deployment. When the returned future is dropped, the call is cancelled and still recorded.
///
/// `request` is awaited when the call has its place: no more calls are parsed at once than run at once, and what
/// waits for a place does so in the form in which it came.
pub async fn invoke<T, F>(
    app: &Arc<App>,
    tenant: TenantId,
    deployment: &Name,
    number: Option<u32>,
    request: impl Future<Output = Result<Parsed, Error>>,
    encoding: Encoding<F>,
) -> Result<Answer<T>, Error>
where
    T: Send + 'static,
    F: FnOnce(&str, u32, Response, &Limits) -> Result<T, Failure> + Send + 'static,
{
    let started = Instant::now();
    let row = app.releases.row(app, tenant, deployment, number).await?;
    let place = app.admission.place(tenant, deployment, &row.spec.limits).await?;
    let Parsed { mut request, cpu_ns } = request.await?;
    check_request(&row.spec.signature, &request)?;
    check_encoding(&row.spec.signature, &request.outputs, encoding.name, encoding.has)?;
    let deadline = started + Duration::from_millis(row.spec.limits.deadline_ms);

    let call = call(app, CallKind::Infer, tenant, Some((deployment, row.number)));
    let id = call.invocation;
    let callers_id = request.id.clone();
    if request.id.is_empty() {
        request.id = id.to_string();
    }
    let cancel = CancellationToken::new();
    let _cancel_when_dropped = cancel.clone().drop_guard();
    let host = app.clone();
    let ready = app.releases.ready(tenant, &row);
    let begin = match &ready {
        Some(release) if release.habit.is_brief() && request.bytes() <= SMALL_BYTES => Where::Here,
        _ => Where::Guests,
    };
    let work = move |cell: Arc<UsageCell>| async move {
        let _place = place;
        cell.add_cpu_ns(cpu_ns);
        let answer = async {
            let loaded = match ready {
                Some(release) => release,
                None => {
                    let load = host.releases.load(&host, tenant, &row, &cell);
                    Box::pin(load.instrument(span(id))).await?
                }
            };
            let (graphs, settings) = (loaded.body.graphs(), loaded.settings.clone());
            let limits = &row.spec.limits;
            let mut inv = invocation(id, tenant, limits, &cell, cancel, graphs, settings);
            inv.deadline = deadline;
            let reply = pin!(async {
                let response = run(&loaded, request, inv).await?;
                // What was long when it last waited, or answers much, is written on the guests' threads too.
                if !is_brief(&cell) {
                    tokio::task::yield_now().await;
                }
                (encoding.encode)(&callers_id, row.number, response, limits)
            });
            let reply = inference::metered_polls(&cell, reply).await;
            loaded.habit.note(&cell);
            Ok(reply?)
        };
        match answer.await {
            Ok(reply) => (Outcome::Ok, Ok(reply)),
            Err(Error::Failed(failure)) => (failure.outcome, Err(Error::Failed(failure))),
            Err(error) => (Outcome::HostFault, Err(error)),
        }
    };
    let (result, recorded) = metered(app, call, begin, work).await?;
    let (reply, recorded) = recorded.with(result.unwrap_or(Err(Error::Internal)))?;
    Ok(Answer { reply, recorded })
}

/// What the sandbox needs to know of a call that starts now.
pub fn invocation(
    invocation: InvocationId,
    tenant: TenantId,
    limits: &Limits,
    cell: &Arc<UsageCell>,
    cancel: CancellationToken,
    graphs: Graphs,
    settings: Arc<BTreeMap<String, String>>,
) -> runtime::Invocation {
    runtime::Invocation {
        invocation,
        tenant,
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
