//! What the host is told at its start: flags, with the environment behind them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use domain::Name;

use crate::http::Connections;

/// Flags of `wattle serve`.
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// Directory for everything that must survive [default: /var/lib/wattle as root, else ./.wattle].
    #[arg(long, env = "WATTLE_DATA")]
    pub data: Option<PathBuf>,
    /// Address of the API.
    #[arg(long, env = "WATTLE_LISTEN", default_value = "127.0.0.1:8700")]
    pub listen: SocketAddr,
    /// Address of livez, readyz and metrics.
    #[arg(long, env = "WATTLE_ADMIN_LISTEN", default_value = "127.0.0.1:8701")]
    pub admin_listen: SocketAddr,
    /// Serve plain HTTP on an address that others can reach.
    #[arg(long, env = "WATTLE_INSECURE")]
    pub insecure: bool,
    /// Postgres to use at run time, as the role wattle_host; without it the host runs its own.
    #[arg(
        long,
        env = "DATABASE_URL",
        hide_env_values = true,
        requires = "database_owner_url"
    )]
    pub database_url: Option<String>,
    /// The same Postgres as the owner, for migrations.
    #[arg(long, env = "DATABASE_OWNER_URL", hide_env_values = true)]
    pub database_owner_url: Option<String>,
    /// Folder of the Postgres binaries for the host's own cluster [default: found].
    #[arg(long, env = "WATTLE_PG_BIN")]
    pub pg_bin: Option<PathBuf>,
    /// The node's name in the ledger.
    #[arg(long, env = "WATTLE_NODE", default_value = "local")]
    pub node: Name,
    /// What the journal waits for before a reply leaves.
    #[arg(long, env = "WATTLE_JOURNAL", value_enum, default_value = "standard")]
    pub journal: JournalMode,
    /// Most bytes in the journal that Postgres has not taken yet, in MiB.
    #[arg(long, env = "WATTLE_JOURNAL_MAX_MIB", default_value_t = 1024)]
    pub journal_max_mib: u64,
    /// Milliseconds between two readings of the meter.
    #[arg(long, env = "WATTLE_SLICE_MS", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(50..=10_000))]
    pub slice_ms: u64,
    /// Slices in a window.
    #[arg(long, env = "WATTLE_WINDOW_SLICES", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub window_slices: u64,
    /// The name of the modelled meter's root; two hosts on a machine cannot both bill one root.
    #[arg(long, env = "WATTLE_METER_ROOT", default_value = "modelled")]
    pub meter_root: Name,
    /// Watts of the machine with nothing to do, for the modelled meter.
    #[arg(long, env = "WATTLE_METER_IDLE_W", requires = "meter_max_w")]
    pub meter_idle_w: Option<f64>,
    /// Watts of the machine with all to do, for the modelled meter.
    #[arg(long, env = "WATTLE_METER_MAX_W", requires = "meter_idle_w")]
    pub meter_max_w: Option<f64>,
    /// Largest component that may be uploaded, in MiB.
    #[arg(long, env = "WATTLE_COMPONENT_MAX_MIB", default_value_t = 64)]
    pub component_max_mib: u64,
    /// Largest graph that may be uploaded, in MiB.
    #[arg(long, env = "WATTLE_GRAPH_MAX_MIB", default_value_t = 512)]
    pub graph_max_mib: u64,
    /// Bytes of components and graphs that a tenant may store unless an admin says otherwise, in MiB.
    #[arg(long, env = "WATTLE_STORAGE_MAX_MIB", default_value_t = 10_240, value_parser = clap::value_parser!(u64).range(..=1 << 40))]
    pub storage_max_mib: u64,
    /// Code and graphs that stay loaded between calls, of all tenants together, in MiB.
    #[arg(long, env = "WATTLE_LOADED_MAX_MIB", default_value_t = 4096, value_parser = clap::value_parser!(u64).range(..=1 << 40))]
    pub loaded_max_mib: u64,
    /// Address space of the process that a loaded graph runs in, in MiB.
    #[arg(long, env = "WATTLE_GRAPH_MEMORY_MIB", default_value_t = 2048, value_parser = clap::value_parser!(u64).range(256..=1_048_576))]
    pub graph_memory_mib: u64,
    /// ONNX Runtime's library, 1.24 or newer [default: found beside this program or in the system's folders].
    #[arg(long, env = "WATTLE_ONNXRUNTIME", value_name = "PATH")]
    pub onnxruntime: Option<PathBuf>,
    /// Largest body of a call, in MiB.
    #[arg(long, env = "WATTLE_BODY_MAX_MIB", default_value_t = 32)]
    pub body_max_mib: u64,
    /// Invocations that run at once on this node.
    #[arg(long, env = "WATTLE_CONCURRENCY", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub concurrency: u32,
    /// Invocations of one tenant that run at once on this node [default: three quarters of --concurrency].
    #[arg(long, env = "WATTLE_TENANT_CONCURRENCY", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub tenant_concurrency: Option<u32>,
    /// Connections to the API at once; one more waits until another ends.
    #[arg(long, env = "WATTLE_CONNECTIONS", default_value_t = 1_024, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub connections: u32,
    /// Milliseconds that a connection may take to send a request's headers, or stay idle between two requests.
    #[arg(long, env = "WATTLE_HEADER_TIMEOUT_MS", default_value_t = 30_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub header_timeout_ms: u64,
    /// Milliseconds that a caller may stall: send nothing of a body, or read nothing of a reply.
    #[arg(long, env = "WATTLE_STALL_TIMEOUT_MS", default_value_t = 15_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub stall_timeout_ms: u64,
    /// Milliseconds that a body may take in all; each 16 KiB that came of it add a second.
    #[arg(long, env = "WATTLE_BODY_TIMEOUT_MS", default_value_t = 60_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub body_timeout_ms: u64,
    /// Seconds that calls in flight get to end after SIGTERM.
    #[arg(long, env = "WATTLE_DRAIN_S", default_value_t = 30)]
    pub drain_s: u64,
}

