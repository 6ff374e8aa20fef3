//! Every way in which a call ends, each with its own outcome and with its use on record.

#![allow(clippy::unwrap_used, reason = "test helpers too may fail loudly")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Host, call, guest, guest_text, invocation, module_with_wasi, outcome, request};
use domain::{DType, Limits, Outcome, Parameter, Tensor};
use runtime::Invocation;
use tokio::time::Instant;

const LOG: &str = r#"(import "wattle:pipeline/log@0.1.0" "write" (func $log (param i32 i32 i32)))"#;
const CONFIG: &str = r#"(import "wattle:pipeline/config@0.1.0" "get" (func $get (param i32 i32 i32)))"#;
const LOOP: &str = "(loop $l (br $l)) unreachable";

fn limits() -> Limits {
    Limits::default()
}

#[tokio::test]
async fn a_guest_that_does_nothing_answers() {
    let invocation = invocation();
    let response = call("", "i32.const 0", invocation.clone()).await.unwrap();
    assert!(response.outputs.is_empty() && response.parameters.is_empty());
    let usage = invocation.cell.snapshot();
    assert!(usage.fuel > 0 && usage.cpu_ns > 0, "{usage:?}");
    assert_eq!(usage.peak_memory_bytes, 64 << 10);
}

#[tokio::test]
async fn fuel_ends_a_loop_and_is_the_same_every_time() {
    let fuel = 12_345_678;
    for _ in 0..2 {
        let invocation = Invocation {
            limits: Limits { fuel, ..limits() },
            ..invocation()
        };
        let failure = call("", LOOP, invocation.clone()).await.unwrap_err();
        assert_eq!(
            (failure.outcome, failure.code.as_str()),
            (Outcome::FuelExhausted, "fuel_exhausted")
        );
        assert_eq!(invocation.cell.snapshot().fuel, fuel);
    }
}

#[tokio::test]
async fn a_deadline_ends_a_loop_with_its_use_on_record() {
    let pipeline = Host::new().publish(&guest("", LOOP)).await;
    let deadline = Instant::now() + Duration::from_millis(30);
    let invocation = Invocation {
        deadline,
        limits: Limits {
            fuel: u64::MAX,
            ..limits()
        },
        ..invocation()
    };
    let failure = pipeline.infer(request(), invocation.clone()).await.unwrap_err();
    assert_eq!(failure.outcome, Outcome::DeadlineExceeded);
    let usage = invocation.cell.snapshot();
    assert!(usage.fuel > 0 && usage.cpu_ns > 0, "{usage:?}");
}

/// On one thread: the guest must yield, or nobody could cancel it.
#[tokio::test(flavor = "current_thread")]
async fn a_caller_that_goes_away_ends_a_loop_whose_use_is_seen_live() {
    let pipeline = Host::new().publish(&guest("", LOOP)).await;
    let invocation = Invocation {
        limits: Limits {
            fuel: u64::MAX,
            ..limits()
        },
        ..invocation()
    };
    let running = tokio::spawn({
        let invocation = invocation.clone();
        async move { pipeline.infer(request(), invocation).await }
    });
    loop {
        let usage = invocation.cell.snapshot();
        if usage.fuel > 0 && usage.cpu_ns > 0 {
            break;
        }
        tokio::task::yield_now().await;
    }
    invocation.cancel.cancel();
    assert_eq!(running.await.unwrap().unwrap_err().outcome, Outcome::Cancelled);
}

#[tokio::test(flavor = "current_thread")]
async fn a_sleeping_guest_is_ended_too() {
    let items = r#"
        (import "wasi:clocks/monotonic-clock@0.2.0" "subscribe-duration"
            (func $subscribe (param i64) (result i32)))
        (import "wasi:io/poll@0.2.0" "[method]pollable.block" (func $block (param i32)))"#;
    let nap = "(call $block (call $subscribe (i64.const 3600000000000))) i32.const 0";
    let pipeline = Host::new()
        .publish(&module_with_wasi(&guest_text(items, nap)))
        .await;
    let invocation = invocation();
    let running = tokio::spawn({
        let invocation = invocation.clone();
        async move { pipeline.infer(request(), invocation).await }
    });
    while invocation.cell.snapshot().cpu_ns == 0 {
        tokio::task::yield_now().await;
    }
    invocation.cancel.cancel();
    assert_eq!(running.await.unwrap().unwrap_err().outcome, Outcome::Cancelled);
}

