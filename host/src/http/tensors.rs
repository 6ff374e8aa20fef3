//! Tensors in the V2 protocol's JSON: flat or nested numbers, booleans and strings.

mod input;
pub(super) mod parameters;
pub(super) mod reply;

use domain::Tensor;
use runtime::{Request, RequestedOutput};
use serde::Deserialize;

use crate::flow::Error;
use input::Input;
use parameters::Given;
use reply::has_form;

#[derive(Deserialize)]
struct Infer<'a> {
    #[serde(default)]
    id: String,
    #[serde(default, borrow)]
    parameters: Given<'a>,
    #[serde(borrow)]
    inputs: Vec<Input<'a>>,
    #[serde(default, borrow)]
    outputs: Vec<Output<'a>>,
}

#[derive(Deserialize)]
struct Output<'a> {
    name: String,
    #[serde(default, borrow)]
    parameters: Given<'a>,
}

/// Most tensors in a request.
const TENSORS: usize = 256;

/// The call in a body of `POST …/infer`.
pub(super) fn request(body: &[u8]) -> Result<Request, Error> {
    let infer: Infer<'_> = super::body::parse(body)?;
    if infer.inputs.len() > TENSORS {
        return Err(Error::invalid("inputs", format!("at most {TENSORS} tensors")));
    }
    if infer.outputs.len() > TENSORS {
        return Err(Error::invalid("outputs", format!("at most {TENSORS} tensors")));
    }
    let inputs = infer.inputs.into_iter().enumerate();
    let output = |(index, output): (usize, Output<'_>)| {
        let field = format!("outputs[{index}].parameters");
        Ok::<_, Error>(RequestedOutput {
            name: output.name,
            parameters: output.parameters.take(&field, None)?,
        })
    };
    Ok(Request {
        id: infer.id,
        inputs: inputs
            .map(|(index, input)| tensor(index, input))
            .collect::<Result<_, _>>()?,
        outputs: infer
            .outputs
            .into_iter()
            .enumerate()
            .map(output)
            .collect::<Result<_, _>>()?,
        parameters: infer.parameters.take("parameters", None)?,
    })
}

fn tensor(index: usize, input: Input<'_>) -> Result<Tensor, Error> {
    if !has_form(input.datatype) {
        let message = format!("{} has no form in JSON: send FP32", input.datatype.as_str());
        return Err(Error::invalid(format!("inputs[{index}].datatype"), message));
    }
    let data = input.data.elements(input.datatype, input.parameters.base64());
    let data = data.map_err(|error| Error::invalid(format!("inputs[{index}].data"), error))?;
    let tensor = Tensor::new(input.name, input.datatype, input.shape, data);
    let tensor = tensor.map_err(|error| Error::invalid(format!("inputs[{index}]"), error))?;
    let field = format!("inputs[{index}].parameters");
    let parameters = input.parameters.take(&field, Some(input.datatype))?;
    Ok(tensor.with_parameters(parameters))
}
