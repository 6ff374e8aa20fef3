//! What was wrong with a meter, in the slices and in the ledger.

use super::by_hand::two_windows;
use super::*;
use crate::verify::PostingError;

#[test]
fn what_was_wrong_with_a_meter_is_marked_and_charged_to_nobody() {
    let mut sealer = sealer();
    let slice = |index, readings, faults| Slice {
        index,
        at: start(),
        readings,
        activity: Activity::default(),
        claims: vec![Claim {
            call: call(1),
            usage: usage([1, 10, 0, 0]),
            outcome: None,
        }],
        weights: vec![],
        faults,
    };
    let at = |counter_uj| vec![reading(ROOTS[0], 1, 0, counter_uj)];
    let silent = || vec![fault(ROOTS[0], FaultKind::Silent)];
    let first = sealer.seal(&[
        slice(0, at(1_001), vec![]),
        // Read, but not for sure: this span is nobody's, the next is the call's again.
        slice(1, at(1_010), vec![fault(ROOTS[0], FaultKind::Rebased)]),
        slice(2, at(1_012), vec![]),
        slice(3, vec![], silent()),
        slice(4, vec![], silent()),
    ]);
    // A window in which it never answers has a row that does not move; a root never read has none.
    let second = sealer.seal(&[slice(
        5,
        vec![],
        [silent(), vec![fault("new", FaultKind::Malformed)]].concat(),
    )]);
    let third = sealer.seal(&[slice(6, at(1_100), vec![]), slice(7, at(1_101), vec![])]);
    let postings = [first, second, third];
    check_chain(&postings);
    let rows = postings.iter().flat_map(|posting| &posting.roots);
    let rows: Vec<_> = rows
        .map(|row| (row.start_uj, row.end_uj, row.faults.clone()))
        .collect();
    let expected = [
        (1_000, 1_012, vec![FaultKind::Silent, FaultKind::Rebased]),
        (1_012, 1_012, vec![FaultKind::Silent]),
        (1_012, 1_101, vec![]),
    ];
    assert_eq!(rows, expected);
    let charged = postings.iter().map(|posting| posting.lines[0].energy_uj);
    assert_eq!(charged.collect::<Vec<_>>(), [Some(3), None, Some(1)]);
    assert_eq!(sum(&postings, |t| t.kind == TransferKind::Unattributed), 9 + 88);

    // Where and when something was wrong is in the digests.
    let digest =
        |faults: Vec<MeterFault>| encoding::inputs_digest(&baseline(), &[slice(0, vec![], faults)], None);
    let digests = [
        vec![],
        silent(),
        vec![fault(ROOTS[1], FaultKind::Silent)],
        vec![fault(ROOTS[0], FaultKind::Fell)],
    ];
    let digests: BTreeSet<_> = digests.map(digest).into();
    assert_eq!(digests.len(), 4);
    let mut changed = postings[1].clone();
    changed.roots[0].faults = vec![];
    assert!(matches!(changed.verify(), Err(PostingError::Hash { .. })));
    changed.roots[0].faults = vec![FaultKind::Gap];
    assert!(matches!(changed.verify(), Err(PostingError::Hash { .. })));
}

#[test]
fn every_fault_has_a_name_of_its_own() {
    let names: BTreeSet<_> = FaultKind::ALL.iter().map(|kind| kind.as_str()).collect();
    assert_eq!(names.len(), FaultKind::ALL.len());
}

/// Version 2 of the encoding: if this fails, it needs a new version.
#[test]
fn the_encoding_with_faults_stays() {
    let (_, _, mut posting) = two_windows();
    (posting.fuel_schedule, posting.prev_hash) = (1, Digest::ZERO);
    let faulty = Slice {
        index: 3,
        at: start(),
        readings: baseline(),
        activity: Activity::default(),
        claims: vec![],
        weights: vec![],
        faults: vec![fault(ROOTS[1], FaultKind::StoodStill)],
    };
    posting.roots[0].faults = vec![FaultKind::Silent, FaultKind::Gap];
    let digests = [
        encoding::inputs_digest(&baseline(), &[faulty], None),
        posting.compute_hash(),
    ];
    let expected: [&str; 2] = [
        "e0fec578a21bd4c5abded0067da536491d8cffe35c86ec8876b446ed9515e2df",
        "9fee07745ea4a797676c2c109430bdcd01a33b63bdff67aec4400c5b1aceb3cd",
    ];
    assert_eq!(digests.map(|digest| digest.hex()), expected);
}
