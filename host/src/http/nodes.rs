//! `/api/v1/nodes`: the installations of the host, and how far each has drained into the ledger.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use db::{Action, DbError, NodeState};
use domain::NodeId;
use serde::{Deserialize, Serialize};
use serde_json::json;
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::Principal;
use super::extract::Path;
use super::idempotency::Act;
use super::refusals::{Bodied, Keyed, Named};
use super::{Items, Shared, body, listed, reason};
use crate::app::App;
use crate::flow::Error;

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list_nodes))
        .routes(routes!(lose_node))
}

/// A node.
#[derive(Serialize, ToSchema)]
struct Node {
    /// Its id.
    #[schema(value_type = Uuid)]
    id: NodeId,
    /// Its name.
    name: String,
    /// When it first came.
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    /// Where its last window in the ledger ends; null without one.
    #[serde(with = "time::serde::rfc3339::option")]
    drained_to: Option<OffsetDateTime>,
    /// When it last posted.
    #[serde(with = "time::serde::rfc3339::option")]
    posted_at: Option<OffsetDateTime>,
    /// Since when it is lost; null where it is not, or has posted since.
    #[serde(with = "time::serde::rfc3339::option")]
    lost_at: Option<OffsetDateTime>,
    /// Why it is lost.
    lost_reason: Option<String>,
}

impl From<NodeState> for Node {
    fn from(row: NodeState) -> Self {
        Self {
            id: row.id,
            name: row.name,
            created_at: row.created_at,
            drained_to: row.drained_to,
            posted_at: row.posted_at,
            lost_at: row.lost_at,
            lost_reason: row.lost_reason,
        }
    }
}

/// List nodes
#[utoipa::path(
    get, path = "/api/v1/nodes", tag = "billing",
    responses((status = 200, body = Items<Node>, description = "Every node, by name."), Keyed)
)]
async fn list_nodes(State(app): Shared, principal: Principal) -> Result<Json<Items<Node>>, Error> {
    principal.audits()?;
    Ok(listed(app.db.billing_tx().await?.node_states().await?))
}

/// Why.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Loss {
    /// Why it will not drain, in words.
    #[schema(
        min_length = 1,
        max_length = 500,
        pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$",
        example = "its disk broke"
    )]
    reason: String,
}

/// Declare a node lost
///
/// A lost node holds up no month. What it posts all the same is kept, ends the loss, and is in the statements of the
/// month that is closed next. For admins.
#[utoipa::path(
    post, path = "/api/v1/nodes/{id}/lost", tag = "billing",
    params(("id" = Uuid, Path, description = "The node's id.")),
    request_body = Loss,
    responses((status = 201, body = Loss, description = "It is lost."), Keyed, Bodied, Named)
)]
async fn lose_node(
    State(app): Shared,
    act: Act,
    Path(id): Path<String>,
    body: body::Json,
) -> Result<(StatusCode, Json<Loss>), Error> {
    act.administers()?;
    let loss: Loss = body.read().await?;
    reason(&loss.reason)?;
    let missing = || Error::not_found("node", &id);
    let node: NodeId = id.parse().map_err(|_| missing())?;
    let mut tx = app.db.admin_tx().await?;
    tx.node_lose(node, &loss.reason)
        .await
        .map_err(|error| match error {
            DbError::Reference { .. } => missing(),
            other => other.into(),
        })?;
    tx.audit(
        act.actor,
        None,
        Action::NodeLose,
        node,
        json!({ "reason": loss.reason }),
    )
    .await?;
    act.commit(tx, StatusCode::CREATED, &loss).await?;
    Ok((StatusCode::CREATED, Json(loss)))
}
