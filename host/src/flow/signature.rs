//! The promise of a release's signature, held by callers before anything runs and by guests after.

use domain::{DType, Outcome, Signature, Tensor, TensorSpec};
use runtime::{Failure, Request, RequestedOutput, Response};

use super::Error;

/// Refuses what the release does not take or give, before anything runs.
pub(super) fn check_request(signature: &Signature, request: &Request) -> Result<(), Error> {
    check_inputs(signature, &request.inputs)?;
    for (index, wanted) in request.outputs.iter().enumerate() {
        let (field, wanted) = (format!("outputs[{index}]"), &wanted.name);
        if !signature.outputs.iter().any(|spec| spec.name == *wanted) {
            let known: Vec<_> = signature.outputs.iter().map(|spec| spec.name.as_str()).collect();
            return Err(Error::invalid(
                field,
                format!("'{wanted}' is none of the outputs {known:?}"),
            ));
        }
        if request.outputs[..index]
            .iter()
            .any(|earlier| earlier.name == *wanted)
        {
            return Err(Error::invalid(field, format!("'{wanted}' is named twice")));
        }
    }
    Ok(())
}

fn check_inputs(signature: &Signature, inputs: &[Tensor]) -> Result<(), Error> {
    for (index, tensor) in inputs.iter().enumerate() {
        let field = format!("inputs[{index}]");
        let Some(spec) = signature.inputs.iter().find(|spec| spec.name == tensor.name()) else {
            let known: Vec<_> = signature.inputs.iter().map(|spec| spec.name.as_str()).collect();
            return Err(Error::invalid(
                field,
                format!("'{}' is none of the inputs {known:?}", tensor.name()),
            ));
        };
        if !spec.accepts(tensor.dtype(), tensor.shape()) {
            let wanted: Vec<i64> = spec.shape.iter().map(|axis| axis.map_or(-1, i64::from)).collect();
            let (given, dtype) = (tensor.shape(), tensor.dtype().as_str());
            let message = format!(
                "{dtype} {given:?} given for {} {wanted:?} (-1 is free)",
                spec.dtype.as_str()
            );
            return Err(Error::invalid(field, message));
        }
        if inputs[..index]
            .iter()
            .any(|earlier| earlier.name() == tensor.name())
        {
            return Err(Error::invalid(
                field,
                format!("'{}' is given twice", tensor.name()),
            ));
        }
    }
    let given = |name: &str| inputs.iter().any(|tensor| tensor.name() == name);
    let missing = |spec: &&TensorSpec| !spec.optional && !given(&spec.name);
    match signature.inputs.iter().find(missing) {
        Some(spec) => Err(Error::invalid("inputs", format!("'{}' is missing", spec.name))),
        None => Ok(()),
    }
}

/// Refuses a call whose answer could not be written in the caller's encoding, before anything runs.
pub(super) fn check_encoding(
    signature: &Signature,
    wanted: &[RequestedOutput],
    encoding: &str,
    has: impl Fn(DType) -> bool,
) -> Result<(), Error> {
    for spec in signature.outputs.iter().filter(|spec| !has(spec.dtype)) {
        let index = wanted.iter().position(|output| output.name == spec.name);
        let field = match index {
            Some(index) => format!("outputs[{index}]"),
            None if wanted.is_empty() => "outputs".to_owned(),
            None => continue,
        };
        let (name, dtype) = (&spec.name, spec.dtype.as_str());
        let message = format!(
            "'{name}' is {dtype}, which has no form in {encoding}: \
             ask for other outputs by name, or let the pipeline answer FP32"
        );
        return Err(Error::invalid(field, message));
    }
    Ok(())
}

/// Refuses a guest's answer that is not what the release said it gives.
pub(super) fn check_answer(
    signature: &Signature,
    wanted: &[RequestedOutput],
    response: Response,
) -> Result<Response, Failure> {
    for tensor in &response.outputs {
        let spec = signature.outputs.iter().find(|spec| spec.name == tensor.name());
        if !spec.is_some_and(|spec| spec.accepts(tensor.dtype(), tensor.shape())) {
            let (name, dtype, shape) = (tensor.name(), tensor.dtype().as_str(), tensor.shape());
            let message =
                format!("the answer has '{name}' as {dtype} {shape:?}, which is not in the signature");
            return Err(Failure::new(Outcome::InvalidOutput, message));
        }
    }
    let given = |name: &str| response.outputs.iter().any(|tensor| tensor.name() == name);
    let lacking = |spec: &&TensorSpec| wanted.is_empty() && !spec.optional && !given(&spec.name);
    match signature.outputs.iter().find(lacking) {
        Some(spec) => Err(Failure::new(
            Outcome::InvalidOutput,
            format!("the answer lacks the output '{}'", spec.name),
        )),
        None => Ok(response),
    }
}
