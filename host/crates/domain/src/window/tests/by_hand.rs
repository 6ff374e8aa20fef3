//! Small windows whose every number is known, and what tampering with them shows.

use super::*;
use crate::account::Account;
use crate::verify::PostingError;

/// Two windows by hand, with a reboot in the second.
pub(super) fn two_windows() -> (Sealer, Posting, Posting) {
    let mut sealer = sealer();
    let activity = Activity {
        machine_ns: 100,
        host_ns: 70,
        postgres_ns: 10,
    };
    let claim = |n, used, outcome| Claim {
        call: call(n),
        usage: usage(used),
        outcome,
    };
    let first = Slice {
        index: 0,
        at: start() + Duration::seconds(1),
        readings: vec![
            reading(ROOTS[0], 1, 1_000_000_000, 2_001_000),
            reading(ROOTS[1], 1, 1_000_000_000, 1_000),
        ],
        activity,
        claims: vec![
            claim(2, [5, 20, 20, 1], None),
            claim(1, [7, 10, 0, 1], Some(Outcome::Ok)),
        ],
        faults: vec![],
        weights: vec![],
    };
    let second = Slice {
        index: 1,
        at: start() + Duration::seconds(2),
        readings: vec![
            reading(ROOTS[0], 2, 5, 40),
            reading(ROOTS[1], 1, 2_000_000_000, 1_500),
        ],
        activity,
        claims: vec![claim(2, [5, 20, 0, 1], Some(Outcome::FuelExhausted))],
        faults: vec![],
        weights: vec![],
    };
    let (first, second) = (sealer.seal(&[first]), sealer.seal(&[second]));
    (sealer, first, second)
}

#[test]
fn a_window_by_hand() {
    let (sealer, first, second) = two_windows();
    let is = |kind| move |transfer: &Transfer| transfer.kind == kind && transfer.unit == Unit::Uj;
    // 2 J less 1 J of floor, over 50 for calls, 20 + 10 for the system and 20 for others.
    let first = std::slice::from_ref(&first);
    assert_eq!(sum(first, is(TransferKind::Idle)), 1_000_000);
    assert_eq!(sum(first, is(TransferKind::Dynamic)), 500_000);
    assert_eq!(sum(first, is(TransferKind::System)), 300_000);
    assert_eq!(sum(first, is(TransferKind::Foreign)), 200_000);
    assert_eq!(
        first[0].lines.iter().map(|l| l.energy_uj).collect::<Vec<_>>(),
        [Some(100_000), Some(400_000)]
    );

    // The first root is at its baseline in a new boot; the second has 500 µJ, all of it floor.
    let rows: Vec<_> = second
        .roots
        .iter()
        .map(|r| (r.boot_id.as_u128(), r.start_uj, r.end_uj))
        .collect();
    assert_eq!(rows, [(1, 1_000, 1_500), (2, 40, 40)]);
    let transfers: Vec<_> = second
        .transfers
        .iter()
        .map(|t| (t.unit, t.kind, t.amount))
        .collect();
    assert_eq!(
        transfers,
        [
            (Unit::Uj, TransferKind::Idle, 500),
            (Unit::Fuel, TransferKind::Dynamic, 5)
        ]
    );
    assert_eq!((second.lines[0].ordinal, second.lines[0].energy_uj), (1, Some(0)));
    assert_eq!(sealer.next_seq(), 2);
}

