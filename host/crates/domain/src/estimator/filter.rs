//! The filter of one root: recursive least squares with forgetting, over floor, curve, deviations and classes.
//!
//! Kept are sums of products, to which the state is fitted anew within its bounds. A filter that moves the
//! state itself from slice to slice and clips it loses its way: its covariance no longer fits its state.
//!
//! Units within: watts, CPUs busy (or devices), 10⁹ bytes or fuel per second, seconds. The formula is in
//! [`super`].

mod classes;
mod fit;
mod report;

use serde::{Deserialize, Serialize};

use super::envelope::Envelope;
use super::matrix::{Symmetric, dot};
use super::{Banded, Z95, per_second, whole_uw, whole_weights};
use crate::attribution::Span;
use crate::calibrate::Calibration;
use crate::energy::Root;
use crate::posting::Slice;
use crate::weights::{Class, FEATURES, Feature, Features, Weights, class_features, is_device};

/// Classes that one root tells apart; the others go by the common weights.
pub(super) const MAX_CLASSES: usize = 32;
/// A class that used nothing for this many slices may lose its place to a new one.
const CLASS_KEPT: u64 = 600;

// Where things stand in the state.
const FLOOR: usize = 0;
const WAKE: usize = 1;
const BEND: usize = 2;
const COMMON: usize = 4;
const MODEL: usize = 5;
const FOREIGN: usize = 6;
const TRAFFIC: usize = 7;
const FUEL: usize = 8;
// Then the host's own time, which nothing else refers to.
const CLASSES: usize = 10;

/// The features from [`MODEL`] to [`CLASSES`].
const OWN: [Feature; 5] = [
    Feature::Model,
    Feature::Foreign,
    Feature::Traffic,
    Feature::Fuel,
    Feature::System,
];

/// How far the cost of a CPU may be from the common one before anything is seen, one standard deviation. An
/// assumption, and a wide one: what slices show overrides it in minutes.
const MIX: f64 = 0.3;
/// How far the common cost of a CPU may be from the mean, which deviations are in.
const COMMON_DOUBT: f64 = 0.15;
/// The same for the two coefficients of the curve: turbo and SMT bend by some ten percent per doubling.
const BENDS: [f64; 2] = [0.3, 0.1];
/// Seconds in which the fit forgets most: a machine's curve and its releases stay, meters and mixes change.
const MEMORY_S: f64 = 3_600.0;
/// Seconds in which the floor follows what idle slices say: as fast as a machine warms up.
const FLOOR_MEMORY_S: f64 = 30.0;
/// How far the model errs at first, of the dynamic power.
const FIRST_NOISE: f64 = 0.05;
/// The share of the whole power by which an idle slice can still be wrong, beside the noise.
const IDLE_DOUBT: f64 = 0.1;
/// Slices over which the noise is learnt.
const NOISE_MEMORY: f64 = 64.0;
/// A slice that is off by more than this many standard deviations counts for less, in proportion.
const OUTLIER: f64 = 4.0;
/// Slices from which on the fit is made anew with every [`FIT_EVERY`]th only.
const FIT_ALWAYS: u64 = 64;
const FIT_EVERY: u64 = 8;
/// Below this many busy CPUs a first slice says nothing of what one costs.
const LEAST_BUSY: f64 = 0.02;
/// No weight of time falls below this part of the common one: use of a CPU is never free.
const LEAST_WEIGHT: f64 = 0.05;
/// Slices over which the mean deviation is taken.
const DEVIATION_MEMORY: f64 = 1_024.0;
/// More than some of the kernel's steps is no rounding.
const MOST_BEHIND_NS: u64 = 50_000_000;
/// Seconds over which the means of power and of busy CPUs are taken.
const MEAN_S: f64 = 30.0;

/// A class with a place in the state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Place {
    class: Class,
    /// The slice in which it last used anything.
    seen: u64,
}

/// What is known of a root: sums of products, and what was fitted to them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Filter {
    measured: bool,
    prior_floor_w: f64,
    envelope: Envelope,
    slices: u64,
    device: bool,
    /// Σ w·z·zᵀ and Σ w·z·P over slices, with forgetting: z is what the state is multiplied with.
    products: Symmetric,
    powers: Vec<f64>,
    /// Expected before any slice, and with which standard deviation, as parts of the unit.
    expected: Vec<(f64, f64)>,
    /// Fitted. Empty until a slice has told what a CPU costs, roughly.
    state: Vec<f64>,
    covariance: Symmetric,
    /// By how much the floor of late is above the fitted one.
    floor_offset_w: f64,
    /// Moving means of power and of busy CPUs, for the scale of what is expected.
    mean_power_w: f64,
    places: Vec<Place>,
    /// The variance of what the model does not explain, relative to the dynamic power.
    noise: f64,
    /// CPUs (or devices) busy of late.
    busy: f64,
    /// By how much the CPU time of guests deviates on the mean, in watts: moving means of deviation × CPUs,
    /// and of CPUs.
    deviating: [f64; 2],
    /// By how much the machine's CPU time was behind the host's, in nanoseconds.
    behind_ns: u64,
}

