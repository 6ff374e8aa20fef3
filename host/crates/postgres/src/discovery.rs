//! Finding the server's binaries.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::PostgresError;

/// The oldest major version that is supported (the first with `recovery_init_sync_method`).
const OLDEST_MAJOR: u32 = 14;
/// Names the bin directory explicitly.
const BIN_VARIABLE: &str = "WATTLE_PG_BIN";
/// Where packages put a version each: parent, and what the version's folder begins with.
const KNOWN_PLACES: [(&str, &str); 5] = [
    ("/usr/lib/postgresql", ""),
    ("/usr", "pgsql-"),
    ("/opt/homebrew/opt", "postgresql@"),
    ("/usr/local/opt", "postgresql@"),
    ("/Applications/Postgres.app/Contents/Versions", ""),
];
/// Where `xtask` puts what it fetched, below the working directory.
const FETCHED: &str = ".tools/pg";

/// An installed PostgreSQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    /// The directory with `postgres` and `initdb`.
    pub bin_dir: PathBuf,
    /// The major version, for example 15.
    pub major: u32,
}

impl Installation {
    /// The path of one of its programs.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin_dir.join(name)
    }
}

/// Finds an installation for a new cluster: `WATTLE_PG_BIN`, then `PATH`, then the usual places
/// of packages (the newest there), then what `xtask` fetched into `.tools/pg`.
///
/// # Errors
/// [`PostgresError::NoBinaries`] with the command that installs one; [`PostgresError::BinDir`]
/// when the variable names a directory that does not serve: it is never silently replaced.
pub fn discover() -> Result<Installation, PostgresError> {
    Search::from_environment(None).find(None)
}

/// Where to look; separate from the environment so that tests can say it.
pub(crate) struct Search {
    pub(crate) named: Option<PathBuf>,
    pub(crate) path: Vec<PathBuf>,
    pub(crate) places: Vec<(PathBuf, String)>,
    pub(crate) fetched: PathBuf,
}

/// The data directory that binaries are wanted for, and the major version that made it.
#[derive(Clone, Copy)]
pub(crate) struct Made<'a> {
    pub(crate) data_dir: &'a Path,
    pub(crate) major: u32,
}

impl Search {
    /// `named` (from the options) wins over the environment variable.
    pub(crate) fn from_environment(named: Option<&Path>) -> Self {
        let variable = || {
            std::env::var_os(BIN_VARIABLE)
                .filter(|v| !v.is_empty())
                .map(PathBuf::from)
        };
        Self {
            named: named.map(Path::to_owned).or_else(variable),
            path: std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect(),
            places: KNOWN_PLACES
                .iter()
                .map(|(parent, prefix)| (PathBuf::from(parent), (*prefix).to_owned()))
                .collect(),
            fetched: std::env::current_dir().unwrap_or_default().join(FETCHED),
        }
    }

    /// The first installation that fits: `made`'s major version, or any that is new enough.
    pub(crate) fn find(&self, made: Option<Made<'_>>) -> Result<Installation, PostgresError> {
        let fits = |i: &Installation| i.major >= OLDEST_MAJOR && made.is_none_or(|m| m.major == i.major);
        if let Some(bin_dir) = &self.named {
            let refused = |reason| PostgresError::BinDir {
                bin_dir: bin_dir.clone(),
                reason,
            };
            let found = inspect(bin_dir).map_err(refused)?;
            if found.major < OLDEST_MAJOR {
                return Err(refused(format!(
                    "holds version {}, older than {OLDEST_MAJOR}",
                    found.major
                )));
            }
            return if fits(&found) {
                Ok(found)
            } else {
                Err(self.nothing(made, &[found]))
            };
        }

        let mut found = self.candidates();
        match found.iter().position(fits) {
            Some(index) => Ok(found.swap_remove(index)),
            None => Err(self.nothing(made, &found)),
        }
    }

