//! What the host is told at its start: flags, with the environment and then a file behind them.

mod anchors_at;
mod carbon;
mod file;
mod meter_files;

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{ArgAction, Args, ValueEnum};
use domain::Name;
use tracing_subscriber::filter::Targets;

pub use self::anchors_at::{AnchorsAt, AnchorsAtError};
pub use self::carbon::{CarbonArgs, CarbonProvider, Kilograms};
pub use self::file::{ConfigFile, ConfigPath, Setting, settings};
pub use self::meter_files::MeterFiles;
use crate::anchors::{AnchorError, Anchors};
use crate::http::{Connections, Reloader, Tls, TlsError};

/// Flags of `wattle serve`. Each is a key of the configuration file too, with `_` for `-`.
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// Directory for everything that must survive.
    #[arg(long, env = "WATTLE_DATA", default_value_os_t = default_data_dir())]
    pub data: PathBuf,
    /// Address of the API.
    #[arg(long, env = "WATTLE_LISTEN", default_value = "127.0.0.1:8700")]
    pub listen: SocketAddr,
    /// Address of livez, readyz and metrics.
    #[arg(long, env = "WATTLE_ADMIN_LISTEN", default_value = "127.0.0.1:8701")]
    pub admin_listen: SocketAddr,
    /// Serve plain HTTP on an address that others can reach.
    #[arg(long, env = "WATTLE_INSECURE", value_name = "BOOL", action = ArgAction::Set, default_value_t = false,
          num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub insecure: bool,
    /// Certificate chain (PEM) to serve TLS with; read again when it changes, and on SIGHUP.
    #[arg(long, env = "WATTLE_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's private key (PEM).
    #[arg(long, env = "WATTLE_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Postgres to use at run time, as the role wattle_host; without it the host runs its own.
    #[arg(long, env = "DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub database_url: Option<Secret>,
    /// The same Postgres as the owner, for migrations.
    #[arg(long, env = "DATABASE_OWNER_URL", value_name = "URL", hide_env_values = true)]
    pub database_owner_url: Option<Secret>,
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
    /// Seconds between two checkpoints of the ledger: signatures over what was posted since.
    #[arg(long, env = "WATTLE_CHECKPOINT_S", default_value_t = 3_600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub checkpoint_s: u64,
    /// Directory, or bucket as s3://BUCKET/PREFIX, to which each checkpoint is also written, best where whoever may
    /// write the database may not: a ledger that is rolled back is found out by it. A bucket's keys and endpoint are
    /// taken from AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and AWS_ENDPOINT_URL.
    #[arg(long, env = "WATTLE_ANCHORS", value_name = "DIR|URL")]
    pub anchors: Option<AnchorsAt>,
    /// Seconds that receipt lines stay in the database before they are archived to the blob store, where receipts, proofs
    /// and checks still find them; 90 days by default.
    #[arg(long, env = "WATTLE_RECEIPTS_HOT_S", default_value_t = 7_776_000, value_parser = clap::value_parser!(u64).range(1..=3_155_760_000))]
    pub receipts_hot_s: u64,
    /// Milliseconds between two readings of the meter.
    #[arg(long, env = "WATTLE_SLICE_MS", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(50..=10_000))]
    pub slice_ms: u64,
    /// Slices in a window.
    #[arg(long, env = "WATTLE_WINDOW_SLICES", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub window_slices: u64,
    /// Claims, one for each slice of each call, after which a window has slices enough, if it lasts a second: what it
    /// holds is in memory some times over, and is one record and one transaction.
    #[arg(long, env = "WATTLE_WINDOW_CLAIMS", default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    pub window_claims: u32,
    /// Where the kernel shows meters: RAPL and hwmon are looked for in `class` below it.
    #[arg(long, env = "WATTLE_METER_SYS", value_name = "PATH", default_value = "/sys")]
    pub meter_sys: PathBuf,
    /// The library of NVIDIA's driver, by which GPUs are metered.
    #[arg(
        long,
        env = "WATTLE_METER_NVML",
        value_name = "PATH",
        default_value = "libnvidia-ml.so.1"
    )]
    pub meter_nvml: PathBuf,
    /// Meters that the site keeps in files, such as a plug's watts or a counter of microjoules:
    /// `plug=/run/plug/watts?unit=w&covers=machine&max_w=500`; several stand behind each other with `;` between.
    #[arg(long, env = "WATTLE_METER_FILES", value_name = "METERS")]
    pub meter_files: Option<MeterFiles>,
    /// The name of the modelled meter's root; two hosts on a machine cannot both bill one root.
    #[arg(long, env = "WATTLE_METER_ROOT", default_value = "modelled")]
    pub meter_root: Name,
    /// Watts of the machine with nothing to do, for the modelled meter.
    #[arg(long, env = "WATTLE_METER_IDLE_W")]
    pub meter_idle_w: Option<f64>,
    /// Watts of the machine with all to do, for the modelled meter.
    #[arg(long, env = "WATTLE_METER_MAX_W")]
    pub meter_max_w: Option<f64>,
    /// Where the host stands, and who knows its grid.
    #[command(flatten)]
    pub carbon: CarbonArgs,
    /// Largest component that may be uploaded, in MiB.
    #[arg(long, env = "WATTLE_COMPONENT_MAX_MIB", default_value_t = 64)]
    pub component_max_mib: u64,
    /// Largest graph that may be uploaded, in MiB.
    #[arg(long, env = "WATTLE_GRAPH_MAX_MIB", default_value_t = 512)]
    pub graph_max_mib: u64,
    /// Meters nothing but fuel, keeps no records and posts nothing: for the bench that tells what metering costs.
    #[arg(long, hide = true)]
    pub unmetered: bool,
    /// Milliseconds after which idle energy is allocated again, of whatever windows there are by then, instead of by the
    /// hour: for tests of what a crash leaves.
    #[arg(long, hide = true, value_parser = clap::value_parser!(u64).range(1..))]
    pub allocate_every_ms: Option<u64>,
    /// Bytes of components and graphs that a tenant may store unless an admin says otherwise, in MiB.
    #[arg(long, env = "WATTLE_STORAGE_MAX_MIB", default_value_t = 10_240, value_parser = clap::value_parser!(u64).range(..=1 << 40))]
    pub storage_max_mib: u64,
    /// Components and graphs that a tenant may upload in an hour unless an admin says otherwise.
    #[arg(long, env = "WATTLE_UPLOADS_MAX_PER_HOUR", default_value_t = 600, value_parser = clap::value_parser!(u32).range(..=1 << 30))]
    pub uploads_max_per_hour: u32,
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
    /// Milliseconds that a connection may take for its TLS handshake and for each request's headers, or stay idle.
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
    /// How the log is written.
    #[arg(long, env = "WATTLE_LOG_FORMAT", value_enum, default_value = "auto")]
    pub log_format: LogFormat,
    /// What is logged: a level, or levels by part, such as info,sqlx=warn,guest=off.
    #[arg(long, env = "RUST_LOG", default_value = "info,sqlx=warn", value_parser = log_filter)]
    pub log_filter: String,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// As text to a terminal, else as JSON.
    Auto,
    /// A line of text each.
    Text,
    /// A JSON object each.
    Json,
}

