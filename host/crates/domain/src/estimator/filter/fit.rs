//! From parts to the state: sums of products, and the fit to them.

use super::{
    ALIKE_S, BEND, CLASSES, COST, FIT_ALWAYS, FLOOR, FLOOR_MEMORY_S, FOREIGN_MEMORY_S, FUEL, Filter,
    IDLE_DOUBT, LINEAR, MEMORY_S, NOISE_MEMORY, OCCUPIED, OTHERS, OUTLIER, PER_CLASS, PER_COST, STEP_S,
    TRAFFIC,
};
use crate::estimator::matrix::{Symmetric, dot};

impl Filter {
    /// The state as coefficients of the terms: each cost as it is, and bent.
    pub(super) fn coefficients(&self) -> Vec<f64> {
        let mut all: Vec<f64> = self.state.iter().take(LINEAR).copied().collect();
        let bends = [1.0, self.at(BEND), self.at(BEND + 1)];
        for cost in self.state.iter().skip(COST) {
            all.extend(bends.map(|bend| cost * bend));
        }
        all
    }

    /// How the coefficients move with the state: a row for each of its cells, of the terms that it moves.
    fn slopes(&self) -> Vec<Vec<(usize, f64)>> {
        let bends = [1.0, self.at(BEND), self.at(BEND + 1)];
        let of_bend = |bend: usize| {
            let costs = self.state.iter().skip(COST).enumerate();
            costs
                .map(|(cost, value)| (LINEAR + PER_COST * cost + bend, *value))
                .collect()
        };
        let of_cost = |cost: usize| {
            let terms = bends.into_iter().enumerate();
            terms
                .map(|(bend, factor)| (LINEAR + PER_COST * cost + bend, factor))
                .collect()
        };
        (0..self.state.len())
            .map(|at| match at {
                _ if at < LINEAR => vec![(at, 1.0)],
                _ if at < COST => of_bend(at - BEND + 1),
                _ => of_cost(at - COST),
            })
            .collect()
    }

    /// Adds a part to the sums. Parts of less dynamic power say more of the floor, and are weighed so.
    /// `foreign` is how many CPUs others kept busy.
    pub(super) fn learn(&mut self, power_w: f64, terms: &[f64], foreign: f64, seconds: f64) {
        self.forget_foreign(seconds);
        let target_w = power_w - self.floor_offset_w;
        let expected_w = dot(terms, &self.coefficients());
        let of_late_w = self.foreign_w * foreign;
        let dynamic_w = expected_w - self.at(FLOOR) + of_late_w;
        let scale_w = dynamic_w.max(0.0) + IDLE_DOUBT * power_w.max(1e-3);
        // Two rounded readings of the machine's CPU time, each off by less than a step.
        let step_w = if self.device {
            0.0
        } else {
            self.unit_w() * STEP_S / seconds
        };
        let own = scale_w * scale_w * self.noise + step_w * step_w / 6.0;
        // For what holds long, all that others may do is noise; for what they do of late, what is known of that.
        let others = (OTHERS * self.unit_w() * foreign).powi(2);
        let left_w = target_w - expected_w;
        let sigmas = left_w.abs() / (own + others).sqrt();
        let mut weight = self.noise / (own + others) * (seconds / ALIKE_S).min(1.0);
        if self.slices > FIT_ALWAYS {
            weight *= (OUTLIER / sigmas).min(1.0);
            let left_w = left_w - of_late_w;
            let variance = own + self.foreign_variance * foreign * foreign;
            let new = (left_w * left_w / (scale_w * scale_w)).min(OUTLIER * OUTLIER * self.noise);
            // What others do unseen is no noise of the model.
            let part = self.noise * scale_w * scale_w / variance / NOISE_MEMORY;
            self.noise = (self.noise + (new - self.noise) * part).max(1e-7);
            if self.measured {
                self.follow_floor(left_w, power_w / scale_w * IDLE_DOUBT, seconds);
                self.follow_foreign(left_w, variance, foreign);
            }
        }
        let keep = (-seconds / MEMORY_S).exp();
        self.products.scale(keep);
        self.products.add_outer(terms, weight);
        for (sum, term) in self.powers.iter_mut().zip(terms) {
            *sum = *sum * keep + weight * term * target_w;
        }
    }

    /// What idle slices are off by of late is the floor's: it moves with the machine's temperature.
    /// `idleness` is 1 for a slice with no dynamic power.
    fn follow_floor(&mut self, left_w: f64, idleness: f64, seconds: f64) {
        let part = seconds / (seconds + FLOOR_MEMORY_S) * idleness.clamp(0.0, 1.0).powi(2);
        let limit_w = 0.2 * self.at(FLOOR);
        self.floor_offset_w = (self.floor_offset_w + part * left_w).clamp(-limit_w, limit_w);
    }

