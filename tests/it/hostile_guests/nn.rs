//! Guests that misuse graphs and tensors. What they may do wrong and carry on from is in `sandbox.rs`.

use serde_json::json;

use super::text::{Guest, words};
use super::{Answers, Attack, Call, MIB};

const NN: &str = r#"
    (import "wasi:nn/tensor@0.2.0-rc-2024-10-28" "[constructor]tensor"
        (func $tensor (param i32 i32 i32 i32 i32) (result i32)))
    (import "wasi:nn/tensor@0.2.0-rc-2024-10-28" "[method]tensor.ty" (func $ty (param i32) (result i32)))
    (import "wasi:nn/tensor@0.2.0-rc-2024-10-28" "[method]tensor.data" (func $data (param i32 i32)))
    (import "wasi:nn/tensor@0.2.0-rc-2024-10-28" "[resource-drop]tensor" (func $drop_tensor (param i32)))
    (import "wasi:nn/graph@0.2.0-rc-2024-10-28" "load-by-name" (func $graph (param i32 i32 i32)))
    (import "wasi:nn/graph@0.2.0-rc-2024-10-28" "load" (func $load (param i32 i32 i32 i32 i32)))
    (import "wasi:nn/graph@0.2.0-rc-2024-10-28" "[method]graph.init-execution-context"
        (func $context (param i32 i32)))
    (import "wasi:nn/inference@0.2.0-rc-2024-10-28" "[method]graph-execution-context.compute"
        (func $compute (param i32 i32 i32 i32)))
    (import "wasi:nn/errors@0.2.0-rc-2024-10-28" "[method]error.code" (func $code (param i32) (result i32)))
    (data (i32.const 6000) "net") (data (i32.const 6100) "input")"#;

/// A context of the graph `net` in `$i`.
const CONTEXT: &str = "(call $graph (i32.const 6000) (i32.const 3) (i32.const 4096))
    (if (i32.load8_u (i32.const 4096)) (then unreachable))
    (call $context (i32.load (i32.const 4100)) (i32.const 4096))
    (if (i32.load8_u (i32.const 4096)) (then unreachable))
    (local.set $i (i32.load (i32.const 4100)))";

/// FP32 among wasi-nn's types, and `invalid-argument` among its errors.
const FP32: u32 = 1;
const INVALID_ARGUMENT: u32 = 0;

fn attack(name: &'static str, items: &str, infer: &str, end: super::End) -> Attack {
    Attack::new(name, Guest::new(format!("{NN} {items}"), infer).module(), end)
}

/// Computes with one input of a shape and so many bytes, and traps unless that is an invalid argument.
fn wrong_input(name: &'static str, shape: &[u32], bytes: u32) -> Attack {
    let infer = format!(
        "{CONTEXT}
        (i32.store (i32.const 7000) (i32.const 6100)) (i32.store (i32.const 7004) (i32.const 5))
        (i32.store (i32.const 7008)
            (call $tensor (i32.const 8192) (i32.const {}) (i32.const {FP32}) (i32.const 0) (i32.const {bytes})))
        (call $compute (local.get $i) (i32.const 7000) (i32.const 1) (i32.const 4096))
        (if (i32.eqz (i32.load8_u (i32.const 4096))) (then unreachable))
        (if (i32.ne (call $code (i32.load (i32.const 4100))) (i32.const {INVALID_ARGUMENT})) (then unreachable))
        (i32.const 0)",
        shape.len()
    );
    attack(name, &words(8_192, shape), &infer, Answers)
}

