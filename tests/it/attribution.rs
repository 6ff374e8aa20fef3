//! The attribution against a simulated machine whose true energies are known. The figures of whole scenarios
//! are `cargo xtask bench attribution`'s to give; here are small ones, with the bars that hold.

use anyhow::Context as _;
use tests::sim::score::off_pct;
use tests::sim::{Scenario, Score, run};

const MIXED: &str = r#"
name = "small"
about = "Three kinds of tenants beside foreign load"
seconds = 120
warm_up_seconds = 240

[machine]
cores = 4

[[foreign]]
busy = 0.3
mix = "branchy"
on_seconds = 20
off_seconds = 30

[[tenant]]
name = "acacia"
calls_per_second = 80
guest = { ms = 2, mix = "integer" }
on_seconds = 20
off_seconds = 20

[[tenant]]
name = "birch"
calls_per_second = 8
guest = { ms = 1, mix = "branchy" }
model = { ms = 60, mix = "vector" }
bytes = 100_000
on_seconds = 30
off_seconds = 15

[[tenant]]
name = "cedar"
calls_per_second = 12
guest = { ms = 1, mix = "branchy" }
model = { ms = 40, mix = "memory" }
on_seconds = 15
off_seconds = 15
"#;

fn score(text: &str, seed: u64) -> anyhow::Result<Score> {
    Ok(run(&Scenario::parse(text)?, seed))
}

#[test]
fn charges_are_near_the_truth_and_nearer_than_by_cpu_time() -> anyhow::Result<()> {
    for seed in [1, 2] {
        let score = score(MIXED, seed)?;
        assert_eq!(score.leak_uj, 0);
        assert!(score.mean_abs_pct() < 8.0, "{score}");
        assert!(score.mean_abs_pct() < score.by_time_pct(), "{score}");
        let package = score.roots.first().context("a root")?;
        assert!(
            off_pct(package.idle_j, package.true_idle_j).abs() < 3.0,
            "{score}"
        );
        let sampled = score.tenants.iter().all(|row| row.sampling_pct < 0.1);
        assert!(sampled, "the truth itself is not sure enough: {score}");
    }
    Ok(())
}

#[test]
fn the_same_seed_gives_the_same_figures_and_another_does_not() -> anyhow::Result<()> {
    let text = MIXED
        .replace("seconds = 120", "seconds = 10")
        .replace("= 240", "= 40");
    let figures = |seed| anyhow::Ok(score(&text, seed)?.to_string());
    assert_eq!(figures(3)?, figures(3)?);
    assert_ne!(figures(3)?, figures(4)?);
    Ok(())
}

#[test]
fn nothing_leaks_through_wraps_gaps_noise_and_late_readings() -> anyhow::Result<()> {
    let poor = "[meter]\nnoise = 0.05\nrange_uj = 300_000_000\ngaps = 0.2\nlate_ms = 90\n\n[machine]";
    let text = MIXED.replace("[machine]", poor).replace("= 240", "= 40");
    let score = score(&text, 5)?;
    assert_eq!(score.leak_uj, 0);
    assert!(!score.good_meter);
    let unattributed_j: f64 = score.roots.iter().map(|root| root.unattributed_j).sum();
    assert!(unattributed_j > 0.0, "gaps are nobody's: {score}");
    Ok(())
}

#[test]
fn a_scenario_that_cannot_be_is_refused_by_its_key() {
    let cases = [
        (
            "seconds = 120",
            "seconds = 0",
            "'seconds' must be from 1 to 86,400",
        ),
        ("cores = 4", "cores = 33", "'machine.cores' must be from 1 to 32"),
        ("name = \"acacia\"", "name = \"Acacia!\"", "'tenant.name' must be"),
        ("busy = 0.3", "busyness = 0.3", "unknown field `busyness`"),
        (
            "seconds = 120",
            "seconds = 120\nlearn_ms = 300",
            "'learn_ms' must be a whole part",
        ),
        (
            "cores = 4",
            "cores = 4\nsteps = []",
            "'machine.steps' must be at least one",
        ),
    ];
    for (from, to, message) in cases {
        let error = Scenario::parse(&MIXED.replacen(from, to, 1)).err();
        let error = error.map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains(message), "{to}: {error}");
    }
}
