//! Types and exports generated from the contract.
//!
//! The generated `Host` traits go unused: they do not see the store, and fuel lives in the store. The
//! imports are linked by hand in [`crate::nn`] and [`crate::contract`], where wasmtime checks their types
//! against each component that is loaded.
#![allow(dead_code, missing_docs, reason = "generated")]

wasmtime::component::bindgen!({
    path: "../../../sdk/wit",
    world: "wattle:pipeline/pipeline",
    imports: { default: trappable },
    exports: { default: async },
    ownership: Borrowing { duplicate_if_necessary: true },
});
