//! Copies of the `/sys` trees under `tests/fixtures`, for tests to change, and a clock to move.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::tally::Moment;

pub(crate) struct Tree(tempfile::TempDir);

impl Tree {
    /// `tests/fixtures/powercap/<machine>`.
    pub(crate) fn powercap(machine: &str) -> Self {
        Self::copy("powercap", machine)
    }

    /// `tests/fixtures/hwmon/<machine>`.
    pub(crate) fn hwmon(machine: &str) -> Self {
        Self::copy("hwmon", machine)
    }

    fn copy(kind: &str, machine: &str) -> Self {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../tests/fixtures");
        let tree = Self(tempfile::tempdir().unwrap());
        copy(&fixtures.join(kind).join(machine), tree.root());
        tree
    }

    pub(crate) fn root(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.root().join(file)
    }

    pub(crate) fn write(&self, file: &str, text: &str) {
        fs::create_dir_all(self.path(file).parent().unwrap()).unwrap();
        fs::write(self.path(file), text).unwrap();
    }

    pub(crate) fn remove(&self, file: &str) {
        fs::remove_file(self.path(file)).unwrap();
    }

    /// Adds to a counter.
    pub(crate) fn add(&self, file: &str, uj: u64) {
        let before: u64 = fs::read_to_string(self.path(file))
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        self.write(file, &format!("{}\n", before + uj));
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            fs::create_dir(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A clock that stands at a second since boot until it is moved. Clones are one clock.
#[derive(Clone)]
pub(crate) struct Moments {
    at_ns: Arc<AtomicU64>,
    asleep_ns: Arc<AtomicU64>,
}

pub(crate) fn moments() -> Moments {
    Moments {
        at_ns: Arc::new(AtomicU64::new(1_000_000_000)),
        asleep_ns: Arc::default(),
    }
}

impl Moments {
    pub(crate) fn now(&self) -> Moment {
        Moment {
            at_ns: self.at_ns.load(Relaxed),
            asleep_ns: self.asleep_ns.load(Relaxed),
        }
    }

    pub(crate) fn pass_s(&self, s: u64) {
        self.at_ns.fetch_add(s * 1_000_000_000, Relaxed);
    }

    pub(crate) fn sleep_s(&self, s: u64) {
        self.pass_s(s);
        self.asleep_ns.fetch_add(s * 1_000_000_000, Relaxed);
    }
}
