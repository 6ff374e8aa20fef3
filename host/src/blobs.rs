//! Content-addressed bytes: what tenants uploaded, by digest.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use domain::Digest;
use futures::TryStreamExt as _;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt as _};
use time::OffsetDateTime;

/// The store of blobs: a folder now, whatever `object_store` speaks later.
#[derive(Clone)]
pub struct Blobs(Arc<dyn ObjectStore>);

/// Why a blob could not be kept or brought.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The store failed.
    #[error("the blob store failed: {0}")]
    Store(#[from] object_store::Error),
    /// There are no bytes under a digest.
    #[error("there is no blob {0}")]
    Missing(Digest),
    /// The bytes under a digest are not those that the digest names.
    #[error("blob {0} is damaged: its bytes have another digest")]
    Damaged(Digest),
}

impl Blobs {
    /// A store in the folder `root`, which must exist.
    pub fn open(root: &Path) -> Result<Self, BlobError> {
        Ok(Self(Arc::new(
            LocalFileSystem::new_with_prefix(root)?.with_fsync(true),
        )))
    }

    /// Keeps `bytes`, whose digest is `digest`; a blob that is there already is left alone.
    pub async fn put(&self, digest: Digest, bytes: Bytes) -> Result<(), BlobError> {
        match self.0.head(&key(digest)).await {
            Ok(_) => Ok(()),
            Err(object_store::Error::NotFound { .. }) => {
                self.0.put(&key(digest), bytes.into()).await?;
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The bytes of `digest`, checked against it.
    pub async fn get(&self, digest: Digest) -> Result<Bytes, BlobError> {
        let found = self.0.get(&key(digest)).await.map_err(|error| match error {
            object_store::Error::NotFound { .. } => BlobError::Missing(digest),
            other => other.into(),
        });
        let bytes = found?.bytes().await?;
        match Digest::of(&bytes) == digest {
            true => Ok(bytes),
            false => Err(BlobError::Damaged(digest)),
        }
    }

    /// What was written before `at`.
    pub async fn written_before(&self, at: OffsetDateTime) -> Result<Vec<Digest>, BlobError> {
        let all: Vec<_> = self.0.list(Some(&Key::from(FOLDER))).try_collect().await?;
        let old = all
            .iter()
            .filter(|blob| blob.last_modified.timestamp_micros() < micros(at));
        // A file that is no blob is not ours to judge.
        Ok(old
            .filter_map(|blob| format!("{FOLDER}:{}", blob.location.filename()?).parse().ok())
            .collect())
    }

    /// Deletes the bytes of `digest`; none are as good.
    pub async fn delete(&self, digest: Digest) -> Result<(), BlobError> {
        match self.0.delete(&key(digest)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// The folder of blobs, which is the name of the digest.
const FOLDER: &str = "sha256";

fn micros(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos() / 1_000).unwrap_or(i64::MAX)
}

fn key(digest: Digest) -> Key {
    let hex = digest.hex();
    Key::from(format!("{FOLDER}/{}/{hex}", &hex[..2]))
}
