use proptest::prelude::*;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::*;
use crate::NodeId;

const NODE: NodeId = NodeId(Uuid::from_u128(1));
/// 1 March 2026.
const START: OffsetDateTime = unix(1_772_323_200);
/// A month later.
const KNOWN: OffsetDateTime = unix(1_775_001_600);
const KWH_UJ: u64 = 3_600_000_000_000;

const fn unix(seconds: i64) -> OffsetDateTime {
    match OffsetDateTime::from_unix_timestamp(seconds) {
        Ok(at) => at,
        Err(_) => panic!("no such time"),
    }
}

fn hour(number: i64) -> OffsetDateTime {
    START + Duration::hours(number)
}

fn zone(text: &str) -> Zone {
    text.parse().unwrap()
}

/// A fact of `DE` over `hours`.
fn fact(hours: std::ops::Range<i64>, mg_per_kwh: u64) -> Fact<u64> {
    Fact {
        zone: zone("DE"),
        from: hour(hours.start),
        to: hour(hours.end),
        intensity: mg_per_kwh,
        source: "test".into(),
        version: "1".into(),
        is_estimated: false,
    }
}

fn known<T>(it: T) -> Known<T> {
    Known { known_at: KNOWN, it }
}

fn average(hours: std::ops::Range<i64>, mg_per_kwh: u64) -> Known<Factor> {
    known(Factor::new(Signal::Average, Method::Location, fact(hours, mg_per_kwh)).unwrap())
}

fn residual(hours: std::ops::Range<i64>, mg_per_kwh: u64) -> Known<Factor> {
    known(Factor::new(Signal::Average, Method::Market, fact(hours, mg_per_kwh)).unwrap())
}

fn marginal(hours: std::ops::Range<i64>, mg_per_kwh: u64) -> Known<Factor> {
    known(Factor::new(Signal::Marginal, Method::Location, fact(hours, mg_per_kwh)).unwrap())
}

fn site() -> Site {
    Site {
        from: hour(-24),
        zone: Some(zone("DE")),
        marginal_zone: None,
        pue_ppm: 1_500_000,
        pue_is_estimated: false,
        wue_ul_per_kwh: Some(1_800_000),
        ewif_ul_per_kwh: Some(3_900_000),
        ewif_is_estimated: false,
        cfe_ppm: 250_000,
        hardware: Some(Hardware {
            min_g: 800_000,
            mid_g: 1_000_000,
            max_g: 2_000_000,
            life_s: 4 * 365 * 86_400,
            threads: 10,
        }),
    }
}

fn slot(hours: std::ops::Range<i64>, energy_uj: u64) -> Slot {
    Slot {
        from: hour(hours.start),
        to: hour(hours.end),
        energy_uj: Some(energy_uj),
        used_ns: 3_600_000_000_000,
    }
}

fn evidence(factors: impl IntoIterator<Item = Known<Factor>>) -> Evidence {
    Evidence::new([(NODE, known(site()))], factors, KNOWN)
}

fn valued(evidence: &Evidence, slots: &[Slot]) -> Valued {
    let mut sum = Valuation::default();
    for slot in slots {
        evidence.value(NODE, slot, &mut sum).unwrap();
    }
    sum.valued().unwrap()
}

#[test]
fn each_figure_is_what_its_formula_says() {
    let evidence = evidence([
        average(0..1, 400_000),
        residual(0..1, 500_000),
        marginal(0..1, 700_000),
    ]);
    let valued = valued(&evidence, &[slot(0..1, KWH_UJ)]);
    // 1 kWh at PUE 1.5: 600 g of the average mix, 700 µg/mg·1000·1.5 of the marginal plant.
    assert_eq!(valued.location.amount, Some(600_000_000));
    assert_eq!(valued.marginal.amount, Some(1_050_000_000));
    // A quarter of 1.5 kWh is bought; the rest is at 500 g/kWh.
    assert_eq!(valued.market.amount, Some(562_500_000));
    // 1.8 l + 1.5 · 3.9 l.
    assert_eq!(valued.water.amount, Some(7_650_000));
    // One CPU hour of ten threads over four years: 1 t / 350,400.
    let range = valued.embodied.unwrap();
    assert_eq!(
        (range.min_ug, range.mid_ug, range.max_ug),
        (2_283_105, 2_853_881, 5_707_763)
    );
    assert_eq!(
        valued.location.whole("average", valued.energy_uj.unwrap()),
        Ok(600_000_000)
    );
}

