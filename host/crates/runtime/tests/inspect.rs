//! Uploads that may become pipelines, and those that may not.

#![allow(clippy::unwrap_used, reason = "test helpers too may fail loudly")]

mod common;

use common::{Host, guest, module};
use runtime::{InspectError, UploadCaps, inspect};

fn refused(upload: &[u8]) -> InspectError {
    inspect(upload, &UploadCaps::default()).unwrap_err()
}

fn component(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap()
}

const NOTHING: &str = "i32.const 0";

#[tokio::test]
async fn a_core_module_with_the_contract_becomes_a_component() {
    let log = r#"(import "wattle:pipeline/log@0.1.0" "write" (func (param i32 i32 i32)))"#;
    let inspected = Host::new().inspect(&guest(log, NOTHING)).await.unwrap();
    assert!(
        inspected
            .imports
            .iter()
            .any(|name| name == "wattle:pipeline/log@0.1.0")
    );
    let again = inspect(&inspected.component, &UploadCaps::default()).unwrap();
    assert_eq!(
        again.component, inspected.component,
        "a component is taken as it is"
    );
    assert_eq!(again.imports, inspected.imports);
}

#[tokio::test]
async fn a_core_module_without_the_contract_is_refused() {
    let host = Host::new();
    let code = async |upload: &[u8]| host.inspect(upload).await.unwrap_err().code();
    assert_eq!(code(&component("(module)")).await, "missing_export");
    let promises_only = module("(module (memory (export \"memory\") 1))");
    assert_eq!(code(&promises_only).await, "not_a_component");
    assert_eq!(
        refused(&promises_only).code(),
        "not_a_component",
        "without a child"
    );
}

