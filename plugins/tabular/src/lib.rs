//! Rows of a hundred numbers to probabilities, by the release's graph `net`.

use wattle_sdk::{Dtype, Failure, Graph, Pipeline, Request, Response, Signature, pipeline};

struct Tabular;

impl Pipeline for Tabular {
    fn describe() -> Result<Signature, Failure> {
        Ok(Signature::new()
            .input("rows", Dtype::Fp32, [None, Some(100)])
            .output("probability", Dtype::Fp32, [None, Some(1)]))
    }

    fn infer(request: Request) -> Result<Response, Failure> {
        let rows = request.input("rows")?.clone().named("input");
        let answer = Graph::load("net")?.compute_one(&[rows])?;
        Ok(Response::new([answer.named("probability")]))
    }
}

pipeline!(Tabular);
