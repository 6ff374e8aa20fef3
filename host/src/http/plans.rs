//! `/api/v1/plans`: what use costs, from when on.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use db::{Action, DbError, PlanRow};
use domain::TenantId;
use domain::billing::{Currency, Prices, Rate};
use serde::{Deserialize, Serialize};
use serde_json::json;
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::Principal;
use super::carbon::{EVERYONES, believable};
use super::extract::Query;
use super::idempotency::Act;
use super::page::{Page, asked};
use super::refusals::{Bodied, Ended, Keyed, Named};
use super::{Shared, body, schema};
use crate::app::App;
use crate::flow::Error;
use crate::flow::close::PeriodError;

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list_plans, create_plan))
}

/// What use costs, from an instant on.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewPlan {
    /// Whose; every tenant's without one of its own, where it is left out.
    #[serde(default)]
    #[schema(value_type = Option<Uuid>)]
    tenant: Option<TenantId>,
    /// Since when it holds: not before the end of the last month that is closed.
    #[serde(with = "time::serde::rfc3339")]
    from: OffsetDateTime,
    /// In which currency.
    #[schema(value_type = schema::Currency)]
    currency: Currency,
    /// For a kWh of energy.
    #[serde(default)]
    #[schema(value_type = schema::Rate, required = false)]
    per_kwh: Rate,
    /// For 1,000,000,000 units of fuel.
    #[serde(default)]
    #[schema(value_type = schema::Rate, required = false)]
    per_gigafuel: Rate,
    /// For a GB·s of memory: the most memory at once of a call times its CPU time.
    #[serde(default)]
    #[schema(value_type = schema::Rate, required = false)]
    per_gb_second: Rate,
    /// For 1,000,000 tokens: elements of the input `input_ids` of graphs that have one.
    #[serde(default)]
    #[schema(value_type = schema::Rate, required = false)]
    per_megatoken: Rate,
    /// For a call of a deployment that ended, however it did.
    #[serde(default)]
    #[schema(value_type = schema::Rate, required = false)]
    per_call: Rate,
    /// For a month, in proportion to the time that the plan holds in it.
    #[serde(default)]
    #[schema(value_type = schema::Rate, required = false)]
    per_month: Rate,
}

/// A price plan. It is never changed: a change is a further plan.
#[derive(Serialize, ToSchema)]
struct PricePlan {
    /// Its number, in the order in which plans were made.
    id: i64,
    /// Whose; null for every tenant without one of its own.
    #[schema(value_type = Option<Uuid>)]
    tenant: Option<TenantId>,
    /// Since when it holds, until a later one of the same tenant does.
    #[serde(with = "time::serde::rfc3339")]
    from: OffsetDateTime,
    /// In which currency.
    #[schema(value_type = schema::Currency)]
    currency: Currency,
    /// For a kWh of energy.
    #[schema(value_type = schema::Rate)]
    per_kwh: Rate,
    /// For 1,000,000,000 units of fuel.
    #[schema(value_type = schema::Rate)]
    per_gigafuel: Rate,
    /// For a GB·s of memory.
    #[schema(value_type = schema::Rate)]
    per_gb_second: Rate,
    /// For 1,000,000 tokens.
    #[schema(value_type = schema::Rate)]
    per_megatoken: Rate,
    /// For a call.
    #[schema(value_type = schema::Rate)]
    per_call: Rate,
    /// For a month.
    #[schema(value_type = schema::Rate)]
    per_month: Rate,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
}

impl From<PlanRow> for PricePlan {
    fn from(row: PlanRow) -> Self {
        let PlanRow { plan, created_at } = row;
        let prices = plan.prices;
        Self {
            id: plan.id,
            tenant: plan.tenant,
            from: plan.from,
            currency: plan.currency,
            per_kwh: prices.per_kwh,
            per_gigafuel: prices.per_gigafuel,
            per_gb_second: prices.per_gb_second,
            per_megatoken: prices.per_megatoken,
            per_call: prices.per_call,
            per_month: prices.per_month,
            created_at,
        }
    }
}

asked! {
    /// Which plans.
    pub struct PlansAsked {
        /// Only those of this tenant and those of everyone.
        #[param(value_type = Option<Uuid>)]
        tenant: Option<TenantId>,
    }
}

/// List price plans
///
/// In the order in which they were made. Admins, billing and auditors see all; a tenant, with a key that manages or
/// reads, its own and those of everyone.
#[utoipa::path(
    get, path = "/api/v1/plans", tag = "billing",
    params(PlansAsked),
    responses((status = 200, body = Page<PricePlan>, description = "A page of them."), Keyed)
)]
async fn list_plans(
    State(app): Shared,
    principal: Principal,
    Query(asked): Query<PlansAsked>,
) -> Result<Json<Page<PricePlan>>, Error> {
    let own = principal.sees(&EVERYONES, asked.tenant)?;
    let listing = asked.of::<i64>("plans")?;
    let rows = match own {
        Some(own) => app.db.tenant_tx(own).await?.plans_list(&listing.cut).await?,
        None => {
            let mut tx = app.db.billing_tx().await?;
            tx.plans_list(asked.tenant, &listing.cut).await?
        }
    };
    Ok(listing.page(rows))
}

/// Make a price plan
///
/// It holds from its instant on until a later one of the same tenant does; what is used counts by the plan that holds
/// where its window ends. A price that is left out is 0. Statements that are drawn up keep their prices: a plan that
/// would begin before the end of a closed month is refused (`period_closed`). For admins.
#[utoipa::path(
    post, path = "/api/v1/plans", tag = "billing",
    request_body = NewPlan,
    responses((status = 201, body = PricePlan, description = "The plan."), Keyed, Bodied, Named, Ended)
)]
async fn create_plan(
    State(app): Shared,
    act: Act,
    body: body::Json,
) -> Result<(StatusCode, Json<PricePlan>), Error> {
    act.administers()?;
    let new: NewPlan = body.read().await?;
    believable("from", Some(new.from))?;
    let whole_us = new.from.nanosecond().is_multiple_of(1_000);
    if !whole_us {
        return Err(Error::invalid("from", "give whole microseconds"));
    }
    let prices = Prices {
        per_kwh: new.per_kwh,
        per_gigafuel: new.per_gigafuel,
        per_gb_second: new.per_gb_second,
        per_megatoken: new.per_megatoken,
        per_call: new.per_call,
        per_month: new.per_month,
    };
    let mut tx = app.db.admin_tx().await?;
    let made = tx.plan_insert(new.tenant, new.from, new.currency, &prices).await;
    let made = made.map_err(|error| match (error, new.tenant) {
        (DbError::Reference { .. }, Some(tenant)) => Error::not_found("tenant", tenant),
        (error, _) => error.into(),
    })?;
    let Some(row) = made else {
        let month = domain::billing::Month::of(new.from).ok_or(Error::Internal)?;
        return Err(PeriodError::Closed(month).into());
    };
    let plan = PricePlan::from(row);
    let details =
        json!({ "from": plan.from.unix_timestamp(), "currency": plan.currency, "per_kwh": plan.per_kwh });
    tx.audit(act.actor, new.tenant, Action::PlanCreate, plan.id, details)
        .await?;
    act.commit(tx, StatusCode::CREATED, &plan).await?;
    Ok((StatusCode::CREATED, Json(plan)))
}