/// Text that must not be shown: it has no `Display`, and its `Debug` keeps it back.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl FromStr for Secret {
    type Err = Infallible;
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// When a record of usage counts as kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum JournalMode {
    /// When the kernel has it: survives a kill of the host.
    Standard,
    /// When the disk has it: survives a power cut.
    Strict,
}

/// A setting, or two together, that make no sense.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there or may not be read.
    #[error("{}: {cause}: give another with --config", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// The file is no TOML. The line itself may hold a secret and is not shown.
    #[error("{} line {line}: {cause}", path.display())]
    Syntax {
        /// Which.
        path: PathBuf,
        /// Where.
        line: usize,
        /// Why.
        cause: String,
    },
    /// A key that means nothing.
    #[error("{}: there is no key '{key}'{}", path.display(),
        nearest.as_ref().map(|nearest| format!(": did you mean '{nearest}'?")).unwrap_or_default())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// What stands in it.
        key: String,
        /// The key that looks most like it.
        nearest: Option<String>,
    },
    /// A value that its key does not take.
    #[error("{origin}: {key}: {reason}")]
    Value {
        /// The file, or the environment.
        origin: String,
        /// The key or variable.
        key: String,
        /// Why.
        reason: String,
    },
    /// Secrets where everyone may read them.
    #[error("{} holds {key} and everyone on this machine may read it: chmod o= {}", path.display(), path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// The first secret in it.
        key: String,
    },
    /// One of two settings that go together.
    #[error("--{given} needs --{missing} beside it")]
    Alone {
        /// Which is there.
        given: &'static str,
        /// Which is not.
        missing: &'static str,
    },
    /// A number that its flag does not take.
    #[error("--{flag} {value} is not from {min} to {max}")]
    OutOfRange {
        /// The flag.
        flag: &'static str,
        /// What it was given.
        value: f64,
        /// The least that it takes.
        min: f64,
        /// The most.
        max: f64,
    },
    /// A zone that the provider does not have.
    #[error("--carbon-zone: {0}")]
    Carbon(::carbon::ProviderError),
    /// Two listeners in one place.
    #[error("--listen and --admin-listen are both {0}: give them different ports")]
    SameAddress(SocketAddr),
    /// Fewer connections than calls.
    #[error("--connections {connections} is below --concurrency {concurrency}: each call needs a connection")]
    Connections {
        /// Connections given.
        connections: u32,
        /// Concurrency given.
        concurrency: u32,
    },
    /// Plain HTTP where others can listen.
    #[error("{0} can be reached from other machines: give --tls-cert and --tls-key, or say --insecure")]
    Insecure(SocketAddr),
    /// A certificate that cannot be served.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A bucket for anchors that the environment does not describe.
    #[error(transparent)]
    Anchors(#[from] AnchorError),
    /// A power model that falls.
    #[error("--meter-idle-w {idle} and --meter-max-w {max} must both be above 0, the first below the second")]
    PowerModel {
        /// Idle watts given.
        idle: f64,
        /// Maximum watts given.
        max: f64,
    },
}

