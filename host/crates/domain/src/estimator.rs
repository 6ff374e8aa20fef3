//! What use costs, learnt from the meter: weights for the next slice, provisional figures, joules per fuel.
//!
//! Each root has a filter (`filter`) that explains a slice's mean power P (W) by what was used per
//! second, in the manner of SmartWatts (power models per root that are recalibrated while the machine
//! runs; arXiv 2001.02505) and FaasMeter (a filter over functions; arXiv 2408.06130):
//!
//! `P = floor + U·κ(U) + Σ deviation·use,  κ(U) = c + a·ln(1 + U) + b·ln²(1 + U) + wake·(1 − e^−U)/U`
//!
//! with U the busy CPUs. κ is what a CPU costs, whoever uses it: less while many are busy, because what wakes
//! with the first one, turbo steps and threads that share a core are not linear. Deviations say how
//! claimants compare: of models' CPU time, of foreign load's, per byte, per fuel, and of classes of calls
//! (the releases of deployments), since a vector kernel and a branchy loop differ by more than fuel or bytes
//! can tell. The weights of a slice are κ at its own U, plus deviations. So what is not linear is shared by
//! CPU time, and nobody's weight is bent because he happens to work at busy times. The host's own time comes
//! with every call and cannot be told from the calls': it has the common weight, by rule.
//!
//! **Fairness where the data say nothing.** Deviations start at nothing, with a narrow band (a ridge towards
//! equal weight per CPU time). What the slices cannot tell apart, because it was
//! always used together, stays at that, and its band stays as wide as it was.
//!
//! **A meter that is itself a model of use** ([`Provenance`] is not `Measured`) knows utilisation alone: no
//! fit can get more out of it. Its roots keep the meter's own floor and one weight for all CPU time, without
//! deviations, and with the meter's uncertainty in the band.
//!
//! **The floor** is the lower end of the cloud of slices, power against use: a slice's say in it falls with
//! its dynamic power, so that idle slices decide where there are some, and where there are none the line
//! through the lowest is drawn on to no use. It is bounded by the lowest power seen lately (`envelope`).
//! It is not what utilisation leaves over: at full load that would be nothing.
//!
//! **How often to learn.** As often as the meter allows, ten times a slice with RAPL: in a short while fewer
//! work at once, so that a minute tells more of who costs what. A reading that is late by more than some
//! percent of that while tells less: a slow meter is to be learnt from once a slice. What is given to
//! [`Estimator::observe`] may thus be a part of a slice, and need not be kept.
//!
//! **What it cannot know.** How many threads of one call ran at the same time: what is not linear is shared
//! by CPU time, and a call that used four CPUs at once is charged some percent more of it than its Shapley
//! share. How long a device stays awake after work, if it never sleeps: that is floor then.
//!
//! Floats are in here alone; what leaves is rounded to integers.

mod envelope;
mod filter;
mod matrix;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::Usage;
use crate::attribution::{self, Span};
use crate::calibrate::Calibration;
use crate::energy::{Provenance, Reading, Root};
use crate::posting::{Call, Slice};
use crate::weights::{
    Class, ClassWeights, Feature, Features, RootWeights, Weights, class_features, other_features,
};
use filter::Filter;

/// The quantile of a two-sided 95 % band of the normal distribution.
pub(crate) const Z95: f64 = 1.96;

/// Femtojoules in a microjoule.
const FJ_PER_UJ: f64 = 1e9;

/// A figure and half the width of its 95 % band, both in the figure's unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Banded {
    /// The figure.
    pub value: u64,
    /// True with a probability of 95 %: within this much of it.
    pub band: u64,
}

impl Banded {
    /// The same where what it was measured with errs too, by `uncertainty_ppm` (one standard deviation) of all it
    /// says.
    #[must_use]
    pub fn with_meter(self, uncertainty_ppm: u32) -> Self {
        let meter = Z95 * f64::from(uncertainty_ppm) / 1e6 * self.value as f64;
        Self::rounded(self.value as f64, (self.band as f64).hypot(meter))
    }

