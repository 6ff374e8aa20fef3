//! The choice among zones in the shapes of real machines, and what happens to a counter in mid-run.

use std::fs;

use super::*;
use crate::discover::{Candidate, Verdict};
use crate::trees::{Moments, Tree, moments};

/// Root names, and each zone with how it is used.
fn choose(tree: &Tree, pause: &mut dyn FnMut()) -> (Vec<String>, Vec<(String, Verdict)>, Vec<Candidate>) {
    let (meters, candidates) = survey(tree.root(), pause);
    let names = meters
        .iter()
        .flat_map(|meter| meter.roots())
        .map(|root| root.name);
    let used = candidates
        .iter()
        .map(|candidate| (candidate.subject.clone(), candidate.verdict))
        .collect();
    (names.collect(), used, candidates)
}

fn used(list: &[(&str, Verdict)]) -> Vec<(String, Verdict)> {
    list.iter()
        .map(|(subject, verdict)| ((*subject).to_owned(), *verdict))
        .collect()
}

use Verdict::{Left, Root as Taken, Unusable};

/// A machine, its roots, and what became of each zone.
type Machine<'a> = (&'a str, &'a [&'a str], &'a [(&'a str, Verdict)]);

#[test]
fn one_root_per_physical_joule() {
    let machines: [Machine<'_>; 5] = [
        (
            "one-socket",
            &["package-0", "dram-0"],
            &[
                ("intel-rapl:0 (package-0)", Taken),
                ("intel-rapl:0:0 (core)", Left),
                ("intel-rapl:0:1 (uncore)", Left),
                ("intel-rapl:0:2 (dram)", Taken),
            ],
        ),
        (
            "two-sockets",
            &["package-0", "package-1", "dram-0", "dram-1"],
            &[
                ("intel-rapl:0 (package-0)", Taken),
                ("intel-rapl:0:0 (dram)", Taken),
                ("intel-rapl:1 (package-1)", Taken),
                ("intel-rapl:1:0 (dram)", Taken),
            ],
        ),
        (
            "mmio-twin",
            &["package-0"],
            &[
                ("intel-rapl:0 (package-0)", Taken),
                ("intel-rapl:0:0 (core)", Left),
                ("intel-rapl:0:1 (uncore)", Left),
                ("intel-rapl-mmio:0 (package-0)", Left),
            ],
        ),
        (
            "no-dram",
            &["package-0"],
            &[
                ("intel-rapl:0 (package-0)", Taken),
                ("intel-rapl:0:0 (core)", Left),
            ],
        ),
        (
            "psys",
            &["package-0", "dram-0"],
            &[
                ("intel-rapl:0 (package-0)", Taken),
                ("intel-rapl:0:0 (core)", Left),
                ("intel-rapl:0:1 (uncore)", Left),
                ("intel-rapl:0:2 (dram)", Taken),
                ("intel-rapl:1 (psys)", Left),
            ],
        ),
    ];
    for (machine, roots, zones) in machines {
        let (names, all, candidates) = choose(&Tree::powercap(machine), &mut || {});
        assert_eq!(names, roots, "{machine}");
        assert_eq!(all, used(zones), "{machine}");
        assert!(candidates.iter().all(|candidate| !candidate.reason.is_empty()));
    }
}

#[test]
fn zones_within_their_parents_behind_links_are_the_same() {
    let tree = Tree::powercap("two-sockets");
    let nested = tempfile::tempdir().unwrap();
    for socket in 0..2 {
        let (from, inside) = (format!("intel-rapl:{socket}"), format!("intel-rapl:{socket}:0"));
        fs::rename(tree.path(&inside), tree.path(&format!("{from}/{inside}"))).unwrap();
        std::os::unix::fs::symlink(tree.path(&from), nested.path().join(&from)).unwrap();
    }
    let (meters, candidates) = survey(nested.path(), &mut || {});
    let names: Vec<_> = meters.iter().map(|meter| meter.roots()[0].name.clone()).collect();
    assert_eq!(names, ["package-0", "package-1", "dram-0", "dram-1"]);
    assert_eq!(candidates.len(), 4);
}