    /// Everything usable, in the order of preference.
    fn candidates(&self) -> Vec<Installation> {
        let mut found: Vec<_> = self.path.iter().filter_map(|dir| inspect(dir).ok()).collect();
        found.extend(newest_first(
            self.places
                .iter()
                .flat_map(|(parent, prefix)| bin_dirs(parent, prefix)),
        ));
        found.extend(newest_first(bin_dirs(&self.fetched, "").into_iter()));
        found
    }

    fn nothing(&self, made: Option<Made<'_>>, found: &[Installation]) -> PostgresError {
        let command = self.install_command(made.map(|m| m.major));
        let Some(Made { data_dir, major }) = made else {
            return PostgresError::NoBinaries { command };
        };
        let mut majors: Vec<_> = found.iter().map(|i| i.major).collect();
        majors.sort_unstable();
        majors.dedup();
        let found = match majors.as_slice() {
            [] => "none".to_owned(),
            some => some.iter().map(u32::to_string).collect::<Vec<_>>().join(", "),
        };
        PostgresError::WrongMajor {
            data_dir: data_dir.to_owned(),
            needed: major,
            found,
            command,
        }
    }

    /// The command for this machine's package client.
    fn install_command(&self, major: Option<u32>) -> String {
        let has = |name: &str| self.path.iter().any(|dir| dir.join(name).is_file());
        let sudo = if rustix::process::geteuid().is_root() {
            ""
        } else {
            "sudo "
        };
        if has("apt-get") {
            let package = major.map_or("postgresql".to_owned(), |m| format!("postgresql-{m}"));
            format!("{sudo}apt-get update && {sudo}apt-get install -y --no-install-recommends {package}")
        } else if has("brew") {
            format!("brew install postgresql@{}", major.unwrap_or(17))
        } else if has("dnf") {
            format!("{sudo}dnf install -y postgresql-server")
        } else {
            let version = major.map_or("14 or later".to_owned(), |m| m.to_string());
            format!("install PostgreSQL {version} and set {BIN_VARIABLE} to its bin directory")
        }
    }
}

fn newest_first(dirs: impl Iterator<Item = PathBuf>) -> Vec<Installation> {
    let mut found: Vec<_> = dirs.filter_map(|dir| inspect(&dir).ok()).collect();
    found.sort_by_key(|i| std::cmp::Reverse(i.major));
    found
}

/// `parent/prefix*/bin`.
fn bin_dirs(parent: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(parent) else {
        return Vec::new();
    };
    let mut dirs: Vec<_> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path().join("bin"))
        .collect();
    dirs.sort();
    dirs
}

