//! Small guests written as text, and a runtime to call them in.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use domain::{Digest, InvocationId, Limits, Outcome, TenantId, UsageCell};
use runtime::{
    CompileLimits, CompilerCommand, Failure, Graphs, InspectError, Inspected, Invocation, Options, Pipeline,
    Request, Response, Runtime, UploadCaps,
};
use tempfile::TempDir;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::{Resolve, WorldId};

/// A core module in text that implements the pipeline world: `items` are imports, data and functions of its
/// own, `infer` the body of `infer` with the request's eight words as parameters 0 to 7 and a pointer as
/// its result. At address 0 lies a successful, empty answer; from 4096 on memory is the guest's own.
pub fn guest(items: &str, infer: &str) -> Vec<u8> {
    module(&guest_text(items, infer))
}

/// The text of [`guest`].
pub fn guest_text(items: &str, infer: &str) -> String {
    format!(
        r#"(module
            {items}
            (memory (export "memory") 1)
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 2048))
            (func (export "wattle:pipeline/handler@0.1.0#describe") (result i32) (i32.const 0))
            (func (export "wattle:pipeline/handler@0.1.0#infer")
                (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
                (local $i i32)
                {infer}))"#
    )
}

/// A core module in text, with the contract embedded.
pub fn module(text: &str) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let world = contract(&mut resolve);
    embed(text, &resolve, world)
}

/// A core module in text that may also read a clock and wait: a world of WASI beside the contract.
pub fn module_with_wasi(text: &str) -> Vec<u8> {
    let mut resolve = Resolve::default();
    contract(&mut resolve);
    let wider = r#"
        package test:wider;
        world wider {
            include wattle:pipeline/pipeline@0.1.0;
            import wasi:clocks/monotonic-clock@0.2.0;
            import wasi:io/poll@0.2.0;
            import wasi:cli/stdout@0.2.0;
        }
        package wasi:io@0.2.0 {
            interface poll { resource pollable { block: func(); } }
            interface error { resource error; }
            interface streams {
                use error.{error};
                variant stream-error { last-operation-failed(error), closed }
                resource output-stream { write: func(contents: list<u8>) -> result<_, stream-error>; }
            }
        }
        package wasi:clocks@0.2.0 {
            interface monotonic-clock {
                use wasi:io/poll@0.2.0.{pollable};
                subscribe-duration: func(when: u64) -> pollable;
            }
        }
        package wasi:cli@0.2.0 {
            interface stdout {
                use wasi:io/streams@0.2.0.{output-stream};
                get-stdout: func() -> output-stream;
            }
        }"#;
    let package = resolve.push_str("wider.wit", wider).unwrap();
    let world = resolve.select_world(&[package], Some("wider")).unwrap();
    embed(text, &resolve, world)
}

fn contract(resolve: &mut Resolve) -> WorldId {
    let contract = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../sdk/wit");
    let (package, _) = resolve.push_dir(contract).unwrap();
    resolve.select_world(&[package], Some("pipeline")).unwrap()
}

fn embed(text: &str, resolve: &Resolve, world: WorldId) -> Vec<u8> {
    let mut module = wat::parse_str(text).unwrap();
    embed_component_metadata(&mut module, resolve, world, StringEncoding::UTF8).unwrap();
    module
}

/// The program that compiles: the example beside the tests.
pub fn compiler() -> CompilerCommand {
    let tests = std::env::current_exe().unwrap();
    let program: PathBuf = tests.parent().unwrap().join("../examples/compile-child");
    assert!(
        program.exists(),
        "cargo builds the examples with the tests: {}",
        program.display()
    );
    CompilerCommand {
        program,
        args: Vec::new(),
    }
}

/// A runtime with a folder of its own.
pub struct Host {
    pub folder: TempDir,
    pub runtime: Runtime,
}

impl Host {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let runtime = runtime_in(folder.path(), [1; 32], compiler(), CompileLimits::default());
        Self { folder, runtime }
    }

    pub async fn inspect(&self, upload: &[u8]) -> Result<Inspected, InspectError> {
        let upload = bytes::Bytes::copy_from_slice(upload);
        self.runtime
            .inspect(upload, UploadCaps::default(), Arc::default())
            .await
    }

    /// Inspects, compiles and loads an upload.
    pub async fn publish(&self, upload: &[u8]) -> Arc<Pipeline> {
        let component = self.inspect(upload).await.unwrap().component;
        let digest = Digest::of(upload);
        self.runtime
            .compile(digest, component.into(), &UsageCell::default())
            .await
            .unwrap();
        self.runtime.load(digest).await.unwrap()
    }
}

pub fn runtime_in(folder: &Path, key: [u8; 32], compiler: CompilerCommand, limits: CompileLimits) -> Runtime {
    Runtime::new(Options {
        compiled_dir: folder.to_owned(),
        mac_key: key,
        max_concurrency: 4,
        threads: 2,
        compiler,
        compile_limits: limits,
    })
    .unwrap()
}

/// An invocation with room for everything.
pub fn invocation() -> Invocation {
    Invocation {
        invocation: InvocationId(uuid::Uuid::from_u128(1)),
        tenant: TenantId(uuid::Uuid::from_u128(1)),
        limits: Limits::default(),
        cell: Arc::default(),
        cancel: CancellationToken::new(),
        deadline: Instant::now() + Duration::from_secs(600),
        graphs: Graphs::default(),
        settings: Arc::default(),
    }
}

pub fn request() -> Request {
    Request {
        id: "r".into(),
        inputs: Vec::new(),
        outputs: Vec::new(),
        parameters: Vec::new(),
    }
}

/// Publishes a guest and calls it once.
pub async fn call(items: &str, infer: &str, invocation: Invocation) -> Result<Response, Failure> {
    Host::new()
        .publish(&guest(items, infer))
        .await
        .infer(request(), invocation)
        .await
}

/// Publishes a guest, calls it once and says how that ended.
pub async fn outcome(items: &str, infer: &str, limits: Limits) -> Outcome {
    let ended = call(
        items,
        infer,
        Invocation {
            limits,
            ..invocation()
        },
    )
    .await;
    ended.map_or_else(|failure| failure.outcome, |_| Outcome::Ok)
}
