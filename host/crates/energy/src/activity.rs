//! CPU time by who used it: the machine, the host's process tree, the host's Postgres.

use std::path::PathBuf;

use domain::energy::Activity;

use crate::proc::{self, Process};
use crate::{MeterError, cpu_ns_of, process_cpu_ns};

/// How often to try for a view in which no process ended half-way.
const TRIES: usize = 3;

/// Deeper trees than this are not followed; a host's has two levels.
const MAX_DEPTH: usize = 8;

/// Reads the CPU time since boot of the machine, the host and its Postgres.
///
/// A read looks at one small file per thread of the host and two per living child: 0.3 ms where the
/// host has 32 threads.
///
/// Counters never fall. A child that ends and is waited for is still counted, in its parent. One
/// that nobody of ours waits for (its parent ended first) takes its time with it: its use since the
/// last read is then missing from the host's and ends up as foreign load, nothing more. A postmaster
/// that the host started is Postgres also after the host has waited for it.
pub struct ActivityProbe {
    proc_root: PathBuf,
    host: u32,
    /// CPU time of the host process itself in nanoseconds, finer than its ticks where that is known.
    host_clock: Option<fn() -> u64>,
    /// The same of the processes below it and of Postgres, by their ids.
    clock_of: Option<fn(u32) -> Option<u64>>,
    postmaster: Box<dyn Fn() -> Option<u32> + Send + Sync>,
    last: Tally,
    /// What fell out of the counters, put back.
    fallen: Fallen,
}

#[derive(Default)]
struct Fallen {
    host_ns: u64,
    postgres_ns: u64,
    /// The part of Postgres that went into the host's waited time.
    waited_ns: u64,
}

/// What one look gave.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    machine_ns: u64,
    /// The host's tree, with Postgres if that is a child.
    tree_ns: u64,
    postmaster: Option<u32>,
    postgres_ns: u64,
    /// Whether Postgres is within the host's tree.
    is_child: bool,
}

impl ActivityProbe {
    /// A probe of this process and machine. `postmaster` gives the pid of the host's own Postgres,
    /// if it runs: started by the host or found alive.
    pub fn new(postmaster: impl Fn() -> Option<u32> + Send + Sync + 'static) -> Self {
        Self {
            host_clock: Some(process_cpu_ns),
            clock_of: Some(cpu_ns_of),
            ..Self::of(proc::ROOT, std::process::id(), postmaster)
        }
    }

    /// A probe of any process below any `/proc`, in whole clock ticks alone.
    pub fn of(
        proc_root: impl Into<PathBuf>,
        host: u32,
        postmaster: impl Fn() -> Option<u32> + Send + Sync + 'static,
    ) -> Self {
        Self {
            proc_root: proc_root.into(),
            host,
            host_clock: None,
            clock_of: None,
            postmaster: Box::new(postmaster),
            last: Tally::default(),
            fallen: Fallen::default(),
        }
    }

    /// The counters now.
    pub fn read(&mut self) -> Result<Activity, MeterError> {
        let mut now = self.tally()?;
        now.machine_ns = now.machine_ns.max(self.last.machine_ns);
        let last = std::mem::replace(&mut self.last, now);
        let fell = if now.postmaster == last.postmaster {
            last.postgres_ns.saturating_sub(now.postgres_ns)
        } else {
            last.postgres_ns
        };
        let host_before = host_ns(&last, &self.fallen);
        self.fallen.postgres_ns += fell;
        if last.is_child {
            self.fallen.waited_ns += fell;
        }
        let host_now = host_ns(&now, &self.fallen);
        self.fallen.host_ns += host_before.saturating_sub(host_now);
        Ok(Activity {
            machine_ns: now.machine_ns,
            host_ns: host_ns(&now, &self.fallen),
            postgres_ns: now.postgres_ns + self.fallen.postgres_ns,
        })
    }

    /// Looks again if a process was waited for meanwhile: it could have been seen twice or not at all.
    fn tally(&self) -> Result<Tally, MeterError> {
        let postmaster = (self.postmaster)();
        let waited = || {
            let of = |pid| proc::process(&self.proc_root, pid).map(|process| process.waited);
            (of(self.host), postmaster.and_then(of))
        };
        let mut before = waited();
        let mut tally = self.look(postmaster)?;
        for _ in 1..TRIES {
            let after = waited();
            if after == before {
                break;
            }
            before = after;
            tally = self.look(postmaster)?;
        }
        Ok(tally)
    }