/// All that is wrong at once, a line each.
#[derive(Debug)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl ConfigErrors {
    /// An error if there is anything wrong.
    pub fn none(errors: Vec<ConfigError>) -> Result<(), Self> {
        if errors.is_empty() {
            Ok(())
        } else {
            Err(Self(errors))
        }
    }
}

impl std::error::Error for ConfigErrors {}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

fn log_filter(text: &str) -> Result<String, tracing_subscriber::filter::ParseError> {
    text.parse::<Targets>().map(|_| text.to_owned())
}

/// Where everything is kept that must survive, unless said otherwise.
pub fn default_data_dir() -> PathBuf {
    match rustix::process::geteuid().is_root() {
        true => PathBuf::from("/var/lib/wattle"),
        false => PathBuf::from(".wattle"),
    }
}

impl ServeArgs {
    /// Checks what a flag alone cannot, and says all that is wrong.
    pub fn check(&self) -> Result<(), ConfigErrors> {
        let mut errors = Vec::new();
        for (given, missing, [first, second]) in [
            (
                "tls-cert",
                "tls-key",
                [self.tls_cert.is_some(), self.tls_key.is_some()],
            ),
            (
                "database-url",
                "database-owner-url",
                [self.database_url.is_some(), self.database_owner_url.is_some()],
            ),
            (
                "meter-idle-w",
                "meter-max-w",
                [self.meter_idle_w.is_some(), self.meter_max_w.is_some()],
            ),
        ] {
            match (first, second) {
                (true, false) => errors.push(ConfigError::Alone { given, missing }),
                (false, true) => errors.push(ConfigError::Alone {
                    given: missing,
                    missing: given,
                }),
                _ => {}
            }
        }
        let tls = self.tls_cert.is_some() || self.tls_key.is_some();
        for address in [self.listen, self.admin_listen] {
            if !address.ip().is_loopback() && !self.insecure && !tls {
                errors.push(ConfigError::Insecure(address));
            }
        }
        if self.listen == self.admin_listen && self.listen.port() != 0 {
            errors.push(ConfigError::SameAddress(self.listen));
        }
        let (connections, concurrency) = (self.connections, self.concurrency);
        if connections < concurrency {
            errors.push(ConfigError::Connections {
                connections,
                concurrency,
            });
        }
        if let (Some(idle), Some(max)) = (self.meter_idle_w, self.meter_max_w)
            && !(idle > 0.0 && max > idle && max < 1e6)
        {
            errors.push(ConfigError::PowerModel { idle, max });
        }
        errors.extend(self.carbon.check());
        errors.extend(self.tls().err().map(ConfigError::Tls));
        errors.extend(self.anchors().err().map(ConfigError::Anchors));
        ConfigErrors::none(errors)
    }

    /// The certificate and its key, read from their files, if there are any.
    pub fn tls(&self) -> Result<Option<(Tls, Reloader)>, TlsError> {
        let files = self.tls_cert.clone().zip(self.tls_key.clone());
        files.map(|(cert, key)| Tls::open(cert, key)).transpose()
    }

    /// Where checkpoints are anchored, if they are.
    pub fn anchors(&self) -> Result<Option<Anchors>, AnchorError> {
        self.anchors.as_ref().map(Anchors::open).transpose()
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
            body_timeout: Duration::from_millis(self.body_timeout_ms),
        }
    }

    /// The same for the operators' listener, which is not locked out when the API's is full.
    pub fn admin_connections(&self) -> Connections {
        Connections {
            max: 64,
            ..self.connections()
        }
    }

    /// With so many calls that ended in it, a slice is cut before its time. A second of them makes a window of several
    /// slices.
    pub fn slice_calls(&self) -> usize {
        self.window_claims as usize * 8
    }

    /// The time between two readings.
    pub fn slice(&self) -> Duration {
        Duration::from_millis(self.slice_ms)
    }
}
