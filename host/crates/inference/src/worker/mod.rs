//! Each graph in a process of its own.
//!
//! The libraries that read and run models trust them: one can make them allocate without end, recurse until
//! the stack ends, or work for hours. So the host starts a process for each graph, with bounded memory, and
//! ends it when it takes too long; what a model does there harms its owner's calls alone. In the host, a
//! file is only walked: its scan, its signature and its static cost.

mod child;
mod frame;
mod process;
mod runner;
mod stop;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use domain::{Signature, UsageCell};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use self::frame::{Answer, Ask};
use self::process::{Bounds, End, Lost, Process, Question};
use self::runner::WorkerRunner;
use crate::backend::{Backend, BackendInfo, Caps, Graph, Runner, Target};
use crate::backends::{Library, onnxruntime, rten};
use crate::cost::Cost;
use crate::error::LoadError;
use crate::{cpu, onnx};

pub use self::child::{WorkerError, graph_worker};
pub(crate) use self::stop::Stops;

/// How the processes of graphs are started, and what each may take.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// The executable that calls [`graph_worker`].
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Address space of a process, in bytes.
    pub memory_bytes: u64,
    /// The ONNX Runtime that graphs may run on.
    pub onnxruntime: Option<OnnxRuntimeLibrary>,
    /// CPU time of one load.
    pub load_cpu: Duration,
    /// Wall time of one load.
    pub load_wall: Duration,
}

impl WorkerOptions {
    /// This program with the default limits.
    pub fn new(program: impl Into<PathBuf>, args: Vec<String>) -> Self {
        Self {
            program: program.into(),
            args,
            memory_bytes: 2 << 30,
            onnxruntime: None,
            load_cpu: Duration::from_secs(60),
            load_wall: Duration::from_secs(180),
        }
    }
}

/// A library of ONNX Runtime that answered when it was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnnxRuntimeLibrary {
    path: PathBuf,
    version: String,
}

impl OnnxRuntimeLibrary {
    /// Opens the library in a process of its own, so that a broken one harms nobody.
    ///
    /// # Errors
    /// No process, or a library that is not there, is none, is too old, or takes too much.
    pub async fn probe(path: &Path, worker: &WorkerOptions) -> Result<Self, LoadError> {
        let ask = Ask::Probe(path.to_owned());
        match first_answer(worker, ask, &Bytes::new(), &UsageCell::default()).await? {
            (_, Answer::Probed(version)) => Ok(Self {
                path: path.to_owned(),
                version,
            }),
            _ => Err(nonsense()),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its version, such as `1.32.0`.
    pub fn version(&self) -> &str {
        &self.version
    }
}

/// A backend that runs each graph in a process of its own, on the processor.
pub struct Workers {
    options: Arc<WorkerOptions>,
    library: Library,
    info: BackendInfo,
}

impl Workers {
    /// rten, in processes that are started so.
    pub fn rten(options: Arc<WorkerOptions>) -> Self {
        Self {
            options,
            library: Library::Rten,
            info: rten::info(),
        }
    }

    /// ONNX Runtime, in processes that are started so; none without its library.
    pub fn onnxruntime(options: Arc<WorkerOptions>) -> Option<Self> {
        let OnnxRuntimeLibrary { path, version } = options.onnxruntime.as_ref()?;
        let (library, info) = (Library::OnnxRuntime(path.clone()), onnxruntime::info(version));
        Some(Self {
            options,
            library,
            info,
        })
    }

    async fn load(&self, blob: Bytes, target: Target, cell: &UsageCell) -> Result<Box<dyn Graph>, LoadError> {
        if target != Target::Cpu {
            return Err(LoadError::TargetUnavailable { target });
        }
        let parsed = blob.clone();
        let (proto, cost, is_random) = blocking(cell, move || {
            let proto = onnx::parse(&parsed)?;
            onnx::check(&proto)?;
            let (cost, is_random) = (Cost::of(&proto), onnx::is_random(&proto));
            Ok((proto, cost, is_random))
        })
        .await?;
        let (process, found) = start(&self.options, &self.library, &blob, cell).await?;
        // Of the process's word only the shapes are taken that the file leaves open.
        let inferred = move |name: &str| {
            let spec = found.outputs.iter().find(|spec| spec.name == name)?;
            Some(spec.shape.clone())
        };
        let library = self.library.clone();
        let carries = move |dtype| library.carries(dtype);
        let signature = blocking(cell, move || onnx::signature(&proto, carries, inferred)).await?;
        let resident_bytes = process.peak_bytes().unwrap_or_default() + blob.len() as u64;
        Ok(Box::new(WorkerGraph {
            options: Arc::clone(&self.options),
            library: self.library.clone(),
            blob,
            cost,
            is_random,
            resident_bytes,
            spare: Mutex::new(Some(process)),
            signature: Arc::new(signature),
        }))
    }
}

impl Backend for Workers {
    fn probe(&self) -> Caps {
        Caps {
            info: self.info.clone(),
            targets: vec![Target::Cpu],
            interruptible: true,
            narrow: false,
        }
    }

    fn load<'a>(
        &'a self,
        blob: Bytes,
        target: Target,
        cell: &'a UsageCell,
    ) -> BoxFuture<'a, Result<Box<dyn Graph>, LoadError>> {
        Self::load(self, blob, target, cell).boxed()
    }
}

