//! Files that only the host may read.

use std::fs::OpenOptions;
use std::io::{Error, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Writes a new file with mode 0600, whole or not at all.
pub fn write(path: &Path, content: &[u8]) -> Result<(), Error> {
    let partial = path.with_extension("partial");
    let _ = std::fs::remove_file(&partial);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&partial)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&partial, path)
}

/// The 32 random bytes kept in `path`; they are made at the first use.
pub fn key(path: &Path) -> Result<[u8; 32], Error> {
    let mut bytes = [0; 32];
    match std::fs::File::open(path) {
        Ok(mut file) => file.read_exact(&mut bytes)?,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            getrandom::fill(&mut bytes).map_err(Error::from)?;
            write(path, &bytes)?;
        }
        Err(error) => return Err(error),
    }
    Ok(bytes)
}
