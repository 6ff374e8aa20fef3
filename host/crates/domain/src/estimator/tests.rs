//! The estimator against machines that are known.

use uuid::Uuid;

use super::*;
use crate::energy::Activity;
use crate::posting::CallKind;
use crate::{InvocationId, TenantId};

const SECOND: u64 = 1_000_000_000;

fn call(n: u128) -> Call {
    Call {
        invocation: InvocationId(Uuid::from_u128(n)),
        kind: CallKind::Infer,
        tenant: TenantId(Uuid::from_u128(n)),
        deployment: "a".parse().ok(),
        release: Some(1),
        started_at: time::OffsetDateTime::UNIX_EPOCH,
    }
}

fn usage(cpu_ms: u64) -> Usage {
    Usage {
        fuel: cpu_ms * 2_000_000,
        cpu_ns: cpu_ms * 1_000_000,
        ..Usage::default()
    }
}

#[test]
fn what_was_asked_for_is_forgotten_with_the_slice_also_while_a_meter_is_silent() {
    let mut bench = Bench::new(Provenance::Measured);
    let mut slice = bench.second(&[(1, 500)], 0, 30.0);
    slice.readings.clear();
    for n in 0..3 {
        assert!(bench.estimator.provisional_uj(&call(n), &usage(1)).is_some());
    }
    let asked = |bench: &Bench| bench.estimator.roots[0].asked.len();
    assert!(asked(&bench) >= 3);
    bench.estimator.weights(&bench.last, &slice);
    assert_eq!(asked(&bench), 0);
}

/// A machine of 20 W of floor whose power is a function of what calls and others use, in CPUs.
struct Bench {
    estimator: Estimator,
    root: Root,
    floor_uw: u64,
    last: Vec<Reading>,
    random: u64,
}

impl Bench {
    fn new(provenance: Provenance) -> Self {
        let root = Root {
            name: "package-0".into(),
            kind: "scripted".into(),
            provenance,
            uncertainty_ppm: 50_000,
            model_version: 1,
        };
        let mut bench = Self {
            estimator: Estimator::default(),
            root,
            floor_uw: 0,
            last: vec![],
            random: 7,
        };
        bench.last = vec![bench.reading(0, 5)];
        bench
    }

    fn reading(&self, at_ns: u64, counter_uj: u64) -> Reading {
        Reading {
            root: self.root.clone(),
            boot_id: Uuid::nil(),
            at_ns,
            counter_uj,
            floor_uw: self.floor_uw,
            state: vec![],
        }
    }

    /// A number below `bound`, by a generator that repeats.
    fn below(&mut self, bound: u64) -> u64 {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.random >> 33) % bound
    }

    /// A second in which calls of these numbers used these milliseconds, at `watts`.
    fn second(&mut self, used_ms: &[(u128, u64)], foreign_ms: u64, watts: f64) -> Slice {
        let claims = used_ms.iter().map(|(n, ms)| crate::posting::Claim {
            call: call(*n),
            usage: usage(*ms),
            outcome: None,
        });
        let host_ms: u64 = used_ms.iter().map(|(_, ms)| ms).sum();
        let before = self.last[0].clone();
        let mut slice = Slice {
            index: 0,
            at: time::OffsetDateTime::UNIX_EPOCH,
            readings: vec![self.reading(before.at_ns + SECOND, before.counter_uj + (watts * 1e6) as u64)],
            activity: Activity {
                machine_ns: (host_ms + foreign_ms) * 1_000_000,
                host_ns: host_ms * 1_000_000,
                postgres_ns: 0,
            },
            claims: claims.collect(),
            weights: vec![],
            faults: vec![],
        };
        slice.weights = self.estimator.weights(&self.last, &slice);
        self.estimator.observe(&self.last, &slice);
        self.last.clone_from(&slice.readings);
        slice
    }

    /// Seconds in which two calls use up to 600 ms each, apart, at 12 W and 6 W a CPU, and others 500 at 9 W,
    /// with at least `always_ms` of each.
    fn run(&mut self, seconds: u32, always_ms: u64) {
        for _ in 0..seconds {
            let [one, two, other] = [600, 600, 500].map(|most| always_ms + self.below(most));
            let watts = 20.0 + (12 * one + 6 * two + 9 * other) as f64 / 1e3;
            self.second(&[(1, one), (2, two)], other, watts);
        }
    }

    fn model(&self) -> RootModel {
        self.estimator.roots().remove(0)
    }

    fn class(&self, n: u128) -> Banded {
        let model = self.model();
        let own = model
            .classes
            .iter()
            .find(|(class, _)| *class == Class::of(&call(n)));
        own.unwrap().1
    }
}