/// Starts a process and has it load a model.
async fn start(
    options: &WorkerOptions,
    library: &Library,
    blob: &Bytes,
    cell: &UsageCell,
) -> Result<(Process, Signature), LoadError> {
    match first_answer(options, Ask::Load(library.clone()), blob, cell).await? {
        (process, Answer::Loaded(signature)) => Ok((process, signature)),
        _ => Err(nonsense()),
    }
}

/// Starts a process and asks it for the first time, within the bounds of a load.
async fn first_answer(
    options: &WorkerOptions,
    ask: Ask,
    body: &Bytes,
    cell: &UsageCell,
) -> Result<(Process, Answer), LoadError> {
    let unavailable = |error: std::io::Error| LoadError::Unavailable {
        reason: error.to_string(),
    };
    let mut process = Process::start(options).await.map_err(unavailable)?;
    let bounds = Bounds {
        cpu: options.load_cpu,
        wall: options.load_wall,
    };
    let mut spend = |cpu_ns| cell.add_cpu_ns(cpu_ns);
    let never = CancellationToken::new();
    let question = Question {
        ask,
        body: vec![body.clone()],
    };
    let asked = process.ask(&[question], &never, Some(&bounds), &mut spend).await;
    let error = match asked {
        Ok((Answer::Refused(error), _)) => Some(refused(error, options)),
        Ok((answer, _)) => return Ok((process, answer)),
        Err(Lost::Expensive(limit)) => Some(LoadError::Expensive { limit }),
        Err(Lost::Cancelled | Lost::Broken) => None,
    };
    let end = process.end(&mut spend).await;
    let by_end = match end {
        End::Memory => LoadError::Memory {
            limit_bytes: options.memory_bytes,
        },
        End::Other(reason) => LoadError::Backend { reason },
    };
    Err(error.unwrap_or(by_end))
}

fn nonsense() -> LoadError {
    LoadError::Backend {
        reason: "its process answered what was not asked".into(),
    }
}

/// A size beyond all memory panics before it is asked for.
fn refused(error: LoadError, options: &WorkerOptions) -> LoadError {
    match error {
        LoadError::Backend { reason } if is_beyond_memory(&reason) => LoadError::Memory {
            limit_bytes: options.memory_bytes,
        },
        error => error,
    }
}

fn is_beyond_memory(reason: &str) -> bool {
    reason.contains("capacity overflow") || onnxruntime::out_of_memory(reason)
}

/// Runs `work`, which may take long, where it blocks nobody; its CPU time goes to `cell`.
pub(crate) async fn blocking<T: Send + 'static>(
    cell: &UsageCell,
    work: impl FnOnce() -> Result<T, LoadError> + Send + 'static,
) -> Result<T, LoadError> {
    let metered = move || {
        let before = cpu::thread_ns();
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        (done, cpu::thread_ns().saturating_sub(before))
    };
    let failed = |reason: String| LoadError::Backend { reason };
    let (done, cpu_ns) = tokio::task::spawn_blocking(metered)
        .await
        .map_err(|error| failed(error.to_string()))?;
    cell.add_cpu_ns(cpu_ns);
    done.unwrap_or_else(|panic| Err(failed(cpu::words(&*panic))))
}

/// A model and how its process is started.
pub(crate) struct WorkerGraph {
    options: Arc<WorkerOptions>,
    library: Library,
    blob: Bytes,
    signature: Arc<Signature>,
    cost: Cost,
    is_random: bool,
    resident_bytes: u64,
    /// The process that loaded the model first, until a runner takes it.
    spare: Mutex<Option<Process>>,
}

impl WorkerGraph {
    /// A graph for rten whose process is started with its first runner.
    pub(crate) fn unstarted(
        options: Arc<WorkerOptions>,
        blob: Bytes,
        signature: Signature,
        cost: Cost,
    ) -> Self {
        Self {
            options,
            library: Library::Rten,
            resident_bytes: blob.len() as u64,
            blob,
            signature: Arc::new(signature),
            cost,
            is_random: false,
            spare: Mutex::new(None),
        }
    }
}

impl Graph for WorkerGraph {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn cost(&self, shapes: &[Vec<u32>]) -> u64 {
        self.cost.macs(shapes)
    }

    fn resident_bytes(&self) -> u64 {
        self.resident_bytes
    }

    fn is_random(&self) -> bool {
        self.is_random
    }

    fn runner<'a>(&'a self, cell: &'a UsageCell) -> BoxFuture<'a, Result<Box<dyn Runner>, LoadError>> {
        let start = async move {
            let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).take();
            let process = match spare {
                Some(process) => process,
                None => start(&self.options, &self.library, &self.blob, cell).await?.0,
            };
            let signature = Arc::clone(&self.signature);
            let runner: Box<dyn Runner> =
                Box::new(WorkerRunner::new(process, signature, self.options.memory_bytes));
            Ok(runner)
        };
        start.boxed()
    }
}
