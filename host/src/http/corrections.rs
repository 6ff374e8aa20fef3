//! `/api/v1/ledger/corrections`: repairs of what was posted, each with a reason.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use db::{Action, CorrectionRow};
use domain::correction::Correction;
use domain::posting::Unit;
use domain::{Digest, Epoch, Name, NodeId, TenantId};
use serde::de::IntoDeserializer as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json;
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::auth::Principal;
use super::carbon::EVERYONES;
use super::extract::Query;
use super::idempotency::Act;
use super::page::{Page, asked};
use super::refusals::{Bodied, Keyed, Named};
use super::{Shared, body, reason, schema};
use crate::app::App;
use crate::flow::{Error, correct};

/// The most that is corrected at once: what no column overflows by.
const MOST: i64 = 1_000_000_000_000_000_000;

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list_corrections, create_correction))
}

/// A repair of what a posting moved.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewCorrection {
    /// Whose use it corrects.
    #[schema(value_type = Uuid)]
    tenant: TenantId,
    /// Of which deployment; left out for what belongs to none, such as uploads and allocations.
    #[serde(default)]
    #[schema(value_type = Option<schema::Name>)]
    deployment: Option<Name>,
    /// In which unit.
    #[serde(deserialize_with = "unit")]
    #[schema(value_type = schema::Unit)]
    unit: Unit,
    /// How much is added to its use; below 0, how much is taken off: no more than what is cited moved there.
    #[schema(maximum = 1_000_000_000_000_000_000_i64, example = json!(-1_500))]
    amount: i64,
    /// The hash of the posting that it corrects: see `/api/v1/ledger/windows`.
    #[schema(value_type = schema::Digest)]
    cites: Digest,
    /// Why, in words.
    #[schema(
        min_length = 1,
        max_length = 500,
        pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$",
        example = "the meter of node a was wrong on 3 May"
    )]
    reason: String,
}

/// A unit as a word; serde by itself takes one from an object, too.
fn unit<'de, D: Deserializer<'de>>(field: D) -> Result<Unit, D::Error> {
    let word = String::deserialize(field)?;
    Unit::deserialize(word.as_str().into_deserializer())
}

/// A repair, and its posting.
#[derive(Serialize, ToSchema)]
struct KeptCorrection {
    /// Its id.
    id: Uuid,
    /// When it was asked for.
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
    /// Whose use it corrects.
    #[schema(value_type = Uuid)]
    tenant: TenantId,
    /// Of which deployment; null for what belongs to none.
    #[schema(value_type = Option<schema::Name>)]
    deployment: Option<Name>,
    /// In which unit.
    #[schema(value_type = schema::Unit)]
    unit: Unit,
    /// How much is added to its use, or taken off it.
    amount: i64,
    /// The hash of the posting that it corrects.
    #[schema(value_type = schema::Digest)]
    cites: Digest,
    /// Why.
    reason: String,
    /// The id of the admin's key.
    key: Uuid,
    /// SHA-256 over all of that: the `input_digest` of its posting.
    #[schema(value_type = schema::Digest)]
    digest: Digest,
    /// Its posting; null until the node has sealed and posted it.
    posting: Option<PostingKey>,
    /// When that entered the ledger.
    #[serde(with = "time::serde::rfc3339::option")]
    posted_at: Option<OffsetDateTime>,
}

/// Where a posting stands.
#[derive(Serialize, ToSchema)]
#[schema(as = CorrectionPosting)]
struct PostingKey {
    /// The host's node.
    #[schema(value_type = Uuid)]
    node: NodeId,
    /// The start of the host that sealed it.
    #[schema(value_type = Uuid)]
    epoch: Epoch,
    /// Its number there.
    seq: u64,
}