fn near(found: u64, expected: u64, percent: u64) -> bool {
    found.abs_diff(expected) * 100 <= expected * percent
}

#[test]
fn what_use_costs_is_learnt_and_how_surely() {
    let mut bench = Bench::new(Provenance::Measured);
    bench.run(900, 0);
    let model = bench.model();
    assert!(near(model.floor_uw.value, 20_000_000, 2), "{model:?}");
    // A call's fuel takes part of its cost: 2 units a nanosecond.
    let fuel = model
        .weights
        .iter()
        .find(|(feature, _)| *feature == Feature::Fuel)
        .unwrap()
        .1;
    for (n, uw) in [(1, 12_000_000), (2, 6_000_000)] {
        let own = bench.class(n);
        assert!(near(own.value + 2 * fuel.value, uw, 5), "{n} {own:?} {fuel:?}");
        let whole = bench.estimator.provisional(&call(n), &usage(1_000)).unwrap();
        assert!(
            near(whole.energy_uj, uw, 5) && whole.upper_uj > whole.energy_uj,
            "{n} {whole:?}"
        );
    }
    let foreign = model
        .weights
        .iter()
        .find(|(feature, _)| *feature == Feature::Foreign)
        .unwrap()
        .1;
    assert!(near(foreign.value, 9_000_000, 5), "{foreign:?}");
    // 9 W over 2 · 10⁹ fuel a second, on the mean.
    let fuel = bench.estimator.fuel_cost_fj().unwrap();
    assert!(
        near(fuel.value, 4_500_000, 5) && fuel.band < fuel.value,
        "{fuel:?}"
    );
}

#[test]
fn a_machine_that_is_never_idle_has_its_floor_from_the_line() {
    let mut bench = Bench::new(Provenance::Measured);
    bench.run(900, 300);
    let floor = bench.model().floor_uw;
    // The lowest power there was is 8 W above it.
    assert!(near(floor.value, 20_000_000, 10), "{floor:?}");
}

#[test]
fn the_floor_follows_the_machine_and_is_never_above_what_was_seen() {
    let mut bench = Bench::new(Provenance::Measured);
    bench.run(300, 0);
    for _ in 0..600 {
        bench.second(&[], 0, 22.0);
    }
    assert!(
        near(bench.model().floor_uw.value, 22_000_000, 2),
        "{:?}",
        bench.model().floor_uw
    );
    bench.second(&[], 0, 15.0);
    assert!(bench.estimator.roots()[0].floor_uw.value <= 22_000_000);
    for _ in 0..16 {
        bench.second(&[], 0, 15.0);
    }
    assert!(
        bench.model().floor_uw.value < 16_500_000,
        "{:?}",
        bench.model().floor_uw
    );
}

#[test]
fn what_is_always_used_together_costs_the_same_and_stays_unsure() {
    let mut bench = Bench::new(Provenance::Measured);
    for _ in 0..900 {
        let ms = bench.below(800);
        bench.second(&[(1, ms), (2, ms)], 0, 20.0 + 18.0 * ms as f64 / 1e3);
    }
    let (one, two) = (bench.class(1), bench.class(2));
    assert!(near(one.value, two.value, 1), "{one:?} {two:?}");
    let band = |bench: &mut Bench| {
        let whole = bench.estimator.provisional(&call(1), &usage(1_000)).unwrap();
        whole.upper_uj - whole.energy_uj
    };
    let mut apart = Bench::new(Provenance::Measured);
    apart.run(900, 0);
    let (together, apart) = (band(&mut bench), band(&mut apart));
    assert!(together > 2 * apart, "{together} {apart}");
}

