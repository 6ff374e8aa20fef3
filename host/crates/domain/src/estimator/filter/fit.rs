//! From slices to the state: sums of products, and the fit to them.

use super::{
    COMMON_DOUBT, FIT_ALWAYS, FLOOR, FLOOR_MEMORY_S, FUEL, Filter, IDLE_DOUBT, MEMORY_S, NOISE_MEMORY,
    OUTLIER, TRAFFIC, WAKE, common_slope,
};
use crate::estimator::matrix::dot;

impl Filter {
    /// Adds a slice to the sums. Slices of less dynamic power say more of the floor, and are weighed so.
    pub(super) fn learn(&mut self, power_w: f64, slope: &[f64], seconds: f64) {
        let dynamic_w = dot(slope, &self.state) - self.at(FLOOR);
        let scale_w = dynamic_w.max(0.0) + IDLE_DOUBT * power_w.max(1e-3);
        let left_w = power_w - self.floor_offset_w - self.at(FLOOR) - dynamic_w;
        let sigmas = left_w.abs() / (scale_w * self.noise.sqrt());
        let mut weight = 1.0 / (scale_w * scale_w);
        if self.slices > FIT_ALWAYS {
            weight *= (OUTLIER / sigmas).min(1.0);
            let new = (left_w / scale_w).powi(2).min(OUTLIER * OUTLIER * self.noise);
            self.noise = (self.noise + (new - self.noise) / NOISE_MEMORY).max(1e-7);
            if self.measured {
                self.follow_floor(left_w, power_w / scale_w * IDLE_DOUBT, seconds);
            }
        }
        let keep = (-seconds / MEMORY_S).exp();
        self.products.scale(keep);
        self.products.add_outer(slope, weight);
        let target_w = power_w - self.floor_offset_w;
        for (sum, slope) in self.powers.iter_mut().zip(slope) {
            *sum = *sum * keep + weight * slope * target_w;
        }
    }

    /// What idle slices are off by of late is the floor's: it moves with the machine's temperature.
    /// `idleness` is 1 for a slice with no dynamic power.
    fn follow_floor(&mut self, left_w: f64, idleness: f64, seconds: f64) {
        let part = seconds / (seconds + FLOOR_MEMORY_S) * idleness.clamp(0.0, 1.0).powi(2);
        let limit_w = 0.2 * self.at(FLOOR);
        self.floor_offset_w = (self.floor_offset_w + part * left_w).clamp(-limit_w, limit_w);
    }

    /// Fits the state to the sums and to what was expected: least squares with a ridge, and with costs and
    /// the floor kept to where they can be.
    pub(super) fn fit(&mut self) {
        let unit_w = self.unit_w();
        let mut normal = self.products.clone();
        normal.scale(1.0 / self.noise);
        let mut target: Vec<f64> = self.powers.iter().map(|sum| sum / self.noise).collect();
        let mut free = vec![true; self.state.len()];
        let mut fixed = vec![0.0; self.state.len()];
        for (at, (mean, sd)) in self.expected.iter().enumerate() {
            let unit_w = if at == FLOOR { 1.0 } else { unit_w };
            let (mean_w, sd_w) = (mean * unit_w, sd * unit_w);
            if sd_w > 0.0 {
                normal.add(at, 1.0 / (sd_w * sd_w));
                target[at] += mean_w / (sd_w * sd_w);
            } else {
                (free[at], fixed[at]) = (false, mean_w);
            }
        }
        // What a CPU costs on the mean is known from the means: deviations are from that.
        let mut mean = vec![0.0];
        mean.extend(common_slope(self.busy));
        mean.resize(self.state.len(), 0.0);
        let weight = (COMMON_DOUBT * unit_w).powi(-2);
        normal.add_outer(&mean, weight);
        for (target, mean) in target.iter_mut().zip(&mean) {
            *target += weight * mean * unit_w;
        }
        let offset_w = self.floor_offset_w;
        let noise = 2.0 * IDLE_DOUBT * self.noise.sqrt();
        let most_w = self.envelope.bound_w().unwrap_or(f64::INFINITY) * (1.0 + noise) - offset_w;
        let mut spread = None;
        // Each round fixes what leaves its bounds; four can.
        for _ in 0..5 {
            let Some(inverse) = normal.inverse(&free) else {
                return;
            };
            let known = normal.times(&fixed);
            let rest: Vec<f64> = target
                .iter()
                .zip(&known)
                .map(|(target, known)| target - known)
                .collect();
            let mut fitted = inverse.times(&rest);
            for (fitted, fixed) in fitted.iter_mut().zip(&fixed) {
                *fitted += fixed;
            }
            let bounds = [
                (FLOOR, 0.0, most_w),
                (WAKE, 0.0, f64::INFINITY),
                (TRAFFIC, 0.0, f64::INFINITY),
                (FUEL, 0.0, f64::INFINITY),
            ];
            let out = bounds.into_iter().find_map(|(at, least, most)| {
                let value = *fitted.get(at)?;
                (free[at] && (value < least || value > most))
                    .then(|| (at, value.clamp(least, most.max(least))))
            });
            let Some((at, value)) = out else {
                // What stands at its bound is not known better than without it.
                (self.state, self.covariance) = (fitted, spread.unwrap_or(inverse));
                return;
            };
            (free[at], fixed[at]) = (false, value);
            spread.get_or_insert(inverse);
        }
    }
}
