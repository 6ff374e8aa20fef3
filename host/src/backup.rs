//! Backup and restore of a data directory.
//!
//! The order is the promise. The database is dumped first, as of one instant. Blobs come next, so that all are there
//! that the dump names, and the journal last: it is never older than the ledger, and what the ledger lacks of it is
//! drained again when a host starts on what was restored. The list of all files is written at the very end, so that a
//! backup that was cut off is none.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Component, Path, PathBuf};

use domain::Digest;
use postgres::{Cluster, PostgresError};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::serve;

/// The list of a backup's files.
const LIST: &str = "backup.json";
/// The dump of the database.
const DUMP: &str = "database.dump";
/// The version of the form of a backup.
const VERSION: u32 = 1;
/// What is copied of a data directory, in this order; compiled code is a cache and stays.
const PARTS: [&str; 5] = ["blobs", "keys", "bootstrap-admin-key", "learnt", "journal"];

/// Why there is no backup, or nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A place that has something in it already.
    #[error("{} is not empty: name a directory that is new or empty", .0.display())]
    NotEmpty(PathBuf),
    /// A place where no host has served from.
    #[error("{} is no data directory of a host with a Postgres of its own", .0.display())]
    NotData(PathBuf),
    /// A backup that was cut off, or a directory of something else.
    #[error("{} is no whole backup: its {LIST} is missing or cannot be read", .0.display())]
    NotBackup(PathBuf),
    /// A backup of another version, or with names in its list that no backup has.
    #[error("{} is a backup that this version of wattle does not read", .0.display())]
    Unknown(PathBuf),
    /// A backup with the database or without, where the other was asked for.
    #[error("{} has {} dump of the database: {} --without-database", dir.display(), if *has { "a" } else { "no" },
        if *has { "leave out" } else { "restore the database by yourself first, then give" })]
    Database {
        /// The backup.
        dir: PathBuf,
        /// Whether it has one.
        has: bool,
    },
    /// A file of a backup that is not what was backed up.
    #[error("{} is not what was backed up: take another backup", .0.display())]
    Damaged(PathBuf),
    /// The system refused something.
    #[error("{}: {error}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
    /// Postgres could not be dumped or loaded.
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    /// The roles of the database could not be made.
    #[error(transparent)]
    Db(#[from] db::DbError),
    /// Another host serves from the data directory.
    #[error("{0}")]
    Held(String),
}

impl BackupError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotEmpty(_) => "backup_not_empty",
            Self::NotData(_) => "backup_no_data",
            Self::NotBackup(_) => "backup_not_whole",
            Self::Unknown(_) => "backup_unknown",
            Self::Database { .. } => "backup_database",
            Self::Damaged(_) => "backup_damaged",
            Self::Io { .. } => "backup_io",
            Self::Postgres(_) | Self::Db(_) => "backup_postgres",
            Self::Held(_) => "backup_held",
        }
    }
}

/// What is backed up or restored.
#[derive(Clone, Debug)]
pub struct Place {
    /// The data directory.
    pub data: PathBuf,
    /// Folder of the Postgres binaries; none for what is found.
    pub pg_bin: Option<PathBuf>,
    /// Whether the database is one of the directory's own; another one is backed up and restored by its own means.
    pub database: bool,
}

/// A file of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Listed {
    path: String,
    bytes: u64,
    sha256: String,
}

/// The list of a backup's files.
#[derive(Debug, Serialize, Deserialize)]
struct List {
    version: u32,
    files: Vec<Listed>,
}

/// How much was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Copied {
    /// Files.
    pub files: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Copied {
    fn of(files: &[Listed]) -> Self {
        Self {
            files: files.len() as u64,
            bytes: files.iter().map(|file| file.bytes).sum(),
        }
    }
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_owned();
    move |error| BackupError::Io { path, error }
}

/// Backs up a data directory into a directory that is new or empty. A host may serve from it meanwhile.
pub fn backup(place: &Place, into: &Path) -> Result<Copied, BackupError> {
    let data = &place.data;
    let is_data = data.join("keys").is_dir() && (!place.database || data.join("pg/PG_VERSION").is_file());
    if !is_data {
        return Err(BackupError::NotData(data.clone()));
    }
    empty(into)?;
    make_dir(into)?;
    let into = into.canonicalize().map_err(io_at(into))?;
    let mut files = Vec::new();
    if place.database {
        dump(place, &into.join(DUMP))?;
        files.push(listed(&into, DUMP.to_owned())?);
    }
    for part in PARTS {
        copy_part(data, &into, part, &mut files)?;
    }
    let copied = Copied::of(&files);
    let list = List {
        version: VERSION,
        files,
    };
    let list = serde_json::to_vec_pretty(&list).map_err(|error| io_at(&into)(error.into()))?;
    write_new(&into.join(LIST), &mut &list[..])?;
    File::open(&into)
        .and_then(|dir| dir.sync_all())
        .map_err(io_at(&into))?;
    Ok(copied)
}

