//! Between the contract's types and the domain's. What comes from the guest is checked here.

use domain::{DType, Limits, Outcome, Parameter, Signature, Tensor, TensorSpec};

use crate::bindings::wattle::pipeline::types::{self as wit, Dtype, ParameterParam, ParameterResult};
use crate::pipeline::{Failure, RequestedOutput, Response};

/// The longest code and message of a guest's failure, in bytes, and all its parameters together.
const MAX_CODE_BYTES: usize = 64;
pub(crate) const MAX_MESSAGE_BYTES: usize = 4096;
const MAX_FAILURE_BYTES: u64 = 64 << 10;
/// The most tensors on either side of a signature, and the most axes of one.
const MAX_TENSORS: usize = 256;

/// The most bytes of a tensor's name in a signature, and of all its parameters together.
const MAX_NAME_BYTES: usize = 256;
const MAX_SIGNATURE_BYTES: u64 = 256 << 10;
const MAX_RANK: usize = 32;

/// The tensors of a request, borrowed: lowering copies them once, into the guest.
pub(crate) fn inputs<'a>(
    tensors: &'a [Tensor],
    parameters: &'a [Vec<ParameterParam<'a>>],
) -> Vec<wit::TensorParam<'a>> {
    let tensor = |(tensor, parameters): (&'a Tensor, &'a Vec<_>)| wit::TensorParam {
        name: tensor.name(),
        dtype: to_wit(tensor.dtype()),
        shape: tensor.shape(),
        data: tensor.data(),
        parameters,
    };
    tensors.iter().zip(parameters).map(tensor).collect()
}

/// What a request wants, borrowed.
pub(crate) fn outputs<'a>(
    wanted: &'a [RequestedOutput],
    parameters: &'a [Vec<ParameterParam<'a>>],
) -> Vec<wit::RequestedOutput<'a>> {
    let output = |(output, parameters): (&'a RequestedOutput, &'a Vec<_>)| wit::RequestedOutput {
        name: &output.name,
        parameters,
    };
    wanted.iter().zip(parameters).map(output).collect()
}

/// Parameters, borrowed.
pub(crate) fn parameters(list: &[Parameter]) -> Vec<ParameterParam<'_>> {
    list.iter()
        .map(|Parameter { key, value }| ParameterParam { key, value })
        .collect()
}

/// Checks a list of parameters by the contract's rules, and that their values are JSON; says what is wrong.
pub fn check_parameters(list: &[Parameter]) -> Result<(), String> {
    Parameter::check(list)?;
    for Parameter { key, value } in list {
        // As a value and not as anything that is skipped: that would let pass nesting without end and
        // halves of characters, which other readers refuse. The rule above keeps it small.
        serde_json::from_str::<serde_json::Value>(value)
            .map_err(|error| format!("the parameter '{key}' is no JSON: {error}"))?;
    }
    Ok(())
}

/// A guest's parameters, if they keep the contract; `whose` they are is said where they do not.
fn checked(list: Vec<ParameterResult>, whose: &str) -> Result<Vec<Parameter>, Failure> {
    let own = |ParameterResult { key, value }| Parameter { key, value };
    let list: Vec<_> = list.into_iter().map(own).collect();
    match check_parameters(&list) {
        Ok(()) => Ok(list),
        Err(wrong) => Err(invalid(format!("{whose}: {wrong}"))),
    }
}

/// Bytes of a guest's parameters.
fn parameter_bytes(list: &[ParameterResult]) -> u64 {
    let bytes = |parameter: &ParameterResult| (parameter.key.len() + parameter.value.len()) as u64;
    list.iter().map(bytes).sum()
}

/// The beginning of a text that a guest made, at most `bytes` long.
pub(crate) fn cut(mut text: String, bytes: usize) -> String {
    text.truncate(text.floor_char_boundary(bytes));
    text
}

/// A guest's own failure; another where its parameters break the contract.
pub(crate) fn failure(failure: wit::Failure) -> Failure {
    if parameter_bytes(&failure.parameters) > MAX_FAILURE_BYTES {
        return invalid(format!(
            "the failure's parameters are over {MAX_FAILURE_BYTES} bytes"
        ));
    }
    match checked(failure.parameters, "the failure") {
        Err(failure) => failure,
        Ok(parameters) => Failure {
            outcome: Outcome::GuestFailure,
            code: cut(failure.code, MAX_CODE_BYTES),
            message: cut(failure.message, MAX_MESSAGE_BYTES),
            retryable: failure.retryable,
            parameters,
        },
    }
}

