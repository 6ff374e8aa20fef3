//! Answers with its inputs.

use wattle_sdk::{Dtype, Failure, Pipeline, Request, Response, Signature, pipeline};

struct Echo;

impl Pipeline for Echo {
    fn describe() -> Result<Signature, Failure> {
        Ok(Signature::new()
            .input("x", Dtype::Fp32, [None])
            .output("x", Dtype::Fp32, [None]))
    }

    fn infer(request: Request) -> Result<Response, Failure> {
        Ok(Response::new(request.inputs))
    }
}

pipeline!(Echo);
