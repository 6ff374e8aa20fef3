//! Sensors of energy or power that drivers show under `/sys/class/hwmon`, a BMC's wall power among them.
//!
//! Hundreds of drivers show sensors there and most measure a part of something: only those are counted whose
//! driver says what they measure. A sensor of the whole machine overlaps every other meter: beside these it
//! only calibrates them, and it is the root where there is no better one. A sensor of a CPU is a root where
//! RAPL shows none. All else is left; a site that knows better names the path as a file meter.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use domain::energy::{Provenance, Reading, Root};

use crate::model::watts;
use crate::sensor::{self, Quantity, Sensor, Spec};
use crate::tally::PowerBound;
use crate::{Meter, MeterError};

/// Sensors behind a BMC are refreshed every second or slower.
const STILL_AFTER: Duration = Duration::from_secs(60);

/// Where the driver states none (`power1_accuracy`): a judgement, as sensors of boards have a tolerance of a
/// few per cent.
const SENSOR_PPM: u32 = 50_000;

/// What a sensor measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Measures {
    Machine,
    Cpu,
    /// Why it is not counted.
    Other(&'static str),
}

impl Measures {
    /// By the driver and the sensor's label (kernel documentation, `Documentation/hwmon/<driver>.rst`).
    fn of(driver: &str, label: &str) -> Self {
        match driver {
            "power_meter" | "aem1" | "aem2" => Self::Machine,
            "ibmpowernv" if label.starts_with("System") => Self::Machine,
            "ibmpowernv" => Self::Other("it measures a part of the machine"),
            "amd_energy" | "zenergy" if label.starts_with("Esocket") => Self::Cpu,
            "amd_energy" | "zenergy" => Self::Other("its energy is in its socket's already"),
            "apm_xgene" if label == "CPU power" => Self::Cpu,
            "fam15h_power" => Self::Cpu,
            "amdgpu" | "i915" | "nouveau" | "radeon" | "xe" => {
                Self::Other("it measures a GPU, which needs a meter of its own")
            }
            _ => Self::Other(
                "the driver does not say what it measures: name it as a file meter if it is no part of \
                 another root",
            ),
        }
    }
}

/// A sensor in a folder of hwmon.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    driver: String,
    label: String,
    /// The file with its number.
    pub(crate) path: PathBuf,
    quantity: Quantity,
    pub(crate) measures: Measures,
    /// Relative, in parts per million, where the driver states it.
    accuracy_ppm: Option<u32>,
}

impl Found {
    /// The sensor in words.
    pub(crate) fn subject(&self) -> String {
        let file = self.path.file_name().unwrap_or_default().to_string_lossy();
        let folder = self.path.parent().and_then(Path::file_name).unwrap_or_default();
        let label = if self.label.is_empty() {
            String::new()
        } else {
            format!(", {}", self.label)
        };
        format!("{}/{file} ({}{label})", folder.to_string_lossy(), self.driver)
    }

    /// The name of its root: `wall`, or the driver and the label.
    pub(crate) fn root(&self) -> String {
        if self.measures == Measures::Machine {
            return "wall".to_owned();
        }
        let name = format!("{}-{}", self.driver, self.label).to_lowercase();
        let fit = |c: char| match c {
            'a'..='z' | '0'..='9' | '_' | '.' => c,
            _ => '-',
        };
        let name: String = name.chars().map(fit).take(64).collect();
        name.trim_matches('-').to_owned()
    }

    /// A reading now, to know that there is one.
    pub(crate) fn probe(&self) -> Result<u64, MeterError> {
        sensor::number(&self.path, self.quantity)
    }
}

/// A meter of one sensor.
pub struct HwmonMeter {
    sensor: Sensor,
    subject: String,
}

