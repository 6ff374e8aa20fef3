//! Doubles numbers: the place to begin.

use wattle_sdk::{Dtype, Failure, Pipeline, Request, Response, Signature, Tensor, pipeline};

struct Double;

impl Pipeline for Double {
    fn describe() -> Result<Signature, Failure> {
        Ok(Signature::new()
            .input("x", Dtype::Fp32, [None])
            .output("y", Dtype::Fp32, [None]))
    }

    fn infer(request: Request) -> Result<Response, Failure> {
        let x = request.input("x")?.as_fp32()?;
        let y: Vec<f32> = x.iter().map(|x| 2.0 * x).collect();
        Ok(Response::new([Tensor::fp32("y", [y.len() as u32], &y)]))
    }
}

pipeline!(Double);
