//! `/api/v1/ledger/meters`: what meters this node, for those who read the ledger. Tenants never see it: power by
//! the second tells what a neighbour does.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use domain::NodeId;
use domain::energy::{FaultKind, Provenance};
use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::Principal;
use super::refusals::Keyed;
use super::{Shared, schema};
use crate::app::App;
use crate::flow::Error;
use crate::flow::compare::Compared;
use crate::flow::meters::Seen;
use crate::metrics::LastWindow;

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(get_meters))
}

/// What meters a node.
#[derive(Serialize, ToSchema)]
struct Meters {
    /// The node.
    #[schema(value_type = Uuid)]
    node: NodeId,
    /// When it was looked.
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
    /// What is read, by name.
    roots: Vec<MeterRoot>,
    /// The roots beside the meter of the whole machine; null without one, or before there is enough to compare.
    comparison: Option<WallComparison>,
    /// Where the last window's energy went.
    last_window: WindowShares,
    /// All that might have been a meter when the host started.
    candidates: Vec<MeterCandidate>,
}

/// A source of readings, as it was seen last.
#[derive(Serialize, ToSchema)]
struct MeterRoot {
    /// The root's name.
    #[schema(example = "package-0")]
    root: String,
    /// The kind of meter; null where it was never read.
    #[schema(example = "rapl")]
    kind: Option<String>,
    /// How its readings come about.
    #[schema(value_type = Option<schema::Provenance>)]
    provenance: Option<Provenance>,
    /// One standard deviation in millionths of a reading.
    uncertainty_ppm: Option<u32>,
    /// Its counter, in microjoules.
    counter_uj: Option<u64>,
    /// Mean power between the last two readings, in microwatts.
    power_uw: Option<u64>,
    /// Power with nothing to do, in microwatts, as the meter knows it.
    floor_uw: Option<u64>,
    /// Whether it measures the whole machine and is held against the others, not billed.
    calibrates: bool,
    /// What is wrong with it now; null where nothing is.
    #[schema(value_type = Option<schema::FaultKind>)]
    fault: Option<FaultKind>,
}

impl MeterRoot {
    fn of((name, seen): (String, Seen)) -> Self {
        let (reading, root) = (
            seen.reading.as_ref(),
            seen.reading.as_ref().map(|reading| &reading.root),
        );
        Self {
            root: name,
            kind: root.map(|root| root.kind.clone()),
            provenance: root.map(|root| root.provenance),
            uncertainty_ppm: root.map(|root| root.uncertainty_ppm),
            counter_uj: reading.map(|reading| reading.counter_uj),
            power_uw: seen.power_uw,
            floor_uw: reading.map(|reading| reading.floor_uw),
            calibrates: seen.calibrates,
            fault: seen.fault,
        }
    }
}

/// What the roots in the machine say together, beside what the whole machine takes: fans and the power supply's losses
/// are in the whole alone.
#[derive(Serialize, ToSchema)]
struct WallComparison {
    /// The root that measures the whole machine.
    #[schema(example = "wall")]
    wall: String,
    /// Over how long, in milliseconds: the last minute, or less where that is not known.
    span_ms: u64,
    /// Mean power of all roots in the machine together, in microwatts.
    roots_uw: u64,
    /// Mean power of the whole machine, in microwatts.
    wall_uw: u64,
    /// The former in millionths of the latter.
    ratio_ppm: u64,
    /// By how much that may be off, as the meters state it: half its 95 % band, in millionths.
    band_ppm: u64,
    /// Whether the parts take more than the whole, beyond that, over a whole minute: a joule is counted twice, or a
    /// meter is off.
    exceeds: bool,
}

impl From<Compared> for WallComparison {
    fn from(compared: Compared) -> Self {
        let Compared {
            wall,
            span_ns,
            roots_uw,
            wall_uw,
            ratio_ppm,
            band_ppm,
            exceeds,
        } = compared;
        Self {
            wall,
            span_ms: span_ns / 1_000_000,
            roots_uw,
            wall_uw,
            ratio_ppm,
            band_ppm,
            exceeds,
        }
    }
}

/// Where the last window's energy went.
#[derive(Serialize, ToSchema)]
struct WindowShares {
    /// How long it was, in milliseconds; 0 before the first.
    span_ms: u64,
    /// Microjoules by kind: `dynamic` is the tenants'.
    #[schema(value_type = HashMap<String, u64>)]
    energy_uj: BTreeMap<&'static str, u64>,
    /// What nobody can place, in millionths of all.
    unattributed_ppm: u64,
}

impl From<LastWindow> for WindowShares {
    fn from(last: LastWindow) -> Self {
        Self {
            span_ms: u64::try_from(last.span.whole_milliseconds()).unwrap_or_default(),
            unattributed_ppm: last.unattributed_ppm(),
            energy_uj: last
                .energy_uj
                .into_iter()
                .map(|(kind, uj)| (kind.as_str(), uj))
                .collect(),
        }
    }
}

/// Something that might meter the machine.
#[derive(Serialize, ToSchema)]
struct MeterCandidate {
    /// Where it was found.
    #[schema(example = "rapl")]
    source: &'static str,
    /// Which one.
    subject: String,
    /// `root`, `calibrates`, `left` or `unusable`.
    verdict: &'static str,
    /// Why, and what to do about it.
    reason: String,
}

impl From<&energy::Candidate> for MeterCandidate {
    fn from(candidate: &energy::Candidate) -> Self {
        Self {
            source: candidate.source,
            subject: candidate.subject.clone(),
            verdict: candidate.verdict.as_str(),
            reason: candidate.reason.clone(),
        }
    }
}

/// Get the meters
///
/// What meters this node, how sure it is, what is wrong with it, and why everything else is left.
#[utoipa::path(
    get, path = "/api/v1/ledger/meters", tag = "ledger",
    responses((status = 200, body = Meters, description = "The meters of the node that answers."), Keyed)
)]
async fn get_meters(State(app): Shared, principal: Principal) -> Result<Json<Meters>, Error> {
    principal.audits()?;
    Ok(Json(Meters {
        node: app.node,
        at: app.clock.now(),
        roots: app.meters.roots().into_iter().map(MeterRoot::of).collect(),
        comparison: app.meters.compared().map(WallComparison::from),
        last_window: app.metrics.last_window().into(),
        candidates: app.meters.candidates().iter().map(MeterCandidate::from).collect(),
    }))
}
