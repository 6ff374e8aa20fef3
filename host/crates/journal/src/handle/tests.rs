use domain::Outcome::Ok as Answered;
use proptest::prelude::*;

use super::*;
use crate::testing::*;
use crate::{MAX_RECORD_BYTES, Torn};

const OPTIONS: Options = Options {
    mode: Mode::Standard,
    segment_bytes: 1 << 20,
    max_bytes: 8 << 20,
    keep: Duration::from_secs(60),
};

/// A window with everything before and after it, as a host would write it.
fn cycle(seq: u64) -> Vec<Record> {
    let (n, second, counter_uj) = (u128::from(seq) + 100, seq as i64 + 1, 110 + seq * 10);
    vec![
        Record::Finished(finished(n, 30).into()),
        Record::Slice(slice(seq, second, counter_uj, vec![claim(n, 30, Some(Answered))])),
        sealed(window(
            1,
            seq,
            second,
            counter_uj,
            vec![line(n, 0, 30, Some(Answered))],
        )),
        drained(1, seq),
    ]
}

async fn append_all(journal: &Journal, records: &[Record]) {
    for record in records {
        journal.append(record).await.unwrap();
    }
}

fn segments(dir: &Path) -> Vec<String> {
    let names = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.ends_with(".segment")).collect();
    names.sort();
    names
}

fn reopen(dir: &Path, options: Options) -> Recovered {
    Journal::open(dir, options).unwrap().1
}

#[tokio::test]
async fn what_was_appended_is_recovered_in_both_modes() {
    for mode in [Mode::Standard, Mode::Strict] {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { mode, ..OPTIONS };
        let (journal, recovered) = Journal::open(dir.path(), options).unwrap();
        assert_eq!(recovered.unsealed, None);
        append_all(&journal, &[started(1, 0, 100)]).await;
        append_all(&journal, &cycle(0)).await;
        append_all(&journal, &cycle(1)[..3]).await;
        journal.flush().await.unwrap();
        let on_disk = std::fs::metadata(dir.path().join(&segments(dir.path())[0]))
            .unwrap()
            .len();
        assert_eq!(journal.bytes(), on_disk);
        drop(journal);
        let recovered = reopen(dir.path(), options);
        assert_eq!(
            recovered
                .undrained
                .iter()
                .map(|posting| posting.seq)
                .collect::<Vec<_>>(),
            [1]
        );
        assert_eq!(recovered.head.as_ref().map(|head| head.seq), Some(1));
        assert_eq!(recovered.unsealed.as_ref().map(|left| left.next_seq), Some(2));
        // Replaying changes nothing, so the next start finds the same.
        assert_eq!(reopen(dir.path(), options), recovered);
    }
}

#[tokio::test]
async fn a_directory_has_one_journal() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(dir.path(), OPTIONS).unwrap();
    let second = Journal::open(dir.path(), OPTIONS).map(|_| ()).unwrap_err();
    assert_eq!(second.code(), "journal_locked");
    assert!(
        second.to_string().contains("in use by another process"),
        "{second}"
    );
    drop(journal);
    Journal::open(dir.path(), OPTIONS).unwrap();
}