    pub(crate) fn rounded(value: f64, band: f64) -> Self {
        // A cast of a float saturates, and takes what is no number as 0.
        Self {
            value: value.round() as u64,
            band: band.min(u64::MAX as f64).ceil() as u64,
        }
    }
}

/// What one root is known to cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootModel {
    /// The root, as its last reading said.
    pub root: Root,
    /// Slices that it was learnt from.
    pub slices: u64,
    /// How far a slice is from what the weights say, of its dynamic power, one standard deviation in parts
    /// per million.
    pub noise_ppm: u64,
    /// The power with nothing to do, in microwatts.
    pub floor_uw: Banded,
    /// Weights in femtojoules per unit, one for each feature that the root is shared by.
    pub weights: Vec<(Feature, Banded)>,
    /// Weights of CPU time (of busy time where the root is a device) by class, in fJ/ns. A call of no class
    /// here goes by `weights`.
    pub classes: Vec<(Class, Banded)>,
}

/// What a call will probably cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provisional {
    /// Over all roots, in microjoules.
    pub energy_uj: u64,
    /// The upper end of its 95 % band, in microjoules.
    pub upper_uj: u64,
}

/// Learns what use costs on a node. Plain data: it can be stored and taken up again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Estimator {
    roots: Vec<Learnt>,
    fuel: FuelCost,
}

/// What was learnt of one root.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Learnt {
    root: Root,
    filter: Filter,
    /// Dynamic energy and the cost by weights, over about [`Learnt::MEMORY_S`]: their ratio turns a cost
    /// into energy.
    dynamic_uj: f64,
    cost_fj: f64,
    /// Σ (energy − ratio × cost)² and Σ energy² over the same time: how far one slice is from the ratio.
    off_squared: f64,
    dynamic_squared: f64,
    /// Roots that have no filter yet cost by equal weights.
    fitted: bool,
}

impl Learnt {
    /// Seconds after which the past counts for a third.
    const MEMORY_S: f64 = 30.0;

    fn new(root: &Root, floor_uw: u64) -> Self {
        let measured = root.provenance == Provenance::Measured;
        Self {
            root: root.clone(),
            filter: Filter::new(measured, floor_uw),
            dynamic_uj: 0.0,
            cost_fj: 0.0,
            off_squared: 0.0,
            dynamic_squared: 0.0,
            fitted: false,
        }
    }

    /// The weights for these classes while `busy` CPUs are.
    fn weights(&self, classes: impl Iterator<Item = Class>, busy: f64) -> RootWeights {
        let Some(base) = self.filter.weights(busy) else {
            return RootWeights::equal(&self.root);
        };
        let own = |class: Class| {
            let [guest, model, busy] = self.filter.class_weights(&class, busy)?;
            Some(ClassWeights {
                class,
                guest,
                model,
                busy,
            })
        };
        RootWeights {
            root: self.root.name.clone(),
            floor_uw: self.filter.floor_uw(),
            base,
            classes: classes.filter_map(own).collect(),
        }
    }

    /// The weights for a slice that lasted for `length_ns`; none as long as nothing is known.
    fn of_slice(&self, slice: &Slice, length_ns: u64) -> Option<RootWeights> {
        if !self.filter.begun() || length_ns == 0 {
            return None;
        }
        let by_class = class_features(slice, &self.root);
        let others = other_features(slice, &self.root);
        let times = by_class.values().chain(&others).map(Features::time_ns);
        let busy = times.fold(0, u64::saturating_add) as f64 / length_ns as f64;
        Some(self.weights(by_class.into_keys(), busy))
    }

