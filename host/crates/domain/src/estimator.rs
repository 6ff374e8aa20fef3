//! What use costs, learnt from the meter: weights for the next slice, provisional figures, joules per fuel.
//!
//! Each root has a filter (`filter`) that explains the mean power P (W) of a part of a slice by what was used
//! per second, in the manner of SmartWatts (power models per root that are recalibrated while the machine
//! runs; arXiv 2001.02505) and FaasMeter (a filter over functions; arXiv 2408.06130):
//!
//! `P = floor + wake·(1 − Π(1 − pᵢ)) + Σ costᵢ·uᵢ·h(cᵢ) + traffic + fuel,  h(c) = 1 + a·ln(1 + c) + b·ln²(1 + c)`
//!
//! Players i are the calls, the host and others. uᵢ is how many CPUs a player kept busy, pᵢ for how much of the
//! time it worked at all, and cᵢ how many CPUs were busy beside one of its own. `wake` is what wakes with the
//! first CPU; costs of a CPU are a common one and what deviates from it, of models, of others and of classes of
//! calls (the releases of deployments, guest and models apart), since a vector kernel and a branchy loop differ by more
//! than fuel or bytes can tell; and h is what company does to them: turbo steps, and threads that share a core.
//! Costs are multiplied with h, since a dear cycle saves more than a cheap one when the voltage falls.
//!
//! **Shares.** A slice's weights are the shares of its parts in that function, by Aumann and Shapley
//! (`filter::share`), over what was used. So a model on four threads pays once for waking the machine, and everyone
//! has his part in what company saves. The host's own time comes with every call and cannot be told from the
//! calls': it costs what guests do on the mean, by rule.
//!
//! **Others** do now this and now that, unseen. So what they cost of late is followed within seconds, apart
//! from what holds for long: Kalman's filter of one figure, which forgets.
//!
//! **A device** waits awake for a while after work. What works pays for being awake while it works; waiting is
//! idle. The device's awake power is learnt while it works, that of sleep is the lowest seen.
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
//! **What it cannot know.** Whether calls of one part met: it takes them to come and go independently. What
//! a call does to others in the steps of a scheduler. How many others there are: they come as chance has it.
//! How much a device takes asleep, if it was never seen asleep: it is idle while awake then.
//!
//! Floats are in here alone; what leaves is rounded to integers.

