//! A load of a known kind on each backend: products of matrices, for a calibration.

use std::sync::Arc;

use bytes::Bytes;
use domain::tensor::TensorError;
use domain::{DType, Digest, TenantId, Tensor, UsageCell};
use tokio_util::sync::CancellationToken;

use crate::backend::Target;
use crate::error::{ComputeError, LoadError};
use crate::handle::GraphHandle;
use crate::placement::Source;
use crate::registry::Inference;

/// Rows and columns of the matrices: a product takes a millisecond or so, and moves little beside that.
const SIZE: u32 = 256;

/// Products in a row.
const PRODUCTS: usize = 3;

/// A graph on a backend, with something to compute.
pub struct Exercise {
    graph: Arc<GraphHandle>,
    inputs: Vec<Tensor>,
}

impl Exercise {
    /// The backend, such as `rten 0.27.0`.
    pub fn backend(&self) -> String {
        self.graph.info().label()
    }

    /// Runs once. CPU time goes to the cell while it is used.
    pub async fn run(&self, cell: &Arc<UsageCell>) -> Result<(), ComputeError> {
        let (inputs, cancel) = (self.inputs.clone(), CancellationToken::new());
        let outputs = self.graph.compute(inputs, Arc::clone(cell), cancel).await?;
        let bytes = outputs.iter().map(Tensor::bytes).sum();
        cell.add_bytes_out(bytes);
        Ok(())
    }
}

impl Inference {
    /// One for each backend of the processor that is here. CPU time of loading goes to `cell`.
    ///
    /// # Errors
    /// Those of [`Inference::load`]: no backend fails on a graph as plain as this, so one that does is broken.
    pub async fn exercises(&self, tenant: TenantId, cell: &UsageCell) -> Result<Vec<Exercise>, LoadError> {
        let blob = products();
        let source = Source {
            tenant,
            digest: Digest::of(&blob),
            blob,
            target: Target::Cpu,
        };
        let mut exercises = Vec::new();
        for backend in self.installed(source.target) {
            // What is made for short runs gets one.
            let rows = if backend.0.narrow { 1 } else { SIZE };
            exercises.push(Exercise {
                graph: self.load_on(backend, &source, cell).await?,
                inputs: inputs(rows)?,
            });
        }
        Ok(exercises)
    }
}

/// `a` of ones.
fn inputs(rows: u32) -> Result<Vec<Tensor>, LoadError> {
    let made = Tensor::new("a", DType::Fp32, vec![rows, SIZE], elements(rows, 1.0));
    let failed = |error: TensorError| LoadError::Backend {
        reason: error.to_string(),
    };
    made.map(|tensor| vec![tensor]).map_err(failed)
}

/// The data of some rows of the same element everywhere.
fn elements(rows: u32, element: f32) -> Vec<u8> {
    element.to_le_bytes().repeat((rows * SIZE) as usize)
}

/// An ONNX file of `a·b·b·b`, where `b` is of 1 / size, so that every product of ones is of ones again: protobuf
/// messages by the numbers of `onnx.proto`.
fn products() -> Bytes {
    let value = |at: usize| if at == 0 { "a".to_owned() } else { format!("p{at}") };
    let mut graph = Vec::new();
    for at in 0..PRODUCTS {
        let mut node = Vec::new();
        field(&mut node, 1, value(at).as_bytes());
        field(&mut node, 1, b"b");
        field(&mut node, 2, value(at + 1).as_bytes());
        field(&mut node, 4, b"MatMul");
        field(&mut graph, 1, &node);
    }
    field(&mut graph, 2, b"products");
    let mut weights = Vec::new();
    number(&mut weights, 1, SIZE.into());
    number(&mut weights, 1, SIZE.into());
    number(&mut weights, 2, 1);
    field(&mut weights, 8, b"b");
    field(&mut weights, 9, &elements(SIZE, 1.0 / SIZE as f32));
    field(&mut graph, 5, &weights);
    field(&mut graph, 11, &matrix("a"));
    field(&mut graph, 12, &matrix(&value(PRODUCTS)));
    let mut opset = Vec::new();
    number(&mut opset, 2, 13);
    let mut model = Vec::new();
    number(&mut model, 1, 7);
    field(&mut model, 7, &graph);
    field(&mut model, 8, &opset);
    model.into()
}

/// A `ValueInfoProto` of any number of rows of 32-bit floats.
fn matrix(name: &str) -> Vec<u8> {
    let (mut dim, mut shape, mut tensor, mut kind, mut info) = Default::default();
    number(&mut dim, 1, SIZE.into());
    field(&mut shape, 1, b"");
    field(&mut shape, 1, &dim);
    number(&mut tensor, 1, 1);
    field(&mut tensor, 2, &shape);
    field(&mut kind, 1, &tensor);
    field(&mut info, 1, name.as_bytes());
    field(&mut info, 2, &kind);
    info
}

/// A field of bytes: a string or a message.
fn field(message: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    varint(message, (number << 3) | 2);
    varint(message, bytes.len() as u64);
    message.extend_from_slice(bytes);
}

/// A field that is a number.
fn number(message: &mut Vec<u8>, number: u64, value: u64) {
    varint(message, number << 3);
    varint(message, value);
}

fn varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backends::Library;
    use crate::worker::Stops;
    use crate::{onnx, scan};

    #[test]
    fn the_graph_is_one_that_a_tenant_could_bring() {
        let blob = products();
        scan::check(&blob).unwrap();
        let graph = onnx::parse(&blob).unwrap();
        onnx::check(&graph).unwrap();
        let mut model = Library::Rten.load(blob.to_vec()).unwrap();
        let outputs = model.run(&inputs(SIZE).unwrap(), &Stops::default()).unwrap();
        assert_eq!(outputs[0].shape(), [SIZE, SIZE]);
        let first = f32::from_le_bytes(outputs[0].data()[..4].try_into().unwrap());
        assert!((first - 1.0).abs() < 1e-4, "{first}");
    }
}
