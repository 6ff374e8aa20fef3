//! The writer: it keeps the order, the bound and the segments. A thread drives it, or whoever appends.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot};

use crate::fold::State;
use crate::record::EntryRef;
use crate::sync::Syncer;
use crate::{JournalError, Mode, Record, segment};

/// The most commands that share one sync.
const BATCH: usize = 1024;

pub(crate) type Done = oneshot::Sender<Result<(), JournalError>>;

/// What the writer is asked to do.
pub(crate) enum Command {
    Append {
        frame: Vec<u8>,
        record: Box<Record>,
        done: Done,
    },
    Flush(Done),
    Prune {
        now: OffsetDateTime,
        done: Done,
    },
}

/// What others may see of the writer.
#[derive(Default)]
pub(crate) struct Shared {
    /// Bytes on disk.
    pub(crate) bytes: AtomicU64,
    /// Bytes of the segments that are still needed.
    pub(crate) needed_bytes: AtomicU64,
    /// Times that data was synced.
    pub(crate) syncs: AtomicU64,
    /// Whether the disk had no room for what was to be written last.
    pub(crate) disk_full: AtomicBool,
    /// Why nothing more is taken.
    pub(crate) poisoned: OnceLock<String>,
}

impl Shared {
    /// Makes what was written to `file` last. A failure leaves it unknown what is on the disk, and a
    /// second try would report success for pages that the kernel has dropped: so it poisons.
    pub(crate) fn sync(&self, file: &File) -> io::Result<()> {
        self.syncs.fetch_add(1, Relaxed);
        file.sync_data()
            .inspect_err(|source| self.poison(&format!("sync: {source}")))
    }

    fn poison(&self, reason: &str) {
        // The first reason stays.
        let _ = self.poisoned.set(reason.to_owned());
    }

    fn healthy(&self) -> Result<(), JournalError> {
        self.poisoned
            .get()
            .map_or(Ok(()), |reason| Err(JournalError::Poisoned(reason.clone())))
    }
}

struct Segment {
    number: u64,
    bytes: u64,
    /// When it was first seen to be needed no more.
    drained_at: Option<OffsetDateTime>,
}

/// What the writer was opened with.
pub(crate) struct Settings {
    pub(crate) dir: PathBuf,
    pub(crate) mode: Mode,
    pub(crate) segment_bytes: u64,
    pub(crate) max_bytes: u64,
    pub(crate) keep: Duration,
}

/// Does commands until every sender is gone, then syncs.
pub(crate) fn run(writer: &Mutex<Writer>, mut commands: mpsc::Receiver<Command>) {
    let mut batch = Vec::new();
    while commands.blocking_recv_many(&mut batch, BATCH) > 0 {
        lock(writer).process(batch.drain(..));
    }
    let writer = lock(writer);
    if let Err(source) = writer.shared.sync(&writer.file) {
        tracing::error!(error = %source, "the journal cannot be synced at its end");
    }
}

/// A panic may leave half a frame, or a record that the state does not know: nothing may follow it.
fn lock(writer: &Mutex<Writer>) -> MutexGuard<'_, Writer> {
    writer.lock().unwrap_or_else(|panicked| {
        let writer = PoisonError::into_inner(panicked);
        writer.shared.poison("a panic while writing");
        writer
    })
}

pub(crate) struct Writer {
    settings: Settings,
    shared: Arc<Shared>,
    state: State,
    segments: VecDeque<Segment>,
    file: Arc<File>,
    /// Length of the checkpoint that was written last: a segment with no more than that is not rotated.
    head_bytes: u64,
    syncer: Option<Syncer>,
}

impl Writer {
    /// Goes on after the newest of `segments`, or begins the first.
    pub(crate) fn open(
        settings: Settings,
        shared: Arc<Shared>,
        state: State,
        segments: Vec<(u64, u64)>,
    ) -> Result<Self, JournalError> {
        let newest = segments.last().map_or(1, |&(number, _)| number);
        let file = Arc::new(segment::open(&settings.dir, newest)?);
        let mut segments: VecDeque<_> = segments
            .into_iter()
            .map(|(number, bytes)| Segment {
                number,
                bytes,
                drained_at: None,
            })
            .collect();
        if segments.is_empty() {
            segments.push_back(Segment {
                number: newest,
                bytes: 0,
                drained_at: None,
            });
        }
        let syncer = match settings.mode {
            Mode::Standard => Some(
                Syncer::start(Arc::clone(&shared))
                    .map_err(JournalError::io("start a thread for", &settings.dir))?,
            ),
            Mode::Strict => None,
        };
        let mut writer = Self {
            settings,
            shared,
            state,
            segments,
            file,
            head_bytes: 0,
            syncer,
        };
        if writer.newest().bytes == 0 {
            writer.write_checkpoint()?;
            // All that is on disk before the first append is durable.
            let path = segment::path(&writer.settings.dir, newest);
            writer
                .shared
                .sync(&writer.file)
                .map_err(JournalError::io("sync", &path))?;
        }
        writer.publish();
        Ok(writer)
    }

