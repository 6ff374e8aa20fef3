//! CPU time of servers, their children and the load tool, as the kernel counts it.

use std::collections::HashMap;

use anyhow::Context as _;
use rustix::param::clock_ticks_per_second;

/// CPU time, in microseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    /// The server's own process.
    pub server_us: f64,
    /// The processes that it started, its graphs.
    pub graphs_us: f64,
    /// Postgres and all that it started.
    pub postgres_us: f64,
    /// The children of this program that have ended: `hey`.
    pub load_us: f64,
}

struct Process {
    parent: u32,
    own_us: f64,
    /// Of its children that have ended.
    ended_us: f64,
}

impl Spent {
    /// Up to now, of a host and its Postgres, if it has one.
    pub fn of_host(host: u32, postmaster: Option<u32>) -> anyhow::Result<Self> {
        let all = processes()?;
        let own = |pid: u32| all.get(&pid).context("the server has ended");
        let server = own(host)?;
        let is_child = |process: &&Process| process.parent == host;
        let graphs = all
            .values()
            .filter(is_child)
            .map(|graph| graph.own_us + graph.ended_us);
        let postgres = postmaster.map_or(0.0, |postmaster| {
            let of_postgres =
                |(pid, process): &(&u32, &Process)| **pid == postmaster || process.parent == postmaster;
            let members = all.iter().filter(of_postgres);
            members
                .map(|(_, process)| process.own_us + process.ended_us)
                .sum()
        });
        Ok(Self {
            server_us: server.own_us,
            graphs_us: graphs.sum::<f64>() + server.ended_us,
            postgres_us: postgres,
            load_us: own(std::process::id())?.ended_us,
        })
    }

    /// What was spent after `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            server_us: self.server_us - earlier.server_us,
            graphs_us: self.graphs_us - earlier.graphs_us,
            postgres_us: self.postgres_us - earlier.postgres_us,
            load_us: self.load_us - earlier.load_us,
        }
    }

    /// Adds what was spent in another span.
    pub fn add(&mut self, more: &Self) {
        self.server_us += more.server_us;
        self.graphs_us += more.graphs_us;
        self.postgres_us += more.postgres_us;
        self.load_us += more.load_us;
    }
}

fn processes() -> anyhow::Result<HashMap<u32, Process>> {
    let mut all = HashMap::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // One that ends meanwhile is counted by its parent the next time.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        all.extend(process(&stat).map(|process| (pid, process)));
    }
    Ok(all)
}

/// `pid (name) state ppid …`, with utime, stime, cutime and cstime from the fourteenth on, in clock ticks.
fn process(stat: &str) -> Option<Process> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let us_per_tick = 1e6 / clock_ticks_per_second() as f64;
    let us = |field: usize| Some(fields.get(field)?.parse::<f64>().ok()? * us_per_tick);
    Some(Process {
        parent: fields.get(1)?.parse().ok()?,
        own_us: us(11)? + us(12)?,
        ended_us: us(13)? + us(14)?,
    })
}
