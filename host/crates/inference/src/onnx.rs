//! What an ONNX file says of itself: its signature, and whether it can be priced and run in order.

use std::collections::{HashMap, HashSet};

use domain::{DType, Signature, TensorSpec};
use rten_onnx::onnx::{
    DataType, GraphProto, ModelProto, NodeProto, TensorProto, TypeProtoTensor, ValueInfoProto,
};

use crate::LoadError;

/// Parses a file that has passed the scan, whose graph must have an output.
pub(crate) fn parse_whole(blob: &[u8]) -> Result<GraphProto, LoadError> {
    let model = ModelProto::parse_buf(blob).map_err(|error| invalid(error.to_string()))?;
    let graph = model.graph.ok_or_else(|| invalid("the model has no graph"))?;
    if graph.output.is_empty() {
        return Err(invalid("its graph has no output"));
    }
    Ok(graph)
}

/// The same without large weights: only their shapes matter.
pub(crate) fn parse(blob: &[u8]) -> Result<GraphProto, LoadError> {
    let mut graph = parse_whole(blob)?;
    for weight in &mut graph.initializer {
        let raw_bytes = weight.raw_data.as_ref().map_or(0, |raw| raw.borrow().len());
        if raw_bytes > MAX_KEPT_BYTES {
            weight.raw_data = None;
        }
    }
    Ok(graph)
}

/// The largest weight whose values are kept: enough for any that says a shape.
const MAX_KEPT_BYTES: usize = 4 << 10;

/// The sets of operators that a backend may know.
const DOMAINS: [&str; 4] = ["", "ai.onnx", "ai.onnx.ml", "com.microsoft"];

/// Refuses what cannot be priced before it runs, what is in no known set of operators, and operators that do
/// not stand in the order of their use.
pub(crate) fn check(graph: &GraphProto) -> Result<(), LoadError> {
    for node in nodes(graph) {
        let (op, domain) = (op(node), node.domain.as_deref().unwrap_or_default());
        if !DOMAINS.contains(&domain) {
            return Err(unsupported(
                format!("operator '{op}' is of the unknown domain '{domain}'"),
                "export the model with operators of ONNX alone",
            ));
        }
        // Whatever holds a graph besides `If` runs it over and over.
        if matches!(op, "Loop" | "Scan" | "SequenceMap") || op != "If" && inner(node).next().is_some() {
            return Err(unsupported(
                format!(
                    "operator '{op}' may run any number of times, so its fuel is not known before it runs"
                ),
                "unroll the loop when exporting the model",
            ));
        }
    }
    graph.initializer.iter().try_for_each(check_weight)?;
    check_order(graph)
}

/// Whether two runs on the same inputs may differ: it draws random numbers.
pub(crate) fn is_random(graph: &GraphProto) -> bool {
    let random = |node: &NodeProto| match op(node) {
        "Multinomial" | "Bernoulli" => true,
        // Without its switch for training it lets everything pass.
        "Dropout" => node.input.get(2).is_some_and(|training| !training.is_empty()),
        op => op.starts_with("Random"),
    };
    nodes(graph).into_iter().any(random)
}

fn op(node: &NodeProto) -> &str {
    node.op_type.as_deref().unwrap_or_default()
}

/// Checks that a weight's axes can be multiplied, whatever any of them is.
fn check_weight(weight: &TensorProto) -> Result<(), LoadError> {
    let elements = weight.dims.iter().try_fold(8_u64, |bytes, &dim| {
        let dim = u64::try_from(dim).ok()?;
        bytes.checked_mul(dim.max(1)).filter(|&bytes| bytes < 1 << 48)
    });
    let name = weight.name.as_deref().unwrap_or_default();
    elements
        .map(drop)
        .ok_or_else(|| invalid(format!("'{name}' has the impossible shape {:?}", weight.dims)))
}

/// The most inputs, and the most outputs, of a graph: each call looks for each of them.
const MAX_TENSORS: usize = 256;

/// The signature that the file declares, of types that the backend carries. `inferred` gives the shape of an
/// output that declares none.
pub(crate) fn signature(
    graph: &GraphProto,
    carries: impl Fn(DType) -> bool,
    inferred: impl Fn(&str) -> Option<Vec<Option<u32>>>,
) -> Result<Signature, LoadError> {
    // Old files list their weights among the inputs.
    let weights: HashSet<&str> = graph
        .initializer
        .iter()
        .filter_map(|weight| weight.name.as_deref())
        .collect();
    let given = |input: &&ValueInfoProto| !input.name.as_deref().is_some_and(|name| weights.contains(name));
    let inputs: Vec<_> = graph.input.iter().filter(given).collect();
    if inputs.len().max(graph.output.len()) > MAX_TENSORS {
        return Err(unsupported(
            format!("it has more than {MAX_TENSORS} inputs or outputs"),
            "join them when exporting the model",
        ));
    }
    let inputs = inputs
        .into_iter()
        .map(|input| spec("input", input, &carries, |_| None));
    let outputs = graph
        .output
        .iter()
        .map(|output| spec("output", output, &carries, &inferred));
    let signature = Signature {
        inputs: inputs.collect::<Result<_, _>>()?,
        outputs: outputs.collect::<Result<_, _>>()?,
        parameters: Vec::new(),
    };
    for specs in [&signature.inputs, &signature.outputs] {
        let mut names: Vec<_> = specs.iter().map(|spec| &spec.name).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(invalid(format!(
                "the name '{}' stands twice in its signature",
                pair[0]
            )));
        }
    }
    Ok(signature)
}

