//! `/api/v1/carbon` and `/api/v1/ledger/valuations`: what energy was worth in grams and litres, by what was known
//! when.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use db::{Span, UseFilter, Valuation, ValuationCursor, ValuationFilter};
use domain::carbon::{Figure, Valued};
use domain::{Name, NodeId, Role, TenantId};
use serde::de::IntoDeserializer as _;
use serde::de::value::Error as WordError;
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};
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
use crate::flow::worth::{self, Groups, Place, Sum};

/// Who sees everyone's.
pub(super) const EVERYONES: [Role; 3] = [Role::Admin, Role::Billing, Role::Auditor];

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(get_carbon))
        .routes(routes!(list_valuations))
}

/// Who says how much carbon a grid emits, and in which edition.
#[derive(Serialize, ToSchema)]
struct FactorVersion {
    /// Who.
    #[schema(example = "ember-owid-yearly")]
    source: String,
    /// Their edition.
    #[schema(example = "2023")]
    version: String,
}

/// A mass of carbon by one way of counting.
#[derive(Serialize, ToSchema)]
struct Carbon {
    /// In micrograms of CO₂ equivalent, of the energy that is covered; null where nothing is known.
    carbon_ug: Option<u64>,
    /// Energy whose factor is known, in microjoules; what it lacks of all energy is not in the mass.
    covered_uj: u64,
    /// The part of that whose factor is an estimate, in microjoules.
    estimated_uj: u64,
    /// Whether any of it is.
    is_estimated: bool,
    /// Every factor in it.
    factors: Vec<FactorVersion>,
}

impl From<Figure> for Carbon {
    fn from(figure: Figure) -> Self {
        let factors = figure.versions.into_iter();
        Self {
            carbon_ug: figure.amount,
            covered_uj: figure.covered_uj,
            estimated_uj: figure.estimated_uj,
            is_estimated: figure.estimated_uj > 0,
            factors: factors
                .map(|(source, version)| FactorVersion { source, version })
                .collect(),
        }
    }
}

/// An amount of water.
#[derive(Serialize, ToSchema)]
struct Water {
    /// In microlitres, of the energy that is covered; null where nothing is known.
    water_ul: Option<u64>,
    /// Energy that it covers, in microjoules.
    covered_uj: u64,
    /// The part of that which rests on an estimate, in microjoules.
    estimated_uj: u64,
    /// Whether any of it does.
    is_estimated: bool,
}

/// Carbon that it took to make the machines, by the CPU time used of them.
#[derive(Serialize, ToSchema)]
struct Embodied {
    /// The least that is plausible, in micrograms of CO₂ equivalent.
    min_ug: u64,
    /// The likely mass.
    mid_ug: u64,
    /// The most.
    max_ug: u64,
    /// CPU time of machines of which that is known, in nanoseconds.
    covered_cpu_ns: u64,
}

/// What use was worth. The three masses count the same energy in three ways: they are never to be added up.
#[derive(Serialize, ToSchema)]
struct Worth {
    /// Energy in microjoules: what was used, and what was allocated of what stood idle; null where no reading covers
    /// any of it.
    energy_uj: Option<u64>,
    /// CPU time of pipelines and models, in nanoseconds.
    cpu_ns: u64,
    /// Parts of receipts.
    lines: u64,
    /// Those of them that no reading covers: their energy is not known, and in no figure.
    lines_unmetered: u64,
    /// Location-based: by the average of the grid.
    location: Carbon,
    /// Market-based: by what is left of the market's mix, without what contracts cover.
    market: Carbon,
    /// What the same energy would have changed: by the plants that answer a change of load.
    marginal: Carbon,
    /// Water of the site and of making the electricity.
    water: Water,
    /// Null where nothing is known of the machines.
    embodied: Option<Embodied>,
}

impl Worth {
    fn new(valued: Valued, lines: u64, lines_unmetered: u64) -> Self {
        let water = valued.water;
        Self {
            energy_uj: valued.energy_uj,
            cpu_ns: valued.used_ns,
            lines,
            lines_unmetered,
            location: valued.location.into(),
            market: valued.market.into(),
            marginal: valued.marginal.into(),
            water: Water {
                water_ul: water.amount,
                covered_uj: water.covered_uj,
                estimated_uj: water.estimated_uj,
                is_estimated: water.estimated_uj > 0,
            },
            embodied: valued.embodied.map(|range| Embodied {
                min_ug: range.min_ug,
                mid_ug: range.mid_ug,
                max_ug: range.max_ug,
                covered_cpu_ns: valued.embodied_ns,
            }),
        }
    }
}