#[test]
fn dies_that_mirror_one_counter_are_one_root() {
    let tree = Tree::powercap("amd-mirrored-dies");
    let energy = ["intel-rapl:0/energy_uj", "intel-rapl:1/energy_uj"];
    let mut pauses = 0;
    let mut pause = || {
        pauses += 1;
        energy.iter().for_each(|file| tree.add(file, 1_357_911));
    };
    let (names, _, candidates) = choose(&tree, &mut pause);
    assert_eq!(names, ["package-0-die-0"]);
    assert_eq!(pauses, 4);
    let twin = &candidates[2];
    assert_eq!(
        (twin.verdict, twin.subject.as_str()),
        (Left, "intel-rapl:1 (package-0-die-1)")
    );
    assert!(twin.reason.contains("mirrors intel-rapl:0"), "{}", twin.reason);

    // Neither moves: they may be one, so one is counted.
    let (names, _, candidates) = choose(&tree, &mut || {});
    assert_eq!(names, ["package-0-die-0"]);
    assert!(
        candidates[2].reason.contains("neither moves"),
        "{}",
        candidates[2].reason
    );

    // Dies with counters of their own, one of which wraps while it is looked at.
    tree.write(energy[0], "65532610000");
    let mut wrap = || tree.write(energy[0], "7");
    let (names, ..) = choose(&tree, &mut wrap);
    assert_eq!(names, ["package-0-die-0", "package-0-die-1"]);
}

#[test]
fn dies_that_differ_late_are_two_roots() {
    let tree = Tree::powercap("amd-mirrored-dies");
    let mut round = 0;
    let mut pause = || {
        round += 1;
        tree.add("intel-rapl:0/energy_uj", 1_000);
        tree.add("intel-rapl:1/energy_uj", if round == 4 { 1_001 } else { 1_000 });
    };
    let (names, ..) = choose(&tree, &mut pause);
    assert_eq!(names, ["package-0-die-0", "package-0-die-1"]);
}

#[test]
fn what_cannot_be_read_makes_room_for_the_next() {
    // The MSR zone fails: its MMIO twin stands in.
    let tree = Tree::powercap("mmio-twin");
    tree.write("intel-rapl:0/energy_uj", "soon");
    let (names, all, _) = choose(&tree, &mut || {});
    assert_eq!(names, ["package-0"]);
    assert_eq!(all[0], ("intel-rapl:0 (package-0)".to_owned(), Unusable));
    assert_eq!(all[3].1, Taken);

    // No package at all: the platform is better than nothing, and its memory is in it.
    let tree = Tree::powercap("psys");
    tree.remove("intel-rapl:0/max_energy_range_uj");
    let (names, all, candidates) = choose(&tree, &mut || {});
    assert_eq!(names, ["psys"]);
    assert_eq!(all[3], ("intel-rapl:0:2 (dram)".to_owned(), Left));
    assert!(
        candidates[0].reason.contains("max_energy_range_uj"),
        "{}",
        candidates[0].reason
    );

    // What has no known name, or one that no root can have, is not counted.
    let tree = Tree::powercap("no-dram");
    tree.write("intel-rapl:0/name", "Package/0");
    tree.write("intel-rapl:0:0/name", "package-0/x");
    tree.write("intel-rapl:0:0/energy_uj", "3");
    tree.write("intel-rapl:one/name", "package-9");
    let (names, all, _) = choose(&tree, &mut || {});
    assert!(names.is_empty());
    assert_eq!(
        all.iter().map(|(_, verdict)| *verdict).collect::<Vec<_>>(),
        [Left, Unusable]
    );

    for empty in [Path::new("/nowhere"), tree.path("intel-rapl").as_path()] {
        let (meters, candidates) = survey(empty, &mut || {});
        assert!(meters.is_empty());
        assert_eq!((candidates.len(), candidates[0].verdict), (1, Unusable));
    }
}

/// Root reads whatever the mode says, so the reads are made by a thread that is somebody else.
#[test]
fn who_may_not_read_is_told_what_to_grant() {
    use std::os::unix::fs::PermissionsExt as _;
    let tree = Tree::powercap("one-socket");
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    mode(tree.root(), 0o755);
    for zone in ["intel-rapl:0", "intel-rapl:0:2"] {
        mode(
            &tree.path(zone).join("energy_uj"),
            if rustix::process::geteuid().is_root() {
                0o400
            } else {
                0
            },
        );
    }
    let root = tree.root().to_owned();
    let looked = std::thread::spawn(move || {
        if rustix::process::geteuid().is_root() {
            let nobody = rustix::process::Uid::from_raw(65_534);
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        }
        let (meters, candidates) = survey(&root, &mut || {});
        (meters.len(), candidates)
    });
    let (meters, candidates) = looked.join().unwrap();
    assert_eq!(meters, 0);
    assert_eq!(candidates[0].verdict, Unusable);
    for words in ["root", "CAP_DAC_READ_SEARCH", "CVE-2020-8694", "energy_uj"] {
        assert!(candidates[0].reason.contains(words), "{}", candidates[0].reason);
    }
    assert_eq!(candidates[3].verdict, Left);
}