    fn look(&self, postmaster: Option<u32>) -> Result<Tally, MeterError> {
        let machine_ns = proc::ticks_ns(proc::machine(&self.proc_root)?.busy);
        let path = self.proc_root.join(self.host.to_string()).join("stat");
        let host = proc::process(&self.proc_root, self.host).ok_or(MeterError::Malformed {
            path,
            expected: "line of the host process",
        })?;
        let own_ns = self
            .host_clock
            .map_or_else(|| proc::ticks_ns(host.own), |clock| clock());
        let postgres = postmaster.and_then(|pid| Some((pid, proc::process(&self.proc_root, pid)?)));
        let is_child = postgres.is_some_and(|(_, process)| process.parent == self.host);
        let postgres_ns = postgres.map_or(0, |(pid, process)| self.subtree_ns(pid, process, None));
        let others_ns = self.descendants_ns(self.host, postmaster, 0);
        let tree_ns = own_ns + proc::ticks_ns(host.waited) + others_ns;
        Ok(Tally {
            machine_ns,
            tree_ns: if is_child { tree_ns + postgres_ns } else { tree_ns },
            postmaster: postgres.map(|(pid, _)| pid),
            postgres_ns,
            is_child,
        })
    }

    /// A process with the living and the waited-for below it.
    fn subtree_ns(&self, pid: u32, process: Process, without: Option<u32>) -> u64 {
        self.own_ns(pid, process) + proc::ticks_ns(process.waited) + self.descendants_ns(pid, without, 0)
    }

    /// What a process used by itself. A graph's process tells its calls nanoseconds: in ticks, what is rounded here
    /// would be the host's own work in one slice and missing in the next.
    fn own_ns(&self, pid: u32, process: Process) -> u64 {
        let exact = self.clock_of.and_then(|clock_of| clock_of(pid));
        exact.unwrap_or_else(|| proc::ticks_ns(process.own))
    }

    fn descendants_ns(&self, pid: u32, without: Option<u32>, depth: usize) -> u64 {
        if depth == MAX_DEPTH {
            return 0;
        }
        let children = proc::children(&self.proc_root, pid).into_iter();
        let each = children.filter(|child| Some(*child) != without).map(|child| {
            let process = proc::process(&self.proc_root, child);
            let used_ns = process.map_or(0, |process| {
                self.own_ns(child, process) + proc::ticks_ns(process.waited)
            });
            used_ns + self.descendants_ns(child, without, depth + 1)
        });
        each.sum()
    }
}

