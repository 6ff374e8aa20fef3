//! Power from CPU utilisation, for machines without a meter.
//!
//! P(u) = idle + (max − idle) · f(u), where f is the median shape of 372 single-node SPECpower
//! servers of 2012 to 2022, measured at the wall at eleven loads. All of it is integer arithmetic,
//! so that the same ticks give the same microjoules everywhere.
//!
//! The two ends are, in this order, what the site says; those of measured servers with the same CPU; those that a
//! regression over such servers gives for the CPU's TDP, with a term for the board and one for memory; and a guess.
//! Each names its uncertainty, which grows from one to the next.

mod cpus;

use domain::energy::Provenance;

use self::cpus::Server;
use crate::{Machine, MeterError};

/// The version of the curve and of all that gives its ends: the files in `data` and the regression below.
pub const MODEL_VERSION: u32 = 2;

/// f at 0, 10, … 100 % in thousandths.
const CURVE: [u64; 11] = [0, 161, 226, 287, 353, 419, 497, 597, 721, 869, 1000];

/// With the true ends the curve misses by 6.6 % in the mean (five-fold over those servers). For
/// normal errors the standard deviation is √(π/2) = 1.2533 times the mean miss.
const ENDS_PPM: u32 = 82_700;

/// With the ends of other servers with the same CPU: these miss by 11.8 % at idle, the worse of the two ends, which
/// comes to the curve's miss as √(11.8² + 6.6²) %, times 1.2533.
const SERVER_PPM: u32 = 169_000;

/// From the TDP: the regression misses by 23.8 % at idle and by 14.3 % at full load on CPUs that it has not seen. The
/// worse of both stands, times 1.2533, with the curve's miss in it.
const TDP_PPM: u32 = 310_000;

/// From a guessed TDP: server CPUs of 2019 and later range from 1.8 to 4 W a thread, small ones
/// further, which is as uncertain again as the step from the TDP.
const GUESS_PPM: u32 = 500_000;

/// TDP for each hardware thread where nothing is known about the CPU, in microwatts.
const GUESS_UW_PER_THREAD: u64 = 3_000_000;

/// The CPUs that the regression is of have a TDP of so many watts or more. Smaller ones sit in machines that have
/// little in common with servers.
const LEAST_TDP_W: f64 = 45.0;

/// One end by regression: watts = board + per_tdp · ΣTDP + per_gb · GB of memory, by relative least squares over the
/// servers in `data/servers.csv` with the TDP of `data/tdp.csv`. A test does it again.
struct End {
    board_w: f64,
    per_tdp: f64,
    per_gb_w: f64,
}

const IDLE: End = End {
    board_w: 13.87,
    per_tdp: 0.0784,
    per_gb_w: 0.1232,
};
const MAX: End = End {
    board_w: 17.89,
    per_tdp: 0.8083,
    per_gb_w: 0.2626,
};

impl End {
    fn watts(&self, tdp_w: f64, memory_gb: f64) -> f64 {
        self.board_w + self.per_tdp * tdp_w + self.per_gb_w * memory_gb
    }
}

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

    /// The best that is known of a machine.
    pub fn of(machine: &Machine) -> Result<Self, MeterError> {
        let cpu = machine.cpu.as_deref().map(cpus::plain).unwrap_or_default();
        let same: Vec<_> = cpus::servers()
            .filter(|server| cpus::plain(server.cpu) == cpu)
            .collect();
        if let Some(model) = Self::from_servers(machine, &same) {
            return model;
        }
        // Of the part of a CPU that a virtual machine has, the TDP alone does not tell which.
        let tdp_w = cpus::tdp_w(&cpu).filter(|_| !machine.is_virtual);
        match tdp_w.map(|tdp_w| tdp_w * f64::from(machine.chips)) {
            Some(tdp_w) if tdp_w >= LEAST_TDP_W => Self::from_tdp(tdp_w, machine.memory_bytes),
            _ => Self::from_threads(machine.threads),
        }
    }

    /// The ends of measured servers with the machine's CPU; none where there are none.
    fn from_servers(machine: &Machine, same: &[Server]) -> Option<Result<Self, MeterError>> {
        let first = same.first()?;
        let chips = match machine.is_virtual {
            // Its share of the whole: as many of the CPU's threads as it has.
            true => f64::from(machine.threads) / first.threads_per_chip,
            false => f64::from(machine.chips),
        };
        // A board with as many of them has the same power supply and fans.
        let alike: Vec<_> = same.iter().filter(|server| server.chips == chips).collect();
        let alike = match alike.is_empty() {
            true => same.iter().collect(),
            false => alike,
        };
        let median = |of: fn(&Server) -> f64| {
            let mut each: Vec<_> = alike.iter().map(|server| of(server) / server.chips).collect();
            each.sort_by(f64::total_cmp);
            each.get(each.len() / 2).copied().unwrap_or_default() * chips
        };
        let more_gb = gigabytes(machine.memory_bytes) - median(|server| server.memory_gb);
        // However little memory there is, the rest is most of the machine.
        let end = |watts: f64, end: &End| (watts + end.per_gb_w * more_gb).max(watts / 2.0);
        let idle_w = end(median(|server| server.idle_w), &IDLE);
        let max_w = end(median(|server| server.max_w), &MAX);
        let (uncertainty_ppm, share) = match machine.is_virtual {
            true => (
                TDP_PPM,
                format!(", {} of {} threads", machine.threads, first.threads_per_chip),
            ),
            false => (SERVER_PPM, format!(", {chips} of them")),
        };
        let model = Self::from_ends(microwatts(idle_w), microwatts(max_w)).map(|ends| Self {
            uncertainty_ppm,
            source: format!("measured servers with {}{share}", first.cpu),
            ..ends
        });
        Some(model)
    }

    /// A model from the TDP of all CPUs together, in watts, and the memory: board and memory are terms of their own.
    fn from_tdp(tdp_w: f64, memory_bytes: u64) -> Result<Self, MeterError> {
        let memory_gb = gigabytes(memory_bytes);
        let ends = Self::from_ends(
            microwatts(IDLE.watts(tdp_w, memory_gb)),
            microwatts(MAX.watts(tdp_w, memory_gb)),
        )?;
        Ok(Self {
            uncertainty_ppm: TDP_PPM,
            source: format!("TDP of {tdp_w:.0} W, {memory_gb:.0} GB of memory"),
            ..ends
        })
    }

    /// A model where nothing is known but the number of hardware threads: an estimate. The medians of the servers of
    /// 2019 and later are max / TDP = 1.01 and idle / max = 0.22, a share of the board and of a usual amount of memory
    /// included.
    pub fn from_threads(threads: u32) -> Result<Self, MeterError> {
        let tdp_uw = u64::from(threads) * GUESS_UW_PER_THREAD;
        let max_uw = tdp_uw * 101 / 100;
        let ends = Self::from_ends(max_uw * 22 / 100, max_uw)?;
        let each = watts(GUESS_UW_PER_THREAD);
        Ok(Self {
            uncertainty_ppm: GUESS_PPM,
            provenance: Provenance::Estimated,
            source: format!("{threads} threads with {each} TDP each"),
            ..ends
        })
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

fn gigabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}

fn microwatts(watts: f64) -> u64 {
    // A cast saturates.
    (watts * 1e6).round() as u64
}

pub(crate) fn watts(uw: u64) -> String {
    format!("{}.{} W", uw / 1_000_000, uw % 1_000_000 / 100_000)
}

#[cfg(test)]
mod tests;