#[test]
fn energy_is_split_in_time_where_factors_change() {
    let evidence = evidence([average(0..1, 100_000), average(1..4, 200_000)]);
    let valued = valued(&evidence, &[slot(0..4, 4 * KWH_UJ)]);
    assert_eq!(valued.location.amount, Some(1_500_000 * (100 + 3 * 200)));
    assert_eq!(valued.location.covered_uj, 4 * KWH_UJ);
}

#[test]
fn what_is_missing_is_said_and_never_taken_for_none() {
    let half = evidence([average(0..1, 400_000)]);
    let partly = valued(&half, &[slot(0..2, 2 * KWH_UJ)]);
    assert_eq!(partly.location.covered_uj, KWH_UJ);
    assert_eq!(
        partly
            .location
            .whole("average intensity", partly.energy_uj.unwrap()),
        Err(CarbonError::Missing {
            what: "average intensity",
            uncovered_uj: KWH_UJ,
            energy_uj: 2 * KWH_UJ
        })
    );
    assert_eq!((partly.market.amount, partly.marginal.amount), (None, None));

    // Nobody said where the node stands, or it stands there only later.
    let mut nowhere = site();
    (nowhere.zone, nowhere.wue_ul_per_kwh, nowhere.hardware) = (None, None, None);
    let mut later = site();
    later.from = hour(2);
    for site in [nowhere, later] {
        let evidence = Evidence::new([(NODE, known(site))], [average(0..2, 400_000)], KNOWN);
        let valued = valued(&evidence, &[slot(0..2, KWH_UJ)]);
        assert_eq!(
            (valued.location.amount, valued.water.amount, valued.embodied),
            (None, None, None)
        );
    }

    // Energy that was not metered is not in any figure.
    let unmetered = Slot {
        energy_uj: None,
        ..slot(0..1, 0)
    };
    let valued = valued(&half, &[unmetered]);
    assert_eq!((valued.energy_uj, valued.location.covered_uj), (None, 0));
    assert!(valued.location.whole("average intensity", 1).is_err());
}

#[test]
fn contracts_for_all_need_no_residual_mix() {
    let covered = Site {
        cfe_ppm: 1_000_000,
        ..site()
    };
    let evidence = Evidence::new([(NODE, known(covered))], [average(0..1, 400_000)], KNOWN);
    let valued = valued(&evidence, &[slot(0..1, KWH_UJ)]);
    assert_eq!(
        (valued.market.amount, valued.market.covered_uj),
        (Some(0), KWH_UJ)
    );
}

#[test]
fn guesses_are_marked_and_measured_zeros_are_not_missing() {
    let mut guess = fact(0..1, 0);
    guess.is_estimated = true;
    let guess = known(Factor::new(Signal::Average, Method::Location, guess).unwrap());
    let valued = valued(&evidence([guess, average(1..2, 0)]), &[slot(0..2, 2 * KWH_UJ)]);
    assert_eq!(valued.location.amount, Some(0));
    assert_eq!(
        (valued.location.covered_uj, valued.location.estimated_uj),
        (2 * KWH_UJ, KWH_UJ)
    );
}

#[test]
fn the_finer_fact_counts_and_of_equals_the_later_known() {
    let revised = Known {
        known_at: KNOWN + Duration::DAY,
        ..average(1..2, 300_000)
    };
    let facts = [average(0..24, 100_000), average(1..2, 200_000), revised];
    let as_of = |at| {
        let evidence = Evidence::new([(NODE, known(site()))], facts.clone(), at);
        [0, 1, 2].map(|at| valued(&evidence, &[slot(at..at + 1, KWH_UJ)]).location.amount)
    };
    let grams = |grams: [u64; 3]| grams.map(|grams| Some(grams * 1_500_000));
    assert_eq!(as_of(KNOWN - Duration::NANOSECOND), [None; 3]);
    assert_eq!(as_of(KNOWN), grams([100, 200, 100]));
    assert_eq!(as_of(KNOWN + Duration::DAY), grams([100, 300, 100]));
}

/// What each of the hours 0 to 3 is taken for, in mg/kWh.
fn hourly(facts: &[Known<Factor>], as_of: OffsetDateTime) -> [Option<u64>; 4] {
    let evidence = Evidence::new([(NODE, known(site()))], facts.iter().cloned(), as_of);
    let of = |at| valued(&evidence, &[slot(at..at + 1, KWH_UJ)]).location.amount;
    [0, 1, 2, 3].map(|at| of(at).map(|ug| ug / 1_500))
}

