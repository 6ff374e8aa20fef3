//! Compiling in a child, and code that this node vouches for.

#![allow(clippy::unwrap_used, reason = "test helpers too may fail loudly")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Host, compiler, guest, invocation, request, runtime_in};
use domain::{Digest, UsageCell};
use runtime::{CompileError, CompileLimits, CompilerCommand, Runtime};

const NOTHING: &str = "i32.const 0";

async fn component() -> Vec<u8> {
    Host::new().inspect(&guest("", NOTHING)).await.unwrap().component
}

fn open(folder: &Path, key: [u8; 32]) -> Runtime {
    runtime_in(folder, key, compiler(), CompileLimits::default())
}

fn code_of(folder: &Path, digest: Digest) -> PathBuf {
    folder.join(format!("{}.code", digest.hex()))
}

async fn missing(runtime: &Runtime, digest: Digest) -> bool {
    matches!(runtime.load(digest).await, Err(CompileError::Missing))
}

#[tokio::test]
async fn compiled_code_outlives_the_runtime_and_is_not_made_twice() {
    let folder = tempfile::tempdir().unwrap();
    let (digest, component) = (Digest::of(b"a"), component().await);
    let first = open(folder.path(), [1; 32]);
    assert!(missing(&first, digest).await);
    let cell = UsageCell::default();
    first
        .compile(digest, component.clone().into(), &cell)
        .await
        .unwrap();
    assert!(cell.snapshot().cpu_ns > 0, "the child's CPU time counts");

    let second = open(folder.path(), [1; 32]);
    let pipeline = second.load(digest).await.unwrap();
    assert!(pipeline.infer(request(), invocation()).await.is_ok());
    let cell = UsageCell::default();
    second.compile(digest, component.into(), &cell).await.unwrap();
    assert_eq!(cell.snapshot().cpu_ns, 0, "no child ran");
}

#[tokio::test]
async fn code_that_was_touched_is_compiled_again() {
    let folder = tempfile::tempdir().unwrap();
    let (digest, other, component) = (Digest::of(b"a"), Digest::of(b"b"), component().await);
    open(folder.path(), [1; 32])
        .compile(digest, component.clone().into(), &UsageCell::default())
        .await
        .unwrap();
    let path = code_of(folder.path(), digest);

    fs::copy(&path, code_of(folder.path(), other)).unwrap();
    assert!(
        missing(&open(folder.path(), [1; 32]), other).await,
        "the code of another digest"
    );
    assert!(
        missing(&open(folder.path(), [2; 32]), digest).await,
        "another node's key"
    );

    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let runtime = open(folder.path(), [1; 32]);
    assert!(missing(&runtime, digest).await, "a flipped bit");
    runtime
        .compile(digest, component.into(), &UsageCell::default())
        .await
        .unwrap();
    assert_ne!(fs::read(&path).unwrap(), bytes);
    assert!(
        runtime
            .load(digest)
            .await
            .unwrap()
            .infer(request(), invocation())
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn what_does_not_compile_is_the_components_fault() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = open(folder.path(), [1; 32]);
    let compile = async |bytes: Vec<u8>| {
        runtime
            .compile(Digest::of(&bytes), bytes.into(), &UsageCell::default())
            .await
            .unwrap_err()
    };
    let error = compile(b"\0asm\x0d\0\x01\0\xff".to_vec()).await;
    assert_eq!(
        (error.code(), error.is_components_fault()),
        ("compile_refused", true),
        "{error}"
    );

    // The right name with the wrong type: found when linking.
    let export = wat::parse_str(
        r#"(component
            (import "wattle:pipeline/config@0.1.0" (instance (export "get" (func (param "key" u32)))))
            (instance $i) (export "wattle:pipeline/handler@0.1.0" (instance $i)))"#,
    );
    let error = compile(export.unwrap()).await;
    assert_eq!(
        (error.code(), error.is_components_fault()),
        ("contract_mismatch", true),
        "{error}"
    );
}

/// Two instances of a nested component with three memories each: six, where the pool gives four to one
/// component. Inspection, which counts what is written, sees three.
#[tokio::test]
async fn what_the_pool_cannot_hold_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = open(folder.path(), [1; 32]);
    let bytes = wat::parse_str(
        r#"(component
            (component $c
                (core module $a (memory 1)) (core module $b (memory 1)) (core module $d (memory 1))
                (core instance (instantiate $a)) (core instance (instantiate $b)) (core instance (instantiate $d)))
            (instance (instantiate $c)) (instance (instantiate $c))
            (instance $i) (export "wattle:pipeline/handler@0.1.0" (instance $i)))"#,
    );
    let bytes = bytes.unwrap();
    runtime::inspect(&bytes, &runtime::UploadCaps::default()).unwrap();
    let error = runtime
        .compile(Digest::of(&bytes), bytes.into(), &UsageCell::default())
        .await
        .unwrap_err();
    assert_eq!(
        (error.code(), error.is_components_fault()),
        ("compile_refused", true),
        "{error}"
    );
    assert!(error.to_string().contains("memories"), "{error}");
}

/// Many variables over many branches, again and again: about a second of work in each of the functions, on a fast
/// machine.
#[tokio::test]
async fn a_compile_bomb_is_stopped_by_its_time() {
    let branch = "(if (local.get 0) (then (local.set 1 (local.get 2)) (local.set 2 (local.get 1))))";
    let bomb = format!(
        "(func (param i32) (local {}) {})",
        "i64 ".repeat(19_000),
        branch.repeat(40_000)
    );
    let bomb = bomb.repeat(8);
    let component = Host::new()
        .inspect(&guest(&bomb, NOTHING))
        .await
        .unwrap()
        .component;
    let folder = tempfile::tempdir().unwrap();
    let limits = CompileLimits {
        cpu_s: 1,
        ..CompileLimits::default()
    };
    let runtime = runtime_in(folder.path(), [1; 32], compiler(), limits);
    let cell = UsageCell::default();
    let error = runtime
        .compile(Digest::ZERO, component.into(), &cell)
        .await
        .unwrap_err();
    assert_eq!(
        (error.code(), error.is_components_fault()),
        ("compile_too_expensive", true),
        "{error}"
    );
    assert!(cell.snapshot().cpu_ns > 500_000_000, "it is paid for");
}

#[tokio::test]
async fn a_child_that_fails_or_hangs_is_told_apart() {
    let compile = async |program: &str, args: &[&str], limits: CompileLimits| {
        let folder = tempfile::tempdir().unwrap();
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        let command = CompilerCommand {
            program: program.into(),
            args,
        };
        let runtime = runtime_in(folder.path(), [1; 32], command, limits);
        runtime
            .compile(Digest::ZERO, component().await.into(), &UsageCell::default())
            .await
            .unwrap_err()
            .code()
    };
    let soon = CompileLimits {
        wall_ms: 50,
        ..CompileLimits::default()
    };
    assert_eq!(compile("sleep", &["600"], soon).await, "compile_too_expensive");
    assert_eq!(
        compile("false", &[], CompileLimits::default()).await,
        "compiler_failed"
    );
    assert_eq!(
        compile("/nowhere", &[], CompileLimits::default()).await,
        "compiler_unavailable"
    );
    let small = CompileLimits {
        address_space_bytes: 8 << 20,
        ..CompileLimits::default()
    };
    let child = compiler().program;
    assert_eq!(
        compile(child.to_str().unwrap(), &[], small).await,
        "compile_too_expensive"
    );
}
