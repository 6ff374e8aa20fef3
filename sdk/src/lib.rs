#![doc = include_str!("../README.md")]

#[doc(hidden)]
#[allow(
    missing_docs,
    unsafe_code,
    clippy::all,
    reason = "generated from the contract in wit/"
)]
pub mod bindings {
    wit_bindgen::generate!({
        path: "wit",
        world: "pipeline",
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export_pipeline",
        default_bindings_module: "wattle_sdk::bindings",
    });
}

/// The allocator of Rust's standard library, in a version that uses what the module's memory has from the start.
#[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

pub mod config;
mod failure;
mod graph;
pub mod log;
mod parameter;
mod request;
mod tensor;

/// wasi-nn as the contract has it, for what [`Graph`] does not do.
pub use bindings::wasi::nn;
pub use bindings::wattle::pipeline::types::{
    Dtype, Failure, Parameter, Request, RequestedOutput, Response, Signature, Tensor, TensorSpec,
};
pub use graph::Graph;

/// A pipeline: what it takes and gives, and how it answers. Every call runs in a fresh instance.
pub trait Pipeline {
    /// What the pipeline takes and gives, asked once for each release.
    fn describe() -> Result<Signature, Failure>;

    /// Answers one call. The host has checked the inputs against [`Pipeline::describe`].
    fn infer(request: Request) -> Result<Response, Failure>;
}

/// Makes a type that is a [`Pipeline`] the pipeline of this component.
#[macro_export]
macro_rules! pipeline {
    ($pipeline:ty) => {
        const _: () = {
            use $crate::{Failure, Pipeline, Request, Response, Signature};

            struct Exported;

            impl $crate::bindings::exports::wattle::pipeline::handler::Guest for Exported {
                fn describe() -> Result<Signature, Failure> {
                    $crate::log::panics();
                    <$pipeline as Pipeline>::describe()
                }

                fn infer(request: Request) -> Result<Response, Failure> {
                    $crate::log::panics();
                    <$pipeline as Pipeline>::infer(request)
                }
            }

    $crate::bindings::export_pipeline!(Exported with_types_in $crate::bindings);
        };
    };
}