#[tokio::test]
async fn calls_beside_a_loop_are_answered() {
    let host = Host::new();
    let (busy, quick) = (
        host.publish(&guest("", LOOP)).await,
        host.publish(&guest("", "i32.const 0")).await,
    );
    let invocation = Invocation {
        limits: Limits {
            fuel: u64::MAX,
            ..limits()
        },
        ..common::invocation()
    };
    let cancel = invocation.cancel.clone();
    let running = tokio::spawn(async move { busy.infer(request(), invocation).await });
    for _ in 0..20 {
        assert!(quick.infer(request(), common::invocation()).await.is_ok());
    }
    assert!(!running.is_finished());
    cancel.cancel();
    assert_eq!(running.await.unwrap().unwrap_err().outcome, Outcome::Cancelled);
}

#[tokio::test]
async fn memory_is_limited_and_its_peak_recorded() {
    let bomb = "(loop $l (br_if $l (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) unreachable";
    let limits = Limits {
        memory_bytes: 8 << 20,
        ..limits()
    };
    let invocation = Invocation {
        limits: limits.clone(),
        ..invocation()
    };
    let failure = call("", bomb, invocation.clone()).await.unwrap_err();
    assert_eq!(failure.outcome, Outcome::MemoryExceeded, "{failure}");
    let peak = invocation.cell.snapshot().peak_memory_bytes;
    assert!(peak > 7 << 20 && peak <= 8 << 20, "{peak}");

    let modest = "(drop (memory.grow (i32.const 10000))) i32.const 0";
    assert_eq!(
        outcome("", modest, limits.clone()).await,
        Outcome::Ok,
        "a guest may take no for an answer"
    );
    let too_small = Limits {
        memory_bytes: 1000,
        ..limits
    };
    assert_eq!(
        outcome("", "i32.const 0", too_small).await,
        Outcome::MemoryExceeded,
        "from the start"
    );
}

#[tokio::test]
async fn growing_memory_costs_fuel() {
    let fuel = async |pages: u32| {
        let invocation = invocation();
        let body = format!("(drop (memory.grow (i32.const {pages}))) i32.const 0");
        call("", &body, invocation.clone()).await.unwrap();
        invocation.cell.snapshot().fuel
    };
    assert_eq!(fuel(11).await - fuel(1).await, 10 * 250);
}

#[tokio::test]
async fn tables_are_limited() {
    let items = "(table $t 1 funcref)";
    let grow = "(drop (table.grow $t (ref.null func) (i32.const 100))) unreachable";
    let small = Limits {
        table_elements: 50,
        ..limits()
    };
    assert_eq!(outcome(items, grow, small).await, Outcome::TableExceeded);
    assert_eq!(outcome(items, grow, limits()).await, Outcome::Trapped);
}

#[tokio::test]
async fn traps_are_traps() {
    let overflow = "(func $f (call $f))";
    assert_eq!(outcome("", "unreachable", limits()).await, Outcome::Trapped);
    assert_eq!(
        outcome("", "(i32.load (i32.const -8))", limits()).await,
        Outcome::Trapped
    );
    assert_eq!(
        outcome(overflow, "(call $f) i32.const 0", limits()).await,
        Outcome::Trapped
    );
    assert_eq!(
        outcome("", "i32.const -4", limits()).await,
        Outcome::Trapped,
        "an answer out of bounds"
    );
    let start = "(func $boom unreachable) (start $boom)";
    assert_eq!(
        outcome(start, "i32.const 0", limits()).await,
        Outcome::Trapped,
        "before the call"
    );
    let start = "(func $spin (loop $l (br $l))) (start $spin)";
    let spent = Limits {
        fuel: 50_000_000,
        ..limits()
    };
    assert_eq!(
        outcome(start, "i32.const 0", spent).await,
        Outcome::FuelExhausted,
        "while starting"
    );
}

#[tokio::test]
async fn logs_are_limited() {
    let write = "(call $log (i32.const 2) (i32.const 0) (i32.const 100))";
    let small = Limits {
        log_bytes: 199,
        ..limits()
    };
    assert_eq!(
        outcome(LOG, &format!("{write} i32.const 0"), small.clone()).await,
        Outcome::Ok
    );
    assert_eq!(
        outcome(LOG, &format!("{write} {write} i32.const 0"), small).await,
        Outcome::LogExceeded
    );
}

#[tokio::test]
async fn standard_output_is_limited_like_the_log() {
    let items = r#"
        (import "wasi:cli/stdout@0.2.0" "get-stdout" (func $stdout (result i32)))
        (import "wasi:io/streams@0.2.0" "[method]output-stream.write" (func $write (param i32 i32 i32 i32)))"#;
    let write = "(call $write (call $stdout) (i32.const 0) (i32.const 100) (i32.const 8192))";
    let pipeline = Host::new()
        .publish(&module_with_wasi(&guest_text(
            items,
            &format!("{write} {write} i32.const 0"),
        )))
        .await;
    // Two notes of 100 bytes, each with 16 for its line.
    for (log_bytes, expected) in [(232, None), (231, Some(Outcome::LogExceeded))] {
        let invocation = Invocation {
            limits: Limits {
                log_bytes,
                ..limits()
            },
            ..invocation()
        };
        let ended = pipeline.infer(request(), invocation).await;
        assert_eq!(ended.err().map(|failure| failure.outcome), expected);
    }
}

