//! The rules of sealing, over random histories of a node.

mod by_hand;
mod faults;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use time::Duration;
use uuid::Uuid;

use super::*;
use crate::energy::{Activity, FaultKind, MeterFault, Provenance, Root};
use crate::posting::{CallKind, Claim, Transfer, Unit};
use crate::weights::{Class, ClassWeights, RootWeights, Weights};
use crate::{Name, TenantId, Work};

const CALLS: u128 = 6;
const ROOTS: [&str; 2] = ["package-0", "modelled"];

/// What the strategy draws for one root in one slice.
#[derive(Clone, Debug)]
struct Metered {
    grown_uj: u64,
    floor_uw: u64,
    reboot: bool,
    missed: bool,
}

/// What the strategy draws for one slice.
#[derive(Clone, Debug)]
struct Drawn {
    length_ns: u64,
    metered: [Metered; 2],
    activity: [u64; 3],
    claims: Vec<(u128, [u64; 4])>,
    weights: Vec<RootWeights>,
}

/// Weights for none, one or both roots, with a class of their own for call 1.
fn any_weights() -> impl Strategy<Value = Vec<RootWeights>> {
    let weight = || prop_oneof![Just(0), 0..30_000_000_u32, Just(u32::MAX)];
    let base = [
        weight(),
        weight(),
        weight(),
        weight(),
        weight(),
        weight(),
        weight(),
    ];
    let one = (
        0..ROOTS.len(),
        0..3_000_000_u64,
        base,
        [weight(), weight(), weight()],
    );
    let one = one.prop_map(|(root, floor_uw, base, [guest, model, busy])| RootWeights {
        root: ROOTS[root].into(),
        floor_uw,
        base: Weights(base),
        classes: vec![ClassWeights {
            class: Class::of(&call(1)),
            guest,
            model,
            busy,
        }],
    });
    vec(one, 0..3)
}

fn any_metered() -> impl Strategy<Value = Metered> {
    let grown = prop_oneof![Just(0), 0..50_u64, 0..5_000_000_u64];
    (grown, 0..3_000_000_u64, 0..10_u8, 0..10_u8).prop_map(|(grown_uj, floor_uw, reboot, missed)| Metered {
        grown_uj,
        floor_uw,
        reboot: reboot == 0,
        missed: missed == 0,
    })
}

fn any_slices() -> impl Strategy<Value = Vec<Drawn>> {
    let used = || prop_oneof![Just(0), 0..3_u64, 0..900_000_000_u64];
    let claim = (0..CALLS, [used(), used(), used(), used()]);
    let slice = (
        0..1_500_000_000_u64,
        [any_metered(), any_metered()],
        [0..4_000_000_000_u64, 0..2_000_000_000, 0..500_000_000],
        vec(claim, 0..5),
        any_weights(),
    );
    let drawn = slice.prop_map(|(length_ns, metered, activity, mut claims, weights)| {
        claims.sort_unstable();
        claims.dedup_by_key(|(call, _)| *call);
        Drawn {
            length_ns,
            metered,
            activity,
            claims,
            weights,
        }
    });
    vec(drawn, 1..8)
}

fn start() -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + Duration::days(20_000)
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// Six calls of three tenants; the first is a publish.
fn call(n: u128) -> Call {
    let deployed = n > 0;
    Call {
        invocation: InvocationId(Uuid::from_u128(n + 1)),
        kind: if deployed {
            CallKind::Infer
        } else {
            CallKind::Publish
        },
        tenant: TenantId(Uuid::from_u128(100 + n / 2)),
        deployment: deployed.then(|| name(if n == 3 { "b" } else { "a" })),
        release: deployed.then_some(1 + u32::from(n == 5)),
        started_at: start(),
    }
}

fn usage([fuel, cpu_ns, model_ns, bytes_in]: [u64; 4]) -> Usage {
    let work = Work {
        graph: Digest::of(b"graph"),
        backend: "rten".into(),
        device: "cpu".into(),
        precision: "exact".into(),
        runs: 1,
        rows: 2,
        cpu_ns: model_ns,
        busy_ns: 0,
        tokens: 0,
    };
    let work = if model_ns > 0 { vec![work] } else { vec![] };
    Usage {
        fuel,
        cpu_ns,
        bytes_in,
        work,
        ..Usage::default()
    }
}

fn reading(name: &str, boot: u128, at_ns: u64, counter_uj: u64) -> Reading {
    let root = Root {
        name: name.into(),
        kind: "scripted".into(),
        provenance: Provenance::Measured,
        uncertainty_ppm: 20_000,
        model_version: 1,
    };
    Reading {
        root,
        boot_id: Uuid::from_u128(boot),
        at_ns,
        counter_uj,
        floor_uw: 1_000_000,
        state: vec![],
    }
}

