//! Machines with GPUs in many shapes, and what happens to them in mid-run.

mod activity;

use std::path::Path;

use domain::energy::FaultKind;

use super::stub::{Machine, Shape, uuid};
use super::*;
use crate::discover::{Candidate, Chosen, Verdict};
use crate::guarded::Guarded;
use crate::trees::{Moments, moments};

/// Long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn survey(library: &Path) -> Result<Vec<survey::Found>, Candidate> {
    super::survey(library, PATIENCE)
}

/// The meters of a machine, under one clock.
fn meters(machine: &Machine) -> (Vec<NvmlMeter>, Moments) {
    let clock = moments();
    let found = survey(&machine.library()).unwrap();
    let each = found.into_iter().map(|found| {
        let (mut meter, now) = (found.meter.unwrap(), clock.clone());
        meter.set_clock(move || now.now());
        meter
    });
    (each.collect(), clock)
}

fn meter(machine: &Machine) -> (NvmlMeter, Moments) {
    let (mut meters, clock) = meters(machine);
    (meters.remove(0), clock)
}

fn counter_uj(meter: &mut NvmlMeter) -> Result<u64, &'static str> {
    meter
        .read()
        .map(|readings| readings[0].counter_uj)
        .map_err(|error| error.code())
}

fn name(gpu: usize) -> String {
    uuid(gpu).to_lowercase()
}

#[test]
fn each_board_is_a_root_by_its_uuid_and_its_counter_is_energy() {
    let mut machine = Machine::new(3);
    let (mut meters, clock) = meters(&machine);
    for (gpu, meter) in meters.iter_mut().enumerate() {
        let reading = meter.read().unwrap().remove(0);
        assert_eq!(reading.root.name, name(gpu));
        assert_eq!((reading.counter_uj, reading.floor_uw), (1_000_000, 0));
        let root = &reading.root;
        assert_eq!(
            (root.kind.as_str(), root.provenance),
            ("nvml", Provenance::Measured)
        );
        assert_eq!(meter.period(), None, "what a counter counts waits");
    }
    machine.set("1.energy_mj", 1_750);
    // The power is nobody's business where there is a counter.
    machine.set("1.power_mw", 600_000);
    clock.pass_s(1);
    let after: Vec<_> = meters.iter_mut().map(counter_uj).collect();
    assert_eq!(after, [Ok(1_000_000), Ok(1_750_000), Ok(1_000_000)]);
}

#[test]
fn a_gpu_with_another_number_is_the_same_root() {
    let mut machine = Machine::new(2);
    machine.set("1.energy_mj", 5_000);
    let (mut meters, clock) = meters(&machine);
    let read = |meters: &mut [NvmlMeter]| -> Vec<_> { meters.iter_mut().map(counter_uj).collect() };
    assert_eq!(read(&mut meters), [Ok(1_000_000), Ok(5_000_000)]);
    for (gpu, energy_mj) in [(0, 5_100), (1, 1_200)] {
        machine.set(&format!("{gpu}.uuid"), uuid(1 - gpu));
        machine.set(&format!("{gpu}.energy_mj"), energy_mj);
    }
    let gone = Err("meter_gpu_driver");
    assert_eq!(read(&mut meters), [gone, gone], "no root has the other's energy");
    clock.pass_s(10);
    assert_eq!(read(&mut meters), [Ok(1_200_000), Ok(5_100_000)]);
}

#[test]
fn what_cannot_be_opened_is_a_candidate_with_a_reason() {
    let garbage = tempfile::tempdir().unwrap();
    let garbage = garbage.path().join("libnvidia-ml.so.1");
    std::fs::write(&garbage, "no library").unwrap();
    let broken = Machine::of(Shape::WithoutInit, 1);
    let nowhere = Path::new("/nowhere/libnvidia-ml.so.1");
    let bare = Path::new("libnvidia-ml-of-nobody.so.1");
    let empty = Machine::new(0);
    for (library, verdict, words) in [
        (bare, Verdict::Left, "there is no driver"),
        (empty.library().as_path(), Verdict::Left, "shows no GPU"),
        (nowhere, Verdict::Unusable, "No such file"),
        (garbage.as_path(), Verdict::Unusable, "libnvidia-ml.so.1"),
        (broken.library().as_path(), Verdict::Unusable, "nvmlInit_v2"),
    ] {
        let candidate = survey(library).err().unwrap();
        assert_eq!((candidate.source, candidate.verdict), ("nvml", verdict));
        assert_eq!(candidate.subject, library.display().to_string());
        assert!(candidate.reason.contains(words), "{}", candidate.reason);
    }
    for (code, words) in [
        (4, "open /dev/nvidiactl"),
        (9, "driver is not loaded: load it"),
        (18, "updated while it ran"),
        (999, "internal driver error"),
        (77, "77"),
    ] {
        let mut machine = Machine::new(1);
        machine.set("init", code);
        let candidate = survey(&machine.library()).err().unwrap();
        assert_eq!(candidate.verdict, Verdict::Unusable);
        assert!(candidate.reason.contains(words), "{code}: {}", candidate.reason);
    }
}

