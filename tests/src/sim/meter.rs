//! Meters over the true energy: late, noisy, in steps, and with counters that wrap.

use std::collections::VecDeque;

use domain::energy::{Provenance, Reading, Root};
use uuid::Uuid;

use super::random::Random;
use super::scenario::Quality;

/// Milliseconds in which the noise stays what it is.
const NOISE_MS: u64 = 50;

/// A meter of one root.
pub struct SimMeter {
    root: Root,
    quality: Quality,
    floor_uw: u64,
    random: Random,
    /// What was truly taken up to now, as this meter sees it, in joules.
    joules: f64,
    /// The last values of `joules`, one a millisecond, the newest last.
    history: VecDeque<f64>,
    noise: f64,
    ticks: u64,
    raw_uj: u64,
    unwrapped_uj: u64,
}

impl SimMeter {
    /// A meter of the root `name` of a `kind`, whose machine takes `idle_w` when it is cold.
    pub fn new(name: &str, kind: &str, quality: &Quality, idle_w: f64, random: Random) -> Self {
        let root = Root {
            name: name.to_owned(),
            kind: kind.to_owned(),
            provenance: if quality.modelled {
                Provenance::Modelled
            } else {
                Provenance::Measured
            },
            uncertainty_ppm: if quality.modelled { 150_000 } else { 20_000 },
            model_version: 1,
        };
        let knows = quality.knows_idle || quality.modelled;
        Self {
            root,
            quality: quality.clone(),
            floor_uw: if knows { (idle_w * 1e6) as u64 } else { 0 },
            random,
            joules: 0.0,
            history: VecDeque::new(),
            noise: 0.0,
            ticks: 0,
            raw_uj: 0,
            unwrapped_uj: 0,
        }
    }

    /// A millisecond that took `joules`.
    pub fn tick(&mut self, joules: f64) {
        if self.ticks.is_multiple_of(NOISE_MS) {
            let sd = self.quality.noise * (1_000.0 / NOISE_MS as f64).sqrt();
            self.noise = (self.random.normal() * sd).clamp(-0.9, 0.9);
        }
        self.ticks += 1;
        self.joules += joules * self.quality.gain * (1.0 + self.noise);
        self.history.push_back(self.joules);
        if self.history.len() as u64 > self.quality.late_ms + 1 {
            self.history.pop_front();
        }
    }

    /// The raw counter as the hardware would show it now.
    fn raw_uj(&mut self) -> u64 {
        let old = self.random.below(self.history.len().max(1));
        let joules = self.history.get(old).copied().unwrap_or(self.joules);
        let steps = (joules * 1e6) as u64 / self.quality.quantum_uj;
        steps * self.quality.quantum_uj % self.quality.range_uj
    }

    /// Reads it, unwrapped; none in a gap, which only the end of a slice can fall into.
    pub fn read(&mut self, at_ns: u64, ends_slice: bool) -> Option<Reading> {
        if ends_slice && self.random.unit() < self.quality.gaps {
            return None;
        }
        let raw_uj = self.raw_uj();
        let grown_uj = match raw_uj.checked_sub(self.raw_uj) {
            Some(grown_uj) => grown_uj,
            None => self.quality.range_uj - self.raw_uj + raw_uj,
        };
        self.raw_uj = raw_uj;
        self.unwrapped_uj += grown_uj;
        Some(Reading {
            root: self.root.clone(),
            boot_id: Uuid::from_u128(1),
            at_ns,
            counter_uj: self.unwrapped_uj,
            floor_uw: self.floor_uw,
            state: vec![raw_uj],
        })
    }

    /// The root's name.
    pub fn name(&self) -> &str {
        &self.root.name
    }
}
