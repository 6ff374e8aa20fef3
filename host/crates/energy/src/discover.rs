//! What this machine offers to meter it, what of that is used, and why.
//!
//! In this order, each physical joule in one root:
//! 1. a site's own file meters, as the site says;
//! 2. RAPL's packages and memory;
//! 3. sensors of CPUs under hwmon, where RAPL shows none;
//! 4. NVIDIA's GPUs, each a root beside those of the CPUs;
//! 5. a meter of the whole machine (a plug or a BMC): it calibrates the above and is never summed with them;
//!    where nothing meters the CPUs, it is the root, and the GPUs are in it;
//! 6. the power model, where there is no meter at all or of the GPUs only: it stands for a machine without these.

use std::path::PathBuf;
use std::time::Duration;

use crate::file::{Covers, FileMeter, FileSource};
use crate::hwmon::{self, HwmonMeter, Measures};
use crate::{Meter, MeterError, ModelledMeter, PowerModel, nvml, proc, rapl};

/// How long the driver of GPUs may take to answer first: it wakes them one by one, a second or two each.
const GPU_PATIENCE: Duration = Duration::from_secs(60);

/// How a candidate is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its energy is billed.
    Root,
    /// It measures the whole machine and checks the roots.
    Calibrates,
    /// It could be read and is not, as its energy is counted elsewhere or means something else; or this machine
    /// has nothing of its kind.
    Left,
    /// It cannot be read.
    Unusable,
}

impl Verdict {
    /// The name for programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Calibrates => "calibrates",
            Self::Left => "left",
            Self::Unusable => "unusable",
        }
    }
}

/// Something that might meter the machine, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// `file`, `rapl`, `hwmon`, `nvml` or `modelled`.
    pub source: &'static str,
    /// Which one.
    pub subject: String,
    /// How it is used.
    pub verdict: Verdict,
    /// Why, in words; what to do about it where something can be done.
    pub reason: String,
}

impl Candidate {
    pub(crate) fn new(
        source: &'static str,
        subject: String,
        verdict: Verdict,
        reason: impl Into<String>,
    ) -> Self {
        Self {
            source,
            subject,
            verdict,
            reason: reason.into(),
        }
    }

    pub(crate) fn unusable(source: &'static str, subject: String, error: &MeterError) -> Self {
        Self::new(source, subject, Verdict::Unusable, error.to_string())
    }
}

/// What a meter's readings are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// To be billed.
    Root,
    /// To be held against the sum of the roots, never added to it.
    Calibrates,
}

/// A meter that is used.
pub struct Chosen {
    /// The meter.
    pub meter: Box<dyn Meter>,
    /// What for.
    pub role: Role,
}

impl Chosen {
    /// A meter whose energy is billed.
    pub fn root(meter: impl Meter + 'static) -> Self {
        Self {
            meter: Box::new(meter),
            role: Role::Root,
        }
    }

    /// A meter of the whole machine.
    pub fn calibrating(meter: impl Meter + 'static) -> Self {
        Self {
            meter: Box::new(meter),
            role: Role::Calibrates,
        }
    }
}

/// Where to look, and what only the site knows.
#[derive(Clone, Debug)]
pub struct Site {
    /// Usually `/sys/class/powercap`.
    pub powercap: PathBuf,
    /// Usually `/sys/class/hwmon`.
    pub hwmon: PathBuf,
    /// The library of NVIDIA's driver: a path, or a name to be found where the system has its libraries, usually
    /// `libnvidia-ml.so.1`.
    pub nvml: PathBuf,
    /// Usually `/proc`.
    pub proc: PathBuf,
    /// The site's own meters.
    pub files: Vec<FileSource>,
    /// The name of the modelled root.
    pub modelled_root: String,
    /// The model, where there is no meter.
    pub model: PowerModel,
}

impl Site {
    /// This machine, without meters of its own.
    pub fn new(modelled_root: impl Into<String>, model: PowerModel) -> Self {
        Self {
            powercap: "/sys/class/powercap".into(),
            hwmon: "/sys/class/hwmon".into(),
            nvml: nvml::LIBRARY.into(),
            proc: proc::ROOT.into(),
            files: Vec::new(),
            modelled_root: modelled_root.into(),
            model,
        }
    }
}

/// The meters of a machine.
pub struct Found {
    /// Those to use; at least one root.
    pub meters: Vec<Chosen>,
    /// All that was looked at, in the order above.
    pub candidates: Vec<Candidate>,
}

impl Found {
    /// The names of the roots that are billed, for their locks.
    pub fn roots(&self) -> Vec<String> {
        let billed = self.meters.iter().filter(|chosen| chosen.role == Role::Root);
        billed
            .flat_map(|chosen| chosen.meter.roots())
            .map(|root| root.name)
            .collect()
    }

    fn take(&mut self, chosen: Chosen, source: &'static str, subject: String) {
        let verdict = match chosen.role {
            Role::Root => Verdict::Root,
            Role::Calibrates => Verdict::Calibrates,
        };
        let reason = match chosen.role {
            Role::Root => format!("counted as {}", chosen.meter.describe()),
            Role::Calibrates => format!(
                "it measures the whole machine, so it is held against the roots and not counted: {}",
                chosen.meter.describe()
            ),
        };
        self.candidates
            .push(Candidate::new(source, subject, verdict, reason));
        self.meters.push(chosen);
    }
}

