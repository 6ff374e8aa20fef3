//! What the filter knows, and how surely.

use super::{
    CLASSES, COMMON, COST, FLOOR, FOREIGN, FUEL, Filter, KERNELS, MODEL, OCCUPIED, PER_CLASS, Place, TRAFFIC,
};
use crate::energy::{Provenance, Root};
use crate::estimator::matrix::dot;
use crate::estimator::{Banded, RootModel, Z95};
use crate::weights::{Class, Feature, Features};

impl Filter {
    /// The derivatives of the cost of `features` of a class in the mix of late, by the state.
    fn cost_slope(&self, class: Option<&Class>, features: &Features) -> Vec<f64> {
        let (amount, time) = (|f: Feature| features.get(f) as f64, features.time_ns() as f64);
        let mut slope = vec![0.0; self.state.len()];
        let place = class.and_then(|class| self.known(class));
        let (alone, mean, slowed) = self.typical_bends();
        let cells = [
            (OCCUPIED, alone * time),
            (TRAFFIC, amount(Feature::Traffic)),
            (FUEL, amount(Feature::Fuel)),
            (COST + COMMON, (mean + slowed) * time),
            (COST + MODEL, mean * amount(Feature::Model)),
            (COST + FOREIGN, mean * amount(Feature::Foreign)),
        ];
        let own = place.map(|place| COST + CLASSES + PER_CLASS * place);
        let model = amount(Feature::Model);
        let own = own.map(|at| [(at, mean * (time - model)), (at + 1, mean * model)]);
        for (at, value) in cells.into_iter().chain(own.into_iter().flatten()) {
            if let Some(cell) = slope.get_mut(at) {
                *cell = value;
            }
        }
        slope
    }

    /// Half the 95 % band of what `features` of a class cost in one slice, relative to the cost: how well the
    /// weights are known, and how far a slice is from the model. 1 where nothing is known yet.
    pub(in crate::estimator) fn relative_band(&self, class: &Class, features: &Features) -> f64 {
        if self.state.is_empty() {
            return 1.0;
        }
        let slope = self.cost_slope(Some(class), features);
        let cost = dot(&slope, &self.state);
        let mut variance = dot(&slope, &self.covariance.times(&slope)).max(0.0);
        if self.known(class).is_none() && self.measured {
            variance += (KERNELS * self.unit_w() * features.time_ns() as f64).powi(2);
        }
        if cost <= 0.0 {
            return 0.0;
        }
        Z95 * (variance / (cost * cost) + self.noise).sqrt()
    }

    /// All of it, for people.
    pub(in crate::estimator) fn model(&self, root: &Root) -> RootModel {
        // A modelled meter's error is in all that is fitted to it.
        let doubt = match root.provenance {
            Provenance::Measured => 0.0,
            _ => f64::from(root.uncertainty_ppm) / 1e6,
        };
        let banded = |watts: f64, variance: f64| {
            let sd_w = (variance.max(0.0) + (doubt * watts).powi(2)).sqrt();
            Banded::rounded(watts.max(0.0) * 1e6, Z95 * sd_w * 1e6)
        };
        let begun = !self.state.is_empty();
        let spread = |class: Option<&Class>, feature: Feature| {
            let slope = self.cost_slope(class, &Features::of(feature, 1));
            dot(&slope, &self.covariance.times(&slope))
        };
        let shared = Feature::ALL
            .into_iter()
            .filter(|feature| begun && self.shared_by(*feature));
        let typical = self.typical();
        let weight = |feature: Feature| {
            let watts = typical.get(feature as usize).copied().unwrap_or_default();
            (feature, banded(watts, spread(None, feature)))
        };
        let main = if self.device {
            Feature::Busy
        } else {
            Feature::Guest
        };
        let own = |place: &Place| {
            let [watts, _] = self.class_typical(&place.class);
            (
                place.class.clone(),
                banded(watts, spread(Some(&place.class), main)),
            )
        };
        let (floor_w, floor) = match begun {
            true => (self.floor_w(), self.covariance.get(FLOOR, FLOOR)),
            // Nothing but the meter's word.
            false => (self.prior_floor_w, (0.3 * self.prior_floor_w).powi(2)),
        };
        RootModel {
            root: root.clone(),
            slices: self.slices,
            noise_ppm: (self.noise.sqrt() * 1e6).round() as u64,
            floor_uw: banded(floor_w, floor),
            weights: shared.map(weight).collect(),
            classes: self.places.iter().map(own).collect(),
        }
    }
}