/// The host's tree without Postgres, living or waited for, and with what fell out of it.
fn host_ns(tally: &Tally, fallen: &Fallen) -> u64 {
    let living_ns = if tally.is_child { tally.postgres_ns } else { 0 };
    (tally.tree_ns + fallen.host_ns).saturating_sub(living_ns + fallen.waited_ns)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use super::*;
    use crate::proc::testing::ProcTree;

    const TICK: u64 = 10_000_000;
    const HOST: u32 = 10;
    const POSTMASTER: u32 = 20;

    /// A host (10) with a compiler (11), and a Postgres (20) with two backends.
    fn tree(postgres_parent: u32) -> ProcTree {
        let tree = ProcTree::new();
        tree.cpu(10_000, 90_000);
        tree.process(1, 0, 5_000, 0);
        tree.process(HOST, 1, 100, 0);
        tree.process(11, HOST, 7, 1);
        tree.process(POSTMASTER, postgres_parent, 30, 4);
        tree.process(21, POSTMASTER, 50, 0);
        tree.process(22, POSTMASTER, 60, 0);
        tree
    }

    fn probe(tree: &ProcTree) -> (ActivityProbe, Arc<AtomicU32>) {
        let postmaster = Arc::new(AtomicU32::new(POSTMASTER));
        let theirs = Arc::clone(&postmaster);
        let pid = move || Some(theirs.load(Relaxed)).filter(|&pid| pid != 0);
        (ActivityProbe::of(tree.root(), HOST, pid), postmaster)
    }

    fn ticks(activity: Activity) -> (u64, u64, u64) {
        (
            activity.machine_ns / TICK,
            activity.host_ns / TICK,
            activity.postgres_ns / TICK,
        )
    }

    #[test]
    fn everyone_is_counted_once_whoever_started_postgres() {
        for parent in [1, HOST] {
            let tree = tree(parent);
            let (mut probe, _) = probe(&tree);
            assert_eq!(
                ticks(probe.read().unwrap()),
                (10_000, 108, 144),
                "Postgres below {parent}"
            );
        }
    }

    #[test]
    fn a_child_that_was_waited_for_stays_with_its_parent() {
        let tree = tree(1);
        let (mut probe, _) = probe(&tree);
        probe.read().unwrap();
        // The compiler and a backend end, two ticks later.
        tree.end(11);
        tree.process(HOST, 1, 100, 10);
        tree.end(22);
        tree.process(POSTMASTER, 1, 30, 66);
        assert_eq!(ticks(probe.read().unwrap()), (10_000, 110, 146));
    }

    #[test]
    fn what_nobody_waited_for_never_makes_a_counter_fall() {
        let tree = tree(1);
        let (mut probe, _) = probe(&tree);
        let first = probe.read().unwrap();
        tree.end(11);
        let second = probe.read().unwrap();
        assert_eq!(second.since(&first), Activity::default());
        tree.process(HOST, 1, 103, 0);
        tree.cpu(10_009, 90_000);
        let third = probe.read().unwrap();
        assert_eq!(ticks(third.since(&second)), (9, 3, 0));
    }

    #[test]
    fn a_postmaster_that_the_host_waited_for_does_not_become_the_hosts() {
        let tree = tree(HOST);
        let (mut probe, postmaster) = probe(&tree);
        let first = probe.read().unwrap();
        for pid in [20, 21, 22] {
            tree.end(pid);
        }
        // All of it and one tick more is in the host's waited time; the host worked for two.
        postmaster.store(0, Relaxed);
        tree.process(HOST, 1, 102, 145);
        let second = probe.read().unwrap();
        assert_eq!(ticks(second.since(&first)), (0, 3, 0));
        // The next one starts.
        postmaster.store(30, Relaxed);
        tree.process(30, HOST, 5, 0);
        let third = probe.read().unwrap();
        assert_eq!(ticks(third.since(&second)), (0, 0, 5));
        tree.process(30, HOST, 9, 0);
        tree.process(HOST, 1, 103, 145);
        assert_eq!(ticks(probe.read().unwrap().since(&third)), (0, 1, 4));
    }

    #[test]
    fn an_adopted_postmaster_that_ends_moves_nothing_to_the_host() {
        let tree = tree(1);
        let (mut probe, postmaster) = probe(&tree);
        let first = probe.read().unwrap();
        for pid in [20, 21, 22] {
            tree.end(pid);
        }
        postmaster.store(0, Relaxed);
        assert_eq!(probe.read().unwrap().since(&first), Activity::default());
        // It comes back under another pid, and with more time than the old one had.
        postmaster.store(40, Relaxed);
        tree.process(40, 1, 500, 0);
        assert_eq!(ticks(probe.read().unwrap().since(&first)), (0, 0, 500));
    }

    #[test]
    fn children_are_counted_by_their_clocks_where_these_are_known() {
        let tree = tree(1);
        let (probe, _) = probe(&tree);
        // Of the compiler and one backend; the others have none.
        let clock_of = |pid| match pid {
            11 => Some(71_234_567),
            21 => Some(503_000_001),
            _ => None,
        };
        let mut probe = ActivityProbe {
            clock_of: Some(clock_of),
            ..probe
        };
        let first = probe.read().unwrap();
        assert_eq!(first.host_ns, 100 * TICK + 71_234_567 + TICK);
        assert_eq!(first.postgres_ns, 34 * TICK + 503_000_001 + 60 * TICK);
        // Waited for, its time is in ticks and a little less: no counter falls.
        tree.end(11);
        tree.process(HOST, 1, 100, 8);
        assert_eq!(probe.read().unwrap(), first);
    }

    #[test]
    fn a_childs_clock_agrees_with_its_ticks() {
        let mut child = std::process::Command::new("sh")
            .args(["-c", "while :; do :; done"])
            .spawn()
            .unwrap();
        let ticks = || {
            proc::process(std::path::Path::new(proc::ROOT), child.id())
                .unwrap()
                .own
        };
        while ticks() < 5 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let (before, exact_ns, after) = (ticks(), cpu_ns_of(child.id()).unwrap(), ticks());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(
            exact_ns + TICK >= before * TICK && exact_ns <= (after + 2) * TICK,
            "{before} {exact_ns} {after}"
        );
        assert_eq!(cpu_ns_of(child.id()), None, "it is gone");
    }

    #[test]
    fn this_process_can_be_read() {
        let mut probe = ActivityProbe::new(|| None);
        let first = probe.read().unwrap();
        assert!(first.host_ns > 0 && first.machine_ns >= first.host_ns && first.postgres_ns == 0);
        let second = probe.read().unwrap();
        assert!(second.host_ns > first.host_ns);
    }

    #[test]
    fn a_host_that_is_not_there_is_an_error() {
        let tree = ProcTree::new();
        let mut probe = ActivityProbe::of(tree.root(), 77, || None);
        assert_eq!(probe.read().unwrap_err().code(), "meter_malformed");
    }
}