#[tokio::test]
async fn settings_reach_the_guest_and_calls_cost_fuel() {
    let items = format!("{CONFIG} (data (i32.const 4096) \"abc\")");
    let ask = |length: u32, found: u32| {
        format!(
            "(call $get (i32.const 4096) (i32.const {length}) (i32.const 8192))
             (if (i32.ne (i32.load (i32.const 8192)) (i32.const {found})) (then unreachable))
             i32.const 0"
        )
    };
    let invocation = Invocation {
        settings: Arc::new([("ab".to_owned(), "1".to_owned())].into()),
        ..invocation()
    };
    assert!(call(&items, &ask(2, 1), invocation.clone()).await.is_ok());
    assert!(call(&items, &ask(3, 0), invocation.clone()).await.is_ok());
    assert!(invocation.cell.snapshot().fuel > 2_000);

    let spent = Limits {
        fuel: 100_000,
        ..limits()
    };
    let body = "(loop $l (call $get (i32.const 4096) (i32.const 2) (i32.const 8192)) (br $l)) unreachable";
    let invocation = Invocation {
        limits: spent,
        ..invocation
    };
    let failure = call(&items, body, invocation).await.unwrap_err();
    assert_eq!(failure.outcome, Outcome::FuelExhausted);
}

#[tokio::test]
async fn calls_of_wasi_cost_fuel_too() {
    let items = r#"
        (import "wasi:clocks/monotonic-clock@0.2.0" "subscribe-duration"
            (func $subscribe (param i64) (result i32)))"#;
    let call = "(drop (call $subscribe (i64.const 0)))";
    let fuel = async |calls: usize, limit| {
        let guest = guest_text(items, &format!("{} i32.const 0", call.repeat(calls)));
        let pipeline = Host::new().publish(&module_with_wasi(&guest)).await;
        let invocation = Invocation {
            limits: Limits {
                fuel: limit,
                ..limits()
            },
            ..invocation()
        };
        let ended = pipeline.infer(request(), invocation.clone()).await;
        (ended.is_ok(), invocation.cell.snapshot().fuel)
    };
    let (answered, one) = fuel(1, 1_000_000).await;
    assert!(answered);
    let (answered, eleven) = fuel(11, 1_000_000).await;
    assert!(
        answered && (10_000..10_200).contains(&(eleven - one)),
        "{one}, {eleven}"
    );
    assert_eq!(fuel(11, eleven).await, (true, eleven));
    assert_eq!(fuel(11, eleven - 1).await, (false, eleven - 1), "owed to the end");
}

#[tokio::test]
async fn too_much_at_once_is_refused() {
    let huge = "(drop (memory.grow (i32.const 20)))
        (call $get (i32.const 0) (i32.const 1000000) (i32.const 8192)) i32.const 0";
    let small = Limits {
        tensor_bytes: 1000,
        ..limits()
    };
    assert_eq!(outcome(CONFIG, huge, small).await, Outcome::TensorsExceeded);
}

/// An answer with one output: its name of 1 byte, `dtype`, a shape of one axis with 4 elements, and
/// `length` bytes of data. At 4096 the result, at 4160 the tensor.
fn answer(dtype: u8, length: u32) -> String {
    format!(
        "(i32.store (i32.const 4100) (i32.const 4160)) (i32.store (i32.const 4104) (i32.const 1))
         (i32.store (i32.const 4160) (i32.const 4300)) (i32.store (i32.const 4164) (i32.const 1))
         (i32.store8 (i32.const 4300) (i32.const 120))
         (i32.store8 (i32.const 4168) (i32.const {dtype}))
         (i32.store (i32.const 4172) (i32.const 4320)) (i32.store (i32.const 4176) (i32.const 1))
         (i32.store (i32.const 4320) (i32.const 4))
         (i32.store (i32.const 4180) (i32.const 4400)) (i32.store (i32.const 4184) (i32.const {length}))
         i32.const 4096"
    )
}

#[tokio::test]
async fn answers_are_checked_and_limited() {
    let invocation = invocation();
    let response = call("", &answer(11, 16), invocation.clone()).await.unwrap();
    let expected = Tensor::new("x", DType::Fp32, vec![4], vec![0; 16]).unwrap();
    assert_eq!(response.outputs, [expected]);
    assert_eq!(invocation.cell.snapshot().bytes_out, 16);

    assert_eq!(
        outcome("", &answer(11, 15), limits()).await,
        Outcome::InvalidOutput
    );
    let small = Limits {
        output_bytes: 20,
        ..limits()
    };
    assert_eq!(outcome("", &answer(11, 16), small).await, Outcome::OutputExceeded);
    assert_eq!(
        outcome("", &answer(14, 16), limits()).await,
        Outcome::Trapped,
        "no such type"
    );
}

