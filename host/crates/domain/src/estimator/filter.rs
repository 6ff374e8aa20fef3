//! The filter of one root: an extended Kalman filter over floor, curve, weights and classes.
//!
//! Units within: watts, CPUs busy (or devices), 10⁹ bytes or fuel per second, seconds. The formula is in
//! [`super`].

use serde::{Deserialize, Serialize};

use super::envelope::Envelope;
use super::matrix::{Symmetric, dot};
use super::{Banded, RootModel, Z95, per_second, whole_uw, whole_weights};
use crate::attribution::Span;
use crate::calibrate::Calibration;
use crate::energy::{Provenance, Root};
use crate::posting::Slice;
use crate::weights::{
    Class, FEATURES, Feature, Features, Weights, class_features, is_device, other_features,
};

/// Classes that one root tells apart; the others go by the common weights.
pub(super) const MAX_CLASSES: usize = 32;
/// A class that used nothing for this many slices may lose its place to a new one.
const CLASS_KEPT: u64 = 600;

// Where things stand in the state.
const FLOOR: usize = 0;
const WAKE: usize = 1;
const CURVE: usize = 2;
const WEIGHTS: usize = 4;
const CLASSES: usize = WEIGHTS + FEATURES;

/// How far CPU weights and classes may be from the common weight before anything is seen, one standard
/// deviation. An assumption, and a wide one: what slices show overrides it in minutes.
const MIX: f64 = 0.3;
/// The same for the two coefficients of the curve: turbo and SMT bend by some ten percent per doubling.
const BEND: [f64; 2] = [0.3, 0.1];
/// Drift per √second, relative: a floor moves by 1 % in a minute of warming up, costs by 2 % in ten.
const FLOOR_DRIFT: f64 = 0.0013;
const COST_DRIFT: f64 = 0.0008;
/// Seconds after which a class that is not seen has forgotten most of its deviation.
const CLASS_MEMORY_S: f64 = 3_600.0;
/// How far the model errs at first, of the dynamic power.
const FIRST_NOISE: f64 = 0.05;
/// The share of the whole power by which an idle slice can still be wrong, beside the noise.
const IDLE_DOUBT: f64 = 0.1;
/// Slices over which the noise is learnt.
const NOISE_MEMORY: f64 = 64.0;
/// An innovation beyond this many standard deviations pulls no more than one of so many.
const OUTLIER: f64 = 3.0;
/// Below this many busy CPUs a first slice says nothing of what one costs.
const LEAST_BUSY: f64 = 0.02;
/// No CPU weight falls below this part of the largest: use of a CPU is never free.
const LEAST_WEIGHT: f64 = 0.02;

/// A class with a place in the state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Place {
    class: Class,
    /// The slice in which it last used anything.
    seen: u64,
}

/// What is known of a root, with its covariance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Filter {
    measured: bool,
    prior_floor_w: f64,
    envelope: Envelope,
    slices: u64,
    device: bool,
    /// Empty until a slice has told what a CPU costs, roughly.
    state: Vec<f64>,
    covariance: Symmetric,
    places: Vec<Place>,
    /// The variance of what the model does not explain, relative to the dynamic power.
    noise: f64,
}

/// A slice as the filter sees it.
struct Seen {
    power_w: f64,
    seconds: f64,
    /// Use per second of everyone together.
    rates: [f64; FEATURES],
    /// CPUs (or devices) busy for each place.
    classes: Vec<f64>,
}

