//! What use costs: features of use, and the integer weights by which a slice's energy is shared.
//!
//! A weight is in femtojoules per unit of its feature. For times that is 1 fJ/ns = 1 µW: the power that
//! the root takes while one thread works. A slice carries its weights, so that whoever seals or verifies
//! it later computes the same split from the slice alone.
//!
//! Weights say how claimants compare; the meter says how much there is. A slice without weights for a
//! root (the first ones of a node, and those of an older journal) is shared by [`Weights::EQUAL`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::energy::Root;
use crate::posting::{Call, CallKind, Claim, Slice};
use crate::{Name, TenantId, Usage};

/// The kind of a root that a device's own counter gives: shared by busy time on that device.
pub const DEVICE_KIND: &str = "nvml";

/// How many features there are.
pub const FEATURES: usize = 7;

/// A kind of use that costs energy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Feature {
    /// CPU time of guests and of host calls on their behalf, in nanoseconds.
    Guest,
    /// CPU time of backends, in nanoseconds.
    Model,
    /// CPU time of the host beyond its calls and of its Postgres, in nanoseconds.
    System,
    /// CPU time of the machine beyond the host, steal included, in nanoseconds.
    Foreign,
    /// Bytes in and out of host calls.
    Traffic,
    /// Fuel.
    Fuel,
    /// Time for which a device worked, in nanoseconds.
    Busy,
}

impl Feature {
    /// All, in the order of [`Features`] and [`Weights`].
    pub const ALL: [Self; FEATURES] = [
        Self::Guest,
        Self::Model,
        Self::System,
        Self::Foreign,
        Self::Traffic,
        Self::Fuel,
        Self::Busy,
    ];

    /// The name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guest => "guest",
            Self::Model => "model",
            Self::System => "system",
            Self::Foreign => "foreign",
            Self::Traffic => "traffic",
            Self::Fuel => "fuel",
            Self::Busy => "busy",
        }
    }

    /// Whether it is time of a CPU or of a device: what all share by when nothing better is known.
    pub fn is_time(self) -> bool {
        !matches!(self, Self::Traffic | Self::Fuel)
    }
}

/// What a claimant used of each feature, in [`Feature::ALL`]'s order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Features(pub [u64; FEATURES]);

impl Features {
    /// One feature alone.
    pub fn of(feature: Feature, amount: u64) -> Self {
        let mut features = Self::default();
        features.0[feature as usize] = amount;
        features
    }

    /// What `usage` costs `root` by: busy time on the device of that name if the root is a device's, else
    /// all but that.
    pub fn of_usage(usage: &Usage, root: &Root) -> Self {
        if is_device(root) {
            let works = usage
                .work
                .iter()
                .filter(|work| work.device == *root.name.as_str());
            let busy_ns = works.map(|work| work.busy_ns).fold(0, u64::saturating_add);
            return Self::of(Feature::Busy, busy_ns);
        }
        let traffic = usage.bytes_in.saturating_add(usage.bytes_out);
        Self([usage.cpu_ns, usage.model_ns(), 0, 0, traffic, usage.fuel, 0])
    }

    /// The amount of a feature.
    pub fn get(&self, feature: Feature) -> u64 {
        self.0[feature as usize]
    }

    /// All its time, in nanoseconds.
    pub fn time_ns(&self) -> u64 {
        let times = Feature::ALL.iter().filter(|feature| feature.is_time());
        times
            .map(|feature| self.get(*feature))
            .fold(0, u64::saturating_add)
    }

    /// Adds more use.
    pub fn absorb(&mut self, more: &Self) {
        for (sum, more) in self.0.iter_mut().zip(more.0) {
            *sum = sum.saturating_add(more);
        }
    }
}

/// Whether `root` meters a device rather than the host.
pub fn is_device(root: &Root) -> bool {
    root.kind == DEVICE_KIND
}

/// Femtojoules per unit of each feature, in [`Feature::ALL`]'s order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weights(pub [u32; FEATURES]);

impl Weights {
    /// All time weighs the same and nothing else does: what is fair as long as nothing is known.
    pub const EQUAL: Self = Self([1, 1, 1, 1, 0, 0, 1]);

