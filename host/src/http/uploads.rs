//! Uploads: what components and graphs have in common.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use db::Actor;
use domain::{Name, TenantId};
use serde::Serialize;

use super::auth::Principal;
use super::page::{Listing, Page};
use super::{Charged, body, named, problem};
use crate::app::App;
use crate::flow::Error;
use crate::flow::publish::Published;

/// Takes the bytes that come under `name` and hands them to `publish`. The answer is 201 with a new row, 200
/// with the one that was there, and what it cost.
pub async fn take<View, Row, Publish>(
    app: &Arc<App>,
    principal: &Principal,
    name: &str,
    body: Body,
    limit_bytes: u64,
    publish: Publish,
) -> Result<Response, Error>
where
    Publish: AsyncFnOnce(&Arc<App>, Actor, TenantId, Name, Bytes) -> Result<Published<Row>, Error>,
    View: From<Row> + Serialize,
{
    let tenant = principal.manages()?;
    let name = named(name)?;
    let _turn = app.admission.turn(tenant).await?;
    let bytes = body::upload(body, limit_bytes).await?;
    let Published { row, fresh, recorded } = publish(app, principal.actor, tenant, name, bytes).await?;
    let status = match fresh {
        true => StatusCode::CREATED,
        false => StatusCode::OK,
    };
    let charged = Charged {
        made: View::from(row),
        invocation: recorded.finished.call.invocation,
    };
    Ok((status, problem::cost(&recorded, None), Json(charged)).into_response())
}

/// A page of the uploads under a name: whatever has a name has at least one.
pub fn some<View: From<Row>, Row>(
    what: &'static str,
    name: &Name,
    listing: &Listing<i64>,
    rows: db::Page<Row, i64>,
) -> Result<Json<Page<View>>, Error> {
    match rows.items.is_empty() && listing.cut.after.is_none() {
        true => Err(Error::not_found(what, name)),
        false => Ok(listing.page(rows)),
    }
}