/// Restores a backup into a data directory that is new or empty.
pub fn restore(from: &Path, place: &Place) -> Result<Copied, BackupError> {
    let list = std::fs::read(from.join(LIST)).ok();
    let list: Option<List> = list.and_then(|list| serde_json::from_slice(&list).ok());
    let list = list.ok_or_else(|| BackupError::NotBackup(from.to_owned()))?;
    if list.version != VERSION || !list.files.iter().all(|file| is_plain(&file.path)) {
        return Err(BackupError::Unknown(from.to_owned()));
    }
    let dump = list.files.iter().find(|file| file.path == DUMP);
    if dump.is_some() != place.database {
        return Err(BackupError::Database {
            dir: from.to_owned(),
            has: dump.is_some(),
        });
    }
    let data = &place.data;
    empty(data)?;
    serve::data_dir(data).map_err(io_at(data))?;
    let _held = serve::lock(data).map_err(|error| BackupError::Held(format!("{error:#}")))?;
    for file in list.files.iter().filter(|file| file.path != DUMP) {
        copy_back(from, data, file)?;
    }
    // Last, and whole or not at all: a host does not start with a journal and an empty ledger.
    if let Some(dump) = dump {
        let path = from.join(DUMP).canonicalize().map_err(io_at(from))?;
        if listed(from, DUMP.to_owned())? != *dump {
            return Err(BackupError::Damaged(path));
        }
        load(place, &path)?;
    }
    Ok(Copied::of(&list.files))
}

/// Refuses a directory with something in it.
fn empty(dir: &Path) -> Result<(), BackupError> {
    match std::fs::read_dir(dir) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(BackupError::NotEmpty(dir.to_owned())),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io_at(dir)(error)),
    }
}

fn options(place: &Place) -> postgres::Options {
    let mut options = postgres::Options::new(place.data.join("pg"));
    options.bin_dir.clone_from(&place.pg_bin);
    options
}

/// Dumps the database of a host that serves, or of one that does not.
fn dump(place: &Place, file: &Path) -> Result<(), BackupError> {
    // Whoever runs the server made its file: nobody else reads the dump.
    write_new(file, &mut io::empty())?;
    let bin_dir = place.pg_bin.as_deref();
    if let Some(running) = Cluster::find(&place.data.join("pg"))? {
        return Ok(running.dump(bin_dir, file)?);
    }
    let _held = serve::lock(&place.data).map_err(|error| BackupError::Held(format!("{error:#}")))?;
    let cluster = Cluster::start(options(place))?;
    let dumped = cluster.dump(bin_dir, file);
    cluster.stop()?;
    Ok(dumped?)
}

/// Makes the cluster of a fresh data directory and loads the database into it.
fn load(place: &Place, file: &Path) -> Result<(), BackupError> {
    let cluster = Cluster::start(options(place))?;
    let loaded = roles(&cluster).and_then(|()| Ok(cluster.load(place.pg_bin.as_deref(), file)?));
    cluster.stop()?;
    loaded
}

fn roles(cluster: &Cluster) -> Result<(), BackupError> {
    let url = cluster.url(postgres::OWNER_ROLE, postgres::DATABASE);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(io_at(cluster.data_dir()))?;
    Ok(runtime.block_on(db::Db::make_roles(&url))?)
}

/// Copies a file or a folder of a data directory, the last name first. Of the journal that is the segment that grows;
/// those before it stay as they are until the oldest is removed, so that nothing in between is left out.
fn copy_part(data: &Path, into: &Path, part: &str, files: &mut Vec<Listed>) -> Result<(), BackupError> {
    let from = data.join(part);
    let about = match std::fs::metadata(&from) {
        // Collected meanwhile, or never there.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        about => about.map_err(io_at(&from))?,
    };
    if !about.is_dir() {
        // What is being written, and locks.
        if part.contains('#') || part.ends_with(".partial") || part.ends_with("/lock") {
            return Ok(());
        }
        let to = into.join(part);
        return match File::open(&from) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            opened => {
                write_new(&to, &mut opened.map_err(io_at(&from))?)?;
                files.push(listed(into, part.to_owned())?);
                Ok(())
            }
        };
    }
    make_dir(&into.join(part))?;
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&from).map_err(io_at(&from))? {
        let entry = entry.map_err(io_at(&from))?;
        names.extend(entry.file_name().into_string());
    }
    names.sort();
    let mut last_first = names.iter().rev();
    last_first.try_for_each(|name| copy_part(data, into, &format!("{part}/{name}"), files))
}

/// Copies a file of a backup back, if it is what was backed up.
fn copy_back(from: &Path, data: &Path, file: &Listed) -> Result<(), BackupError> {
    let (source, target) = (from.join(&file.path), data.join(&file.path));
    if let Some(folder) = target.parent() {
        make_dir(folder)?;
    }
    let mut opened = File::open(&source).map_err(io_at(&source))?;
    write_new(&target, &mut opened)?;
    match listed(data, file.path.clone())? == *file {
        true => Ok(()),
        false => Err(BackupError::Damaged(source)),
    }
}

