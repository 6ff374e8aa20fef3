//! Which operating-system user the server runs as, and what that user can reach.

use std::fs::{DirBuilder, File, Metadata};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, fchown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{getegid, geteuid};

use crate::error::{PostgresError, io_error};

/// The system user made for the server when the host runs as root.
const DEDICATED: &str = "wattle";
/// The packages' user, taken where the dedicated one cannot be made.
const FALLBACK: &str = "postgres";

/// The server's user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) name: String,
    /// We are root and step down to this user.
    pub(crate) steps_down: bool,
}

impl User {
    /// The user of this process.
    pub(crate) fn current() -> Self {
        let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
        Self {
            uid,
            gid,
            name: name_of(uid),
            steps_down: false,
        }
    }

    /// The user for the cluster in `data_dir`: its owner when it exists, else ourselves, or as
    /// root the dedicated user.
    pub(crate) fn for_cluster(data_dir: &Path) -> Result<Self, PostgresError> {
        let current = Self::current();
        let owner = std::fs::metadata(data_dir.join("PG_VERSION"))
            .ok()
            .map(|m| (m.uid(), m.gid()));
        let refuse = |owner, remedy| {
            Err(PostgresError::WrongOwner {
                data_dir: data_dir.to_owned(),
                owner,
                remedy,
            })
        };
        match (current.uid, owner) {
            (0, None) => dedicated(),
            (0, Some((0, _))) => refuse(
                0,
                "PostgreSQL never runs as root; chown -R it to the server's user",
            ),
            (0, Some((uid, gid))) => Ok(Self {
                uid,
                gid,
                name: name_of(uid),
                steps_down: true,
            }),
            (uid, Some((owner, _))) if owner != uid => refuse(owner, "run as that user or as root"),
            (_, _) => Ok(current),
        }
    }

    /// A command run as this user, from `/`, with nothing of our environment that Postgres heeds, nor the keys to a
    /// bucket: whoever owns the database must not find there how to change what is anchored outside it.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            let stays_out = |prefix: &&str| text.starts_with(*prefix);
            if text == "LANG" || ["AWS_", "LC_", "PG"].iter().any(stays_out) {
                command.env_remove(name);
            }
        }
        // Without a fixed locale macOS starts a thread in the postmaster, which then refuses.
        command.env("LC_ALL", "C").current_dir("/").stdin(Stdio::null());
        if self.steps_down {
            command.uid(self.uid).gid(self.gid);
        }
        command
    }

    /// Fails when this user cannot walk to `path` (which need not exist itself).
    pub(crate) fn must_reach(&self, path: &Path) -> Result<(), PostgresError> {
        if !self.steps_down {
            return Ok(());
        }
        for ancestor in path.ancestors().skip(1) {
            let metadata = std::fs::metadata(ancestor).map_err(io_error("look at", ancestor))?;
            if !self.may_enter(&metadata) {
                return Err(PostgresError::Unreachable {
                    user: self.name.clone(),
                    path: path.to_owned(),
                    closed: ancestor.to_owned(),
                });
            }
        }
        Ok(())
    }

    fn may_enter(&self, directory: &Metadata) -> bool {
        let shift = match directory {
            d if d.uid() == self.uid => 6,
            d if d.gid() == self.gid => 3,
            _ => 0,
        };
        directory.mode() >> shift & 1 == 1
    }

    /// Makes a directory of this user's own, closed to others. One that is there must be ours:
    /// in a shared place somebody else could have put it there.
    pub(crate) fn private_dir(&self, path: &Path) -> Result<(), PostgresError> {
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(io_error("make the directory", path)(error));
            }
            _ => {}
        }
        let metadata = std::fs::symlink_metadata(path).map_err(io_error("look at", path))?;
        if !metadata.is_dir() || ![self.uid, geteuid().as_raw()].contains(&metadata.uid()) {
            return Err(io_error("use", path)(std::io::Error::other(
                "it belongs to somebody else",
            )));
        }
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o700)).map_err(io_error("close", path))?;
        if self.steps_down {
            chown(path, Some(self.uid), Some(self.gid)).map_err(io_error("hand over", path))?;
        }
        Ok(())
    }

    /// Opens a file for appending that this user owns. Follows no link: the directory is the
    /// server's, and we may be root.
    pub(crate) fn append_to(&self, path: &Path) -> Result<File, PostgresError> {
        let no_follow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        let file = File::options()
            .create(true)
            .append(true)
            .mode(0o600)
            .custom_flags(no_follow)
            .open(path)
            .map_err(io_error("open", path))?;
        self.own(&file).map_err(io_error("hand over", path))?;
        Ok(file)
    }

    /// Puts a file of this user's in place at once, whole.
    pub(crate) fn replace_file(&self, path: &Path, text: &str) -> Result<(), PostgresError> {
        let fresh = path.with_added_extension("new");
        let write = || {
            match std::fs::remove_file(&fresh) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = File::options()
                .create_new(true)
                .write(true)
                .mode(0o600)
                .open(&fresh)?;
            file.write_all(text.as_bytes())?;
            self.own(&file)?;
            file.sync_all()?;
            std::fs::rename(&fresh, path)
        };
        write().map_err(io_error("write", path))
    }

    fn own(&self, file: &File) -> std::io::Result<()> {
        if self.steps_down {
            fchown(file, Some(self.uid), Some(self.gid))
        } else {
            Ok(())
        }
    }
}

