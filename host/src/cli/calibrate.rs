//! `wattle calibrate`

use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use domain::TenantId;
use domain::calibrate::Calibration;
use domain::energy::Provenance;
use domain::estimator::Banded;
use domain::weights::Feature;
use energy::ActivityProbe;
use inference::Inference;
use runtime::Exercises;
use serde_json::{Value, json};

use super::output::{self, say};
use crate::config::{ConfigPath, ServeArgs};
use crate::flow::calibrate::{self, Bench, CalibrateError, Calibrated, Loads, Plan, Report};
use crate::flow::learnt::Learnt;
use crate::serve;

/// Others' share of the CPU time, in millionths, from which on the loads are not alone.
const CROWDED_PPM: u64 = 50_000;

/// Takes the flags of `serve`: it reads the same meters, and the next host on this data directory starts from what
/// it finds.
#[derive(Args, Debug)]
pub struct CalibrateArgs {
    /// Milliseconds for which each load is metered; meters that are slow to follow want more.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(50..=600_000))]
    load_ms: u64,
    /// How often all loads are run.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(2..=100))]
    rounds: u32,
    #[command(flatten)]
    pub(super) path: ConfigPath,
    #[command(flatten)]
    serve: Box<ServeArgs>,
}

/// Does it.
pub fn run(args: &CalibrateArgs, json: bool) -> anyhow::Result<()> {
    let serve = &args.serve;
    serve.check()?;
    let data = &serve.data;
    serve::data_dir(data).with_context(|| format!("the data directory {}", data.display()))?;
    // A host would take the loads for others', and write down what it has learnt over what is found here.
    let _directory = serve::lock(data)?;
    let found = serve::meters(serve)?;
    let _roots = serve::lock_roots(&found)?;
    let report = measure(args, found).map_err(coded)?;
    let path = data.join("learnt");
    if let Err(error) = calibrate::keep(&report, &Learnt::open(path.clone())) {
        for line in remarks(&report) {
            eprintln!("{line}");
        }
        return Err(coded(error));
    }
    if json {
        let mut found = as_json(&report);
        found["kept"] = json!(path.display().to_string());
        return output::say_json(&found);
    }
    for root in &report.roots {
        show(root, args)?;
    }
    for line in remarks(&report) {
        say(line)?;
    }
    Ok(say(format_args!(
        "kept in {}: the next `wattle serve` there starts from it",
        path.display()
    ))?)
}

/// The stable code behind the words.
fn coded(error: CalibrateError) -> anyhow::Error {
    let code = error.code();
    anyhow::Error::from(error).context(code)
}

fn measure(args: &CalibrateArgs, found: energy::Found) -> Result<Report, CalibrateError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(CalibrateError::Start)?;
    let graphs = runtime.block_on(graphs(&args.serve))?;
    let guests = Exercises::new()?;
    let loads = Loads {
        guests: &guests,
        graphs: &graphs,
        runtime: runtime.handle(),
    };
    let length = Duration::from_millis(args.load_ms);
    let plan = Plan {
        length,
        lead: length / 4,
        rounds: args.rounds,
        threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
    };
    let bench = Bench::new(found.meters, ActivityProbe::new(|| None))?;
    let rounds = args.rounds;
    bench.run(&loads, &plan, |round, kind| {
        eprintln!("round {} of {rounds}: {kind}", round + 1);
    })
}

/// A graph on each backend that a host with these flags would have.
async fn graphs(serve: &ServeArgs) -> Result<Vec<inference::Exercise>, CalibrateError> {
    let mut worker = serve::graph_worker().map_err(CalibrateError::Start)?;
    worker.onnxruntime = crate::onnxruntime::find(serve.onnxruntime.as_deref(), &worker)
        .await
        .map_err(|error| CalibrateError::Start(std::io::Error::other(error)))?;
    let inference = Inference::new(inference::Options::default(), worker);
    let cell = domain::UsageCell::default();
    Ok(inference.exercises(TenantId(uuid::Uuid::nil()), &cell).await?)
}