impl Seen {
    fn busy(&self) -> f64 {
        let times = Feature::ALL.iter().filter(|feature| feature.is_time());
        times
            .filter_map(|feature| self.rates.get(*feature as usize))
            .sum()
    }
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
            state: Vec::new(),
            covariance: Symmetric::default(),
            places: Vec::new(),
            noise: FIRST_NOISE * FIRST_NOISE,
        }
    }

    fn at(&self, index: usize) -> f64 {
        self.state.get(index).copied().unwrap_or_default()
    }

    /// Begins with a CPU at `unit_w` watts, give or take as much.
    fn begin(&mut self, floor_w: f64, floor_sd_w: f64, unit_w: f64) {
        let mut covariance = Symmetric::zero(CLASSES);
        self.state = vec![0.0; CLASSES];
        let (square, own) = (|x: f64| x * x, if self.measured { MIX } else { 0.0 });
        if let Some(floor) = self.state.get_mut(FLOOR) {
            *floor = floor_w;
        }
        covariance.add(FLOOR, FLOOR, if self.measured { square(floor_sd_w) } else { 0.0 });
        for (offset, bend) in BEND.into_iter().enumerate() {
            covariance.add(CURVE + offset, CURVE + offset, square(bend));
        }
        if self.measured {
            covariance.add(WAKE, WAKE, square(unit_w));
        }
        for feature in Feature::ALL {
            let at = WEIGHTS + feature as usize;
            if !feature.is_time() {
                covariance.add(at, at, square(own * unit_w));
                continue;
            }
            if let Some(weight) = self.state.get_mut(at) {
                *weight = unit_w;
            }
            covariance.add(at, at, square(own * unit_w));
            // One common unknown: the same covariance with all times.
            for other in Feature::ALL.into_iter().filter(|other| other.is_time()) {
                if feature <= other {
                    covariance.add(at, WEIGHTS + other as usize, square(unit_w));
                }
            }
        }
        self.covariance = covariance;
    }

    /// Begins with what known loads have shown; run time may move it as it moves all else.
    pub(super) fn calibrate(&mut self, known: &Calibration) {
        let watts = |banded: &Banded| (banded.value as f64 / 1e6, banded.band as f64 / 1e6 / Z95);
        let times = Feature::ALL.iter().filter(|feature| feature.is_time());
        let costs: Vec<f64> = times
            .filter_map(|feature| known.weights.get(*feature as usize)?.as_ref())
            .map(|banded| watts(banded).0)
            .filter(|cost| *cost > 0.0)
            .collect();
        if costs.is_empty() {
            return;
        }
        let unit_w = costs.iter().sum::<f64>() / costs.len() as f64;
        let (floor_w, floor_sd_w) = watts(&known.floor_uw);
        self.prior_floor_w = floor_w;
        self.begin(floor_w, floor_sd_w.max(0.01 * floor_w), unit_w);
        if !self.measured {
            return;
        }
        for (offset, banded) in known.weights.iter().enumerate() {
            if let Some(banded) = banded {
                let (cost_w, sd_w) = watts(banded);
                let at = WEIGHTS + offset;
                if let Some(weight) = self.state.get_mut(at) {
                    *weight = cost_w;
                }
                // Loads of a calibration are not those of tenants.
                let variance = sd_w * sd_w + (MIX / 3.0 * unit_w).powi(2);
                self.covariance.reset(at, variance);
            }
        }
    }

    /// Learns from a span.
    pub(super) fn observe(&mut self, span: &Span, slice: &Slice, root: &Root) {
        self.slices += 1;
        self.device = is_device(root);
        let length_ns = span.length_ns.max(1);
        // µJ/ns is kW.
        let power_w = span.energy_uj as f64 / length_ns as f64 * 1e3;
        self.envelope.note(power_w);
        let by_class = class_features(slice, root);
        let mut all = Features::default();
        by_class
            .values()
            .chain(&other_features(slice, root))
            .for_each(|more| all.absorb(more));
        let mut seen = Seen {
            power_w,
            seconds: length_ns as f64 / 1e9,
            rates: per_second(&all, length_ns),
            classes: Vec::new(),
        };
        if self.state.is_empty() && !self.begin_with(&seen, span.floor_uw as f64 / 1e6) {
            return;
        }
        if self.measured {
            for (class, features) in &by_class {
                let busy = features.time_ns() as f64 / length_ns as f64;
                if let Some(place) = self.place(class, busy) {
                    seen.classes.resize(self.places.len(), 0.0);
                    if let Some(cell) = seen.classes.get_mut(place) {
                        *cell = busy;
                    }
                }
            }
        } else if let Some(floor_w) = self.state.get_mut(FLOOR) {
            *floor_w = span.floor_uw as f64 / 1e6;
        }
        seen.classes.resize(self.places.len(), 0.0);
        self.drift(seen.seconds);
        self.update(&seen);
        self.bound();
    }

    fn begin_with(&mut self, seen: &Seen, meter_floor_w: f64) -> bool {
        let busy = seen.busy();
        if busy < LEAST_BUSY {
            return false;
        }
        self.prior_floor_w = meter_floor_w;
        let lowest_w = self.envelope.bound_w().unwrap_or(seen.power_w);
        let (floor_w, sd_w) = if !self.measured {
            (meter_floor_w, 0.0)
        } else if meter_floor_w > 0.0 {
            let floor_w = meter_floor_w.min(lowest_w);
            (floor_w, MIX * floor_w + 0.02 * lowest_w)
        } else {
            (0.5 * lowest_w, 0.5 * lowest_w)
        };
        let unit_w = (seen.power_w - floor_w).max(0.05 * seen.power_w) / busy.max(0.1);
        if unit_w <= 0.0 {
            return false;
        }
        self.begin(floor_w, sd_w, unit_w);
        true
    }

    /// The common cost of a CPU, in watts: the scale of deviations.
    fn unit_w(&self) -> f64 {
        let times = Feature::ALL.iter().filter(|feature| feature.is_time());
        let largest = times
            .map(|feature| self.at(WEIGHTS + *feature as usize))
            .fold(0.0, f64::max);
        largest.max(1e-3)
    }

    /// The place of a class, a new one if it is busy and there is room.
    fn place(&mut self, class: &Class, busy: f64) -> Option<usize> {
        let known = self.places.iter().position(|place| place.class == *class);
        if known.is_none() && busy <= 0.0 {
            return None;
        }
        let seen = self.slices;
        if let Some(index) = known {
            if let (Some(place), true) = (self.places.get_mut(index), busy > 0.0) {
                place.seen = seen;
            }
            return Some(index);
        }
        let fresh = Place {
            class: class.clone(),
            seen,
        };
        let variance = (MIX * self.unit_w()).powi(2);
        if self.places.len() < MAX_CLASSES {
            self.places.push(fresh);
            self.state.push(0.0);
            self.covariance.grow(variance);
            return Some(self.places.len() - 1);
        }
        let (index, oldest) = self
            .places
            .iter_mut()
            .enumerate()
            .min_by_key(|(_, place)| place.seen)?;
        if oldest.seen + CLASS_KEPT > seen {
            return None;
        }
        *oldest = fresh;
        if let Some(deviation) = self.state.get_mut(CLASSES + index) {
            *deviation = 0.0;
        }
        self.covariance.reset(CLASSES + index, variance);
        Some(index)
    }

    /// Things change while nobody looks.
    fn drift(&mut self, seconds: f64) {
        let unit_w = self.unit_w();
        let step = |relative: f64, of: f64| (relative * of).powi(2) * seconds;
        for bend in 0..BEND.len() {
            self.covariance
                .add(CURVE + bend, CURVE + bend, step(COST_DRIFT, MIX));
        }
        if !self.measured {
            // One weight for all times: they drift together.
            for left in 0..FEATURES {
                for right in left..FEATURES {
                    if self.covariance.get(WEIGHTS + left, WEIGHTS + right) > 0.0 {
                        let drift = step(COST_DRIFT, unit_w);
                        self.covariance.add(WEIGHTS + left, WEIGHTS + right, drift);
                    }
                }
            }
            return;
        }
        let floor_w = self.at(FLOOR).max(0.01 * unit_w);
        self.covariance.add(FLOOR, FLOOR, step(FLOOR_DRIFT, floor_w));
        self.covariance.add(WAKE, WAKE, step(COST_DRIFT, unit_w));
        for weight in WEIGHTS..CLASSES {
            self.covariance.add(weight, weight, step(COST_DRIFT, unit_w));
        }
        let keep = (-seconds / CLASS_MEMORY_S).exp();
        let fresh = (MIX * unit_w).powi(2) * (1.0 - keep * keep);
        for class in CLASSES..self.state.len() {
            if let Some(deviation) = self.state.get_mut(class) {
                *deviation *= keep;
            }
            self.covariance.scale(class, keep);
            self.covariance.add(class, class, fresh);
        }
    }

    /// The power that the model expects, its dynamic part, and the derivatives by the state.
    fn expect(&self, seen: &Seen) -> (f64, f64, Vec<f64>) {
        let busy = seen.busy();
        let log = busy.ln_1p();
        let bend = 1.0 + self.at(CURVE) * log + self.at(CURVE + 1) * log * log;
        let bend = bend.clamp(0.2, 5.0);
        let awake = 1.0 - (-busy).exp();
        let weights = self.state.get(WEIGHTS..).unwrap_or_default();
        let used: Vec<f64> = seen.rates.iter().chain(&seen.classes).copied().collect();
        let linear_w = dot(weights, &used);
        let dynamic_w = self.at(WAKE) * awake + bend * linear_w;
        let mut slope = vec![1.0, awake, linear_w * log, linear_w * log * log];
        slope.extend(used.iter().map(|used| used * bend));
        (self.at(FLOOR) + dynamic_w, dynamic_w, slope)
    }

    fn update(&mut self, seen: &Seen) {
        let (expected_w, dynamic_w, slope) = self.expect(seen);
        let towards = self.covariance.times(&slope);
        let known = dot(&slope, &towards).max(0.0);
        let scale_w = dynamic_w.max(0.0) + IDLE_DOUBT * seen.power_w;
        let innovation_w = seen.power_w - expected_w;
        let doubt = (self.noise * scale_w * scale_w).max(1e-12);
        let mut variance = known + doubt;
        let sigmas = innovation_w.abs() / variance.sqrt();
        if sigmas > OUTLIER {
            variance *= sigmas / OUTLIER;
        }
        for (value, towards) in self.state.iter_mut().zip(&towards) {
            *value += towards / variance * innovation_w;
        }
        self.covariance.subtract_outer(&towards, 1.0 / variance);
        if scale_w > 0.0 {
            let unexplained = (innovation_w * innovation_w - known).max(0.0) / (scale_w * scale_w);
            let new = unexplained.min(OUTLIER * OUTLIER * self.noise);
            self.noise = (self.noise + (new - self.noise) / NOISE_MEMORY).max(1e-7);
        }
    }

    /// Keeps the state within what can be: no negative cost, no floor above the lowest power seen (but for
    /// what the noise of an idle slice can take off it).
    fn bound(&mut self) {
        let noise = 2.0 * IDLE_DOUBT * self.noise.sqrt();
        let bound_w = self.envelope.bound_w().unwrap_or(f64::INFINITY) * (1.0 + noise);
        let least_w = LEAST_WEIGHT * self.unit_w();
        let measured = self.measured;
        for (at, value) in self.state.iter_mut().enumerate().take(CLASSES) {
            let time = at >= WEIGHTS && Feature::ALL.get(at - WEIGHTS).is_some_and(|f| f.is_time());
            match at {
                FLOOR if measured => *value = value.clamp(0.0, bound_w.max(0.0)),
                WAKE => *value = value.max(0.0),
                _ if time => *value = value.max(least_w),
                _ if at >= WEIGHTS => *value = value.max(0.0),
                _ => {}
            }
        }
    }

    /// The power with nothing to do, in microwatts.
    pub(super) fn floor_uw(&self) -> u64 {
        (self.at(FLOOR) * 1e6).round() as u64
    }

    fn shared_by(&self, feature: Feature) -> bool {
        (feature == Feature::Busy) == self.device
    }

    /// The common weights; none until a slice has told what a CPU costs.
    pub(super) fn weights(&self) -> Option<Weights> {
        if self.state.is_empty() {
            return None;
        }
        let mut watts = [0.0; FEATURES];
        for (cell, feature) in watts.iter_mut().zip(Feature::ALL) {
            if self.shared_by(feature) {
                *cell = self.at(WEIGHTS + feature as usize);
            }
        }
        Some(whole_weights(watts))
    }

    /// The weights of guest, model and busy time of a class that has its own.
    pub(super) fn class_weights(&self, class: &Class) -> Option<[u32; 3]> {
        let place = self.places.iter().position(|place| place.class == *class)?;
        let (deviation_w, least_w) = (self.at(CLASSES + place), LEAST_WEIGHT * self.unit_w());
        let own = |feature: Feature| {
            let own_w = self.at(WEIGHTS + feature as usize) + deviation_w;
            let shared = self.shared_by(feature);
            if shared { whole_uw(own_w.max(least_w)) } else { 0 }
        };
        Some([Feature::Guest, Feature::Model, Feature::Busy].map(own))
    }

    /// Half the 95 % band of what `features` of a class cost in one slice, relative to the cost: how well the
    /// weights are known, and how far a slice is from the model. 1 where nothing is known yet.
    pub(super) fn relative_band(&self, class: &Class, features: &Features) -> f64 {
        if self.state.is_empty() {
            return 1.0;
        }
        let mut slope = vec![0.0; self.state.len()];
        let place = self.places.iter().position(|place| place.class == *class);
        for (at, amount) in slope.iter_mut().skip(WEIGHTS).zip(features.0) {
            *at = amount as f64;
        }
        if let Some(cell) = place.and_then(|place| slope.get_mut(CLASSES + place)) {
            *cell = features.time_ns() as f64;
        }
        let cost = dot(&slope, &self.state);
        let mut variance = dot(&slope, &self.covariance.times(&slope)).max(0.0);
        if place.is_none() && self.measured {
            variance += (MIX * self.unit_w() * features.time_ns() as f64).powi(2);
        }
        if cost <= 0.0 {
            return 0.0;
        }
        Z95 * (variance / (cost * cost) + self.noise).sqrt()
    }

    /// All of it, for people.
    pub(super) fn model(&self, root: &Root) -> RootModel {
        // A modelled meter's error is in all that is fitted to it.
        let doubt = match root.provenance {
            Provenance::Measured => 0.0,
            _ => f64::from(root.uncertainty_ppm) / 1e6,
        };
        let banded = |watts: f64, variance: f64| {
            let sd_w = (variance.max(0.0) + (doubt * watts).powi(2)).sqrt();
            Banded::rounded(watts.max(0.0) * 1e6, Z95 * sd_w * 1e6)
        };
        let variance = |at: usize| self.covariance.get(at, at);
        let begun = !self.state.is_empty();
        let shared = Feature::ALL
            .into_iter()
            .filter(|feature| begun && self.shared_by(*feature));
        let weight = |feature: Feature| {
            let at = WEIGHTS + feature as usize;
            (feature, banded(self.at(at), variance(at)))
        };
        let main = WEIGHTS
            + (if self.device {
                Feature::Busy
            } else {
                Feature::Guest
            }) as usize;
        let own = |(index, place): (usize, &Place)| {
            let at = CLASSES + index;
            let both = variance(main) + variance(at) + 2.0 * self.covariance.get(main, at);
            (place.class.clone(), banded(self.at(main) + self.at(at), both))
        };
        RootModel {
            root: root.clone(),
            slices: self.slices,
            floor_uw: banded(
                if begun { self.at(FLOOR) } else { self.prior_floor_w },
                variance(FLOOR),
            ),
            weights: shared.map(weight).collect(),
            classes: self.places.iter().enumerate().map(own).collect(),
        }
    }
}