/// Looks for the meters of a machine. `pause` waits while counters move, some milliseconds at most four times
/// for each pair of dies. What the site itself asks for must work: a file meter with a bad name is an error,
/// one that cannot be read yet is not.
pub fn discover(site: &Site, pause: &mut dyn FnMut()) -> Result<Found, MeterError> {
    let mut found = Found {
        meters: Vec::new(),
        candidates: Vec::new(),
    };
    // The whole machine's, which wait until it is known what else there is.
    let mut walls: Vec<(Box<dyn Meter>, &'static str, String)> = Vec::new();
    for source in &site.files {
        let (meter, subject) = (FileMeter::new(source)?, source.path.display().to_string());
        match source.covers {
            Covers::Machine => walls.push((Box::new(meter), "file", subject)),
            Covers::Apart => found.take(Chosen::root(meter), "file", subject),
        }
    }
    let (meters, candidates) = rapl::survey(&site.powercap, pause);
    let has_cpu = !meters.is_empty();
    found.meters.extend(meters.into_iter().map(Chosen::root));
    found.candidates.extend(candidates);

    let has_cpu = add_hwmon(&mut found, &mut walls, site, has_cpu) || has_cpu;
    let is_metered = has_cpu || !walls.is_empty();
    let has_gpu = add_gpus(&mut found, site, !has_cpu && is_metered);
    add_walls(&mut found, walls, has_cpu);
    add_model(&mut found, site, is_metered, has_gpu)?;
    check_names(&found)?;
    Ok(found)
}

/// Takes the sensors of CPUs where RAPL has none, and puts those of the machine to the walls. Whether it took
/// any.
fn add_hwmon(
    found: &mut Found,
    walls: &mut Vec<(Box<dyn Meter>, &'static str, String)>,
    site: &Site,
    has_rapl: bool,
) -> bool {
    const SOURCE: &str = "hwmon";
    let mut has_cpu = false;
    for sensor in hwmon::survey(&site.hwmon) {
        let subject = sensor.subject();
        let left = |why: &str| Candidate::new(SOURCE, sensor.subject(), Verdict::Left, why);
        let why = match sensor.measures {
            Measures::Other(why) => Some(why),
            Measures::Cpu if has_rapl => Some("RAPL counts the CPUs"),
            Measures::Cpu | Measures::Machine => None,
        };
        if let Some(why) = why {
            found.candidates.push(left(why));
            continue;
        }
        match sensor.probe().and_then(|_| HwmonMeter::new(&sensor)) {
            Err(error) => found
                .candidates
                .push(Candidate::unusable(SOURCE, subject, &error)),
            Ok(meter) if sensor.measures == Measures::Machine => {
                walls.push((Box::new(meter), SOURCE, subject));
            }
            Ok(meter) => {
                has_cpu = true;
                found.take(Chosen::root(meter), SOURCE, subject);
            }
        }
    }
    has_cpu
}

/// Takes the GPUs, unless a meter of the whole machine is the root. Whether it took any.
fn add_gpus(found: &mut Found, site: &Site, is_in_wall: bool) -> bool {
    const SOURCE: &str = "nvml";
    let gpus = match nvml::survey(&site.nvml, GPU_PATIENCE) {
        Ok(gpus) => gpus,
        Err(candidate) => {
            found.candidates.push(candidate);
            return false;
        }
    };
    let mut has_gpu = false;
    for gpu in gpus {
        match gpu.meter {
            Err(error) => found
                .candidates
                .push(Candidate::unusable(SOURCE, gpu.subject, &error)),
            Ok(_) if is_in_wall => {
                let why = "the meter of the whole machine counts it, and nothing else meters the CPUs";
                found
                    .candidates
                    .push(Candidate::new(SOURCE, gpu.subject, Verdict::Left, why));
            }
            Ok(meter) => {
                has_gpu = true;
                found.take(Chosen::root(meter), SOURCE, gpu.subject);
            }
        }
    }
    has_gpu
}

/// One meter of the whole machine is enough: the site's own before the board's.
fn add_walls(found: &mut Found, walls: Vec<(Box<dyn Meter>, &'static str, String)>, has_cpu: bool) {
    let role = if has_cpu { Role::Calibrates } else { Role::Root };
    for (n, (meter, source, subject)) in walls.into_iter().enumerate() {
        if n == 0 {
            found.take(Chosen { meter, role }, source, subject);
        } else {
            let why = "another meter measures the whole machine already";
            found
                .candidates
                .push(Candidate::new(source, subject, Verdict::Left, why));
        }
    }
}

/// The model stands for the whole machine but its GPUs, so it is left as soon as something of that is metered.
fn add_model(found: &mut Found, site: &Site, is_metered: bool, has_gpu: bool) -> Result<(), MeterError> {
    const SOURCE: &str = "modelled";
    let subject = site.model.describe();
    if is_metered {
        let why = "a model is only for machines without a meter";
        found
            .candidates
            .push(Candidate::new(SOURCE, subject, Verdict::Left, why));
        return Ok(());
    }
    let meter = ModelledMeter::new(site.modelled_root.as_str(), site.model.clone(), &site.proc)?;
    found.take(Chosen::root(meter), SOURCE, subject);
    if let Some(model) = found.candidates.last_mut().filter(|_| has_gpu) {
        let without = "; the GPUs are not in it, so its idle and maximum watts must be those without them";
        model.reason.push_str(without);
    }
    Ok(())
}

/// A root's name is its account: no two meters may have one.
fn check_names(found: &Found) -> Result<(), MeterError> {
    let mut names = std::collections::BTreeSet::new();
    for root in found.meters.iter().flat_map(|chosen| chosen.meter.roots()) {
        if !names.insert(root.name.clone()) {
            return Err(MeterError::Twice(root.name));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