#[test]
fn fallen_and_missed_counters_are_not_charged_to_calls() {
    let mut sealer = sealer();
    let slice = |index, readings| Slice {
        index,
        at: start(),
        readings,
        activity: Activity::default(),
        claims: vec![Claim {
            call: call(1),
            usage: usage([1, 10, 0, 0]),
            outcome: None,
        }],
        faults: vec![],
        weights: vec![],
    };
    let at = |counter_uj| vec![reading(ROOTS[0], 1, 0, counter_uj)];
    let posting = sealer.seal(&[
        slice(0, at(900)),
        slice(1, at(1_100)),
        slice(2, vec![]),
        slice(3, at(1_107)),
        slice(4, at(1_112)),
    ]);
    assert_eq!(posting.verify(), Ok(()));
    assert_eq!(
        (posting.roots[0].start_uj, posting.roots[0].end_uj),
        (1_000, 1_112)
    );
    let postings = [posting];
    assert_eq!(sum(&postings, |t| t.kind == TransferKind::Unattributed), 107);
    assert_eq!(postings[0].lines[0].energy_uj, Some(5));

    // No reading at all: the use is known, its energy is not.
    let dark = sealer.seal(&[slice(5, vec![])]);
    assert_eq!(
        (dark.lines[0].energy_uj, dark.roots.len(), dark.verify()),
        (None, 0, Ok(()))
    );
}

#[test]
fn windows_never_overlap_when_the_wall_clock_is_set_back() {
    let mut sealer = sealer();
    let slice = Slice {
        index: 0,
        at: start() - Duration::hours(1),
        readings: baseline(),
        activity: Activity::default(),
        claims: vec![],
        faults: vec![],
        weights: vec![],
    };
    let posting = sealer.seal(&[slice]);
    assert_eq!((posting.from, posting.to), (start(), start()));
}

/// Moves both ends of every row, which keeps the law.
fn shift_counters(posting: &mut Posting) {
    for row in &mut posting.roots {
        row.start_uj += 1;
        row.end_uj += 1;
    }
}

/// A transfer of nothing at the end, which changes no sum.
fn move_nothing(posting: &mut Posting) {
    let mut nothing = posting.transfers.last().unwrap().clone();
    (nothing.ordinal, nothing.amount) = (nothing.ordinal + 1, 0);
    posting.transfers.push(nothing);
}

type Tamper = (fn(&mut Posting), fn(&PostingError) -> bool);

fn assert_named(cases: &[Tamper]) {
    let (_, posting, _) = two_windows();
    assert_eq!(posting.verify(), Ok(()));
    for (n, (tamper, named)) in cases.iter().enumerate() {
        let mut tampered = posting.clone();
        tamper(&mut tampered);
        let error = tampered.verify().unwrap_err();
        assert!(named(&error), "case {n}: {error}");
    }
}

#[test]
fn tampering_with_sums_is_named() {
    assert_named(&[
        (
            |p| p.transfers[0].amount += 1,
            |e| matches!(e, PostingError::Law { .. }),
        ),
        (
            |p| p.roots[0].end_uj += 1,
            |e| matches!(e, PostingError::Law { .. }),
        ),
        (
            |p| p.roots[0].start_uj = u64::MAX,
            |e| matches!(e, PostingError::CounterFell { .. }),
        ),
        (
            |p| p.lines[0].energy_uj = Some(1),
            |e| matches!(e, PostingError::Lines { unit: Unit::Uj, .. }),
        ),
        (
            |p| p.lines[1].usage.fuel += 1,
            |e| matches!(e, PostingError::Lines { unit: Unit::Fuel, .. }),
        ),
        (
            |p| p.lines[0].call.tenant = call(5).tenant,
            |e| matches!(e, PostingError::Lines { .. }),
        ),
        (
            |p| p.lines[1].call.deployment = Some(name("x")),
            |e| matches!(e, PostingError::Lines { .. }),
        ),
    ]);
}

