//! Anchors: each checkpoint once more, outside the database, so that a ledger that was rolled back is found out.

mod s3;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use domain::checkpoint::SignedCheckpoint;
use futures::TryStreamExt as _;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{Error as StoreError, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions};

use crate::config::AnchorsAt;

/// A directory or a bucket with a file for each checkpoint. It should lie where whoever may write the database may not.
pub struct Anchors(Place);

enum Place {
    /// Opened each time: one that is gone is neither empty nor made again.
    Directory(PathBuf),
    Bucket {
        store: Arc<dyn ObjectStore>,
        folder: Key,
        /// As it was written.
        url: String,
    },
}

/// An anchor that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum AnchorError {
    /// The place where they are.
    #[error("the anchors at {at}: {reason}")]
    Place {
        /// Which.
        at: String,
        /// Why.
        reason: String,
    },
    /// One of them.
    #[error("the anchor {anchor}: {reason}")]
    Store {
        /// Which.
        anchor: String,
        /// Why.
        reason: String,
    },
    /// A file that is no checkpoint.
    #[error("the anchor {anchor} is no checkpoint: {reason}")]
    Malformed {
        /// Which.
        anchor: String,
        /// Why.
        reason: String,
    },
}

impl Anchors {
    /// The anchors that are kept at `at`. A bucket is described by the environment; nothing is asked of it yet.
    pub fn open(at: &AnchorsAt) -> Result<Self, AnchorError> {
        match at {
            AnchorsAt::Directory(folder) => Ok(Self::directory(folder)),
            AnchorsAt::Bucket { name, folder } => {
                let url = at.to_string();
                let store = s3::open(name).map_err(|reason| AnchorError::Place {
                    at: url.clone(),
                    reason,
                })?;
                let folder = folder.clone();
                Ok(Self(Place::Bucket { store, folder, url }))
            }
        }
    }

    /// The anchors in `folder`.
    pub fn directory(folder: &Path) -> Self {
        Self(Place::Directory(folder.to_owned()))
    }

    /// Where the anchor of a checkpoint is, in words.
    pub fn name(&self, number: u64) -> String {
        match &self.0 {
            Place::Directory(folder) => folder.join(file(number)).display().to_string(),
            Place::Bucket { url, .. } => format!("{url}/{}", file(number)),
        }
    }

    /// The checkpoints that are anchored. Other files are not ours to judge.
    pub async fn numbers(&self) -> Result<BTreeSet<u64>, AnchorError> {
        self.listed(None).await
    }

    /// The newest checkpoint that is anchored. Where `near` or a later one is, what is before it is not listed: a
    /// bucket has more anchors each hour, and is asked for a thousand at a time.
    pub async fn newest(&self, near: u64) -> Result<Option<u64>, AnchorError> {
        let from_there = match (near.checked_sub(1), &self.0) {
            (Some(before), Place::Bucket { .. }) => self.listed(Some(before)).await?,
            _ => BTreeSet::new(),
        };
        match from_there.last() {
            Some(&number) => Ok(Some(number)),
            None => Ok(self.numbers().await?.last().copied()),
        }
    }

    /// The checkpoints that are anchored, or those of them after a number.
    async fn listed(&self, after: Option<u64>) -> Result<BTreeSet<u64>, AnchorError> {
        let listing = async {
            let (store, folder) = (self.store().await?, self.folder());
            match after {
                Some(number) => {
                    let listed = store.list_with_offset(Some(&folder), &self.key(number));
                    listed.try_collect::<Vec<_>>().await
                }
                // Folders below it are not looked into: they may be closed to us.
                None => Ok(store.list_with_delimiter(Some(&folder)).await?.objects),
            }
        };
        let objects = listing.await.map_err(|error| AnchorError::Place {
            at: match &self.0 {
                Place::Directory(folder) => folder.display().to_string(),
                Place::Bucket { url, .. } => url.clone(),
            },
            reason: reason(&error),
        })?;
        let number = |key: &Key| {
            let digits = key.filename()?.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
            let number = digits.parse().ok()?;
            (*key == self.key(number)).then_some(number)
        };
        Ok(objects
            .iter()
            .filter_map(|object| number(&object.location))
            .collect())
    }

    /// The checkpoint that is anchored under `number`.
    pub async fn read(&self, number: u64) -> Result<SignedCheckpoint, AnchorError> {
        let malformed = |reason| AnchorError::Malformed {
            anchor: self.name(number),
            reason,
        };
        let reading = async {
            let found = self.store().await?.get(&self.key(number)).await?;
            match found.meta.size > MOST_BYTES {
                true => Ok(None),
                false => found.bytes().await.map(Some),
            }
        };
        let content = reading.await.map_err(|error| self.failed(number, &error))?;
        let content = content.ok_or_else(|| malformed(format!("it has more than {MOST_BYTES} bytes")))?;
        let signed: SignedCheckpoint =
            serde_json::from_slice(&content).map_err(|error| malformed(error.to_string()))?;
        match signed.checkpoint.number {
            found if found == number => Ok(signed),
            found => Err(malformed(format!("it is of checkpoint {found}"))),
        }
    }