fn fault(root: &str, kind: FaultKind) -> MeterFault {
    MeterFault {
        root: root.into(),
        kind,
    }
}

fn baseline() -> Vec<Reading> {
    ROOTS.iter().map(|name| reading(name, 1, 0, 1_000)).collect()
}

fn sealer() -> Sealer {
    let (node, epoch) = (NodeId(Uuid::from_u128(7)), Epoch(Uuid::from_u128(8)));
    Sealer::new(
        node,
        epoch,
        0,
        Digest::ZERO,
        start(),
        baseline(),
        OpenReceipts::default(),
    )
}

/// A node's history: its slices, the readings at its end, and what each root truly metered in spans
/// that can be charged: the sealer must find exactly that.
struct History {
    slices: Vec<Slice>,
    last: Vec<Reading>,
    metered_uj: BTreeMap<String, u64>,
    used: BTreeMap<InvocationId, (Call, Usage)>,
}

impl History {
    fn of(drawn: &[Drawn]) -> Self {
        let (mut last, mut at_ns) = (baseline(), 0);
        let mut pending = [0, 0];
        let mut history = Self {
            slices: vec![],
            last: vec![],
            metered_uj: ROOTS.iter().map(|name| ((*name).to_owned(), 0)).collect(),
            used: BTreeMap::new(),
        };
        for (index, drawn) in (0..).zip(drawn) {
            at_ns += drawn.length_ns;
            let (mut readings, mut faults) = (vec![], vec![]);
            for (n, metered) in drawn.metered.iter().enumerate() {
                let reading = &mut last[n];
                reading.at_ns = at_ns;
                reading.floor_uw = metered.floor_uw;
                if metered.reboot {
                    reading.boot_id = Uuid::from_u128(reading.boot_id.as_u128() + 1);
                    reading.counter_uj = metered.grown_uj / 2;
                    pending[n] = 0;
                    readings.push(reading.clone());
                    continue;
                }
                reading.counter_uj += metered.grown_uj;
                pending[n] += metered.grown_uj;
                if metered.missed {
                    faults.push(fault(ROOTS[n], FaultKind::Silent));
                } else {
                    *history.metered_uj.get_mut(ROOTS[n]).unwrap() += std::mem::take(&mut pending[n]);
                    readings.push(reading.clone());
                }
            }
            let [machine_ns, host_ns, postgres_ns] = drawn.activity;
            let activity = Activity {
                machine_ns,
                host_ns,
                postgres_ns,
            };
            let at = start() + Duration::nanoseconds(i64::try_from(at_ns).unwrap());
            let claim = |(n, used): &(u128, [u64; 4])| history.claim(call(*n), usage(*used));
            let claims = drawn.claims.iter().map(claim).collect();
            history.slices.push(Slice {
                index,
                at,
                readings,
                activity,
                claims,
                faults,
                weights: drawn.weights.clone(),
            });
        }
        history.last = last;
        history
    }

    fn claim(&mut self, call: Call, usage: Usage) -> Claim {
        let (_, sum) = self
            .used
            .entry(call.invocation)
            .or_insert_with(|| (call.clone(), Usage::default()));
        sum.absorb(&usage);
        Claim {
            call,
            usage,
            outcome: None,
        }
    }

    /// Ends each call in the last slice that has a claim of it.
    fn end_all(&mut self) {
        let mut ended = BTreeSet::new();
        for claim in self.slices.iter_mut().rev().flat_map(|slice| &mut slice.claims) {
            if ended.insert(claim.call.invocation) {
                claim.outcome = Some(Outcome::Ok);
            }
        }
    }

    /// The host dies when `late` was used beyond the slices, by calls that ended.
    fn crash(&mut self, readings: Vec<Reading>, late: &[(u128, [u64; 4])]) -> Crash {
        let mut finished = BTreeMap::new();
        for (n, used) in late {
            let call = self.claim(call(*n), usage(*used)).call;
            let usage = self.used[&call.invocation].1.clone();
            finished.insert(
                *n,
                Finished {
                    call,
                    outcome: Outcome::Trapped,
                    usage,
                },
            );
        }
        Crash {
            at: start() + Duration::days(1),
            readings,
            finished: finished.into_values().collect(),
        }
    }

    fn seal(&self, sealer: &mut Sealer, window: usize) -> Vec<Posting> {
        self.slices
            .chunks(window)
            .map(|slices| sealer.seal(slices))
            .collect()
    }
}

/// The readings at a restart: in the same boot with more on the counters, or in another.
fn restart(last: &[Reading], grown_uj: Option<u64>) -> Vec<Reading> {
    let read = |last: &Reading| match grown_uj {
        Some(grown_uj) => Reading {
            counter_uj: last.counter_uj + grown_uj,
            ..last.clone()
        },
        None => Reading {
            boot_id: Uuid::from_u128(99),
            counter_uj: 3,
            ..last.clone()
        },
    };
    last.iter().map(read).collect()
}

