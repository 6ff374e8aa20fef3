//! Content-addressed bytes: what tenants uploaded, by digest.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use domain::Digest;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt as _};

/// The store of blobs: a folder now, whatever `object_store` speaks later.
#[derive(Clone)]
pub struct Blobs(Arc<dyn ObjectStore>);

/// Why a blob could not be kept or brought.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The store failed.
    #[error("the blob store failed: {0}")]
    Store(#[from] object_store::Error),
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
        let bytes = self.0.get(&key(digest)).await?.bytes().await?;
        match Digest::of(&bytes) == digest {
            true => Ok(bytes),
            false => Err(BlobError::Damaged(digest)),
        }
    }
}

fn key(digest: Digest) -> Key {
    let hex = digest.hex();
    Key::from(format!("sha256/{}/{hex}", &hex[..2]))
}