/// What one CPU of `busy` contributes to the terms of the common cost, from [`WAKE`] to [`COMMON`].
fn common_slope(busy: f64) -> [f64; 4] {
    let (log, awake) = (
        busy.ln_1p(),
        if busy > 1e-6 {
            -(-busy).exp_m1() / busy
        } else {
            1.0
        },
    );
    [awake, log, log * log, 1.0]
}

/// The sum of all times.
fn busy_of(rates: &[f64; FEATURES]) -> f64 {
    let times = rates
        .iter()
        .zip(Feature::ALL)
        .filter(|(_, feature)| feature.is_time());
    times.map(|(rate, _)| rate).sum()
}

impl Filter {
    /// A filter of a root whose meter measures, or else computes from use.
    pub(super) fn new(measured: bool, prior_floor_uw: u64) -> Self {
        Self {
            measured,
            prior_floor_w: prior_floor_uw as f64 / 1e6,
            envelope: Envelope::default(),
            slices: 0,
            device: false,
            products: Symmetric::default(),
            powers: Vec::new(),
            expected: Vec::new(),
            state: Vec::new(),
            covariance: Symmetric::default(),
            floor_offset_w: 0.0,
            mean_power_w: 0.0,
            places: Vec::new(),
            noise: FIRST_NOISE * FIRST_NOISE,
            busy: 0.0,
            deviating: [0.0; 2],
            behind_ns: 0,
        }
    }

    fn at(&self, index: usize) -> f64 {
        self.state.get(index).copied().unwrap_or_default()
    }

    fn set(&mut self, index: usize, value: f64) {
        if let Some(cell) = self.state.get_mut(index) {
            *cell = value;
        }
    }

    /// Begins with a floor, give or take, in watts. All else is expected as parts of what a CPU costs, which
    /// itself is about 1.
    fn begin(&mut self, floor_w: f64, floor_sd_w: f64) {
        let own = if self.measured { MIX } else { 0.0 };
        self.expected = vec![(0.0, own); CLASSES];
        let known = [
            (WAKE, 0.0, 1.0),
            (BEND, 0.0, BENDS[0]),
            (BEND + 1, 0.0, BENDS[1]),
            (COMMON, 1.0, 2.0),
        ];
        for (at, mean, sd) in known {
            if let Some(cell) = self.expected.get_mut(at) {
                *cell = (mean, sd);
            }
        }
        if let Some(floor) = self.expected.get_mut(FLOOR) {
            *floor = (floor_w, floor_sd_w);
        }
        self.state = vec![0.0; CLASSES];
        self.set(FLOOR, floor_w);
        self.powers = vec![0.0; CLASSES];
        self.products = Symmetric::zero(CLASSES);
    }

    /// Begins with what known loads have shown; run time may move it as it moves all else.
    pub(super) fn calibrate(&mut self, known: &Calibration) {
        let watts = |banded: &Banded| (banded.value as f64 / 1e6, banded.band as f64 / 1e6 / Z95);
        let cost = |feature: Feature| {
            let banded = known.weights.get(feature as usize)?.as_ref()?;
            (banded.value > 0).then(|| watts(banded))
        };
        let (guest, model) = (cost(Feature::Guest), cost(Feature::Model));
        let Some((unit_w, unit_sd_w)) = guest.or(model).or(cost(Feature::Busy)) else {
            return;
        };
        let (floor_w, floor_sd_w) = watts(&known.floor_uw);
        self.prior_floor_w = floor_w;
        self.begin(floor_w, floor_sd_w.max(0.01 * floor_w));
        self.busy = 1.0;
        self.mean_power_w = floor_w + unit_w;
        // Loads of a calibration are not those of tenants.
        let wide = |sd_w: f64| (sd_w / unit_w).hypot(MIX / 3.0);
        let mut expect = |at: usize, mean_w: f64, sd_w: f64| {
            if let Some(cell) = self.expected.get_mut(at) {
                *cell = (mean_w / unit_w, wide(sd_w));
            }
        };
        expect(COMMON, unit_w, unit_sd_w);
        if self.measured {
            if let (Some(_), Some((model_w, sd_w))) = (guest, model) {
                expect(MODEL, model_w - unit_w, sd_w);
            }
            for (at, feature) in [(TRAFFIC, Feature::Traffic), (FUEL, Feature::Fuel)] {
                if let Some((cost_w, sd_w)) = cost(feature) {
                    expect(at, cost_w, sd_w);
                }
            }
        }
        self.fit();
    }

