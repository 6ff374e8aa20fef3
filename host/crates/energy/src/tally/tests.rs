//! Unwrapping and refusing, by hand and over random histories.

use domain::energy::{Provenance, Root};
use proptest::collection::vec;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;

const SECOND: u64 = 1_000_000_000;

/// 100 W, a counter that wraps after 10 kJ: it may go unread for 100 s.
fn habit(highest_uj: Option<u64>) -> Habit {
    Habit {
        root: "package-0".into(),
        bound: PowerBound {
            power_uw: 100_000_000,
            source: "a test".into(),
        },
        highest_uj,
        sleep_loses: true,
    }
}

const RANGE: u64 = 10_000_000_000;

fn at(s: u64) -> Moment {
    Moment {
        at_ns: s * SECOND,
        asleep_ns: 0,
    }
}

fn asleep(s: u64, asleep_s: u64) -> Moment {
    Moment {
        asleep_ns: asleep_s * SECOND,
        ..at(s)
    }
}

fn code(result: Result<u64, MeterError>) -> Result<u64, &'static str> {
    result.map_err(|error| error.code())
}

fn reading(at_ns: u64, counter_uj: u64, state: Vec<u64>) -> Reading {
    let root = Root {
        name: "package-0".into(),
        kind: "rapl".into(),
        provenance: Provenance::Measured,
        uncertainty_ppm: 0,
        model_version: 1,
    };
    Reading {
        root,
        boot_id: Uuid::nil(),
        at_ns,
        counter_uj,
        floor_uw: 0,
        state,
    }
}

#[test]
fn the_longest_unread_span_is_range_over_power() {
    let habit = habit(Some(RANGE));
    assert_eq!(habit.longest_ns(), Some(100 * SECOND));
    assert_eq!(habit.period_ns(), Some(25 * SECOND));
    // Intel's packages: 262 kJ at 1 kW.
    let package = Habit {
        bound: PowerBound {
            power_uw: 1_000_000_000,
            source: String::new(),
        },
        highest_uj: Some(262_143_328_850),
        ..habit
    };
    assert_eq!(package.period_ns().unwrap() / SECOND, 65);
    // The register's highest value and one step of 61 µJ are 0 again.
    assert_eq!(package.difference_uj(262_143_328_850, 0), Some(61));
    assert_eq!(package.difference_uj(262_143_328_849, 5), Some(67));
}

