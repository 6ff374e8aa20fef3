//! What the filter knows, and how surely.

use super::{CLASSES, FLOOR, Filter, MIX, OWN, Place, common_slope};
use crate::energy::{Provenance, Root};
use crate::estimator::matrix::dot;
use crate::estimator::{Banded, RootModel, Z95};
use crate::weights::{Class, Feature, Features};

impl Filter {
    /// The derivatives of the cost of `features` of the class at `place` by the state.
    fn cost_slope(&self, place: Option<usize>, features: &Features) -> Vec<f64> {
        let (amount, time) = (|f: Feature| features.get(f) as f64, features.time_ns() as f64);
        let mut slope = vec![0.0];
        slope.extend(common_slope(self.busy).map(|term| term * time));
        slope.extend(OWN.map(amount));
        slope.resize(self.state.len(), 0.0);
        if let Some(cell) = place.and_then(|place| slope.get_mut(CLASSES + place)) {
            *cell = time;
        }
        slope
    }

    /// Half the 95 % band of what `features` of a class cost in one slice, relative to the cost: how well the
    /// weights are known, and how far a slice is from the model. 1 where nothing is known yet.
    pub(in crate::estimator) fn relative_band(&self, class: &Class, features: &Features) -> f64 {
        if self.state.is_empty() {
            return 1.0;
        }
        let place = self.places.iter().position(|place| place.class == *class);
        let slope = self.cost_slope(place, features);
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
        let spread = |place: Option<usize>, feature: Feature| {
            let slope = self.cost_slope(place, &Features::of(feature, 1));
            dot(&slope, &self.covariance.times(&slope))
        };
        let shared = Feature::ALL
            .into_iter()
            .filter(|feature| begun && self.shared_by(*feature));
        let weight = |feature: Feature| {
            let watts = self.weight_w(feature, 0.0, self.busy);
            (feature, banded(watts, spread(None, feature)))
        };
        let main = if self.device {
            Feature::Busy
        } else {
            Feature::Guest
        };
        let own = |(index, place): (usize, &Place)| {
            let watts = self.weight_w(main, self.at(CLASSES + index), self.busy);
            (place.class.clone(), banded(watts, spread(Some(index), main)))
        };
        let (floor_w, floor) = match begun {
            true => (self.floor_w(), self.covariance.get(FLOOR, FLOOR)),
            // Nothing but the meter's word.
            false => (self.prior_floor_w, (MIX * self.prior_floor_w).powi(2)),
        };
        RootModel {
            root: root.clone(),
            slices: self.slices,
            noise_ppm: (self.noise.sqrt() * 1e6).round() as u64,
            floor_uw: banded(floor_w, floor),
            weights: shared.map(weight).collect(),
            classes: self.places.iter().enumerate().map(own).collect(),
        }
    }
}
