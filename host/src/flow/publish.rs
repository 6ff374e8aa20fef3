//! Publish: an upload becomes a revision, or a version of a graph.

use std::sync::Arc;

use bytes::Bytes;
use db::{Action, Actor};
use domain::posting::CallKind;
use domain::{Digest, Name, Outcome, TenantId, UsageCell};
use inference::LoadError;
use runtime::{CompileError, InspectError, UploadCaps};
use serde_json::json;

use super::Error;
use super::metered::{Recorded, Where, call, metered};
use super::quota::room;
use super::releases::code_id;
use crate::app::App;

/// What an upload became, once it is committed with the answer.
pub struct Published<Row> {
    /// The stored row.
    pub row: Row,
    /// Whether it is new; the same bytes again are the same row.
    pub fresh: bool,
    /// The record of the work.
    pub recorded: Recorded,
    /// The open transaction. It holds the tenant's other uploads off.
    pub tx: db::TenantTx,
}

/// Inspects, compiles and keeps a component; the tenant pays for the work also when it is refused.
pub async fn component(
    app: &Arc<App>,
    actor: Actor,
    tenant: TenantId,
    name: Name,
    upload: Bytes,
) -> Result<Published<db::Revision>, Error> {
    let host = app.clone();
    let work = move |cell: Arc<UsageCell>| async move {
        cell.add_bytes_in(upload.len() as u64);
        graded(compile(&host, tenant, upload, &cell).await)
    };
    let (prepared, recorded) = metered(
        app,
        call(app, CallKind::Publish, tenant, None),
        Where::Guests,
        work,
    )
    .await?;
    let (component, recorded) = recorded.with(prepared.unwrap_or(Err(Error::Internal)))?;
    let store = async {
        let digest = Digest::of(&component);
        let bytes = component.len() as u64;
        let mut tx = keep(app, tenant, digest, component).await?;
        let (row, fresh) = tx.component_revision_insert(&name, digest, bytes).await?;
        let details = json!({ "revision": digest, "bytes": bytes, "new": fresh });
        tx.audit(actor, Action::ComponentUpload, &name, details).await?;
        Ok((row, fresh, tx))
    };
    let ((row, fresh, tx), recorded) = recorded.with(store.await)?;
    Ok(Published {
        row,
        fresh,
        recorded,
        tx,
    })
}

/// Keeps an upload's bytes; the transaction in which to note them. Until it ends, no collector takes them.
async fn keep(app: &App, tenant: TenantId, digest: Digest, upload: Bytes) -> Result<db::TenantTx, Error> {
    // No transaction is open while the bytes are written: that may take long.
    app.blobs.put(digest, upload.clone()).await?;
    let mut tx = app.db.tenant_tx(tenant).await?;
    room(app, &mut tx, digest, upload.len() as u64).await?;
    tx.blob_hold(digest).await?;
    // They are there, unless they were of something deleted and the collector has just been here.
    app.blobs.put(digest, upload).await?;
    Ok(tx)
}

async fn compile(app: &App, tenant: TenantId, upload: Bytes, cell: &Arc<UsageCell>) -> Result<Bytes, Error> {
    let inspected = app
        .runtime
        .inspect(upload, UploadCaps::default(), cell.clone())
        .await?;
    let component = Bytes::from(inspected.component);
    let digest = Digest::of(&component);
    // Compiled code takes room on the disk as well, so what has none is not compiled.
    room(
        app,
        &mut app.db.tenant_tx(tenant).await?,
        digest,
        component.len() as u64,
    )
    .await?;
    app.runtime
        .compile(code_id(tenant, digest), component.clone(), cell)
        .await?;
    Ok(component)
}

/// The one encoding of graphs so far.
const ENCODING: &str = "onnx";

/// Loads a graph once, to know that it loads and what it takes, and keeps it.
pub async fn graph(
    app: &Arc<App>,
    actor: Actor,
    tenant: TenantId,
    name: Name,
    upload: Bytes,
) -> Result<Published<db::GraphVersion>, Error> {
    let digest = Digest::of(&upload);
    let (host, blob) = (app.clone(), upload.clone());
    let work = move |cell: Arc<UsageCell>| async move {
        cell.add_bytes_in(blob.len() as u64);
        let load = host
            .inference
            .load(tenant, digest, blob, inference::Target::Cpu, &cell);
        graded(load.await.map_err(Error::from))
    };
    let (loaded, recorded) = metered(
        app,
        call(app, CallKind::Publish, tenant, None),
        Where::Guests,
        work,
    )
    .await?;
    let (loaded, recorded) = recorded.with(loaded.unwrap_or(Err(Error::Internal)))?;
    let store = async {
        let bytes = upload.len() as u64;
        let mut tx = keep(app, tenant, digest, upload).await?;
        let (row, fresh) = tx
            .graph_version_insert(&name, digest, bytes, ENCODING, loaded.signature())
            .await?;
        let details = json!({ "version": digest, "bytes": bytes, "new": fresh });
        tx.audit(actor, Action::GraphUpload, &name, details).await?;
        Ok((row, fresh, tx))
    };
    let ((row, fresh, tx), recorded) = recorded.with(store.await)?;
    Ok(Published {
        row,
        fresh,
        recorded,
        tx,
    })
}

/// The outcome under which a publish or deploy is recorded.
pub fn graded<T>(result: Result<T, Error>) -> (Outcome, Result<T, Error>) {
    let outcome = match &result {
        Ok(_) => Outcome::Ok,
        Err(Error::Inspect(InspectError::Host(_)) | Error::Compile(CompileError::Io(_))) => {
            Outcome::HostFault
        }
        Err(Error::Load(LoadError::Unavailable { .. })) => Outcome::HostFault,
        Err(Error::Inspect(_) | Error::Compile(_) | Error::Load(_)) => Outcome::GuestFailure,
        Err(Error::Failed(failure)) => failure.outcome,
        Err(_) => Outcome::HostFault,
    };
    (outcome, result)
}
