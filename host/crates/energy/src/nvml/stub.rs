//! Machines with GPUs, played by a library of our own (`tests/nvml-stub/nvml.c`) that the C compiler of this
//! machine builds once for each of its shapes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Which functions the library has.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape {
    Whole,
    /// As before Volta.
    WithoutEnergy,
    WithoutInit,
}

impl Shape {
    fn built(self) -> &'static [u8] {
        static BUILT: [OnceLock<Vec<u8>>; 3] = [const { OnceLock::new() }; 3];
        let defined = match self {
            Self::Whole => None,
            Self::WithoutEnergy => Some("-DWITHOUT_ENERGY"),
            Self::WithoutInit => Some("-DWITHOUT_INIT"),
        };
        BUILT[self as usize].get_or_init(|| build(defined))
    }
}

fn build(defined: Option<&str>) -> Vec<u8> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nvml-stub/nvml.c");
    let dir = tempfile::tempdir().unwrap();
    let library = dir.path().join("libnvidia-ml.so.1");
    let mut cc = Command::new("cc");
    cc.args(["-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"]);
    cc.arg(&library).args(defined).arg(&source).arg("-ldl");
    let built = cc.output().expect(
        "the tests of GPUs build a small library: install a C compiler that is called 'cc' (Debian: gcc)",
    );
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    fs::read(library).unwrap()
}

/// A machine with GPUs. A copy of the library each, as libraries have one state for all of a process.
pub(crate) struct Machine {
    dir: tempfile::TempDir,
    state: BTreeMap<String, String>,
}

impl Machine {
    /// With as many GPUs, each with 1 J in its counter and 100 W now.
    pub(crate) fn new(gpus: usize) -> Self {
        Self::of(Shape::Whole, gpus)
    }

    pub(crate) fn of(shape: Shape, gpus: usize) -> Self {
        let mut machine = Self {
            dir: tempfile::tempdir().unwrap(),
            state: BTreeMap::new(),
        };
        fs::write(machine.library(), shape.built()).unwrap();
        machine.set("devices", gpus);
        for gpu in 0..gpus {
            machine.set(&format!("{gpu}.uuid"), uuid(gpu));
            machine.set(&format!("{gpu}.name"), "NVIDIA H200");
            machine.set(&format!("{gpu}.energy_mj"), 1_000);
            machine.set(&format!("{gpu}.power_mw"), 100_000);
            machine.set(&format!("{gpu}.limit_mw"), 700_000);
        }
        machine
    }

    pub(crate) fn library(&self) -> PathBuf {
        self.dir.path().join("libnvidia-ml.so.1")
    }

    pub(crate) fn set(&mut self, key: &str, value: impl ToString) {
        self.state.insert(key.to_owned(), value.to_string());
        self.write();
    }

    pub(crate) fn unset(&mut self, key: &str) {
        self.state.remove(key).unwrap();
        self.write();
    }

    /// At once, as the library may read meanwhile.
    fn write(&self) {
        let lines = self.state.iter().map(|(key, value)| format!("{key} {value}\n"));
        let next = self.dir.path().join("next");
        fs::write(&next, lines.collect::<String>()).unwrap();
        fs::rename(next, self.dir.path().join("libnvidia-ml.so.1.state")).unwrap();
    }

    /// How often the library was initialised and shut down.
    pub(crate) fn uses(&self) -> (usize, usize) {
        let log = self.dir.path().join("libnvidia-ml.so.1.log");
        let log = fs::read_to_string(log).unwrap_or_default();
        let count = |what| log.lines().filter(|line| *line == what).count();
        (count("init"), count("shutdown"))
    }
}

/// What the driver calls a GPU. The root's name is the same in small letters.
pub(crate) fn uuid(gpu: usize) -> String {
    format!("GPU-1f00{gpu:04x}-90ab-cdef-0123-456789abcdef")
}