/// A guest's signature, if it keeps the contract.
pub(crate) fn signature(signature: wit::Signature) -> Result<Signature, Failure> {
    let all = signature.inputs.iter().chain(&signature.outputs);
    let keys = all
        .clone()
        .flat_map(|spec| &spec.parameters)
        .chain(&signature.parameters);
    let mut texts = all
        .clone()
        .map(|spec| &spec.name)
        .chain(keys.map(|parameter| &parameter.key));
    if texts.any(|text| text.contains('\0')) {
        return Err(invalid(
            "the signature has a name or key with a NUL, which no database keeps".into(),
        ));
    }
    let bytes: u64 = all.map(|spec| parameter_bytes(&spec.parameters)).sum();
    if bytes + parameter_bytes(&signature.parameters) > MAX_SIGNATURE_BYTES {
        return Err(invalid(format!(
            "the signature's parameters are over {MAX_SIGNATURE_BYTES} bytes"
        )));
    }
    Ok(Signature {
        inputs: specs(signature.inputs, "inputs")?,
        outputs: specs(signature.outputs, "outputs")?,
        parameters: checked(signature.parameters, "the signature")?,
    })
}

/// One side of a guest's signature.
fn specs(specs: Vec<wit::TensorSpec>, side: &str) -> Result<Vec<TensorSpec>, Failure> {
    if specs.len() > MAX_TENSORS {
        return Err(invalid(format!(
            "the signature has more than {MAX_TENSORS} {side}"
        )));
    }
    let mut known: Vec<TensorSpec> = Vec::with_capacity(specs.len());
    for spec in specs {
        let name = spec.name;
        if name.len() > MAX_NAME_BYTES {
            return Err(invalid(format!(
                "the signature's {side} have a name of over {MAX_NAME_BYTES} bytes"
            )));
        }
        if name.is_empty() || known.iter().any(|spec| spec.name == name) {
            return Err(invalid(format!(
                "the signature's {side} have the name '{name}' twice or none"
            )));
        }
        if spec.shape.len() > MAX_RANK {
            return Err(invalid(format!(
                "'{name}' in the signature has more than {MAX_RANK} axes"
            )));
        }
        known.push(TensorSpec {
            parameters: checked(spec.parameters, &name)?,
            name,
            dtype: from_wit(spec.dtype),
            shape: spec.shape,
            optional: spec.optional,
        });
    }
    Ok(known)
}

