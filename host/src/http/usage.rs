//! `/api/v1/usage`: what tenants used over time, by the ledger.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use db::{Span, UsageFilter, UsageGroups};
use domain::posting::CallKind;
use domain::{Name, Role, TenantId};
use serde::de::IntoDeserializer as _;
use serde::de::value::Error as WordError;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::Principal;
use super::extract::Query;
use super::page::{Page, asked};
use super::refusals::Keyed;
use super::{Shared, schema};
use crate::app::App;
use crate::flow::Error;

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list_usage))
}

/// What was used, by what it was asked to be summed up by.
#[derive(Serialize, ToSchema)]
struct Usage {
    /// When the hour, day or month began, in UTC; null without one.
    #[serde(with = "time::serde::rfc3339::option")]
    from: Option<OffsetDateTime>,
    /// The tenant; null where it is not by tenant.
    #[schema(value_type = Option<Uuid>)]
    tenant: Option<TenantId>,
    /// The deployment; null where it is not by deployment, and for what belongs to none, such as uploads.
    #[schema(value_type = Option<schema::Name>)]
    deployment: Option<Name>,
    /// What the calls were for; null where it is not by kind.
    #[schema(value_type = Option<schema::CallKind>)]
    kind: Option<CallKind>,
    /// Calls that ended, by outcome.
    calls: BTreeMap<String, u64>,
    /// Fuel.
    fuel: u64,
    /// CPU time of pipelines and of host calls on their behalf, in nanoseconds.
    cpu_ns: u64,
    /// CPU time of models, in nanoseconds.
    model_ns: u64,
    /// Bytes of requests and of tensors that went to models.
    bytes_in: u64,
    /// Bytes of answers and of tensors that came from models.
    bytes_out: u64,
    /// Energy in microjoules of what readings cover; null where they cover nothing.
    energy_uj: Option<u64>,
    /// Parts of receipts: one for each call and window of the ledger.
    lines: u64,
    /// Those of them that no reading covers: their energy is not known, and not in the sum.
    lines_unmetered: u64,
}

impl From<db::Usage> for Usage {
    fn from(row: db::Usage) -> Self {
        Self {
            from: row.from,
            tenant: row.tenant,
            deployment: row.deployment,
            kind: row.kind,
            calls: row.calls,
            fuel: row.fuel,
            cpu_ns: row.cpu_ns,
            model_ns: row.model_ns,
            bytes_in: row.bytes_in,
            bytes_out: row.bytes_out,
            energy_uj: row.energy_uj,
            lines: row.lines,
            lines_unmetered: row.lines_unmetered,
        }
    }
}

asked! {
    /// Which usage.
    pub struct Asked {
        /// Only in this hour or later: a whole hour in UTC.
        #[serde(default, with = "time::serde::rfc3339::option")]
        from: Option<OffsetDateTime>,
        /// Only in hours before this one: a whole hour in UTC.
        #[serde(default, with = "time::serde::rfc3339::option")]
        to: Option<OffsetDateTime>,
        /// What to sum up by, with commas between: any of `tenant`, `deployment` and `kind`, then one of `hour`,
        /// `day` and `month`. Without it the answer is one sum.
        #[param(
            pattern = "^((tenant|deployment|kind),)*(tenant|deployment|kind|hour|day|month)$",
            example = "deployment,day"
        )]
        group_by: Option<String>,
        /// Only that of this tenant.
        #[param(value_type = Option<Uuid>)]
        tenant: Option<TenantId>,
        /// Only that of this deployment.
        #[param(value_type = Option<schema::Name>)]
        deployment: Option<Name>,
        /// Only that of calls of this kind.
        #[param(value_type = Option<schema::CallKind>)]
        kind: Option<CallKind>,
    }
}

impl Asked {
    fn groups(&self) -> Result<UsageGroups, Error> {
        let mut groups = UsageGroups::default();
        let Some(words) = &self.group_by else {
            return Ok(groups);
        };
        for word in words.split(',') {
            match word {
                "tenant" => groups.tenant = true,
                "deployment" => groups.deployment = true,
                "kind" => groups.kind = true,
                _ if groups.span.is_none() => {
                    groups.span = Some(span(word).ok_or_else(|| grouping(word))?);
                }
                _ => return Err(grouping(word)),
            }
        }
        Ok(groups)
    }

    fn filter(self) -> Result<UsageFilter, Error> {
        whole_hours(self.from, self.to)?;
        Ok(UsageFilter {
            tenant: self.tenant,
            deployment: self.deployment,
            kind: self.kind,
            from: self.from,
            to: self.to,
        })
    }
}

/// Refuses a span that begins or ends within an hour.
pub(super) fn whole_hours(from: Option<OffsetDateTime>, to: Option<OffsetDateTime>) -> Result<(), Error> {
    for (field, at) in [("from", from), ("to", to)] {
        if at.is_some_and(|at| at.unix_timestamp_nanos() % 3_600_000_000_000 != 0) {
            let message = "usage is kept by the hour: give a whole hour in UTC, such as 2027-01-31T13:00:00Z";
            return Err(Error::invalid(field, message));
        }
    }
    Ok(())
}

/// The span that `word` names.
pub(super) fn span(word: &str) -> Option<Span> {
    let span = Span::deserialize(word.into_deserializer());
    span.map_err(drop::<WordError>).ok()
}

fn grouping(word: &str) -> Error {
    let message = format!(
        "{word:?} cannot be summed up by: give any of tenant, deployment and kind, and one of hour, day and month; \
         the work of graphs is at /api/v1/usage/graphs"
    );
    Error::invalid("group_by", message)
}

/// Sum up usage
///
/// Of all windows that the ledger has: a window counts in the hour, in UTC, in which it ends, as its transfers do,
/// and a call where its last window does. Admins, billing and auditors see everyone's; a tenant, with a key that
/// manages or reads, its own.
#[utoipa::path(
    get, path = "/api/v1/usage", tag = "usage",
    params(Asked),
    responses((status = 200, body = Page<Usage>, description = "A page of sums, the earliest first."), Keyed)
)]
async fn list_usage(
    State(app): Shared,
    principal: Principal,
    Query(asked): Query<Asked>,
) -> Result<Json<Page<Usage>>, Error> {
    let own = principal.sees(&[Role::Admin, Role::Billing, Role::Auditor], asked.tenant)?;
    let groups = asked.groups()?;
    // Grouped otherwise, it is another list.
    let listing = asked.of(format!("usage/{}", asked.group_by.as_deref().unwrap_or_default()))?;
    let (filter, cut) = (asked.filter()?, &listing.cut);
    let _turn = app.admission.read(own).await?;
    let rows = match own {
        Some(own) => {
            app.db
                .tenant_tx(own)
                .await?
                .usage_list(groups, &filter, cut)
                .await?
        }
        None => {
            app.db
                .billing_tx()
                .await?
                .usage_list(groups, &filter, cut)
                .await?
        }
    };
    Ok(listing.page(rows))
}
