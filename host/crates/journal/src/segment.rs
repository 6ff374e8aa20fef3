//! Segments on disk: their names, making them last, and replaying them.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::fold::{Checkpoint, State};
use crate::frame::{self, Next};
use crate::record::{DecodeError, Entry};
use crate::{JournalError, Record};

/// A write that a crash cut short, and that was cut off. Nobody was promised what it held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Torn {
    /// The segment's number.
    pub segment: u64,
    /// Where it was cut, in bytes.
    pub offset: u64,
    /// How many bytes were cut off.
    pub bytes: u64,
}

/// Makes the journal's directory, for this user only.
pub(crate) fn make_dir(dir: &Path) -> Result<(), JournalError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(JournalError::io("make", dir))
}

/// Takes the directory for this process; held until the file is dropped.
pub(crate) fn lock(dir: &Path) -> Result<File, JournalError> {
    let path = dir.join("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path);
    let file = file.map_err(JournalError::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(JournalError::Locked(dir.to_owned())),
        Err(fs::TryLockError::Error(source)) => Err(JournalError::Io {
            action: "lock",
            path,
            source,
        }),
    }
}

/// The file of segment `number`.
pub(crate) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:020}.segment"))
}

/// Opens segment `number` to append to it, and makes a new one last across a power cut.
pub(crate) fn open(dir: &Path, number: u64) -> Result<File, JournalError> {
    let path = path(dir, number);
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&path);
    let file = file.map_err(JournalError::io("open", &path))?;
    sync_dir(dir)?;
    Ok(file)
}

/// Deletes segment `number`. The directory is synced, so that no later one can go before it.
pub(crate) fn delete(dir: &Path, number: u64) -> Result<(), JournalError> {
    let path = path(dir, number);
    fs::remove_file(&path).map_err(JournalError::io("delete", &path))?;
    sync_dir(dir)
}

fn sync_dir(dir: &Path) -> Result<(), JournalError> {
    File::open(dir)
        .and_then(|file| file.sync_all())
        .map_err(JournalError::io("sync", dir))
}

/// The numbers of the segments in `dir`, oldest first, without a gap.
fn numbers(dir: &Path) -> Result<Vec<u64>, JournalError> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir).map_err(JournalError::io("list", dir))? {
        let name = entry.map_err(JournalError::io("list", dir))?.file_name();
        let stem = name.to_str().and_then(|name| name.strip_suffix(".segment"));
        numbers.extend(stem.and_then(|stem| stem.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    match numbers.windows(2).find(|pair| pair[1] != pair[0] + 1) {
        Some(pair) => Err(JournalError::Missing(pair[0] + 1)),
        None => Ok(numbers),
    }
}

/// What replaying a directory gave.
pub(crate) struct Replayed {
    pub(crate) state: State,
    /// Number and length in bytes of every segment, oldest first.
    pub(crate) segments: Vec<(u64, u64)>,
    pub(crate) torn: Option<Torn>,
}

/// Replays all segments and cuts off a torn tail.
pub(crate) fn replay(dir: &Path) -> Result<Replayed, JournalError> {
    let numbers = numbers(dir)?;
    let mut state = State::replay_from(Checkpoint::default());
    let mut segments = Vec::with_capacity(numbers.len());
    let mut torn = None;
    for &number in &numbers {
        let path = path(dir, number);
        let bytes = fs::read(&path).map_err(JournalError::io("read", &path))?;
        let oldest = numbers.first() == Some(&number);
        let end = replay_segment(&mut state, number, oldest, &bytes)?;
        if end < bytes.len() {
            if numbers.last() != Some(&number) {
                return Err(JournalError::Corrupt {
                    segment: number,
                    offset: end as u64,
                });
            }
            cut(&path, end as u64)?;
            torn = Some(Torn {
                segment: number,
                offset: end as u64,
                bytes: (bytes.len() - end) as u64,
            });
        }
        segments.push((number, end as u64));
    }
    Ok(Replayed {
        state,
        segments,
        torn,
    })
}

/// Applies the records of a segment and returns where the good ones end.
pub(crate) fn replay_segment(
    state: &mut State,
    number: u64,
    oldest: bool,
    bytes: &[u8],
) -> Result<usize, JournalError> {
    let mut offset = 0;
    loop {
        let corrupt = JournalError::Corrupt {
            segment: number,
            offset: offset as u64,
        };
        let (payload, after) = match frame::next(bytes, offset) {
            Next::End | Next::Torn => return Ok(offset),
            Next::Corrupt => return Err(corrupt),
            Next::Frame(payload, after) => (payload, after),
        };
        match Entry::decode(payload) {
            // Replay from the oldest segment on makes the same of it.
            Ok(Entry::Checkpoint(_)) if offset == 0 && !oldest => {}
            Ok(Entry::Checkpoint(checkpoint)) if offset == 0 => *state = State::replay_from(*checkpoint),
            Ok(Entry::Record(record)) if offset > 0 => state.apply(number, &record),
            Ok(_) | Err(DecodeError::Malformed) => return Err(corrupt),
            Err(DecodeError::Version(version)) => {
                return Err(JournalError::UnknownVersion {
                    segment: number,
                    offset: offset as u64,
                    version,
                });
            }
        }
        offset = after;
    }
}

fn cut(path: &Path, length: u64) -> Result<(), JournalError> {
    let file = OpenOptions::new()
        .write(true)
        .open(path)
        .map_err(JournalError::io("open", path))?;
    file.set_len(length)
        .and_then(|()| file.sync_all())
        .map_err(JournalError::io("cut", path))
}

/// Hands every posting that is still on disk to `visit`, oldest first.
pub(crate) fn visit_postings(
    dir: &Path,
    mut visit: impl FnMut(domain::posting::Posting),
) -> Result<(), JournalError> {
    for number in numbers(dir)? {
        let path = path(dir, number);
        let bytes = fs::read(&path).map_err(JournalError::io("read", &path))?;
        let mut offset = 0;
        // The newest segment may end in a record that is being written.
        while let Next::Frame(payload, after) = frame::next(&bytes, offset) {
            if let Ok(Entry::Record(Record::Sealed(posting))) = Entry::decode(payload) {
                visit(Arc::unwrap_or_clone(posting));
            }
            offset = after;
        }
    }
    Ok(())
}
