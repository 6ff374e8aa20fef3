//! Which meters a machine ends up with.

use std::path::Path;

use super::*;
use crate::file::tests::source;
use crate::proc::testing::ProcTree;
use crate::sensor::Quantity;
use crate::trees::Tree;

struct Bench {
    proc: ProcTree,
    powercap: Option<Tree>,
    hwmon: Option<Tree>,
    files: Vec<FileSource>,
}

impl Bench {
    fn new(powercap: Option<&str>, hwmon: Option<&str>) -> Self {
        Self {
            proc: ProcTree::new(),
            powercap: powercap.map(Tree::powercap),
            hwmon: hwmon.map(Tree::hwmon),
            files: vec![],
        }
    }

    fn with(mut self, root: &str, covers: Covers) -> Self {
        let plug = source(Path::new("/nowhere/watts"), Quantity::PowerW);
        let path = Path::new("/nowhere").join(root);
        self.files.push(FileSource {
            root: root.into(),
            path,
            covers,
            ..plug
        });
        self
    }

    fn discover(&self) -> Result<Found, MeterError> {
        let nowhere = || PathBuf::from("/nowhere");
        let root = |tree: &Option<Tree>| tree.as_ref().map_or_else(nowhere, |tree| tree.root().to_owned());
        let site = Site {
            powercap: root(&self.powercap),
            hwmon: root(&self.hwmon),
            proc: self.proc.root().to_owned(),
            files: self.files.clone(),
            ..Site::new(
                "modelled",
                PowerModel::from_ends(100_000_000, 300_000_000).unwrap(),
            )
        };
        discover(&site, &mut || {})
    }

    /// The roots that are billed, and those that calibrate.
    fn uses(&self) -> (Vec<String>, Vec<String>) {
        let found = self.discover().unwrap();
        for (verdict, role) in [
            (Verdict::Root, Role::Root),
            (Verdict::Calibrates, Role::Calibrates),
        ] {
            let said = found
                .candidates
                .iter()
                .filter(|one| one.verdict == verdict)
                .count();
            let used = found.meters.iter().filter(|chosen| chosen.role == role).count();
            assert_eq!(said, used, "{:?}", found.candidates);
        }
        let walls = found
            .meters
            .iter()
            .filter(|chosen| chosen.role == Role::Calibrates);
        let walls = walls
            .flat_map(|chosen| chosen.meter.roots())
            .map(|root| root.name);
        (found.roots(), walls.collect())
    }
}

#[test]
fn the_best_meters_are_used_and_no_joule_twice() {
    let (rapl, wall, amd) = (Some("two-sockets"), Some("acpi-power-meter"), Some("amd-energy"));
    let packages = ["package-0", "package-1", "dram-0", "dram-1"].as_slice();
    let sockets = ["amd_energy-esocket0", "amd_energy-esocket1"].as_slice();
    let none = [].as_slice();
    let (whole, apart) = (("plug", Covers::Machine), ("box", Covers::Apart));
    type Case<'a> = (
        Option<&'a str>,
        Option<&'a str>,
        &'a [(&'a str, Covers)],
        &'a [&'a str],
        &'a [&'a str],
    );
    let cases: [Case<'_>; 11] = [
        (None, None, &[], &["modelled"], none),
        (rapl, None, &[], packages, none),
        (rapl, wall, &[], packages, &["wall"]),
        (rapl, amd, &[], packages, none),
        (None, amd, &[], sockets, none),
        (None, wall, &[], &["wall"], none),
        (None, Some("ibmpowernv"), &[], &["wall"], none),
        (None, wall, &[whole], &["plug"], none),
        (None, amd, &[whole], sockets, &["plug"]),
        (None, None, &[apart], &["box", "modelled"], none),
        (
            rapl,
            wall,
            &[apart, whole],
            &["box", "package-0", "package-1", "dram-0", "dram-1"],
            &["plug"],
        ),
    ];
    for (powercap, hwmon, files, roots, walls) in cases {
        let bench = Bench::new(powercap, hwmon);
        let bench = files
            .iter()
            .fold(bench, |bench, (root, covers)| bench.with(root, *covers));
        let (billed, calibrating) = bench.uses();
        assert_eq!(billed, roots, "{powercap:?} {hwmon:?} {files:?}");
        assert_eq!(calibrating, walls, "{powercap:?} {hwmon:?} {files:?}");
    }
}

#[test]
fn every_candidate_has_a_reason() {
    let found = Bench::new(Some("two-sockets"), Some("acpi-power-meter"))
        .with("plug", Covers::Machine)
        .discover()
        .unwrap();
    let said: Vec<_> = found
        .candidates
        .iter()
        .map(|one| (one.source, one.verdict.as_str()))
        .collect();
    let rapl = ("rapl", "root");
    let expected = [
        rapl,
        rapl,
        rapl,
        rapl,
        ("file", "calibrates"),
        ("hwmon", "left"),
        ("modelled", "left"),
    ];
    assert_eq!(said, expected);
    assert!(found.candidates.iter().all(|one| one.reason.len() > 20));
}

#[test]
fn a_sensor_that_does_not_answer_is_unusable() {
    let bench = Bench::new(None, Some("acpi-power-meter"));
    bench.hwmon.as_ref().unwrap().write("hwmon1/power1_average", "");
    assert_eq!(bench.uses(), (vec!["modelled".to_owned()], vec![]));
    let found = bench.discover().unwrap();
    assert_eq!(found.candidates[1].verdict, Verdict::Unusable);
}

#[test]
fn names_are_given_once() {
    let twice = Bench::new(Some("no-dram"), None).with("package-0", Covers::Apart);
    assert_eq!(twice.discover().err().unwrap().code(), "meter_twice");
    let bad = Bench::new(None, None).with("Box 1", Covers::Apart);
    assert_eq!(bad.discover().err().unwrap().code(), "meter_root_name");
}
