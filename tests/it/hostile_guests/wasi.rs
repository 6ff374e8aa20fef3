//! Guests that try what WASI names: it is all there and grants next to nothing.

use serde_json::json;

use super::text::Guest;
use super::{Answers, Attack, Call};

const WASI: &str = r#"
    (import "wasi:clocks/monotonic-clock@0.2.0" "now" (func $now (result i64)))
    (import "wasi:clocks/monotonic-clock@0.2.0" "resolution" (func $grain (result i64)))
    (import "wasi:clocks/monotonic-clock@0.2.0" "subscribe-duration" (func $after (param i64) (result i32)))
    (import "wasi:clocks/wall-clock@0.2.0" "now" (func $date (param i32)))
    (import "wasi:io/poll@0.2.0" "poll" (func $poll (param i32 i32 i32)))
    (import "wasi:io/poll@0.2.0" "[method]pollable.block" (func $block (param i32)))
    (import "wasi:io/poll@0.2.0" "[resource-drop]pollable" (func $drop_pollable (param i32)))
    (import "wasi:io/streams@0.2.0" "[method]input-stream.blocking-read" (func $read (param i32 i64 i32)))
    (import "wasi:io/streams@0.2.0" "[method]output-stream.check-write" (func $room (param i32 i32)))
    (import "wasi:io/streams@0.2.0" "[method]output-stream.write" (func $write (param i32 i32 i32 i32)))
    (import "wasi:io/streams@0.2.0" "[resource-drop]output-stream" (func $drop_output (param i32)))
    (import "wasi:cli/stdin@0.2.0" "get-stdin" (func $stdin (result i32)))
    (import "wasi:cli/stdout@0.2.0" "get-stdout" (func $stdout (result i32)))
    (import "wasi:cli/environment@0.2.0" "get-environment" (func $environment (param i32)))
    (import "wasi:cli/exit@0.2.0" "exit" (func $exit (param i32)))
    (import "wasi:random/random@0.2.0" "get-random-bytes" (func $random (param i64 i32)))
    (import "wasi:sockets/tcp-create-socket@0.2.0" "create-tcp-socket" (func $socket (param i32 i32)))"#;

/// `access-denied` among the errors of sockets.
const ACCESS_DENIED: u32 = 1;
/// The finest time that a guest may tell, in nanoseconds.
const GRAIN_NS: u32 = 1_000_000;

pub fn attacks() -> Vec<Attack> {
    let does = |name, infer: &str, end| Attack::new(name, Guest::new(WASI, infer).module(), end);
    let storm = |name, call: &str| Attack {
        limits: json!({ "fuel": 20_000_000 }),
        ..does(
            name,
            &format!("(loop $l {call} (br $l)) unreachable"),
            Call("fuel_exhausted"),
        )
    };
    let flood = |name, call: &str| {
        does(
            name,
            &format!("(loop $l {call} (br $l)) unreachable"),
            Call("handles_exceeded"),
        )
    };
    let hanging = |name, infer: &str| Attack {
        limits: json!({ "deadline_ms": 300 }),
        ..does(name, infer, Call("deadline_exceeded"))
    };
    let unless = |condition: &str| format!("(if (i32.eqz {condition}) (then unreachable))");
    let denied = unless(&format!(
        "(i32.and (i32.load8_u (i32.const 4096))
            (i32.eq (i32.load8_u (i32.const 4100)) (i32.const {ACCESS_DENIED})))"
    ));
    // Waits for the clock's next two steps, and traps if these are nearer than the grain.
    let steps = format!(
        "(local.set $n (call $now))
        (loop $l (br_if $l (i64.eq (call $now) (local.get $n))))
        (local.set $n (call $now))
        (loop $l (br_if $l (i64.eq (call $now) (local.get $n))))
        {} {} (i32.const 0)",
        unless(&format!(
            "(i64.ge_u (i64.sub (call $now) (local.get $n)) (i64.const {GRAIN_NS}))"
        )),
        unless(&format!("(i64.ge_u (call $grain) (i64.const {GRAIN_NS}))")),
    );
    vec![
        storm("monotonic-clock-storm", "(drop (call $now))"),
        storm("wall-clock-storm", "(call $date (i32.const 4096))"),
        storm("random-storm", "(call $random (i64.const 4096) (i32.const 4096))"),
        storm("environment-storm", "(call $environment (i32.const 4096))"),
        storm("stream-storm", "(call $drop_output (call $stdout))"),
        storm("poll-storm", "(local.set $i (call $after (i64.const 0)))
            (call $block (local.get $i)) (call $drop_pollable (local.get $i))"),
        storm("socket-storm", "(call $socket (i32.const 0) (i32.const 4096))"),
        flood("pollables", "(drop (call $after (i64.const 1000000000000)))"),
        flood("streams", "(drop (call $stdout))"),
        hanging("sleep", "(call $block (call $after (i64.const 3600000000000))) (i32.const 0)"),
        hanging("sleep-for-ever", "(call $block (call $after (i64.const -1))) (i32.const 0)"),
        hanging("poll-for-ever", "(i32.store (i32.const 4096) (call $after (i64.const -1)))
            (loop $l (call $poll (i32.const 4096) (i32.const 1) (i32.const 4200)) (br $l)) unreachable"),
        does("poll-of-nothing", "(call $poll (i32.const 4096) (i32.const 0) (i32.const 4200)) (i32.const 0)", Call("trapped")),
        does("exit", "(call $exit (i32.const 0)) (i32.const 0)", Call("trapped")),
        does("exit-with-an-error", "(call $exit (i32.const 1)) (i32.const 0)", Call("trapped")),
        does("random-without-end", "(call $random (i64.const -1) (i32.const 4096)) (i32.const 0)", Call("trapped")),
        does("write-over-its-room", "(drop (memory.grow (i32.const 200)))
            (call $write (call $stdout) (i32.const 0) (i32.const 9000000) (i32.const 4096)) (i32.const 0)",
            Call("log_exceeded")),
        does("write-storm", "(local.set $i (call $stdout))
            (loop $l (call $room (local.get $i) (i32.const 4096))
                (call $write (local.get $i) (i32.const 0) (i32.const 0) (i32.const 4096)) (br $l)) unreachable",
            Call("log_exceeded")),
        does("socket", &format!("(call $socket (i32.const 0) (i32.const 4096)) {denied} (i32.const 0)"), Answers),
        does("standard-input", &format!("(call $read (call $stdin) (i64.const 100) (i32.const 4096)) {} (i32.const 0)",
            unless("(i32.load8_u (i32.const 4096))")), Answers),
        does("environment", &format!("(call $environment (i32.const 4096)) {} (i32.const 0)",
            unless("(i32.eqz (i32.load (i32.const 4100)))")), Answers),
        does("fine-clock", &steps, Answers),
    ]
}
