//! Uploads: what components and graphs have in common.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use db::{Actor, DbError, TenantTx};
use domain::{Name, TenantId};
use serde::Serialize;

use super::idempotency::Act;
use super::{Charged, body, named, problem};
use crate::app::App;
use crate::flow::publish::Published;
use crate::flow::{Error, quota};

/// Takes the bytes that come under `name` and hands them to `publish`. The answer is 201 with a new row, 200
/// with the one that was there, and what it cost.
pub async fn take<View, Row, Publish>(
    app: &Arc<App>,
    act: &Act,
    name: &str,
    body: Body,
    limit_bytes: u64,
    publish: Publish,
) -> Result<Response, Error>
where
    Publish: AsyncFnOnce(&Arc<App>, Actor, TenantId, Name, Bytes) -> Result<Published<Row>, Error>,
    View: From<Row> + Serialize,
{
    let tenant = act.manages()?;
    let name = named(name)?;
    quota::upload(app, tenant).await?;
    let _turn = app.admission.turn(tenant).await?;
    let bytes = body::upload(body, limit_bytes).await?;
    let Published {
        row,
        fresh,
        recorded,
        tx,
    } = publish(app, act.actor, tenant, name, bytes).await?;
    let status = match fresh {
        true => StatusCode::CREATED,
        false => StatusCode::OK,
    };
    let charged = Charged {
        made: View::from(row),
        invocation: recorded.finished.call.invocation,
    };
    let ((), recorded) = recorded.with(act.commit(tx, status, &charged).await)?;
    Ok((status, problem::cost(&recorded, None), Json(charged)).into_response())
}

/// Hides something of the tenant, as `hide` does it; `missing` if there is none.
pub async fn hide<Hide>(
    app: &App,
    act: &Act,
    tenant: TenantId,
    missing: impl Fn() -> Error,
    hide: Hide,
) -> Result<StatusCode, Error>
where
    Hide: AsyncFnOnce(&mut TenantTx) -> Result<(), DbError>,
{
    let mut tx = app.db.tenant_tx(tenant).await?;
    hide(&mut tx).await.map_err(|error| match error {
        DbError::NotFound(_) => missing(),
        other => other.into(),
    })?;
    act.commit(tx, StatusCode::NO_CONTENT, &()).await?;
    Ok(StatusCode::NO_CONTENT)
}