pub fn attacks() -> Vec<Attack> {
    let flood = |name, call: &str| {
        let infer = format!("{CONTEXT} (loop $l {call} (br $l)) unreachable");
        attack(name, "", &infer, Call("handles_exceeded"))
    };
    let exhausted = |name, call: &str| {
        let infer = format!("{CONTEXT} (loop $l {call} (br $l)) unreachable");
        Attack {
            limits: json!({ "fuel": 20_000_000 }),
            ..attack(name, "", &infer, Call("fuel_exhausted"))
        }
    };
    let forged = |name, call: &str| {
        attack(
            name,
            "",
            &format!("{CONTEXT} {call} (i32.const 0)"),
            Call("trapped"),
        )
    };
    let tensor = "(call $tensor (i32.const 8192) (i32.const 0) (i32.const 4) (i32.const 0) (i32.const 1))";
    // The same handle in two places of one list of owned ones.
    let doubled = format!(
        "(local.set $n (i64.extend_i32_u {tensor}))
        (i32.store (i32.const 7000) (i32.const 6100)) (i32.store (i32.const 7004) (i32.const 5))
        (i32.store (i32.const 7008) (i32.wrap_i64 (local.get $n)))
        (i32.store (i32.const 7012) (i32.const 6100)) (i32.store (i32.const 7016) (i32.const 5))
        (i32.store (i32.const 7020) (i32.wrap_i64 (local.get $n)))
        (call $compute (local.get $i) (i32.const 7000) (i32.const 2) (i32.const 4096))"
    );
    vec![
        wrong_input("no-axis", &[], 4),
        wrong_input("zero-axis", &[1, 0], 0),
        wrong_input("data-for-another-shape", &[1, 100], 399),
        wrong_input("shape-beyond-counting", &[u32::MAX; 32], 400),
        wrong_input("too-many-axes", &[1; 1_000], 4),
        wrong_input("another-shape", &[100, 1], 400),
        flood("graphs", "(call $graph (i32.const 6000) (i32.const 3) (i32.const 4096))"),
        flood("errors", "(call $graph (i32.const 6000) (i32.const 2) (i32.const 4096))"),
        flood("refused-loads", "(call $load (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 4096))"),
        flood("contexts-of-one-graph", "(call $context (i32.const 1) (i32.const 4096))"),
        exhausted("tensor-storm", &format!("(call $drop_tensor {tensor})")),
        exhausted("type-storm", &format!("(call $drop_tensor (local.tee $i {tensor}))")),
        forged("handle-of-nobody", "(drop (call $ty (i32.const 12345)))"),
        forged("handle-of-another-kind", "(drop (call $ty (local.get $i)))"),
        forged("handle-dropped-twice", &format!(
            "(local.set $i {tensor}) (call $drop_tensor (local.get $i)) (call $drop_tensor (local.get $i))")),
        forged("handle-used-after-its-end", &format!(
            "(local.set $i {tensor}) (call $drop_tensor (local.get $i)) (drop (call $ty (local.get $i)))")),
        forged("handle-given-twice", &doubled),
        forged("tensor-out-of-bounds",
            "(drop (call $tensor (i32.const 0) (i32.const 1) (i32.const 4) (i32.const 65000) (i32.const 65000)))"),
        forged("tensor-of-no-type",
            "(drop (call $tensor (i32.const 0) (i32.const 1) (i32.const 99) (i32.const 0) (i32.const 1)))"),
        Attack {
            limits: json!({ "tensor_bytes": MIB }),
            ..attack(
                "dimensions-over-the-limit",
                "",
                "(drop (memory.grow (i32.const 200)))
                (drop (call $tensor (i32.const 0) (i32.const 1000000) (i32.const 4) (i32.const 0) (i32.const 0)))
                (i32.const 0)",
                Call("tensors_exceeded"),
            )
        },
        Attack {
            limits: json!({ "tensor_bytes": MIB }),
            ..attack(
                "more-given-than-the-limit",
                "",
                "(drop (memory.grow (i32.const 200)))
                (drop (call $tensor (i32.const 0) (i32.const 1) (i32.const 4) (i32.const 0) (i32.const 9000000)))
                (i32.const 0)",
                Call("tensors_exceeded"),
            )
        },
    ]
}
