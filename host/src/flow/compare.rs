//! Compare: what the roots say together, beside a meter of the whole machine, over the last minute.
//!
//! The whole takes more than its parts: fans, disks and what the power supply loses are in it and in no root. So a
//! low ratio says little. One above 1 says that a joule is counted twice or that a meter is off, and is told.

use std::collections::{BTreeMap, VecDeque};

use domain::energy::Reading;
use energy::Metered;
use uuid::Uuid;

/// What is compared at most.
const SPAN_NS: u64 = 60_000_000_000;

/// Less is not compared: the board's own sensors are refreshed by the second.
const LEAST_NS: u64 = 5_000_000_000;

/// A look is kept this often.
const STEP_NS: u64 = 1_000_000_000;

/// The kind of a site's own meter. As a root it measures what no other meter of the machine sees.
const APART_KIND: &str = "file";

/// Half of a two-sided 95 % band is so many standard deviations.
const Z95: f64 = 1.96;

/// The mean power of all roots in the machine beside the whole machine's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compared {
    /// The root that is the whole machine.
    pub wall: String,
    /// Over how long, in nanoseconds.
    pub span_ns: u64,
    /// What the roots say together, in microwatts.
    pub roots_uw: u64,
    /// What the whole machine takes, in microwatts.
    pub wall_uw: u64,
    /// The former in millionths of the latter.
    pub ratio_ppm: u64,
    /// By how much that may be off, as the meters state it: half its 95 % band, in millionths.
    pub band_ppm: u64,
    /// Whether the parts take more than the whole, beyond what the meters may err by, over a whole minute.
    pub exceeds: bool,
}

/// A counter at an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    boot_id: Uuid,
    at_ns: u64,
    counter_uj: u64,
}

/// All counters that are compared, at one look.
#[derive(Clone, Debug)]
struct Look {
    wall: Mark,
    roots: BTreeMap<String, Mark>,
}

/// The looks of the last minute, and what they say.
#[derive(Debug, Default)]
pub struct Comparing {
    looks: VecDeque<Look>,
    compared: Option<Compared>,
}

impl Comparing {
    /// What is known now; none without a meter of the whole machine, or before there is enough to compare.
    pub fn compared(&self) -> Option<&Compared> {
        self.compared.as_ref()
    }

    /// Takes in a look at all meters; gives what is to be told if that is news. Where one of them says nothing there
    /// is nothing to compare, and it begins anew.
    pub fn note(&mut self, metered: &Metered) -> Option<Compared> {
        let before = self.compared.take();
        let parts: Vec<_> = metered.readings.iter().filter(is_part).collect();
        let is_well = |fault: &domain::energy::MeterFault| {
            parts.iter().all(|part| part.root.name != fault.root)
                && self
                    .looks
                    .back()
                    .is_none_or(|look| !look.roots.contains_key(&fault.root))
        };
        let (Some(wall), false, true) = (
            metered.calibrating.first(),
            parts.is_empty(),
            metered.faults.iter().all(is_well),
        ) else {
            self.looks.clear();
            return None;
        };
        let now = Look {
            wall: mark(wall),
            roots: parts
                .iter()
                .map(|part| (part.root.name.clone(), mark(part)))
                .collect(),
        };
        self.keep(&now);
        let then = self.looks.front()?;
        let whole = power_uw(&then.wall, &now.wall);
        let powers = parts.iter().map(|part| {
            let (root_uw, _) = power_uw(then.roots.get(&part.root.name)?, &mark(part))?;
            Some((root_uw, part.root.uncertainty_ppm))
        });
        let powers: Option<Vec<_>> = powers.collect();
        let Some(((wall_uw, span_ns), powers)) = whole.zip(powers) else {
            // A counter fell or began anew, or a root is new.
            self.looks.clear();
            return None;
        };
        if span_ns < LEAST_NS || wall_uw == 0 {
            return None;
        }
        let roots_uw: u64 = powers
            .iter()
            .fold(0, |sum, (power, _)| sum.saturating_add(*power));
        let ratio_ppm = ppm(roots_uw, wall_uw);
        // Roots err as if together: they are mostly of one kind.
        let weighed = powers.iter().map(|(power, ppm)| *power as f64 * f64::from(*ppm));
        let roots_ppm = weighed.sum::<f64>() / roots_uw.max(1) as f64;
        let relative_ppm = Z95 * roots_ppm.hypot(f64::from(wall.root.uncertainty_ppm));
        let band_ppm = (relative_ppm * ratio_ppm as f64 / 1e6).ceil() as u64;
        // Once it is told it stays so until the ratio is back, whatever the span.
        let was_over = before.is_some_and(|before| before.exceeds);
        let is_over = ratio_ppm > band_ppm.saturating_add(1_000_000);
        let compared = Compared {
            wall: wall.root.name.clone(),
            span_ns,
            roots_uw,
            wall_uw,
            ratio_ppm,
            band_ppm,
            exceeds: is_over && (was_over || span_ns >= SPAN_NS),
        };
        self.compared = Some(compared.clone());
        (compared.exceeds != was_over).then_some(compared)
    }

    /// Keeps a look by the second, for a minute.
    fn keep(&mut self, now: &Look) {
        let age_ns = |look: &Look| now.wall.at_ns.saturating_sub(look.wall.at_ns);
        if self.looks.back().is_none_or(|last| age_ns(last) >= STEP_NS) {
            self.looks.push_back(now.clone());
        }
        // The last that is a minute old stays.
        while self.looks.get(1).is_some_and(|second| age_ns(second) >= SPAN_NS) {
            self.looks.pop_front();
        }
    }
}

fn is_part(reading: &&Reading) -> bool {
    reading.root.kind != APART_KIND
}