#[test]
fn a_revision_of_a_source_can_shorten_what_it_said() {
    let later = KNOWN + Duration::DAY;
    let shorter = Known {
        known_at: later,
        ..average(0..1, 300)
    };
    let mut other = fact(0..2, 500);
    other.source = "other".into();
    let other = known(Factor::new(Signal::Average, Method::Location, other).unwrap());
    let facts = [average(0..4, 200), shorter];
    assert_eq!(hourly(&facts, KNOWN), [Some(200); 4]);
    assert_eq!(hourly(&facts, later), [Some(300), None, None, None]);
    // Others' words stay.
    let [first, second] = facts;
    let facts = [first, other, second];
    assert_eq!(hourly(&facts, later), [Some(300), Some(500), None, None]);
}

#[test]
fn what_was_measured_counts_before_an_estimate() {
    let mut guess = fact(1..3, 900);
    guess.is_estimated = true;
    guess.source = "other".into();
    let guess = Known {
        known_at: KNOWN + Duration::DAY,
        it: Factor::new(Signal::Average, Method::Location, guess).unwrap(),
    };
    let as_of = KNOWN + Duration::DAY;
    let facts = [average(0..2, 200), guess];
    assert_eq!(hourly(&facts, as_of), [Some(200), Some(200), Some(900), None]);
}

#[test]
fn a_site_holds_until_the_next() {
    let moved = Site {
        from: hour(1),
        zone: Some(zone("FR")),
        pue_ppm: 1_000_000,
        ..site()
    };
    let mut french = fact(0..4, 50_000);
    french.zone = zone("FR");
    let french = known(Factor::new(Signal::Average, Method::Location, french).unwrap());
    let sites = [(NODE, known(moved)), (NODE, known(site()))];
    let evidence = Evidence::new(sites, [average(0..4, 400_000), french], KNOWN);
    let valued = valued(&evidence, &[slot(0..2, 2 * KWH_UJ)]);
    assert_eq!(valued.location.amount, Some(600_000_000 + 50_000_000));
}

#[test]
fn marginal_and_average_are_looked_up_by_their_own_zones() {
    let own = Site {
        marginal_zone: Some(zone("DE_LU")),
        ..site()
    };
    let evidence = Evidence::new([(NODE, known(own))], [average(0..1, 1), marginal(0..1, 1)], KNOWN);
    let valued = valued(&evidence, &[slot(0..1, KWH_UJ)]);
    assert_eq!(
        (valued.location.amount, valued.marginal.amount),
        (Some(1_500), None)
    );
}

#[test]
fn factors_out_of_bounds_name_their_field() {
    type Change = fn(&mut Fact<u64>);
    let cases: [(&str, Change); 11] = [
        ("from", |fact| fact.from = unix(631_151_999)),
        ("to", |fact| fact.to = unix(4_133_980_800)),
        ("to", |fact| fact.to = fact.from),
        ("to", |fact| fact.to = fact.from + Duration::NANOSECOND),
        ("to", |fact| fact.to += Duration::nanoseconds(999)),
        ("from", |fact| fact.from += Duration::nanoseconds(1_001)),
        ("mg_per_kwh", |fact| fact.intensity = MAX_MG_PER_KWH + 1),
        ("source", |fact| fact.source.clear()),
        ("source", |fact| fact.source = "a".repeat(MAX_LABEL_BYTES + 1)),
        ("version", |fact| fact.version = "a\nb".into()),
        ("version", |fact| fact.version.clear()),
    ];
    for (field, change) in cases {
        let mut fact = fact(0..1, 1);
        change(&mut fact);
        let refused = Factor::new(Signal::Average, Method::Location, fact).unwrap_err();
        assert_eq!(refused.field, field, "{refused}");
    }
    let refused = Factor::new(Signal::Marginal, Method::Market, fact(0..1, 1)).unwrap_err();
    assert_eq!(refused.field, "method");
    let mut shortest = fact(0..1, 1);
    shortest.to = shortest.from + Duration::MICROSECOND;
    assert!(Factor::new(Signal::Average, Method::Location, shortest).is_ok());
    let mut largest = fact(0..1, MAX_MG_PER_KWH);
    largest.source = "a".repeat(MAX_LABEL_BYTES);
    let largest = Factor::new(Signal::Average, Method::Market, largest.clone()).unwrap();
    assert!(matches!(
        largest.parts(),
        (
            Signal::Average,
            Method::Market,
            Fact {
                intensity: MAX_MG_PER_KWH,
                ..
            }
        )
    ));
}