/// The meter of `package-0`.
fn meter(tree: &Tree, clock: &Moments) -> RaplMeter {
    let (mut meters, _) = survey(tree.root(), &mut || {});
    let mut meter = meters.remove(0);
    let clock = clock.clone();
    meter.sensor.set_clock(move || clock.now());
    meter
}

fn read(meter: &mut RaplMeter) -> Result<u64, &'static str> {
    let read = meter.read().map(|mut readings| readings.remove(0).counter_uj);
    read.map_err(|error| error.code())
}

const ENERGY: &str = "intel-rapl:0/energy_uj";

#[test]
fn a_counter_wraps_and_a_restart_does_not_lose_the_gap() {
    let (tree, clock) = (Tree::powercap("two-sockets"), moments());
    tree.write(ENERGY, "262143328800");
    let mut first = meter(&tree, &clock);
    assert_eq!(read(&mut first), Ok(262_143_328_800));
    clock.pass_s(1);
    // 50 up to the highest value, one step of 61 to 0, and 89.
    tree.write(ENERGY, "89");
    let last = first.read().unwrap();
    assert_eq!(last[0].counter_uj, 262_143_329_000);
    // The host is away for a minute.
    clock.pass_s(60);
    tree.write(ENERGY, "6000000089");
    let mut second = meter(&tree, &clock);
    second.resume(&last);
    assert_eq!(read(&mut second), Ok(268_143_329_000));

    // In another boot the count begins anew.
    let mut third = meter(&tree, &clock);
    third.sensor.set_boot_id(uuid::Uuid::from_u128(5));
    third.resume(&last);
    assert_eq!(read(&mut third), Ok(6_000_000_089));
}

#[test]
fn sleep_a_long_pause_and_a_lost_file_are_said() {
    let (tree, clock) = (Tree::powercap("one-socket"), moments());
    let mut meter = meter(&tree, &clock);
    let start = read(&mut meter).unwrap();
    clock.sleep_s(3_600);
    // The package was off: its counter began anew.
    tree.write(ENERGY, "1000");
    assert_eq!(read(&mut meter), Err("meter_slept"));
    clock.pass_s(1);
    tree.write(ENERGY, "3000");
    assert_eq!(read(&mut meter), Ok(start + 2_000));
    // At 1 kW, 262 kJ last for 262 s.
    clock.pass_s(262);
    tree.write(ENERGY, "4000");
    assert_eq!(read(&mut meter), Ok(start + 3_000));
    clock.pass_s(263);
    assert_eq!(read(&mut meter), Err("meter_overdue"));
    assert_eq!(read(&mut meter), Ok(start + 3_000));

    tree.remove(ENERGY);
    assert_eq!(read(&mut meter), Err("meter_io"));
    clock.pass_s(1);
    tree.write(ENERGY, "4500");
    assert_eq!(read(&mut meter), Ok(start + 3_500));
    tree.write(ENERGY, "\n");
    assert_eq!(read(&mut meter), Err("meter_malformed"));
    // 262 kJ in a second is no wrap: the counter ran backwards.
    clock.pass_s(1);
    tree.write(ENERGY, "4400");
    assert_eq!(read(&mut meter), Err("meter_fell"));
}

#[test]
fn the_bound_has_a_source_and_gives_the_period() {
    let bounds = |machine: &str| {
        let (meters, _) = survey(Tree::powercap(machine).root(), &mut || {});
        let each = meters.iter().map(|meter| {
            let bound = meter.sensor.bound().clone();
            (
                bound.power_uw / 1_000_000,
                bound.source,
                meter.period().unwrap().as_secs(),
            )
        });
        each.collect::<Vec<_>>()
    };
    // Limits below what any package may take do not narrow the bound.
    let package = (1_000, "no CPU package takes more".to_owned(), 65);
    assert_eq!(
        bounds("no-dram"),
        [(1_000, "no CPU package takes more".into(), 16)]
    );
    let memory = (500, "no socket's memory takes more".to_owned(), 32);
    assert_eq!(
        bounds("two-sockets"),
        [package.clone(), package, memory.clone(), memory]
    );

    let tree = Tree::powercap("two-sockets");
    let zone = |limit: &str| {
        tree.write("intel-rapl:0/constraint_1_max_power_uw", limit);
        let (meters, _) = survey(tree.root(), &mut || {});
        let bound = meters[0].sensor.bound();
        (bound.power_uw, bound.source.contains("constraint_1_max_power_uw"))
    };
    assert_eq!(zone("764000000"), (1_528_000_000, true));
    // Firmware's "no limit".
    assert_eq!(zone("4294967295000000"), (4_000_000_000, true));
    assert_eq!(zone("none"), (1_000_000_000, false));
}
