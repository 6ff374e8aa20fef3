//! Power from CPU utilisation, for machines without a meter.
//!
//! P(u) = idle + (max − idle) · f(u), where f is the median shape of 372 single-node SPECpower
//! servers of 2012 to 2022, measured at the wall at eleven loads. All of it is integer arithmetic,
//! so that the same ticks give the same microjoules everywhere.

use domain::energy::Provenance;

use crate::MeterError;

/// The version of the curve and of the regression below.
pub const MODEL_VERSION: u32 = 1;

/// f at 0, 10, … 100 % in thousandths.
const CURVE: [u64; 11] = [0, 161, 226, 287, 353, 419, 497, 597, 721, 869, 1000];

/// With the true ends the curve misses by 6.6 % in the mean (five-fold over those servers). For
/// normal errors the standard deviation is √(π/2) = 1.2533 times the mean miss.
const ENDS_PPM: u32 = 82_700;

/// From the TDP alone. On the same servers a regression over seven properties misses by 15 % on
/// CPUs that it has not seen, and TDP times a fixed curve by 25 %; ours knows less than the first
/// and has a better shape than the second, so the worse of both stands, times 1.2533.
const TDP_PPM: u32 = 313_000;

/// From a guessed TDP: server CPUs of 2019 and later range from 1.8 to 4 W a thread, small ones
/// further, which is as uncertain again as the step from the TDP.
const GUESS_PPM: u32 = 500_000;

/// TDP for each hardware thread where nothing is known about the CPU, in microwatts.
const GUESS_UW_PER_THREAD: u64 = 3_000_000;

/// Memory takes 0.392 W for each GB (Cloud Carbon Footprint's coefficient of 0.000392 kWh).
const MEMORY_UW_PER_GB: u64 = 392_000;

/// How much power a machine takes at which utilisation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PowerModel {
    idle_uw: u64,
    max_uw: u64,
    uncertainty_ppm: u32,
    provenance: Provenance,
    source: String,
}

impl PowerModel {
    /// A model between two known ends: power with nothing to do and with all CPUs busy, in microwatts.
    pub fn from_ends(idle_uw: u64, max_uw: u64) -> Result<Self, MeterError> {
        if idle_uw == 0 || idle_uw >= max_uw {
            return Err(MeterError::Model { idle_uw, max_uw });
        }
        Ok(Self {
            idle_uw,
            max_uw,
            uncertainty_ppm: ENDS_PPM,
            provenance: Provenance::Modelled,
            source: "configured ends".into(),
        })
    }

    /// A model from the TDP of all CPUs together, in microwatts: the medians of the servers of 2019
    /// and later are max / TDP = 1.01 and idle / max = 0.22. Their power was measured at the wall, so
    /// the board and a usual amount of memory are in it.
    pub fn from_tdp(tdp_uw: u64) -> Result<Self, MeterError> {
        let max_uw = tdp_uw.saturating_mul(101) / 100;
        let ends = Self::from_ends(max_uw.saturating_mul(22) / 100, max_uw)?;
        Ok(Self {
            uncertainty_ppm: TDP_PPM,
            source: format!("TDP of {}", watts(tdp_uw)),
            ..ends
        })
    }

    /// A model where nothing is known but the number of hardware threads: an estimate.
    pub fn from_threads(threads: u32) -> Result<Self, MeterError> {
        let tdp = Self::from_tdp(u64::from(threads) * GUESS_UW_PER_THREAD)?;
        let each = watts(GUESS_UW_PER_THREAD);
        Ok(Self {
            uncertainty_ppm: GUESS_PPM,
            provenance: Provenance::Estimated,
            source: format!("{threads} threads with {each} TDP each"),
            ..tdp
        })
    }

    /// The same with memory and board added to both ends: for ends of the CPU alone, or for much more
    /// memory than servers usually have.
    pub fn with_memory_and_board(self, memory_bytes: u64, board_uw: u64) -> Self {
        let memory_uw = u128::from(memory_bytes) * u128::from(MEMORY_UW_PER_GB) / 1_000_000_000;
        let more_uw = u64::try_from(memory_uw)
            .unwrap_or(u64::MAX)
            .saturating_add(board_uw);
        Self {
            idle_uw: self.idle_uw.saturating_add(more_uw),
            max_uw: self.max_uw.saturating_add(more_uw),
            source: format!("{} and {} for memory and board", self.source, watts(more_uw)),
            ..self
        }
    }