    /// Anchors a checkpoint, whole or not at all. What is anchored under its number already stays as it is.
    pub async fn write(&self, signed: &SignedCheckpoint) -> Result<(), AnchorError> {
        let number = signed.checkpoint.number;
        let mut content = serde_json::to_vec_pretty(signed).map_err(|error| AnchorError::Malformed {
            anchor: self.name(number),
            reason: error.to_string(),
        })?;
        content.push(b'\n');
        let writing = async {
            let (store, key) = (self.store().await?, self.key(number));
            let once = PutOptions::from(PutMode::Create);
            match store.put_opts(&key, content.into(), once).await {
                Ok(_) => self.open_to_all(number).await,
                // Another host that serves this ledger was faster; or it has only begun to write, and may fail.
                Err(StoreError::AlreadyExists { .. }) => store.head(&key).await.map(|_| ()),
                Err(error) => Err(error),
            }
        };
        writing.await.map_err(|error| self.failed(number, &error))
    }

    /// Whoever audits may not be who serves, and an anchor holds nothing secret. Who may read a bucket is said there.
    async fn open_to_all(&self, number: u64) -> Result<(), StoreError> {
        let Place::Directory(folder) = &self.0 else {
            return Ok(());
        };
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o444);
        let opened = tokio::fs::set_permissions(folder.join(file(number)), mode).await;
        opened.map_err(|error| StoreError::Generic {
            store: "LocalFileSystem",
            source: error.into(),
        })
    }

    async fn store(&self) -> Result<Arc<dyn ObjectStore>, StoreError> {
        match &self.0 {
            Place::Bucket { store, .. } => Ok(store.clone()),
            Place::Directory(folder) => {
                let folder = folder.clone();
                // It may be far away, and slow.
                let opened =
                    tokio::task::spawn_blocking(|| LocalFileSystem::new_with_prefix(folder)).await??;
                Ok(Arc::new(opened.with_fsync(true)))
            }
        }
    }

    fn folder(&self) -> Key {
        match &self.0 {
            Place::Directory(_) => Key::ROOT,
            Place::Bucket { folder, .. } => folder.clone(),
        }
    }

    fn key(&self, number: u64) -> Key {
        self.folder().join(file(number))
    }

    fn failed(&self, number: u64, error: &StoreError) -> AnchorError {
        AnchorError::Store {
            anchor: self.name(number),
            reason: reason(error),
        }
    }
}

const PREFIX: &str = "checkpoint-";
const SUFFIX: &str = ".json";
/// Far more than a checkpoint has.
const MOST_BYTES: u64 = 64 << 10;

fn file(number: u64) -> String {
    format!("{PREFIX}{number:012}{SUFFIX}")
}

/// Why a store failed, down to the innermost cause.
fn reason(error: &StoreError) -> String {
    let said = match error {
        StoreError::Generic { source, .. } => source.to_string(),
        error => error.to_string(),
    };
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let (said, innermost) = (without_answer(&said), without_answer(&cause.to_string()));
    match said.contains(&innermost) {
        true => said,
        false => format!("{said}: {innermost}"),
    }
}