/// When a record of usage counts as kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum JournalMode {
    /// When the kernel has it: survives a kill of the host.
    Standard,
    /// When the disk has it: survives a power cut.
    Strict,
}

/// A start that makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Fewer connections than calls.
    #[error("--connections {connections} is below --concurrency {concurrency}: each call needs a connection")]
    Connections {
        /// Connections given.
        connections: u32,
        /// Concurrency given.
        concurrency: u32,
    },
    /// Plain HTTP where others can listen.
    #[error("{0} can be reached from other machines: put a TLS proxy before 127.0.0.1, or say --insecure")]
    Insecure(SocketAddr),
    /// A power model that falls.
    #[error("--meter-idle-w {idle} and --meter-max-w {max} must both be above 0, the first below the second")]
    PowerModel {
        /// Idle watts given.
        idle: f64,
        /// Maximum watts given.
        max: f64,
    },
}

/// Where everything is kept that must survive, unless said otherwise.
pub fn default_data_dir() -> PathBuf {
    match rustix::process::geteuid().is_root() {
        true => PathBuf::from("/var/lib/wattle"),
        false => PathBuf::from(".wattle"),
    }
}

impl ServeArgs {
    /// Checks what a flag alone cannot.
    pub fn check(&self) -> Result<(), ConfigError> {
        for address in [self.listen, self.admin_listen] {
            if !address.ip().is_loopback() && !self.insecure {
                return Err(ConfigError::Insecure(address));
            }
        }
        let (connections, concurrency) = (self.connections, self.concurrency);
        if connections < concurrency {
            return Err(ConfigError::Connections {
                connections,
                concurrency,
            });
        }
        match (self.meter_idle_w, self.meter_max_w) {
            (Some(idle), Some(max)) if !(idle > 0.0 && max > idle && max < 1e6) => {
                Err(ConfigError::PowerModel { idle, max })
            }
            _ => Ok(()),
        }
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.data.clone().unwrap_or_else(default_data_dir)
    }

    /// The invocations of one tenant that run at once: not all, so that there is room for another's.
    pub fn tenant_share(&self) -> u32 {
        let by_default = (self.concurrency - self.concurrency.div_ceil(4)).max(1);
        self.tenant_concurrency.unwrap_or(by_default)
    }

    /// What the API's listener grants its callers.
    pub fn connections(&self) -> Connections {
        Connections {
            max: self.connections,
            header_timeout: Duration::from_millis(self.header_timeout_ms),
            stall_timeout: Duration::from_millis(self.stall_timeout_ms),
        }
    }

    /// The same for the operators' listener, which is not locked out when the API's is full.
    pub fn admin_connections(&self) -> Connections {
        Connections {
            max: 64,
            ..self.connections()
        }
    }

    /// The time between two readings.
    pub fn slice(&self) -> Duration {
        Duration::from_millis(self.slice_ms)
    }
}