/// Whether a path of a list leads to where a backup has files, and nowhere else.
fn is_plain(path: &str) -> bool {
    let mut parts = Path::new(path).components();
    let first = parts.next();
    let known = |name: &str| name == DUMP || PARTS.contains(&name);
    matches!(first, Some(Component::Normal(name)) if name.to_str().is_some_and(known))
        && parts.all(|part| matches!(part, Component::Normal(_)))
}

/// What a file is now.
fn listed(root: &Path, path: String) -> Result<Listed, BackupError> {
    let at = root.join(&path);
    let mut file = File::open(&at).map_err(io_at(&at))?;
    let (mut hasher, mut bytes, mut chunk) = (Sha256::new(), 0, vec![0; 1 << 16]);
    loop {
        let read = file.read(&mut chunk).map_err(io_at(&at))?;
        let Some(read) = chunk.get(..read).filter(|read| !read.is_empty()) else {
            break;
        };
        hasher.update(read);
        bytes += read.len() as u64;
    }
    let sha256 = Digest(hasher.finalize().into()).hex();
    Ok(Listed { path, bytes, sha256 })
}

/// Makes a folder, and those above it, for this user alone.
fn make_dir(path: &Path) -> Result<(), BackupError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(io_at(path))
}

/// Writes a new file for this user alone, and sees it to the disk.
fn write_new(path: &Path, content: &mut dyn io::Read) -> Result<(), BackupError> {
    let mut write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        io::copy(content, &mut file)?;
        file.flush()?;
        file.sync_all()
    };
    write().map_err(io_at(path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn data() -> tempfile::TempDir {
        let data = tempfile::tempdir().unwrap();
        for (path, text) in [
            ("keys/ledger-signing", "seed"),
            ("blobs/sha256/ab/abcd", "bytes"),
            ("blobs/sha256/ab/abcd#1", "being written"),
            ("journal/lock", ""),
            ("journal/1.segment", "records"),
            ("compiled/x", "a cache"),
            ("bootstrap-admin-key", "secret"),
        ] {
            let path = data.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        data
    }

    fn place(data: &Path) -> Place {
        Place {
            data: data.to_owned(),
            pg_bin: None,
            database: false,
        }
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn files_come_back_as_they_were_and_for_one_user_alone() {
        let (data, folder) = (data(), tempfile::tempdir().unwrap());
        let (into, back) = (folder.path().join("backup"), folder.path().join("data"));
        let copied = backup(&place(data.path()), &into).unwrap();
        assert_eq!(copied, Copied { files: 4, bytes: 22 });
        assert_eq!((mode(&into), mode(&into.join("keys"))), (0o700, 0o700));
        assert_eq!(mode(&into.join("keys/ledger-signing")), 0o600);
        assert!(matches!(
            backup(&place(data.path()), &into),
            Err(BackupError::NotEmpty(_))
        ));

        assert_eq!(restore(&into, &place(&back)).unwrap(), copied);
        for path in ["keys/ledger-signing", "blobs/sha256/ab/abcd", "journal/1.segment"] {
            let was = std::fs::read(data.path().join(path)).unwrap();
            assert_eq!(std::fs::read(back.join(path)).unwrap(), was, "{path}");
            assert_eq!(mode(&back.join(path)), 0o600, "{path}");
        }
        assert!(!back.join("compiled").exists() && !back.join("blobs/sha256/ab/abcd#1").exists());
        assert!(matches!(
            restore(&into, &place(&back)),
            Err(BackupError::NotEmpty(_))
        ));
    }

    #[test]
    fn what_is_not_a_whole_backup_is_refused() {
        let (data, folder) = (data(), tempfile::tempdir().unwrap());
        let into = folder.path().join("backup");
        let code = |n: u32| {
            let target = folder.path().join(n.to_string());
            restore(&into, &place(&target)).unwrap_err().code()
        };
        assert_eq!(code(0), "backup_not_whole");
        backup(&place(data.path()), &into).unwrap();
        let with = Place {
            database: true,
            ..place(&folder.path().join("with"))
        };
        assert_eq!(restore(&into, &with).unwrap_err().code(), "backup_database");
        assert_eq!(
            backup(
                &Place {
                    data: data.path().to_owned(),
                    ..with
                },
                &folder.path().join("x")
            )
            .unwrap_err()
            .code(),
            "backup_no_data"
        );
        std::fs::write(into.join("keys/ledger-signing"), "sead").unwrap();
        assert_eq!(code(1), "backup_damaged");
        let list = std::fs::read_to_string(into.join(LIST)).unwrap();
        let strange = list.replace("keys/ledger-signing", "keys/../../etc");
        std::fs::write(into.join(LIST), strange).unwrap();
        assert_eq!(code(2), "backup_unknown");
        std::fs::write(into.join(LIST), list.replace("\"version\": 1", "\"version\": 2")).unwrap();
        assert_eq!(code(3), "backup_unknown");
    }
}
