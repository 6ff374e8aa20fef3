//! `/api/v1/usage/graphs`: the work of models over time, by the ledger.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use db::{GraphUsageFilter, GraphUsageGroups};
use domain::{Digest, Name, Role, TenantId};
use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::Principal;
use super::extract::Query;
use super::page::{Page, asked};
use super::refusals::Keyed;
use super::usage::{span, whole_hours};
use super::{Shared, schema};
use crate::app::App;
use crate::flow::Error;

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list_graph_usage))
}

/// What models worked, by what it was asked to be summed up by. Energy is counted by deployment: the ledger does not
/// split it by graph.
#[derive(Serialize, ToSchema)]
struct GraphUsage {
    /// When the hour, day or month began, in UTC; null without one.
    #[serde(with = "time::serde::rfc3339::option")]
    from: Option<OffsetDateTime>,
    /// The tenant; null where it is not by tenant.
    #[schema(value_type = Option<Uuid>)]
    tenant: Option<TenantId>,
    /// The deployment; null where it is not by deployment.
    #[schema(value_type = Option<schema::Name>)]
    deployment: Option<Name>,
    /// The graph's digest; null where it is not by graph.
    #[schema(value_type = Option<schema::Digest>)]
    graph: Option<Digest>,
    /// Runs.
    runs: u64,
    /// Rows over all runs.
    rows: u64,
    /// CPU time, in nanoseconds.
    cpu_ns: u64,
    /// Tokens over all runs: elements of the input `input_ids` of graphs that have one.
    tokens: u64,
}

impl From<db::GraphUsage> for GraphUsage {
    fn from(row: db::GraphUsage) -> Self {
        Self {
            from: row.from,
            tenant: row.tenant,
            deployment: row.deployment,
            graph: row.graph,
            runs: row.runs,
            rows: row.rows,
            cpu_ns: row.cpu_ns,
            tokens: row.tokens,
        }
    }
}

asked! {
    /// Which work.
    pub struct Asked {
        /// Only in this hour or later: a whole hour in UTC.
        #[serde(default, with = "time::serde::rfc3339::option")]
        from: Option<OffsetDateTime>,
        /// Only in hours before this one: a whole hour in UTC.
        #[serde(default, with = "time::serde::rfc3339::option")]
        to: Option<OffsetDateTime>,
        /// What to sum up by, with commas between: any of `tenant`, `deployment` and `graph`, then one of `hour`,
        /// `day` and `month`. Without it the answer is one sum.
        #[param(
            pattern = "^((tenant|deployment|graph),)*(tenant|deployment|graph|hour|day|month)$",
            example = "graph,day"
        )]
        group_by: Option<String>,
        /// Only that of this tenant.
        #[param(value_type = Option<Uuid>)]
        tenant: Option<TenantId>,
        /// Only that of this deployment.
        #[param(value_type = Option<schema::Name>)]
        deployment: Option<Name>,
        /// Only that on the graph with this digest.
        #[param(value_type = Option<schema::Digest>)]
        graph: Option<Digest>,
    }
}

impl Asked {
    fn groups(&self) -> Result<GraphUsageGroups, Error> {
        let mut groups = GraphUsageGroups::default();
        let words = self.group_by.iter().flat_map(|words| words.split(','));
        for word in words {
            match word {
                "tenant" => groups.tenant = true,
                "deployment" => groups.deployment = true,
                "graph" => groups.graph = true,
                _ if groups.span.is_none() => {
                    groups.span = Some(span(word).ok_or_else(|| grouping(word))?);
                }
                _ => return Err(grouping(word)),
            }
        }
        Ok(groups)
    }

    fn filter(self) -> Result<GraphUsageFilter, Error> {
        whole_hours(self.from, self.to)?;
        Ok(GraphUsageFilter {
            tenant: self.tenant,
            deployment: self.deployment,
            graph: self.graph,
            from: self.from,
            to: self.to,
        })
    }
}

fn grouping(word: &str) -> Error {
    let message = format!(
        "{word:?} cannot be summed up by: give any of tenant, deployment and graph, and one of hour, day and month"
    );
    Error::invalid("group_by", message)
}

/// Sum up the work of models
///
/// Runs, rows, tokens and CPU time of graphs, of all windows that the ledger has: a window counts in the hour, in UTC,
/// in which it ends. Admins, billing and auditors see everyone's; a tenant, with a key that manages or reads, its own.
#[utoipa::path(
    get, path = "/api/v1/usage/graphs", tag = "usage",
    params(Asked),
    responses((status = 200, body = Page<GraphUsage>, description = "A page of sums, the earliest first."), Keyed)
)]
async fn list_graph_usage(
    State(app): Shared,
    principal: Principal,
    Query(asked): Query<Asked>,
) -> Result<Json<Page<GraphUsage>>, Error> {
    let own = principal.sees(&[Role::Admin, Role::Billing, Role::Auditor], asked.tenant)?;
    let groups = asked.groups()?;
    // Grouped otherwise, it is another list.
    let listing = asked.of(format!(
        "usage/graphs/{}",
        asked.group_by.as_deref().unwrap_or_default()
    ))?;
    let (filter, cut) = (asked.filter()?, &listing.cut);
    let _turn = app.admission.read(own).await?;
    let rows = match own {
        Some(own) => {
            let mut tx = app.db.tenant_tx(own).await?;
            tx.graph_usage_list(groups, &filter, cut).await?
        }
        None => {
            let mut tx = app.db.billing_tx().await?;
            tx.graph_usage_list(groups, &filter, cut).await?
        }
    };
    Ok(listing.page(rows))
}