#[test]
fn a_driver_that_hangs_is_not_waited_for_for_ever() {
    let mut machine = Machine::new(1);
    machine.set("init_ms", 3_000);
    let begun_ns = crate::boottime_ns();
    let candidate = super::survey(&machine.library(), Duration::from_millis(100))
        .err()
        .unwrap();
    assert!(crate::boottime_ns() - begun_ns < 2_500_000_000);
    assert_eq!(candidate.verdict, Verdict::Unusable);
    assert!(
        candidate.reason.contains("did not answer within 0.1 s"),
        "{}",
        candidate.reason
    );
}

#[test]
fn gpus_that_cannot_be_read_do_not_hide_the_others() {
    let mut machine = Machine::new(5);
    machine.set("0.handle", 15);
    machine.set("1.energy", 4);
    machine.unset("3.energy_mj");
    machine.unset("3.power_mw");
    machine.set("4.uuid", "GPU/4");
    let found = survey(&machine.library()).unwrap();
    let said: Vec<_> = found
        .iter()
        .map(|found| {
            let code = found.meter.as_ref().map(|meter| meter.roots()[0].name.clone());
            (found.subject.as_str(), code.map_err(MeterError::code))
        })
        .collect();
    let expected = [
        ("GPU 0", Err("meter_gpu_lost")),
        ("GPU 1 (NVIDIA H200)", Err("meter_denied")),
        ("GPU 2 (NVIDIA H200)", Ok(name(2))),
        ("GPU 3 (NVIDIA H200)", Err("meter_gpu")),
        ("GPU 4 (NVIDIA H200)", Err("meter_root_name")),
    ];
    assert_eq!(said, expected);
    // Nor when it is looked for among them.
    let good = found.into_iter().find_map(|found| found.meter.ok());
    assert_eq!(counter_uj(&mut good.unwrap()), Ok(1_000_000));
}

#[test]
fn only_a_gpu_without_a_counter_is_read_by_its_power() {
    let mut young = Machine::new(1);
    young.unset("0.energy_mj");
    let old = Machine::of(Shape::WithoutEnergy, 1);
    for mut machine in [young, old] {
        let (mut meter, clock) = meter(&machine);
        let root = meter.roots().remove(0);
        assert_eq!(
            (root.provenance, root.uncertainty_ppm),
            (Provenance::Estimated, 200_000)
        );
        assert_eq!(meter.period(), Some(Duration::from_millis(250)));
        assert!(
            meter.describe().contains("power added up"),
            "{}",
            meter.describe()
        );
        assert_eq!(counter_uj(&mut meter), Ok(0));
        machine.set("0.power_mw", 200_000);
        clock.pass_s(2);
        assert_eq!(counter_uj(&mut meter), Ok(300_000_000));
        machine.set("0.power_mw", 3_000_001);
        assert_eq!(counter_uj(&mut meter), Err("meter_jumped"));
        machine.set("0.power_mw", 100_000);
        clock.pass_s(2);
        let last = meter.read().unwrap();
        assert_eq!(last[0].counter_uj, 600_000_000);
        // The next run of the host goes on from there.
        let (mut next, clock) = self::meter(&machine);
        next.resume(&last);
        clock.pass_s(5);
        assert_eq!(counter_uj(&mut next), Ok(700_000_000));
    }
}

#[test]
fn a_board_in_mig_mode_is_one_root_and_says_so() {
    let mut machine = Machine::new(2);
    machine.set("0.mig", 1);
    machine.set("1.mig", 0);
    let (meters, _) = meters(&machine);
    assert_eq!(meters.iter().flat_map(|meter| meter.roots()).count(), 2);
    let has_words = |meter: &NvmlMeter| meter.describe().contains("MIG's partitions");
    assert!(has_words(&meters[0]) && !has_words(&meters[1]));
}