impl HwmonMeter {
    pub(crate) fn new(found: &Found) -> Result<Self, MeterError> {
        let root = Root {
            name: found.root(),
            kind: "hwmon".into(),
            provenance: Provenance::Measured,
            uncertainty_ppm: found.accuracy_ppm.unwrap_or(SENSOR_PPM),
            model_version: 1,
        };
        // Twice the largest of their kind today: eight accelerators of 1 kW with all around them, a CPU of 500 W.
        let (power_uw, source) = match found.measures {
            Measures::Machine => (25_000_000_000, "no machine takes more"),
            Measures::Cpu | Measures::Other(_) => (1_000_000_000, "no CPU package takes more"),
        };
        let bound = PowerBound {
            power_uw,
            source: source.into(),
        };
        let sensor = Sensor::new(Spec {
            root,
            path: found.path.clone(),
            quantity: found.quantity,
            floor_uw: 0,
            bound,
            highest_uj: None,
            sleep_loses: true,
        })?;
        let subject = found.subject();
        Ok(Self { sensor, subject })
    }
}

impl Meter for HwmonMeter {
    fn read(&mut self) -> Result<Vec<Reading>, MeterError> {
        Ok(vec![self.sensor.read()?])
    }

    fn resume(&mut self, last: &[Reading]) {
        self.sensor.resume(last);
    }

    fn roots(&self) -> Vec<Root> {
        vec![self.sensor.root().clone()]
    }

    fn period(&self) -> Option<Duration> {
        self.sensor.period()
    }

    fn still_after(&self) -> Option<Duration> {
        Some(STILL_AFTER)
    }

    fn describe(&self) -> String {
        let bound = self.sensor.bound();
        format!(
            "root '{}', sensor {}, at most {} believed ({})",
            self.sensor.root().name,
            self.subject,
            watts(bound.power_uw),
            bound.source
        )
    }
}

/// All sensors of energy and power below `root`, by folder and number; nothing where there is no hwmon.
pub(crate) fn survey(root: &Path) -> Vec<Found> {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    folders.sort();
    folders.iter().flat_map(|folder| sensors(folder)).collect()
}

/// Of sensors with one label the counter, as a sum of power misses what is between two reads; and of power
/// the average, which the hardware takes over all of its interval.
fn sensors(folder: &Path) -> Vec<Found> {
    let driver = sensor::text(&folder.join("name")).unwrap_or_default();
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for (kind, ending, quantity) in [
        ("energy", "_input", Quantity::EnergyUj),
        ("power", "_average", Quantity::PowerUw),
        ("power", "_input", Quantity::PowerUw),
    ] {
        for number in numbers(folder, kind, ending) {
            let stem = format!("{kind}{number}");
            let label = sensor::text(&folder.join(format!("{stem}_label"))).unwrap_or_default();
            let key = if label.is_empty() {
                number.to_string()
            } else {
                label.clone()
            };
            if !seen.insert(key) {
                continue;
            }
            found.push(Found {
                measures: Measures::of(&driver, &label),
                accuracy_ppm: accuracy_ppm(&folder.join(format!("{stem}_accuracy"))),
                driver: driver.clone(),
                path: folder.join(format!("{stem}{ending}")),
                label,
                quantity,
            });
        }
    }
    found
}

/// The sensors' numbers of a kind, in order.
fn numbers(folder: &Path, kind: &str, ending: &str) -> BTreeSet<u32> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let number = |name: String| name.strip_prefix(kind)?.strip_suffix(ending)?.parse().ok();
    entries
        .filter_map(|entry| number(entry.file_name().into_string().ok()?))
        .collect()
}