    /// Appends on the caller's thread where that is one `write` and nothing else: no sync before the
    /// answer, no new segment, no room to be made. Otherwise the record is for the thread.
    pub(crate) fn append_at_once(
        &mut self,
        frame: &[u8],
        record: &Record,
    ) -> Option<Result<(), JournalError>> {
        let (begun, more) = (self.newest().bytes, frame.len() as u64);
        let fits = begun > 0
            && begun + more <= self.settings.segment_bytes
            && self.bytes().saturating_add(more) <= self.limit(record);
        if self.settings.mode == Mode::Strict || !fits || self.shared.healthy().is_err() {
            return None;
        }
        match self.write(frame) {
            // The thread may make some.
            Err(JournalError::DiskFull { .. }) if self.shared.healthy().is_ok() => None,
            Err(error) => Some(Err(error)),
            Ok(()) => {
                self.state.apply(self.newest().number, record);
                self.mark();
                self.publish();
                Some(Ok(()))
            }
        }
    }

    /// Has what was written synced soon.
    fn mark(&self) {
        if let Some(syncer) = &self.syncer {
            syncer.mark(&self.file);
        }
    }

    /// Does the commands in order and answers them, in strict mode after one sync for all.
    pub(crate) fn process(&mut self, commands: impl Iterator<Item = Command>) {
        let mut answers = Vec::new();
        let mut dirty = false;
        let mut sync_now = self.settings.mode == Mode::Strict;
        for command in commands {
            match command {
                Command::Append { frame, record, done } => {
                    let result = self.append(&frame, &record);
                    dirty |= result.is_ok();
                    answers.push((done, result));
                }
                Command::Flush(done) => {
                    (dirty, sync_now) = (true, true);
                    answers.push((done, self.shared.healthy()));
                }
                Command::Prune { now, done } => answers.push((done, self.prune(now))),
            }
        }
        if dirty && sync_now {
            // The outcome is in `poisoned`, where the background thread puts it too.
            let _ = self.shared.sync(&self.file);
        } else if dirty {
            self.mark();
        }
        self.publish();
        for (done, result) in answers {
            let result = if sync_now {
                result.and_then(|()| self.shared.healthy())
            } else {
                result
            };
            // Whoever asked may have gone; the record stands all the same.
            let _ = done.send(result);
        }
    }

    fn append(&mut self, frame: &[u8], record: &Record) -> Result<(), JournalError> {
        self.shared.healthy()?;
        self.make_room(frame.len() as u64, self.limit(record))?;
        loop {
            match self.write_behind(frame) {
                Ok(()) => break,
                // Drained segments are only kept while there is room for them.
                Err(JournalError::DiskFull { .. }) if self.oldest_is_drained() => {
                    self.shared.healthy()?;
                    self.drop_oldest()?;
                }
                Err(error) => return Err(error),
            }
        }
        let number = self.newest().number;
        self.state.apply(number, record);
        Ok(())
    }

    /// Writes a frame behind all others, into a new segment where the newest is long enough.
    fn write_behind(&mut self, frame: &[u8]) -> Result<(), JournalError> {
        let bytes = self.newest().bytes;
        if bytes + frame.len() as u64 > self.settings.segment_bytes && bytes > self.head_bytes {
            self.rotate()?;
        }
        // Also where the disk had no room for it before.
        if self.newest().bytes == 0 {
            self.write_checkpoint()?;
        }
        self.write(frame)
    }

    /// How many bytes the journal may have after `record`. Calls stop first, so that what they have
    /// used can still be sealed; that something was drained can always be written, or a full
    /// journal would stay full.
    fn limit(&self, record: &Record) -> u64 {
        let max = self.settings.max_bytes;
        match record {
            Record::Finished(_) => max - max / 8,
            Record::EpochStarted { .. } | Record::Slice(_) | Record::Sealed(_) => max,
            Record::Drained { .. } => u64::MAX,
        }
    }

