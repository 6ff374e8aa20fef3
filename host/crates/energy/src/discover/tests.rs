//! Which meters a machine ends up with.

use std::path::Path;

use super::*;
use crate::file::tests::source;
use crate::nvml::stub::{Machine, uuid};
use crate::proc::testing::ProcTree;
use crate::sensor::Quantity;
use crate::trees::Tree;

struct Bench {
    proc: ProcTree,
    powercap: Option<Tree>,
    hwmon: Option<Tree>,
    gpus: Option<Machine>,
    files: Vec<FileSource>,
}

impl Bench {
    fn new(powercap: Option<&str>, hwmon: Option<&str>) -> Self {
        Self {
            proc: ProcTree::new(),
            powercap: powercap.map(Tree::powercap),
            hwmon: hwmon.map(Tree::hwmon),
            gpus: None,
            files: vec![],
        }
    }

    fn with_gpus(mut self, gpus: usize) -> Self {
        self.gpus = Some(Machine::new(gpus));
        self
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
            // This machine may have GPUs, which are not the test's.
            nvml: self
                .gpus
                .as_ref()
                .map_or_else(|| "libnvidia-ml-of-nobody.so.1".into(), Machine::library),
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
fn gpus_are_roots_beside_the_cpus_and_never_in_a_wall_meter_that_is_billed() {
    let gpus = [uuid(0).to_lowercase(), uuid(1).to_lowercase()];
    let gpus: Vec<_> = gpus.iter().map(String::as_str).collect();
    let (rapl, wall, amd) = (Some("no-dram"), Some("acpi-power-meter"), Some("amd-energy"));
    let sockets = ["amd_energy-esocket0", "amd_energy-esocket1"];
    type Case<'a> = (Option<&'a str>, Option<&'a str>, Vec<&'a str>, &'a [&'a str]);
    let cases: [Case<'_>; 5] = [
        (rapl, None, [&["package-0"], &gpus[..]].concat(), &[]),
        (rapl, wall, [&["package-0"], &gpus[..]].concat(), &["wall"]),
        (None, amd, [&sockets[..], &gpus[..]].concat(), &[]),
        (None, wall, vec!["wall"], &[]),
        (None, None, [&gpus[..], &["modelled"]].concat(), &[]),
    ];
    for (powercap, hwmon, roots, walls) in cases {
        let (billed, calibrating) = Bench::new(powercap, hwmon).with_gpus(2).uses();
        assert_eq!(billed, roots, "{powercap:?} {hwmon:?}");
        assert_eq!(calibrating, walls, "{powercap:?} {hwmon:?}");
    }
    let reasons = |bench: Bench, source| -> Vec<String> {
        let candidates = bench.discover().unwrap().candidates.into_iter();
        let ours = candidates.filter(|candidate| candidate.source == source);
        ours.map(|candidate| candidate.reason).collect()
    };
    let in_wall = reasons(Bench::new(None, wall).with_gpus(1), "nvml");
    assert!(in_wall[0].contains("counts it"), "{in_wall:?}");
    let modelled = |bench| reasons(bench, "modelled").remove(0);
    assert!(modelled(Bench::new(None, None).with_gpus(1)).contains("the GPUs are not in it"));
    assert!(!modelled(Bench::new(None, None)).contains("GPU"));
    let mut lost = Bench::new(rapl, None).with_gpus(2);
    lost.gpus.as_mut().unwrap().set("0.handle", 15);
    assert_eq!(lost.uses().0, ["package-0", gpus[1]]);
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
        ("nvml", "left"),
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
