//! Calibration: weights from short loads whose use is known, by non-negative least squares.
//!
//! Each row is one load: what it used, how long it took, and what the meter said. The model is
//! `energy = floor · length + Σ weight · use`, all of it non-negative, fitted to mean powers so that long
//! and short loads count alike. The method is Lawson and Hanson's (*Solving Least Squares Problems*, ch. 23)
//! over the normal equations, which is exact enough for the eight unknowns there are.

use serde::{Deserialize, Serialize};

use crate::Usage;
use crate::attribution::Span;
use crate::energy::{Activity, Provenance, Root};
use crate::estimator::{Banded, Z95};
use crate::weights::{FEATURES, Feature, Features, is_device};

/// One load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// What everyone on the machine used meanwhile.
    pub features: Features,
    /// What the root metered, in microjoules.
    pub energy_uj: u64,
    /// How long it took, in nanoseconds.
    pub length_ns: u64,
}

impl Load {
    /// What `root` metered in a span in which known loads used `used` and the machine was as active as `activity`
    /// says.
    ///
    /// CPU time that no load used, this program's own and that of others, counts as a guest's: it comes as evenly
    /// as the floor, and nobody could tell the two apart. A meter that computes from utilisation knows of CPU time
    /// and of nothing else, so all of it is one feature there: anything more would only seem to be measured.
    pub fn of(span: &Span, root: &Root, used: &Usage, activity: &Activity) -> Self {
        let mut features = Features::of_usage(used, root);
        if !is_device(root) {
            let others_ns = activity.machine_ns.saturating_sub(used.total_cpu_ns());
            features.absorb(&Features::of(Feature::Guest, others_ns));
            if root.provenance != Provenance::Measured {
                features = Features::of(Feature::Guest, features.time_ns());
            }
        }
        Self {
            features,
            energy_uj: span.energy_uj,
            length_ns: span.length_ns,
        }
    }
}

/// What loads have shown of one root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Calibration {
    /// The power with nothing to do, in microwatts.
    pub floor_uw: Banded,
    /// Weights in fJ per unit, in [`crate::weights::Feature::ALL`]'s order; none of what no load used.
    pub weights: [Option<Banded>; FEATURES],
    /// What the fit leaves unexplained, of the mean power, in parts per million.
    pub residual_ppm: u64,
}

/// Why loads give no weights.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CalibrationError {
    /// Too few loads for so many unknowns.
    #[error("{loads} loads cannot tell {unknowns} weights and the floor: run more kinds of load, or longer")]
    TooFew {
        /// Loads with a length.
        loads: usize,
        /// Features that they used.
        unknowns: usize,
    },
    /// What was used always came in the same proportion, or not at all.
    #[error(
        "the loads do not differ enough to tell what costs what: add one that idles and one of each kind alone"
    )]
    Alike,
}

impl CalibrationError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooFew { .. } => "calibration_too_few",
            Self::Alike => "calibration_alike",
        }
    }
}

/// Fits floor and weights to `loads`; loads without a length say nothing.
pub fn calibrate(loads: &[Load]) -> Result<Calibration, CalibrationError> {
    let loads: Vec<&Load> = loads.iter().filter(|load| load.length_ns > 0).collect();
    let used: Vec<usize> = (0..FEATURES)
        .filter(|at| loads.iter().any(|load| load.features.0[*at] > 0))
        .collect();
    let unknowns = used.len();
    if loads.len() < unknowns + 2 {
        return Err(CalibrationError::TooFew {
            loads: loads.len(),
            unknowns,
        });
    }
    let row = |load: &Load| -> Vec<f64> {
        let per_ns = |at: &usize| load.features.0[*at] as f64 / load.length_ns as f64;
        std::iter::once(1.0).chain(used.iter().map(per_ns)).collect()
    };
    let rows: Vec<Vec<f64>> = loads.iter().map(|load| row(load)).collect();
    // µJ/ns is kW: all weights come out in watts.
    let powers_w: Vec<f64> = loads
        .iter()
        .map(|load| load.energy_uj as f64 / load.length_ns as f64 * 1e3)
        .collect();
    let fit = fit(&rows, &powers_w).ok_or(CalibrationError::Alike)?;

    let whole = |at: usize| {
        let (value, band) = (fit.values.get(at), fit.bands.get(at));
        Banded::rounded(
            value.copied().unwrap_or_default() * 1e6,
            band.copied().unwrap_or_default() * 1e6,
        )
    };
    let mut weights = [None; FEATURES];
    for (index, at) in used.iter().enumerate() {
        weights[*at] = Some(whole(index + 1));
    }
    let mean_w = powers_w.iter().sum::<f64>() / powers_w.len() as f64;
    let residual_ppm = if mean_w > 0.0 {
        fit.residual_sd / mean_w * 1e6
    } else {
        0.0
    };
    Ok(Calibration {
        floor_uw: whole(0),
        weights,
        residual_ppm: residual_ppm.round() as u64,
    })
}