/// What a root's figures are of, in the order of [`Feature::ALL`], with the unit of one of them and how many
/// femtojoules that is.
const FIGURES: [(Feature, &str, &str, f64); 5] = [
    (Feature::Guest, "a CPU, while it works", "W", 1e6),
    (Feature::Model, "a CPU, while a model runs", "W", 1e6),
    (Feature::Traffic, "a byte in or out of a guest", "nJ", 1e6),
    (Feature::Fuel, "a unit of fuel", "nJ", 1e6),
    (Feature::Busy, "a device, while it works", "W", 1e6),
];

fn show(found: &Calibrated, args: &CalibrateArgs) -> anyhow::Result<()> {
    let Calibrated {
        root, loads, lost, ..
    } = found;
    say(format_args!(
        "root '{}' ({}, {}): {loads} loads of {}.{} s{}",
        root.name,
        root.kind,
        root.provenance.as_str(),
        args.load_ms / 1_000,
        args.load_ms % 1_000 / 100,
        match lost {
            0 => String::new(),
            lost => format!(", {lost} more in which it was not read"),
        }
    ))?;
    let fitted = match &found.fitted {
        Ok(fitted) => fitted,
        Err(error) => return Ok(say(format_args!("  nothing is known of it: {error}"))?),
    };
    let mut table = output::table(&["what", "costs", "± 95 %"], &[1, 2]);
    for (what, unit, scale, banded) in figures(fitted) {
        let banded = banded.with_meter(root.uncertainty_ppm);
        table.add_row([
            what.to_owned(),
            quantity(banded.value, scale, unit),
            quantity(banded.band, scale, unit),
        ]);
    }
    say(table.trim_fmt())?;
    Ok(say(format_args!(
        "  {} % of the power is left unexplained\n",
        fitted.residual_ppm.div_ceil(10_000)
    ))?)
}

fn figures(fitted: &Calibration) -> Vec<(&'static str, &'static str, f64, Banded)> {
    let mut figures = vec![("nothing", "W", 1e6, fitted.floor_uw)];
    figures.extend(FIGURES.into_iter().filter_map(|(feature, what, unit, scale)| {
        let banded = fitted.weights.get(feature as usize).copied().flatten()?;
        Some((what, unit, scale, banded))
    }));
    figures
}

/// With as many digits as say something.
fn quantity(count: u64, scale: f64, unit: &str) -> String {
    let amount = count as f64 / scale;
    match amount {
        0.0 => format!("0 {unit}"),
        ..0.01 => format!("{amount:.6} {unit}"),
        ..10.0 => format!("{amount:.3} {unit}"),
        _ => format!("{amount:.1} {unit}"),
    }
}

/// What must be known of the figures, a line each.
fn remarks(report: &Report) -> Vec<String> {
    let mut remarks = Vec::new();
    for found in &report.roots {
        let root = &found.root;
        if root.provenance != Provenance::Measured {
            remarks.push(format!(
                "nothing was measured on '{}': it is computed from the CPU's utilisation (±{} %), and the loads only \
                 read back what its model takes for true; a CPU costs the same there whatever it does. Tell the \
                 machine's own watts (--meter-idle-w, --meter-max-w) or bring a meter: `wattle doctor` says which",
                root.name,
                root.uncertainty_ppm / 10_000
            ));
        }
    }
    if report.others_ppm > CROWDED_PPM {
        remarks.push(format!(
            "others used {} % of the CPU time meanwhile: calibrate again when the machine is quiet",
            report.others_ppm / 10_000
        ));
    }
    remarks
}