impl From<CorrectionRow> for KeptCorrection {
    fn from(row: CorrectionRow) -> Self {
        let digest = row.correction.digest();
        let it = row.correction;
        Self {
            id: it.id,
            at: it.at,
            tenant: it.tenant,
            deployment: it.deployment,
            unit: it.unit,
            amount: it.amount,
            cites: it.cites,
            reason: it.reason,
            key: it.key,
            digest,
            posting: row.posting.map(|key| PostingKey {
                node: key.node,
                epoch: key.epoch,
                seq: key.seq,
            }),
            posted_at: row.posted_at,
        }
    }
}

asked! {
    /// Which corrections.
    pub struct CorrectionsAsked {
        /// Only those of this tenant.
        #[param(value_type = Option<Uuid>)]
        tenant: Option<TenantId>,
    }
}

/// List corrections
///
/// In the order of time. Admins, billing and auditors see all; a tenant, with a key that manages or reads, its own.
#[utoipa::path(
    get, path = "/api/v1/ledger/corrections", tag = "ledger",
    params(CorrectionsAsked),
    responses((status = 200, body = Page<KeptCorrection>, description = "A page of them."), Keyed)
)]
async fn list_corrections(
    State(app): Shared,
    principal: Principal,
    Query(asked): Query<CorrectionsAsked>,
) -> Result<Json<Page<KeptCorrection>>, Error> {
    let own = principal.sees(&EVERYONES, asked.tenant)?;
    let listing = asked.of::<Uuid>("corrections")?;
    let rows = match own {
        Some(own) => {
            app.db
                .tenant_tx(own)
                .await?
                .corrections_list(&listing.cut)
                .await?
        }
        None => {
            let mut tx = app.db.billing_tx().await?;
            tx.corrections_list(asked.tenant, &listing.cut).await?
        }
    };
    Ok(listing.page(rows))
}

/// Correct what was posted
///
/// Nothing is edited: energy or fuel moves between the tenant and the platform, in a posting of its own that cites
/// what it corrects. It counts in the month in which it is sealed, which is within moments, so a closed month stays
/// what it was. For admins, and in the audit trail.
#[utoipa::path(
    post, path = "/api/v1/ledger/corrections", tag = "ledger",
    request_body = NewCorrection,
    responses((status = 201, body = KeptCorrection, description = "It will be sealed."), Keyed, Bodied, Named)
)]
async fn create_correction(
    State(app): Shared,
    act: Act,
    body: body::Json,
) -> Result<(StatusCode, Json<KeptCorrection>), Error> {
    act.administers()?;
    let new: NewCorrection = body.read().await?;
    reason(&new.reason)?;
    if new.amount == 0 || new.amount.unsigned_abs() > MOST.unsigned_abs() {
        let message = format!("give -{MOST} to {MOST}, and not 0");
        return Err(Error::invalid("amount", message));
    }
    let now = app.clock.now();
    let correction = Correction {
        id: app.clock.mint(),
        at: now.replace_microsecond(now.microsecond()).unwrap_or(now),
        tenant: new.tenant,
        deployment: new.deployment,
        unit: new.unit,
        amount: new.amount,
        cites: new.cites,
        reason: new.reason,
        key: act.actor.key().ok_or(Error::Internal)?.0,
    };
    let mut tx = app.db.admin_tx().await?;
    if tx.tenant_get(correction.tenant).await?.is_none() {
        return Err(Error::not_found("tenant", correction.tenant));
    }
    correct::ask(&app, &mut tx, &correction).await?;
    let details = json!({
        "amount": correction.amount, "unit": correction.unit, "cites": correction.cites, "reason": correction.reason,
    });
    let (tenant, id) = (Some(correction.tenant), correction.id);
    tx.audit(act.actor, tenant, Action::CorrectionCreate, id, details)
        .await?;
    let kept = KeptCorrection::from(CorrectionRow {
        correction,
        node: app.node,
        posting: None,
        posted_at: None,
    });
    act.commit(tx, StatusCode::CREATED, &kept).await?;
    app.correction_asked.notify_one();
    Ok((StatusCode::CREATED, Json(kept)))
}