struct Fit {
    values: Vec<f64>,
    /// Half the 95 % bands.
    bands: Vec<f64>,
    residual_sd: f64,
}

/// Non-negative least squares: unknowns are freed one by one, where the error falls most, and held at 0
/// again where they would become negative.
fn fit(rows: &[Vec<f64>], powers: &[f64]) -> Option<Fit> {
    let size = rows.first()?.len();
    let product = |left: usize, right: usize| rows.iter().map(|row| row[left] * row[right]).sum::<f64>();
    let normal: Vec<Vec<f64>> = (0..size)
        .map(|left| (0..size).map(|right| product(left, right)).collect())
        .collect();
    let target: Vec<f64> = (0..size)
        .map(|at| rows.iter().zip(powers).map(|(row, power)| row[at] * power).sum())
        .collect();
    let mut values = vec![0.0; size];
    let mut free = vec![false; size];
    // Each round frees one; each is freed a few times at most.
    for _ in 0..3 * size {
        let pull = |at: usize| target[at] - normal[at].iter().zip(&values).map(|(a, b)| a * b).sum::<f64>();
        let held = (0..size).filter(|at| !free[*at] && normal[*at][*at] > 0.0);
        // Relative to the unknown's own scale, or large units would go first.
        let next = held
            .map(|at| (at, pull(at) / normal[at][at].sqrt()))
            .filter(|(_, pull)| *pull > 1e-9)
            .max_by(|left, right| left.1.total_cmp(&right.1));
        let Some((next, _)) = next else { break };
        free[next] = true;
        settle(&normal, &target, &mut free, &mut values)?;
    }
    let residual = |(row, power): (&Vec<f64>, &f64)| {
        let expected: f64 = row.iter().zip(&values).map(|(a, b)| a * b).sum();
        (power - expected).powi(2)
    };
    let left: f64 = rows.iter().zip(powers).map(residual).sum();
    let degrees = rows
        .len()
        .saturating_sub(free.iter().filter(|free| **free).count());
    let variance = left / degrees.max(1) as f64;
    // All unknowns, the held ones too: a weight at 0 is not known better than the others.
    let inverse_diagonal = (0..size).map(|at| {
        let mut unit = vec![0.0; size];
        unit[at] = 1.0;
        solve(&normal, &unit, &vec![true; size]).map(|column| column[at])
    });
    let inverse_diagonal: Option<Vec<f64>> = inverse_diagonal.collect();
    let quantile = student95(degrees);
    let bands = inverse_diagonal?
        .into_iter()
        .map(|cell| quantile * (variance * cell.max(0.0)).sqrt());
    Some(Fit {
        values,
        bands: bands.collect(),
        residual_sd: variance.sqrt(),
    })
}

/// Solves for the free unknowns, and steps back where one of them would leave what is allowed.
fn settle(normal: &[Vec<f64>], target: &[f64], free: &mut [bool], values: &mut [f64]) -> Option<()> {
    for _ in 0..=values.len() {
        let solved = solve(normal, target, free)?;
        let step = (0..values.len())
            .filter(|at| free[*at] && solved[*at] <= 0.0)
            .map(|at| values[at] / (values[at] - solved[at]).max(f64::MIN_POSITIVE))
            .fold(1.0, f64::min);
        for at in 0..values.len() {
            values[at] += step * (solved[at] - values[at]);
            if free[at] && step < 1.0 && values[at] <= 1e-12 {
                (free[at], values[at]) = (false, 0.0);
            }
        }
        if step >= 1.0 {
            return Some(());
        }
    }
    Some(())
}

