use super::*;

#[test]
fn the_curve_is_met_at_its_points_and_linear_between() {
    let model = PowerModel::from_ends(100_000_000, 300_000_000).unwrap();
    let expected = [
        (0, 100_000_000),
        (5, 116_100_000),
        (10, 132_200_000),
        (50, 183_800_000),
        (55, 191_600_000),
        (95, 286_900_000),
        (99, 297_380_000),
        (100, 300_000_000),
        (101, 300_000_000),
    ];
    for (percent, power_uw) in expected {
        assert_eq!(model.power_uw(percent, 100), power_uw, "{percent} %");
        assert_eq!(model.power_uw(percent * 7, 700), power_uw, "{percent} % of 700");
    }
    assert_eq!(model.power_uw(0, 0), 100_000_000);
}

#[test]
fn power_never_falls_with_use() {
    let model = PowerModel::from_ends(1, 1_000_000_007).unwrap();
    let powers: Vec<_> = (0..=997).map(|busy| model.power_uw(busy, 997)).collect();
    assert!(powers.is_sorted());
    assert_eq!((powers[0], powers[997]), (1, 1_000_000_007));
}

fn machine(cpu: &str, chips: u32, threads: u32, memory_gb: u64) -> Machine {
    Machine {
        cpu: Some(cpu.into()),
        chips,
        threads,
        memory_bytes: memory_gb * 1_000_000_000,
        is_virtual: false,
    }
}

fn model(machine: &Machine) -> PowerModel {
    PowerModel::of(machine).unwrap()
}

#[test]
fn what_is_less_known_is_less_certain() {
    let said = PowerModel::from_ends(44_440_000, 202_000_000).unwrap();
    let server = machine("AMD EPYC 7763 64-Core Processor", 2, 256, 256);
    let known = model(&server);
    // Eight servers with two of them are in the file, at 75.6 to 122 W and 406 to 461 W.
    assert_eq!((known.idle_uw(), known.max_uw()), (102_000_000, 455_000_000));
    let by_tdp = model(&machine("AMD EPYC 7713 64-Core Processor", 2, 256, 256));
    let guess = model(&machine("AMD EPYC of the next century", 2, 4, 256));
    let models = [&said, &known, &by_tdp, &guess];
    assert!(
        models.is_sorted_by(|a, b| a.uncertainty_ppm() < b.uncertainty_ppm()),
        "{models:?}"
    );
    let modelled = models.map(|model| model.provenance() == Provenance::Modelled);
    assert_eq!(modelled, [true, true, true, false]);
    // 13.87 + 0.0784 · 450 + 0.1232 · 256.
    assert_eq!(by_tdp.idle_uw(), 80_689_200);
    assert_eq!(guess.max_uw(), 12_120_000);
    assert_eq!(
        by_tdp.describe(),
        "80.6 W to 448.8 W by CPU utilisation, ±31 % (TDP of 450 W, 256 GB of memory)"
    );
    assert!(
        known
            .describe()
            .contains("±16 % (measured servers with AMD EPYC 7763, 2 of them)"),
        "{}",
        known.describe()
    );
}

#[test]
fn memory_and_a_share_of_the_machine_count() {
    let whole = machine("AMD EPYC 7763 64-Core Processor", 2, 256, 256);
    let more = Machine {
        memory_bytes: 1_256_000_000_000,
        ..whole.clone()
    };
    // 1,000 GB at 0.1232 W and 0.2626 W.
    assert_eq!(model(&more).idle_uw() - model(&whole).idle_uw(), 123_200_000);
    assert_eq!(model(&more).max_uw() - model(&whole).max_uw(), 262_600_000);
    let little = Machine {
        memory_bytes: 0,
        ..whole.clone()
    };
    assert!(model(&little).idle_uw() < model(&whole).idle_uw());
    assert!(model(&little).idle_uw() * 2 >= model(&whole).idle_uw());
    // An eighth of a chip with an eighth of its memory, and less sure.
    let part = Machine {
        threads: 16,
        memory_bytes: 16_000_000_000,
        is_virtual: true,
        ..whole.clone()
    };
    let part = model(&part);
    assert!((6_000_000..8_000_000).contains(&part.idle_uw()), "{part:?}");
    assert!(part.uncertainty_ppm() > model(&whole).uncertainty_ppm());
    // By its TDP nobody can tell which part of a chip it has.
    let unknown = Machine {
        is_virtual: true,
        ..machine("AMD EPYC 7713 64-Core Processor", 1, 4, 8)
    };
    assert_eq!(model(&unknown).provenance(), Provenance::Estimated);
    // What is in no rack is guessed.
    let small = model(&machine("Intel(R) Atom(TM) CPU C3558 @ 2.20GHz", 1, 4, 8));
    assert_eq!(small.provenance(), Provenance::Estimated);
    let nameless = Machine {
        cpu: None,
        ..whole.clone()
    };
    assert_eq!(model(&nameless).provenance(), Provenance::Estimated);
}