/// What was said, without the answer that it repeats but for its status and S3's code: an answer may have in it what
/// was asked, a session's token too.
fn without_answer(said: &str) -> String {
    const STATUS: &str = "status code: ";
    let Some((before, answer)) = said.split_once(STATUS) else {
        return said.to_owned();
    };
    let (status, body) = answer.split_once(':').unwrap_or((answer, ""));
    let code = body
        .split_once("<Code>")
        .and_then(|(_, rest)| rest.split_once("</Code>"));
    match code {
        Some((code, _)) if code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
            format!("{before}{STATUS}{status} ({code})")
        }
        _ => format!("{before}{STATUS}{status}"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use domain::SigningKey;
    use domain::checkpoint::Record;
    use object_store::memory::InMemory;
    use time::OffsetDateTime;

    use super::*;

    fn checkpoint(hour: i64) -> SignedCheckpoint {
        let key = SigningKey::from_seed(&[1; 32]).unwrap();
        let at = OffsetDateTime::UNIX_EPOCH + time::Duration::hours(hour);
        Record::make(None, &[], at, &key).signed
    }

    /// A checkpoint by another number than its own; nothing here verifies it.
    fn numbered(number: u64) -> SignedCheckpoint {
        let mut signed = checkpoint(1);
        signed.checkpoint.number = number;
        signed
    }

    fn bucket(store: &Arc<InMemory>) -> Anchors {
        Anchors(Place::Bucket {
            store: store.clone(),
            folder: Key::from("wattle/one"),
            url: "s3://ledgers/wattle/one".to_owned(),
        })
    }

    #[tokio::test]
    async fn an_anchor_is_written_once_and_never_again() {
        let folder = tempfile::tempdir().unwrap();
        for anchors in [Anchors::directory(folder.path()), bucket(&Arc::default())] {
            assert!(anchors.numbers().await.unwrap().is_empty());
            assert_eq!(anchors.newest(0).await.unwrap(), None);
            anchors.write(&checkpoint(1)).await.unwrap();
            anchors.write(&checkpoint(2)).await.unwrap();
            assert_eq!(anchors.read(1).await.unwrap(), checkpoint(1));
            assert_eq!(anchors.numbers().await.unwrap(), BTreeSet::from([1]));
        }
        std::fs::write(folder.path().join("notes.txt"), "x").unwrap();
        std::fs::write(folder.path().join("checkpoint-7.json"), "x").unwrap();
        std::fs::create_dir(folder.path().join("old")).unwrap();
        std::fs::write(folder.path().join("old").join(file(9)), "x").unwrap();
        let anchors = Anchors::directory(folder.path());
        assert_eq!(anchors.numbers().await.unwrap(), BTreeSet::from([1]));
        // Whoever audits may read it, whatever the host's own files are like.
        let about = std::fs::metadata(anchors.name(1)).unwrap();
        assert_eq!(about.permissions().mode() & 0o777, 0o444);
    }

    #[tokio::test]
    async fn the_newest_is_found_from_wherever_one_looks() {
        let (folder, store) = (tempfile::tempdir().unwrap(), Arc::default());
        for anchors in [Anchors::directory(folder.path()), bucket(&store)] {
            for number in 3..=12 {
                anchors.write(&numbered(number)).await.unwrap();
            }
            for near in [0, 1, 3, 11, 12, 13, 1_000] {
                assert_eq!(anchors.newest(near).await.unwrap(), Some(12), "{near}");
            }
            assert_eq!(anchors.numbers().await.unwrap(), (3..=12).collect());
        }
        // What lies deeper, or beside it, is not among them.
        for beside in ["wattle/one/old", "wattle/one2", "wattle"] {
            let key = Key::from(beside).join(file(20));
            store.put(&key, "{}".into()).await.unwrap();
        }
        assert_eq!(bucket(&store).newest(12).await.unwrap(), Some(12));
        assert_eq!(bucket(&store).numbers().await.unwrap().len(), 10);
        assert_eq!(
            bucket(&store).name(12),
            "s3://ledgers/wattle/one/checkpoint-000000000012.json"
        );
    }

    #[tokio::test]
    async fn what_is_larger_than_any_checkpoint_is_not_read() {
        let store = Arc::default();
        let anchors = bucket(&store);
        let mut content = serde_json::to_vec(&checkpoint(1)).unwrap();
        for (bytes, is_read) in [(MOST_BYTES, true), (MOST_BYTES + 1, false)] {
            content.resize(usize::try_from(bytes).unwrap(), b' ');
            store.put(&anchors.key(1), content.clone().into()).await.unwrap();
            let read = anchors.read(1).await;
            assert_eq!(read.is_ok(), is_read, "{read:?}");
            assert!(is_read || matches!(read, Err(AnchorError::Malformed { .. })));
        }
    }

    #[tokio::test]
    async fn what_is_no_anchor_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let anchors = Anchors::directory(folder.path());
        assert!(matches!(anchors.read(1).await, Err(AnchorError::Store { .. })));
        std::fs::write(anchors.name(1), "{").unwrap();
        assert!(matches!(
            anchors.read(1).await,
            Err(AnchorError::Malformed { .. })
        ));
        std::fs::write(anchors.name(1), vec![b' '; 1 << 20]).unwrap();
        assert!(matches!(
            anchors.read(1).await,
            Err(AnchorError::Malformed { .. })
        ));
        anchors.write(&checkpoint(1)).await.unwrap();
        std::fs::remove_file(anchors.name(1)).unwrap();
        anchors.write(&checkpoint(1)).await.unwrap();
        std::fs::rename(anchors.name(1), anchors.name(2)).unwrap();
        assert!(matches!(
            anchors.read(2).await,
            Err(AnchorError::Malformed { .. })
        ));
        let path = folder.path().join("gone");
        let gone = Anchors::directory(&path);
        let said = gone.numbers().await.unwrap_err().to_string();
        assert!(
            said.contains(&path.display().to_string()) && said.contains("No such file"),
            "{said}"
        );
        assert!(gone.newest(1).await.is_err() && gone.read(1).await.is_err());
        assert!(gone.write(&checkpoint(1)).await.is_err());
        assert!(!path.exists(), "nothing made it");
    }

    #[test]
    fn an_answer_is_not_repeated() {
        let failed = |answer: &str| {
            let said = format!(
                "Error performing PUT http://h/b in 1ms - Server returned non-2xx status code: {answer}"
            );
            reason(&StoreError::Generic {
                store: "S3",
                source: said.into(),
            })
        };
        let said = failed(
            "403 Forbidden: <?xml version=\"1.0\"?>\n<Error><Code>SignatureDoesNotMatch</Code>\
             <CanonicalRequest>x-amz-security-token:hush</CanonicalRequest></Error>",
        );
        assert!(said.ends_with("403 Forbidden (SignatureDoesNotMatch)"), "{said}");
        for answer in [
            "403 Forbidden: hush",
            "403 Forbidden: <Code>hush hush</Code>",
            "403 Forbidden: ",
        ] {
            assert!(failed(answer).ends_with("403 Forbidden"), "{}", failed(answer));
        }
    }
}
