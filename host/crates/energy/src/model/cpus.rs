//! What is known of CPUs: the power of servers that have them, measured at the wall, and their TDP. The files, their
//! sources and licences are in `data`, with a word on each.

const SERVERS: &str = include_str!("../../data/servers.csv");
const TDP: &str = include_str!("../../data/tdp.csv");

/// A server that was measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Server {
    pub(super) cpu: &'static str,
    pub(super) chips: f64,
    pub(super) threads_per_chip: f64,
    pub(super) memory_gb: f64,
    /// With nothing to do, at the wall.
    pub(super) idle_w: f64,
    /// With all to do, at the wall.
    pub(super) max_w: f64,
}

impl Server {
    fn parse(line: &'static str) -> Option<Self> {
        let fields: Vec<_> = line.split(',').collect();
        let [_, cpu, chips, cores, threads, memory, idle, max, _] = fields[..] else {
            return None;
        };
        let number = |text: &str| text.parse::<f64>().ok().filter(|number| *number > 0.0);
        Some(Self {
            cpu,
            chips: number(chips)?,
            threads_per_chip: number(cores)? * number(threads)?,
            memory_gb: number(memory)?,
            idle_w: number(idle)?,
            max_w: number(max)?,
        })
    }
}

/// All that were measured.
pub(super) fn servers() -> impl Iterator<Item = Server> {
    SERVERS.lines().skip(1).filter_map(Server::parse)
}

/// The TDP of a CPU in watts, by its [plain](plain) name.
pub(super) fn tdp_w(cpu: &str) -> Option<f64> {
    let mut lines = TDP.lines().skip(1).filter_map(|line| line.rsplit_once(','));
    let (_, watts) = lines.find(|(name, _)| plain(name) == cpu)?;
    watts.parse().ok()
}

/// The name of a CPU without what makers and kernels put around it: `AMD EPYC 7763 64-Core Processor` and
/// `Intel(R) Xeon(R) CPU E5-2699 v4 @ 2.20GHz` are `amd epyc 7763` and `intel xeon e5-2699 v4`.
pub(super) fn plain(name: &str) -> String {
    let name = name.to_lowercase();
    let name = name.split('@').next().unwrap_or_default();
    let name = ["(r)", "(tm)", "(c)"]
        .iter()
        .fold(name.to_owned(), |name, mark| name.replace(mark, " "));
    // `13th Gen Intel Core …`.
    let start = name
        .find("intel")
        .or_else(|| name.find("amd"))
        .unwrap_or_default();
    let words = name.get(start..).unwrap_or_default().split_whitespace();
    let says = |word: &&str| !matches!(*word, "cpu" | "processor") && !word.ends_with("-core");
    words.filter(says).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_files_is_read() {
        assert_eq!(servers().count(), SERVERS.lines().count() - 1);
        for line in TDP.lines().skip(1) {
            let (name, watts) = line.rsplit_once(',').unwrap();
            let watts: f64 = watts.parse().unwrap();
            assert!(!plain(name).is_empty() && watts > 0.0, "{line}");
        }
        for server in servers() {
            assert!(server.idle_w < server.max_w, "{server:?}");
        }
    }

    #[test]
    fn a_cpu_is_known_by_what_the_kernel_calls_it() {
        for (name, tdp) in [
            ("AMD EPYC 7763 64-Core Processor", Some(280.0)),
            ("Intel(R) Xeon(R) CPU E5-2699 v4 @ 2.20GHz", Some(145.0)),
            ("Intel(R) Xeon(R) Platinum 8380 CPU @ 2.30GHz", Some(270.0)),
            ("INTEL(R) XEON(R) PLATINUM 8592+", Some(350.0)),
            ("AMD Ryzen 9 5950X 16-Core Processor", Some(105.0)),
            ("13th Gen Intel(R) Core(TM) i7-13700E", Some(65.0)),
            // A hypervisor's name for what it does not tell.
            ("Intel(R) Xeon(R) Processor", None),
            ("", None),
            ("@", None),
        ] {
            assert_eq!(tdp_w(&plain(name)), tdp, "{name}");
        }
        let known = servers().filter(|server| plain(server.cpu) == "amd epyc 7763");
        assert!(known.count() > 5);
    }
}
