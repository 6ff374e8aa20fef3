//! The engine: how guests are compiled and run, and the thread that makes them yield.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;

use domain::Limits;
use wasmparser::WasmFeatures;
use wasmtime::{
    Config, Enabled, Engine, EngineWeak, InstanceAllocationStrategy, OperatorCost, PoolingAllocationConfig,
};

/// Between two ticks a guest runs undisturbed.
const TICK: Duration = Duration::from_millis(5);

/// What a page that a guest asks for costs, part of the fuel schedule: zeroing it is work.
const FUEL_PER_PAGE: u8 = 250;

/// Core instances per component instance: a Rust guest has about 4, an interpreted one some dozens.
pub(crate) const CORE_INSTANCES_PER_COMPONENT: u32 = 64;

/// How much of a memory or a table is zeroed in place after a call, rather than given back to the
/// kernel: that costs a system call and the attention of every core. Where the kernel tells which pages are
/// dirty, only those are zeroed, so that a call pays for what it wrote.
const KEEP_RESIDENT_BYTES: usize = 256 << 10;

/// The same of a stack, where nobody tells which pages are dirty: all of this is zeroed after every call, and
/// what a deeper one wrote is given back.
const STACK_RESIDENT_BYTES: usize = 32 << 10;

/// Why there is no runtime.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The engine refuses its configuration, or the operating system refuses it memory.
    #[error("the sandbox does not start: {0}")]
    Engine(String),
    /// The folder of compiled code cannot be used.
    #[error("the folder of compiled code cannot be used: {0}")]
    Folder(#[from] std::io::Error),
}

/// All that decides what machine code looks like, the same where it is compiled and where it runs.
///
/// The `gc` and `threads` features are compiled in and off: a build without them aborts on some inputs.
fn config() -> Config {
    let mut cost = OperatorCost::new();
    cost.variable.memory_grow_per_page = FUEL_PER_PAGE;
    let mut config = Config::new();
    config
        .consume_fuel(true)
        .operator_cost(cost)
        .epoch_interruption(true)
        .memory_init_cow(true)
        .gc_support(false)
        .wasm_gc(false)
        .wasm_function_references(false)
        .wasm_exceptions(false)
        .concurrency_support(false)
        .wasm_threads(false)
        .wasm_memory64(false)
        .relaxed_simd_deterministic(true)
        .async_stack_zeroing(true);
    config
}

/// The WebAssembly proposals that guests may use.
pub(crate) fn features() -> wasmtime::Result<WasmFeatures> {
    Ok(compiling_engine()?.get_wasm_features())
}

/// The engine of the compile child. It makes the same code as [`engine`], but reserves no address space:
/// the pool would not fit under the child's limit.
pub(crate) fn compiling_engine() -> wasmtime::Result<Engine> {
    Engine::new(&config())
}

/// The engine that runs guests: pooled, or on demand where the pool's address space is not to be had.
pub(crate) fn engine(max_concurrency: u32) -> Result<Engine, RuntimeError> {
    let mut pooled = config();
    pooled.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(max_concurrency)));
    match Engine::new(&pooled) {
        Ok(engine) => Ok(engine),
        Err(error) => {
            tracing::warn!(
                error = format!("{error:#}"),
                "no pool of instances: each is made on demand"
            );
            Engine::new(&config()).map_err(|error| RuntimeError::Engine(format!("{error:#}")))
        }
    }
}

fn pool(max_concurrency: u32) -> PoolingAllocationConfig {
    let limits = Limits::CEILING;
    let instances = max_concurrency.max(1);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        .total_stacks(instances)
        .total_core_instances(instances.saturating_mul(CORE_INSTANCES_PER_COMPONENT))
        .total_memories(instances.saturating_mul(4))
        .total_tables(instances.saturating_mul(16))
        .max_core_instances_per_component(CORE_INSTANCES_PER_COMPONENT)
        .max_memories_per_component(4)
        .max_tables_per_component(16)
        .max_memories_per_module(2)
        .max_tables_per_module(2)
        .max_component_instance_size(10 << 20)
        .max_core_instance_size(10 << 20)
        .table_elements(usize::try_from(limits.table_elements).unwrap_or(usize::MAX))
        .linear_memory_keep_resident(KEEP_RESIDENT_BYTES)
        .table_keep_resident(KEEP_RESIDENT_BYTES)
        .async_stack_keep_resident(STACK_RESIDENT_BYTES)
        .pagemap_scan(Enabled::Auto);
    pool
}

/// Advances the engine's epoch while guests run, so that each yields and looks at its deadline.
pub(crate) struct Ticker {
    running: Arc<AtomicUsize>,
    thread: Thread,
}

/// Keeps the ticker going while it is held.
pub(crate) struct Ticking<'a>(&'a Ticker);

impl Ticker {
    /// Starts the thread. It ends when nobody holds the engine any more.
    pub(crate) fn start(engine: &Engine) -> Result<Self, RuntimeError> {
        let running = Arc::new(AtomicUsize::new(0));
        let (weak, seen) = (engine.weak(), Arc::clone(&running));
        let handle = thread::Builder::new()
            .name("epoch".into())
            .spawn(move || tick(&weak, &seen))?;
        Ok(Self {
            running,
            thread: handle.thread().clone(),
        })
    }

    /// Ticks until the guard is dropped.
    pub(crate) fn guard(&self) -> Ticking<'_> {
        if self.running.fetch_add(1, Ordering::SeqCst) == 0 {
            self.thread.unpark();
        }
        Ticking(self)
    }
}

impl Drop for Ticking<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

fn tick(engine: &EngineWeak, running: &AtomicUsize) {
    loop {
        if running.load(Ordering::SeqCst) == 0 {
            // Nobody to wake: an idle host should not tick. The time-out only notices a lost engine.
            thread::park_timeout(Duration::from_secs(1));
        } else {
            thread::sleep(TICK);
        }
        match engine.upgrade() {
            Some(engine) => engine.increment_epoch(),
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_of_the_child_fits_the_pooled_engine() {
        let compiled = compiling_engine()
            .unwrap()
            .precompile_component(b"\0asm\x0d\0\x01\0")
            .unwrap();
        let pooled = engine(2).unwrap();
        assert!(
            pooled.get_pooling_config().is_some(),
            "this machine should give the pool its room"
        );
        // Deserialising checks every setting that code depends on.
        assert!(crate::artefact::trusted(&pooled, &compiled).is_ok());
    }

    #[test]
    fn without_room_for_a_pool_instances_are_made_on_demand() {
        let engine = engine(1_000_000).unwrap();
        assert!(engine.get_pooling_config().is_none());
    }
}
