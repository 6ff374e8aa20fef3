//! What a host and the processes that it started hold: memory, descriptors, threads.

use std::fmt;
use std::fs;

use anyhow::{Context as _, ensure};
use tests::process::children;

/// A host at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Resources {
    /// Resident memory of all its processes together, without what Postgres' share: each of these would
    /// count all of that again.
    rss_kib: i64,
    /// Open descriptors of the host alone.
    descriptors: i64,
    /// Its threads.
    threads: i64,
}

impl Resources {
    /// Of the host `pid`.
    pub fn of(pid: u32) -> anyhow::Result<Self> {
        let mut sum = Self {
            rss_kib: 0,
            descriptors: entries(&format!("/proc/{pid}/fd"))?,
            threads: entries(&format!("/proc/{pid}/task"))?,
        };
        let mut pids = vec![pid];
        while let Some(pid) = pids.pop() {
            pids.extend(children(pid)?);
            // One that has ended meanwhile holds nothing.
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            sum.rss_kib += ["RssAnon:", "RssFile:"]
                .iter()
                .map(|field| kib(&status, field))
                .sum::<i64>();
        }
        Ok(sum)
    }
}

fn entries(folder: &str) -> anyhow::Result<i64> {
    Ok(fs::read_dir(folder)?.count().try_into()?)
}

/// A field of `/proc/<pid>/status`, in KiB.
fn kib(status: &str, field: &str) -> i64 {
    let value = status.lines().find_map(|line| line.strip_prefix(field));
    let number = value.and_then(|value| value.trim().strip_suffix(" kB")?.parse().ok());
    number.unwrap_or_default()
}

/// What a run added: the median of its last fifth against that of the fifth after its first two, by which the
/// host has warmed up.
#[derive(Debug)]
pub struct Growth {
    /// Memory, in percent.
    pub rss_pct: f64,
    /// Descriptors.
    pub descriptors: i64,
    /// Threads.
    pub threads: i64,
    before: Resources,
    after: Resources,
}

/// The growth over `samples`, the oldest first.
pub fn growth(samples: &[Resources]) -> anyhow::Result<Growth> {
    let fifth = samples.len() / 5;
    ensure!(fifth > 0, "too short a run");
    let before = median(&samples[2 * fifth..3 * fifth])?;
    let after = median(&samples[samples.len() - fifth..])?;
    Ok(Growth {
        rss_pct: (after.rss_kib as f64 / before.rss_kib as f64 - 1.0) * 100.0,
        descriptors: after.descriptors - before.descriptors,
        threads: after.threads - before.threads,
        before,
        after,
    })
}

fn median(samples: &[Resources]) -> anyhow::Result<Resources> {
    let of = |field: fn(&Resources) -> i64| {
        let mut values: Vec<_> = samples.iter().map(field).collect();
        values.sort_unstable();
        values.get(values.len() / 2).copied().context("no sample")
    };
    Ok(Resources {
        rss_kib: of(|sample| sample.rss_kib)?,
        descriptors: of(|sample| sample.descriptors)?,
        threads: of(|sample| sample.threads)?,
    })
}

impl fmt::Display for Growth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { before, after, .. } = self;
        write!(
            f,
            "rss {} MiB -> {} MiB, descriptors {} -> {} ({:+}), threads {} -> {} ({:+})",
            before.rss_kib >> 10,
            after.rss_kib >> 10,
            before.descriptors,
            after.descriptors,
            self.descriptors,
            before.threads,
            after.threads,
            self.threads
        )
    }
}