#[tokio::test]
async fn a_guests_own_failure_is_its_own() {
    // result: error; the code "ab", no message, retryable.
    let body = "(i32.store8 (i32.const 4096) (i32.const 1))
        (i32.store (i32.const 4100) (i32.const 4200)) (i32.store (i32.const 4104) (i32.const 2))
        (i32.store16 (i32.const 4200) (i32.const 0x6261))
        (i32.store8 (i32.const 4116) (i32.const 1))
        i32.const 4096";
    let failure = call("", body, invocation()).await.unwrap_err();
    assert_eq!(failure.outcome, Outcome::GuestFailure);
    assert_eq!((failure.code.as_str(), failure.retryable), ("ab", true));
}

#[tokio::test]
async fn requests_reach_the_guest_and_count() {
    // Echoes nothing, but traps unless there are 2 inputs and 1 parameter, and the id has 1 byte.
    let body = "(if (i32.ne (local.get 1) (i32.const 1)) (then unreachable))
        (if (i32.ne (local.get 3) (i32.const 2)) (then unreachable))
        (if (i32.ne (local.get 7) (i32.const 1)) (then unreachable))
        i32.const 0";
    let tensor = |name: &str| Tensor::new(name, DType::U8, vec![3], vec![1, 2, 3]).unwrap();
    let request = runtime::Request {
        inputs: vec![tensor("a"), tensor("b")],
        parameters: vec![Parameter {
            key: "k".into(),
            value: "1".into(),
        }],
        ..request()
    };
    let invocation = invocation();
    let pipeline = Host::new().publish(&guest("", body)).await;
    pipeline.infer(request.clone(), invocation.clone()).await.unwrap();
    assert_eq!(invocation.cell.snapshot().bytes_in, 8);
    for (tensor_bytes, expected) in [(8, None), (7, Some(Outcome::TensorsExceeded))] {
        let tight = Invocation {
            limits: Limits {
                tensor_bytes,
                ..limits()
            },
            ..common::invocation()
        };
        let ended = pipeline.infer(request.clone(), tight).await;
        assert_eq!(ended.err().map(|failure| failure.outcome), expected);
    }
}

#[tokio::test]
async fn nothing_is_kept_between_calls() {
    let items = "(global $calls (mut i32) (i32.const 0))";
    let body = "(if (global.get $calls) (then unreachable))
        (if (i32.load (i32.const 8000)) (then unreachable))
        (global.set $calls (i32.const 1)) (i32.store (i32.const 8000) (i32.const 1))
        i32.const 0";
    let pipeline = Host::new().publish(&guest(items, body)).await;
    for _ in 0..8 {
        assert!(pipeline.infer(request(), invocation()).await.is_ok());
    }
}

#[tokio::test]
async fn a_full_pool_is_the_hosts_matter() {
    let pipeline = Host::new().publish(&guest("", LOOP)).await;
    let busy: Vec<_> = (0..4)
        .map(|_| {
            let (pipeline, invocation) = (Arc::clone(&pipeline), invocation());
            let (cell, cancel) = (Arc::clone(&invocation.cell), invocation.cancel.clone());
            let task = tokio::spawn(async move { pipeline.infer(request(), invocation).await });
            (task, cell, cancel)
        })
        .collect();
    while busy.iter().any(|(_, cell, _)| cell.snapshot().fuel == 0) {
        tokio::task::yield_now().await;
    }
    let failure = pipeline.infer(request(), invocation()).await.unwrap_err();
    assert_eq!(
        (failure.outcome, failure.retryable),
        (Outcome::HostFault, true),
        "{failure}"
    );
    for (task, _, cancel) in busy {
        cancel.cancel();
        assert_eq!(task.await.unwrap().unwrap_err().outcome, Outcome::Cancelled);
    }
    let after = Invocation {
        limits: Limits {
            fuel: 1_000_000,
            ..limits()
        },
        ..invocation()
    };
    assert_eq!(
        pipeline.infer(request(), after).await.unwrap_err().outcome,
        Outcome::FuelExhausted
    );
}

#[tokio::test]
async fn a_guest_describes_itself() {
    let pipeline = Host::new().publish(&guest("", "unreachable")).await;
    let signature = pipeline.describe(invocation()).await.unwrap();
    assert!(signature.inputs.is_empty() && signature.outputs.is_empty());
}
