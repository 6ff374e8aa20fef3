//! Reads a graph's operators and constants.

use std::collections::HashMap;

use rten_onnx::onnx::{AttributeProto, DataType, GraphProto, NodeProto, TensorProto};

use super::shapes::{Op, Slide, Value, size};
use super::{Cost, Step};
use crate::onnx;

/// The most integers of a constant that are followed: no shape has more axes.
pub(super) const MAX_INTS: usize = 64;

/// Numbers the values of a graph by name.
#[derive(Default)]
pub(super) struct Reader<'a> {
    ids: HashMap<&'a str, usize>,
    values: Vec<Option<Value>>,
}

impl<'a> Reader<'a> {
    pub(super) fn read(mut self, graph: &'a GraphProto) -> Cost {
        self.weights(graph);
        let mut inputs = Vec::new();
        for input in &graph.input {
            let name = input.name.as_deref().unwrap_or_default();
            if self.ids.contains_key(name) {
                continue;
            }
            let declared = input
                .r#type
                .as_ref()
                .and_then(|declared| declared.tensor_type.as_ref());
            let dims = declared
                .and_then(|tensor| tensor.shape.as_ref())
                .map(|shape| &shape.dim);
            let free = dims
                .into_iter()
                .flatten()
                .map(|dim| dim.dim_value.is_none_or(|size| size < 0));
            inputs.push((self.id(name), free.collect()));
        }
        let steps = onnx::nodes(graph)
            .into_iter()
            .filter_map(|node| self.step(node))
            .collect();
        Cost {
            inputs,
            values: self.values,
            steps,
        }
    }

    /// The weights of the graph and of the graphs inside it.
    fn weights(&mut self, graph: &'a GraphProto) {
        for weight in &graph.initializer {
            self.constant(weight.name.as_deref().unwrap_or_default(), weight);
        }
        let attributes = graph.node.iter().flat_map(|node| &node.attribute);
        for inner in attributes.filter_map(|attribute| attribute.g.as_ref()) {
            self.weights(inner);
        }
    }

    fn constant(&mut self, name: &'a str, tensor: &TensorProto) {
        let id = self.id(name);
        let shape: Vec<u64> = tensor
            .dims
            .iter()
            .map(|&dim| u64::try_from(dim).unwrap_or_default())
            .collect();
        let ints = if size(&shape) <= MAX_INTS as u64 {
            integers(tensor)
        } else {
            None
        };
        self.values[id] = Some(Value { shape, ints });
    }

    fn id(&mut self, name: &'a str) -> usize {
        let next = self.values.len();
        let id = *self.ids.entry(name).or_insert(next);
        if id == next {
            self.values.push(None);
        }
        id
    }

    fn step(&mut self, node: &'a NodeProto) -> Option<Step> {
        let output = node.output.first().map(String::as_str).unwrap_or_default();
        if node.op_type.as_deref() == Some("Constant") {
            self.constant(output, attribute(node, "value")?.t.as_ref()?);
            return None;
        }
        let inputs: Vec<_> = node
            .input
            .iter()
            .map(|name| (!name.is_empty()).then(|| self.id(name)))
            .collect();
        // Nothing but constants is known of a value yet.
        let constants = inputs.iter().flatten().filter_map(|id| self.values[*id].as_ref());
        let weights = constants
            .map(|value| &value.shape)
            .filter(|shape| shape.len() > 1);
        let weights = weights.map(|shape| size(shape)).fold(0, u64::saturating_add);
        let output = (!output.is_empty()).then(|| self.id(output));
        Some(Step {
            op: op(node),
            inputs,
            output,
            weights,
        })
    }
}

fn integers(tensor: &TensorProto) -> Option<Vec<i64>> {
    let raw = tensor.raw_data.as_ref().map(|raw| raw.borrow());
    match (tensor.data_type?, raw) {
        (DataType::INT64, Some(raw)) => {
            Some(raw.as_chunks().0.iter().map(|x| i64::from_le_bytes(*x)).collect())
        }
        (DataType::INT64, None) => Some(tensor.int64_data.clone()),
        (DataType::INT32, Some(raw)) => Some(
            raw.as_chunks()
                .0
                .iter()
                .map(|x| i32::from_le_bytes(*x).into())
                .collect(),
        ),
        (DataType::INT32, None) => Some(tensor.int32_data.iter().map(|&x| x.into()).collect()),
        _ => None,
    }
}