/// The user that root steps down to: one of our own (made when missing), because sharing one
/// would let another service read the ledger; else the packages' user.
fn dedicated() -> Result<User, PostgresError> {
    if let Some(user) = lookup(DEDICATED) {
        return Ok(user);
    }
    let arguments = [
        "--system",
        "--user-group",
        "--no-create-home",
        "--home-dir",
        "/nonexistent",
    ];
    // Its exit status is not asked: another host may have made the user meanwhile.
    let made = Command::new("useradd")
        .args(arguments)
        .args(["--shell", "/usr/sbin/nologin", DEDICATED])
        .stdin(Stdio::null())
        .output();
    if let Some(user) = lookup(DEDICATED) {
        tracing::info!(user = DEDICATED, "made a system user for the database server");
        return Ok(user);
    }
    tracing::debug!(?made, "no dedicated user");
    lookup(FALLBACK).ok_or(PostgresError::NoUser { user: DEDICATED })
}

fn lookup(name: &str) -> Option<User> {
    let number = |flag| ask_id(&[flag, name])?.parse().ok();
    Some(User {
        uid: number("-u")?,
        gid: number("-g")?,
        name: name.to_owned(),
        steps_down: true,
    })
}

/// The user's name; a user without one is called by number.
fn name_of(uid: u32) -> String {
    ask_id(&["-un", &uid.to_string()]).unwrap_or_else(|| uid.to_string())
}

/// `id` knows every source of users that the system is set up for, not only a file.
fn ask_id(arguments: &[&str]) -> Option<String> {
    let output = Command::new("id")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_ancestor_is_named() {
        let root = tempfile::tempdir().unwrap();
        let open = root.path().join("open");
        std::fs::create_dir(&open).unwrap();
        std::fs::set_permissions(root.path(), PermissionsExt::from_mode(0o700)).unwrap();
        let stranger = User {
            uid: 4_000_000,
            gid: 4_000_000,
            name: "stranger".into(),
            steps_down: true,
        };
        let error = stranger.must_reach(&open.join("pg")).unwrap_err().to_string();
        assert!(
            error.contains(&format!("chmod o+x {}", root.path().display())),
            "{error}"
        );
        std::fs::set_permissions(root.path(), PermissionsExt::from_mode(0o711)).unwrap();
        std::fs::set_permissions(&open, PermissionsExt::from_mode(0o755)).unwrap();
        stranger.must_reach(&open.join("pg")).unwrap();
    }

    #[test]
    fn a_link_in_place_of_our_directory_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let link = root.path().join("link");
        std::os::unix::fs::symlink(root.path(), &link).unwrap();
        let error = User::current().private_dir(&link).unwrap_err().to_string();
        assert!(error.contains("belongs to somebody else"), "{error}");
        User::current().append_to(&link).unwrap_err();
    }
}