    /// Learns from a span.
    pub(super) fn observe(&mut self, span: &Span, slice: &Slice, root: &Root) {
        self.slices += 1;
        self.device = is_device(root);
        let length_ns = span.length_ns.max(1);
        // µJ/ns is kW.
        let power_w = span.energy_uj as f64 / length_ns as f64 * 1e3;
        let seconds = length_ns as f64 / 1e9;
        self.envelope.note(power_w, seconds);
        let by_class = class_features(slice, root);
        let mut all = Features::default();
        let others = self.others(slice, root);
        by_class.values().chain(&others).for_each(|more| all.absorb(more));
        let rates = per_second(&all, length_ns);
        let busy = busy_of(&rates);
        let part = (1.0 / self.slices as f64).max(seconds / (seconds + MEAN_S));
        self.busy += (busy - self.busy) * part;
        self.mean_power_w += (power_w - self.mean_power_w) * part;
        let meter_floor_w = span.floor_uw as f64 / 1e6;
        if self.state.is_empty() && !self.begin_with(busy, meter_floor_w) {
            return;
        }
        let mut slope = vec![1.0];
        slope.extend(common_slope(busy).map(|term| term * busy));
        slope.extend(OWN.map(|feature| rates.get(feature as usize).copied().unwrap_or_default()));
        if self.measured {
            for (class, features) in &by_class {
                let busy = features.time_ns() as f64 / length_ns as f64;
                if let Some(place) = self.place(class, busy) {
                    slope.resize(self.state.len(), 0.0);
                    if let Some(cell) = slope.get_mut(CLASSES + place) {
                        *cell = busy;
                    }
                }
            }
        } else if let Some(floor) = self.expected.get_mut(FLOOR) {
            // The floor is the meter's own.
            floor.0 = meter_floor_w;
        }
        slope.resize(self.state.len(), 0.0);
        self.learn(power_w, &slope, seconds);
        if self.slices <= FIT_ALWAYS || self.slices.is_multiple_of(FIT_EVERY) {
            self.fit();
        }
        self.deviate(&by_class, length_ns);
    }

    fn begin_with(&mut self, busy: f64, meter_floor_w: f64) -> bool {
        if busy < LEAST_BUSY {
            return false;
        }
        self.prior_floor_w = meter_floor_w;
        let lowest_w = self.envelope.bound_w().unwrap_or_default();
        let (floor_w, sd_w) = if !self.measured {
            (meter_floor_w, 0.0)
        } else if meter_floor_w > 0.0 {
            (meter_floor_w, MIX * meter_floor_w)
        } else {
            (0.5 * lowest_w, 0.5 * lowest_w)
        };
        self.begin(floor_w, sd_w);
        true
    }

    /// The common cost of a CPU while `busy` are, in watts.
    fn common_w(&self, busy: f64) -> f64 {
        let terms = self.state.get(WAKE..=COMMON).unwrap_or_default();
        dot(terms, &common_slope(busy)).max(1e-3)
    }

    /// The scale of what is expected: mean power above the floor over mean busy CPUs, in watts.
    fn unit_w(&self) -> f64 {
        let floor_w = self.at(FLOOR).min(0.95 * self.mean_power_w);
        ((self.mean_power_w - floor_w) / self.busy.max(LEAST_BUSY)).max(1e-3)
    }

    /// Whether a slice has told what a CPU costs.
    pub(super) fn begun(&self) -> bool {
        !self.state.is_empty()
    }

    /// The power with nothing to do, in microwatts.
    pub(super) fn floor_uw(&self) -> u64 {
        (self.floor_w() * 1e6).round() as u64
    }

    fn floor_w(&self) -> f64 {
        (self.at(FLOOR) + self.floor_offset_w).max(0.0)
    }

    fn shared_by(&self, feature: Feature) -> bool {
        (feature == Feature::Busy) == self.device
    }

    /// The common weights while `busy` CPUs are; none until a slice has told what a CPU costs.
    pub(super) fn weights(&self, busy: f64) -> Option<Weights> {
        if self.state.is_empty() {
            return None;
        }
        let mut watts = [0.0; FEATURES];
        for (cell, feature) in watts.iter_mut().zip(Feature::ALL) {
            if self.shared_by(feature) {
                *cell = self.weight_w(feature, 0.0, busy);
            }
        }
        Some(whole_weights(watts))
    }

    /// The weight of a feature for a class that deviates by `own_w`, in watts.
    fn weight_w(&self, feature: Feature, own_w: f64, busy: f64) -> f64 {
        let common_w = self.common_w(busy);
        let time = |deviation_w: f64| (common_w + deviation_w + own_w).max(LEAST_WEIGHT * common_w);
        match feature {
            Feature::Guest | Feature::Busy => time(0.0),
            Feature::System => time(self.deviating[0] / self.deviating[1].max(1e-9)),
            Feature::Model => time(self.at(MODEL)),
            Feature::Foreign => time(self.at(FOREIGN)),
            Feature::Traffic => self.at(TRAFFIC),
            Feature::Fuel => self.at(FUEL),
        }
    }

    /// The weights of guest, model and busy time of a class that has its own.
    pub(super) fn class_weights(&self, class: &Class, busy: f64) -> Option<[u32; 3]> {
        let place = self.places.iter().position(|place| place.class == *class)?;
        let own_w = self.at(CLASSES + place);
        let own = |feature: Feature| {
            let shared = self.shared_by(feature);
            if shared {
                whole_uw(self.weight_w(feature, own_w, busy))
            } else {
                0
            }
        };
        Some([Feature::Guest, Feature::Model, Feature::Busy].map(own))
    }

    /// CPUs (or devices) busy of late.
    pub(super) fn busy(&self) -> f64 {
        self.busy
    }
}