/// Solves `normal · x = target` over the free unknowns by elimination with pivots; the others are 0. None
/// if they cannot be told apart.
fn solve(normal: &[Vec<f64>], target: &[f64], free: &[bool]) -> Option<Vec<f64>> {
    let order: Vec<usize> = (0..target.len()).filter(|at| free[*at]).collect();
    // Scaled to ones on the diagonal, so that a small pivot means what it says.
    let scale = |at: usize| 1.0 / normal[at][at].sqrt();
    let mut rows: Vec<Vec<f64>> = order
        .iter()
        .map(|&row| {
            let cells = order
                .iter()
                .map(|&column| normal[row][column] * scale(row) * scale(column));
            cells.chain([target[row] * scale(row)]).collect()
        })
        .collect();
    let size = order.len();
    for at in 0..size {
        let pivot = (at..size).max_by(|a, b| rows[*a][at].abs().total_cmp(&rows[*b][at].abs()))?;
        let size_of_pivot = rows[pivot][at].abs();
        if size_of_pivot.is_nan() || size_of_pivot <= 1e-9 {
            return None;
        }
        rows.swap(at, pivot);
        let lead = rows[at].clone();
        for row in rows.iter_mut().skip(at + 1) {
            let factor = row[at] / lead[at];
            row.iter_mut()
                .zip(&lead)
                .for_each(|(cell, lead)| *cell -= factor * lead);
        }
    }
    let mut solved = vec![0.0; target.len()];
    for at in (0..size).rev() {
        let known: f64 = (at + 1..size)
            .map(|other| rows[at][other] * solved[order[other]] / scale(order[other]))
            .sum();
        solved[order[at]] = (rows[at][size] - known) / rows[at][at] * scale(order[at]);
    }
    Some(solved)
}

