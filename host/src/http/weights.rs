//! `/api/v1/ledger/weights`: what use costs on this node, as it was learnt from its meters.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use domain::energy::Provenance;
use domain::estimator::{Banded, RootModel};
use domain::weights::{Class, Feature};
use domain::{Name, NodeId, TenantId};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::Principal;
use super::refusals::Keyed;
use super::{Shared, schema};
use crate::app::App;
use crate::flow::Error;

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(get_weights))
}

/// What use costs on a node.
#[derive(Serialize, ToSchema)]
struct Weights {
    /// The node.
    #[schema(value_type = Uuid)]
    node: NodeId,
    /// What is known of each root, by name.
    roots: Vec<RootWeights>,
    /// Femtojoules of dynamic energy for a unit of fuel, over all calls of late; null before that is known.
    fuel_fj: Option<Figure>,
}

/// A figure and half the width of its 95 % band.
#[derive(Serialize, ToSchema)]
struct Figure {
    /// The figure.
    value: u64,
    /// True with a probability of 95 %: within this much of it.
    band: u64,
}

impl From<Banded> for Figure {
    fn from(Banded { value, band }: Banded) -> Self {
        Self { value, band }
    }
}

/// What is known of a root.
#[derive(Serialize, ToSchema)]
struct RootWeights {
    /// The root.
    #[schema(example = "package-0")]
    root: String,
    /// The kind of its meter.
    kind: String,
    /// How its readings come about: what is learnt of a model says no more than the model knew.
    #[schema(value_type = schema::Provenance)]
    provenance: Provenance,
    /// Slices, or parts of them, that it was learnt from.
    slices: u64,
    /// How far a slice is from what the weights say: one standard deviation in millionths of its dynamic power.
    noise_ppm: u64,
    /// Power with nothing to do, in microwatts.
    floor_uw: Figure,
    /// Femtojoules per unit of each kind of use: per nanosecond (which is microwatts), byte, or unit of fuel.
    weights: Vec<Weight>,
    /// The same per nanosecond of what one release's calls do, where that is known apart.
    classes: Vec<ClassWeight>,
}

/// What a kind of use costs.
#[derive(Serialize, ToSchema)]
struct Weight {
    /// The kind of use.
    #[schema(value_type = schema::Feature)]
    feature: Feature,
    /// In femtojoules per unit.
    #[serde(flatten)]
    cost: Figure,
}

/// What a nanosecond of a release's calls costs.
#[derive(Serialize, ToSchema)]
struct ClassWeight {
    /// Whose; null for publishing and deploying, of all tenants together.
    #[schema(value_type = Option<Uuid>)]
    tenant: Option<TenantId>,
    /// Of which deployment.
    #[schema(value_type = Option<schema::Name>)]
    deployment: Option<Name>,
    /// Of which of its releases.
    release: Option<u32>,
    /// In femtojoules per nanosecond.
    #[serde(flatten)]
    cost: Figure,
}

impl From<RootModel> for RootWeights {
    fn from(model: RootModel) -> Self {
        let weight = |(feature, cost): (Feature, Banded)| Weight {
            feature,
            cost: cost.into(),
        };
        Self {
            root: model.root.name,
            kind: model.root.kind,
            provenance: model.root.provenance,
            slices: model.slices,
            noise_ppm: model.noise_ppm,
            floor_uw: model.floor_uw.into(),
            weights: model.weights.into_iter().map(weight).collect(),
            classes: model.classes.into_iter().map(ClassWeight::of).collect(),
        }
    }
}

impl ClassWeight {
    fn of((class, cost): (Class, Banded)) -> Self {
        let (tenant, deployment, release) = match class {
            Class::Infer {
                tenant,
                deployment,
                release,
            } => (Some(tenant), deployment, release),
            Class::Publish | Class::Deploy => (None, None, None),
        };
        Self {
            tenant,
            deployment,
            release,
            cost: cost.into(),
        }
    }
}

/// Get the weights
///
/// What use costs on the node that answers, and how sure that is. Energy is shared by these, and always sums up to
/// what the meter said.
#[utoipa::path(
    get, path = "/api/v1/ledger/weights", tag = "ledger",
    responses((status = 200, body = Weights, description = "What was learnt so far."), Keyed)
)]
async fn get_weights(State(app): Shared, principal: Principal) -> Result<Json<Weights>, Error> {
    principal.audits()?;
    let (roots, fuel_fj) = app.learnt.models();
    Ok(Json(Weights {
        node: app.node,
        roots: roots.into_iter().map(RootWeights::from).collect(),
        fuel_fj: fuel_fj.map(Figure::from),
    }))
}
