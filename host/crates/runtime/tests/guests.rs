//! Guests that the SDK made: `cargo xtask guests` builds them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "test helpers too may fail loudly"
)]

mod common;

use std::fs;
use std::path::PathBuf;

use common::{Host, invocation, request};
use domain::{DType, Signature, Tensor, TensorSpec};
use runtime::Request;

fn guests() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../.tools/guests")
}

fn guest(file: &str) -> Vec<u8> {
    fs::read(guests().join(file)).expect("`cargo xtask guests` builds the guests")
}

#[tokio::test]
async fn a_guest_of_the_sdk_describes_itself_and_answers() {
    let host = Host::new();
    for file in ["echo.wasm", "echo.core.wasm"] {
        let pipeline = host.publish(&guest(file)).await;
        let specs = vec![TensorSpec::new("x", DType::Fp32, [None])];
        let signature = pipeline.describe(invocation()).await.unwrap();
        assert_eq!(
            signature,
            Signature {
                inputs: specs.clone(),
                outputs: specs,
                parameters: Vec::new(),
            }
        );

        let data: Vec<u8> = (0..4_000_000_u32).flat_map(|n| (n as u8).to_le_bytes()).collect();
        let tensor = Tensor::new("x", DType::Fp32, vec![1_000_000], data).unwrap();
        let invocation = invocation();
        let ask = Request {
            inputs: vec![tensor.clone()],
            ..request()
        };
        let answer = pipeline.infer(ask, invocation.clone()).await.unwrap();
        assert_eq!(answer.outputs, [tensor]);
        let usage = invocation.cell.snapshot();
        assert_eq!((usage.bytes_in, usage.bytes_out), (4_000_000, 4_000_000));
        assert!(usage.fuel > 0 && usage.peak_memory_bytes > 4_000_000, "{usage:?}");
    }
}

#[tokio::test]
async fn guests_link_but_for_the_one_that_asks_for_too_much() {
    let host = Host::new();
    let mut seen = 0;
    for entry in fs::read_dir(guests()).expect("`cargo xtask guests` builds the guests") {
        let path = entry.unwrap().path();
        let upload = fs::read(&path).unwrap();
        if path
            .file_stem()
            .unwrap()
            .to_string_lossy()
            .starts_with("badimport")
        {
            assert_eq!(
                host.inspect(&upload).await.unwrap_err().code(),
                "forbidden_import"
            );
        } else {
            host.publish(&upload).await;
        }
        seen += 1;
    }
    assert!(seen > 2, "echo, badimport and others");
}
