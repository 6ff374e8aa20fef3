//! Meters that hang, fail, lie and stand still, beside one that does not.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use domain::energy::Root;

use super::*;
use crate::file::tests::source;
use crate::scripted::{ScriptHandle, ScriptedMeter};
use crate::sensor::Quantity;
use crate::{FileMeter, boot_id};

/// Long enough for a thread of a busy machine.
const PATIENCE: Duration = Duration::from_secs(1);

/// A meter that answers at once and one that may not.
fn pair() -> (Guarded, ScriptHandle, ScriptHandle) {
    let (good, good_script) = ScriptedMeter::new("good");
    let (bad, bad_script) = ScriptedMeter::new("bad");
    let meters = vec![Chosen::root(good), Chosen::root(bad)];
    let (guarded, first) = Guarded::start(meters, &[], 0, PATIENCE).unwrap();
    assert_eq!(counters(&first), [("bad", 0), ("good", 0)]);
    (guarded, good_script, bad_script)
}

fn counters(metered: &Metered) -> Vec<(&str, u64)> {
    let each = metered.readings.iter();
    each.map(|reading| (reading.root.name.as_str(), reading.counter_uj))
        .collect()
}

fn faults(metered: &Metered) -> Vec<(&str, FaultKind)> {
    let each = metered.faults.iter();
    each.map(|fault| (fault.root.as_str(), fault.kind)).collect()
}

fn codes(metered: &Metered) -> Vec<(&str, &'static str)> {
    let each = metered.changes.iter();
    each.map(|change| (change.root.as_str(), change.code)).collect()
}

#[test]
fn a_meter_that_hangs_takes_away_its_own_roots_only_and_is_waited_for_once() {
    let (mut guarded, good, bad) = pair();
    bad.set_hanging(true);
    let begun_ns = boottime_ns();
    for round in 1..=50 {
        good.add_uj(1);
        bad.add_uj(1);
        let metered = guarded.read(0);
        assert_eq!(counters(&metered), [("good", round)]);
        assert_eq!(faults(&metered), [("bad", FaultKind::Silent)]);
        let told: &[_] = if round == 1 {
            &[("bad", "meter_silent")]
        } else {
            &[]
        };
        assert_eq!(codes(&metered), told);
    }
    let waited = Duration::from_nanos(boottime_ns() - begun_ns);
    // Fifty times patience would be fifty seconds.
    assert!(waited >= PATIENCE && waited < PATIENCE * 25, "{waited:?}");

    // It answers and hangs again: what it said late is old and does not count.
    bad.set_hanging(false);
    thread::sleep(Duration::from_millis(50));
    bad.set_hanging(true);
    assert_eq!(faults(&guarded.read(0)), [("bad", FaultKind::Silent)]);

    bad.set_hanging(false);
    let recovered = std::iter::repeat_with(|| guarded.read(0))
        .take(5_000)
        .find(|metered| {
            thread::sleep(Duration::from_millis(1));
            metered.faults.is_empty()
        });
    let recovered = recovered.unwrap();
    assert_eq!(counters(&recovered), [("bad", 50), ("good", 50)]);
    assert_eq!(codes(&recovered), [("bad", "meter_recovered")]);
}

#[test]
fn errors_are_marked_and_told_once() {
    let (mut guarded, _, bad) = pair();
    bad.set_failing(true);
    let first = guarded.read(0);
    assert_eq!(faults(&first), [("bad", FaultKind::Unreadable)]);
    assert_eq!(codes(&first), [("bad", "meter_scripted")]);
    let second = guarded.read(0);
    assert_eq!(faults(&second).len(), 1);
    assert!(second.changes.is_empty());
    bad.set_failing(false);
    let third = guarded.read(0);
    assert!(third.faults.is_empty());
    assert_eq!(codes(&third), [("bad", "meter_recovered")]);
    assert!(guarded.read(0).changes.is_empty());
}

/// What a file says one look after the other, and what comes of it.
#[test]
fn jumps_falls_and_text_enter_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("energy_uj");
    let write = |text: &str| fs::write(&path, text).unwrap();
    write("1000");
    let meter = FileMeter::new(&source(&path, Quantity::EnergyUj)).unwrap();
    let (mut guarded, _) = Guarded::start(vec![Chosen::root(meter)], &[], 0, PATIENCE).unwrap();
    let steps = [
        ("1010", Ok(1_010), None),
        // 4 × 10^12 J, then more than a count may be, then 10^15 J, which is no number to us.
        (
            "4000000000000000000",
            Err(FaultKind::Jumped),
            Some("meter_jumped"),
        ),
        (
            "10000000000000000000",
            Err(FaultKind::Malformed),
            Some("meter_absurd"),
        ),
        ("1000000000000000000000", Err(FaultKind::Malformed), None),
        ("a lot", Err(FaultKind::Malformed), None),
        ("1020", Ok(1_020), Some("meter_recovered")),
        ("7", Err(FaultKind::Fell), Some("meter_fell")),
        ("9", Err(FaultKind::Rebased), Some("meter_rebased")),
        ("12", Ok(1_025), Some("meter_recovered")),
    ];
    for (text, expected, told) in steps {
        write(text);
        let metered = guarded.read(0);
        match expected {
            Ok(counter_uj) => assert_eq!(counters(&metered), [("plug", counter_uj)], "{text}"),
            Err(kind) => assert_eq!(faults(&metered), [("plug", kind)], "{text}"),
        }
        assert_eq!(metered.readings.len() + metered.faults.len(), 1);
        assert_eq!(codes(&metered).first().map(|(_, code)| *code), told, "{text}");
    }
}

