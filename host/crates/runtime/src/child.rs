//! The compile child: a process of its own, since compiling is outside wasmtime's security promise, and
//! making a component of a core module is no safer.
//!
//! On standard input: the job, its limits, then the upload. On standard output: a verdict, the CPU time
//! used, then the result or the reason for refusing.

use std::io::{self, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use wasmtime::component::Component;
use wit_component::ComponentEncoder;

use crate::engine;

/// The job of making machine code of a component.
pub(crate) const COMPILE: u8 = 0;
/// The job of making a component of a core module.
pub(crate) const ENCODE: u8 = 1;
/// Bytes of the answer before its payload.
pub(crate) const HEAD_BYTES: usize = 9;
/// The verdict before a result.
pub(crate) const DONE: u8 = 0;
/// The verdict before a reason.
pub(crate) const REFUSED: u8 = 1;

/// Why the child gives up. The parent sees only that it ended without an answer.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// Standard input or output is gone.
    #[error("the parent does not talk: {0}")]
    Io(#[from] io::Error),
    /// The limits cannot be set.
    #[error("the limits cannot be set: {0}")]
    Limits(#[from] rustix::io::Errno),
    /// The engine refuses its configuration.
    #[error("the compiler does not start: {0}")]
    Engine(String),
}

/// Does the job on standard input under its limits, and answers on standard output.
///
/// The body of a hidden subcommand, to be run in a process that does nothing else.
pub fn compile_child() -> Result<(), ChildError> {
    let mut input = io::stdin().lock();
    let (mut job, mut address_space_bytes, mut cpu_s) = ([0], [0; 8], [0; 8]);
    input.read_exact(&mut job)?;
    input.read_exact(&mut address_space_bytes)?;
    input.read_exact(&mut cpu_s)?;
    limit(Resource::Core, 0)?;
    limit(Resource::As, u64::from_le_bytes(address_space_bytes))?;
    limit(Resource::Cpu, u64::from_le_bytes(cpu_s))?;
    let mut upload = Vec::new();
    input.read_to_end(&mut upload)?;

    let result = if job == [ENCODE] {
        encode(&upload)
    } else {
        compile(&upload)?
    };
    let (verdict, payload) = match result {
        Ok(bytes) => (DONE, bytes),
        Err(reason) => (REFUSED, reason.into_bytes()),
    };
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    let cpu_ns = cpu.tv_sec.cast_unsigned() * 1_000_000_000 + cpu.tv_nsec.cast_unsigned();
    let mut output = io::stdout().lock();
    output.write_all(&[verdict])?;
    output.write_all(&cpu_ns.to_le_bytes())?;
    output.write_all(&payload)?;
    output.flush()?;
    Ok(())
}

fn compile(component: &[u8]) -> Result<Result<Vec<u8>, String>, ChildError> {
    let engine = engine::compiling_engine().map_err(|error| ChildError::Engine(format!("{error:#}")))?;
    // Not `precompile_component`: like `Component::new` it also reads text where that is compiled in.
    let code = Component::from_binary(&engine, component).and_then(|component| component.serialize());
    Ok(code.map_err(|error| format!("{error:#}")))
}

/// The encoder asserts where a module lies about its own metadata, so a panic counts as a refusal.
fn encode(module: &[u8]) -> Result<Vec<u8>, String> {
    let encode = || {
        ComponentEncoder::default()
            .validate(true)
            .module(module)?
            .encode()
    };
    match catch_unwind(AssertUnwindSafe(encode)) {
        Ok(result) => result.map_err(|error| format!("{error:#}")),
        Err(_) => Err("its embedded WIT is malformed".to_owned()),
    }
}

fn limit(resource: Resource, value: u64) -> Result<(), ChildError> {
    Ok(setrlimit(
        resource,
        Rlimit {
            current: Some(value),
            maximum: Some(value),
        },
    )?)
}
