//! The few files of `/proc` that meters read, below a root that tests replace.

use std::fs;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::MeterError;

/// Where the kernel has it.
pub(crate) const ROOT: &str = "/proc";

/// CPU time of the whole machine since boot, in clock ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MachineTicks {
    /// user, nice, system, irq, softirq and steal. Guests are in user already.
    pub(crate) busy: u64,
    /// All of that, idle and iowait.
    pub(crate) total: u64,
    /// Hardware threads that are online.
    pub(crate) threads: u32,
}

fn read(path: PathBuf) -> Result<(PathBuf, String), MeterError> {
    let text = fs::read_to_string(&path).map_err(MeterError::io(&path))?;
    Ok((path, text))
}

pub(crate) fn machine(root: &Path) -> Result<MachineTicks, MeterError> {
    let (path, text) = read(root.join("stat"))?;
    let ticks = || {
        let all: Vec<u64> = text
            .lines()
            .find_map(|line| line.strip_prefix("cpu "))?
            .split_whitespace()
            .map_while(|field| field.parse().ok())
            .collect();
        let [user, nice, system, idle, iowait, irq, softirq, steal, ..] = all[..] else {
            return None;
        };
        let busy = user + nice + system + irq + softirq + steal;
        let is_thread = |line: &&str| {
            line.strip_prefix("cpu")
                .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        };
        let threads = text.lines().filter(is_thread).count();
        Some(MachineTicks {
            busy,
            total: busy + idle + iowait,
            threads: threads as u32,
        })
    };
    ticks().ok_or(MeterError::Malformed {
        path,
        expected: "line of all CPUs",
    })
}

/// A process's line in `/proc/<pid>/stat`, times in clock ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) parent: u32,
    /// utime and stime: all its threads, ended ones included.
    pub(crate) own: u64,
    /// cutime and cstime: children that it has waited for, with all of theirs.
    pub(crate) waited: u64,
}

/// None where there is no such process (any more).
pub(crate) fn process(root: &Path, pid: u32) -> Option<Process> {
    let text = fs::read_to_string(root.join(pid.to_string()).join("stat")).ok()?;
    // The name is in parentheses and may have any in it.
    let (_, fields) = text.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let number = |field: usize| fields.get(field)?.parse::<u64>().ok();
    Some(Process {
        parent: u32::try_from(number(1)?).ok()?,
        own: number(11)? + number(12)?,
        waited: number(13)? + number(14)?,
    })
}

/// The living children of a process. Kernels without `children` files need a look at all processes.
pub(crate) fn children(root: &Path, pid: u32) -> Vec<u32> {
    let Ok(tasks) = fs::read_dir(root.join(pid.to_string()).join("task")) else {
        return Vec::new();
    };
    let mut children = Vec::new();
    let mut listed = false;
    for task in tasks.flatten() {
        if let Ok(text) = fs::read_to_string(task.path().join("children")) {
            listed = true;
            children.extend(text.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
    }
    if listed {
        children
    } else {
        children_by_scan(root, pid)
    }
}

fn children_by_scan(root: &Path, parent: u32) -> Vec<u32> {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|&pid| process(root, pid).is_some_and(|process| process.parent == parent))
        .collect()
}

pub(crate) fn boot_id(root: &Path) -> Result<Uuid, MeterError> {
    let (path, text) = read(root.join("sys/kernel/random/boot_id"))?;
    text.trim().parse().map_err(|_| MeterError::Malformed {
        path,
        expected: "boot id",
    })
}

/// Nanoseconds of some clock ticks.
pub(crate) fn ticks_ns(ticks: u64) -> u64 {
    ticks.saturating_mul(1_000_000_000 / rustix::param::clock_ticks_per_second().max(1))
}

/// A `/proc` tree for tests.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    pub(crate) struct ProcTree(tempfile::TempDir);

    impl ProcTree {
        pub(crate) fn new() -> Self {
            let tree = Self(tempfile::tempdir().unwrap());
            tree.boot(1);
            tree.cpu(0, 0);
            tree
        }

        pub(crate) fn root(&self) -> &Path {
            self.0.path()
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.root().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        pub(crate) fn boot(&self, n: u128) {
            self.write("sys/kernel/random/boot_id", &format!("{}\n", Uuid::from_u128(n)));
        }

        /// Two threads that were busy and idle for so many ticks, the busy ones of six kinds.
        pub(crate) fn cpu(&self, busy: u64, idle: u64) {
            let [nice, system, irq, softirq, steal] = [1, 2, 3, 4, 5].map(|n| busy / 20 * n);
            let user = busy - nice - system - irq - softirq - steal;
            let iowait = idle / 3;
            let line = format!(
                "{user} {nice} {system} {} {iowait} {irq} {softirq} {steal} 7 7",
                idle - iowait
            );
            self.write(
                "stat",
                &format!("cpu  {line}\ncpu0 {line}\ncpu1 {line}\nintr 1\nctxt 5\n"),
            );
        }

        pub(crate) fn process(&self, pid: u32, parent: u32, own: u64, waited: u64) {
            let line = format!(
                "{pid} (a (nasty) name) S {parent} 1 1 0 -1 0 0 0 0 0 {} {} {waited} 0 20 0 1 0 99\n",
                own / 3,
                own - own / 3
            );
            self.write(&format!("{pid}/stat"), &line);
            fs::create_dir_all(self.root().join(format!("{pid}/task/{pid}"))).unwrap();
        }

        /// Which children each of a process's threads started.
        pub(crate) fn children(&self, pid: u32, tasks: &[(u32, &str)]) {
            for (task, children) in tasks {
                self.write(&format!("{pid}/task/{task}/children"), children);
            }
        }

        pub(crate) fn end(&self, pid: u32) {
            fs::remove_dir_all(self.root().join(pid.to_string())).unwrap();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::ProcTree;
    use super::*;

    #[test]
    fn the_machine_line_is_read() {
        let tree = ProcTree::new();
        tree.cpu(1_000, 3_000);
        let ticks = machine(tree.root()).unwrap();
        assert_eq!(
            ticks,
            MachineTicks {
                busy: 1_000,
                total: 4_000,
                threads: 2
            }
        );
        fs::write(tree.root().join("stat"), "cpu  1 2 3\n").unwrap();
        assert_eq!(machine(tree.root()).unwrap_err().code(), "meter_malformed");
        fs::remove_file(tree.root().join("stat")).unwrap();
        assert_eq!(machine(tree.root()).unwrap_err().code(), "meter_io");
    }

    #[test]
    fn a_process_line_is_read_whatever_its_name() {
        let tree = ProcTree::new();
        tree.process(10, 1, 700, 44);
        assert_eq!(
            process(tree.root(), 10),
            Some(Process {
                parent: 1,
                own: 700,
                waited: 44
            })
        );
        assert_eq!(process(tree.root(), 11), None);
    }

    #[test]
    fn children_are_found_with_and_without_the_kernel_listing_them() {
        let tree = ProcTree::new();
        for (pid, parent) in [(10, 1), (11, 10), (12, 10), (13, 11)] {
            tree.process(pid, parent, 0, 0);
        }
        let sorted = || {
            let mut children = children(tree.root(), 10);
            children.sort_unstable();
            children
        };
        assert_eq!(sorted(), [11, 12]);
        tree.children(10, &[(10, "12 "), (99, "11 ")]);
        assert_eq!(sorted(), [11, 12]);
        tree.children(10, &[(10, ""), (99, "11 ")]);
        assert_eq!(sorted(), [11]);
    }
}
