use std::fs::OpenOptions;

use super::*;
use crate::frame;
use crate::record::Entry;
use crate::testing::*;

fn writer(dir: &std::path::Path, mode: Mode) -> Writer {
    let settings = Settings {
        dir: dir.to_owned(),
        mode,
        segment_bytes: 1 << 20,
        max_bytes: 8 << 20,
        keep: Duration::ZERO,
    };
    let segment::Replayed {
        mut state, segments, ..
    } = segment::replay(dir).unwrap();
    state.recover(None);
    Writer::open(settings, Arc::default(), state, segments).unwrap()
}

type Answer = oneshot::Receiver<Result<(), JournalError>>;

fn append(n: u128) -> (Command, Answer) {
    let record = Record::Finished(finished(n, 1).into());
    let frame = EntryRef::Record(&record).frame().unwrap();
    let (done, answer) = oneshot::channel();
    (
        Command::Append {
            frame,
            record: Box::new(record),
            done,
        },
        answer,
    )
}

/// Appends some records at once and returns the code of each answer.
fn append_all(writer: &mut Writer, numbers: std::ops::Range<u128>) -> Vec<&'static str> {
    let (commands, answers): (Vec<_>, Vec<_>) = numbers.map(append).unzip();
    writer.process(commands.into_iter());
    answers
        .into_iter()
        .map(|mut answer| {
            answer
                .try_recv()
                .unwrap()
                .map_or_else(|error| error.code(), |()| "ok")
        })
        .collect()
}

fn replay_count(dir: &std::path::Path) -> usize {
    let mut replayed = segment::replay(dir).unwrap();
    // No epoch was started, so count what pins the segment instead.
    replayed.state.apply(1, &started(1, 0, 0));
    replayed.state.recover(None).unsealed.unwrap().finished.len()
}

#[test]
fn strict_appends_at_once_share_one_sync_before_the_answer() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = writer(dir.path(), Mode::Strict);
    let before = writer.shared.syncs.load(Relaxed);
    assert_eq!(append_all(&mut writer, 0..64), vec!["ok"; 64]);
    assert_eq!(writer.shared.syncs.load(Relaxed), before + 1);
    assert_eq!(replay_count(dir.path()), 64);
}

#[test]
fn standard_appends_are_written_before_the_answer_and_synced_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = writer(dir.path(), Mode::Standard);
    let shared = Arc::clone(&writer.shared);
    let before = shared.syncs.load(Relaxed);
    assert_eq!(append_all(&mut writer, 0..3), ["ok"; 3]);
    assert_eq!(replay_count(dir.path()), 3);
    // Ending the background thread makes it do what is left.
    writer.syncer = None;
    assert_eq!(shared.syncs.load(Relaxed), before + 1);
}

/// The code of an answer at once, or `thread` if the record is for the thread.
fn at_once(writer: &mut Writer, n: u128) -> &'static str {
    let record = Record::Finished(finished(n, 1).into());
    let frame = EntryRef::Record(&record).frame().unwrap();
    let answer = writer.append_at_once(&frame, &record);
    answer.map_or("thread", |written| {
        written.map_or_else(|error| error.code(), |()| "ok")
    })
}

#[test]
fn only_what_is_one_write_is_done_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut strict = writer(dir.path(), Mode::Strict);
    assert_eq!(at_once(&mut strict, 0), "thread", "it waits for a sync");
    drop(strict);

    let mut standard = writer(dir.path(), Mode::Standard);
    let shared = Arc::clone(&standard.shared);
    let (syncs, bytes) = (shared.syncs.load(Relaxed), shared.bytes.load(Relaxed));
    assert_eq!(at_once(&mut standard, 1), "ok");
    assert_eq!(replay_count(dir.path()), 1);
    assert!(shared.bytes.load(Relaxed) > bytes, "its bytes count");
    standard.settings.segment_bytes = standard.newest().bytes;
    assert_eq!(at_once(&mut standard, 2), "thread", "it begins a segment");
    standard.settings.segment_bytes = 1 << 20;
    standard.settings.max_bytes = 0;
    assert_eq!(at_once(&mut standard, 2), "thread", "it wants room");
    standard.settings.max_bytes = 8 << 20;
    standard.file = Arc::new(unwritable());
    assert_eq!(at_once(&mut standard, 2), "journal_io");
    assert_eq!(
        at_once(&mut standard, 3),
        "thread",
        "which says why it is poisoned"
    );
    standard.syncer = None;
    assert!(
        shared.syncs.load(Relaxed) > syncs,
        "and is synced behind the answer"
    );
    assert_eq!(replay_count(dir.path()), 1);
}

/// A file that takes no writes, as on a disk that became read-only.
fn unwritable() -> File {
    File::open("/dev/null").unwrap()
}

#[test]
fn a_failed_write_poisons() {
    // What a full device has taken cannot be cut off.
    let full = || OpenOptions::new().write(true).open("/dev/full").unwrap();
    for (bad, code) in [(unwritable(), "journal_io"), (full(), "journal_disk_full")] {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = writer(dir.path(), Mode::Standard);
        assert_eq!(append_all(&mut writer, 0..2), ["ok"; 2]);
        let good = std::mem::replace(&mut writer.file, Arc::new(bad));
        assert_eq!(append_all(&mut writer, 2..4), [code, "journal_poisoned"]);
        assert!(!writer.shared.disk_full.load(Relaxed), "it does not come back");
        writer.file = good;
        assert_eq!(append_all(&mut writer, 4..5), ["journal_poisoned"]);
        assert_eq!(replay_count(dir.path()), 2);
    }
}

#[test]
fn a_failed_sync_fails_every_strict_append_that_waited_for_it_and_poisons() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = writer(dir.path(), Mode::Strict);
    // Takes writes, cannot be synced.
    writer.file = Arc::new(OpenOptions::new().write(true).open("/dev/null").unwrap());
    assert_eq!(append_all(&mut writer, 0..2), ["journal_poisoned"; 2]);
    assert_eq!(append_all(&mut writer, 2..3), ["journal_poisoned"]);
}

#[test]
fn every_segment_begins_with_the_state_that_replay_has_there() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = writer(dir.path(), Mode::Standard);
    writer.settings.segment_bytes = 600;
    let records = (0..40).flat_map(|n: i64| {
        let (seq, fuel) = (n as u64, 1);
        [
            Record::Slice(slice(seq, n, 100 + seq, vec![claim(5, fuel, None)])),
            sealed(window(
                1,
                seq,
                n,
                100 + seq,
                vec![line(5, seq as u32, fuel, None)],
            )),
            drained(1, seq),
        ]
    });
    for record in std::iter::once(started(1, 0, 100)).chain(records) {
        let frame = EntryRef::Record(&record).frame().unwrap();
        writer.append(&frame, &record).unwrap();
    }
    assert!(writer.segments.len() > 10);
    let mut state = State::replay_from(Default::default());
    for number in writer.segments.iter().map(|segment| segment.number) {
        let bytes = std::fs::read(segment::path(dir.path(), number)).unwrap();
        let mut offset = 0;
        while let frame::Next::Frame(payload, after) = frame::next(&bytes, offset) {
            match Entry::decode(payload).unwrap() {
                Entry::Checkpoint(checkpoint) => assert_eq!(&*checkpoint, state.checkpoint()),
                Entry::Record(record) => state.apply(number, &record),
            }
            offset = after;
        }
    }
    assert_eq!(state.checkpoint(), writer.state.checkpoint());
}