#[tokio::test]
async fn concurrent_strict_appends_are_all_kept() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        mode: Mode::Strict,
        ..OPTIONS
    };
    let (journal, _) = Journal::open(dir.path(), options).unwrap();
    append_all(&journal, &[started(1, 0, 100)]).await;
    let tasks: Vec<_> = (0..200)
        .map(|n| {
            let journal = journal.clone();
            tokio::spawn(async move { journal.append(&Record::Finished(finished(n, 1).into())).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    drop(journal);
    assert_eq!(reopen(dir.path(), options).unsealed.unwrap().finished.len(), 200);
}

#[tokio::test]
async fn a_record_over_the_cap_is_refused_and_harms_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(dir.path(), OPTIONS).unwrap();
    let mut posting = window(1, 0, 1, 110, vec![]);
    posting.transfers[0].root = Some("x".repeat(MAX_RECORD_BYTES));
    let refused = journal.append(&sealed(posting)).await.unwrap_err();
    assert_eq!(refused.code(), "journal_record_too_large");
    append_all(&journal, &[started(1, 0, 100)]).await;
}

#[tokio::test]
async fn a_full_journal_refuses_calls_first_and_takes_more_once_drained() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        segment_bytes: 1 << 20,
        max_bytes: 64 << 10,
        ..OPTIONS
    };
    let (journal, _) = Journal::open(dir.path(), options).unwrap();
    append_all(&journal, &[started(1, 0, 100)]).await;
    // The database is away: nothing is drained.
    let mut seq = 0;
    let refused = loop {
        let cycle = cycle(seq);
        match journal.append(&cycle[0]).await {
            Ok(()) => append_all(&journal, &cycle[1..3]).await,
            Err(error) => break error,
        }
        seq += 1;
        assert!(seq < 1_000, "never full");
    };
    assert_eq!(refused.code(), "journal_full");
    assert!(journal.is_filling());
    // What ran can still be sealed, but not without end.
    append_all(&journal, &cycle(seq)[1..3]).await;
    let bulk = (0..200).map(|n| line(n, 0, 1, None)).collect();
    let refused = journal
        .append(&sealed(window(1, seq, 99, 0, bulk)))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), "journal_full");
    assert!(journal.bytes() <= options.max_bytes);
    // What is drained makes room, although there is time left to keep it.
    let drained: Vec<_> = (0..=seq).map(|seq| drained(1, seq)).collect();
    append_all(&journal, &drained).await;
    assert!(!journal.is_filling());
    for seq in seq + 1..1_000 {
        append_all(&journal, &cycle(seq)).await;
        assert!(journal.bytes() <= options.max_bytes);
    }
    let whole = journal.bytes();
    drop(journal);
    assert!(whole > options.max_bytes / 2, "kept what fits");
    let recovered = reopen(dir.path(), options);
    assert_eq!(recovered.undrained, []);
    assert_eq!(recovered.unsealed.unwrap().baseline, [reading(110 + 999 * 10)]);
}

#[tokio::test]
async fn drained_segments_go_after_their_time_and_replay_goes_on_without_them() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        segment_bytes: 1 << 10,
        ..OPTIONS
    };
    let (journal, _) = Journal::open(dir.path(), options).unwrap();
    append_all(&journal, &[started(1, 0, 100)]).await;
    for seq in 0..20 {
        append_all(&journal, &cycle(seq)).await;
    }
    append_all(&journal, &cycle(20)[..3]).await;
    let all = segments(dir.path()).len();
    assert!(all > 5, "{all} segments");
    journal.prune(at(1_000)).await.unwrap();
    journal.prune(at(1_059)).await.unwrap();
    assert_eq!(segments(dir.path()).len(), all);
    let mut seqs = Vec::new();
    journal.visit_postings(|posting| seqs.push(posting.seq)).unwrap();
    assert_eq!(seqs, (0..=20).collect::<Vec<_>>());

    let whole = {
        let copy = tempfile::tempdir().unwrap();
        for name in segments(dir.path()) {
            std::fs::copy(dir.path().join(&name), copy.path().join(&name)).unwrap();
        }
        reopen(copy.path(), options)
    };
    journal.prune(at(1_060)).await.unwrap();
    assert!(segments(dir.path()).len() <= 2, "{:?}", segments(dir.path()));
    assert!(journal.bytes() < 3 << 10);
    drop(journal);
    assert_eq!(reopen(dir.path(), options), whole);
    assert_eq!(whole.undrained.len(), 1);
}