#[test]
fn zones_are_checked() {
    for good in ["DE", "US-CAL-CISO", "CAISO_NORTH", "1", &"a".repeat(63)] {
        assert!(good.parse::<Zone>().is_ok(), "{good:?}");
    }
    for bad in ["", "-DE", "_", "D E", "D/E", "DÉ", "D\0", &"a".repeat(64)] {
        assert!(bad.parse::<Zone>().is_err(), "{bad:?}");
    }
}

#[test]
fn more_than_can_be_counted_is_an_error() {
    let evidence = evidence([average(0..1, MAX_MG_PER_KWH)]);
    let mut sum = Valuation::default();
    evidence.value(NODE, &slot(0..1, u64::MAX), &mut sum).unwrap();
    assert_eq!(sum.valued(), Err(CarbonError::Overflow));
    let absurd = Site {
        pue_ppm: u32::MAX,
        ewif_ul_per_kwh: Some(u64::MAX),
        ..site()
    };
    let evidence = Evidence::new([(NODE, known(absurd))], [], KNOWN);
    let mut sum = Valuation::default();
    let answer = evidence.value(NODE, &slot(0..1, u64::MAX), &mut sum);
    assert_eq!(answer, Err(CarbonError::Overflow));
}

/// Facts over up to four days, known at some time, with or without gaps.
fn facts() -> impl Strategy<Value = Vec<Known<Factor>>> {
    let parts = (0_i64..96, 1_i64..30, 0_u64..1_000_000, 0_i64..100, any::<bool>());
    prop::collection::vec(parts, 0..40).prop_map(|facts| {
        let mut known = Vec::new();
        for (index, (from, long, mg_per_kwh, known_after, is_estimated)) in facts.into_iter().enumerate() {
            let fact = Fact {
                is_estimated,
                source: ["one", "two"][index % 2].into(),
                ..fact(from..from + long, mg_per_kwh)
            };
            // No two become known at once, as the database's key has it.
            let known_at = KNOWN + Duration::hours(known_after) + Duration::microseconds(index as i64);
            let factor = Factor::new(Signal::Average, Method::Location, fact).unwrap();
            known.push(Known { known_at, it: factor });
        }
        known
    })
}

fn slots() -> impl Strategy<Value = Vec<Slot>> {
    let parts = (0_i64..96, 1_i64..24, 0_u64..10 * KWH_UJ, 0_u64..1_000_000_000_000);
    prop::collection::vec(parts, 1..20).prop_map(|slots| {
        let slots = slots.into_iter().map(|(from, long, energy_uj, used_ns)| Slot {
            used_ns,
            ..slot(from..from + long, energy_uj)
        });
        slots.collect()
    })
}

fn all(from: &Valued) -> [u64; 5] {
    let embodied = from.embodied.map_or(0, |range| range.mid_ug);
    let of = |figure: &Figure| figure.amount.unwrap_or(0);
    [
        of(&from.location),
        of(&from.market),
        of(&from.marginal),
        of(&from.water),
        embodied,
    ]
}

