use domain::Outcome;
use domain::Outcome::{HostLost, Ok as Answered};
use domain::energy::Root;
use domain::window::Crash;

use super::*;
use crate::testing::*;

fn recover(records: Vec<Record>) -> Recovered {
    let mut state = State::replay_from(Checkpoint::default());
    records.into_iter().for_each(|record| state.apply(1, &record));
    state.recover(None)
}

fn unsealed(records: Vec<Record>) -> Unsealed {
    recover(records).unsealed.unwrap()
}

/// The posting that closes the epoch, as a host makes it that starts again at second 20, 400 µJ.
fn close(recovered: &Recovered) -> Posting {
    let left = recovered.unsealed.as_ref().unwrap();
    let (at, readings) = (at(20), vec![reading(400)]);
    let crash = Crash {
        at,
        readings,
        finished: left.finished.clone(),
    };
    let posting = recovered.sealer().unwrap().seal_crash(&left.slices, &crash);
    posting.verify().unwrap();
    posting
}

/// What recovery is expected to find, and to make of it.
struct Expect {
    undrained: &'static [u64],
    next_seq: u64,
    baseline_uj: u64,
    from: i64,
    slices: &'static [u64],
    /// Invocation, ordinal, fuel and outcome of the lines that close the crash.
    lines: &'static [(u128, u32, u64, Outcome)],
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn crashes() -> Vec<(&'static str, Vec<Record>, Expect)> {
    let clean = [
        started(1, 0, 100),
        Record::Finished(finished(5, 30).into()),
        Record::Slice(slice(0, 1, 150, vec![claim(5, 30, Some(Answered))])),
        sealed(window(1, 0, 1, 150, vec![line(5, 0, 30, Some(Answered))])),
        drained(1, 0),
    ];
    let until = |n: usize| clean[..n].to_vec();
    let nothing = Expect {
        undrained: &[],
        next_seq: 0,
        baseline_uj: 100,
        from: 0,
        slices: &[],
        lines: &[],
    };
    let sealed_all = Expect {
        next_seq: 1,
        baseline_uj: 150,
        from: 1,
        ..nothing
    };
    let over_windows = vec![
        started(1, 0, 100),
        Record::Slice(slice(0, 1, 110, vec![claim(5, 10, None)])),
        Record::Slice(slice(1, 2, 120, vec![claim(5, 1, None), claim(6, 2, None)])),
        sealed(window(
            1,
            0,
            2,
            120,
            vec![line(5, 0, 11, None), line(6, 0, 2, None)],
        )),
        Record::Slice(slice(2, 3, 130, vec![claim(5, 4, None)])),
        sealed(window(1, 1, 3, 130, vec![line(5, 1, 4, None)])),
        Record::Slice(slice(3, 4, 140, vec![claim(5, 5, None)])),
        Record::Finished(finished(5, 27).into()),
    ];
    let in_third = Expect {
        undrained: &[0, 1],
        next_seq: 2,
        baseline_uj: 130,
        from: 3,
        ..nothing
    };
    vec![
        ("just started", until(1), Expect { ..nothing }),
        (
            "after Finished, before its Slice",
            until(2),
            Expect {
                lines: &[(5, 0, 30, Answered)],
                ..nothing
            },
        ),
        (
            "after Slice, before Sealed",
            until(3),
            Expect {
                slices: &[0],
                lines: &[(5, 0, 30, Answered)],
                ..nothing
            },
        ),
        (
            "after Sealed, before Drained",
            until(4),
            Expect {
                undrained: &[0],
                ..sealed_all
            },
        ),
        ("clean shutdown", until(5), Expect { ..sealed_all }),
        (
            "open over several windows, and finished",
            over_windows.clone(),
            // 27 in all, of which 11 + 4 are in lines; a slice had 5 of the rest.
            Expect {
                slices: &[3],
                lines: &[(5, 2, 12, Answered), (6, 1, 0, HostLost)],
                ..in_third
            },
        ),
        (
            "open over several windows, and lost",
            over_windows[..7].to_vec(),
            Expect {
                slices: &[3],
                lines: &[(5, 2, 5, HostLost), (6, 1, 0, HostLost)],
                ..in_third
            },
        ),
        (
            "open over several windows, its end claimed but not sealed",
            [
                over_windows,
                vec![Record::Slice(slice(4, 5, 150, vec![claim(5, 7, Some(Answered))]))],
            ]
            .concat(),
            Expect {
                slices: &[3, 4],
                lines: &[(5, 2, 12, Answered), (6, 1, 0, HostLost)],
                ..in_third
            },
        ),
        (
            "Finished behind the Slice that claims it",
            [until(1), vec![clean[2].clone(), clean[1].clone()]].concat(),
            Expect {
                slices: &[0],
                lines: &[(5, 0, 30, Answered)],
                ..nothing
            },
        ),
    ]
}

#[test]
fn every_crash_is_recovered() {
    for (name, records, expect) in crashes() {
        let recovered = recover(records.clone());
        let left = recovered.unsealed.as_ref().unwrap();
        let seqs: Vec<_> = recovered.undrained.iter().map(|posting| posting.seq).collect();
        let slices: Vec<_> = left.slices.iter().map(|slice| slice.index).collect();
        assert_eq!(seqs, expect.undrained, "{name}");
        assert_eq!(left.baseline, [reading(expect.baseline_uj)], "{name}");
        assert_eq!(
            (left.from, slices.as_slice()),
            (at(expect.from), expect.slices),
            "{name}"
        );

        let posting = close(&recovered);
        let ids = |n: u128| call(n).invocation;
        let lines = posting.lines.iter();
        let lines: Vec<_> = lines
            .map(|line| (line.call.invocation, line.ordinal, line.usage.fuel, line.outcome))
            .collect();
        let expected = expect.lines.iter();
        let expected: Vec<_> = expected
            .map(|&(n, ordinal, fuel, outcome)| (ids(n), ordinal, fuel, Some(outcome)))
            .collect();
        assert_eq!(lines, expected, "{name}");
        assert_eq!(
            (posting.seq, posting.prev_hash),
            (expect.next_seq, recovered.prev_hash()),
            "{name}"
        );
        assert_eq!(
            (posting.roots[0].start_uj, posting.roots[0].end_uj),
            (expect.baseline_uj, 400),
            "{name}"
        );

        // A second crash, before the next epoch is journalled, finds only that posting to drain.
        let again = recover([records, vec![sealed(posting.clone())]].concat());
        let left = again.unsealed.unwrap();
        assert_eq!(again.undrained.last(), Some(&posting), "{name}");
        assert_eq!(
            (left.next_seq, left.from),
            (expect.next_seq + 1, at(20)),
            "{name}"
        );
        assert_eq!(left.baseline[0].counter_uj, 400, "{name}");
        assert_eq!(
            (left.slices, left.finished, left.open),
            (vec![], vec![], OpenReceipts::default()),
            "{name}"
        );
    }
}

#[test]
fn nothing_is_recovered_from_nothing() {
    let recovered = recover(vec![]);
    assert_eq!(recovered.unsealed, None);
    assert_eq!(recovered.head, None);
}

#[test]
fn the_head_is_the_newest_posting_of_any_kind() {
    let mut allocation = window(1, 1, 1, 0, vec![]);
    allocation.kind = PostingKind::Allocation;
    let records = vec![
        started(1, 0, 100),
        Record::Slice(slice(0, 1, 110, vec![])),
        sealed(window(1, 0, 1, 110, vec![])),
        Record::Slice(slice(1, 2, 120, vec![])),
        sealed(allocation.clone()),
    ];
    let recovered = recover(records);
    let head = recovered.head.unwrap();
    assert_eq!((head.seq, head.hash), (1, allocation.hash));
    let left = recovered.unsealed.unwrap();
    // An allocation covers no slice and moves no baseline.
    assert_eq!(left.slices.len(), 1);
    assert_eq!(left.baseline[0].counter_uj, 110);
    assert_eq!(left.next_seq, 2);
    assert_eq!(recovered.last_readings, [reading(120)]);
}

#[test]
fn a_slice_cut_while_the_window_before_it_was_sealed_stays() {
    let left = unsealed(vec![
        started(1, 0, 100),
        Record::Slice(slice(0, 1, 110, vec![])),
        Record::Slice(slice(1, 2, 120, vec![claim(5, 3, None)])),
        sealed(window(1, 0, 1, 110, vec![])),
    ]);
    assert_eq!(left.slices, [slice(1, 2, 120, vec![claim(5, 3, None)])]);
    assert_eq!(left.baseline, [reading(110)]);
}

#[test]
fn a_new_epoch_counts_anew_and_begins_where_the_old_one_was_closed() {
    let left = unsealed(vec![
        started(1, 0, 100),
        Record::Slice(slice(0, 9, 170, vec![])),
        sealed(window(1, 0, 9, 170, vec![])),
        started(2, 10, 170),
    ]);
    assert_eq!((left.epoch, left.next_seq, left.from), (epoch(2), 0, at(10)));
    assert_eq!(left.baseline, [reading(170)]);
    assert_eq!(
        recover(vec![started(1, 0, 100), started(2, 10, 170)]).last_readings,
        [reading(170)]
    );
}

#[test]
fn what_an_epoch_left_unsealed_is_not_lost_to_the_next() {
    let records = vec![
        started(1, 0, 100),
        Record::Slice(slice(0, 1, 110, vec![claim(5, 3, None)])),
        Record::Finished(finished(5, 8).into()),
        started(2, 20, 400),
    ];
    let left = unsealed(records.clone());
    assert_eq!((left.epoch, left.next_seq, left.from), (epoch(2), 0, at(0)));
    assert_eq!(left.baseline, [reading(100)]);
    assert_eq!((left.slices.len(), left.finished), (1, vec![finished(5, 8)]));

    // The new epoch's start may also be journalled before the old one's last window.
    let posting = close(&recover(records[..3].to_vec()));
    let left = unsealed([records, vec![sealed(posting)]].concat());
    assert_eq!((left.epoch, left.next_seq, left.from), (epoch(2), 0, at(20)));
    assert_eq!(left.baseline, [reading(400)]);
    assert_eq!((left.slices, left.finished), (vec![], vec![]));
}

#[test]
fn a_window_of_a_crash_across_boots_ends_in_the_new_one() {
    let records = vec![started(1, 0, 100), Record::Slice(slice(0, 1, 110, vec![]))];
    let recovered = recover(records.clone());
    let slices = &recovered.unsealed.as_ref().unwrap().slices;
    let crash = Crash {
        at: at(20),
        readings: vec![reading_in(8, 3)],
        finished: vec![],
    };
    let posting = recovered.sealer().unwrap().seal_crash(slices, &crash);
    assert_eq!(posting.roots.len(), 2);
    let left = unsealed([records, vec![sealed(posting)]].concat());
    assert_eq!(left.baseline.len(), 1);
    assert_eq!(
        (left.baseline[0].boot_id, left.baseline[0].counter_uj),
        (reading_in(8, 3).boot_id, 3)
    );
}

#[test]
fn a_root_that_misses_a_slice_waits_where_it_was() {
    let other = |counter_uj| Reading {
        root: Root {
            name: "other".into(),
            ..root()
        },
        ..reading(counter_uj)
    };
    let mut both = slice(0, 1, 110, vec![]);
    both.readings.push(other(7));
    let records = vec![
        started(1, 0, 100),
        Record::Slice(both),
        Record::Slice(slice(1, 2, 120, vec![])),
    ];
    let recovered = recover(records.clone());
    let slices = &recovered.unsealed.as_ref().unwrap().slices;
    let mut sealer = recovered.sealer().unwrap();
    let posting = sealer.seal(slices);
    let left = unsealed([records, vec![sealed(posting)]].concat());
    assert_eq!(left.baseline, sealer.baseline());
    assert_eq!(left.baseline, [reading(120), other(7)]);
}

#[test]
fn energy_between_epochs_of_one_boot_stays_in_the_next_window() {
    let records = vec![
        started(1, 0, 100),
        Record::Slice(slice(0, 1, 110, vec![])),
        sealed(window(1, 0, 1, 110, vec![])),
    ];
    let left = unsealed([records.clone(), vec![started(2, 10, 170)]].concat());
    assert_eq!((left.baseline[0].counter_uj, left.from), (110, at(1)));
    // A new boot counts from its own baseline.
    let Record::EpochStarted {
        epoch,
        node,
        boot_id,
        at: started_at,
        ..
    } = started(2, 10, 0)
    else {
        unreachable!()
    };
    let readings = vec![reading_in(8, 3)];
    let reboot = Record::EpochStarted {
        epoch,
        node,
        boot_id,
        at: started_at,
        readings: readings.clone(),
    };
    let left = unsealed([records, vec![reboot]].concat());
    assert_eq!((left.baseline, left.from), (readings, at(10)));
}

#[test]
fn a_segment_is_pinned_until_all_in_it_is_drained() {
    let mut state = State::replay_from(Checkpoint::default());
    let _ = state.recover(None);
    let steps = [
        (1, started(1, 0, 100), None),
        (1, Record::Finished(finished(5, 8).into()), Some(1)),
        (2, Record::Finished(finished(6, 8).into()), Some(1)),
        (
            2,
            Record::Slice(slice(0, 1, 110, vec![claim(5, 8, Some(Answered))])),
            Some(2),
        ),
        (
            3,
            Record::Slice(slice(1, 2, 120, vec![claim(6, 8, Some(Answered))])),
            Some(2),
        ),
        (4, sealed(window(1, 0, 2, 120, vec![])), Some(4)),
        (5, sealed(window(1, 1, 3, 120, vec![])), Some(4)),
        (5, drained(1, 0), Some(5)),
        (6, drained(1, 1), None),
    ];
    for (segment, record, pinned_from) in steps {
        let text = format!("{record:?}");
        state.apply(segment, &record);
        assert_eq!(state.pinned_from(), pinned_from, "after {text}");
    }
}

#[test]
fn a_checkpoint_stands_for_all_that_was_drained_before_it() {
    let records = [
        started(1, 0, 100),
        Record::Slice(slice(0, 1, 110, vec![claim(5, 3, None)])),
        sealed(window(1, 0, 1, 110, vec![line(5, 0, 3, None)])),
        drained(1, 0),
        Record::Finished(finished(6, 2).into()),
        Record::Slice(slice(
            1,
            2,
            120,
            vec![claim(5, 4, None), claim(6, 2, Some(Answered))],
        )),
        // From here on the first slice of the second window is needed no more.
        Record::Slice(slice(2, 3, 130, vec![])),
        sealed(window(
            1,
            1,
            3,
            130,
            vec![line(5, 1, 4, None), line(6, 0, 2, Some(Answered))],
        )),
        Record::Slice(slice(3, 4, 140, vec![claim(5, 1, None)])),
        Record::Finished(finished(5, 9).into()),
        drained(1, 1),
    ];
    for split in [4, 6, 7, 8] {
        let mut live = State::replay_from(Checkpoint::default());
        let _ = live.recover(None);
        records[..split].iter().for_each(|record| live.apply(1, record));
        let mut resumed = State::replay_from(live.checkpoint().clone());
        records[split..]
            .iter()
            .for_each(|record| resumed.apply(2, record));
        assert_eq!(
            resumed.recover(None),
            recover(records.to_vec()),
            "split at {split}"
        );
    }
}

#[test]
fn a_root_that_is_away_for_a_run_keeps_its_place() {
    let other = |counter_uj| Reading {
        root: Root {
            name: "package-0".into(),
            ..root()
        },
        ..reading(counter_uj)
    };
    let with_both = |n, second, counter_uj| match started(n, second, counter_uj) {
        Record::EpochStarted {
            epoch,
            node,
            boot_id,
            at,
            readings,
        } => Record::EpochStarted {
            epoch,
            node,
            boot_id,
            at,
            readings: [readings, vec![other(counter_uj)]].concat(),
        },
        record => record,
    };
    let found = |records| {
        let mut counters: Vec<_> = recover(records)
            .last_readings
            .into_iter()
            .map(|last| (last.root.name, last.counter_uj))
            .collect();
        counters.sort();
        counters
    };
    // It cannot be read in the second run, nor in a slice of it.
    let away = found(vec![
        with_both(1, 0, 100),
        started(2, 5, 150),
        Record::Slice(slice(0, 6, 160, vec![])),
    ]);
    assert_eq!(
        away,
        [("modelled".to_owned(), 160), ("package-0".to_owned(), 100)]
    );
}