    /// The weight of a feature, in fJ per unit.
    pub fn get(&self, feature: Feature) -> u32 {
        self.0[feature as usize]
    }

    /// The cost of `features` in femtojoules. It fits: seven products of 32 and 64 bits.
    pub fn cost_fj(&self, features: &Features) -> u128 {
        let products = self.0.iter().zip(features.0);
        products
            .map(|(weight, amount)| u128::from(*weight) * u128::from(amount))
            .sum()
    }
}

/// What calls do that probably cost alike, so that they share fitted weights: a release of a deployment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Inspecting and compiling uploads, of all tenants.
    Publish,
    /// Loading and describing, for all tenants.
    Deploy,
    /// Calls of a release.
    Infer {
        /// The tenant.
        tenant: TenantId,
        /// The deployment.
        deployment: Option<Name>,
        /// The release's number.
        release: Option<u32>,
    },
}

impl Class {
    /// The class of a call.
    pub fn of(call: &Call) -> Self {
        match call.kind {
            CallKind::Publish => Self::Publish,
            CallKind::Deploy => Self::Deploy,
            CallKind::Infer => Self::Infer {
                tenant: call.tenant,
                deployment: call.deployment.clone(),
                release: call.release,
            },
        }
    }
}

/// Weights of one class instead of the root's, in femtojoules per nanosecond.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassWeights {
    /// The class.
    pub class: Class,
    /// Of [`Feature::Guest`].
    pub guest: u32,
    /// Of [`Feature::Model`].
    pub model: u32,
    /// Of [`Feature::Busy`].
    pub busy: u32,
}

/// By what one root's energy is shared in one slice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootWeights {
    /// The root's name.
    pub root: String,
    /// The fitted power with nothing to do, in microwatts, instead of the reading's.
    pub floor_uw: u64,
    /// For everyone without weights of their own.
    pub base: Weights,
    /// For classes of claims in the slice.
    pub classes: Vec<ClassWeights>,
}

impl RootWeights {
    /// Equal weights, over no floor.
    pub fn equal(root: &Root) -> Self {
        Self {
            root: root.name.clone(),
            floor_uw: 0,
            base: Weights::EQUAL,
            classes: Vec::new(),
        }
    }

    /// The weights for calls of `class`.
    pub fn of_class(&self, class: &Class) -> Weights {
        let mut weights = self.base;
        if let Some(own) = self.classes.iter().find(|own| own.class == *class) {
            weights.0[Feature::Guest as usize] = own.guest;
            weights.0[Feature::Model as usize] = own.model;
            weights.0[Feature::Busy as usize] = own.busy;
        }
        weights
    }

    /// The cost of a claim in femtojoules.
    pub fn claim_fj(&self, claim: &Claim, root: &Root) -> u128 {
        let features = Features::of_usage(&claim.usage, root);
        self.of_class(&Class::of(&claim.call)).cost_fj(&features)
    }
}

/// What each class of calls in `slice` used of `root`.
pub fn class_features(slice: &Slice, root: &Root) -> BTreeMap<Class, Features> {
    let mut classes = BTreeMap::<_, Features>::new();
    for claim in &slice.claims {
        let features = Features::of_usage(&claim.usage, root);
        classes
            .entry(Class::of(&claim.call))
            .or_default()
            .absorb(&features);
    }
    classes
}

/// What the host beyond its calls, and the machine beyond the host, used of `root`: CPU time of a host's
/// root, nothing of a device's, since no one tells who else worked there.
pub fn other_features(slice: &Slice, root: &Root) -> [Features; 2] {
    if is_device(root) {
        return [Features::default(); 2];
    }
    let claimed_ns = slice
        .claims
        .iter()
        .map(|claim| claim.usage.total_cpu_ns())
        .fold(0, u64::saturating_add);
    let activity = &slice.activity;
    let system_ns = activity
        .host_ns
        .saturating_sub(claimed_ns)
        .saturating_add(activity.postgres_ns);
    let ours_ns = activity.host_ns.saturating_add(activity.postgres_ns);
    let foreign_ns = activity.machine_ns.saturating_sub(ours_ns);
    [
        Features::of(Feature::System, system_ns),
        Features::of(Feature::Foreign, foreign_ns),
    ]
}
