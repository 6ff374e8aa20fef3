use crate::nn::graph::load_by_name;
use crate::nn::inference::GraphExecutionContext;
use crate::nn::tensor::{Tensor as NnTensor, TensorType};
use crate::{Dtype, Failure, Tensor};

/// A model of the release, ready to compute.
pub struct Graph {
    context: GraphExecutionContext,
}

impl Graph {
    /// The graph that the release calls `alias`; a failure `graph-not-found` if it has none.
    pub fn load(alias: &str) -> Result<Self, Failure> {
        let context = load_by_name(alias)?.init_execution_context()?;
        Ok(Self { context })
    }

    /// Runs the graph. Inputs go by name; outputs come in the graph's order.
    pub fn compute(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, Failure> {
        let lent = inputs
            .iter()
            .map(|tensor| Ok((tensor.name.clone(), to_nn(tensor)?)));
        let outputs = self.context.compute(lent.collect::<Result<_, Failure>>()?)?;
        Ok(outputs
            .into_iter()
            .map(|(name, tensor)| from_nn(name, &tensor))
            .collect())
    }

    /// Runs a graph that has one output.
    pub fn compute_one(&self, inputs: &[Tensor]) -> Result<Tensor, Failure> {
        let outputs = self.compute(inputs)?;
        <[Tensor; 1]>::try_from(outputs)
            .map(|[output]| output)
            .map_err(|outputs| {
                let message = format!("one output expected, {} given", outputs.len());
                Failure::new("graph-outputs", message)
            })
    }
}

/// wasi-nn has seven of the contract's fourteen types.
fn to_nn(tensor: &Tensor) -> Result<NnTensor, Failure> {
    let ty = match tensor.dtype {
        Dtype::Fp16 => TensorType::Fp16,
        Dtype::Fp32 => TensorType::Fp32,
        Dtype::Fp64 => TensorType::Fp64,
        Dtype::Bf16 => TensorType::Bf16,
        Dtype::U8 => TensorType::U8,
        Dtype::I32 => TensorType::I32,
        Dtype::I64 => TensorType::I64,
        other => {
            let message = format!("tensor '{}': a graph takes no {other:?}", tensor.name);
            return Err(Failure::new("graph-tensor-type", message));
        }
    };
    Ok(NnTensor::new(&tensor.shape, ty, &tensor.data))
}

fn from_nn(name: String, tensor: &NnTensor) -> Tensor {
    let dtype = match tensor.ty() {
        TensorType::Fp16 => Dtype::Fp16,
        TensorType::Fp32 => Dtype::Fp32,
        TensorType::Fp64 => Dtype::Fp64,
        TensorType::Bf16 => Dtype::Bf16,
        TensorType::U8 => Dtype::U8,
        TensorType::I32 => Dtype::I32,
        TensorType::I64 => Dtype::I64,
    };
    Tensor::raw(name, dtype, tensor.dimensions(), tensor.data())
}
