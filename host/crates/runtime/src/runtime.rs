//! The runtime: compiled components by digest.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use domain::{Digest, UsageCell};
use inference::metered;
use wasmtime::Engine;
use wasmtime::component::Linker;

use crate::artefact::Artefacts;
use crate::child;
use crate::compile::{CompileError, CompileLimits, Compiler, CompilerCommand};
use crate::engine::{self, RuntimeError, Ticker};
use crate::inspect::{self, InspectError, Inspected, UploadCaps};
use crate::pipeline::{self, Pipeline};
use crate::state::State;
use crate::turns::Turns;

/// How many pipelines stay linked, and of how many bytes of code. One that is not is loaded again in
/// milliseconds, and one that a call or a release holds stays in memory all the same.
const MAX_LOADED: usize = 128;
const MAX_LOADED_BYTES: u64 = 1 << 30;

/// What a runtime needs.
pub struct Options {
    /// The folder of compiled code; made if it is not there. No two runtimes may share it.
    pub compiled_dir: PathBuf,
    /// The key under which this node vouches for compiled code.
    pub mac_key: [u8; 32],
    /// The most calls that run at once: the pool's size.
    pub max_concurrency: u32,
    /// The threads on which guests run.
    pub threads: usize,
    /// The program that compiles.
    pub compiler: CompilerCommand,
    /// What a compilation may use.
    pub compile_limits: CompileLimits,
}

/// Compiles components and keeps them ready. Cheap to clone.
#[derive(Clone)]
pub struct Runtime(Arc<Shared>);

struct Shared {
    engine: Engine,
    linker: Linker<State>,
    ticker: Arc<Ticker>,
    turns: Arc<Turns>,
    artefacts: Artefacts,
    compiler: Compiler,
    loaded: Mutex<Loaded>,
}

/// Linked pipelines and when each was last asked for, in asks.
#[derive(Default)]
struct Loaded {
    pipelines: HashMap<Digest, (Arc<Pipeline>, u64)>,
    asks: u64,
    code_bytes: u64,
}

impl Runtime {
    /// Starts the engine and its ticking thread.
    pub fn new(options: Options) -> Result<Self, RuntimeError> {
        let engine = engine::engine(options.max_concurrency)?;
        let linker = pipeline::linker(&engine).map_err(|error| RuntimeError::Engine(format!("{error:#}")))?;
        let ticker = Arc::new(Ticker::start(&engine)?);
        let artefacts = Artefacts::open(options.compiled_dir, options.mac_key, &engine)?;
        let compiler = Compiler::new(options.compiler, options.compile_limits);
        let loaded = Mutex::default();
        Ok(Self(Arc::new(Shared {
            engine,
            linker,
            ticker,
            turns: Arc::new(Turns::new(options.threads)),
            artefacts,
            compiler,
            loaded,
        })))
    }

    /// Checks an upload, and makes a component of it where it is a core module with embedded WIT: that in a
    /// child process, for its metadata can be made to break what reads it. CPU time enters the cell.
    pub async fn inspect(
        &self,
        upload: Bytes,
        caps: UploadCaps,
        cell: Arc<UsageCell>,
    ) -> Result<Inspected, InspectError> {
        let look = {
            let (upload, caps) = (upload.clone(), caps.clone());
            inspecting(Arc::clone(&cell), move || inspect::is_module(&upload, &caps))
        };
        let component = if look.await? {
            self.encode(&upload, &cell).await?.into()
        } else {
            upload
        };
        inspecting(cell, move || inspect::inspect(&component, &caps)).await
    }

    async fn encode(&self, module: &[u8], cell: &UsageCell) -> Result<Vec<u8>, InspectError> {
        let result = match self.0.compiler.turn().await {
            Ok(_turn) => self.0.compiler.run(child::ENCODE, module, cell).await,
            Err(error) => Err(error),
        };
        result.map_err(|error| match error {
            CompileError::Refused(reason) => InspectError::NotAComponent { reason },
            CompileError::TooExpensive(_) => InspectError::NotAComponent {
                reason: error.to_string(),
            },
            _ => InspectError::Host(error.to_string()),
        })
    }

    /// Compiles an inspected component in a child process and keeps the code, unless valid code is there. The
    /// pipeline is linked and ready. The child's CPU time enters the cell.
    pub async fn compile(
        &self,
        digest: Digest,
        component: Bytes,
        cell: &UsageCell,
    ) -> Result<Arc<Pipeline>, CompileError> {
        // Under the turn, so that the second of two uploads of the same component finds the first's code.
        let _turn = self.0.compiler.turn().await?;
        match self.load(digest).await {
            Err(CompileError::Missing) => {}
            other => return other,
        }
        let code = self.0.compiler.run(child::COMPILE, &component, cell).await?;
        let shared = Arc::clone(&self.0);
        blocking(move || {
            shared.artefacts.write(digest, &code)?;
            shared.fits(digest)
        })
        .await?;
        self.load(digest).await
    }