mod envelope;
mod filter;
mod matrix;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Usage;
use crate::attribution::{self, Span};
use crate::calibrate::Calibration;
use crate::energy::{Provenance, Reading, Root};
use crate::posting::{Call, Slice};
use crate::weights::{Class, Feature, Features, RootWeights, Weights, class_features};
use filter::{Filter, Tally};

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
    /// What the parts of the slice cost that are known by now. Not kept over a restart.
    #[serde(skip)]
    parts: Tally,
    /// The weights of the classes that were asked for since it learnt last, and since the last slice: to find them takes
    /// longer than to use them.
    #[serde(skip)]
    asked: BTreeMap<Class, Weights>,
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
            parts: Tally::default(),
            asked: BTreeMap::new(),
            dynamic_uj: 0.0,
            cost_fj: 0.0,
            off_squared: 0.0,
            dynamic_squared: 0.0,
            fitted: false,
        }
    }

    /// The weights for these classes in the mix of late.
    fn weights(&self, classes: impl Iterator<Item = Class>) -> RootWeights {
        let weights = self.filter.weights(&self.root, classes);
        weights.unwrap_or_else(|| RootWeights::equal(&self.root))
    }

    /// The weights for a slice between two readings; none as long as nothing is known. Those of its parts, if
    /// these were seen; they are forgotten then.
    fn of_slice(&mut self, slice: &Slice, from_ns: u64, to_ns: u64) -> Option<RootWeights> {
        let length_ns = to_ns.saturating_sub(from_ns);
        if !self.filter.begun() || length_ns == 0 {
            return None;
        }
        let parts = std::mem::take(&mut self.parts);
        if !self.filter.is_measured() {
            let classes = class_features(slice, &self.root).into_keys();
            return Some(self.weights(classes));
        }
        Some(if parts.covers(from_ns, to_ns) {
            self.filter.tallied(&parts, &self.root)
        } else {
            self.filter.weights_alone(slice, &self.root, length_ns)
        })
    }

    /// Learns from a span of the root that ends at `to_ns`, and the slice it fell in.
    fn observe(&mut self, span: &Span, slice: &Slice, to_ns: u64) {
        if span.length_ns == 0 {
            return;
        }
        self.filter
            .observe(span, slice, &self.root, to_ns, &mut self.parts);
        self.asked.clear();
        let fitted = self.filter.begun();
        if fitted != self.fitted {
            // The unit of a cost changes.
            (self.fitted, self.dynamic_uj, self.cost_fj) = (fitted, 0.0, 0.0);
        }
        // By the weights that a provisional figure uses: what these are off by, the ratio puts right.
        let classes = class_features(slice, &self.root).into_keys();
        let weights = self.weights(classes);
        let span = if fitted {
            span.over(weights.floor_uw)
        } else {
            *span
        };
        let cost_fj: u128 = attribution::costs_by(&weights, slice, &self.root).values().sum();
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

    /// Energy in microjoules.
    fn energy_uj(&mut self, call: &Call, usage: &Usage) -> Option<f64> {
        let gain = self.gain()?;
        let features = Features::of_usage(usage, &self.root);
        Some(self.weights_of(Class::of(call)).cost_fj(&features) as f64 * gain)
    }

    /// The weights of one class in the mix of late.
    fn weights_of(&mut self, class: Class) -> Weights {
        if let Some(weights) = self.asked.get(&class) {
            return *weights;
        }
        let weights = self.weights(std::iter::once(class.clone())).of_class(&class);
        self.asked.insert(class, weights);
        weights
    }

    /// Energy and half its band, in microjoules.
    fn provisional(&mut self, call: &Call, usage: &Usage) -> Option<(f64, f64)> {
        let energy_uj = self.energy_uj(call, usage)?;
        let slices = self.off_squared / self.dynamic_squared.max(f64::MIN_POSITIVE);
        let features = Features::of_usage(usage, &self.root);
        let relative = self.filter.relative_band(&Class::of(call), &features);
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
                learnt.observe(&span, slice, now.at_ns);
            }
        }
        self.learn_fuel(slice);
    }

    /// The weights for a slice that begins at the readings `before`, to be put into it before it is
    /// journalled. A root of which nothing is known yet has none.
    pub fn weights(&mut self, before: &[Reading], slice: &Slice) -> Vec<RootWeights> {
        let of = |learnt: &mut Learnt| {
            // Also of a root that learns no more, as long as its meter does not answer.
            learnt.asked.clear();
            let of_root = |reading: &&Reading| reading.root.name == learnt.root.name;
            let (before, now) = (before.iter().find(of_root)?, slice.readings.iter().find(of_root)?);
            Span::between(before, now)?;
            learnt.of_slice(slice, before.at_ns, now.at_ns)
        };
        self.roots.iter_mut().filter_map(of).collect()
    }

    /// What `usage` of `call` will probably cost over all roots; none as long as nothing was learnt. The
    /// bands of the roots are added, as if they erred together.
    pub fn provisional(&mut self, call: &Call, usage: &Usage) -> Option<Provisional> {
        let (mut energy_uj, mut band_uj, mut known) = (0.0, 0.0, false);
        for (energy, band) in self
            .roots
            .iter_mut()
            .filter_map(|learnt| learnt.provisional(call, usage))
        {
            (energy_uj, band_uj, known) = (energy_uj + energy, band_uj + band, true);
        }
        known.then(|| Provisional {
            energy_uj: energy_uj.round() as u64,
            upper_uj: (energy_uj + band_uj).ceil() as u64,
        })
    }

    /// The same figure without its band, which takes many times as long to find. In microjoules.
    pub fn provisional_uj(&mut self, call: &Call, usage: &Usage) -> Option<u64> {
        let of_roots = self
            .roots
            .iter_mut()
            .filter_map(|learnt| learnt.energy_uj(call, usage));
        let energy_uj = of_roots.reduce(|sum, energy_uj| sum + energy_uj)?;
        Some(energy_uj.round() as u64)
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
            if let Some(energy_uj) = self.provisional_uj(&claim.call, &claim.usage) {
                (energy_fj, known) = (energy_fj + energy_uj as f64 * FJ_PER_UJ, true);
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

/// Weights in watts per 10⁹ units a second as integers, in fJ a unit: 1 W per (10⁹ units per second) is 1 nJ a unit.
fn whole_weights(watts: [f64; crate::weights::FEATURES]) -> Weights {
    Weights(watts.map(whole_uw))
}
