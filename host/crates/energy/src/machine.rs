//! What the machine is, as far as its power depends on it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::{MeterError, proc};

/// The machine below a `/proc`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The CPU as the kernel names it; none where it does not.
    pub cpu: Option<String>,
    /// Packages with such a CPU; 1 where they are not told apart.
    pub chips: u32,
    /// Hardware threads that are online.
    pub threads: u32,
    /// Memory in bytes; 0 where that is not known.
    pub memory_bytes: u64,
    /// Whether it is a guest of a hypervisor, and has a part of the CPU alone.
    pub is_virtual: bool,
}

impl Machine {
    /// Reads the files below `proc_root` (usually `/proc`). What they do not say is not known, and no error; only the
    /// number of threads must be there.
    pub fn read(proc_root: &Path) -> Result<Self, MeterError> {
        let text = |name: &str| fs::read_to_string(proc_root.join(name)).unwrap_or_default();
        let (cpuinfo, meminfo) = (text("cpuinfo"), text("meminfo"));
        let values = |key: &'static str| {
            cpuinfo.lines().filter_map(move |line| {
                let (name, value) = line.split_once(':')?;
                (name.trim() == key).then_some(value.trim())
            })
        };
        let packages: BTreeSet<_> = values("physical id").collect();
        Ok(Self {
            cpu: values("model name").next().map(str::to_owned),
            chips: u32::try_from(packages.len()).unwrap_or(u32::MAX).max(1),
            threads: proc::machine(proc_root)?.threads,
            memory_bytes: memory_bytes(&meminfo),
            is_virtual: values("flags")
                .next()
                .is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
        })
    }
}

fn memory_bytes(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or_default().saturating_mul(1_024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proc::testing::ProcTree;

    #[test]
    fn the_kernel_says_what_the_machine_is() {
        let tree = ProcTree::new();
        let nothing = Machine::read(tree.root()).unwrap();
        let expected = Machine {
            cpu: None,
            chips: 1,
            threads: 2,
            memory_bytes: 0,
            is_virtual: false,
        };
        assert_eq!(nothing, expected);
        let thread = |package: u32, flags: &str| {
            format!(
                "processor\t: 0\nmodel name\t: AMD EPYC 7763 64-Core Processor\nphysical id\t: {package}\n\
                 flags\t\t: fpu vme {flags} sse\n\n"
            )
        };
        fs::write(tree.root().join("cpuinfo"), thread(0, "de") + &thread(1, "de")).unwrap();
        fs::write(
            tree.root().join("meminfo"),
            "MemTotal:       263858496 kB\nMemFree: 1 kB\n",
        )
        .unwrap();
        let server = Machine::read(tree.root()).unwrap();
        assert_eq!(server.cpu.as_deref(), Some("AMD EPYC 7763 64-Core Processor"));
        assert_eq!((server.chips, server.memory_bytes), (2, 263_858_496 << 10));
        assert!(!server.is_virtual);
        fs::write(tree.root().join("cpuinfo"), thread(0, "hypervisor")).unwrap();
        assert!(Machine::read(tree.root()).unwrap().is_virtual);
    }

    #[test]
    fn this_machine_can_be_read() {
        let machine = Machine::read(Path::new(proc::ROOT)).unwrap();
        assert!(
            machine.threads > 0 && machine.memory_bytes > 1 << 20,
            "{machine:?}"
        );
    }
}
