//! Guests that take fuel, time, memory, tables, handles, logs and answers without end.

use serde_json::{Value, json};

use super::text::{CONFIG, GOOD, Guest, LOG, LOOP, Output, answering};
use super::{Attack, Call, Deploy, MIB, Publish, fixture};

fn fuel(units: u64) -> Value {
    json!({ "fuel": units })
}

pub fn attacks() -> Vec<Attack> {
    let infer = |infer: &str| Guest::new("", infer).module();
    let with = |items: &str, infer: &str| Guest::new(items, infer).module();
    let storm = |items: &str, call: &str| with(items, &format!("(loop $l {call} (br $l)) unreachable"));
    let tree = "(func $f (param $n i32) (if (local.get $n) (then
            (call $g (i32.sub (local.get $n) (i32.const 1))) (call $g (i32.sub (local.get $n) (i32.const 1))))))
        (func $g (param $n i32) (if (local.get $n) (then
            (call $f (i32.sub (local.get $n) (i32.const 1))) (call $f (i32.sub (local.get $n) (i32.const 1))))))";
    let tail = "(func $f return_call $g) (func $g return_call $f)";
    let spin = Guest {
        items: "(func $spin (loop $l (br $l))) (start $spin)".into(),
        ..Guest::default()
    };
    let endless_describe = Guest {
        describe: LOOP.into(),
        ..Guest::default()
    };
    let endless_realloc = Guest {
        realloc: LOOP,
        ..Guest::default()
    };
    let post_return =
        format!("(func (export \"cabi_post_wattle:pipeline/handler@0.1.0#infer\") (param i32) {LOOP})");
    let grow = "(loop $l (br_if $l (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))) unreachable";
    let at_once =
        "(if (i32.eq (memory.grow (i32.const 65000)) (i32.const -1)) (then unreachable)) (i32.const 0)";
    let fill = "(memory.fill (i32.const 0) (i32.const 1) (i32.const 65536))";
    let grow_table = "(loop $l (br_if $l (i32.ne (table.grow $t (ref.null func) (i32.const 100)) (i32.const -1)))) unreachable";
    let log_in_start = Guest {
        items: format!(
            "{LOG} (func (export \"_initialize\") (loop $l (call $log (i32.const 2) (i32.const 0) (i32.const 900)) (br $l)))"
        ),
        ..Guest::default()
    };
    let huge_memory = Guest {
        memory: "65536",
        ..Guest::default()
    };
    let large = |bytes: u32| {
        let data = Output {
            data: (8_192, bytes),
            ..GOOD
        };
        let pages = bytes.div_ceil(1 << 16) + 1;
        let mut guest = answering("", &[data]);
        guest.infer = format!("(drop (memory.grow (i32.const {pages}))) (i32.const 4096)");
        guest.module()
    };
    let exhausted = |name, upload| Attack::within(name, upload, fuel(20_000_000), Call("fuel_exhausted"));
    vec![
        Attack {
            receipt: |receipt| receipt["fuel"] == 20_000_000,
            ..exhausted("loop", infer(LOOP))
        },
        exhausted(
            "calls-without-loops",
            with(tree, "(call $f (i32.const 60)) (i32.const 0)"),
        ),
        exhausted("tail-calls", with(tail, "(call $f) (i32.const 0)")),
        exhausted("endless-realloc", endless_realloc.module()),
        exhausted("endless-post-return", with(&post_return, "(i32.const 0)")),
        exhausted("fill-storm", storm("", fill)),
        exhausted(
            "grow-storm",
            storm(
                "",
                "(drop (memory.grow (i32.const 0))) (drop (memory.grow (i32.const -1)))",
            ),
        ),
        exhausted(
            "config-storm",
            storm(CONFIG, "(call $get (i32.const 0) (i32.const 9) (i32.const 4096))"),
        ),
        Attack {
            receipt: |receipt| receipt["cpu_ns"].as_u64() > Some(1_000_000),
            ..Attack::within(
                "deadline",
                fixture("loop"),
                json!({ "fuel": 1_000_000_000_000_u64, "deadline_ms": 500 }),
                Call("deadline_exceeded"),
            )
        },
        Attack::within(
            "endless-start",
            spin.module(),
            fuel(20_000_000),
            Deploy("fuel_exhausted"),
        ),
        Attack::within(
            "endless-describe",
            endless_describe.module(),
            fuel(20_000_000),
            Deploy("fuel_exhausted"),
        ),
        Attack::new("memory-slowly", infer(grow), Call("memory_exceeded")),
        Attack::new("memory-at-once", infer(at_once), Call("memory_exceeded")),
        Attack::new(
            "memory-from-the-start",
            huge_memory.module(),
            Deploy("memory_exceeded"),
        ),
        Attack {
            receipt: |receipt| matches!(receipt["peak_memory_bytes"].as_u64(), Some(peak) if peak > 60 * MIB && peak <= 64 * MIB),
            ..Attack::within(
                "memory-touched",
                fixture("bomb"),
                json!({ "memory_bytes": 64 * MIB }),
                Call("memory_exceeded"),
            )
        },
        Attack {
            parameters: json!({ "bytes": 32 * MIB }),
            receipt: |receipt| receipt["peak_memory_bytes"].as_u64() < Some(16 * MIB),
            ..Attack::within(
                "memory-refused",
                fixture("hog"),
                json!({ "memory_bytes": 16 * MIB }),
                Call("refused"),
            )
        },
        Attack::new(
            "table-slowly",
            with("(table $t 1 funcref)", grow_table),
            Call("table_exceeded"),
        ),
        Attack::within(
            "table-from-the-start",
            with("(table 50000 funcref)", "(i32.const 0)"),
            json!({ "table_elements": 20_000 }),
            Deploy("table_exceeded"),
        ),
        Attack::new(
            "table-over-the-pool",
            with("(table 2000000 funcref)", "(i32.const 0)"),
            Publish("compile_refused"),
        ),
        Attack::new("log-bytes", fixture("logger"), Call("log_exceeded")),
        Attack::new(
            "log-empty-lines",
            storm(LOG, "(call $log (i32.const 2) (i32.const 0) (i32.const 0))"),
            Call("log_exceeded"),
        ),
        Attack::new("log-in-start", log_in_start.module(), Deploy("log_exceeded")),
        Attack::new(
            "one-line-over-all",
            with(
                LOG,
                "(drop (memory.grow (i32.const 2000))) (call $log (i32.const 2) (i32.const 0) (i32.const 100000000)) (i32.const 0)",
            ),
            Call("tensors_exceeded"),
        ),
        Attack {
            receipt: |receipt| receipt["bytes_out"] == 0,
            ..Attack::new("answer-over-its-limit", large(17 << 20), Call("output_exceeded"))
        },
        Attack::new(
            "answer-over-the-transfer",
            large(80 << 20),
            Call("tensors_exceeded"),
        ),
        Attack::within(
            "handles",
            fixture("handles"),
            json!({ "handles": 100 }),
            Call("handles_exceeded"),
        ),
        Attack::within(
            "tensors",
            fixture("tensors"),
            json!({ "tensor_bytes": 8 * MIB }),
            Call("tensors_exceeded"),
        ),
        Attack::new("own-handles", own_handles(), Call("handles_exceeded")),
    ]
}

/// Makes resources of its own without end: the host holds nothing for them but their handles.
fn own_handles() -> Vec<u8> {
    let items =
        r#"(import "[export]test:wide/things" "[resource-new]thing" (func $new (param i32) (result i32)))"#;
    Guest::new(
        items,
        "(loop $l (drop (call $new (i32.const 1))) (br $l)) unreachable",
    )
    .module_with_things()
}