#[test]
fn a_model_of_utilisation_teaches_one_weight_over_its_own_floor() {
    let mut bench = Bench::new(Provenance::Modelled);
    bench.floor_uw = 25_000_000;
    bench.last = vec![bench.reading(0, 5)];
    bench.run(300, 0);
    let model = bench.model();
    assert_eq!((model.floor_uw.value, model.classes.len()), (25_000_000, 0));
    let costs: Vec<u64> = model
        .weights
        .iter()
        .filter(|(f, _)| f.is_time())
        .map(|(_, w)| w.value)
        .collect();
    assert!(
        costs.iter().all(|cost| *cost == costs[0] && *cost > 0),
        "{costs:?}"
    );
    let doubt = model.weights[0].1;
    // 1.96 standard deviations of the meter's own 5 % at least.
    assert!(doubt.band * 1_000 >= doubt.value * 97, "{doubt:?}");
}

#[test]
fn nothing_is_known_before_anything_was_used() {
    let mut bench = Bench::new(Provenance::Measured);
    assert_eq!(bench.estimator.provisional(&call(1), &usage(1)), None);
    let slice = bench.second(&[], 0, 20.0);
    assert!(slice.weights.is_empty());
    assert_eq!(bench.estimator.provisional(&call(1), &usage(1)), None);
    assert_eq!(bench.estimator.fuel_cost_fj(), None);
    bench.second(&[(1, 500)], 0, 26.0);
    let first = bench.estimator.provisional(&call(1), &usage(500)).unwrap();
    let without_band = bench.estimator.provisional_uj(&call(1), &usage(500));
    assert_eq!(without_band, Some(first.energy_uj));
    assert!(first.upper_uj > first.energy_uj);
    let slice = bench.second(&[(1, 500)], 0, 26.0);
    assert_eq!(slice.weights.len(), 1);
}

#[test]
fn a_glitch_moves_little_and_is_forgotten() {
    let mut bench = Bench::new(Provenance::Measured);
    bench.run(600, 0);
    let before = bench.class(1).value;
    bench.second(&[(1, 300), (2, 300)], 0, 5_000.0);
    let hit = bench.class(1).value;
    assert!(near(hit, before, 30), "{before} {hit}");
    bench.run(600, 0);
    assert!(
        near(bench.class(1).value, before, 10),
        "{before} {}",
        bench.class(1).value
    );
    assert!(near(bench.model().floor_uw.value, 20_000_000, 5));
}

#[test]
fn classes_beyond_the_limit_go_by_the_common_weight_until_a_place_is_free() {
    let mut bench = Bench::new(Provenance::Measured);
    let most = filter::MAX_CLASSES as u128;
    let all: Vec<(u128, u64)> = (1..=most + 1).map(|n| (n, 20)).collect();
    let slice = {
        bench.second(&all, 0, 26.0);
        bench.second(&all, 0, 26.0)
    };
    assert_eq!(bench.model().classes.len(), filter::MAX_CLASSES);
    let own = |slice: &Slice| slice.weights[0].classes.len();
    assert_eq!(own(&slice), filter::MAX_CLASSES);
    let last = Class::of(&call(most + 1));
    assert_eq!(slice.weights[0].of_class(&last), slice.weights[0].base);
    // Nobody else works for long: the newcomer gets a place.
    for _ in 0..700 {
        bench.second(&[(most + 1, 20)], 0, 20.2);
    }
    let classes = bench.model().classes;
    assert!(classes.len() == filter::MAX_CLASSES && classes.iter().any(|(class, _)| *class == last));
}

#[test]
fn a_calibration_is_known_from_the_first_slice() {
    let banded = |value| Banded {
        value,
        band: value / 20,
    };
    let mut weights = [None; crate::weights::FEATURES];
    weights[Feature::Guest as usize] = Some(banded(8_000_000));
    weights[Feature::Model as usize] = Some(banded(14_000_000));
    let known = Calibration {
        floor_uw: banded(20_000_000),
        weights,
        residual_ppm: 5_000,
    };
    let mut bench = Bench::new(Provenance::Measured);
    let root = bench.root.clone();
    bench.estimator.calibrate(&root, &known);
    let slice = bench.second(&[(1, 100)], 0, 20.8);
    let base = slice.weights[0].base;
    assert!(
        near(slice.weights[0].floor_uw, 20_000_000, 2),
        "{:?}",
        slice.weights
    );
    // What nobody used goes by the calibration; what the slice was used for, by what it takes so far from the mix.
    let weight = |feature| u64::from(base.get(feature));
    assert!(near(weight(Feature::System), 8_000_000, 2), "{base:?}");
    assert!(near(weight(Feature::Model), 14_000_000, 2), "{base:?}");
}