#[tokio::test]
async fn a_clock_that_jumps_changes_how_long_drained_segments_are_kept_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        segment_bytes: 1 << 10,
        ..OPTIONS
    };
    let (journal, _) = Journal::open(dir.path(), options).unwrap();
    append_all(&journal, &[started(1, 0, 100)]).await;
    for seq in 0..20 {
        append_all(&journal, &cycle(seq)).await;
    }
    let all = segments(dir.path()).len();
    // Set back by a day, it keeps them for a minute from then on, not for a day and a minute.
    journal.prune(at(1_000_000)).await.unwrap();
    for second in [900_000, 900_059] {
        journal.prune(at(second)).await.unwrap();
        assert_eq!(segments(dir.path()).len(), all, "{second}");
    }
    journal.prune(at(900_060)).await.unwrap();
    let left = segments(dir.path()).len();
    assert!(left <= 2, "{left} segments");

    // Set forward, what is drained goes at once, and what is not stays.
    for seq in 20..30 {
        append_all(&journal, &cycle(seq)[..3]).await;
    }
    append_all(&journal, &[drained(1, 20)]).await;
    journal.prune(at(900_061)).await.unwrap();
    journal.prune(at(9_000_000)).await.unwrap();
    drop(journal);
    let undrained = reopen(dir.path(), options).undrained;
    let seqs: Vec<_> = undrained.iter().map(|posting| posting.seq).collect();
    assert_eq!(seqs, (21..30).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_full_disk_drops_what_is_drained_then_refuses_and_takes_more_when_there_is_room() {
    let Some(disk) = SmallDisk::mount(64 << 10) else {
        eprintln!("not tested: this process may not mount");
        return;
    };
    let options = Options {
        segment_bytes: 4 << 10,
        ..OPTIONS
    };
    let (journal, _) = Journal::open(disk.path(), options).unwrap();
    append_all(&journal, &[started(1, 0, 100)]).await;
    // Several times what the disk holds: drained segments make room, although there is time left to keep them.
    for seq in 0..600 {
        append_all(&journal, &cycle(seq)).await;
    }
    assert!(journal.bytes() <= 64 << 10);
    assert!(segments(disk.path()).len() > 3, "kept what fits");

    // The database is away.
    let mut seq = 600;
    let (refused, rest) = 'full: loop {
        for (n, record) in cycle(seq)[..3].iter().enumerate() {
            if let Err(error) = journal.append(record).await {
                break 'full (error, n);
            }
        }
        seq += 1;
        assert!(seq < 2_000, "never full");
    };
    assert_eq!(refused.code(), "journal_disk_full");
    assert!(refused.to_string().contains("its disk is full"), "{refused}");
    assert!(journal.is_disk_full());
    assert_eq!(journal.poisoned(), None);
    let undrained = |recovered: &Recovered| recovered.undrained.len() as u64;
    let copy = tempfile::tempdir().unwrap();
    for name in segments(disk.path()) {
        std::fs::copy(disk.path().join(&name), copy.path().join(&name)).unwrap();
    }
    let recovered = reopen(copy.path(), options);
    assert_eq!(recovered.torn, None, "what did not fit was cut off");
    assert_eq!(
        undrained(&recovered),
        seq - 600,
        "nothing of what was taken is lost"
    );

    disk.resize(256 << 10);
    append_all(&journal, &cycle(seq)[rest..3]).await;
    assert!(!journal.is_disk_full());
    drop(journal);
    assert_eq!(undrained(&reopen(disk.path(), options)), seq - 600 + 1);
}

#[tokio::test]
async fn a_disk_that_is_read_only_is_said_and_harms_nothing() {
    let Some(disk) = SmallDisk::mount(1 << 20) else {
        eprintln!("not tested: this process may not mount");
        return;
    };
    let (journal, _) = Journal::open(disk.path(), OPTIONS).unwrap();
    append_all(&journal, &[started(1, 0, 100)]).await;
    append_all(&journal, &cycle(0)[..3]).await;
    drop(journal);
    disk.remount("ro");
    let error = Journal::open(disk.path(), OPTIONS).map(|_| ()).unwrap_err();
    assert_eq!(error.code(), "journal_io");
    assert!(error.to_string().contains("Read-only file system"), "{error}");
    disk.remount("rw");
    assert_eq!(reopen(disk.path(), OPTIONS).undrained.len(), 1);
}

#[tokio::test]
async fn a_torn_tail_is_cut_and_said_and_damage_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(dir.path(), OPTIONS).unwrap();
    append_all(&journal, &[started(1, 0, 100)]).await;
    let offset = journal.bytes();
    append_all(&journal, &[Record::Finished(finished(5, 1).into())]).await;
    let end = journal.bytes();
    drop(journal);
    let path = dir.path().join(&segments(dir.path())[0]);
    let whole = std::fs::read(&path).unwrap();

    std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    let recovered = reopen(dir.path(), OPTIONS);
    assert_eq!(
        recovered.torn,
        Some(Torn {
            segment: 1,
            offset,
            bytes: end - offset - 1
        })
    );
    assert_eq!(recovered.unsealed.unwrap().finished, []);
    assert_eq!(reopen(dir.path(), OPTIONS).torn, None);

    let mut damaged = whole.clone();
    damaged[offset as usize - 1] ^= 1;
    std::fs::write(&path, &damaged).unwrap();
    let error = Journal::open(dir.path(), OPTIONS).map(|_| ()).unwrap_err();
    assert!(
        matches!(error, JournalError::Corrupt { segment: 1, offset } if offset > 0),
        "{error}"
    );
    // A damaged journal is left as it is.
    assert_eq!(std::fs::read(&path).unwrap(), damaged);
}

