//! Anchors: each checkpoint once more, outside the database, so that a ledger that was rolled back is found out.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use domain::checkpoint::SignedCheckpoint;

/// A directory with a file for each checkpoint. It should lie where whoever may write the database may not.
#[derive(Clone)]
pub struct Anchors(PathBuf);

/// An anchor that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum AnchorError {
    /// The directory or a file in it.
    #[error("the anchor {}: {error}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A file that is no checkpoint.
    #[error("the anchor {} is no checkpoint: {reason}", path.display())]
    Malformed {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl Anchors {
    /// The anchors in `folder`.
    pub fn new(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    /// Where the anchor of a checkpoint is.
    pub fn path(&self, number: u64) -> PathBuf {
        self.0.join(format!("{PREFIX}{number:012}{SUFFIX}"))
    }

    /// The checkpoints that are anchored. Other files are not ours to judge.
    pub fn numbers(&self) -> Result<BTreeSet<u64>, AnchorError> {
        let failed = |error| AnchorError::Io {
            path: self.0.clone(),
            error,
        };
        let mut numbers = BTreeSet::new();
        for entry in std::fs::read_dir(&self.0).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let digits = name
                .to_str()
                .and_then(|name| name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX));
            numbers.extend(digits.and_then(|digits| digits.parse::<u64>().ok()));
        }
        Ok(numbers)
    }

    /// The checkpoint that is anchored under `number`.
    pub fn read(&self, number: u64) -> Result<SignedCheckpoint, AnchorError> {
        let path = self.path(number);
        let content = std::fs::read(&path).map_err(|error| AnchorError::Io {
            path: path.clone(),
            error,
        })?;
        let signed: SignedCheckpoint =
            serde_json::from_slice(&content).map_err(|error| AnchorError::Malformed {
                path: path.clone(),
                reason: error.to_string(),
            })?;
        if signed.checkpoint.number != number {
            let reason = format!("it is of checkpoint {}", signed.checkpoint.number);
            return Err(AnchorError::Malformed { path, reason });
        }
        Ok(signed)
    }

    /// Anchors a checkpoint, whole or not at all. What is anchored under its number already stays as it is.
    pub fn write(&self, signed: &SignedCheckpoint) -> Result<(), AnchorError> {
        use std::io::Write as _;
        let path = self.path(signed.checkpoint.number);
        let written = || -> Result<(), std::io::Error> {
            if path.try_exists()? {
                return Ok(());
            }
            let mut content = serde_json::to_vec_pretty(signed)?;
            content.push(b'\n');
            let mut file = tempfile::NamedTempFile::new_in(&self.0)?;
            file.write_all(&content)?;
            file.as_file().sync_all()?;
            // It holds nothing secret: whoever audits may not be who serves.
            let open = std::os::unix::fs::PermissionsExt::from_mode(0o444);
            file.as_file().set_permissions(open)?;
            match file.persist_noclobber(&path) {
                Ok(_) => Ok(()),
                // Another host that serves this ledger was faster.
                Err(error) if error.error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
                Err(error) => Err(error.error),
            }
        };
        written().map_err(|error| AnchorError::Io {
            path: path.clone(),
            error,
        })
    }
}

const PREFIX: &str = "checkpoint-";
const SUFFIX: &str = ".json";

#[cfg(test)]
mod tests {
    use domain::SigningKey;
    use domain::checkpoint::Record;
    use time::OffsetDateTime;

    use super::*;

    fn checkpoint(hour: i64) -> SignedCheckpoint {
        let key = SigningKey::from_seed(&[1; 32]).unwrap();
        let at = OffsetDateTime::UNIX_EPOCH + time::Duration::hours(hour);
        Record::make(None, &[], at, &key).signed
    }

    #[test]
    fn an_anchor_is_written_once_and_never_again() {
        let folder = tempfile::tempdir().unwrap();
        let anchors = Anchors::new(folder.path());
        assert!(anchors.numbers().unwrap().is_empty());
        anchors.write(&checkpoint(1)).unwrap();
        anchors.write(&checkpoint(2)).unwrap();
        assert_eq!(anchors.read(1).unwrap(), checkpoint(1));
        std::fs::write(folder.path().join("notes.txt"), "x").unwrap();
        assert_eq!(anchors.numbers().unwrap(), BTreeSet::from([1]));
    }

    #[test]
    fn what_is_no_anchor_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let anchors = Anchors::new(folder.path());
        assert!(matches!(anchors.read(1), Err(AnchorError::Io { .. })));
        std::fs::write(anchors.path(1), "{").unwrap();
        assert!(matches!(anchors.read(1), Err(AnchorError::Malformed { .. })));
        anchors.write(&checkpoint(1)).unwrap();
        std::fs::remove_file(anchors.path(1)).unwrap();
        anchors.write(&checkpoint(1)).unwrap();
        std::fs::rename(anchors.path(1), anchors.path(2)).unwrap();
        assert!(matches!(anchors.read(2), Err(AnchorError::Malformed { .. })));
        let gone = Anchors::new(&folder.path().join("gone"));
        assert!(gone.numbers().is_err());
        assert!(gone.write(&checkpoint(1)).is_err());
    }
}