/// What use was worth, by what it was asked to be summed up by.
#[derive(Serialize, ToSchema)]
struct CarbonSum {
    /// When the hour, day or month began, in UTC; null without one.
    #[serde(with = "time::serde::rfc3339::option")]
    from: Option<OffsetDateTime>,
    /// The tenant; null where it is not by tenant.
    #[schema(value_type = Option<Uuid>)]
    tenant: Option<TenantId>,
    /// The deployment; null where it is not by deployment, and for what belongs to none.
    #[schema(value_type = Option<schema::Name>)]
    deployment: Option<Name>,
    #[serde(flatten)]
    worth: Worth,
}

impl CarbonSum {
    fn new(place: Place, sum: &Sum) -> Result<Self, Error> {
        Ok(Self {
            from: place.from,
            tenant: place.tenant,
            deployment: place.deployment,
            worth: Worth::new(sum.valued()?, sum.lines, sum.lines_unmetered),
        })
    }
}

/// Sums of what use was worth.
#[derive(Serialize, ToSchema)]
struct CarbonSums {
    /// Only what was known by then is in them: asked for again with this `as_of`, they are the same for ever, as long
    /// as the time that they are of has passed.
    #[serde(with = "time::serde::rfc3339")]
    as_of: OffsetDateTime,
    /// The sums, the earliest first.
    items: Vec<CarbonSum>,
}

/// Which use.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Asked {
    /// Only in this hour or later: a whole hour in UTC; this month's first unless said.
    #[serde(default, with = "time::serde::rfc3339::option")]
    from: Option<OffsetDateTime>,
    /// Only in hours before this one: a whole hour in UTC.
    #[serde(default, with = "time::serde::rfc3339::option")]
    to: Option<OffsetDateTime>,
    /// By what was known at this instant, which has passed; by what is known now unless said.
    #[serde(default, with = "time::serde::rfc3339::option")]
    as_of: Option<OffsetDateTime>,
    /// What to sum up by, with commas between: any of `tenant` and `deployment`, then one of `hour`, `day` and
    /// `month`. Without it the answer is one sum.
    #[param(
        pattern = "^((tenant|deployment),)*(tenant|deployment|hour|day|month)$",
        example = "deployment,day"
    )]
    group_by: Option<String>,
    /// Only that of this tenant.
    #[param(value_type = Option<Uuid>)]
    tenant: Option<TenantId>,
    /// Only that of this deployment.
    #[param(value_type = Option<schema::Name>)]
    deployment: Option<Name>,
}

impl Asked {
    fn groups(&self) -> Result<Groups, Error> {
        let mut groups = Groups::default();
        for word in self.group_by.iter().flat_map(|words| words.split(',')) {
            match word {
                "tenant" => groups.tenant = true,
                "deployment" => groups.deployment = true,
                span if groups.span.is_none() => {
                    let span = Span::deserialize(span.into_deserializer());
                    groups.span = Some(span.map_err(|_: WordError| grouping(word))?);
                }
                _ => return Err(grouping(word)),
            }
        }
        Ok(groups)
    }

    fn filter(self, now: OffsetDateTime) -> Result<UseFilter, Error> {
        for (field, at) in [("from", self.from), ("to", self.to)] {
            if at.is_some_and(|at| at.unix_timestamp_nanos() % 3_600_000_000_000 != 0) {
                let message =
                    "use is kept by the hour: give a whole hour in UTC, such as 2027-01-31T13:00:00Z";
                return Err(Error::invalid(field, message));
            }
            believable(field, at)?;
        }
        let from = self.from.unwrap_or_else(|| worth::month(now));
        let to = self.to.unwrap_or_else(|| worth::hour(now) + Duration::HOUR);
        if to <= from {
            return Err(Error::invalid("to", "it must be after from"));
        }
        Ok(UseFilter {
            tenant: self.tenant,
            deployment: self.deployment,
            node: None,
            from,
            to,
            now,
        })
    }
}

fn grouping(word: &str) -> Error {
    let message = format!(
        "{word:?} cannot be summed up by: give any of tenant and deployment, and one of hour, day and month"
    );
    Error::invalid("group_by", message)
}

/// Refuses times that arithmetic on them could leave.
pub(super) fn believable(field: &str, at: Option<OffsetDateTime>) -> Result<(), Error> {
    match at.is_none_or(|at| (1970..=9000).contains(&at.year())) {
        true => Ok(()),
        false => Err(Error::invalid(field, "give a time from 1970 to 9000")),
    }
}