/// A guest's answer, if it keeps the contract and its limit. Of its outputs, those in `wanted`, in that
/// order; all where nothing is wanted in particular.
pub(crate) fn response(
    answer: wit::Response,
    wanted: &[RequestedOutput],
    limits: &Limits,
) -> Result<Response, Failure> {
    let tensors = answer.outputs.iter().map(|tensor| {
        let own = tensor.data.len() + tensor.name.len() + 4 * tensor.shape.len();
        own as u64 + parameter_bytes(&tensor.parameters)
    });
    let bytes = tensors.sum::<u64>() + parameter_bytes(&answer.parameters);
    if bytes > limits.output_bytes {
        let message = format!("the answer may have {} bytes, not {bytes}", limits.output_bytes);
        return Err(Failure::new(Outcome::OutputExceeded, message));
    }
    if answer.outputs.len() > MAX_TENSORS {
        return Err(invalid(format!("the answer has more than {MAX_TENSORS} outputs")));
    }
    let mut outputs: Vec<Tensor> = Vec::with_capacity(answer.outputs.len());
    for tensor in answer.outputs {
        if outputs.iter().any(|known| known.name() == tensor.name) {
            return Err(invalid(format!(
                "the answer has the output '{}' twice",
                tensor.name
            )));
        }
        let parameters = checked(tensor.parameters, &tensor.name)?;
        let tensor = Tensor::new(tensor.name, from_wit(tensor.dtype), tensor.shape, tensor.data);
        let tensor = tensor.map_err(|error| invalid(error.to_string()))?;
        outputs.push(tensor.with_parameters(parameters));
    }
    if !wanted.is_empty() {
        let find = |RequestedOutput { name, .. }: &RequestedOutput| {
            let found = outputs.iter().find(|tensor| tensor.name() == name).cloned();
            found.ok_or_else(|| invalid(format!("the answer lacks the output '{name}'")))
        };
        outputs = wanted.iter().map(find).collect::<Result<_, _>>()?;
    }
    let parameters = checked(answer.parameters, "the answer")?;
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

    fn named(names: &[&str]) -> Vec<RequestedOutput> {
        let output = |&name: &&str| RequestedOutput {
            name: name.into(),
            parameters: Vec::new(),
        };
        names.iter().map(output).collect()
    }

    fn outcome(answer: wit::Response, wanted: &[&str]) -> Outcome {
        let limits = Limits {
            output_bytes: 40,
            ..Limits::default()
        };
        response(answer, &named(wanted), &limits).map_or_else(|failure| failure.outcome, |_| Outcome::Ok)
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
        let given = response(answer(three, "1"), &named(&["c", "a"]), &Limits::default()).unwrap();
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
            parameters: Vec::new(),
        };
        let cut = failure(long);
        assert_eq!((cut.code.len(), cut.message.len()), (64, 4096));
    }

    fn parameter(key: &str, value: &str) -> ParameterResult {
        ParameterResult {
            key: key.into(),
            value: value.into(),
        }
    }

    #[test]
    fn parameters_are_json_that_every_reader_takes() {
        let deep = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        let long = format!("\"{}\"", "x".repeat(65_535));
        for (value, good) in [
            ("{\"a\": [1.5, null, \"\\u00e4\"]}", true),
            (&deep(100), true),
            (&deep(1_000), false),
            ("\"\\ud800\"", false),
            ("1e999", false),
            ("NaN", false),
            ("1 2", false),
            ("", false),
            (&long, false),
        ] {
            let one = vec![parameter("k", value)];
            assert_eq!(checked(one, "x").is_ok(), good, "{value:.40}");
        }
    }

    #[test]
    fn signatures_of_older_releases_still_read() {
        let old = r#"{"inputs":[{"name":"x","dtype":"FP32","shape":[null,4]}],"outputs":[]}"#;
        let expected = Signature {
            inputs: vec![TensorSpec::new("x", DType::Fp32, [None, Some(4)])],
            ..Signature::default()
        };
        assert_eq!(serde_json::from_str::<Signature>(old).unwrap(), expected);
    }

    #[test]
    fn parameters_are_checked_wherever_a_guest_gives_them() {
        let twice = || vec![parameter("k", "1"), parameter("k", "2")];
        let with = wit::TensorResult {
            parameters: twice(),
            ..tensor("a", vec![1])
        };
        assert_eq!(outcome(answer(vec![with], "1"), &[]), Outcome::InvalidOutput);
        let long = wit::TensorResult {
            parameters: vec![parameter("k", "1234567890")],
            ..tensor("a", vec![0; 24])
        };
        assert_eq!(outcome(answer(vec![long], "1"), &[]), Outcome::OutputExceeded);
        let failing = |parameters| {
            let failed = wit::Failure {
                code: "own".into(),
                message: String::new(),
                retryable: false,
                parameters,
            };
            failure(failed).code
        };
        assert_eq!(failing(vec![parameter("k", "1")]), "own");
        assert_eq!(failing(twice()), "invalid_output");
        let heavy = |count: u32| {
            let value = format!("\"{}\"", "v".repeat(60_000));
            (0..count).map(|n| parameter(&n.to_string(), &value)).collect()
        };
        assert_eq!(failing(heavy(2)), "invalid_output");
        let signed = |of_tensor: Vec<_>, of_all| {
            let spec = wit::TensorSpec {
                name: "x".into(),
                dtype: Dtype::U8,
                shape: vec![None],
                optional: true,
                parameters: of_tensor,
            };
            signature(wit::Signature {
                inputs: vec![spec],
                outputs: Vec::new(),
                parameters: of_all,
            })
        };
        let good = signed(heavy(2), heavy(2)).unwrap();
        assert!(good.inputs[0].optional && good.parameters.len() == 2);
        for (of_tensor, of_all) in [(twice(), Vec::new()), (Vec::new(), twice()), (heavy(2), heavy(3))] {
            assert_eq!(
                signed(of_tensor, of_all).unwrap_err().outcome,
                Outcome::InvalidOutput
            );
        }
    }
}