type Step = (Moment, u64, Result<u64, &'static str>);

fn check(highest_uj: Option<u64>, steps: &[Step]) {
    let mut tally = Tally::new(habit(highest_uj));
    for (n, (moment, raw_uj, expected)) in steps.iter().enumerate() {
        assert_eq!(code(tally.advance(*raw_uj, *moment)), *expected, "step {n}");
    }
}

#[test]
fn the_first_value_is_a_baseline_and_a_wrap_is_growth() {
    check(
        Some(RANGE),
        &[
            (at(0), RANGE - 5, Ok(RANGE - 5)),
            (at(1), RANGE, Ok(RANGE)),
            (at(2), 6, Ok(RANGE + 8)),
            (at(3), 6, Ok(RANGE + 8)),
        ],
    );
}

#[test]
fn a_slip_adds_nothing_and_loses_nothing() {
    for (slip, why) in [(1_000_000_000_000_000_000, "meter_jumped"), (3, "meter_fell")] {
        let steps = [
            (at(0), 1_000, Ok(1_000)),
            (at(1), 1_010, Ok(1_010)),
            (at(2), slip, Err(why)),
            (at(3), 1_030, Ok(1_030)),
        ];
        check(None, &steps);
        check(Some(RANGE), &steps);
    }
}

#[test]
fn a_counter_that_moved_elsewhere_goes_on_from_where_it_was_believed() {
    let far = 1_000_000_000_000_000_000;
    for (place, why) in [(far, "meter_jumped"), (3, "meter_fell")] {
        check(
            None,
            &[
                (at(0), 1_000, Ok(1_000)),
                (at(1), place, Err(why)),
                (at(2), place + 7, Err("meter_rebased")),
                (at(3), place + 9, Ok(1_009)),
            ],
        );
    }
    // Noise agrees with nothing.
    check(
        None,
        &[
            (at(0), 1_000, Ok(1_000)),
            (at(1), far, Err("meter_jumped")),
            (at(2), far / 2, Err("meter_jumped")),
            (at(3), far / 5, Err("meter_jumped")),
            (at(4), 1_001, Ok(1_001)),
        ],
    );
}

#[test]
fn what_is_too_much_is_told_from_when_the_counter_moved() {
    let watt_s = 100_000_000;
    check(
        None,
        &[
            (at(0), 0, Ok(0)),
            // 100 W for a second and for the two that a sensor may lag.
            (at(1), 3 * watt_s + 1, Err("meter_jumped")),
            (at(1), 3 * watt_s, Ok(3 * watt_s)),
            // It stands still for ten seconds and comes with all of it.
            (at(5), 3 * watt_s, Ok(3 * watt_s)),
            (at(11), 15 * watt_s, Ok(15 * watt_s)),
        ],
    );
}

#[test]
fn sleep_and_late_reads_are_said_and_not_guessed_at() {
    check(
        Some(RANGE),
        &[
            (at(0), 500, Ok(500)),
            (asleep(60, 50), 3, Err("meter_slept")),
            (asleep(61, 50), 10, Ok(507)),
            // 100 s at most.
            (asleep(161, 50), 20, Ok(517)),
            (
                Moment {
                    at_ns: 261 * SECOND + 1,
                    asleep_ns: 50 * SECOND,
                },
                9,
                Err("meter_overdue"),
            ),
            (asleep(262, 50), 30, Ok(538)),
        ],
    );
    // A counter of someone else's does not sleep, and one that does not wrap can wait.
    let mut tally = Tally::new(Habit {
        sleep_loses: false,
        ..habit(None)
    });
    assert_eq!(code(tally.advance(500, at(0))), Ok(500));
    assert_eq!(code(tally.advance(900, asleep(1_000_000, 900_000))), Ok(900));
}

#[test]
fn a_restart_goes_on_within_the_boot() {
    let mut first = Tally::new(habit(Some(RANGE)));
    first.advance(RANGE - 10, at(0)).unwrap();
    let counter_uj = first.advance(RANGE - 4, at(5)).unwrap();
    let last = reading(5 * SECOND, counter_uj, first.state());
    // It wraps while the host is away.
    let mut second = Tally::new(habit(Some(RANGE)));
    second.resume(&last);
    assert_eq!(code(second.advance(1, at(90))), Ok(RANGE + 3));
    for (moment, expected) in [
        (at(106), Err("meter_overdue")),
        (asleep(50, 20), Err("meter_slept")),
        (at(6), Err("meter_fell")),
    ] {
        let mut third = Tally::new(habit(Some(RANGE)));
        third.resume(&last);
        let raw_uj = if moment == at(6) { RANGE / 2 } else { 1 };
        assert_eq!(code(third.advance(raw_uj, moment)), expected);
    }
    // A state of another version: the counter stays, what was between is not known.
    let mut newer = Tally::new(habit(Some(RANGE)));
    newer.resume(&reading(0, 77, vec![9, 9]));
    assert_eq!(code(newer.advance(5, at(6))), Err("meter_rebased"));
    assert_eq!(code(newer.advance(8, at(7))), Ok(80));
}

#[test]
fn power_is_added_up_by_the_mean_of_both_ends() {
    let mut integral = Integral::new("plug".into(), habit(None).bound);
    assert_eq!(code(integral.advance(50_000_000, at(0))), Ok(0));
    assert_eq!(code(integral.advance(70_000_000, at(2))), Ok(120_000_000));
    assert_eq!(code(integral.advance(100_000_001, at(3))), Err("meter_jumped"));
    assert_eq!(code(integral.advance(70_000_000, at(4))), Ok(260_000_000));
    assert_eq!(code(integral.advance(0, asleep(10, 5))), Err("meter_slept"));
    assert_eq!(code(integral.advance(0, asleep(70, 5))), Ok(260_000_000));
    let late = Moment {
        at_ns: 130 * SECOND + 1,
        asleep_ns: 5 * SECOND,
    };
    assert_eq!(code(integral.advance(9, late)), Err("meter_overdue"));

    let mut next = Integral::new("plug".into(), habit(None).bound);
    next.resume(&reading(
        70 * SECOND,
        5,
        vec![INTEGRAL_STATE, 2_000_000, 5 * SECOND, 1],
    ));
    assert_eq!(code(next.advance(4_000_000, asleep(71, 5))), Ok(3_000_005));
    let mut newer = Integral::new("plug".into(), habit(None).bound);
    newer.resume(&reading(70 * SECOND, 5, vec![7]));
    assert_eq!(code(newer.advance(4_000_000, at(71))), Err("meter_rebased"));
    assert_eq!(code(newer.advance(4_000_000, at(72))), Ok(4_000_005));
}

proptest! {
    /// Any counter of 32 bits and whole steps, read at any times within the longest span, by a host that
    /// starts again at any read: the count grows by the truth.
    #[test]
    fn unwrapping_gives_the_truth(
        step_uj in 1..70_u64,
        start in any::<u32>(),
        power_uw in 1..2_000_000_000_u64,
        polls in vec((0..=1_000_000_u64, 0..=1_000_000_u64, 0..5_u8), 1..60),
    ) {
        let bound = PowerBound { power_uw, source: String::new() };
        let highest_uj = STEPS * step_uj;
        let habit = Habit { bound, ..habit(Some(highest_uj)) };
        let longest_ns = habit.longest_ns().unwrap();
        let raw_uj = |steps: u64| steps % (STEPS + 1) * step_uj;
        let mut steps = u64::from(start);
        let mut moment = Moment::default();
        let mut tally = Tally::new(habit.clone());
        let base_uj = tally.advance(raw_uj(steps), moment).unwrap();
        for (span, use_, restart) in polls {
            let span_ns = (u128::from(longest_ns) * u128::from(span) / 1_000_000) as u64;
            let most_uj = u128::from(span_ns) * u128::from(power_uw) / FJ_PER_UJ;
            steps += (most_uj * u128::from(use_) / 1_000_000) as u64 / step_uj;
            moment.at_ns += span_ns;
            let counter_uj = tally.advance(raw_uj(steps), moment).unwrap();
            prop_assert_eq!(counter_uj - base_uj, (steps - u64::from(start)) * step_uj);
            if restart == 0 {
                let last = reading(moment.at_ns, counter_uj, tally.state());
                tally = Tally::new(habit.clone());
                tally.resume(&last);
            }
        }
    }

    /// The same with any range of whole microjoules.
    #[test]
    fn any_range_will_do(
        highest_uj in 1..STEPS,
        grown_uj in vec(any::<u64>(), 1..40),
    ) {
        let mut tally = Tally::new(habit(Some(highest_uj)));
        let (mut truth_uj, mut moment) = (0_u64, Moment::default());
        tally.advance(0, moment).unwrap();
        let longest_ns = tally.habit.longest_ns().unwrap();
        for grown_uj in grown_uj {
            truth_uj += grown_uj % (highest_uj + 1);
            moment.at_ns += longest_ns;
            prop_assert_eq!(tally.advance(truth_uj % (highest_uj + 1), moment).unwrap(), truth_uj);
        }
    }

    /// Whatever a counter says, the count never falls and never outgrows what the root can take.
    #[test]
    fn nothing_makes_the_count_fall_or_leap(
        wraps in any::<bool>(),
        values in vec((prop_oneof![0..RANGE, any::<u64>()], 0..50_u64), 2..60),
    ) {
        let mut tally = Tally::new(habit(wraps.then_some(RANGE)));
        let (mut moment, mut reads) = (Moment::default(), 0);
        let mut last_uj: Option<u64> = None;
        let mut first_uj = None;
        for (raw_uj, span_s) in values {
            moment.at_ns += span_s * SECOND;
            reads += 1;
            if let Ok(counter_uj) = tally.advance(raw_uj, moment) {
                prop_assert!(last_uj.is_none_or(|last_uj| last_uj <= counter_uj));
                last_uj = Some(counter_uj);
                let grown_uj = counter_uj - *first_uj.get_or_insert(counter_uj);
                // 100 µJ per µs, and the lag for each read.
                let most_uj = (moment.at_ns + reads * REFRESH_NS) / 10;
                prop_assert!(grown_uj <= most_uj, "{} µJ of {}", grown_uj, most_uj);
            }
        }
    }

    /// Cutting the same power finer loses nothing.
    #[test]
    fn power_cut_finer_is_the_same(power_uw in 0..100_000_000_u64, cuts in vec(0..900_000_u64, 1..50)) {
        let mut integral = Integral::new("plug".into(), habit(None).bound);
        integral.advance(power_uw, Moment::default()).unwrap();
        let mut moment = Moment::default();
        let mut counter_uj = 0;
        for cut_ns in cuts {
            moment.at_ns += cut_ns;
            counter_uj = integral.advance(power_uw, moment).unwrap();
        }
        let exact = u128::from(power_uw) * u128::from(moment.at_ns) / FJ_PER_UJ;
        prop_assert_eq!(u128::from(counter_uj), exact);
    }
}