#[test]
fn imports_outside_the_contract_are_refused_by_name() {
    for name in [
        "wasi:http/outgoing-handler@0.2.0",
        "wasi:cli/exit@0.3.0",
        "acme:db/sql@1.0.0",
    ] {
        let upload = component(&format!(r#"(component (import "{name}" (instance)))"#));
        assert_eq!(
            refused(&upload),
            InspectError::ForbiddenImport { name: name.into() }
        );
    }
    let bare = component(r#"(component (import "wasi" (func)))"#);
    assert_eq!(
        refused(&bare),
        InspectError::ForbiddenImport { name: "wasi".into() }
    );
    let nested = component(r#"(component (component (import "acme:db/sql@1.0.0" (instance))))"#);
    assert_eq!(
        refused(&nested).code(),
        "missing_export",
        "what a component links within itself is its own"
    );
}

#[test]
fn a_component_without_the_handler_is_refused() {
    assert_eq!(refused(&component("(component)")), InspectError::MissingExport);
    let other = r#"(component (instance $i) (export "wattle:pipeline/handler@0.2.0" (instance $i)))"#;
    assert_eq!(refused(&component(other)), InspectError::MissingExport);
}

#[test]
fn native_code_and_text_are_refused() {
    let native = wasmtime::Engine::default()
        .precompile_component(&component("(component)"))
        .unwrap();
    assert_eq!(refused(&native), InspectError::Precompiled);
    for bytes in [&b"(component)"[..], b"", b"\0asm", b"\x7fELF"] {
        assert_eq!(refused(bytes).code(), "invalid_component", "{bytes:?}");
    }
}

#[tokio::test]
async fn no_cut_and_no_flipped_byte_gets_further_than_an_error() {
    let whole = Host::new().inspect(&guest("", NOTHING)).await.unwrap().component;
    for length in 0..whole.len() {
        let result = inspect(&whole[..length], &UploadCaps::default());
        // The export comes last but for names, without which a component is sound.
        assert!(result.is_err() || length > whole.len() / 2, "cut at {length}");
    }
    for index in 0..whole.len() {
        for bit in [1, 0x40] {
            let mut flipped = whole.clone();
            flipped[index] ^= bit;
            // Some flips leave a sound component, such as those in names: only a panic is wrong.
            let _ = inspect(&flipped, &UploadCaps::default());
        }
    }
}

/// wit-parser 0.254 recurses without end where packages use each other in a circle: here two versions of
/// `wasi:nn`. In the host's own process this would end every tenant's calls.
#[tokio::test]
async fn metadata_that_breaks_its_reader_breaks_a_child() {
    let mut upload = guest("", NOTHING);
    let version = b"wasi:nn/inference@0.2.0-rc-2024-10-28";
    let at = upload
        .windows(version.len())
        .position(|window| window == version)
        .unwrap();
    upload[at + version.len() - 1] = b'9';
    let error = Host::new().inspect(&upload).await.unwrap_err();
    assert_eq!(error.code(), "not_a_component", "{error}");
    assert!(error.to_string().contains("its stack"), "{error}");
}

#[tokio::test]
async fn each_cap_is_kept_and_named() {
    let caps = UploadCaps::default();
    let upload = Host::new().inspect(&guest("", NOTHING)).await.unwrap().component;
    let cases = [
        (
            UploadCaps {
                bytes: 10,
                ..caps.clone()
            },
            "component_too_large",
        ),
        (
            UploadCaps {
                functions: 2,
                ..caps.clone()
            },
            "component_too_complex",
        ),
        (
            UploadCaps {
                function_bytes: 3,
                ..caps.clone()
            },
            "component_too_complex",
        ),
        (
            UploadCaps {
                locals: 0,
                ..caps.clone()
            },
            "component_too_complex",
        ),
        (
            UploadCaps {
                memories: 0,
                ..caps.clone()
            },
            "component_too_complex",
        ),
        (
            UploadCaps {
                modules: 0,
                ..caps.clone()
            },
            "component_too_complex",
        ),
    ];
    for (caps, code) in cases {
        assert_eq!(inspect(&upload, &caps).unwrap_err().code(), code, "{caps:?}");
    }
}

#[test]
fn what_stands_in_a_component_is_counted_together() {
    let caps = UploadCaps::default();
    let many = component("(component (core module (table 1 funcref) (table 1 funcref)))");
    let one = UploadCaps {
        tables: 1,
        ..caps.clone()
    };
    assert_eq!(inspect(&many, &one).unwrap_err().code(), "component_too_complex");
    let thrice = component(
        "(component (core module $m)
            (core instance (instantiate $m)) (core instance (instantiate $m)) (core instance (instantiate $m)))",
    );
    let two = UploadCaps {
        instances: 2,
        ..caps.clone()
    };
    let error = inspect(&thrice, &two).unwrap_err();
    assert!(
        matches!(
            error,
            InspectError::TooComplex {
                what: "core instances",
                actual: 3,
                limit: 2
            }
        ),
        "{error}"
    );
    let nested = component("(component (component) (component))");
    let one = UploadCaps {
        components: 1,
        ..caps
    };
    assert_eq!(
        inspect(&nested, &one).unwrap_err().code(),
        "component_too_complex"
    );
}

/// Each component makes the one within it twice: four levels come to 31 instances.
#[test]
fn instances_are_counted_as_often_as_they_are_made() {
    let mut text = "(component $c)".to_owned();
    for _ in 0..3 {
        text = format!("(component $c {text} (instance (instantiate $c)) (instance (instantiate $c)))");
    }
    let nested = component(&format!(
        "(component {text} (alias outer 0 $c (component $same))
            (instance (instantiate $c)) (instance (instantiate $same)))"
    ));
    let caps = |instances_made| UploadCaps {
        instances_made,
        ..UploadCaps::default()
    };
    assert_eq!(
        inspect(&nested, &caps(31)).unwrap_err(),
        InspectError::MissingExport
    );
    let error = inspect(&nested, &caps(30)).unwrap_err();
    assert_eq!(error.code(), "component_too_complex", "{error}");
}

#[tokio::test]
async fn proposals_that_the_engine_lacks_are_refused() {
    let wide = module(
        r#"(module
            (memory (export "memory") i64 1)
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) i32.const 0)
            (func (export "wattle:pipeline/handler@0.1.0#describe") (result i32) i32.const 0)
            (func (export "wattle:pipeline/handler@0.1.0#infer")
                (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32) i32.const 0))"#,
    );
    assert!(Host::new().inspect(&wide).await.is_err());
}