    /// Power at a utilisation of `busy` out of `total` (0 where `total` is 0), in microwatts.
    pub fn power_uw(&self, busy: u64, total: u64) -> u64 {
        let (busy, total) = (u128::from(busy.min(total)), u128::from(total.max(1)));
        let step = busy * 10 / total;
        let (low, high) = match CURVE.get(step as usize..) {
            Some([low, high, ..]) => (u128::from(*low), u128::from(*high)),
            _ => (1000, 1000),
        };
        // f in units of a thousandth of 1 / total.
        let share = low * total + (high - low) * (busy * 10 % total);
        let dynamic = u128::from(self.max_uw - self.idle_uw) * share / (total * 1000);
        // At most max − idle.
        self.idle_uw + dynamic as u64
    }

    /// Power with nothing to do, in microwatts.
    pub fn idle_uw(&self) -> u64 {
        self.idle_uw
    }

    /// Power with all CPUs busy, in microwatts.
    pub fn max_uw(&self) -> u64 {
        self.max_uw
    }

    /// Relative uncertainty (one standard deviation) in parts per million.
    pub fn uncertainty_ppm(&self) -> u32 {
        self.uncertainty_ppm
    }

    /// Modelled, or estimated where even the CPU is unknown.
    pub fn provenance(&self) -> Provenance {
        self.provenance
    }

    /// The model in one line for people.
    pub fn describe(&self) -> String {
        format!(
            "{} to {} by CPU utilisation, ±{} % ({})",
            watts(self.idle_uw),
            watts(self.max_uw),
            self.uncertainty_ppm / 10_000,
            self.source
        )
    }
}

pub(crate) fn watts(uw: u64) -> String {
    format!("{}.{} W", uw / 1_000_000, uw % 1_000_000 / 100_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_curve_is_met_at_its_points_and_linear_between() {
        let model = PowerModel::from_ends(100_000_000, 300_000_000).unwrap();
        let expected = [
            (0, 100_000_000),
            (5, 116_100_000),
            (10, 132_200_000),
            (50, 183_800_000),
            (55, 191_600_000),
            (95, 286_900_000),
            (99, 297_380_000),
            (100, 300_000_000),
            (101, 300_000_000),
        ];
        for (percent, power_uw) in expected {
            assert_eq!(model.power_uw(percent, 100), power_uw, "{percent} %");
            assert_eq!(model.power_uw(percent * 7, 700), power_uw, "{percent} % of 700");
        }
        assert_eq!(model.power_uw(0, 0), 100_000_000);
    }

    #[test]
    fn power_never_falls_with_use() {
        let model = PowerModel::from_ends(1, 1_000_000_007).unwrap();
        let powers: Vec<_> = (0..=997).map(|busy| model.power_uw(busy, 997)).collect();
        assert!(powers.is_sorted());
        assert_eq!((powers[0], powers[997]), (1, 1_000_000_007));
    }

    #[test]
    fn what_is_less_known_is_less_certain() {
        let ends = PowerModel::from_ends(44_440_000, 202_000_000).unwrap();
        let tdp = PowerModel::from_tdp(200_000_000).unwrap();
        let guess = PowerModel::from_threads(4).unwrap();
        assert_eq!((tdp.idle_uw(), tdp.max_uw()), (ends.idle_uw(), ends.max_uw()));
        assert!(ends.uncertainty_ppm() < tdp.uncertainty_ppm());
        assert!(tdp.uncertainty_ppm() < guess.uncertainty_ppm());
        assert_eq!(guess.max_uw(), 12_120_000);
        assert_eq!(guess.provenance(), Provenance::Estimated);
        assert_eq!(
            tdp.describe(),
            "44.4 W to 202.0 W by CPU utilisation, ±31 % (TDP of 200.0 W)"
        );
    }

    #[test]
    fn memory_and_board_raise_both_ends() {
        let cpu = PowerModel::from_ends(10_000_000, 50_000_000).unwrap();
        let whole = cpu.with_memory_and_board(100_000_000_000, 5_000_000);
        assert_eq!((whole.idle_uw(), whole.max_uw()), (54_200_000, 94_200_000));
    }

    #[test]
    fn impossible_ends_are_refused() {
        for (idle_uw, max_uw) in [(0, 5), (5, 5), (6, 5)] {
            assert_eq!(
                PowerModel::from_ends(idle_uw, max_uw).unwrap_err().code(),
                "meter_model"
            );
        }
        assert!(PowerModel::from_threads(0).is_err());
    }
}