fn as_json(report: &Report) -> Value {
    let banded = |banded: Banded, ppm: u32| {
        let Banded { value, band } = banded.with_meter(ppm);
        json!({ "value": value, "band": band })
    };
    let root = |found: &Calibrated| {
        let ppm = found.root.uncertainty_ppm;
        let fitted = found.fitted.as_ref();
        let weights = fitted.ok().map(|fitted| {
            let weight = |feature: Feature| {
                let mut weight = banded(fitted.weights.get(feature as usize).copied().flatten()?, ppm);
                weight["feature"] = json!(feature.as_str());
                Some(weight)
            };
            Feature::ALL.into_iter().filter_map(weight).collect::<Vec<_>>()
        });
        json!({
            "root": found.root.name,
            "kind": found.root.kind,
            "provenance": found.root.provenance.as_str(),
            "is_measured": found.root.provenance == Provenance::Measured,
            "uncertainty_ppm": ppm,
            "loads": found.loads,
            "loads_lost": found.lost,
            "floor_uw": fitted.ok().map(|fitted| banded(fitted.floor_uw, ppm)),
            "weights": weights,
            "residual_ppm": fitted.ok().map(|fitted| fitted.residual_ppm),
            "code": fitted.err().map(|error| error.code()),
            "reason": fitted.err().map(ToString::to_string),
        })
    };
    json!({
        "roots": report.roots.iter().map(root).collect::<Vec<_>>(),
        "others_ppm": report.others_ppm,
        "remarks": remarks(report),
    })
}

#[cfg(test)]
mod tests {
    use domain::calibrate::CalibrationError;
    use domain::energy::Root;
    use domain::weights::FEATURES;

    use super::*;

    fn found(provenance: Provenance, fitted: Result<Calibration, CalibrationError>) -> Calibrated {
        Calibrated {
            root: Root {
                name: "modelled".into(),
                kind: "modelled".into(),
                provenance,
                uncertainty_ppm: 500_000,
                model_version: 1,
            },
            loads: 9,
            lost: 0,
            fitted,
        }
    }

    fn fitted() -> Calibration {
        let mut weights = [None; FEATURES];
        weights[Feature::Guest as usize] = Some(Banded {
            value: 5_000_000,
            band: 1_000,
        });
        Calibration {
            floor_uw: Banded {
                value: 20_000_000,
                band: 0,
            },
            weights,
            residual_ppm: 12_345,
        }
    }

    #[test]
    fn a_model_never_passes_for_a_measurement() {
        let report = |provenance| Report {
            roots: vec![found(provenance, Ok(fitted()))],
            others_ppm: 0,
        };
        assert!(remarks(&report(Provenance::Measured)).is_empty());
        for provenance in [Provenance::Modelled, Provenance::Estimated] {
            let report = report(provenance);
            let said = remarks(&report).join("\n");
            assert!(
                said.contains("nothing was measured") && said.contains("±50 %"),
                "{said}"
            );
            let json = as_json(&report);
            let root = &json["roots"][0];
            assert_eq!(root["is_measured"], false);
            // 1.96 · 50 % of it, however exactly the loads fit.
            assert_eq!(
                root["floor_uw"],
                json!({ "value": 20_000_000, "band": 19_600_000 })
            );
            assert_eq!(root["weights"][0]["feature"], "guest");
            assert_eq!(root["weights"][0]["band"], 4_900_001);
        }
    }

    #[test]
    fn what_is_not_known_is_null_and_says_why() {
        let report = Report {
            roots: vec![found(Provenance::Measured, Err(CalibrationError::Alike))],
            others_ppm: 70_000,
        };
        let json = as_json(&report);
        let root = &json["roots"][0];
        assert!(root["floor_uw"].is_null() && root["weights"].is_null(), "{root}");
        assert_eq!(root["code"], "calibration_alike");
        assert!(remarks(&report)[0].contains("others used 7 %"));
    }

    #[test]
    fn figures_keep_the_digits_that_say_something() {
        assert_eq!(quantity(0, 1e6, "W"), "0 W");
        assert_eq!(quantity(4_321, 1e6, "nJ"), "0.004321 nJ");
        assert_eq!(quantity(5_000_000, 1e6, "W"), "5.000 W");
        assert_eq!(quantity(123_456_789, 1e6, "W"), "123.5 W");
    }
}