/// Operators that keep their input's shape.
const SAME: &str = "Abs BatchNormalization Ceil Clip Cos Dropout Elu Erf Exp Floor Gelu HardSigmoid HardSwish \
    InstanceNormalization LayerNormalization LeakyRelu Log LogSoftmax Neg Not PRelu Reciprocal Relu Round \
    Sigmoid Sign Sin Softmax Softplus Sqrt Tanh";

/// Operators on elements that meet by broadcasting.
const BROADCAST: &str = "And Equal Greater GreaterOrEqual Less LessOrEqual Max Min Mod Or Pow Where";

const REDUCE: &str = "ReduceL1 ReduceL2 ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum \
    ReduceSumSquare";

const PRODUCT: &str = "Attention ConvTranspose Einsum FusedMatMul GRU LSTM MatMulNBits QLinearConv \
    QLinearMatMul RNN";

fn op(node: &NodeProto) -> Op {
    let name = node.op_type.as_deref().unwrap_or_default();
    let among = |names: &str| names.split_ascii_whitespace().any(|listed| listed == name);
    match name {
        "Cast" | "Identity" => Op::Carry,
        "Add" => Op::Broadcast(Some(i64::checked_add)),
        "Sub" => Op::Broadcast(Some(i64::checked_sub)),
        "Mul" => Op::Broadcast(Some(i64::checked_mul)),
        "Div" => Op::Broadcast(Some(i64::checked_div)),
        "MatMul" | "MatMulInteger" => Op::MatMul,
        "Gemm" => Op::Gemm {
            turned: [int(node, "transA", 0) != 0, int(node, "transB", 0) != 0],
        },
        "Conv" | "ConvInteger" => Op::Conv(slide(node)),
        "MaxPool" | "AveragePool" => {
            let kernel = ints(node, "kernel_shape").unwrap_or_default();
            let kernel = kernel
                .into_iter()
                .map(|dim| u64::try_from(dim).unwrap_or_default())
                .collect();
            Op::Pool {
                kernel,
                slide: slide(node),
            }
        }
        "GlobalAveragePool" | "GlobalMaxPool" => Op::GlobalPool,
        "Flatten" => Op::Flatten {
            axis: int(node, "axis", 1),
        },
        "Transpose" => Op::Transpose {
            order: ints(node, "perm").unwrap_or_default(),
        },
        "Reshape" => Op::Reshape,
        "Expand" => Op::Expand,
        "ConstantOfShape" => Op::Filled,
        "Shape" => Op::Shape,
        "Squeeze" => Op::Squeeze {
            axes: ints(node, "axes"),
        },
        "Unsqueeze" => Op::Unsqueeze {
            axes: ints(node, "axes"),
        },
        "Slice" => Op::Slice,
        "Concat" => Op::Concat {
            axis: int(node, "axis", 0),
        },
        "Gather" => Op::Gather {
            axis: int(node, "axis", 0),
        },
        _ if among(REDUCE) => Op::Reduce {
            axes: ints(node, "axes"),
            keep: int(node, "keepdims", 1) != 0,
            all: int(node, "noop_with_empty_axes", 0) == 0,
        },
        _ if among(SAME) => Op::Same,
        _ if among(BROADCAST) => Op::Broadcast(None),
        _ if among(PRODUCT) => Op::Product,
        _ => Op::Other,
    }
}

fn slide(node: &NodeProto) -> Slide {
    let auto = attribute(node, "auto_pad")
        .and_then(|found| found.s.as_deref())
        .unwrap_or_default();
    Slide {
        strides: ints(node, "strides").unwrap_or_default(),
        dilations: ints(node, "dilations").unwrap_or_default(),
        pads: ints(node, "pads").unwrap_or_default(),
        same: auto.starts_with("SAME"),
        round_up: int(node, "ceil_mode", 0) != 0,
    }
}

fn attribute<'a>(node: &'a NodeProto, name: &str) -> Option<&'a AttributeProto> {
    node.attribute
        .iter()
        .find(|attribute| attribute.name.as_deref() == Some(name))
}

fn int(node: &NodeProto, name: &str, or: i64) -> i64 {
    attribute(node, name).and_then(|found| found.i).unwrap_or(or)
}

fn ints(node: &NodeProto, name: &str) -> Option<Vec<i64>> {
    attribute(node, name).map(|found| found.ints.clone())
}