/// Ends by regression on `rows`, by relative least squares: board, TDP, memory.
fn fit(rows: &[([f64; 3], f64)]) -> [f64; 3] {
    let mut table = [[0.0; 4]; 3];
    for (terms, watts) in rows {
        let weight = 1.0 / (watts * watts);
        for (row, term) in table.iter_mut().zip(terms) {
            for (cell, other) in row.iter_mut().zip(terms.iter().chain([watts])) {
                *cell += weight * term * other;
            }
        }
    }
    for at in 0..3 {
        let lead = table[at].map(|cell| cell / table[at][at]);
        table[at] = lead;
        for other in (0..3).filter(|other| *other != at) {
            let factor = table[other][at];
            for (cell, lead) in table[other].iter_mut().zip(lead) {
                *cell -= factor * lead;
            }
        }
    }
    table.map(|row| row[3])
}

/// The servers' terms and watts at an end, by CPU.
fn rows(of: fn(&Server) -> f64) -> std::collections::BTreeMap<&'static str, Vec<([f64; 3], f64)>> {
    let mut rows = std::collections::BTreeMap::<_, Vec<_>>::new();
    for server in cpus::servers() {
        // One is newer than the list of TDPs.
        if let Some(tdp_w) = cpus::tdp_w(&cpus::plain(server.cpu)) {
            let terms = [1.0, tdp_w * server.chips, server.memory_gb];
            rows.entry(server.cpu).or_default().push((terms, of(&server)));
        }
    }
    rows
}

fn mean(of: impl Iterator<Item = f64>) -> f64 {
    let all: Vec<_> = of.collect();
    all.iter().sum::<f64>() / all.len() as f64
}

/// The constants of the regression and what they miss by are what the files say.
#[test]
fn the_regression_is_of_the_files() {
    for (of, end, misses) in [
        ((|server| server.idle_w) as fn(&Server) -> f64, &IDLE, 0.238),
        ((|server| server.max_w) as fn(&Server) -> f64, &MAX, 0.143),
    ] {
        let by_cpu = rows(of);
        assert!(by_cpu.len() > 40);
        let all: Vec<_> = by_cpu.values().flatten().copied().collect();
        let found = fit(&all);
        for (found, stated) in found.iter().zip([end.board_w, end.per_tdp, end.per_gb_w]) {
            assert!((found - stated).abs() < 0.001 * stated, "{found} is not {stated}");
        }
        // On CPUs that it has not seen.
        let missed = by_cpu.iter().map(|(cpu, unseen)| {
            let others = by_cpu.iter().filter(|(other, _)| *other != cpu);
            let others: Vec<_> = others.flat_map(|(_, rows)| rows).copied().collect();
            let by_others = fit(&others);
            mean(unseen.iter().map(|(terms, watts)| {
                let says: f64 = terms.iter().zip(by_others).map(|(term, by)| term * by).sum();
                (says / watts - 1.0).abs()
            }))
        });
        let missed = mean(missed);
        assert!((missed - misses).abs() < 0.002, "{missed} is not {misses}");
    }
    let stated = |miss: f64| (1.2533 * miss.hypot(0.066) * 1e6) as u32;
    assert!(TDP_PPM.abs_diff(stated(0.238)) < 2_000, "{}", stated(0.238));
}

/// How far a server is from the others with its CPU, per chip.
#[test]
fn servers_with_one_cpu_differ_by_what_is_stated() {
    let missed = |of: fn(&Server) -> f64| {
        let all: Vec<_> = cpus::servers().collect();
        mean(all.iter().enumerate().filter_map(|(at, server)| {
            let others = all.iter().enumerate();
            let others = others.filter(|(other, that)| *other != at && that.cpu == server.cpu);
            let mut others: Vec<_> = others.map(|(_, that)| of(that) / that.chips).collect();
            others.sort_by(f64::total_cmp);
            let median = (others.get(others.len() / 2)? + others.get((others.len() - 1) / 2)?) / 2.0;
            Some((median * server.chips / of(server) - 1.0).abs())
        }))
    };
    let (idle, max) = (missed(|server| server.idle_w), missed(|server| server.max_w));
    assert!((idle - 0.118).abs() < 0.002 && max < idle, "{idle} {max}");
    let stated = (1.2533 * 0.118_f64.hypot(0.066) * 1e6) as u32;
    assert!(SERVER_PPM.abs_diff(stated) < 2_000, "{stated}");
}

#[test]
fn impossible_ends_are_refused() {
    for (idle_uw, max_uw) in [(0, 5), (5, 5), (6, 5)] {
        assert_eq!(
            PowerModel::from_ends(idle_uw, max_uw).unwrap_err().code(),
            "meter_model"
        );
    }
    assert!(PowerModel::from_threads(0).is_err());
}
