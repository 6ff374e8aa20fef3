//! The physics: what a millisecond on the simulated machine takes, for any set of those who work in it.
//!
//! - Switching: energy per cycle × V² (Horowitz, *Computing's energy problem*, ISSCC 2014); the factor
//!   between instruction mixes is 2 to 3 (Molka et al., *Characterizing the energy consumption of data
//!   transfers and arithmetic operations on x86-64 processors*, IGCC 2010).
//! - Frequency and voltage fall in steps with the number of active cores, as turbo tables do: power is
//!   concave in the number of busy CPUs, and a call's cycles cost more while few others run.
//! - Two threads on a core share its static power and slow each other down (SMT gives some 25 % more than
//!   one thread), so that CPU time is worth less in company.
//! - The first active core wakes the uncore; the last one to stop lets it sleep.
//! - Memory takes energy by the byte, and more of it when it is crowded: convex.
//! - Leakage grows with temperature, and temperature follows power and the air with a delay: the floor
//!   itself drifts.
//! - A GPU stays awake for a while after its last work.
//!
//! A coalition without the others does the same cycles, at the frequency of its own number of cores, with
//! cores to itself where the other thread was someone else's.

use super::scenario::{Machine, Mix};

/// What cycles of a mix take: nanojoules at 1 V, bytes of memory traffic, and fuel that a guest burns.
#[derive(Clone, Copy, Debug)]
pub struct Cycle {
    /// Nanojoules at 1 V.
    pub nj: f64,
    /// Bytes to and from memory.
    pub bytes: f64,
    /// Fuel, if it is a guest's.
    pub fuel: f64,
}

/// The physics of a mix.
pub fn physics_of(mix: Mix) -> Cycle {
    let (nj, bytes, fuel) = match mix {
        Mix::Integer => (1.3, 0.02, 1.8),
        Mix::Vector => (2.4, 0.25, 1.0),
        Mix::Memory => (0.8, 1.2, 0.4),
        Mix::Branchy => (1.0, 0.1, 0.9),
    };
    Cycle { nj, bytes, fuel }
}

/// Cycles per millisecond that scenarios' times are given in.
pub const NOMINAL_CYCLES: f64 = 3e6;

/// What one thread did in a millisecond.
#[derive(Clone, Copy, Debug)]
pub struct Ran {
    /// Whose it is: the bit in a coalition.
    pub player: usize,
    /// On which core.
    pub core: usize,
    /// Cycles.
    pub cycles: f64,
    /// Of what.
    pub mix: Mix,
}

/// Energy in joules above doing nothing, of package and memory.
pub type Joules = [f64; 2];

impl Machine {
    /// GHz and volts with this many active cores, a mean over a millisecond: between steps in proportion.
    pub fn step(&self, active: f64) -> [f64; 2] {
        let last = self.steps.len() - 1;
        let below = (active - 1.0).clamp(0.0, last as f64);
        let (at, part) = (below as usize, below.fract());
        let (from, to) = (self.steps[at], self.steps[(at + 1).min(last)]);
        [0, 1].map(|n| from[n] + (to[n] - from[n]) * part)
    }

    /// How many times the leakage of 50 °C.
    pub fn leakage(&self, die_c: f64) -> f64 {
        (self.leak_per_k * (die_c - 50.0)).exp()
    }

    /// Power of package and memory with nothing to do at this temperature, in watts.
    pub fn idle(&self, die_c: f64) -> Joules {
        let package_w = self.idle_w - self.leak_w + self.leak_w * self.leakage(die_c);
        [package_w, self.dram_idle_w]
    }

    /// What the work in `ran` of the players in `coalition` takes above idle, in joules.
    pub fn dynamic(&self, ran: &[Ran], coalition: u64, die_c: f64) -> Joules {
        let mut first = [0.0_f64; 64];
        let mut second = [0.0_f64; 64];
        let (mut bytes, mut nj_at_1v) = (0.0, 0.0);
        for ran in ran {
            if coalition >> ran.player & 1 == 0 || ran.cycles <= 0.0 {
                continue;
            }
            let cycle = physics_of(ran.mix);
            nj_at_1v += cycle.nj * ran.cycles;
            bytes += cycle.bytes * ran.cycles;
            if first[ran.core] == 0.0 {
                first[ran.core] = ran.cycles;
            } else {
                second[ran.core] = ran.cycles;
            }
        }
        if nj_at_1v == 0.0 {
            return [0.0, 0.0];
        }
        // In nominal milliseconds: which part of this one each core is active.
        let active = first
            .iter()
            .zip(&second)
            .map(|(one, other)| one.max(*other) / NOMINAL_CYCLES);
        let [ghz, volts] = self.step(active.map(|part| part.min(1.0)).sum());
        let (mut core_s, mut longest_s) = (0.0, 0.0_f64);
        for (one, other) in first.iter().zip(&second).take(self.cores) {
            // Together until the shorter is done, then alone.
            let (short, long) = (one.min(*other), one.max(*other));
            let seconds = (short / self.smt_speed + (long - short)) / (ghz * 1e9);
            core_s += seconds;
            longest_s = longest_s.max(seconds);
        }
        let leaking = 0.5 + 0.5 * self.leakage(die_c);
        let package_j = nj_at_1v * volts * volts * 1e-9
            + core_s * self.core_static_w * leaking
            + longest_s * self.uncore_w
            + bytes * 0.05e-9;
        // 1 ms at full bandwidth.
        let crowded = bytes / (self.dram_gbps * 1e6);
        let dram_j = bytes * self.dram_nj * 1e-9 * (1.0 + 0.5 * crowded);
        [package_j, dram_j]
    }
}

/// The die's temperature.
#[derive(Clone, Copy, Debug)]
pub struct Die {
    /// In °C.
    pub celsius: f64,
}

impl Die {
    /// In balance with an idle machine.
    pub fn cold(machine: &Machine) -> Self {
        let celsius = machine.ambient_c + machine.kelvin_per_w * machine.idle_w;
        Self { celsius }
    }

    /// A millisecond at `watts`, at `at_s` seconds of the run.
    pub fn warm(&mut self, machine: &Machine, watts: f64, at_s: f64) {
        let swing = machine.ambient_swing_c * (at_s / 3_600.0 * std::f64::consts::TAU).sin();
        let towards = machine.ambient_c + swing + machine.kelvin_per_w * watts;
        self.celsius += (towards - self.celsius) * 1e-3 / machine.thermal_s;
    }
}