    /// What others do changes unseen: what was found of their cost is old after a while.
    fn forget_foreign(&mut self, seconds: f64) {
        let keep = (-seconds / FOREIGN_MEMORY_S).exp();
        let whole = (OTHERS * self.unit_w()).powi(2);
        self.foreign_w *= keep;
        self.foreign_variance = whole + (self.foreign_variance - whole) * keep * keep;
    }

    /// Kalman's update of one figure: by how much others cost more of late than on the mean.
    fn follow_foreign(&mut self, left_w: f64, variance: f64, foreign: f64) {
        let gain = self.foreign_variance * foreign / variance.max(f64::MIN_POSITIVE);
        let limit_w = 3.0 * OTHERS * self.unit_w();
        let by_w = (gain * left_w).clamp(-limit_w, limit_w);
        self.foreign_w += by_w;
        self.foreign_variance *= (1.0 - gain * foreign).clamp(0.0, 1.0);
    }

    /// What is expected of each cell of the state: its mean, and its variance.
    fn priors(&self) -> Vec<(f64, f64)> {
        let unit_w = self.unit_w();
        let prior = |(at, (mean, sd)): (usize, &(f64, f64))| {
            let scale = if [FLOOR, BEND, BEND + 1].contains(&at) {
                1.0
            } else {
                unit_w
            };
            (mean * scale, (sd * scale).powi(2))
        };
        self.expected.iter().enumerate().map(prior).collect()
    }

    /// Fits the state to the sums and to what was expected: a step of Gauss and Newton's, since costs are
    /// multiplied with bends, with costs and the floor kept to where they can be.
    pub(super) fn fit(&mut self) {
        let slopes = self.slopes();
        let noise = self.noise;
        let size = self.state.len();
        let coefficients = self.coefficients();
        // Linear in the state around where it is.
        let mut around = coefficients.iter().map(|value| -value).collect::<Vec<_>>();
        for (row, value) in slopes.iter().zip(&self.state) {
            for (term, slope) in row {
                around[*term] += slope * value;
            }
        }
        let around = self.products.times(&around);
        let left: Vec<f64> = self
            .powers
            .iter()
            .zip(&around)
            .map(|(power, known)| power + known)
            .collect();
        let mut normal = Symmetric::zero(size);
        let mut target = vec![0.0; size];
        for (row, cells) in slopes.iter().enumerate() {
            target[row] = cells.iter().map(|(term, slope)| slope * left[*term]).sum::<f64>() / noise;
            for (column, others) in slopes.iter().enumerate().take(row + 1) {
                let sum: f64 = cells
                    .iter()
                    .flat_map(|(a, x)| others.iter().map(move |(b, y)| (a, x, b, y)))
                    .map(|(a, x, b, y)| x * y * self.products.get(*a, *b))
                    .sum();
                normal.set(row, column, sum / noise);
            }
        }
        let mut free = vec![true; size];
        let mut fixed = vec![0.0; size];
        for (at, (mean, variance)) in self.priors().into_iter().enumerate() {
            if variance > 0.0 {
                normal.add(at, 1.0 / variance);
                target[at] += mean / variance;
            } else {
                (free[at], fixed[at]) = (false, mean);
            }
        }
        self.solve(&normal, &target, free, fixed);
    }

    /// Solves within bounds.
    fn solve(&mut self, normal: &Symmetric, target: &[f64], mut free: Vec<bool>, mut fixed: Vec<f64>) {
        let noise = 2.0 * IDLE_DOUBT * self.noise.sqrt();
        let most_w = if self.device {
            f64::INFINITY
        } else {
            self.envelope.bound_w().unwrap_or(f64::INFINITY) * (1.0 + noise) - self.floor_offset_w
        };
        let mut spread = None;
        // Each round fixes what leaves its bounds; six can.
        for _ in 0..7 {
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
                (OCCUPIED, 0.0, f64::INFINITY),
                (TRAFFIC, 0.0, f64::INFINITY),
                (FUEL, 0.0, f64::INFINITY),
                (BEND, -0.6, 0.3),
                (BEND + 1, -0.2, 0.1),
            ];
            let out = bounds.into_iter().find_map(|(at, least, most)| {
                let value = *fitted.get(at)?;
                (free[at] && (value < least || value > most))
                    .then(|| (at, value.clamp(least, most.max(least))))
            });
            let Some((at, value)) = out else {
                // Halfway only while little is known: a whole step may go too far, since costs are bent.
                let step = if self.slices <= FIT_ALWAYS { 0.5 } else { 1.0 };
                for (value, fitted) in self.state.iter_mut().zip(&fitted) {
                    *value += step * (fitted - *value);
                }
                // What stands at its bound is not known better than without it.
                self.covariance = spread.unwrap_or(inverse);
                return;
            };
            (free[at], fixed[at]) = (false, value);
            spread.get_or_insert(inverse);
        }
    }

    /// A cost, in watts.
    pub(super) fn cost_w(&self, cost: usize) -> f64 {
        self.at(COST + cost)
    }

    /// How many costs there are.
    pub(super) fn costs(&self) -> usize {
        CLASSES + PER_CLASS * self.places.len()
    }
}
