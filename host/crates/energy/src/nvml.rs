//! GPUs of NVIDIA's, through the driver's library NVML, which is opened at run time: a machine without it has
//! no such GPU, and that is all.
//!
//! **What is counted.** Each board once, by the driver's own counter of energy since it was loaded
//! (`nvmlDeviceGetTotalEnergyConsumption`, Volta and later). Only a GPU without that counter is read by its
//! power, added up over time, and its root says `estimated`: what happens between two reads is not seen. A
//! board in MIG mode is one root too: NVML has energy for boards only, so its partitions are no roots, and
//! what those of other hosts take is in the root.
//!
//! **Names.** A root is named by its GPU's UUID, which stays over boots, other slots and the numbers that the
//! driver gives.
//!
//! **Faults.** Each GPU has a meter, with its own use of the library, so that one that is lost takes away its
//! own root only. A library that has lost the driver or the GPU is closed and opened anew after some seconds.
//! The counter begins anew with the driver: that is told like any counter that fell ([`MeterError::Fell`],
//! then [`MeterError::Rebased`]). Only one that was loaded anew while no host ran, and has passed the old
//! value by then, goes unnoticed: its root's count is then too small, never too large.

mod activity;
mod driver;
#[cfg(test)]
pub(crate) mod stub;
mod survey;

use std::time::Duration;

use domain::energy::{Provenance, Reading, Root};
use nvml_wrapper::Device;

use crate::count::{Count, Says};
use crate::model::watts;
use crate::tally::PowerBound;
use crate::{Meter, MeterError};

pub use activity::{GpuActivity, GpuProbe, GpuProcess};
use driver::{Link, Source};
pub(crate) use survey::survey;

/// The library, by the name under which the driver installs it.
pub(crate) const LIBRARY: &str = "libnvidia-ml.so.1";

/// The kind of its roots.
const KIND: &str = "nvml";

/// How long a counter may stand still while the machine works. It is refreshed many times a second, and a GPU
/// that does nothing takes watts; but drivers may put one to sleep.
const STILL_AFTER: Duration = Duration::from_secs(60);

/// How often power is read at least: most sensors are refreshed every 100 ms or faster (Yang, Adamek and
/// Armour, "Part-time Power Measurements", arXiv 2312.02741), and each read costs a call into the driver.
const POWER_PERIOD: Duration = Duration::from_millis(250);

/// A judgement: NVIDIA states 5 % for the power of its first boards with a sensor (`nvmlDeviceGetPowerUsage`)
/// and nothing for later ones or for the counter. The cited paper finds that an A100's or H100's sensor looks a
/// quarter of the time, which evens out over many windows and not within one.
const COUNTER_PPM: u32 = 50_000;

/// A judgement: work between two reads is missed or counted for all of the time.
const POWER_PPM: u32 = 200_000;

/// Twice what the largest board takes today (1.4 kW), and what firmware may state at most.
const LEAST_BOUND_UW: u64 = 3_000_000_000;
const MOST_BOUND_UW: u64 = 10_000_000_000;

/// A meter of one GPU.
pub struct NvmlMeter {
    count: Count,
    source: Source,
    link: Link,
    /// The board in words.
    board: String,
}

impl NvmlMeter {
    /// A meter of the GPU that `gpu` is now, and stays under its UUID; read through `link`.
    fn new(gpu: &Device<'_>, uuid: &str, board: String, link: Link) -> Result<Self, MeterError> {
        let name = uuid.to_ascii_lowercase();
        let troubled = |trouble: driver::Trouble| trouble.error(link.library(), &name);
        let source = Source::of(gpu).map_err(troubled)?;
        let (provenance, uncertainty_ppm) = match source {
            Source::Counter => (Provenance::Measured, COUNTER_PPM),
            Source::Power => (Provenance::Estimated, POWER_PPM),
        };
        let says = match source {
            Source::Counter => Says::Energy {
                highest_uj: None,
                sleep_loses: true,
            },
            Source::Power => Says::Power,
        };
        let root = Root {
            name,
            kind: KIND.into(),
            provenance,
            uncertainty_ppm,
            model_version: 1,
        };
        // What it takes with nothing to do is to be learnt.
        let count = Count::new(root, 0, bound(gpu), says)?;
        Ok(Self {
            count,
            source,
            link,
            board,
        })
    }

    #[cfg(test)]
    fn set_clock(&mut self, clock: impl Fn() -> crate::tally::Moment + Send + 'static) {
        self.count.set_clock(clock);
    }
}

impl Meter for NvmlMeter {
    fn read(&mut self) -> Result<Vec<Reading>, MeterError> {
        let source = self.source;
        let answer = self.link.ask(self.count.now().at_ns, |gpu| source.value(gpu));
        let value = answer.map_err(|trouble| trouble.error(self.link.library(), &self.count.root().name))?;
        Ok(vec![self.count.advance(value)?])
    }

    fn resume(&mut self, last: &[Reading]) {
        self.count.resume(last);
    }

    fn roots(&self) -> Vec<Root> {
        vec![self.count.root().clone()]
    }

    fn period(&self) -> Option<Duration> {
        self.count.period().map(|period| period.min(POWER_PERIOD))
    }

    fn still_after(&self) -> Option<Duration> {
        Some(STILL_AFTER)
    }

    fn describe(&self) -> String {
        let what = match self.source {
            Source::Counter => "NVML's counter of energy",
            Source::Power => "NVML's power added up over time, as it has no counter of energy",
        };
        let bound = self.count.bound();
        format!(
            "root '{}', {what} of {}, at most {} believed ({})",
            self.count.root().name,
            self.board,
            watts(bound.power_uw),
            bound.source
        )
    }
}

/// The most power that a GPU is believed to take: twice its largest limit, and never less than a bound that no
/// board comes near, as one too low would lose energy.
fn bound(gpu: &Device<'_>) -> PowerBound {
    let limit_mw = gpu
        .power_management_limit_constraints()
        .map_or(0, |limits| limits.max_limit);
    let stated_uw = (u64::from(limit_mw) * 2_000).min(MOST_BOUND_UW);
    if stated_uw > LEAST_BOUND_UW {
        PowerBound {
            power_uw: stated_uw,
            source: "twice the board's largest limit, or no limit".into(),
        }
    } else {
        PowerBound {
            power_uw: LEAST_BOUND_UW,
            source: "no GPU takes more".into(),
        }
    }
}

#[cfg(test)]
mod tests;
