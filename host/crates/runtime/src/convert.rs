//! Between the contract's types and the domain's. What comes from the guest is checked here.

use domain::{DType, Limits, Outcome, Signature, Tensor, TensorSpec};

use crate::bindings::wattle::pipeline::types::{self as wit, Dtype};
use crate::pipeline::{Failure, Request, Response};

/// The longest code and message of a guest's failure, in bytes.
const MAX_CODE_BYTES: usize = 64;
pub(crate) const MAX_MESSAGE_BYTES: usize = 4096;
/// The most tensors on either side of a signature, and the most axes of one.
const MAX_TENSORS: usize = 256;

/// The most bytes of a tensor's name in a signature.
const MAX_NAME_BYTES: usize = 256;
const MAX_RANK: usize = 32;

/// The tensors of a request, borrowed: lowering copies them once, into the guest.
pub(crate) fn inputs(request: &Request) -> Vec<wit::TensorParam<'_>> {
    let tensor = |tensor| {
        let tensor: &Tensor = tensor;
        wit::TensorParam {
            name: tensor.name(),
            dtype: to_wit(tensor.dtype()),
            shape: tensor.shape(),
            data: tensor.data(),
            parameters: &[],
        }
    };
    request.inputs.iter().map(tensor).collect()
}

/// Parameters, borrowed.
pub(crate) fn parameters(pairs: &[(String, String)]) -> Vec<wit::ParameterParam<'_>> {
    pairs
        .iter()
        .map(|(key, value)| wit::ParameterParam { key, value })
        .collect()
}

/// The beginning of a text that a guest made, at most `bytes` long.
pub(crate) fn cut(mut text: String, bytes: usize) -> String {
    text.truncate(text.floor_char_boundary(bytes));
    text
}

/// A guest's own failure.
pub(crate) fn failure(failure: wit::Failure) -> Failure {
    Failure {
        outcome: Outcome::GuestFailure,
        code: cut(failure.code, MAX_CODE_BYTES),
        message: cut(failure.message, MAX_MESSAGE_BYTES),
        retryable: failure.retryable,
    }
}

/// A guest's signature, if it keeps the contract.
pub(crate) fn signature(signature: wit::Signature) -> Result<Signature, Failure> {
    let specs = |specs: Vec<wit::TensorSpec>, side: &str| {
        if specs.len() > MAX_TENSORS {
            return Err(invalid(format!(
                "the signature has more than {MAX_TENSORS} {side}"
            )));
        }
        let mut checked: Vec<TensorSpec> = Vec::with_capacity(specs.len());
        for wit::TensorSpec { name, dtype, shape } in specs {
            if name.len() > MAX_NAME_BYTES {
                return Err(invalid(format!(
                    "the signature's {side} have a name of over {MAX_NAME_BYTES} bytes"
                )));
            }
            if name.is_empty() || checked.iter().any(|spec| spec.name == name) {
                return Err(invalid(format!(
                    "the signature's {side} have the name '{name}' twice or none"
                )));
            }
            if shape.len() > MAX_RANK {
                return Err(invalid(format!(
                    "'{name}' in the signature has more than {MAX_RANK} axes"
                )));
            }
            checked.push(TensorSpec {
                name,
                dtype: from_wit(dtype),
                shape,
            });
        }
        Ok(checked)
    };
    Ok(Signature {
        inputs: specs(signature.inputs, "inputs")?,
        outputs: specs(signature.outputs, "outputs")?,
    })
}

/// A guest's answer, if it keeps the contract and its limit. Of its outputs, those in `wanted`, in that
/// order; all where nothing is wanted in particular.
pub(crate) fn response(
    answer: wit::Response,
    wanted: &[String],
    limits: &Limits,
) -> Result<Response, Failure> {
    let tensors = answer
        .outputs
        .iter()
        .map(|tensor| tensor.data.len() + tensor.name.len() + 4 * tensor.shape.len());
    let parameters = answer
        .parameters
        .iter()
        .map(|parameter| parameter.key.len() + parameter.value.len());
    let bytes = tensors.chain(parameters).sum::<usize>() as u64;
    if bytes > limits.output_bytes {
        let message = format!("the answer may have {} bytes, not {bytes}", limits.output_bytes);
        return Err(Failure::new(Outcome::OutputExceeded, message));
    }
    if answer.outputs.len() > MAX_TENSORS || answer.parameters.len() > MAX_TENSORS {
        return Err(invalid(format!(
            "the answer has more than {MAX_TENSORS} outputs or parameters"
        )));
    }
    let mut outputs: Vec<Tensor> = Vec::with_capacity(answer.outputs.len());
    for tensor in answer.outputs {
        if outputs.iter().any(|known| known.name() == tensor.name) {
            return Err(invalid(format!(
                "the answer has the output '{}' twice",
                tensor.name
            )));
        }
        let tensor = Tensor::new(tensor.name, from_wit(tensor.dtype), tensor.shape, tensor.data);
        outputs.push(tensor.map_err(|error| invalid(error.to_string()))?);
    }
    if !wanted.is_empty() {
        let find = |name: &String| {
            let found = outputs.iter().find(|tensor| tensor.name() == name).cloned();
            found.ok_or_else(|| invalid(format!("the answer lacks the output '{name}'")))
        };
        outputs = wanted.iter().map(find).collect::<Result<_, _>>()?;
    }
    let parameter =
        |wit::ParameterResult { key, value }| match serde_json::from_str::<serde::de::IgnoredAny>(&value) {
            Ok(_) => Ok((key, value)),
            Err(error) => Err(invalid(format!(
                "the answer's parameter '{key}' is no JSON: {error}"
            ))),
        };
    let parameters = answer
        .parameters
        .into_iter()
        .map(parameter)
        .collect::<Result<_, _>>()?;
    Ok(Response { outputs, parameters })
}