fn believed(readings: &[Reading]) -> Vec<(Uuid, u64)> {
    readings
        .iter()
        .map(|reading| (reading.boot_id, reading.counter_uj))
        .collect()
}

fn sum(postings: &[Posting], which: impl Fn(&Transfer) -> bool) -> u64 {
    let transfers = postings.iter().flat_map(|posting| &posting.transfers);
    transfers
        .filter(|transfer| which(transfer))
        .map(|transfer| transfer.amount)
        .sum()
}

fn moved_uj(postings: &[Posting]) -> BTreeMap<String, u64> {
    ROOTS
        .iter()
        .map(|name| {
            (
                (*name).to_owned(),
                sum(postings, |t| t.root.as_deref() == Some(name)),
            )
        })
        .collect()
}

/// Each posting holds by itself, follows the one before, and its counters go on where they stood.
fn check_chain(postings: &[Posting]) {
    let mut ends: BTreeMap<(String, Uuid), u64> = baseline()
        .into_iter()
        .map(|r| ((r.root.name, r.boot_id), r.counter_uj))
        .collect();
    for (seq, posting) in (0..).zip(postings) {
        assert_eq!(posting.verify(), Ok(()));
        assert_eq!(posting.seq, seq);
        for row in &posting.roots {
            let key = (row.root.name.clone(), row.boot_id);
            let end_uj = ends.insert(key, row.end_uj);
            assert_eq!(end_uj.unwrap_or(row.start_uj), row.start_uj);
        }
    }
    for pair in postings.windows(2) {
        assert_eq!((pair[1].prev_hash, pair[1].from), (pair[0].hash, pair[0].to));
    }
}

/// Each receipt's lines count from 0, the last alone has the outcome, and they sum to the whole use.
fn check_receipts(postings: &[Posting], used: &BTreeMap<InvocationId, (Call, Usage)>) {
    let mut sums = BTreeMap::<InvocationId, (u32, Usage, bool)>::new();
    for line in postings.iter().flat_map(|posting| &posting.lines) {
        let (lines, sum, ended) = sums.entry(line.call.invocation).or_default();
        assert!(!*ended);
        assert_eq!(line.ordinal, *lines);
        (*lines, *ended) = (*lines + 1, line.outcome.is_some());
        sum.absorb(&line.usage);
    }
    assert_eq!(sums.len(), used.len());
    for (invocation, (_, sum, ended)) in sums {
        assert!(ended);
        assert_eq!(sum, used[&invocation].1);
    }
}

