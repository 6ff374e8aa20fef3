//! `/api/v1/ledger/checkpoints` and `/keys`: what was signed of the ledger, and by whom.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use db::{Action, CheckpointRow, SignerRow};
use domain::checkpoint::{NodeHead, SignedCheckpoint};
use domain::signature::{Signature, Signer, Succession};
use domain::{Digest, Epoch, NodeId, PublicKey};
use serde::Serialize;
use serde_json::json;
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::Principal;
use super::extract::Query;
use super::idempotency::Act;
use super::page::{Page, Part};
use super::refusals::Keyed;
use super::{Items, Shared, listed, schema};
use crate::app::App;
use crate::flow::Error;
use crate::signer::whole_us;

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list_checkpoints))
        .routes(routes!(list_signing_keys))
        .routes(routes!(rotate_signing_key))
}

/// A signed checkpoint, as the ledger has it.
#[derive(Serialize, ToSchema)]
struct LedgerCheckpoint {
    /// What is signed, with its signature: the form in which it is anchored and stands in proofs.
    #[schema(value_type = schema::proof::SignedCheckpoint)]
    signed: SignedCheckpoint,
    /// The hash of what is signed, which the next one names.
    #[schema(value_type = schema::Digest)]
    hash: Digest,
    /// Where each node's chain ended.
    heads: Vec<Head>,
}

/// Where a node's chain ended.
#[derive(Serialize, ToSchema)]
#[schema(as = NodeHead)]
struct Head {
    /// The node.
    #[schema(value_type = Uuid)]
    node: NodeId,
    /// The start of the host that sealed its last posting.
    #[schema(value_type = Uuid)]
    epoch: Epoch,
    /// That posting's number.
    seq: u64,
    /// That posting's hash.
    #[schema(value_type = schema::Digest)]
    hash: Digest,
}

impl From<NodeHead> for Head {
    fn from(head: NodeHead) -> Self {
        let NodeHead {
            node,
            epoch,
            seq,
            hash,
        } = head;
        Self {
            node,
            epoch,
            seq,
            hash,
        }
    }
}

impl From<CheckpointRow> for LedgerCheckpoint {
    fn from(row: CheckpointRow) -> Self {
        Self {
            signed: row.signed,
            hash: row.hash,
            heads: row.heads.into_iter().map(Head::from).collect(),
        }
    }
}

/// List checkpoints
///
/// Each covers what entered the ledger since the one before it, and names that one's hash.
#[utoipa::path(
    get, path = "/api/v1/ledger/checkpoints", tag = "ledger",
    params(Part),
    responses((status = 200, body = Page<LedgerCheckpoint>, description = "A page of them, the first first."), Keyed)
)]
async fn list_checkpoints(
    State(app): Shared,
    principal: Principal,
    Query(asked): Query<Part>,
) -> Result<Json<Page<LedgerCheckpoint>>, Error> {
    principal.audits()?;
    let listing = asked.of("checkpoints")?;
    let rows = app.db.billing_tx().await?.checkpoints_list(&listing.cut).await?;
    Ok(listing.page(rows))
}

/// A key that signs checkpoints, or signed some.
#[derive(Serialize, ToSchema)]
struct SigningKey {
    /// The key, by which others verify.
    #[schema(value_type = schema::proof::PublicKey)]
    key: PublicKey,
    /// The node on which it signs.
    #[schema(value_type = Uuid)]
    node: NodeId,
    /// Since when.
    #[serde(with = "time::serde::rfc3339")]
    since: OffsetDateTime,
    /// The key that it took over from; null for a first one.
    #[schema(value_type = Option<schema::proof::PublicKey>)]
    follows: Option<PublicKey>,
    /// That one's signature over both keys and the instant.
    #[schema(value_type = Option<schema::proof::Ed25519Signature>)]
    endorsement: Option<Signature>,
}

impl From<SignerRow> for SigningKey {
    fn from(SignerRow { node, signer }: SignerRow) -> Self {
        let Signer {
            key,
            since,
            succession,
        } = signer;
        let (follows, endorsement) = succession
            .map(|Succession { follows, endorsement }| (follows, endorsement))
            .unzip();
        Self {
            key,
            node,
            since,
            follows,
            endorsement,
        }
    }
}

/// List signing keys
///
/// The public keys of every host that signs checkpoints, and those that were replaced. Keep one's own copy: what a
/// ledger says of its own keys, whoever rewrites the ledger says too.
#[utoipa::path(
    get, path = "/api/v1/ledger/keys", tag = "ledger",
    responses((status = 200, body = Items<SigningKey>, description = "All of them, the oldest first."), Keyed)
)]
async fn list_signing_keys(
    State(app): Shared,
    principal: Principal,
) -> Result<Json<Items<SigningKey>>, Error> {
    principal.is_known()?;
    Ok(listed(app.db.billing_tx().await?.signers().await?))
}

/// Replace the signing key
///
/// This host signs with a fresh key from now on and forgets the one before, which names the new one with its last
/// signature and stays listed.
#[utoipa::path(
    post, path = "/api/v1/ledger/keys/rotate", tag = "ledger",
    responses((status = 201, body = SigningKey, description = "The new key."), Keyed)
)]
async fn rotate_signing_key(State(app): Shared, act: Act) -> Result<(StatusCode, Json<SigningKey>), Error> {
    act.administers()?;
    let mut signer = app.signer.lock().await;
    let mut tx = app.db.admin_tx().await?;
    tx.checkpoints_lock().await?;
    let next = signer.prepare()?;
    // Not before what the old one signed last, wherever the clock stands.
    let since = tx
        .checkpoint_at()
        .await?
        .map_or(app.clock.now(), |at| at.max(app.clock.now()));
    let since = whole_us(since);
    let row = SignerRow {
        node: app.node,
        signer: Signer {
            key: next.public(),
            since,
            succession: Some(signer.key().hand_over(next.public(), since)),
        },
    };
    tx.signer_insert(app.node, &row.signer).await?;
    let details = json!({ "follows": signer.key().public(), "node": app.node });
    tx.audit(act.actor, None, Action::LedgerRotateKey, next.public(), details)
        .await?;
    let answer = SigningKey::from(row);
    act.commit(tx, StatusCode::CREATED, &answer).await?;
    signer.adopt(next)?;
    Ok((StatusCode::CREATED, Json(answer)))
}