#[test]
fn tampering_with_the_rest_is_named() {
    assert_named(&[
        (
            |p| p.transfers.swap(0, 1),
            |e| matches!(e, PostingError::Ordinal { expected: 0, .. }),
        ),
        (
            |p| p.transfers[0].debit = Account::Idle,
            |e| matches!(e, PostingError::Transfer { ordinal: 0 }),
        ),
        (
            |p| p.lines.swap(0, 1),
            |e| matches!(e, PostingError::LineOrder { .. }),
        ),
        (
            |p| p.lines[0].usage.cpu_ns += 1,
            |e| matches!(e, PostingError::Merkle { .. }),
        ),
        (
            |p| p.lines[0].outcome = None,
            |e| matches!(e, PostingError::Merkle { .. }),
        ),
        (
            |p| p.prev_hash = Digest::of(b"x"),
            |e| matches!(e, PostingError::Hash { .. }),
        ),
        (shift_counters, |e| matches!(e, PostingError::Hash { .. })),
        (
            |p| p.transfers[2].release = Some(1),
            |e| matches!(e, PostingError::Transfer { ordinal: 2 }),
        ),
        (
            |p| p.transfers[2].cites = Some(Digest::ZERO),
            |e| matches!(e, PostingError::Transfer { ordinal: 2 }),
        ),
        (move_nothing, |e| matches!(e, PostingError::Transfer { .. })),
    ]);
}

#[test]
fn every_field_of_the_head_is_hashed() {
    let (_, posting, _) = two_windows();
    let changes: [fn(&mut Posting); 9] = [
        |p| p.node = NodeId(Uuid::nil()),
        |p| p.epoch = Epoch(Uuid::nil()),
        |p| p.seq += 1,
        |p| p.kind = PostingKind::Correction,
        |p| p.from += Duration::microseconds(1),
        |p| p.to += Duration::microseconds(1),
        |p| p.fuel_schedule += 1,
        |p| p.input_digest = Digest::ZERO,
        |p| p.roots[0].root.uncertainty_ppm += 1,
    ];
    for (n, change) in changes.into_iter().enumerate() {
        let mut changed = posting.clone();
        change(&mut changed);
        assert_ne!(changed.compute_hash(), posting.hash, "change {n}");
    }
}

/// Stored postings were hashed with this encoding: if this fails, the encoding needs a new version.
#[test]
fn the_encoding_stays() {
    let (_, first, mut second) = two_windows();
    (second.fuel_schedule, second.prev_hash) = (1, Digest::ZERO);
    let crash = crash_of(vec![finished(4, [9, 1, 0, 0])]);
    let after_crash = encoding::inputs_digest(&baseline(), &[], Some(&crash));
    let digests = [
        first.input_digest,
        after_crash,
        second.merkle_root,
        second.compute_hash(),
    ];
    let expected: [&str; 4] = [
        "e0ea16125210de6df977664a5ee0843c43c581469226e3defa1d6b894453394d",
        "4ea1f41fef5e5623ecb65f56fa94e87d91c3fd50adeb34fcf6c7d3b77b1851d2",
        "ab2150a9ca47ac59471ee418b8bfed06e5f5260b8543093e7a3867de7cdefd44",
        "a6101eb7fa13567d4a72f44b033af28288948034b179e511769ddd5c793b431e",
    ];
    assert_eq!(digests.map(|digest| digest.hex()), expected);
}

/// Lines of before devices were metered and tokens counted keep their leaves; those with either are told apart.
#[test]
fn busy_time_and_tokens_change_the_leaf_only_where_there_are_any() {
    let (_, first, _) = two_windows();
    let line = &first.lines[1];
    assert_eq!(line.usage.work.len(), 1);
    let mut leaves = vec![line.leaf()];
    for busy_ns in [1, 2] {
        let mut worked = line.clone();
        worked.usage.work[0].busy_ns = busy_ns;
        leaves.push(worked.leaf());
        worked.usage.work[0].tokens = 1;
        leaves.push(worked.leaf());
    }
    leaves.sort();
    leaves.dedup();
    assert_eq!(leaves.len(), 5);
}