#[test]
fn the_bound_follows_the_limit_within_reason() {
    for (limit_mw, bound_uw) in [
        (700_000, 3_000_000_000),
        (1_500_000, 3_000_000_000),
        (1_500_001, 3_000_002_000),
        (5_000_000, 10_000_000_000),
        (5_000_001, 10_000_000_000),
        (u32::MAX, 10_000_000_000),
    ] {
        let mut machine = Machine::new(1);
        machine.set("0.limit_mw", limit_mw);
        let (meter, _) = meter(&machine);
        assert_eq!(meter.count.bound().power_uw, bound_uw, "{limit_mw} mW");
    }
    let mut silent = Machine::new(1);
    silent.unset("0.limit_mw");
    let (meter, _) = meter(&silent);
    assert!(
        meter.describe().contains("no GPU takes more"),
        "{}",
        meter.describe()
    );
}

#[test]
fn a_gpu_that_is_lost_takes_away_its_own_root_only() {
    let mut machine = Machine::new(2);
    let found = survey(&machine.library()).unwrap();
    let chosen = found.into_iter().map(|found| Chosen::root(found.meter.unwrap()));
    let (mut guarded, first) = Guarded::start(chosen.collect(), &[], 0, PATIENCE).unwrap();
    assert_eq!((first.readings.len(), first.faults.len()), (2, 0));
    for code in [15, 16] {
        machine.set("1.handle", code);
        for round in 0..3 {
            machine.set("0.energy_mj", 1_100 + code * 10 + round);
            let metered = guarded.read(0);
            assert_eq!(metered.readings.len(), 1);
            assert_eq!(metered.readings[0].root.name, name(0));
            let fault = &metered.faults[0];
            assert_eq!((&fault.root, fault.kind), (&name(1), FaultKind::Unreadable));
            let told: Vec<_> = metered.changes.iter().map(|change| change.code).collect();
            let is_new = code == 15 && round == 0;
            assert_eq!(told, ["meter_gpu_lost"].repeat(usize::from(is_new)));
        }
    }
}

#[test]
fn a_lost_gpu_is_tried_again_after_a_while_and_loses_nothing() {
    let mut machine = Machine::new(1);
    let (mut meter, clock) = meter(&machine);
    assert_eq!(counter_uj(&mut meter), Ok(1_000_000));
    machine.set("0.handle", 15);
    let (opened, _) = machine.uses();
    assert_eq!(counter_uj(&mut meter), Err("meter_gpu_lost"));
    let (inits, shutdowns) = machine.uses();
    assert_eq!((inits, shutdowns), (opened, opened), "it lets go at once");
    machine.unset("0.handle");
    machine.set("0.energy_mj", 4_000);
    for _ in 0..9 {
        clock.pass_s(1);
        assert_eq!(counter_uj(&mut meter), Err("meter_gpu_lost"));
    }
    assert_eq!(machine.uses().0, opened, "nobody opened it meanwhile");
    clock.pass_s(1);
    assert_eq!(counter_uj(&mut meter), Ok(4_000_000), "the counter went on");
    assert_eq!(machine.uses().0, opened + 1);
}

#[test]
fn a_driver_that_is_loaded_anew_counts_from_there() {
    // It was loaded but is not; it says that it was never initialised, and then nothing that helps.
    for (gone, init, closed) in [(9, 9, "meter_gpu_driver"), (1, 999, "meter_gpu")] {
        let mut machine = Machine::new(1);
        machine.set("gone", gone);
        let (mut meter, clock) = meter(&machine);
        assert_eq!(counter_uj(&mut meter), Ok(1_000_000));
        // It is unloaded: to open it again does not help.
        machine.set("load", 1);
        machine.set("init", init);
        assert_eq!(counter_uj(&mut meter), Err("meter_gpu_driver"));
        for _ in 0..3 {
            clock.pass_s(10);
            assert_eq!(counter_uj(&mut meter), Err(closed));
        }
        clock.pass_s(10);
        let (opened, _) = machine.uses();
        assert_eq!(counter_uj(&mut meter), Err(closed));
        assert_eq!(counter_uj(&mut meter), Err(closed));
        assert_eq!(machine.uses().0, opened + 1, "once in a while is enough");
        // Loaded anew, with a counter that has begun anew.
        machine.unset("init");
        machine.set("0.energy_mj", 20);
        clock.pass_s(10);
        assert_eq!(counter_uj(&mut meter), Err("meter_fell"));
        machine.set("0.energy_mj", 50);
        clock.pass_s(1);
        assert_eq!(counter_uj(&mut meter), Err("meter_rebased"));
        machine.set("0.energy_mj", 90);
        clock.pass_s(1);
        assert_eq!(counter_uj(&mut meter), Ok(1_070_000), "30 and 40 mJ are sure");
    }
}

