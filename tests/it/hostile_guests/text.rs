//! Guests written as text: core modules with the contract, and as much of WASI as they like, embedded.

use std::fmt::Write as _;
use std::sync::LazyLock;

use tests::guests;
use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::{Resolve, WorldId};

/// A body that never ends.
pub const LOOP: &str = "(loop $l (br $l)) unreachable";
/// The import `$log`.
pub const LOG: &str = r#"(import "wattle:pipeline/log@0.1.0" "write" (func $log (param i32 i32 i32)))"#;
/// The import `$get`.
pub const CONFIG: &str = r#"(import "wattle:pipeline/config@0.1.0" "get" (func $get (param i32 i32 i32)))"#;

/// A core module in text that implements the pipeline world, unless its parts say otherwise: it takes
/// nothing and answers with nothing. What it is called with lies at 2048; from 4096 on memory is its own.
pub struct Guest {
    /// Imports, data and functions of its own.
    pub items: String,
    /// Its memory, in pages.
    pub memory: &'static str,
    /// The body of `cabi_realloc`: an address.
    pub realloc: &'static str,
    /// The body of `describe`: the address of its result.
    pub describe: String,
    /// The body of `infer`, with the request's eight words as parameters: the address of its result.
    pub infer: String,
}

impl Default for Guest {
    fn default() -> Self {
        Self {
            items: String::new(),
            memory: "1",
            realloc: "(i32.const 2048)",
            // At 0 lies a result whose lists are all empty.
            describe: "(i32.const 0)".into(),
            infer: "(i32.const 0)".into(),
        }
    }
}

impl Guest {
    /// A guest with items of its own that does `infer` in a call.
    pub fn new(items: impl Into<String>, infer: impl Into<String>) -> Self {
        Self {
            items: items.into(),
            infer: infer.into(),
            ..Self::default()
        }
    }

    /// Its core module.
    pub fn module(&self) -> Vec<u8> {
        self.embedded("wide")
    }

    /// Its core module with exports of the world `wide-with-things` among its items.
    pub fn module_with_things(&self) -> Vec<u8> {
        self.embedded("wide-with-things")
    }

    fn embedded(&self, world: &str) -> Vec<u8> {
        let Self {
            items,
            memory,
            realloc,
            describe,
            infer,
        } = self;
        let text = format!(
            r#"(module
                {items}
                (memory (export "memory") {memory})
                (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) {realloc})
                (func (export "wattle:pipeline/handler@0.1.0#describe") (result i32) {describe})
                (func (export "wattle:pipeline/handler@0.1.0#infer")
                    (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
                    (local $i i32) (local $n i64)
                    {infer}))"#
        );
        embed(&text, world)
    }
}

/// A core module in text with a world of `tests/fixtures/wide.wit` embedded.
pub fn embed(text: &str, world: &str) -> Vec<u8> {
    static CONTRACT: LazyLock<(Resolve, Vec<WorldId>)> = LazyLock::new(|| {
        let mut resolve = Resolve::default();
        resolve.push_dir(guests::workspace().join("sdk/wit")).unwrap();
        let wide = include_str!("../../fixtures/wide.wit");
        let package = resolve.push_str("wide.wit", wide).unwrap();
        let worlds = ["wide", "wide-with-things"];
        let worlds = worlds.map(|world| resolve.select_world(&[package], Some(world)).unwrap());
        (resolve, worlds.to_vec())
    });
    let (resolve, worlds) = &*CONTRACT;
    let world = worlds
        .iter()
        .find(|&&id| resolve.worlds[id].name == world)
        .unwrap();
    let mut module = wat::parse_str(text).unwrap();
    embed_component_metadata(&mut module, resolve, *world, StringEncoding::UTF8).unwrap();
    module
}

/// Words in memory at `address`, as the canonical ABI lays out records and lists.
pub fn words(address: u32, words: &[u32]) -> String {
    let mut text = format!("(data (i32.const {address}) \"");
    for byte in words.iter().flat_map(|word| word.to_le_bytes()) {
        write!(text, "\\{byte:02x}").unwrap();
    }
    text + "\")\n"
}

/// One output of an answer.
#[derive(Clone, Copy)]
pub struct Output {
    /// Address and bytes of its name.
    pub name: (u32, u32),
    /// Its type's number in the contract.
    pub dtype: u32,
    /// Address and length of its shape.
    pub shape: (u32, u32),
    /// Address and bytes of its data.
    pub data: (u32, u32),
    /// Address and length of its parameters.
    pub parameters: (u32, u32),
}

/// `x`, one FP32.
pub const GOOD: Output = Output {
    name: (X, 1),
    dtype: FP32,
    shape: (ONE, 1),
    data: (X, 4),
    parameters: (0, 0),
};
/// The number of FP32 among the types.
pub const FP32: u32 = 11;
/// The number of byte strings.
pub const BYTES: u32 = 13;
/// Where the texts of [`answering`]'s guests lie.
pub const X: u32 = 6_000;
/// Where the number 1 lies.
pub const ONE: u32 = 6_100;

/// A guest that promises one FP32 named `x` of one free axis, and gives `outputs`.
pub fn answering(items: &str, outputs: &[Output]) -> Guest {
    let specs = words(5_100, &[X, 1, FP32, 5_200, 1, 0, 0, 0]);
    let signature = words(5_000, &[0, 0, 0, 5_100, 1, 0, 0]) + &specs;
    let lists: Vec<u32> = outputs.iter().flat_map(Output::words).collect();
    let answer = words(4_096, &[0, 7_000, outputs.len() as u32, 0, 0]) + &words(7_000, &lists);
    let texts = format!("(data (i32.const {X}) \"x\\00\\00\\00\") {}", words(ONE, &[1]));
    Guest {
        describe: "(i32.const 5000)".into(),
        ..Guest::new(
            format!("{items} {signature} {answer} {texts}"),
            "(i32.const 4096)",
        )
    }
}

impl Output {
    fn words(&self) -> [u32; 9] {
        let Self {
            name,
            dtype,
            shape,
            data,
            parameters,
        } = *self;
        [
            name.0,
            name.1,
            dtype,
            shape.0,
            shape.1,
            data.0,
            data.1,
            parameters.0,
            parameters.1,
        ]
    }
}