#[tokio::test]
async fn only_the_newest_segment_may_be_torn_and_none_may_be_missing() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        segment_bytes: 1 << 10,
        ..OPTIONS
    };
    let (journal, _) = Journal::open(dir.path(), options).unwrap();
    append_all(&journal, &[started(1, 0, 100)]).await;
    for seq in 0..10 {
        append_all(&journal, &cycle(seq)).await;
    }
    drop(journal);
    let path = dir.path().join(&segments(dir.path())[1]);
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    let error = Journal::open(dir.path(), options).map(|_| ()).unwrap_err();
    assert!(
        matches!(error, JournalError::Corrupt { segment: 2, .. }),
        "{error}"
    );
    std::fs::remove_file(&path).unwrap();
    let error = Journal::open(dir.path(), options).map(|_| ()).unwrap_err();
    assert!(matches!(error, JournalError::Missing(2)), "{error}");
    assert!(error.to_string().contains("lacks segment 2"), "{error}");
}

#[tokio::test]
async fn a_record_of_a_newer_host_is_not_taken_for_damage() {
    let dir = tempfile::tempdir().unwrap();
    drop(Journal::open(dir.path(), OPTIONS).unwrap());
    let path = dir.path().join(&segments(dir.path())[0]);
    let mut bytes = std::fs::read(&path).unwrap();
    let newer = crate::record::VERSION + 1;
    bytes.extend(framed(&[newer, 0, 0]));
    std::fs::write(&path, &bytes).unwrap();
    let error = Journal::open(dir.path(), OPTIONS).map(|_| ()).unwrap_err();
    assert!(
        matches!(error, JournalError::UnknownVersion { version, .. } if version == newer),
        "{error}"
    );
}

fn any_record() -> impl Strategy<Value = Record> {
    let n = 0_u128..8;
    let outcome = prop_oneof![Just(None), Just(Some(Answered))];
    prop_oneof![
        (n.clone(), 0_u64..99).prop_map(|(n, fuel)| Record::Finished(finished(n, fuel).into())),
        (
            0_u64..9,
            prop::collection::vec((n.clone(), 0_u64..99, outcome), 0..4)
        )
            .prop_map(|(index, claims)| {
                let claims = claims
                    .into_iter()
                    .map(|(n, fuel, outcome)| claim(n, fuel, outcome))
                    .collect();
                Record::Slice(slice(index, index as i64, 100 + index, claims))
            }),
        (0_u64..9, n).prop_map(|(seq, n)| sealed(window(1, seq, seq as i64, 100, vec![line(n, 0, 1, None)]))),
        (0_u64..9).prop_map(|seq| drained(1, seq)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn a_journal_cut_at_any_byte_is_recovered_to_a_prefix(records in prop::collection::vec(any_record(), 1..8)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (journal, _) = Journal::open(dir.path(), OPTIONS).unwrap();
        let mut ends = Vec::new();
        for record in std::iter::once(&started(1, 0, 100)).chain(&records) {
            runtime.block_on(journal.append(record)).unwrap();
            ends.push(journal.bytes());
        }
        drop(journal);
        let path = dir.path().join(&segments(dir.path())[0]);
        let whole = std::fs::read(&path).unwrap();
        // What replay makes of the first `n` records, for every n.
        let prefix = |n: usize| {
            let mut state = crate::fold::State::replay_from(Default::default());
            let all = std::iter::once(started(1, 0, 100)).chain(records.iter().cloned());
            all.take(n).for_each(|record| state.apply(1, &record));
            state.recover(None)
        };
        let prefixes: Vec<_> = (0..=ends.len()).map(prefix).collect();
        for cut in 0..=whole.len() {
            let mut state = crate::fold::State::replay_from(Default::default());
            let end = segment::replay_segment(&mut state, 1, true, &whole[..cut]).unwrap();
            let kept = ends.iter().filter(|&&end| end <= cut as u64).count();
            prop_assert_eq!(&state.recover(None), &prefixes[kept], "cut at {}", cut);
            // What is cut off is the rest of one frame, no more.
            prop_assert!(kept == 0 || end as u64 == ends[kept - 1], "cut at {}", cut);
        }
    }
}