/// What a bin directory holds, or why it does not serve.
fn inspect(bin_dir: &Path) -> Result<Installation, String> {
    for name in ["postgres", "initdb"] {
        if !bin_dir.join(name).is_file() {
            return Err(format!("holds no `{name}`"));
        }
    }
    let output = Command::new(bin_dir.join("postgres"))
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("its `postgres` does not run: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let major = parse_major(&text).ok_or_else(|| format!("its `postgres --version` says {text:?}"))?;
    let bin_dir = real_dir(bin_dir).or_else(|| std::path::absolute(bin_dir).ok());
    let bin_dir = bin_dir.ok_or("its path cannot be resolved")?;
    Ok(Installation { bin_dir, major })
}

/// The directory that both programs really lie in, when `bin_dir` only links to it: their
/// companions are there.
fn real_dir(bin_dir: &Path) -> Option<PathBuf> {
    let real = |name| Some(bin_dir.join(name).canonicalize().ok()?.parent()?.to_owned());
    let dir = real("postgres")?;
    (real("initdb")? == dir).then_some(dir)
}

/// The major version in `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
fn parse_major(text: &str) -> Option<u32> {
    let version = text.split_once("(PostgreSQL) ")?.1;
    let digits = version
        .find(|c: char| !c.is_ascii_digit())
        .map_or(version, |end| &version[..end]);
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A bin directory whose `postgres` only tells its version.
    fn fake(root: &Path, name: &str, major: u32) -> PathBuf {
        let bin = root.join(name).join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        for program in ["postgres", "initdb"] {
            let path = bin.join(program);
            std::fs::write(
                &path,
                format!("#!/bin/sh\necho 'postgres (PostgreSQL) {major}.3 (Test)'\n"),
            )
            .unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        bin
    }

    fn search(root: &Path) -> Search {
        Search {
            named: None,
            path: Vec::new(),
            places: vec![(root.join("lib"), String::new())],
            fetched: root.join("fetched"),
        }
    }

    #[test]
    fn order_is_named_path_places_fetched() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let mut search = search(root);
        assert!(matches!(search.find(None), Err(PostgresError::NoBinaries { .. })));
        let fetched = fake(root, "fetched/any", 18);
        assert_eq!(
            search.find(None).unwrap(),
            Installation {
                bin_dir: fetched,
                major: 18
            }
        );
        fake(root, "lib/15", 15);
        let newest = fake(root, "lib/16", 16);
        fake(root, "lib/9.6", 9);
        assert_eq!(
            search.find(None).unwrap(),
            Installation {
                bin_dir: newest,
                major: 16
            }
        );
        search.path = vec![root.join("none"), fake(root, "on-path", 14)];
        assert_eq!(search.find(None).unwrap().major, 14);
        search.named = Some(fake(root, "named", 17));
        assert_eq!(search.find(None).unwrap().major, 17);
    }

    #[test]
    fn data_dir_decides_the_major() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let mut search = search(root);
        fake(root, "lib/15", 15);
        search.path = vec![fake(root, "on-path", 18)];
        let made = |major| {
            Some(Made {
                data_dir: Path::new("/data/pg"),
                major,
            })
        };
        assert_eq!(search.find(made(15)).unwrap().major, 15);
        let error = search.find(made(16)).unwrap_err().to_string();
        assert!(
            error.contains("/data/pg was made by PostgreSQL 16, but only 15, 18 was found"),
            "{error}"
        );
        search.named = Some(root.join("on-path/bin"));
        let error = search.find(made(15)).unwrap_err().to_string();
        assert!(error.contains("made by PostgreSQL 15, but only 18"), "{error}");
    }

    #[test]
    fn a_named_directory_is_never_replaced() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let mut search = search(root);
        fake(root, "lib/15", 15);
        search.named = Some(root.join("lib"));
        let error = search.find(None).unwrap_err().to_string();
        assert!(error.contains("holds no `postgres`"), "{error}");
        search.named = Some(fake(root, "old", 13));
        let error = search.find(None).unwrap_err().to_string();
        assert!(error.contains("holds version 13, older than 14"), "{error}");
    }

    #[test]
    fn links_lead_to_the_real_directory() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let mut search = search(root);
        let real = fake(root, "real", 15).canonicalize().unwrap();
        for program in ["postgres", "initdb"] {
            std::os::unix::fs::symlink(real.join(program), root.join(program)).unwrap();
        }
        search.path = vec![root.to_owned()];
        assert_eq!(search.find(None).unwrap().bin_dir, real);
        std::fs::remove_file(root.join("initdb")).unwrap();
        std::fs::copy(real.join("initdb"), root.join("initdb")).unwrap();
        assert_eq!(search.find(None).unwrap().bin_dir, root);
    }

    #[test]
    fn the_error_names_one_command() {
        let root = tempfile::tempdir().unwrap();
        let mut search = search(root.path());
        let hint = search.find(None).unwrap_err().to_string();
        assert!(hint.contains("set WATTLE_PG_BIN"), "{hint}");
        std::fs::write(root.path().join("apt-get"), "").unwrap();
        search.path = vec![root.path().to_owned()];
        let hint = search.find(None).unwrap_err().to_string();
        assert!(
            hint.contains("apt-get install -y --no-install-recommends postgresql"),
            "{hint}"
        );
    }

    #[test]
    fn versions_are_read() {
        assert_eq!(
            parse_major("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"),
            Some(15)
        );
        assert_eq!(parse_major("postgres (PostgreSQL) 19beta1"), Some(19));
        assert_eq!(parse_major("postgres (Something) 15"), None);
    }
}
