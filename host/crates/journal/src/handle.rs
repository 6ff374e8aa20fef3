//! The journal as the rest of the host sees it.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use domain::posting::Posting;
use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot};

use crate::record::EntryRef;
use crate::writer::{self, Command, Done, Settings, Shared, Writer};
use crate::{JournalError, Record, Recovered, segment};

/// Commands that wait for the writer before senders wait too.
const QUEUE: usize = 1024;

/// What a record has survived when [`Journal::append`] returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A kill of the host: it is written, and synced in the background, within 10 ms where the disk syncs in three.
    Standard,
    /// A power cut too: it is synced, together with whatever was appended at the same time.
    Strict,
}

/// How a journal is kept.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// What a record survives.
    pub mode: Mode,
    /// Bytes after which a new segment begins; at most an eighth of `max_bytes` is used.
    pub segment_bytes: u64,
    /// The bound of what is on disk. The last eighth is not for ended calls but for sealing them.
    pub max_bytes: u64,
    /// How long a drained segment is kept if there is room, so that a restored older database can
    /// be drained again.
    pub keep: Duration,
}

/// The node's journal: a cheap handle that any thread may use.
#[derive(Clone)]
pub struct Journal {
    inner: Arc<Inner>,
}

struct Inner {
    /// Taken when the last handle goes.
    commands: Option<mpsc::Sender<Command>>,
    thread: Option<JoinHandle<()>>,
    writer: Arc<Mutex<Writer>>,
    shared: Arc<Shared>,
    dir: std::path::PathBuf,
    max_bytes: u64,
    /// Declared last: released when the writer has ended.
    _lock: File,
}

impl Drop for Inner {
    /// Lets the writer finish, so that the directory is free and durable afterwards.
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has already been printed, and there is nothing left to save.
            let _ = thread.join();
        }
    }
}

impl Journal {
    /// Takes the directory (made if it is not there), replays all of it, and cuts off a torn tail.
    /// Reads and writes on the caller's thread.
    pub fn open(dir: &Path, options: Options) -> Result<(Self, Recovered), JournalError> {
        segment::make_dir(dir)?;
        let lock = segment::lock(dir)?;
        let segment::Replayed {
            mut state,
            segments,
            torn,
        } = segment::replay(dir)?;
        let recovered = state.recover(torn);
        let shared = Arc::new(Shared::default());
        let settings = Settings {
            dir: dir.to_owned(),
            mode: options.mode,
            segment_bytes: options.segment_bytes.min(options.max_bytes / 8),
            max_bytes: options.max_bytes,
            keep: options.keep,
        };
        let writer = Writer::open(settings, Arc::clone(&shared), state, segments)?;
        let writer = Arc::new(Mutex::new(writer));
        let (commands, received) = mpsc::channel(QUEUE);
        let theirs = Arc::clone(&writer);
        let thread = Builder::new()
            .name("journal".into())
            .spawn(move || writer::run(&theirs, received));
        let thread = thread.map_err(JournalError::io("start a thread for", dir))?;
        let inner = Inner {
            commands: Some(commands),
            thread: Some(thread),
            writer,
            shared,
            dir: dir.to_owned(),
            max_bytes: options.max_bytes,
            _lock: lock,
        };
        Ok((
            Self {
                inner: Arc::new(inner),
            },
            recovered,
        ))
    }

    /// Writes a record and returns when it has survived what the mode promises. A caller that goes
    /// away before that may or may not have written it.
    pub async fn append(&self, record: &Record) -> Result<(), JournalError> {
        let frame = EntryRef::Record(record).frame()?;
        // The way through the thread costs two changes of context, several times the write itself. When
        // another writes now, or what comes is more than a write, that is where it is done.
        if let Ok(mut writer) = self.inner.writer.try_lock()
            && let Some(written) = writer.append_at_once(&frame, record)
        {
            return written;
        }
        let record = Box::new(record.clone());
        self.command(|done| Command::Append { frame, record, done }).await
    }

    /// Returns when everything appended before is durable.
    pub async fn flush(&self) -> Result<(), JournalError> {
        self.command(Command::Flush).await
    }

    /// Deletes the segments in which everything was drained and seen to be so `keep` before `now`.
    /// To be called every now and then; a segment's time begins at the first call that finds it drained.
    pub async fn prune(&self, now: OffsetDateTime) -> Result<(), JournalError> {
        self.command(|done| Command::Prune { now, done }).await
    }

    async fn command(&self, command: impl FnOnce(Done) -> Command) -> Result<(), JournalError> {
        let commands = self.inner.commands.as_ref().ok_or(JournalError::Closed)?;
        let (done, result) = oneshot::channel();
        commands
            .send(command(done))
            .await
            .map_err(|_| JournalError::Closed)?;
        result.await.map_err(|_| JournalError::Closed)?
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.inner.shared.bytes.load(Relaxed)
    }

    /// Bytes of the segments that hold something not yet drained, and of the newest.
    pub fn needed_bytes(&self) -> u64 {
        self.inner.shared.needed_bytes.load(Relaxed)
    }

    /// Whether new calls should be refused: three quarters of the bound wait to be drained, and the
    /// calls that run must still find room to end.
    pub fn is_filling(&self) -> bool {
        self.needed_bytes() >= self.inner.max_bytes / 4 * 3
    }

    /// Whether the disk had no room for the last record: it takes more as soon as there is some.
    pub fn is_disk_full(&self) -> bool {
        self.inner.shared.disk_full.load(Relaxed)
    }

    /// Why the journal takes no more records, if it does not.
    pub fn poisoned(&self) -> Option<&str> {
        self.inner.shared.poisoned.get().map(String::as_str)
    }

    /// Hands every posting that is still on disk, drained or not, to `visit`, oldest first: to drain
    /// them again into an older database. Reads on the caller's thread.
    pub fn visit_postings(&self, visit: impl FnMut(Posting)) -> Result<(), JournalError> {
        segment::visit_postings(&self.inner.dir, visit)
    }
}

#[cfg(test)]
mod tests;
