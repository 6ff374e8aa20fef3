//! As much of ONNX's file format as it takes to write a dense network and to read what a model says of itself.
//! Field numbers are those of `onnx.proto`.

use anyhow::{Context, Result};
use prost::Message;

use super::network::{Activation, Layer};

/// IR version 8 and operator set 13, which every runtime in use reads.
const IR_VERSION: i64 = 8;
const OPSET: i64 = 13;
/// `TensorProto.DataType.FLOAT`.
const FLOAT: i32 = 1;

#[derive(Clone, PartialEq, Message)]
struct ModelProto {
    #[prost(int64, tag = "1")]
    ir_version: i64,
    #[prost(string, tag = "2")]
    producer_name: String,
    #[prost(message, optional, tag = "7")]
    graph: Option<GraphProto>,
    #[prost(message, repeated, tag = "8")]
    opset_import: Vec<OperatorSetIdProto>,
}

#[derive(Clone, PartialEq, Message)]
struct OperatorSetIdProto {
    #[prost(string, tag = "1")]
    domain: String,
    #[prost(int64, tag = "2")]
    version: i64,
}

#[derive(Clone, PartialEq, Message)]
struct GraphProto {
    #[prost(message, repeated, tag = "1")]
    node: Vec<NodeProto>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(message, repeated, tag = "5")]
    initializer: Vec<TensorProto>,
    #[prost(message, repeated, tag = "11")]
    input: Vec<ValueInfoProto>,
    #[prost(message, repeated, tag = "12")]
    output: Vec<ValueInfoProto>,
}

#[derive(Clone, PartialEq, Message)]
struct NodeProto {
    #[prost(string, repeated, tag = "1")]
    input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    output: Vec<String>,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(string, tag = "4")]
    op_type: String,
}

#[derive(Clone, PartialEq, Message)]
struct TensorProto {
    #[prost(int64, repeated, packed = "false", tag = "1")]
    dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    data_type: i32,
    #[prost(string, tag = "8")]
    name: String,
    #[prost(bytes = "vec", tag = "9")]
    raw_data: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct ValueInfoProto {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    r#type: Option<TypeProto>,
}

#[derive(Clone, PartialEq, Message)]
struct TypeProto {
    #[prost(message, optional, tag = "1")]
    tensor_type: Option<TensorTypeProto>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorTypeProto {
    #[prost(int32, tag = "1")]
    elem_type: i32,
    #[prost(message, optional, tag = "2")]
    shape: Option<TensorShapeProto>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorShapeProto {
    #[prost(message, repeated, tag = "1")]
    dim: Vec<Dimension>,
}

#[derive(Clone, PartialEq, Message)]
struct Dimension {
    #[prost(oneof = "DimensionValue", tags = "1, 2")]
    value: Option<DimensionValue>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum DimensionValue {
    #[prost(int64, tag = "1")]
    Value(i64),
    #[prost(string, tag = "2")]
    Parameter(String),
}

/// A `ModelProto` of which only the metadata is read.
#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(message, repeated, tag = "14")]
    metadata_props: Vec<StringStringEntryProto>,
}

#[derive(Clone, PartialEq, Message)]
struct StringStringEntryProto {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

/// What a model's metadata says under `key`.
pub fn metadata(model: &[u8], key: &str) -> Result<String> {
    let Metadata { metadata_props } = Metadata::decode(model).context("the model is no ONNX file")?;
    let entry = metadata_props.into_iter().find(|entry| entry.key == key);
    let entry = entry.with_context(|| format!("the model's metadata has no '{key}'"))?;
    Ok(entry.value)
}

/// A dense network as an ONNX file: `input` f32 [n, inputs] to `output` f32 [n, outputs].
pub fn export(name: &str, layers: &[Layer]) -> Vec<u8> {
    let mut graph = GraphProto {
        name: name.to_owned(),
        ..GraphProto::default()
    };
    let mut value = "input".to_owned();
    for (index, layer) in layers.iter().enumerate() {
        let (weights, biases) = (format!("weights_{index}"), format!("biases_{index}"));
        let (sum, op_type) = (format!("sum_{index}"), layer.activation.operator());
        let is_last = index + 1 == layers.len();
        let output = if is_last {
            "output".to_owned()
        } else {
            format!("layer_{index}")
        };
        graph
            .initializer
            .push(tensor(&weights, &[layer.inputs, layer.outputs], &layer.weights));
        graph
            .initializer
            .push(tensor(&biases, &[layer.outputs], &layer.biases));
        graph.node.push(node("Gemm", &[&value, &weights, &biases], &sum));
        graph.node.push(node(op_type, &[&sum], &output));
        value = output;
    }
    graph.input = vec![value_info(
        "input",
        layers.first().map_or(0, |layer| layer.inputs),
    )];
    graph.output = vec![value_info(
        "output",
        layers.last().map_or(0, |layer| layer.outputs),
    )];
    let model = ModelProto {
        ir_version: IR_VERSION,
        producer_name: "wattle".to_owned(),
        graph: Some(graph),
        opset_import: vec![OperatorSetIdProto {
            domain: String::new(),
            version: OPSET,
        }],
    };
    model.encode_to_vec()
}

impl Activation {
    /// The operator's name in ONNX.
    fn operator(self) -> &'static str {
        match self {
            Self::Relu => "Relu",
            Self::Sigmoid => "Sigmoid",
        }
    }
}

fn node(op_type: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        input: inputs.iter().map(|&input| input.to_owned()).collect(),
        output: vec![output.to_owned()],
        name: format!("make_{output}"),
        op_type: op_type.to_owned(),
    }
}

fn tensor(name: &str, dims: &[usize], values: &[f64]) -> TensorProto {
    TensorProto {
        dims: dims.iter().map(|&dim| dim as i64).collect(),
        data_type: FLOAT,
        name: name.to_owned(),
        raw_data: values
            .iter()
            .flat_map(|&value| (value as f32).to_le_bytes())
            .collect(),
    }
}

/// An f32 matrix of any number of rows.
fn value_info(name: &str, columns: usize) -> ValueInfoProto {
    let rows = DimensionValue::Parameter("rows".to_owned());
    let columns = DimensionValue::Value(columns as i64);
    let dim = [rows, columns]
        .map(|value| Dimension { value: Some(value) })
        .into();
    let tensor_type = TensorTypeProto {
        elem_type: FLOAT,
        shape: Some(TensorShapeProto { dim }),
    };
    ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(TypeProto {
            tensor_type: Some(tensor_type),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_becomes_a_chain_of_nodes() {
        let layer = |inputs, outputs, activation| Layer {
            inputs,
            outputs,
            activation,
            weights: vec![0.5; inputs * outputs],
            biases: vec![0.25; outputs],
        };
        let bytes = export(
            "net",
            &[layer(3, 2, Activation::Relu), layer(2, 1, Activation::Sigmoid)],
        );
        let graph = ModelProto::decode(&bytes[..]).unwrap().graph.unwrap();
        let operators: Vec<_> = graph.node.iter().map(|node| node.op_type.as_str()).collect();
        assert_eq!(operators, ["Gemm", "Relu", "Gemm", "Sigmoid"]);
        assert_eq!(graph.node[0].input, ["input", "weights_0", "biases_0"]);
        assert_eq!(graph.node[2].input[0], graph.node[1].output[0]);
        assert_eq!(graph.node[3].output, ["output"]);
        assert_eq!(graph.initializer[0].dims, [3, 2]);
        assert_eq!(graph.initializer[0].raw_data, 0.5_f32.to_le_bytes().repeat(6));
    }
}