    fn make_room(&mut self, more: u64, limit: u64) -> Result<(), JournalError> {
        while self.bytes().saturating_add(more) > limit {
            // Drained segments are only kept while there is room for them.
            if !self.oldest_is_drained() {
                return Err(JournalError::Full {
                    bytes: self.bytes(),
                    limit,
                });
            }
            self.drop_oldest()?;
        }
        Ok(())
    }

    fn oldest_is_drained(&self) -> bool {
        let needed = self.state.pinned_from().unwrap_or(u64::MAX);
        self.segments.len() > 1 && self.segments[0].number < needed
    }

    fn drop_oldest(&mut self) -> Result<(), JournalError> {
        segment::delete(&self.settings.dir, self.segments[0].number)?;
        self.segments.pop_front();
        Ok(())
    }

    /// Deletes the segments that were drained `keep` ago.
    fn prune(&mut self, now: OffsetDateTime) -> Result<(), JournalError> {
        let needed = self.state.pinned_from().unwrap_or(u64::MAX);
        let old = self.segments.len() - 1;
        for segment in self
            .segments
            .iter_mut()
            .take(old)
            .filter(|segment| segment.number < needed)
        {
            // A clock that was set back counts anew: it would keep the segment for as long as it was set back.
            let drained_at = segment.drained_at.get_or_insert(now);
            *drained_at = now.min(*drained_at);
        }
        let keep = self.settings.keep;
        while self.oldest_is_drained()
            && self.segments[0]
                .drained_at
                .is_some_and(|drained_at| now - drained_at >= keep)
        {
            self.drop_oldest()?;
        }
        Ok(())
    }

    /// Ends the newest segment and begins the next, without its checkpoint. The old one is durable before anything is
    /// in the new one, so that only the newest can be torn.
    fn rotate(&mut self) -> Result<(), JournalError> {
        let number = self.newest().number;
        let path = segment::path(&self.settings.dir, number);
        self.shared
            .sync(&self.file)
            .map_err(JournalError::io("sync", &path))?;
        let file = segment::open(&self.settings.dir, number + 1).inspect_err(|error| {
            // Without room for a new one the old one is as it was.
            match error {
                JournalError::DiskFull { .. } => self.shared.disk_full.store(true, Relaxed),
                other => self.shared.poison(&other.to_string()),
            }
        })?;
        self.file = Arc::new(file);
        self.segments.push_back(Segment {
            number: number + 1,
            bytes: 0,
            drained_at: None,
        });
        Ok(())
    }

    fn write_checkpoint(&mut self) -> Result<(), JournalError> {
        let frame = EntryRef::Checkpoint(self.state.checkpoint()).frame()?;
        self.write(&frame)?;
        self.head_bytes = frame.len() as u64;
        Ok(())
    }

    /// A failed write may have left part of a frame, and nothing may follow that. What a full disk left is cut off, so
    /// that the next one can be tried; all else is not to be repaired while the journal is in use.
    fn write(&mut self, frame: &[u8]) -> Result<(), JournalError> {
        if let Err(source) = (&*self.file).write_all(frame) {
            let (newest, reason) = (self.newest(), format!("write: {source}"));
            let path = segment::path(&self.settings.dir, newest.number);
            let error = JournalError::io("write", &path)(source);
            let is_full = matches!(error, JournalError::DiskFull { .. });
            match is_full && self.file.set_len(newest.bytes).is_ok() {
                true => self.shared.disk_full.store(true, Relaxed),
                false => self.shared.poison(&reason),
            }
            return Err(error);
        }
        self.shared.disk_full.store(false, Relaxed);
        if let Some(newest) = self.segments.back_mut() {
            newest.bytes += frame.len() as u64;
        }
        Ok(())
    }

    fn newest(&self) -> &Segment {
        // There is always one: `open` begins it and only older ones are dropped.
        &self.segments[self.segments.len() - 1]
    }

    fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    fn publish(&self) {
        let needed = self
            .state
            .pinned_from()
            .unwrap_or(u64::MAX)
            .min(self.newest().number);
        let needed = self.segments.iter().filter(|segment| segment.number >= needed);
        self.shared
            .needed_bytes
            .store(needed.map(|segment| segment.bytes).sum(), Relaxed);
        self.shared.bytes.store(self.bytes(), Relaxed);
    }
}

#[cfg(test)]
mod tests;