fn mark(reading: &Reading) -> Mark {
    Mark {
        boot_id: reading.boot_id,
        at_ns: reading.at_ns,
        counter_uj: reading.counter_uj,
    }
}

/// Mean power in microwatts, and the time it is of; none where the counter began anew or fell.
fn power_uw(then: &Mark, now: &Mark) -> Option<(u64, u64)> {
    let energy_uj = now.counter_uj.checked_sub(then.counter_uj)?;
    let span_ns = now.at_ns.saturating_sub(then.at_ns);
    let power_uw = u128::from(energy_uj) * 1_000_000_000 / u128::from(span_ns.max(1));
    (then.boot_id == now.boot_id).then_some((u64::try_from(power_uw).unwrap_or(u64::MAX), span_ns))
}

fn ppm(part: u64, whole: u64) -> u64 {
    let ppm = u128::from(part) * 1_000_000 / u128::from(whole.max(1));
    u64::try_from(ppm).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use domain::energy::{FaultKind, MeterFault, Provenance, Root};

    use super::*;

    fn reading(name: &str, kind: &str, at_s: u64, watts: u64) -> Reading {
        Reading {
            root: Root {
                name: name.into(),
                kind: kind.into(),
                provenance: Provenance::Measured,
                uncertainty_ppm: 50_000,
                model_version: 1,
            },
            boot_id: Uuid::nil(),
            at_ns: at_s * 1_000_000_000,
            counter_uj: at_s * watts * 1_000_000,
            floor_uw: 0,
            state: Vec::new(),
        }
    }

    /// Package, memory and a box that is apart, before a wall, all from the first second on.
    fn look(at_s: u64, package_w: u64, wall_w: u64) -> Metered {
        Metered {
            readings: vec![
                reading("box", "file", at_s, 900),
                reading("dram-0", "rapl", at_s, 5),
                reading("package-0", "rapl", at_s, package_w),
            ],
            calibrating: vec![reading("wall", "hwmon", at_s, wall_w)],
            ..Metered::default()
        }
    }

    #[test]
    fn the_parts_are_compared_with_the_whole_over_a_minute() {
        let mut comparing = Comparing::default();
        for at_s in 0..5 {
            assert_eq!(comparing.note(&look(at_s, 20, 50)), None);
            assert_eq!(comparing.compared(), None, "too little to compare");
        }
        for at_s in 5..200 {
            assert_eq!(comparing.note(&look(at_s, 20, 50)), None);
        }
        let compared = comparing.compared().unwrap();
        assert_eq!((compared.roots_uw, compared.wall_uw), (25_000_000, 50_000_000));
        assert_eq!((compared.ratio_ppm, compared.span_ns), (500_000, SPAN_NS));
        // 1.96 · √2 · 5 % of a half.
        assert_eq!(compared.band_ppm, 69_297);
        assert!(!compared.exceeds && comparing.looks.len() <= 61);
    }

    #[test]
    fn parts_that_take_more_than_the_whole_are_told_once() {
        let mut comparing = Comparing::default();
        // 10 % more is within what the meters may err by; a fifth is not.
        for at_s in 0..100 {
            assert_eq!(comparing.note(&look(at_s, 50, 50)), None);
        }
        let mut comparing = Comparing::default();
        let told: Vec<_> = (0..200)
            .filter_map(|at_s| Some((at_s, comparing.note(&look(at_s, 60, 50))?)))
            .collect();
        assert_eq!(told.len(), 1);
        assert!(
            told[0].0 == 60 && told[0].1.exceeds && told[0].1.ratio_ppm == 1_300_000,
            "{told:?}"
        );
        assert!(comparing.compared().unwrap().exceeds);
        // The whole is found to take more: that it fits again is told once too.
        let mut later = |at_s: u64| {
            let mut look = look(at_s, 60, 50);
            look.calibrating[0].counter_uj += (at_s - 199) * 50_000_000;
            comparing.note(&look)
        };
        let told: Vec<_> = (200..300).filter_map(&mut later).collect();
        assert_eq!(told.len(), 1);
        assert!(!told[0].exceeds);
    }

    #[test]
    fn where_a_meter_says_nothing_it_begins_anew() {
        let spoil: [fn(&mut Metered); 4] = [
            |look| look.calibrating.clear(),
            |look| {
                look.faults.push(MeterFault {
                    root: "dram-0".into(),
                    kind: FaultKind::Silent,
                });
                look.readings.retain(|reading| reading.root.name != "dram-0");
            },
            |look| look.readings[2].boot_id = Uuid::from_u128(1),
            |look| look.readings[1].counter_uj = 0,
        ];
        for (case, spoil) in spoil.into_iter().enumerate() {
            let mut comparing = Comparing::default();
            for at_s in 1..10 {
                comparing.note(&look(at_s, 20, 50));
            }
            assert!(comparing.compared().is_some());
            let mut spoilt = look(10, 20, 50);
            spoil(&mut spoilt);
            comparing.note(&spoilt);
            assert_eq!(comparing.compared(), None, "case {case}");
            for at_s in 11..15 {
                comparing.note(&look(at_s, 20, 50));
                assert_eq!(comparing.compared(), None, "case {case}");
            }
            comparing.note(&look(17, 20, 50));
            assert!(comparing.compared().is_some(), "case {case}");
        }
        // What is apart is no part: its faults are its own.
        let mut comparing = Comparing::default();
        for at_s in 0..10 {
            let mut look = look(at_s, 20, 50);
            look.faults.push(MeterFault {
                root: "box".into(),
                kind: FaultKind::Silent,
            });
            comparing.note(&look);
        }
        assert!(comparing.compared().is_some());
    }
}