    /// The pipeline of a compiled component, linked once and kept.
    ///
    /// # Errors
    /// [`CompileError::Missing`] if this node has no code for it that fits this engine and bears its MAC:
    /// then compile it again.
    pub async fn load(&self, digest: Digest) -> Result<Arc<Pipeline>, CompileError> {
        if let Some(pipeline) = self.0.loaded().get(digest) {
            return Ok(pipeline);
        }
        let shared = Arc::clone(&self.0);
        let pipeline = blocking(move || shared.link(digest)).await?;
        self.0.loaded().keep(digest, Arc::clone(&pipeline));
        Ok(pipeline)
    }

    /// Lets go of all code but that of `keep`, except what was written since `before`; how many files went.
    pub async fn sweep(&self, keep: HashSet<Digest>, before: SystemTime) -> Result<u64, CompileError> {
        // Under the turn, so that no code goes between its compilation and its first use.
        let _turn = self.0.compiler.turn().await?;
        self.0.loaded().retain(&keep);
        let shared = Arc::clone(&self.0);
        blocking(move || Ok(shared.artefacts.sweep(&keep, before)?)).await
    }
}

impl Shared {
    fn link(&self, digest: Digest) -> Result<Arc<Pipeline>, CompileError> {
        let code = self.artefacts.read(digest)?.ok_or(CompileError::Missing)?;
        let component = code.component(&self.engine).map_err(|error| {
            // The MAC fits and the engine does not: the settings differ in a way that the hash misses.
            tracing::warn!(%digest, error = format!("{error:#}"), "compiled code is not used");
            CompileError::Missing
        })?;
        let (ticker, turns) = (Arc::clone(&self.ticker), Arc::clone(&self.turns));
        let pipeline = Pipeline::link(&self.linker, &component, ticker, turns, code.bytes())
            .map_err(|error| CompileError::Mismatch(format!("{error:#}")))?;
        Ok(Arc::new(pipeline))
    }

    /// Whether this engine takes code that was made for it just now: if not, the pool has no room for one
    /// such instance, and to compile it again would not help.
    fn fits(&self, digest: Digest) -> Result<(), CompileError> {
        let code = self.artefacts.read(digest)?.ok_or(CompileError::Missing)?;
        let made = code.component(&self.engine);
        made.map(drop)
            .map_err(|error| CompileError::Refused(format!("it does not fit this host: {error:#}")))
    }

    fn loaded(&self) -> std::sync::MutexGuard<'_, Loaded> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Loaded {
    fn get(&mut self, digest: Digest) -> Option<Arc<Pipeline>> {
        self.asks += 1;
        let (pipeline, asked) = self.pipelines.get_mut(&digest)?;
        *asked = self.asks;
        Some(Arc::clone(pipeline))
    }

    fn retain(&mut self, keep: &HashSet<Digest>) {
        self.pipelines.retain(|digest, _| keep.contains(digest));
        let left = self.pipelines.values().map(|(pipeline, _)| pipeline.code_bytes());
        self.code_bytes = left.sum();
    }

    fn keep(&mut self, digest: Digest, pipeline: Arc<Pipeline>) {
        self.code_bytes += pipeline.code_bytes();
        if let Some((before, _)) = self.pipelines.insert(digest, (pipeline, self.asks)) {
            self.code_bytes -= before.code_bytes();
        }
        while self.pipelines.len() > MAX_LOADED || self.code_bytes > MAX_LOADED_BYTES {
            let asked = self.pipelines.iter().min_by_key(|(_, (_, asked))| *asked);
            let Some((pipeline, _)) = asked
                .map(|(&digest, _)| digest)
                .and_then(|d| self.pipelines.remove(&d))
            else {
                return;
            };
            self.code_bytes -= pipeline.code_bytes();
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CompileError> + Send + 'static,
) -> Result<T, CompileError> {
    let result = tokio::task::spawn_blocking(work).await;
    result.unwrap_or_else(|error| Err(CompileError::Crashed(error.to_string())))
}

async fn inspecting<T: Send + 'static>(
    cell: Arc<UsageCell>,
    work: impl FnOnce() -> Result<T, InspectError> + Send + 'static,
) -> Result<T, InspectError> {
    let result = tokio::task::spawn_blocking(move || metered(&cell, work)).await;
    result.unwrap_or_else(|error| Err(InspectError::Host(error.to_string())))
}
