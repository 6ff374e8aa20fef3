//! Inputs and outputs against a signature.

use domain::{Signature, Tensor, TensorSpec};

use crate::ComputeError;

/// The inputs in the signature's order, each proven to fit its place.
pub(crate) fn inputs(signature: &Signature, mut given: Vec<Tensor>) -> Result<Vec<Tensor>, ComputeError> {
    let mut ordered = Vec::with_capacity(signature.inputs.len());
    for spec in &signature.inputs {
        let found = given.iter().position(|tensor| tensor.name() == spec.name);
        let Some(found) = found else {
            return Err(ComputeError::input(
                &spec.name,
                format!("input '{}' is missing", spec.name),
            ));
        };
        let tensor = given.swap_remove(found);
        fits(spec, &tensor)?;
        ordered.push(tensor);
    }
    let Some(left) = given.first() else {
        return Ok(ordered);
    };
    let known = signature.inputs.iter().any(|spec| spec.name == left.name());
    let reason = if known {
        format!("input '{}' is given twice", left.name())
    } else {
        let names: Vec<_> = signature
            .inputs
            .iter()
            .map(|spec| format!("'{}'", spec.name))
            .collect();
        format!(
            "the graph has no input '{}', only {}",
            left.name(),
            names.join(", ")
        )
    };
    Err(ComputeError::input(left.name(), reason))
}

/// Whether outputs are what the signature says, in its order.
pub(crate) fn outputs(signature: &Signature, given: &[Tensor]) -> bool {
    let fits = |(spec, tensor): (&TensorSpec, &Tensor)| {
        spec.name == tensor.name() && spec.accepts(tensor.dtype(), tensor.shape())
    };
    signature.outputs.len() == given.len() && signature.outputs.iter().zip(given).all(fits)
}

fn fits(spec: &TensorSpec, tensor: &Tensor) -> Result<(), ComputeError> {
    if spec.dtype != tensor.dtype() {
        let (want, got) = (spec.dtype.as_str(), tensor.dtype().as_str());
        return Err(ComputeError::input(
            &spec.name,
            format!("input '{}' is {want}, not {got}", spec.name),
        ));
    }
    if !spec.accepts(tensor.dtype(), tensor.shape()) {
        let reason = format!(
            "input '{}' has the shape {}, not {:?}",
            spec.name,
            shape(&spec.shape),
            tensor.shape()
        );
        return Err(ComputeError::input(&spec.name, reason));
    }
    Ok(())
}

/// A shape in words: `[?, 100]`.
pub(crate) fn shape(dims: &[Option<u32>]) -> String {
    let dims: Vec<_> = dims
        .iter()
        .map(|dim| dim.map_or("?".to_owned(), |dim| dim.to_string()))
        .collect();
    format!("[{}]", dims.join(", "))
}