#[test]
fn every_weight_of_a_slice_is_hashed() {
    let slice = |weights| Slice {
        index: 0,
        at: start(),
        readings: vec![],
        activity: Activity::default(),
        claims: vec![],
        weights,
        faults: vec![],
    };
    let digest = |weights| encoding::inputs_digest(&[], &[slice(weights)], None);
    let weights = RootWeights {
        root: "package-0".into(),
        floor_uw: 9,
        base: Weights([1, 2, 3, 4, 5, 6, 7]),
        classes: vec![ClassWeights {
            class: Class::of(&call(3)),
            guest: 8,
            model: 9,
            busy: 10,
        }],
    };
    let changes: [fn(&mut RootWeights); 7] = [
        |w| w.root.push('x'),
        |w| w.floor_uw += 1,
        |w| w.base.0[6] += 1,
        |w| w.classes[0].guest += 1,
        |w| w.classes[0].busy += 1,
        |w| w.classes[0].class = Class::Publish,
        |w| w.classes.clear(),
    ];
    let mut digests = vec![digest(vec![]), digest(vec![weights.clone()])];
    for change in changes {
        let mut changed = weights.clone();
        change(&mut changed);
        digests.push(digest(vec![changed]));
    }
    digests.sort();
    digests.dedup();
    assert_eq!(digests.len(), 9);
}

fn finished(n: u128, used: [u64; 4]) -> Finished {
    Finished {
        call: call(n),
        outcome: Outcome::Ok,
        usage: usage(used),
    }
}

fn crash_of(finished: Vec<Finished>) -> Crash {
    Crash {
        at: start() + Duration::seconds(9),
        readings: vec![reading(ROOTS[0], 1, 9, 1_300), reading(ROOTS[1], 2, 1, 5)],
        finished,
    }
}

#[test]
fn a_crash_by_hand() {
    let mut sealer = sealer();
    let claim = |n, outcome| Claim {
        call: call(n),
        usage: usage([10, 0, 0, 0]),
        outcome,
    };
    let slice = |index, counter_uj, claims| Slice {
        index,
        at: start(),
        readings: vec![reading(ROOTS[0], 1, 0, counter_uj)],
        activity: Activity::default(),
        claims,
        faults: vec![],
        weights: vec![],
    };
    sealer.seal(&[slice(0, 1_000, vec![claim(1, None), claim(2, None)])]);
    // Calls 1 and 3 end before the crash, 3 in a slice too; 4 was never in a slice; 2 is lost.
    let slices = [slice(1, 1_100, vec![claim(1, None), claim(3, Some(Outcome::Ok))])];
    let crash = crash_of(vec![
        finished(4, [9, 0, 0, 0]),
        finished(1, [25, 0, 0, 0]),
        finished(3, [10, 0, 0, 0]),
    ]);
    let posting = sealer.seal_crash(&slices, &crash);

    assert_eq!(posting.verify(), Ok(()));
    let lines: Vec<_> = posting
        .lines
        .iter()
        .map(|line| {
            (
                line.ordinal,
                line.usage.fuel,
                line.outcome.unwrap(),
                line.energy_uj,
            )
        })
        .collect();
    let expected = [
        (1, 15, Outcome::Ok, Some(0)),
        (1, 0, Outcome::HostLost, None),
        (0, 10, Outcome::Ok, Some(0)),
        (0, 9, Outcome::Ok, None),
    ];
    assert_eq!(lines, expected);
    let rows: Vec<_> = posting
        .roots
        .iter()
        .map(|row| (row.start_uj, row.end_uj))
        .collect();
    assert_eq!(rows, [(5, 5), (1_000, 1_300)]);
    // Nobody used CPU time in the slice, and after it nobody knows.
    assert_eq!(sum(&[posting], |t| t.kind == TransferKind::Unattributed), 300);
    assert_eq!(sealer.open(), &OpenReceipts::default());
}

#[test]
fn a_line_is_proven_to_be_in_its_posting() {
    let (_, posting, _) = two_windows();
    for (index, line) in posting.lines.iter().enumerate() {
        let proof = posting.prove_line(index).unwrap();
        assert!(proof.verify(line.leaf(), posting.merkle_root));
    }
}