#[test]
fn a_device_is_learnt_by_its_busy_time() {
    let mut bench = Bench::new(Provenance::Measured);
    bench.root.kind = crate::weights::DEVICE_KIND.into();
    bench.last = vec![bench.reading(0, 0)];
    for _ in 0..300 {
        let busy_ms = bench.below(900);
        let before = bench.last[0].clone();
        let watts = 60.0 + 0.2 * busy_ms as f64;
        let mut used = usage(50);
        used.work = vec![crate::Work {
            graph: crate::Digest::of(b"graph"),
            backend: "b".into(),
            device: bench.root.name.clone().into(),
            precision: "exact".into(),
            runs: 1,
            rows: 1,
            cpu_ns: 0,
            busy_ns: busy_ms * 1_000_000,
            tokens: 0,
        }];
        let slice = Slice {
            index: 0,
            at: time::OffsetDateTime::UNIX_EPOCH,
            readings: vec![bench.reading(before.at_ns + SECOND, before.counter_uj + (watts * 1e6) as u64)],
            activity: Activity::default(),
            claims: vec![crate::posting::Claim {
                call: call(1),
                usage: used,
                outcome: None,
            }],
            weights: vec![],
            faults: vec![],
        };
        bench.estimator.observe(&bench.last, &slice);
        bench.last = slice.readings;
    }
    let model = bench.model();
    assert!(near(model.floor_uw.value, 60_000_000, 3), "{model:?}");
    assert!(near(bench.class(1).value, 200_000_000, 3), "{model:?}");
    assert_eq!(model.weights.len(), 1);
}

#[test]
fn what_others_do_is_followed_and_nobody_elses_cost() {
    let mut bench = Bench::new(Provenance::Measured);
    bench.run(900, 0);
    let before = bench.class(1).value;
    let mut foreign = 0;
    for _ in 0..60 {
        let ms = 100 + bench.below(300);
        // Others at 18 W a CPU now instead of 9.
        let slice = bench.second(&[(1, ms)], 800, 20.0 + (12 * ms) as f64 / 1e3 + 18.0 * 0.8);
        foreign = slice.weights[0].base.get(Feature::Foreign);
    }
    assert!(near(foreign.into(), 18_000_000, 15), "{foreign}");
    assert!(
        near(bench.class(1).value, before, 15),
        "{before} {:?}",
        bench.class(1)
    );
}

#[test]
fn a_device_that_sleeps_charges_being_awake_to_what_works() {
    let mut bench = Bench::new(Provenance::Measured);
    bench.root.kind = crate::weights::DEVICE_KIND.into();
    bench.last = vec![bench.reading(0, 0)];
    let mut weights = None;
    for second in 0..300 {
        // 20 W asleep; 60 awake, and 200 beside that while it works.
        let busy_ms = if second < 20 { 0 } else { 100 + bench.below(800) };
        let watts = if busy_ms == 0 {
            20.0
        } else {
            60.0 + 0.2 * busy_ms as f64
        };
        let mut used = usage(50);
        used.work = vec![crate::Work {
            graph: crate::Digest::of(b"graph"),
            backend: "b".into(),
            device: bench.root.name.clone().into(),
            precision: "exact".into(),
            runs: 1,
            rows: 1,
            cpu_ns: 0,
            busy_ns: busy_ms * 1_000_000,
            tokens: 0,
        }];
        let before = bench.last[0].clone();
        let slice = Slice {
            index: 0,
            at: time::OffsetDateTime::UNIX_EPOCH,
            readings: vec![bench.reading(before.at_ns + SECOND, before.counter_uj + (watts * 1e6) as u64)],
            activity: Activity::default(),
            claims: vec![crate::posting::Claim {
                call: call(1),
                usage: used,
                outcome: None,
            }],
            weights: vec![],
            faults: vec![],
        };
        bench.estimator.observe(&bench.last, &slice);
        weights = bench
            .estimator
            .weights(&bench.last, &slice)
            .pop()
            .map(|found| (found, busy_ms));
        bench.last = slice.readings;
    }
    let (found, busy_ms) = weights.unwrap();
    let floor_uw = 60_000_000 - 40_000 * busy_ms;
    assert!(near(found.floor_uw, floor_uw, 3), "{found:?} {floor_uw}");
    assert!(
        near(
            found.of_class(&Class::of(&call(1))).get(Feature::Busy).into(),
            240_000_000,
            3
        ),
        "{found:?}"
    );
}