/// Value use in carbon and water
///
/// What energy was worth by the factors that were known at an instant. What nothing is known of is null and never 0;
/// `covered_uj` says how much of the energy a figure speaks of. Admins, billing and auditors see everyone's; a tenant,
/// with a key that manages or reads, its own.
#[utoipa::path(
    get, path = "/api/v1/carbon", tag = "usage",
    params(Asked),
    responses((status = 200, body = CarbonSums, description = "At most 1,000 sums."), Keyed)
)]
async fn get_carbon(
    State(app): Shared,
    principal: Principal,
    Query(asked): Query<Asked>,
) -> Result<Json<CarbonSums>, Error> {
    let own = principal.sees(&EVERYONES, asked.tenant)?;
    let (groups, as_of) = (asked.groups()?, asked.as_of);
    believable("as_of", as_of)?;
    let filter = asked.filter(app.clock.now())?;
    let _turn = app.admission.read(own).await?;
    let worth = worth::value(&app, own, &filter, groups, as_of).await?;
    let sums = worth.sums.into_iter();
    let items = sums
        .map(|(place, sum)| CarbonSum::new(place, &sum))
        .collect::<Result<_, _>>()?;
    Ok(Json(CarbonSums {
        as_of: worth.as_of,
        items,
    }))
}

/// What a day of a deployment's use on a node was worth.
#[derive(Serialize, ToSchema)]
struct DayValuation {
    /// When the day began, in UTC.
    #[serde(with = "time::serde::rfc3339")]
    day: OffsetDateTime,
    /// The host's node.
    #[schema(value_type = Uuid)]
    node: NodeId,
    /// The tenant.
    #[schema(value_type = Uuid)]
    tenant: TenantId,
    /// The deployment; null for what belongs to none.
    #[schema(value_type = Option<schema::Name>)]
    deployment: Option<Name>,
    /// Only what was known by then is in it.
    #[serde(with = "time::serde::rfc3339")]
    as_of: OffsetDateTime,
    #[serde(flatten)]
    worth: Worth,
}

impl From<Valuation> for DayValuation {
    fn from(row: Valuation) -> Self {
        Self {
            day: row.day,
            node: row.node,
            tenant: row.tenant,
            deployment: row.deployment,
            as_of: row.as_of,
            worth: Worth::new(row.valued, row.lines, row.lines_unmetered),
        }
    }
}

asked! {
    /// Which valuations.
    pub struct ValuationsAsked {
        /// Only of days that begin then or later.
        #[serde(default, with = "time::serde::rfc3339::option")]
        from: Option<OffsetDateTime>,
        /// Only of days that begin before this.
        #[serde(default, with = "time::serde::rfc3339::option")]
        to: Option<OffsetDateTime>,
        /// For each day the newest valuation as of this instant; the newest of all unless said.
        #[serde(default, with = "time::serde::rfc3339::option")]
        as_of: Option<OffsetDateTime>,
        /// Only those of this tenant.
        #[param(value_type = Option<Uuid>)]
        tenant: Option<TenantId>,
        /// Only those of this deployment.
        #[param(value_type = Option<schema::Name>)]
        deployment: Option<Name>,
    }
}

/// List valuations
///
/// Whole days, two hours after their end and again when more is known. Admins, billing and auditors see everyone's; a
/// tenant, with a key that manages or reads, its own.
#[utoipa::path(
    get, path = "/api/v1/ledger/valuations", tag = "ledger",
    params(ValuationsAsked),
    responses((status = 200, body = Page<DayValuation>, description = "A page of them, the earliest first."), Keyed)
)]
async fn list_valuations(
    State(app): Shared,
    principal: Principal,
    Query(asked): Query<ValuationsAsked>,
) -> Result<Json<Page<DayValuation>>, Error> {
    let own = principal.sees(&EVERYONES, asked.tenant)?;
    for (field, at) in [("from", asked.from), ("to", asked.to), ("as_of", asked.as_of)] {
        believable(field, at)?;
    }
    let listing = asked.of::<ValuationCursor>("valuations")?;
    let filter = ValuationFilter {
        tenant: asked.tenant,
        deployment: asked.deployment,
        from: asked.from,
        to: asked.to,
        as_of: asked.as_of,
    };
    let _turn = app.admission.read(own).await?;
    let rows = match own {
        Some(own) => {
            app.db
                .tenant_tx(own)
                .await?
                .valuations_list(&filter, &listing.cut)
                .await?
        }
        None => {
            app.db
                .billing_tx()
                .await?
                .valuations_list(&filter, &listing.cut)
                .await?
        }
    };
    Ok(listing.page(rows))
}