#[test]
fn a_refusal_in_mid_run_keeps_the_library_open() {
    let mut machine = Machine::new(1);
    let (mut meter, _) = meter(&machine);
    assert_eq!(counter_uj(&mut meter), Ok(1_000_000));
    let uses = machine.uses();
    for (code, expected) in [
        (4, "meter_denied"),
        (10, "meter_gpu"),
        (3, "meter_gpu"),
        (999, "meter_gpu"),
    ] {
        machine.set("0.energy", code);
        assert_eq!(counter_uj(&mut meter), Err(expected), "{code}");
    }
    machine.unset("0.energy");
    assert_eq!(counter_uj(&mut meter), Ok(1_000_000));
    assert_eq!(machine.uses(), uses);
}

#[test]
fn a_value_that_cannot_be_is_not_believed_and_the_count_goes_on() {
    let mut machine = Machine::new(1);
    let (mut meter, clock) = meter(&machine);
    assert_eq!(counter_uj(&mut meter), Ok(1_000_000));
    for (energy_mj, code) in [
        // 10^12 J, which is the most that is taken for energy at all, and then more.
        (1_000_000_000_000_000u64, "meter_jumped"),
        (1_000_000_000_000_001, "meter_gpu_value"),
        // 10^15 J.
        (1_000_000_000_000_000_000, "meter_gpu_value"),
        (u64::MAX - 1, "meter_gpu_value"),
        (999, "meter_fell"),
    ] {
        machine.set("0.energy_mj", energy_mj);
        assert_eq!(counter_uj(&mut meter), Err(code), "{energy_mj} mJ");
    }
    machine.set("0.energy_mj", 1_300);
    clock.pass_s(1);
    assert_eq!(counter_uj(&mut meter), Ok(1_300_000));
    // As a beginning too.
    machine.set("0.energy_mj", u64::MAX - 1);
    let found = survey(&machine.library()).unwrap().remove(0);
    assert_eq!(found.meter.err().unwrap().code(), "meter_gpu_value");
    let fault = MeterError::GpuValue {
        root: name(0),
        energy_mj: u64::MAX,
    };
    assert_eq!(fault.fault(), FaultKind::Malformed);
}

#[test]
fn what_a_counter_does_while_the_machine_sleeps_is_not_guessed() {
    let mut machine = Machine::new(1);
    let (mut meter, clock) = meter(&machine);
    assert_eq!(counter_uj(&mut meter), Ok(1_000_000));
    machine.set("0.energy_mj", 1_500);
    clock.sleep_s(60);
    assert_eq!(counter_uj(&mut meter), Err("meter_slept"));
    machine.set("0.energy_mj", 1_600);
    clock.pass_s(1);
    assert_eq!(counter_uj(&mut meter), Ok(1_100_000));
}

#[test]
fn the_next_run_goes_on_where_the_last_ended() {
    let mut machine = Machine::new(1);
    let (mut before, _) = meter(&machine);
    let last = before.read().unwrap();
    drop(before);
    assert_eq!(machine.uses().0, machine.uses().1, "all is shut down");
    machine.set("0.energy_mj", 61_000);
    let (mut next, clock) = meter(&machine);
    next.resume(&last);
    clock.pass_s(60);
    assert_eq!(counter_uj(&mut next), Ok(61_000_000));
}

/// A machine with a GPU meters it; others have nothing to show here.
#[test]
fn a_real_gpu_counts() {
    let is_required = std::env::var_os("WATTLE_REQUIRE_GPU").is_some();
    let found = match super::survey(Path::new(LIBRARY), Duration::from_secs(60)) {
        Ok(found) => found,
        Err(none) => {
            assert!(!is_required, "{}", none.reason);
            eprintln!("nothing was tested here: {}", none.reason);
            return;
        }
    };
    let mut meters: Vec<_> = found.into_iter().filter_map(|found| found.meter.ok()).collect();
    assert!(!is_required || !meters.is_empty());
    for meter in &mut meters {
        let before = meter.read().unwrap().remove(0);
        std::thread::sleep(Duration::from_millis(500));
        let after = meter.read().unwrap().remove(0);
        let (grown_uj, span_ns) = (after.counter_uj - before.counter_uj, after.at_ns - before.at_ns);
        assert!(
            grown_uj > 0 && grown_uj < span_ns * 2,
            "{grown_uj} µJ in {span_ns} ns, {}",
            meter.describe()
        );
    }
}