/// ACPI states how much of a value is right, such as `95.0%`.
fn accuracy_ppm(path: &Path) -> Option<u32> {
    let text = sensor::text(path).ok()?;
    let percent: f64 = text.trim_end_matches('%').parse().ok()?;
    let right = (0.0..100.0).contains(&percent);
    right.then(|| ((100.0 - percent) * 1e4).round() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trees::{Tree, moments};

    fn found(machine: &str) -> Vec<(String, Measures, String)> {
        let tree = Tree::hwmon(machine);
        let found = survey(tree.root());
        found
            .iter()
            .map(|found| (found.subject(), found.measures, found.root()))
            .collect()
    }

    #[test]
    fn a_wall_meter_is_known_by_its_driver() {
        let found = found("acpi-power-meter");
        let wall: Vec<_> = found
            .iter()
            .filter(|(_, measures, _)| *measures == Measures::Machine)
            .collect();
        assert_eq!(wall.len(), 1, "{found:?}");
        assert_eq!(wall[0].0, "hwmon1/power1_average (power_meter)");
        assert_eq!(wall[0].2, "wall");
    }

    #[test]
    fn one_label_is_one_sensor_and_a_counter_goes_first() {
        let found = found("ibmpowernv");
        let subjects: Vec<_> = found.iter().map(|(subject, ..)| subject.as_str()).collect();
        assert_eq!(
            subjects,
            [
                "hwmon0/energy1_input (ibmpowernv, System)",
                "hwmon0/power2_input (ibmpowernv, Chip 0 Vdd)",
            ]
        );
        assert_eq!(found[0].1, Measures::Machine);
        assert!(matches!(found[1].1, Measures::Other(why) if why.contains("a part")));
    }

    #[test]
    fn a_counter_goes_before_power_and_parts_are_left() {
        let found = found("amd-energy");
        let cpus: Vec<_> = found
            .iter()
            .filter(|(_, measures, _)| *measures == Measures::Cpu)
            .map(|(subject, _, root)| (subject.as_str(), root.as_str()))
            .collect();
        assert_eq!(
            cpus,
            [
                (
                    "hwmon3/energy17_input (amd_energy, Esocket0)",
                    "amd_energy-esocket0"
                ),
                (
                    "hwmon3/energy18_input (amd_energy, Esocket1)",
                    "amd_energy-esocket1"
                ),
            ]
        );
        let power = found.iter().filter(|(subject, ..)| subject.contains("power9"));
        let label: Vec<_> = power.collect();
        assert!(label.is_empty(), "its label has a counter: {label:?}");
        let gpu = found
            .iter()
            .find(|(subject, ..)| subject.contains("amdgpu"))
            .unwrap();
        assert!(matches!(gpu.1, Measures::Other(why) if why.contains("GPU")));
    }

    #[test]
    fn the_stated_accuracy_is_the_uncertainty() {
        let tree = Tree::hwmon("acpi-power-meter");
        let found = survey(tree.root());
        let wall = found
            .iter()
            .find(|found| found.measures == Measures::Machine)
            .unwrap();
        let mut meter = HwmonMeter::new(wall).unwrap();
        let clock = moments();
        let now = clock.clone();
        meter.sensor.set_clock(move || now.now());
        let first = meter.read().unwrap().remove(0);
        assert_eq!((first.root.uncertainty_ppm, first.counter_uj), (70_000, 0));
        // 212 W at first, 188 W two seconds later.
        tree.write("hwmon1/power1_average", "188000000\n");
        clock.pass_s(2);
        assert_eq!(meter.read().unwrap()[0].counter_uj, 400_000_000);
        // A BMC that answers nonsense, or nothing.
        for (text, code) in [
            ("4294967295000", "meter_jumped"),
            ("n/a", "meter_malformed"),
            ("-1", "meter_malformed"),
        ] {
            tree.write("hwmon1/power1_average", text);
            assert_eq!(meter.read().unwrap_err().code(), code, "{text}");
        }
        tree.remove("hwmon1/power1_average");
        assert_eq!(meter.read().unwrap_err().code(), "meter_io");
        assert_eq!(accuracy_ppm(Path::new("/nowhere")), None);
    }

    #[test]
    fn no_hwmon_is_no_sensor() {
        assert!(survey(Path::new("/nowhere")).is_empty());
    }
}
