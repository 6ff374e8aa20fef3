//! The key that signs checkpoints: its seed in the data directory, its public half in the ledger.

use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

use db::{Db, DbError};
use domain::{NodeId, PublicKey, SigningKey, signature};
use time::OffsetDateTime;

use crate::secret_file;

/// Where the seed is, in the folder of keys.
const FILE: &str = "ledger-signing";

/// A host's signing key. Whoever holds it while a checkpoint is made keeps it from being replaced.
pub struct Signer {
    path: PathBuf,
    key: SigningKey,
}

impl Signer {
    /// Reads the key in the folder `keys`, or makes it, and sees to it that the ledger lists it.
    pub async fn open(keys: &Path, db: &Db, node: NodeId, now: OffsetDateTime) -> Result<Self, OpenError> {
        let path = keys.join(FILE);
        let mut signer = Self {
            key: key(&secret_file::key(&path)?)?,
            path,
        };
        let mut tx = db.admin_tx().await?;
        tx.checkpoints_lock().await?;
        let listed: Vec<_> = tx.signers().await?.into_iter().map(|row| row.signer).collect();
        let is_listed = |key: PublicKey| listed.iter().any(|signer| signer.key == key);
        // A replacement that the ledger knows is completed, another one never began.
        if let Some(next) = signer.waiting()? {
            match is_listed(next.public()) {
                true => signer.adopt(next)?,
                false => std::fs::remove_file(signer.next())?,
            }
        }
        let own = signer.key.public();
        let followed = listed
            .iter()
            .any(|signer| signer.succession.is_some_and(|by| by.follows == own));
        if followed {
            tracing::warn!(path = %signer.path.display(), "this signing key was replaced before: a fresh one is made");
            let next = signer.prepare()?;
            signer.adopt(next)?;
        }
        let own = signer.key.public();
        if !is_listed(own) {
            let first = signature::Signer {
                key: own,
                since: whole_us(now),
                succession: None,
            };
            tx.signer_insert(node, &first).await?;
        }
        tx.commit().await?;
        Ok(signer)
    }

    /// The key.
    pub fn key(&self) -> &SigningKey {
        &self.key
    }

    /// Makes the key that is to follow and keeps it beside this one. [`Signer::adopt`] it once the ledger lists it.
    pub fn prepare(&self) -> Result<SigningKey, Error> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(Error::from)?;
        secret_file::write(&self.next(), &seed)?;
        key(&seed)
    }

    /// Signs with `next` from now on, and forgets the key before. Where the file stays behind, the next start brings
    /// it along.
    pub fn adopt(&mut self, next: SigningKey) -> Result<(), Error> {
        self.key = next;
        std::fs::rename(self.next(), &self.path)
    }

    /// The key that was prepared and not adopted.
    fn waiting(&self) -> Result<Option<SigningKey>, Error> {
        match std::fs::read(self.next()) {
            Ok(seed) => {
                let seed = <&[u8; 32]>::try_from(seed.as_slice()).map_err(|_| wrong())?;
                key(seed).map(Some)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn next(&self) -> PathBuf {
        self.path.with_extension("next")
    }
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file.
    #[error(transparent)]
    File(#[from] Error),
    /// The ledger.
    #[error(transparent)]
    Db(#[from] DbError),
}

fn key(seed: &[u8; 32]) -> Result<SigningKey, Error> {
    SigningKey::from_seed(seed).map_err(|_| wrong())
}

fn wrong() -> Error {
    Error::new(ErrorKind::InvalidData, "the signing key is not 32 bytes")
}

/// The database keeps microseconds.
pub fn whole_us(at: OffsetDateTime) -> OffsetDateTime {
    at.replace_microsecond(at.microsecond()).unwrap_or(at)
}