fn spec(
    kind: &str,
    value: &ValueInfoProto,
    carries: impl Fn(DType) -> bool,
    inferred: impl Fn(&str) -> Option<Vec<Option<u32>>>,
) -> Result<TensorSpec, LoadError> {
    let name = value.name.clone().filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| invalid(format!("an {kind} has no name")))?;
    let tensor = value
        .r#type
        .as_ref()
        .and_then(|declared| declared.tensor_type.as_ref());
    let tensor = tensor.ok_or_else(|| {
        unsupported(
            format!("{kind} '{name}' is no tensor"),
            "export the model with tensors alone at its edge",
        )
    })?;
    let element = tensor.elem_type.unwrap_or(DataType(0));
    let dtype = dtype(element).filter(|dtype| carries(*dtype)).ok_or_else(|| {
        unsupported(
            format!("{kind} '{name}' is of the type {element}"),
            "convert it to FLOAT, INT32, INT64, INT8, UINT8 or BOOL; ONNX Runtime takes every type of numbers",
        )
    })?;
    let shape = declared_shape(&name, tensor)?
        .or_else(|| inferred(&name))
        .ok_or_else(|| {
            unsupported(
                format!("{kind} '{name}' declares no shape"),
                "run ONNX shape inference on the model",
            )
        })?;
    Ok(TensorSpec::new(name, dtype, shape))
}

fn declared_shape(name: &str, tensor: &TypeProtoTensor) -> Result<Option<Vec<Option<u32>>>, LoadError> {
    let Some(shape) = &tensor.shape else {
        return Ok(None);
    };
    let dims = shape.dim.iter().map(|dim| match dim.dim_value {
        // Some exporters write a free axis as a negative size.
        None | Some(i64::MIN..0) => Ok(None),
        Some(size) => u32::try_from(size)
            .map(Some)
            .map_err(|_| invalid(format!("'{name}' has an axis of {size} elements"))),
    });
    dims.collect::<Result<_, _>>().map(Some)
}

/// The contract's type of an ONNX type.
fn dtype(element: DataType) -> Option<DType> {
    Some(match element {
        DataType::BOOL => DType::Bool,
        DataType::UINT8 => DType::U8,
        DataType::INT8 => DType::I8,
        DataType::UINT16 => DType::U16,
        DataType::INT16 => DType::I16,
        DataType::UINT32 => DType::U32,
        DataType::INT32 => DType::I32,
        DataType::UINT64 => DType::U64,
        DataType::INT64 => DType::I64,
        DataType::FLOAT16 => DType::Fp16,
        DataType::BFLOAT16 => DType::Bf16,
        DataType::FLOAT => DType::Fp32,
        DataType::DOUBLE => DType::Fp64,
        _ => return None,
    })
}

/// Checks that operators stand in the order of their use, as ONNX asks: then none waits for itself.
fn check_order(graph: &GraphProto) -> Result<(), LoadError> {
    let mut made_at = HashMap::new();
    for (at, node) in graph.node.iter().enumerate() {
        for name in node.output.iter().filter(|name| !name.is_empty()) {
            if made_at.insert(name.as_str(), at).is_some() {
                return Err(invalid(format!("'{name}' is made twice")));
            }
        }
    }
    for (at, node) in graph.node.iter().enumerate() {
        let early = |name: &&str| made_at.get(name).is_some_and(|made_at| *made_at >= at);
        if let Some(name) = uses(node).into_iter().find(early) {
            return Err(invalid(format!("'{name}' is used before it is made")));
        }
        inner(node).try_for_each(check_order)?;
    }
    Ok(())
}

/// The graphs inside a node: the branches of an `If`.
fn inner(node: &NodeProto) -> impl Iterator<Item = &GraphProto> {
    node.attribute.iter().filter_map(|attribute| attribute.g.as_ref())
}

/// The names that a node reads, its inner graphs included.
fn uses(node: &NodeProto) -> Vec<&str> {
    let mut names: Vec<_> = node
        .input
        .iter()
        .map(String::as_str)
        .filter(|name| !name.is_empty())
        .collect();
    for graph in inner(node) {
        names.extend(graph.node.iter().flat_map(uses));
    }
    names
}

/// Every node of the graph and of the graphs inside it.
pub(crate) fn nodes(graph: &GraphProto) -> Vec<&NodeProto> {
    let mut all = Vec::new();
    for node in &graph.node {
        all.extend(inner(node).flat_map(nodes));
        all.push(node);
    }
    all
}

pub(crate) fn invalid(reason: impl Into<String>) -> LoadError {
    LoadError::InvalidModel {
        reason: reason.into(),
    }
}

pub(crate) fn unsupported(reason: impl Into<String>, advice: &str) -> LoadError {
    LoadError::UnsupportedModel {
        reason: reason.into(),
        advice: advice.into(),
    }
}