#[test]
fn standing_still_is_a_fault_only_while_the_machine_works() {
    let (meter, script) = ScriptedMeter::new("stuck");
    script.set_still_after(Duration::from_secs(10));
    let second = 1_000_000_000;
    script.set_at_ns(0);
    let (mut guarded, _) = Guarded::start(vec![Chosen::root(meter)], &[], 5 * second, PATIENCE).unwrap();
    let mut read = |at_s: u64, worked_ns: u64| {
        script.set_at_ns(at_s * second);
        let metered = guarded.read(5 * second + worked_ns);
        (
            metered.readings.len(),
            metered.changes.first().map(|change| change.code),
        )
    };
    assert_eq!(read(9, 9 * second), (1, None), "not long enough");
    assert_eq!(read(10, second), (0, Some("meter_stood_still")));
    assert_eq!(read(11, second), (0, None));
    script.add_uj(1);
    assert_eq!(read(12, 2 * second), (1, Some("meter_recovered")));
    // An idle machine may well show nothing.
    assert_eq!(read(40, 3 * second - 1), (1, None));
    assert_eq!(read(40, 3 * second), (0, Some("meter_stood_still")));
}

#[test]
fn a_calibrating_meter_is_never_among_the_roots() {
    let (root, _) = ScriptedMeter::new("root");
    let (wall, script) = ScriptedMeter::new("wall");
    let meters = vec![Chosen::root(root), Chosen::calibrating(wall)];
    let (mut guarded, first) = Guarded::start(meters, &[], 0, PATIENCE).unwrap();
    assert_eq!(counters(&first), [("root", 0)]);
    assert_eq!(first.calibrating[0].root.name, "wall");
    script.set_failing(true);
    let metered = guarded.read(0);
    assert!(metered.faults.is_empty() && metered.calibrating.is_empty());
    assert_eq!(codes(&metered), [("wall", "meter_scripted")]);
    assert!(guarded.describe()[1].contains("to calibrate only"));
}

#[test]
fn a_start_goes_on_from_the_last_run_whatever_answers() {
    let (_, script) = ScriptedMeter::new("good");
    let (bad, bad_script) = ScriptedMeter::new("bad");
    let (_, first) = Guarded::start(vec![Chosen::root(bad)], &[], 0, PATIENCE).unwrap();
    let reading = |root: &str, boot_id| Reading {
        root: Root {
            name: root.into(),
            ..first.readings[0].root.clone()
        },
        boot_id,
        counter_uj: 70,
        ..first.readings[0].clone()
    };
    let boot = boot_id().unwrap();
    let last = [reading("good", boot), reading("bad", boot)];
    bad_script.set_hanging(true);
    let meters = || vec![Chosen::root(script.meter()), Chosen::root(bad_script.meter())];
    let (mut guarded, first) = Guarded::start(meters(), &last, 0, PATIENCE).unwrap();
    // The ledger goes on from the last reading, and says that this is not known to be true now.
    assert_eq!(counters(&first), [("bad", 70), ("good", 70)]);
    assert_eq!(faults(&first), [("bad", FaultKind::Silent)]);
    bad_script.set_hanging(false);
    bad_script.add_uj(9);
    // The first slice says so too, whether there is an answer by then or not.
    let mut marked = 0;
    let read = loop {
        let metered = guarded.read(0);
        if metered.faults.is_empty() {
            break metered;
        }
        marked += 1;
        assert!(marked < 5_000);
        thread::sleep(Duration::from_millis(1));
    };
    assert!(marked >= 1);
    assert_eq!(counters(&read), [("bad", 79), ("good", 70)]);

    // Of another boot nothing stands in.
    bad_script.set_hanging(true);
    let other = [reading("bad", uuid::Uuid::from_u128(1))];
    let (_, first) = Guarded::start(meters(), &other, 0, PATIENCE).unwrap();
    assert_eq!(counters(&first), [("good", 70)]);
    bad_script.set_hanging(false);
}

