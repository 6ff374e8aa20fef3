//! The static cost of a graph: what its runs cost in fuel, the same on every machine.
//!
//! Shapes, and the integers that shapes are made of, are followed from the inputs through the operators that
//! [`shapes`] knows. Where they are known, a product counts its multiply-accumulates exactly, a pool or a
//! reduction the elements that it reads, and any other operator one for each element that it gives. Where a
//! shape is unknown (it depends on data, or an operator is not listed), a product counts its weights once
//! for each position of the inputs' free axes, and another operator the elements of its largest known input.
//! Both branches of an `If` count.

mod read;
mod shapes;

use rten_onnx::onnx::GraphProto;
use shapes::{Op, Shape, Value, product, size};

/// A graph as far as its cost needs it.
pub(crate) struct Cost {
    /// Inputs: which value, and which of its axes are free.
    inputs: Vec<(usize, Vec<bool>)>,
    /// What is known before any input: the constants.
    values: Vec<Option<Value>>,
    steps: Vec<Step>,
}

struct Step {
    op: Op,
    inputs: Vec<Option<usize>>,
    /// The first output; others stay unknown.
    output: Option<usize>,
    /// Elements of its constant inputs with two axes or more.
    weights: u64,
}

impl Cost {
    pub(crate) fn of(graph: &GraphProto) -> Self {
        read::Reader::default().read(graph)
    }

    /// The cost of one run on inputs of these shapes, in the signature's order.
    pub(crate) fn macs(&self, inputs: &[Vec<u32>]) -> u64 {
        let mut values = self.values.clone();
        let mut positions = 1;
        for ((value, free), dims) in self.inputs.iter().zip(inputs) {
            let shape: Shape = dims.iter().map(|&dim| u64::from(dim)).collect();
            let own = shape
                .iter()
                .zip(free)
                .filter(|(_, free)| **free)
                .map(|(dim, _)| *dim);
            positions = positions.max(product(own));
            values[*value] = Some(Value { shape, ints: None });
        }
        let mut total = 0_u64;
        for step in &self.steps {
            let given: Vec<_> = step
                .inputs
                .iter()
                .map(|input| input.and_then(|input| values[input].as_ref()))
                .collect();
            let (value, macs) = step.run(&given, positions);
            total = total.saturating_add(macs);
            if let (Some(output), Some(value)) = (step.output, value) {
                values[output] = Some(value);
            }
        }
        total
    }
}

/// The most axes that are followed.
const MAX_RANK: usize = 32;

impl Step {
    /// What is known of the first output, and the cost.
    fn run(&self, given: &[Option<&Value>], positions: u64) -> (Option<Value>, u64) {
        // A ladder of gathers doubles the rank at each step.
        let shape = self.op.shape(given).filter(|shape| shape.len() <= MAX_RANK);
        let macs = match (&shape, self.op.depth(given)) {
            (Some(shape), Some(depth)) => size(shape).saturating_mul(depth),
            _ if self.op.is_product() => self.weights.saturating_mul(positions),
            (Some(shape), None) => size(shape),
            (None, _) => given
                .iter()
                .flatten()
                .map(|value| size(&value.shape))
                .max()
                .unwrap_or_default(),
        };
        let value = shape.map(|shape| Value {
            ints: self.op.ints(given),
            shape,
        });
        (value, macs)
    }
}
