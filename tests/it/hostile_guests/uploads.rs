//! Uploads that are refused before anything of them runs, and some that are only strange.

use std::fmt::Write as _;

use tests::guests;
use wit_component::ComponentEncoder;

use super::text::{Guest, embed};
use super::{Answers, Attack, Deploy, Publish};

/// A component that does nothing, whole.
fn whole() -> Vec<u8> {
    let module = Guest::default().module();
    let encoder = ComponentEncoder::default().module(&module).unwrap();
    let mut encoder = encoder.validate(true);
    encoder.encode().unwrap()
}

fn wat(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap()
}

/// A LEB128 number.
fn leb(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (number & 0x7f) as u8;
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

/// The whole component with a section behind it.
fn with_section(id: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = whole();
    bytes.push(id);
    bytes.extend(leb(content.len() as u64));
    bytes.extend(content);
    bytes
}

/// A component that exports nothing useful beside what `text` declares.
fn exporting(text: &str) -> Vec<u8> {
    wat(&format!(
        r#"(component {text} (instance $nothing) (export "wattle:pipeline/handler@0.1.0" (instance $nothing)))"#
    ))
}

fn importing(name: &str) -> Vec<u8> {
    wat(&format!(r#"(component (import "{name}" (instance)))"#))
}

/// Thirty-one components, each of which makes the one within it twice: 2³¹ instances.
fn doubling() -> String {
    let mut text = "(component $c0)".to_owned();
    for level in 1..=30 {
        let inner = level - 1;
        text = format!(
            "(component $c{level} {text} (instance (instantiate $c{inner})) (instance (instantiate $c{inner})))"
        );
    }
    text + "(instance (instantiate $c30))"
}

/// A core module with the contract and so many functions more.
fn functions(count: usize) -> Vec<u8> {
    Guest::new("(func)".repeat(count), "(i32.const 0)").module()
}

pub fn refused() -> Vec<Attack> {
    let whole = whole();
    let cut = |length: usize| whole[..length].to_vec();
    let invalid = |name, upload| Attack::new(name, upload, Publish("invalid_component"));
    let complex = |name, upload| Attack::new(name, upload, Publish("component_too_complex"));
    let forbidden = |name, upload| Attack::new(name, upload, Publish("forbidden_import"));
    let with = |items: String| Guest::new(items, "(i32.const 0)").module();
    let precompiled = wasmtime::Engine::default().precompile_component(&whole).unwrap();
    let mut other_version = whole.clone();
    other_version[4] = 0x7f;
    let long_body = format!("(func {})", "(drop (i32.const 1))".repeat(400_000));
    let locals = format!("(func (local {}))", "i64 ".repeat(20_001));
    let nested = format!("{}{}", "(component ".repeat(65), ")".repeat(65));
    let instances = format!(
        "(core module $m) {}",
        "(core instance (instantiate $m))".repeat(65)
    );
    let mistyped =
        r#"(import "wattle:pipeline/config@0.1.0" (instance (export "get" (func (param "key" u32)))))"#;
    let too_much = r#"(import "wattle:pipeline/log@0.1.0" (instance (export "erase" (func))))"#;
    let handed_on =
        r#"(component $c (component $inner) (export "c" (component $inner))) (instance (instantiate $c))"#;
    let lying_wit = embed(
        r#"(module (memory (export "memory") 1)
            (func (export "wattle:pipeline/handler@0.1.0#describe") (param i64) (result i64) (i64.const 0)))"#,
        "wide",
    );
    vec![
        invalid("text", b"#!/bin/sh\necho no\n".to_vec()),
        invalid("magic-only", cut(4)),
        invalid("half-a-version", cut(6)),
        invalid("cut-in-a-header", cut(9)),
        invalid("cut-in-a-third", cut(whole.len() / 3)),
        invalid("cut-in-the-middle", cut(whole.len() / 2)),
        invalid("another-version", other_version),
        invalid(
            "section-beyond-the-end",
            [whole.as_slice(), &[1, 0xff, 0xff, 0xff, 0x7f]].concat(),
        ),
        invalid(
            "length-without-end",
            [whole.as_slice(), &[1], &[0x80; 12]].concat(),
        ),
        invalid("no-such-section", with_section(77, &[0])),
        invalid("a-section-of-billions", with_section(7, &leb(u32::MAX.into()))),
        Attack::new(
            "types-of-billions",
            [&b"\0asm\x01\0\0\0"[..], &[1, 5], &leb(u32::MAX.into())].concat(),
            Publish("not_a_component"),
        ),
        invalid("name-is-no-text", with_section(0, &[2, 0xff, 0xfe])),
        invalid("handed-on-component", exporting(handed_on)),
        Attack::new("precompiled", precompiled, Publish("component_precompiled")),
        forbidden("shell", guests::guest("badimport").unwrap()),
        forbidden("http", importing("wasi:http/outgoing-handler@0.2.0")),
        forbidden("threads", importing("wasi:thread/spawn@0.2.0")),
        forbidden("later-wasi", importing("wasi:clocks/monotonic-clock@0.3.0")),
        forbidden("misspelt", importing("wasi:nm/graph@0.2.0-rc-2024-10-28")),
        forbidden("another-nn", importing("wasi:nn/graph@0.2.0")),
        forbidden("bare-function", wat(r#"(component (import "exec" (func)))"#)),
        forbidden(
            "bare-module",
            wat(r#"(component (import "wattle:pipeline/log@0.1.0" (core module)))"#),
        ),
        Attack::new(
            "mistyped-import",
            exporting(mistyped),
            Publish("contract_mismatch"),
        ),
        Attack::new(
            "unknown-function",
            exporting(too_much),
            Publish("contract_mismatch"),
        ),
        Attack::new("mistyped-export", exporting(""), Publish("contract_mismatch")),
        Attack::new("no-export", wat("(component)"), Publish("missing_export")),
        Attack::new(
            "another-export",
            wat(r#"(component (instance $i) (export "wattle:pipeline/handler@0.2.0" (instance $i)))"#),
            Publish("missing_export"),
        ),
        Attack::new("lying-wit", lying_wit, Publish("not_a_component")),
        Attack::new("core-module", wat("(module)"), Publish("missing_export")),
        complex("long-function", with(long_body)),
        complex("many-locals", with(locals)),
        complex("many-functions", functions(200_001)),
        complex("many-memories", with("(memory 1)".repeat(9))),
        complex("many-tables", with("(table 1 funcref)".repeat(17))),
        complex("deep-nesting", exporting(&nested)),
        complex("many-instances", exporting(&instances)),
        complex("doubled-instances", exporting(&doubling())),
    ]
}

/// Strange, but sound: they compile within their limits and do no harm.
pub fn strange() -> Vec<Attack> {
    let runs = |name, upload| Attack::new(name, upload, Answers);
    let with = |items: String| Guest::new(items, "(i32.const 0)").module();
    let mut sections = whole();
    sections.extend([0, 1, 0].repeat(500_000));
    let mut table = "(func (param i32) ".to_owned();
    table += &"block ".repeat(500);
    write!(
        table,
        "local.get 0 br_table {}",
        (0..500)
            .map(|depth| format!("{depth} "))
            .collect::<String>()
            .repeat(40)
    )
    .unwrap();
    table += &" end".repeat(500);
    table += ")";
    let deep = format!("(func {} {})", "block ".repeat(10_000), "end ".repeat(10_000));
    let types = (0..5_000).fold(String::new(), |mut text, n| {
        write!(
            text,
            "(type (func (param {}) (result {})))",
            "i32 ".repeat(n % 100),
            "i64 ".repeat(n / 100 % 100)
        )
        .unwrap();
        text
    });
    let segments = "(data (i32.const 9000) \"x\")".repeat(10_000);
    vec![
        runs("empty-sections", sections),
        runs(
            "one-long-section",
            with_section(0, &[&[1, b'x'], &vec![7; 8 << 20][..]].concat()),
        ),
        runs("many-small-functions", functions(5_000)),
        runs("wide-branches", with(table)),
        runs("deep-blocks", with(deep)),
        runs("many-types", with(types)),
        runs("many-segments", with(segments)),
        Attack::new(
            "segment-out-of-bounds",
            with("(data (i32.const 65536) \"x\")".into()),
            Deploy("trapped"),
        ),
    ]
}
