//! One process per root: two hosts on a machine must not both bill its joules.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::Path;

use crate::MeterError;

/// The right to bill a root, until it is dropped or the process ends.
#[derive(Debug)]
pub struct RootLock {
    _file: File,
}

impl RootLock {
    /// Takes the root. `dir` must be the same for all hosts of the machine; it is made if need be.
    pub fn acquire(dir: &Path, root: &str) -> Result<Self, MeterError> {
        check_name(root)?;
        fs::create_dir_all(dir).map_err(MeterError::io(dir))?;
        let path = dir.join(format!("{root}.lock"));
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path);
        let file = file.map_err(MeterError::io(&path))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(MeterError::RootHeld {
                root: root.to_owned(),
                path,
            }),
            Err(TryLockError::Error(source)) => Err(MeterError::Io { path, source }),
        }
    }
}

/// A root's name becomes a file name here and an account there.
pub(crate) fn check_name(root: &str) -> Result<(), MeterError> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let fits = root.bytes().next().is_some_and(plain)
        && root.bytes().all(|b| plain(b) || matches!(b, b'-' | b'_' | b'.'))
        && root.len() <= 64;
    if fits {
        Ok(())
    } else {
        Err(MeterError::RootName(root.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_has_one_holder() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("roots");
        let held = RootLock::acquire(&dir, "modelled").unwrap();
        assert_eq!(
            RootLock::acquire(&dir, "modelled").unwrap_err().code(),
            "meter_root_held"
        );
        RootLock::acquire(&dir, "package-0").unwrap();
        drop(held);
        RootLock::acquire(&dir, "modelled").unwrap();
    }

    #[test]
    fn a_root_cannot_name_a_path() {
        for bad in ["", "../x", "a/b", ".hidden", "A"] {
            assert_eq!(
                RootLock::acquire(Path::new("."), bad).unwrap_err().code(),
                "meter_root_name",
                "{bad:?}"
            );
        }
    }
}
