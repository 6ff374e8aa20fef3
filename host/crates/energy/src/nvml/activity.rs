//! How busy the GPUs were and who used them, by the driver's own samples: what parts a board's energy between
//! this host and others.

use std::path::Path;

use domain::energy::Root;
use nvml_wrapper::Device;
use nvml_wrapper::enum_wrappers::device::Sampling;
use nvml_wrapper::enums::device::SampleValue;
use nvml_wrapper::error::NvmlError;

use super::driver::{Link, Trouble};
use crate::boottime_ns;

/// What a GPU did since the look before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuActivity {
    /// Its root.
    pub root: String,
    /// The time of which the driver tells, in microseconds: up to its last sample, and 0 at the first look.
    pub span_us: u64,
    /// Of that the time in which at least one kernel ran, in microseconds; none where the driver does not say,
    /// as for boards in MIG mode and for one that is lost (its meter says so).
    pub busy_us: Option<u64>,
    /// The processes that used it meanwhile, by pid; empty where the driver does not say. In a container the
    /// driver may show no pids, or those outside it.
    pub processes: Vec<GpuProcess>,
}

/// A process on a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GpuProcess {
    /// Its pid.
    pub pid: u32,
    /// Its use of the multiprocessors by the driver's last sample of it, in parts per million.
    pub sm_ppm: u32,
}

/// Looks at the activity of GPUs. Like any call into the driver a look may hang: an executor's thread should
/// not do it itself.
pub struct GpuProbe {
    gpus: Vec<Gpu>,
}

struct Gpu {
    root: String,
    link: Link,
    seen: Seen,
}

/// The times of the last samples seen, in the driver's microseconds.
#[derive(Clone, Copy, Default)]
struct Seen {
    use_us: u64,
    processes_us: u64,
}

impl GpuProbe {
    /// A probe of those of `roots` that are GPUs, through the driver's `library`.
    pub fn new(library: &Path, roots: &[Root]) -> Self {
        let gpus = roots.iter().filter(|root| root.kind == super::KIND);
        let gpus = gpus.map(|root| Gpu {
            root: root.name.clone(),
            link: Link::new(library, &root.name),
            seen: Seen::default(),
        });
        Self { gpus: gpus.collect() }
    }

    /// The activity of each GPU since the look before. It cannot fail: what is not known is none.
    pub fn read(&mut self) -> Vec<GpuActivity> {
        self.gpus.iter_mut().map(Gpu::read).collect()
    }
}

impl Gpu {
    fn read(&mut self) -> GpuActivity {
        let mut seen = self.seen;
        let answer = self.link.ask(boottime_ns(), |gpu| {
            let used = used(gpu, &mut seen)?;
            Ok((used, processes(gpu, &mut seen)?))
        });
        let (used, processes) = answer.unwrap_or_default();
        self.seen = seen;
        let (span_us, busy_us) = used.map_or((0, None), |(span_us, busy_us)| (span_us, Some(busy_us)));
        GpuActivity {
            root: self.root.clone(),
            span_us,
            busy_us,
            processes,
        }
    }
}

/// None for what this GPU does not say, the default for nothing new.
fn told<T: Default>(answer: Result<T, NvmlError>) -> Result<Option<T>, Trouble> {
    match answer {
        Ok(told) => Ok(Some(told)),
        Err(NvmlError::NotFound) => Ok(Some(T::default())),
        Err(error) => match error.into() {
            Trouble::Unsupported | Trouble::Denied => Ok(None),
            trouble => Err(trouble),
        },
    }
}

/// The span of the new samples and the busy time in it. A sample tells of the time since the one before.
fn used(gpu: &Device<'_>, seen: &mut Seen) -> Result<Option<(u64, u64)>, Trouble> {
    let Some(mut samples) = told(gpu.samples(Sampling::GpuUtilization, seen.use_us))? else {
        return Ok(None);
    };
    samples.sort_by_key(|sample| sample.timestamp);
    let is_first = seen.use_us == 0;
    let (mut span_us, mut busy_hundredths) = (0u64, 0u128);
    for sample in &samples {
        let SampleValue::U32(percent) = sample.value else {
            return Err(Trouble::Other("its use is not in per cent".into()));
        };
        // Not to be believed; the next one's span covers this one's.
        if percent > 100 {
            continue;
        }
        let since_us = sample.timestamp.saturating_sub(seen.use_us);
        seen.use_us = seen.use_us.max(sample.timestamp);
        span_us = span_us.saturating_add(since_us);
        busy_hundredths += u128::from(since_us) * u128::from(percent);
    }
    if is_first {
        return Ok(Some((0, 0)));
    }
    let busy_us = u64::try_from(busy_hundredths / 100).unwrap_or(u64::MAX);
    Ok(Some((span_us, busy_us)))
}

fn processes(gpu: &Device<'_>, seen: &mut Seen) -> Result<Vec<GpuProcess>, Trouble> {
    let samples = told(gpu.process_utilization_stats(seen.processes_us))?;
    let mut samples = samples.unwrap_or_default();
    // The driver may leave a part of what it is lent empty, and more than all is not to be believed.
    samples.retain(|sample| sample.timestamp > seen.processes_us && sample.sm_util <= 100);
    samples.sort_by_key(|sample| (sample.pid, std::cmp::Reverse(sample.timestamp)));
    samples.dedup_by_key(|sample| sample.pid);
    for sample in &samples {
        seen.processes_us = seen.processes_us.max(sample.timestamp);
    }
    let process = samples.iter().map(|sample| GpuProcess {
        pid: sample.pid,
        sm_ppm: sample.sm_util * 10_000,
    });
    Ok(process.collect())
}