fn invalid(message: String) -> Failure {
    Failure::new(Outcome::InvalidOutput, message)
}

fn to_wit(dtype: DType) -> Dtype {
    match dtype {
        DType::Bool => Dtype::Bool,
        DType::U8 => Dtype::U8,
        DType::I8 => Dtype::I8,
        DType::U16 => Dtype::U16,
        DType::I16 => Dtype::I16,
        DType::U32 => Dtype::U32,
        DType::I32 => Dtype::I32,
        DType::U64 => Dtype::U64,
        DType::I64 => Dtype::I64,
        DType::Fp16 => Dtype::Fp16,
        DType::Bf16 => Dtype::Bf16,
        DType::Fp32 => Dtype::Fp32,
        DType::Fp64 => Dtype::Fp64,
        DType::Bytes => Dtype::Bytes,
    }
}

fn from_wit(dtype: Dtype) -> DType {
    match dtype {
        Dtype::Bool => DType::Bool,
        Dtype::U8 => DType::U8,
        Dtype::I8 => DType::I8,
        Dtype::U16 => DType::U16,
        Dtype::I16 => DType::I16,
        Dtype::U32 => DType::U32,
        Dtype::I32 => DType::I32,
        Dtype::U64 => DType::U64,
        Dtype::I64 => DType::I64,
        Dtype::Fp16 => DType::Fp16,
        Dtype::Bf16 => DType::Bf16,
        Dtype::Fp32 => DType::Fp32,
        Dtype::Fp64 => DType::Fp64,
        Dtype::Bytes => DType::Bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(name: &str, data: Vec<u8>) -> wit::TensorResult {
        let shape = vec![data.len() as u32];
        wit::TensorResult {
            name: name.into(),
            dtype: Dtype::U8,
            shape,
            data,
            parameters: Vec::new(),
        }
    }

    fn answer(outputs: Vec<wit::TensorResult>, value: &str) -> wit::Response {
        wit::Response {
            outputs,
            parameters: vec![wit::ParameterResult {
                key: "k".into(),
                value: value.into(),
            }],
        }
    }

    fn outcome(answer: wit::Response, wanted: &[&str]) -> Outcome {
        let limits = Limits {
            output_bytes: 40,
            ..Limits::default()
        };
        let wanted: Vec<_> = wanted.iter().map(|&name| name.to_owned()).collect();
        response(answer, &wanted, &limits).map_or_else(|failure| failure.outcome, |_| Outcome::Ok)
    }

    #[test]
    fn answers_are_checked() {
        let two = || vec![tensor("a", vec![1]), tensor("b", vec![2])];
        assert_eq!(outcome(answer(two(), "1"), &[]), Outcome::Ok);
        assert_eq!(outcome(answer(two(), "not json"), &[]), Outcome::InvalidOutput);
        assert_eq!(outcome(answer(two(), "1"), &["c"]), Outcome::InvalidOutput);
        let twice = vec![tensor("a", vec![1]), tensor("a", vec![1])];
        assert_eq!(outcome(answer(twice, "1"), &[]), Outcome::InvalidOutput);
        let misshapen = wit::TensorResult {
            shape: vec![2],
            ..tensor("a", vec![1])
        };
        assert_eq!(outcome(answer(vec![misshapen], "1"), &[]), Outcome::InvalidOutput);
        assert_eq!(
            outcome(answer(vec![tensor("a", vec![0; 33])], "1"), &[]),
            Outcome::Ok
        );
        assert_eq!(
            outcome(answer(vec![tensor("a", vec![0; 34])], "1"), &[]),
            Outcome::OutputExceeded
        );
    }

    #[test]
    fn only_wanted_outputs_are_given_in_that_order() {
        let three = ["a", "b", "c"].map(|name| tensor(name, vec![1])).to_vec();
        let given = response(answer(three, "1"), &["c".into(), "a".into()], &Limits::default()).unwrap();
        assert_eq!(
            given.outputs.iter().map(Tensor::name).collect::<Vec<_>>(),
            ["c", "a"]
        );
    }

    #[test]
    fn a_failures_texts_are_cut_between_characters() {
        let long = wit::Failure {
            code: "ä".repeat(99),
            message: "x".repeat(9999),
            retryable: true,
        };
        let cut = failure(long);
        assert_eq!((cut.code.len(), cut.message.len()), (64, 4096));
    }
}
