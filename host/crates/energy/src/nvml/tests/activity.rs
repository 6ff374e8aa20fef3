//! What the driver's samples say of use.

use super::*;

/// A probe of all GPUs of a machine, after its first look.
fn probe(machine: &Machine) -> GpuProbe {
    let (meters, _) = meters(machine);
    let mut roots: Vec<_> = meters.iter().flat_map(|meter| meter.roots()).collect();
    let other = Root {
        name: "package-0".into(),
        kind: "rapl".into(),
        ..roots[0].clone()
    };
    roots.push(other);
    GpuProbe::new(&machine.library(), &roots)
}

fn busy(gpu: usize, span_us: u64, busy_us: Option<u64>) -> GpuActivity {
    GpuActivity {
        root: name(gpu),
        span_us,
        busy_us,
        processes: Vec::new(),
    }
}

#[test]
fn busy_time_is_what_the_driver_sampled_since_the_look_before() {
    let mut machine = Machine::new(2);
    machine.set("0.samples", 1);
    machine.set("0.sample.0", "1000000 90");
    let mut probe = probe(&machine);
    // A beginning has no span; a GPU that does not say is not idle.
    assert_eq!(probe.read(), [busy(0, 0, Some(0)), busy(1, 0, None)]);
    assert_eq!(probe.read()[0], busy(0, 0, Some(0)), "nothing new");
    machine.set("0.samples", 5);
    machine.set("0.sample.1", "1100000 50");
    // Unordered, and one of more than all, whose span is the next one's.
    machine.set("0.sample.4", "1300000 101");
    machine.set("0.sample.2", "1400000 100");
    machine.set("0.sample.3", "1200000 0");
    assert_eq!(probe.read()[0], busy(0, 400_000, Some(250_000)));
}

#[test]
fn processes_are_told_once_for_each_sample() {
    let mut machine = Machine::new(1);
    machine.set("0.samples", 0);
    machine.set("0.processes", 5);
    machine.set("0.process.0", "42 1000 30");
    machine.set("0.process.1", "7 1500 12");
    machine.set("0.process.2", "42 1600 35");
    machine.set("0.process.3", "0 0 0");
    machine.set("0.process.4", "42 1700 101");
    let mut probe = probe(&machine);
    let processes = [(7, 120_000), (42, 350_000)].map(|(pid, sm_ppm)| GpuProcess { pid, sm_ppm });
    assert_eq!(probe.read()[0].processes, processes);
    assert_eq!(probe.read()[0].processes, []);
}

#[test]
fn a_gpu_that_is_lost_is_not_known_and_the_others_are() {
    let mut machine = Machine::new(2);
    machine.set("0.samples", 0);
    machine.set("1.samples", 0);
    let mut probe = probe(&machine);
    machine.set("0.handle", 15);
    assert_eq!(probe.read(), [busy(0, 0, None), busy(1, 0, Some(0))]);
}