    /// Learns from a span of the root and the slice it fell in.
    fn observe(&mut self, span: &Span, slice: &Slice) {
        if span.length_ns == 0 {
            return;
        }
        self.filter.observe(span, slice, &self.root);
        let fitted = self.filter.begun();
        if fitted != self.fitted {
            // The unit of a cost changes.
            (self.fitted, self.dynamic_uj, self.cost_fj) = (fitted, 0.0, 0.0);
        }
        // By the weights that a provisional figure uses: what these are off by, the ratio puts right.
        let classes = class_features(slice, &self.root).into_keys();
        let mut slice = slice.clone();
        slice.weights = vec![self.weights(classes, self.filter.busy())];
        let span = if fitted {
            span.over_fitted_floor(&slice, &self.root)
        } else {
            *span
        };
        let cost_fj: u128 = attribution::costs(&slice, &self.root).values().sum();
        let keep = (-(span.length_ns as f64) / 1e9 / Self::MEMORY_S).exp();
        self.dynamic_uj = self.dynamic_uj * keep + span.dynamic_uj() as f64;
        self.cost_fj = self.cost_fj * keep + cost_fj as f64;
        let dynamic_uj = span.dynamic_uj() as f64;
        let off_uj = dynamic_uj - self.gain().unwrap_or_default() * cost_fj as f64;
        self.off_squared = self.off_squared * keep + off_uj * off_uj;
        self.dynamic_squared = self.dynamic_squared * keep + dynamic_uj * dynamic_uj;
    }

    /// Energy per cost, in µJ/fJ; none as long as nothing was used.
    fn gain(&self) -> Option<f64> {
        (self.cost_fj > 0.0).then(|| self.dynamic_uj / self.cost_fj)
    }

    /// Energy and half its band, in microjoules.
    fn provisional(&self, call: &Call, usage: &Usage) -> Option<(f64, f64)> {
        let gain = self.gain()?;
        let (class, features) = (Class::of(call), Features::of_usage(usage, &self.root));
        let weights = self.weights(std::iter::once(class.clone()), self.filter.busy());
        let energy_uj = weights.of_class(&class).cost_fj(&features) as f64 * gain;
        let slices = self.off_squared / self.dynamic_squared.max(f64::MIN_POSITIVE);
        let relative = self.filter.relative_band(&class, &features);
        Some((energy_uj, energy_uj * relative.hypot(Z95 * slices.sqrt())))
    }
}

impl Estimator {
    /// An estimator that starts from a calibration of `root` instead of from nothing.
    pub fn calibrate(&mut self, root: &Root, calibration: &Calibration) {
        self.roots.retain(|learnt| learnt.root.name != root.name);
        let mut learnt = Learnt::new(root, calibration.floor_uw.value);
        learnt.filter.calibrate(calibration);
        self.roots.push(learnt);
    }

    /// Learns from a slice and the readings before it. A root without a reading in it, with a fault, or whose
    /// counter fell or began anew, teaches nothing.
    pub fn observe(&mut self, before: &[Reading], slice: &Slice) {
        let is_sound = |now: &&Reading| slice.faults.iter().all(|fault| fault.root != now.root.name);
        for now in slice.readings.iter().filter(is_sound) {
            let Some(before) = before.iter().find(|before| before.root.name == now.root.name) else {
                continue;
            };
            let Some(span) = Span::between(before, now) else {
                continue;
            };
            let known = self
                .roots
                .iter()
                .position(|learnt| learnt.root.name == now.root.name && learnt.root.kind == now.root.kind);
            let at = known.unwrap_or_else(|| {
                self.roots.retain(|learnt| learnt.root.name != now.root.name);
                self.roots.push(Learnt::new(&now.root, now.floor_uw));
                self.roots.len() - 1
            });
            if let Some(learnt) = self.roots.get_mut(at) {
                learnt.root = now.root.clone();
                learnt.observe(&span, slice);
            }
        }
        self.learn_fuel(slice);
    }

    /// The weights for a slice that begins at the readings `before`, to be put into it before it is
    /// journalled. A root of which nothing is known yet has none.
    pub fn weights(&self, before: &[Reading], slice: &Slice) -> Vec<RootWeights> {
        let of = |learnt: &Learnt| {
            let of_root = |reading: &&Reading| reading.root.name == learnt.root.name;
            let (before, now) = (before.iter().find(of_root)?, slice.readings.iter().find(of_root)?);
            let length_ns = Span::between(before, now)?.length_ns;
            learnt.of_slice(slice, length_ns)
        };
        self.roots.iter().filter_map(of).collect()
    }

