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

/// Rows and columns of the matrices: a product takes some milliseconds, and moves little beside that.
const SIZE: u32 = 256;

/// Products in a row.
const PRODUCTS: usize = 4;

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
            exercises.push(Exercise {
                graph: self.load_on(backend, &source, cell).await?,
                inputs: inputs()?,
            });
        }
        Ok(exercises)
    }
}

/// `a` of ones and `b` of 1 / size, so that every product is of ones again.
fn inputs() -> Result<Vec<Tensor>, LoadError> {
    let matrix = |name: &str, element: f32| {
        let data = element.to_le_bytes().repeat((SIZE * SIZE) as usize);
        Tensor::new(name, DType::Fp32, vec![SIZE, SIZE], data)
    };
    let made = [matrix("a", 1.0), matrix("b", 1.0 / SIZE as f32)];
    let failed = |error: TensorError| LoadError::Backend {
        reason: error.to_string(),
    };
    made.into_iter().map(|tensor| tensor.map_err(failed)).collect()
}

/// An ONNX file of `a·b·b·b·b`: protobuf messages by the numbers of `onnx.proto`.
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
    for input in ["a", "b"] {
        field(&mut graph, 11, &matrix(input));
    }
    field(&mut graph, 12, &matrix(&value(PRODUCTS)));
    let mut opset = Vec::new();
    number(&mut opset, 2, 13);
    let mut model = Vec::new();
    number(&mut model, 1, 7);
    field(&mut model, 7, &graph);
    field(&mut model, 8, &opset);
    model.into()
}

/// A `ValueInfoProto` of a square matrix of 32-bit floats.
fn matrix(name: &str) -> Vec<u8> {
    let (mut dim, mut shape, mut tensor, mut kind, mut info) = Default::default();
    number(&mut dim, 1, SIZE.into());
    field(&mut shape, 1, &dim);
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
        let outputs = model.run(&inputs().unwrap(), &Stops::default()).unwrap();
        assert_eq!(outputs[0].shape(), [SIZE, SIZE]);
        let first = f32::from_le_bytes(outputs[0].data()[..4].try_into().unwrap());
        assert!((first - 1.0).abs() < 1e-4, "{first}");
    }
}