proptest! {
    /// What the claimants' figures add up to differs from the figure of them all by their roundings only.
    #[test]
    fn additive_over_claimants(facts in facts(), slots in slots()) {
        let evidence = Evidence::new([(NODE, known(site()))], facts, KNOWN + Duration::hours(200));
        let together = all(&valued(&evidence, &slots));
        let each: Vec<_> = slots.iter().map(|slot| all(&valued(&evidence, &[*slot]))).collect();
        for index in 0..together.len() {
            let sum: u64 = each.iter().map(|figures| figures[index]).sum();
            prop_assert!(2 * sum.abs_diff(together[index]) <= slots.len() as u64 + 1);
        }
    }

    /// A period cut in two: 1 µJ may change sides at a factor's bound, and each part is rounded.
    #[test]
    fn additive_over_periods(facts in facts(), at in 1_i64..47, energy_uj in 0_u64..10 * KWH_UJ) {
        let evidence = Evidence::new([(NODE, known(site()))], facts, KNOWN + Duration::hours(200));
        let whole = slot(0..48, energy_uj);
        let (early, late) = {
            let before = |total: u64| (u128::from(total) * at as u128 / 48) as u64;
            let (energy, used) = (before(energy_uj), before(whole.used_ns));
            (
                Slot { used_ns: used, ..slot(0..at, energy) },
                Slot { used_ns: whole.used_ns - used, ..slot(at..48, energy_uj - energy) },
            )
        };
        let whole = valued(&evidence, &[whole]);
        let parts = [valued(&evidence, &[early]), valued(&evidence, &[late])];
        let covered: u64 = parts.iter().map(|part| part.location.covered_uj).sum();
        prop_assert!(covered.abs_diff(whole.location.covered_uj) <= 80);
        let (whole, parts) = (all(&whole), parts.each_ref().map(all));
        for index in 0..whole.len() {
            prop_assert!((parts[0][index] + parts[1][index]).abs_diff(whole[index]) <= 2);
        }
    }

    /// What became known later changes nothing that was valued before it.
    #[test]
    fn the_past_stays_as_it_was_known(facts in facts(), slots in slots(), hours in 0_i64..100) {
        let as_of = KNOWN + Duration::hours(hours);
        let then: Vec<_> = facts.iter().filter(|fact| fact.known_at <= as_of).cloned().collect();
        let moved = Known { known_at: as_of + Duration::NANOSECOND, it: Site { pue_ppm: 3_000_000, ..site() } };
        let before = Evidence::new([(NODE, known(site()))], then, as_of);
        let after = Evidence::new([(NODE, moved), (NODE, known(site()))], facts, as_of);
        prop_assert_eq!(valued(&before, &slots), valued(&after, &slots));
    }

    /// More energy, a dirtier grid or a worse building is never worth less.
    #[test]
    fn monotone(facts in facts(), slots in slots(), more in 0_u64..1_000_000_000, dirtier in 0_u64..1_000_000) {
        let at = KNOWN + Duration::hours(200);
        let of = |facts: Vec<Known<Factor>>, site: Site, slots: &[Slot]| {
            all(&valued(&Evidence::new([(NODE, known(site))], facts, at), slots))
        };
        let base = of(facts.clone(), site(), &slots);
        let larger: Vec<_> = slots
            .iter()
            .map(|slot| Slot { energy_uj: slot.energy_uj.map(|energy| energy + more), ..*slot })
            .collect();
        let dirty = facts.iter().map(|fact| {
            let (signal, method, mut parts) = fact.it.parts();
            parts.intensity += dirtier;
            Known { known_at: fact.known_at, it: Factor::new(signal, method, parts).unwrap() }
        });
        let hot = Site { pue_ppm: 1_700_000, ..site() };
        for other in [of(facts.clone(), site(), &larger), of(dirty.collect(), site(), &slots), of(facts, hot, &slots)] {
            prop_assert!(base.iter().zip(other).all(|(base, other)| *base <= other));
        }
    }

    /// No order of what is known or used matters.
    #[test]
    fn order_does_not_matter(facts in facts(), slots in slots()) {
        let at = KNOWN + Duration::hours(200);
        let of = |facts, slots: &[Slot]| valued(&Evidence::new([(NODE, known(site()))], facts, at), slots);
        let mut backwards = (facts.clone(), slots.clone());
        backwards.0.reverse();
        backwards.1.reverse();
        prop_assert_eq!(of(facts, &slots), of(backwards.0, &backwards.1));
    }

    /// The segments of a timeline are those that looking at each instant by itself gives.
    #[test]
    fn a_timeline_is_what_its_rule_says(facts in facts(), hours in 0_i64..100) {
        let as_of = KNOWN + Duration::hours(hours);
        let facts: Vec<Known<Fact<Average>>> = facts
            .into_iter()
            .filter_map(|fact| match fact.it {
                Factor::Average(it) => Some(Known { known_at: fact.known_at, it }),
                _ => None,
            })
            .collect();
        let timeline = Timeline::new(facts.clone(), as_of);
        for at in (0..130).map(hour) {
            let covering = facts.iter().filter(|fact| {
                let again = |other: &&Known<Fact<Average>>| {
                    other.it.source == fact.it.source && other.it.from == fact.it.from
                        && other.known_at > fact.known_at && other.known_at <= as_of
                };
                let holds = fact.it.from <= at && at < fact.it.to;
                fact.known_at <= as_of && holds && facts.iter().find(again).is_none()
            });
            let rank = |fact: &&Known<Fact<Average>>| (!fact.it.is_estimated, fact.it.from, fact.known_at);
            let expected = covering.max_by_key(rank).map(|fact| &fact.it);
            let found: Vec<_> = timeline.within(at, at + Duration::HOUR).collect();
            prop_assert!(found.len() <= 1);
            prop_assert_eq!(found.first().map(|&(_, _, fact)| fact), expected);
        }
    }
}
