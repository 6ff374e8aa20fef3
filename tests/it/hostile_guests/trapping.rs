//! Guests that trap, in each way and wherever they can.

use serde_json::json;

use super::text::{CONFIG, Guest, LOG};
use super::{Answers, Attack, Call, Deploy, fixture};

/// A guest of the fixtures, told how to behave.
fn told(name: &'static str, guest: &str, how: &str, end: super::End) -> Attack {
    Attack {
        parameters: json!({ "how": how }),
        ..Attack::new(name, fixture(guest), end)
    }
}

pub fn attacks() -> Vec<Attack> {
    let trap = |name, items: &str, infer: &str| {
        let guest = Guest::new(items, format!("{infer} (i32.const 0)"));
        Attack::new(name, guest.module(), Call("trapped"))
    };
    let start = Guest {
        items: "(func $boom unreachable) (start $boom)".into(),
        ..Guest::default()
    };
    // The memory that the call needs is the starting module's own, and not there yet.
    let early = Guest {
        items: format!(
            "{LOG} (func $early (call $log (i32.const 2) (i32.const 0) (i32.const 9))) (start $early)"
        ),
        ..Guest::default()
    };
    let describe = Guest {
        describe: "unreachable".into(),
        ..Guest::default()
    };
    // Long enough to yield some times, and no trap at all.
    let slow_start = Guest {
        items: "(func $slow (local $i i32) (loop $l
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $l (i32.lt_u (local.get $i) (i32.const 2000000))))) (start $slow)"
            .into(),
        ..Guest::default()
    };
    let realloc = |name, realloc| {
        let guest = Guest {
            realloc,
            ..Guest::default()
        };
        Attack::new(name, guest.module(), Call("trapped"))
    };
    let leaving = Guest {
        items: LOG.into(),
        realloc: "(call $log (i32.const 2) (i32.const 0) (i32.const 9)) (i32.const 2048)",
        ..Guest::default()
    };
    let table = "(type $f (func)) (type $g (func (param i32))) (table $t 2 funcref) (func $one (type $g))
        (elem (i32.const 0) $one)";
    let frames = "(func $f (param i64 i64 i64 i64 i64 i64) (local v128 v128 v128 v128)
        (call $f (local.get 0) (local.get 1) (local.get 2) (local.get 3) (local.get 4) (local.get 5)))";
    vec![
        trap("unreachable", "", "unreachable"),
        trap("load-out-of-bounds", "", "(drop (i32.load (i32.const -8)))"),
        trap(
            "store-out-of-bounds",
            "",
            "(i64.store offset=4294967295 (i32.const -1) (i64.const 1))",
        ),
        trap(
            "division-by-zero",
            "",
            "(drop (i32.div_s (i32.const 1) (i32.const 0)))",
        ),
        trap(
            "division-overflow",
            "",
            "(drop (i64.div_s (i64.const -9223372036854775808) (i64.const -1)))",
        ),
        trap("no-number", "", "(drop (i32.trunc_f32_s (f32.const nan)))"),
        trap(
            "number-too-large",
            "",
            "(drop (i64.trunc_f64_u (f64.const 1e300)))",
        ),
        trap(
            "call-of-nothing",
            table,
            "(call_indirect (type $f) (i32.const 1))",
        ),
        trap(
            "call-of-the-wrong-type",
            table,
            "(call_indirect (type $f) (i32.const 0))",
        ),
        trap(
            "call-outside-the-table",
            table,
            "(call_indirect (type $f) (i32.const 9))",
        ),
        trap(
            "dropped-segment",
            "(data $d \"x\")",
            "(data.drop $d) (memory.init $d (i32.const 0) (i32.const 0) (i32.const 1))",
        ),
        trap(
            "copy-out-of-bounds",
            "",
            "(memory.copy (i32.const 0) (i32.const 1) (i32.const -1))",
        ),
        trap("recursion", "(func $f (call $f))", "(call $f)"),
        trap(
            "recursion-with-large-frames",
            frames,
            "(call $f (i64.const 1) (i64.const 2) (i64.const 3) (i64.const 4) (i64.const 5) (i64.const 6))",
        ),
        trap(
            "log-out-of-bounds",
            LOG,
            "(call $log (i32.const 2) (i32.const 65000) (i32.const 65000))",
        ),
        trap(
            "log-of-no-level",
            LOG,
            "(call $log (i32.const 77) (i32.const 0) (i32.const 1))",
        ),
        trap(
            "log-of-no-text",
            &format!("{LOG} (data (i32.const 4096) \"\\ff\\fe\")"),
            "(call $log (i32.const 2) (i32.const 4096) (i32.const 2))",
        ),
        trap(
            "result-out-of-bounds",
            CONFIG,
            "(call $get (i32.const 0) (i32.const 1) (i32.const -4))",
        ),
        trap(
            "result-unaligned",
            CONFIG,
            "(call $get (i32.const 0) (i32.const 1) (i32.const 4097))",
        ),
        told("rust-abort", "trap", "abort", Call("trapped")),
        told("rust-panic", "trap", "panic", Call("trapped")),
        told("rust-overflow", "trap", "overflow", Call("trapped")),
        realloc("realloc-out-of-bounds", "(i32.const -16)"),
        realloc("realloc-unaligned", "(i32.const 2049)"),
        Attack::new("call-from-realloc", leaving.module(), Call("trapped")),
        Attack::new("trap-in-start", start.module(), Deploy("trapped")),
        Attack::new("call-in-start", early.module(), Deploy("trapped")),
        Attack::new("trap-in-describe", describe.module(), Deploy("trapped")),
        Attack::new("yields-in-start", slow_start.module(), Answers),
    ]
}
