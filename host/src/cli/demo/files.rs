//! Real files of this machine whose type is known from where they are.

use std::path::{Path, PathBuf};

/// A file to be named by its bytes.
pub struct Sample {
    /// Where it is.
    pub path: PathBuf,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Labels that are right.
    pub labels: &'static [&'static str],
}

/// Larger files would make the call's JSON body large and show nothing more.
const LARGEST_BYTES: u64 = 2 << 20;

/// Kinds of files: the right labels, and places of such files on Linux and macOS, the first one
/// that is there being taken. Relative ones are of this repository.
const KINDS: &[(&[&str], &[&str])] = &[
    (&["rust"], &["host/src/cli/client.rs"]),
    (&["elf", "macho"], &["/usr/bin/env", "/bin/ls"]),
    (
        &["ini"],
        &[
            "/etc/systemd/user.conf",
            "/etc/systemd/journald.conf",
            "/usr/lib/systemd/user/sockets.target",
        ],
    ),
    (&["shell"], &["/usr/bin/ldd", "/usr/bin/zgrep", "/usr/bin/gunzip"]),
    (
        &["pem"],
        &["/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/cert.pem"],
    ),
    (&["toml"], &["Cargo.toml"]),
    (&["markdown"], &["README.md"]),
    (
        &["python"],
        &[
            "/usr/lib/python3.11/os.py",
            "/usr/lib/python3.12/os.py",
            "/usr/lib/python3.13/os.py",
        ],
    ),
    (
        &["gzip"],
        &[
            "/usr/share/doc/base-files/changelog.gz",
            "/usr/share/doc/libc6/changelog.Debian.gz",
        ],
    ),
    (&["c"], &["/usr/include/stdio.h"]),
];

/// Folders in which a PNG may be found.
const PICTURES: &[&str] = &[
    "/usr/share/pixmaps",
    "/usr/share/icons",
    "/usr/share/doc",
    "/usr/local/share",
];

/// What there is of every kind. `guests` and `models` hold a component and a graph.
pub fn samples(guests: &Path, models: &Path) -> Vec<Sample> {
    let mut samples: Vec<_> = KINDS
        .iter()
        .filter_map(|(labels, places)| first(labels, places))
        .collect();
    if !samples.iter().any(|sample| sample.labels.contains(&"rust")) {
        // The demo runs outside the repository: then its own source stands in.
        let bytes = include_bytes!("files.rs").to_vec();
        samples.push(Sample {
            path: "files.rs".into(),
            bytes,
            labels: &["rust"],
        });
    }
    let picture = PICTURES
        .iter()
        .find_map(|folder| find(Path::new(folder), "png", &mut 5_000));
    samples.extend(picture.and_then(|path| read(&path, &["png"])));
    samples.extend(read(&guests.join("echo.wasm"), &["wasm"]));
    samples.extend(read(&models.join("tabular.onnx"), &["onnx"]));
    samples
}

fn first(labels: &'static [&'static str], places: &[&str]) -> Option<Sample> {
    places.iter().find_map(|place| read(Path::new(place), labels))
}

fn read(path: &Path, labels: &'static [&'static str]) -> Option<Sample> {
    let metadata = std::fs::metadata(path).ok()?;
    if !metadata.is_file() || metadata.len() > LARGEST_BYTES {
        return None;
    }
    Some(Sample {
        path: path.to_owned(),
        bytes: std::fs::read(path).ok()?,
        labels,
    })
}

/// The first file below `folder` with this extension, among at most `budget` entries.
fn find(folder: &Path, extension: &str, budget: &mut u32) -> Option<PathBuf> {
    let mut entries: Vec<_> = std::fs::read_dir(folder).ok()?.flatten().collect();
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        *budget = budget.checked_sub(1)?;
        let (path, kind) = (entry.path(), entry.file_type().ok()?);
        if kind.is_dir() {
            if let Some(found) = find(&path, extension, budget) {
                return Some(found);
            }
        } else if kind.is_file() && path.extension().is_some_and(|found| found == extension) {
            return Some(path);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_found_within_the_budget_and_not_beyond() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("a/b");
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("x.png"), b"x").unwrap();
        std::fs::write(folder.path().join("0.txt"), b"x").unwrap();
        assert_eq!(find(folder.path(), "png", &mut 10), Some(deep.join("x.png")));
        assert_eq!(find(folder.path(), "png", &mut 2), None);
        assert_eq!(find(folder.path(), "gif", &mut 10), None);
    }

    #[test]
    fn there_is_always_a_rust_source() {
        let nowhere = Path::new("/nonexistent");
        assert!(
            samples(nowhere, nowhere)
                .iter()
                .any(|sample| sample.labels == ["rust"])
        );
    }
}