#[test]
fn what_a_start_cannot_know_is_marked_in_the_first_slice() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("energy_uj");
    fs::write(&path, "1000").unwrap();
    let meters = || {
        vec![Chosen::root(
            FileMeter::new(&source(&path, Quantity::EnergyUj)).unwrap(),
        )]
    };
    let (_, first) = Guarded::start(meters(), &[], 0, PATIENCE).unwrap();
    // A state that this host cannot read: the count goes on where it was.
    let last = [Reading {
        state: vec![99],
        ..first.readings[0].clone()
    }];
    fs::write(&path, "1500").unwrap();
    let (mut guarded, first) = Guarded::start(meters(), &last, 0, PATIENCE).unwrap();
    assert_eq!(counters(&first), [("plug", 1_000)]);
    assert_eq!(
        codes(&first),
        [("plug", "meter_rebased"), ("plug", "meter_recovered")]
    );
    fs::write(&path, "1501").unwrap();
    let (one, two) = (guarded.read(0), guarded.read(0));
    assert_eq!(
        (counters(&one), counters(&two)),
        (vec![("plug", 1_001)], vec![("plug", 1_001)])
    );
    assert_eq!(faults(&one), [("plug", FaultKind::Rebased)]);
    assert!(two.faults.is_empty());
}

/// Counts its reads and wants one every millisecond; a read may fail.
struct Hungry {
    reads: Arc<AtomicU64>,
    fails_at: u64,
    period: Option<Duration>,
}

impl Meter for Hungry {
    fn read(&mut self) -> Result<Vec<Reading>, MeterError> {
        if self.reads.fetch_add(1, Relaxed) + 1 == self.fails_at {
            return Err(MeterError::Scripted);
        }
        Ok(vec![])
    }

    fn resume(&mut self, _: &[Reading]) {}

    fn roots(&self) -> Vec<Root> {
        ScriptedMeter::new("hungry").0.roots()
    }

    fn period(&self) -> Option<Duration> {
        self.period
    }

    fn describe(&self) -> String {
        "hungry".into()
    }
}

#[test]
fn a_meter_that_must_not_go_unread_is_read_between_the_slices() {
    let reads = Arc::new(AtomicU64::new(0));
    let meter = |fails_at, period| Hungry {
        reads: reads.clone(),
        fails_at,
        period,
    };
    let hungry = meter(3, Some(Duration::from_millis(1)));
    let (mut guarded, _) = Guarded::start(vec![Chosen::root(hungry)], &[], 0, PATIENCE).unwrap();
    let mut waits = 0;
    while reads.load(Relaxed) < 5 {
        thread::sleep(Duration::from_millis(1));
        waits += 1;
        assert!(waits < 10_000);
    }
    // What went wrong unseen is said, once.
    assert_eq!(codes(&guarded.read(0)), [("hungry", "meter_scripted")]);
    drop(guarded);

    reads.store(0, Relaxed);
    let patient = meter(0, None);
    let (_guarded, _) = Guarded::start(vec![Chosen::root(patient)], &[], 0, PATIENCE).unwrap();
    thread::sleep(Duration::from_millis(20));
    assert_eq!(reads.load(Relaxed), 1);
}

struct Panicking;

impl Meter for Panicking {
    fn read(&mut self) -> Result<Vec<Reading>, MeterError> {
        panic!("on purpose")
    }

    fn resume(&mut self, _: &[Reading]) {}

    fn roots(&self) -> Vec<Root> {
        ScriptedMeter::new("panicking").0.roots()
    }

    fn describe(&self) -> String {
        "panicking".into()
    }
}

#[test]
fn a_meter_that_panics_is_gone_and_the_rest_goes_on() {
    let (good, script) = ScriptedMeter::new("good");
    let meters = vec![Chosen::root(good), Chosen::root(Panicking)];
    let (mut guarded, mut metered) = Guarded::start(meters, &[], 0, PATIENCE).unwrap();
    script.add_uj(3);
    let mut told = codes_of(&metered);
    for _ in 0..5_000 {
        if told.contains(&"meter_ended") {
            break;
        }
        thread::sleep(Duration::from_millis(1));
        metered = guarded.read(0);
        told.extend(codes_of(&metered));
    }
    assert_eq!(told.last(), Some(&"meter_ended"));
    metered = guarded.read(0);
    assert_eq!(counters(&metered), [("good", 3)]);
    assert_eq!(faults(&metered), [("panicking", FaultKind::Unreadable)]);
    assert!(metered.changes.is_empty());
}

fn codes_of(metered: &Metered) -> Vec<&'static str> {
    metered.changes.iter().map(|change| change.code).collect()
}

#[test]
fn no_root_has_two_meters() {
    let meters = ["one", "two", "one"].map(|root| Chosen::root(ScriptedMeter::new(root).0));
    let error = Guarded::start(meters.into(), &[], 0, PATIENCE).err().unwrap();
    assert_eq!(error.code(), "meter_twice");
}
