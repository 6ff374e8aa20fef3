//! Guests whose answers, failures and signatures the host cannot take.

use super::text::{BYTES, FP32, GOOD, Guest, ONE, Output, X, answering, words};
use super::{Answers, Attack, Call, Deploy, fixture};

pub fn attacks() -> Vec<Attack> {
    let answers = |items: &str, outputs: &[Output]| answering(items, outputs).module();
    let one = |output: Output| answers("", &[output]);
    let invalid = |name, upload| Attack::new(name, upload, Call("invalid_output"));
    let trapped = |name, upload| Attack::new(name, upload, Call("trapped"));
    let full = format!("(data (i32.const 8192) \"{}\")", "\\ff".repeat(400));
    let repeated = [GOOD; 257];
    // A result whose list claims more than memory holds, and one that fills it with empty outputs.
    let beyond = Guest::new(words(4_096, &[0, 0, 0x0fff_ffff, 0, 0]), "(i32.const 4096)");
    let many = Guest {
        memory: "3000",
        ..Guest::new(words(4_096, &[0, 65_536, 5_000_000, 0, 0]), "(i32.const 4096)")
    };
    let deep = words(8_192, &[X, 1, 8_300, 600])
        + &format!(
            "(data (i32.const 8300) \"{}{}\")",
            "[".repeat(300),
            "]".repeat(300)
        );
    let twice = words(8_192, &[X, 1, 8_300, 1, X, 1, 8_300, 1]) + "(data (i32.const 8300) \"1\")";
    let no_json = words(8_192, &[X, 1, 8_300, 3]) + "(data (i32.const 8300) \"NaN\")";
    let failing = |code: u32, message: u32| {
        let text = format!(
            "(func $fill (memory.fill (i32.const 8192) (i32.const 65) (i32.const 57000)))
            {}",
            words(4_096, &[1, 8_192, code, 8_192, message, 0, 0, 0])
        );
        Guest::new(text, "(call $fill) (i32.const 4096)").module()
    };
    let long_code: &'static str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let signing = |items: String, signature: &[u32]| {
        let guest = Guest {
            items: items + &words(4_096, signature),
            describe: "(i32.const 4096)".into(),
            ..Guest::default()
        };
        guest.module()
    };
    let spec = |name: u32, rank: u32| words(7_000, &[X, name, FP32, 8_192, rank, 0, 0, 0]);
    let unsigned = |name, items: String, signature: &[u32]| {
        Attack::new(name, signing(items, signature), Deploy("invalid_output"))
    };
    let output = [0, 0, 0, 7_000, 1, 0, 0];
    vec![
        Attack::new("good", one(GOOD), Answers),
        invalid("data-too-short", one(Output { data: (X, 3), ..GOOD })),
        invalid("data-missing", one(Output { data: (X, 0), ..GOOD })),
        invalid(
            "zero-axis",
            one(Output {
                shape: (0, 1),
                ..GOOD
            }),
        ),
        invalid(
            "shape-overflow",
            answers(
                &full,
                &[Output {
                    shape: (8_192, 32),
                    ..GOOD
                }],
            ),
        ),
        invalid(
            "endless-rank",
            one(Output {
                shape: (ONE, 1_000),
                ..GOOD
            }),
        ),
        invalid(
            "byte-strings-beyond-their-data",
            answers(
                &full,
                &[Output {
                    dtype: BYTES,
                    data: (8_192, 8),
                    ..GOOD
                }],
            ),
        ),
        invalid(
            "another-type",
            one(Output {
                dtype: FP32 + 1,
                data: (X, 8),
                ..GOOD
            }),
        ),
        invalid("another-name", one(Output { name: (X, 2), ..GOOD })),
        invalid("no-name", one(Output { name: (X, 0), ..GOOD })),
        invalid("the-same-twice", answers("", &[GOOD, GOOD])),
        invalid("nothing", answers("", &[])),
        invalid("too-many-outputs", answers("", &repeated)),
        invalid(
            "parameters-without-json",
            answers(
                &no_json,
                &[Output {
                    parameters: (8_192, 1),
                    ..GOOD
                }],
            ),
        ),
        invalid(
            "parameters-without-end",
            answers(
                &deep,
                &[Output {
                    parameters: (8_192, 1),
                    ..GOOD
                }],
            ),
        ),
        invalid(
            "parameters-twice",
            answers(
                &twice,
                &[Output {
                    parameters: (8_192, 2),
                    ..GOOD
                }],
            ),
        ),
        trapped(
            "name-is-no-text",
            answers(
                &full,
                &[Output {
                    name: (8_192, 4),
                    ..GOOD
                }],
            ),
        ),
        trapped("no-such-type", one(Output { dtype: 99, ..GOOD })),
        trapped(
            "data-out-of-bounds",
            one(Output {
                data: (X, 0x7fff_0000),
                ..GOOD
            }),
        ),
        trapped("answer-out-of-bounds", Guest::new("", "(i32.const -4)").module()),
        trapped("answer-unaligned", Guest::new("", "(i32.const 4097)").module()),
        trapped(
            "neither-answer-nor-failure",
            Guest::new(words(4_096, &[9]), "(i32.const 4096)").module(),
        ),
        trapped("list-beyond-memory", beyond.module()),
        Attack::new("list-as-large-as-memory", many.module(), Call("tensors_exceeded")),
        Attack::new("failure-of-its-own", fixture("fail"), Call("no-such-luck")),
        Attack::new("failure-with-a-long-code", failing(50_000, 0), Call(long_code)),
        Attack::new(
            "failure-with-a-long-message",
            failing(64, 50_000),
            Call(long_code),
        ),
        unsigned("signature-without-names", spec(0, 0), &output),
        unsigned(
            "signature-with-a-nul",
            spec(2, 0) + &format!("(data (i32.const {X}) \"x\\00\")"),
            &output,
        ),
        unsigned(
            "signature-with-a-long-name",
            spec(900, 0) + &format!("(data (i32.const {X}) \"{}\")", "x".repeat(900)),
            &output,
        ),
        unsigned(
            "signature-of-endless-rank",
            spec(1, 33) + &format!("(data (i32.const {X}) \"x\")"),
            &output,
        ),
        unsigned(
            "signature-of-endless-length",
            String::new(),
            &[0, 8_192, 300, 0, 0, 0, 0],
        ),
        Attack::new(
            "signature-that-fails",
            signing(
                format!("(data (i32.const {X}) \"no\\0a\\00\")"),
                &[1, X, 4, X, 4, 0, 0, 0],
            ),
            Deploy("no\n\0"),
        ),
    ]
}