proptest! {
    #[test]
    fn windows_keep_the_law(drawn in any_slices(), window in 1..4_usize) {
        let mut history = History::of(&drawn);
        history.end_all();
        let mut sealer = sealer();
        let postings = history.seal(&mut sealer, window);
        check_chain(&postings);
        check_receipts(&postings, &history.used);
        prop_assert_eq!(moved_uj(&postings), history.metered_uj);
        prop_assert_eq!(sealer.open(), &OpenReceipts::default());
        prop_assert_eq!(sealer.head(), postings.last().unwrap().hash);
    }

    #[test]
    fn order_changes_nothing(drawn in any_slices(), seed in any::<u64>()) {
        let history = History::of(&drawn);
        let mut shuffled = history.slices.clone();
        for slice in &mut shuffled {
            let turn = usize::try_from(seed % 5).unwrap().min(slice.claims.len());
            slice.claims.rotate_left(turn);
            if seed % 2 == 0 {
                slice.claims.reverse();
                slice.readings.reverse();

            }
        }
        let (one, other) = (sealer().seal(&history.slices), sealer().seal(&shuffled));
        prop_assert_eq!(one.transfers, other.transfers);
        prop_assert_eq!(one.lines, other.lines);
        prop_assert_eq!(one.roots, other.roots);
        prop_assert_eq!(one.merkle_root, other.merkle_root);
    }

    #[test]
    fn an_unused_call_gets_nothing_and_changes_nothing(drawn in any_slices()) {
        let history = History::of(&drawn);
        let mut more = history.slices.clone();
        let idler = Claim { call: call(50), usage: Usage::default(), outcome: None };
        more.iter_mut().for_each(|slice| slice.claims.push(idler.clone()));
        let (without, with) = (sealer().seal(&history.slices), sealer().seal(&more));
        prop_assert_eq!(&without.transfers, &with.transfers);
        let (line, others) = with.lines.split_last().unwrap();
        prop_assert_eq!(line.energy_uj.unwrap_or(0), 0);
        prop_assert_eq!(&without.lines, others);
    }

    #[test]
    fn finer_slices_move_nobody_by_more_than_one_each(
        pieces in 1..8_u64,
        grown_uj in 0..900_000_u64,
        length_ns in 0..300_000_000_u64,
        used in vec(0..90_000_000_u64, 1..5),
        weights in any_weights(),
    ) {
        let slice = |index: u64, times: u64| {
            let (at_ns, counter_uj) = ((index + 1) * length_ns * times, 1_000 + (index + 1) * grown_uj * times);
            let claims = (0..).zip(&used).map(|(n, ns)| Claim {
                call: call(n),
                usage: usage([0, ns * times, 0, 0]),
                outcome: None,
            });
            Slice {
                index,
                at: start(),
                readings: vec![reading(ROOTS[0], 1, at_ns, counter_uj)],
                activity: Activity { machine_ns: 500_000_000 * times, ..Activity::default() },
                claims: claims.collect(),
                faults: vec![],
                weights: weights.clone(),
            }
        };
        let fine: Vec<_> = (0..pieces).map(|index| slice(index, 1)).collect();
        let (fine, whole) = (sealer().seal(&fine), sealer().seal(&[slice(0, pieces)]));
        for (fine, whole) in fine.lines.iter().zip(&whole.lines) {
            let moved_uj = fine.energy_uj.unwrap().abs_diff(whole.energy_uj.unwrap());
            prop_assert!(moved_uj <= pieces, "{} µJ", moved_uj);
        }
    }

    /// Additivity: a call whose use is claimed in two parts costs what it would in one. Monotone: who used more pays no less.
    #[test]
    fn parts_cost_what_the_whole_does_and_more_is_never_cheaper(
        drawn in any_slices(),
        more in [0..9_000_000_u64, 0..9_000_000, 0..9_000_000, 0..9_000_000],
    ) {
        let mut history = History::of(&drawn);
        history.slices.truncate(1);
        let slice = &mut history.slices[0];
        slice.activity.host_ns = u64::MAX >> 8;
        slice.claims.retain(|claim| claim.call != call(2) && claim.call != call(3));
        let claim = |n, used| Claim { call: call(n), usage: usage(used), outcome: None };
        let twice = more.map(|amount| amount * 2);
        let with = |claims: Vec<Claim>| {
            let mut slice = slice.clone();
            slice.claims.extend(claims);
            let posting = sealer().seal(&[slice]);
            let of = |n| posting.lines.iter().find(|l| l.call == call(n)).and_then(|l| l.energy_uj).unwrap_or(0);
            of(2)
        };
        let whole = with(vec![claim(2, twice)]);
        prop_assert_eq!(with(vec![claim(2, more), claim(2, more)]), whole);
        let alone = with(vec![claim(2, more)]);
        prop_assert!(alone <= whole + ROOTS.len() as u64);
    }

    #[test]
    fn a_crash_loses_neither_energy_nor_fuel(
        drawn in any_slices(),
        window in 1..4_usize,
        sealed in any::<Index>(),
        late in vec((0..CALLS + 3, [0..9_u64, 0..9, 0..9, 0..9]), 0..6),
        grown_uj in 0..5_000_000_u64,
        same_boot in any::<bool>(),
    ) {
        let mut history = History::of(&drawn);
        let mut sealer = sealer();
        let windows: Vec<_> = history.slices.chunks(window).collect();
        let (sealed, unsealed) = windows.split_at(sealed.index(windows.len() + 1));
        let mut postings: Vec<_> = sealed.iter().map(|slices| sealer.seal(slices)).collect();
        let unsealed = unsealed.concat();

        let readings = restart(&history.last, same_boot.then_some(grown_uj));
        let crash = history.crash(readings.clone(), &late);
        // Recovery knows the sealer by its postings alone.
        let mut open = OpenReceipts::default();
        postings.iter().for_each(|posting| open.absorb(&posting.lines));
        prop_assert_eq!(&open, sealer.open());
        postings.push(sealer.seal_crash(&unsealed, &crash));

        check_chain(&postings);
        check_receipts(&postings, &history.used);
        let fuel: u64 = history.used.values().map(|(_, usage)| usage.fuel).sum();
        prop_assert_eq!(sum(&postings, |t| t.unit == Unit::Fuel), fuel);
        prop_assert_eq!(believed(sealer.baseline()), believed(&readings));

        for line in &postings.last().unwrap().lines {
            let finished = crash.finished.iter().any(|finished| finished.call == line.call);
            let outcome = if finished { Outcome::Trapped } else { Outcome::HostLost };
            prop_assert_eq!(line.outcome, Some(outcome));
            let mut claims = unsealed.iter().flat_map(|slice| &slice.claims);
            prop_assert!(line.energy_uj.is_none() || claims.any(|claim| claim.call == line.call));
        }
    }
}