/// The two-sided 95 % quantile of Student's t, by Cornish and Fisher's expansion; within 3 % from three
/// degrees of freedom on, and exact for one and two.
fn student95(degrees: usize) -> f64 {
    match degrees {
        0 | 1 => 12.706,
        2 => 4.303,
        _ => {
            let (z, n) = (Z95, degrees as f64);
            let z3 = z.powi(3);
            z + (z3 + z) / (4.0 * n) + (5.0 * z.powi(5) + 16.0 * z3 + 3.0 * z) / (96.0 * n * n)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::Feature;

    const SECOND: u64 = 1_000_000_000;

    /// A load of a second on a machine with a floor of 40 W, 10 W per guest CPU, 6 W per model CPU and
    /// 0.5 nJ per byte.
    fn load(guest_ms: u64, model_ms: u64, mib: u64, error_uj: i64) -> Load {
        let features = Features([guest_ms * 1_000_000, model_ms * 1_000_000, 0, 0, mib << 20, 0, 0]);
        let exact_uj = 40_000_000 + guest_ms * 10_000 + model_ms * 6_000 + (mib << 20) / 2_000;
        Load {
            features,
            energy_uj: exact_uj.saturating_add_signed(error_uj),
            length_ns: SECOND,
        }
    }

    #[test]
    fn known_loads_give_the_weights_and_a_band_that_holds_them() {
        for (error_uj, within_ppm) in [(0, 100), (200_000, 150_000)] {
            let loads: Vec<Load> = [
                (0, 0, 0),
                (1_000, 0, 0),
                (2_000, 0, 10),
                (0, 1_000, 0),
                (0, 3_000, 900),
                (500, 500, 400),
                (0, 0, 0),
                (3_000, 1_000, 2_000),
            ]
            .into_iter()
            .zip([1, -1, 1, 1, -1, -1, -1, 1])
            .map(|((guest, model, mib), sign)| load(guest, model, mib, sign * error_uj))
            .collect();
            let fit = calibrate(&loads).unwrap();
            let known = [
                (Feature::Guest, 10_000_000_u64),
                (Feature::Model, 6_000_000),
                (Feature::Traffic, 500_000),
            ];
            let found = known.map(|(feature, value)| (fit.weights[feature as usize].unwrap(), value));
            for (found, value) in found.into_iter().chain([(fit.floor_uw, 40_000_000)]) {
                let off = found.value.abs_diff(value);
                assert!(
                    off * 1_000_000 <= value * within_ppm + 2_000_000,
                    "{found:?} {value}"
                );
                assert!(off <= found.band + 2, "{found:?} {value}");
            }
            assert_eq!(fit.weights[Feature::Busy as usize], None);
        }
    }

    #[test]
    fn a_load_counts_everyone_and_a_model_sees_time_alone() {
        let mut root = Root {
            name: "package-0".into(),
            kind: "rapl".into(),
            provenance: Provenance::Measured,
            uncertainty_ppm: 0,
            model_version: 1,
        };
        let span = Span {
            energy_uj: 7,
            floor_uw: 0,
            length_ns: SECOND,
        };
        let work = crate::Work {
            graph: crate::Digest::of(b"graph"),
            backend: "rten".into(),
            device: "cpu".into(),
            precision: "exact".into(),
            runs: 1,
            rows: 1,
            cpu_ns: 30,
            busy_ns: 0,
            tokens: 0,
        };
        let used = Usage {
            fuel: 5,
            cpu_ns: 100,
            bytes_in: 2,
            bytes_out: 1,
            work: vec![work],
            ..Usage::default()
        };
        let activity = Activity {
            machine_ns: 150,
            host_ns: 140,
            postgres_ns: 0,
        };
        let features = |root: &Root| Load::of(&span, root, &used, &activity).features.0;
        assert_eq!(features(&root), [120, 30, 0, 0, 3, 5, 0]);
        root.provenance = Provenance::Modelled;
        assert_eq!(features(&root), [150, 0, 0, 0, 0, 0, 0]);
        // A counter of ticks may be behind the threads' clocks: then there was nobody else.
        root.provenance = Provenance::Measured;
        let behind = Load::of(&span, &root, &used, &Activity::default());
        assert_eq!(behind.features.0, [100, 30, 0, 0, 3, 5, 0]);
        root.kind = "nvml".into();
        assert_eq!(features(&root), [0; FEATURES]);
    }

    #[test]
    fn what_the_meter_errs_by_is_in_the_band() {
        let sure = Banded {
            value: 1_000,
            band: 30,
        };
        assert_eq!(sure.with_meter(0), sure);
        // 1.96 · 2 % of 1,000, and 30.
        let banded = sure.with_meter(20_000);
        assert_eq!((banded.value, banded.band), (1_000, 50));
    }

    #[test]
    fn what_would_be_negative_is_nothing() {
        // Bytes seem to save energy.
        let mut loads = vec![
            load(0, 0, 0, 0),
            load(1_000, 0, 0, 0),
            load(2_000, 0, 0, 0),
            load(500, 0, 0, 0),
        ];
        loads.push(load(1_000, 0, 2_000, -3_000_000));
        let fit = calibrate(&loads).unwrap();
        let traffic = fit.weights[Feature::Traffic as usize].unwrap();
        assert_eq!(traffic.value, 0);
        assert!(traffic.band > 0);
        let guest = fit.weights[Feature::Guest as usize].unwrap();
        assert!(guest.value.abs_diff(10_000_000) < 1_000_000, "{guest:?}");
    }

    #[test]
    fn too_few_or_too_similar_loads_are_refused() {
        let few = calibrate(&[load(0, 0, 0, 0), load(1_000, 0, 0, 0)]).unwrap_err();
        assert_eq!(
            (few.clone(), few.code()),
            (
                CalibrationError::TooFew {
                    loads: 2,
                    unknowns: 1
                },
                "calibration_too_few"
            )
        );
        let nothing = Load {
            length_ns: 0,
            ..load(1, 1, 1, 0)
        };
        assert!(matches!(
            calibrate(&[nothing; 9]),
            Err(CalibrationError::TooFew { loads: 0, .. })
        ));
        // Guest and model always alike: nobody can tell them apart.
        let alike: Vec<Load> = [0, 500, 1_000, 2_000, 3_000]
            .map(|ms| load(ms, ms, 0, 0))
            .to_vec();
        let error = calibrate(&alike).unwrap_err();
        assert_eq!(
            (error.clone(), error.code()),
            (CalibrationError::Alike, "calibration_alike")
        );
    }
}
