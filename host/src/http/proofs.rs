//! `/api/v1/receipts/{id}/proof`: a receipt that proves itself to whoever has the public key.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use domain::proof::ReceiptProof;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::Principal;
use super::extract::Path;
use super::refusals::{Early, Keyed, Named};
use super::{Shared, schema};
use crate::app::App;
use crate::flow::{Error, prove};

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(get_receipt_proof))
}

/// Get a receipt's proof
///
/// Its lines, and from each the way up to a signed checkpoint: `wattle receipt verify` needs nothing else but the
/// signer's public key, and no host. It says nothing of other tenants' calls and nothing of the node's power.
/// There is one once the receipt is final and a checkpoint covers all of its lines.
#[utoipa::path(
    get, path = "/api/v1/receipts/{id}/proof", tag = "receipts",
    params(("id" = Uuid, Path, description = "The call's id: `wattle-receipt` in its reply.")),
    responses(
        (status = 200, body = schema::proof::ReceiptProof, description = "The proof."),
        Keyed, Named, Early
    )
)]
async fn get_receipt_proof(
    State(app): Shared,
    principal: Principal,
    Path(id): Path<String>,
) -> Result<Json<ReceiptProof>, Error> {
    let tenant = principal.belongs()?;
    let invocation = id.parse().map_err(|_| Error::not_found("receipt", &id))?;
    let _turn = app.admission.read(Some(tenant)).await?;
    Ok(Json(prove::prove(&app, tenant, invocation).await?))
}