    /// What `usage` of `call` will probably cost over all roots; none as long as nothing was learnt. The
    /// bands of the roots are added, as if they erred together.
    pub fn provisional(&self, call: &Call, usage: &Usage) -> Option<Provisional> {
        let (mut energy_uj, mut band_uj, mut known) = (0.0, 0.0, false);
        for (energy, band) in self
            .roots
            .iter()
            .filter_map(|learnt| learnt.provisional(call, usage))
        {
            (energy_uj, band_uj, known) = (energy_uj + energy, band_uj + band, true);
        }
        known.then(|| Provisional {
            energy_uj: energy_uj.round() as u64,
            upper_uj: (energy_uj + band_uj).ceil() as u64,
        })
    }

    /// What is known of each root.
    pub fn roots(&self) -> Vec<RootModel> {
        self.roots
            .iter()
            .map(|learnt| learnt.filter.model(&learnt.root))
            .collect()
    }

    /// Femtojoules of dynamic energy per unit of fuel, over all calls of late, with the spread between
    /// slices in the band; none before calls burnt fuel in three slices. What the calls of one tenant take
    /// per fuel differs from it by their mix.
    pub fn fuel_cost_fj(&self) -> Option<Banded> {
        self.fuel.banded()
    }

    fn learn_fuel(&mut self, slice: &Slice) {
        let (mut energy_fj, mut fuel, mut known) = (0.0, 0.0, false);
        for claim in &slice.claims {
            fuel += claim.usage.fuel as f64;
            if let Some(estimate) = self.provisional(&claim.call, &claim.usage) {
                (energy_fj, known) = (energy_fj + estimate.energy_uj as f64 * FJ_PER_UJ, true);
            }
        }
        if known && fuel > 0.0 {
            self.fuel.learn(energy_fj, fuel);
        }
    }
}

/// A ratio of energy to fuel by moving sums, with the error of a ratio estimator (Cochran, *Sampling
/// Techniques*, 6.2).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct FuelCost {
    slices: f64,
    energy_fj: f64,
    fuel: f64,
    energy_squared: f64,
    fuel_squared: f64,
    product: f64,
}

impl FuelCost {
    /// Each slice, the past loses one part in this many.
    const MEMORY: f64 = 256.0;

    fn learn(&mut self, energy_fj: f64, fuel: f64) {
        let sums = [
            (&mut self.slices, 1.0),
            (&mut self.energy_fj, energy_fj),
            (&mut self.fuel, fuel),
            (&mut self.energy_squared, energy_fj * energy_fj),
            (&mut self.fuel_squared, fuel * fuel),
            (&mut self.product, energy_fj * fuel),
        ];
        for (sum, new) in sums {
            *sum += new - *sum / Self::MEMORY;
        }
    }

    fn banded(&self) -> Option<Banded> {
        if self.slices < 2.5 || self.fuel <= 0.0 {
            return None;
        }
        let ratio = self.energy_fj / self.fuel;
        let residuals = self.energy_squared - 2.0 * ratio * self.product + ratio * ratio * self.fuel_squared;
        let variance = residuals.max(0.0) * self.slices / (self.slices - 1.0);
        Some(Banded::rounded(ratio, Z95 * variance.sqrt() / self.fuel))
    }
}

/// Watts as microwatts, which are femtojoules per nanosecond.
fn whole_uw(watts: f64) -> u32 {
    (watts * 1e6).round() as u32
}

/// The units in which a filter counts use per second, in raw units per second: CPUs, GB/s and Gfuel/s.
fn per_second(features: &Features, length_ns: u64) -> [f64; crate::weights::FEATURES] {
    // 10⁹ of anything per second is 1 per nanosecond, so all features have one scale.
    features.0.map(|amount| amount as f64 / length_ns as f64)
}

/// Weights in watts per unit of [`per_second`] as integers: 1 W per (10⁹ units per second) is 1 nJ a unit.
fn whole_weights(watts: [f64; crate::weights::FEATURES]) -> Weights {
    Weights(watts.map(whole_uw))
}
