//! Reads a network out of an ONNX graph, or says what in it is none.

use std::collections::HashMap;

use domain::{Signature, TensorSpec};
use rten_onnx::onnx::{AttributeProto, DataType, GraphProto, NodeProto, TensorProto};

use super::MAX_FILE_BYTES;
use super::network::{Arithmetic, Function, MAX_ROW_COST, Network, Op, Step};
use crate::error::LoadError;
use crate::{check, onnx};

/// The most operators, and the most weights.
const MAX_PARTS: usize = 256;

/// What an element of a value counts, in multiply-accumulates: it is made, and moved.
const ELEMENT_COST: usize = 8;

/// What an exponential function counts.
const EXPONENTIAL_COST: usize = 128;

/// Elements of a matrix' row that are worked on at once: a shorter row counts as one of so many.
const LANES: usize = 16;

/// The network of a graph that has this signature.
///
/// # Errors
/// `unsupported_model` for whatever is no chain of the operators below on rows of one input, and for what takes more
/// than [`MAX_ROW_COST`] for a row; `invalid_model` for a weight that is not as long as its shape.
pub(super) fn network(graph: &GraphProto, signature: &Signature) -> Result<Network, LoadError> {
    let (input, width) = match signature.inputs.as_slice() {
        [input] => match input.shape.as_slice() {
            [_, Some(width @ 1..)] => (input, *width as usize),
            _ => return Err(refused("its input is not of rows that have a fixed length")),
        },
        inputs => return Err(refused(format!("it has {} inputs, not one", inputs.len()))),
    };
    if graph.node.len().max(graph.initializer.len()) > MAX_PARTS {
        return Err(refused(format!(
            "it has more than {MAX_PARTS} operators or weights"
        )));
    }
    let mut reader = Reader::default();
    for weight in &graph.initializer {
        reader.name(weight.name.as_deref().unwrap_or_default(), Value::Fixed(weight))?;
    }
    let first = reader.value(width)?;
    reader.name(&input.name, first)?;
    for node in &graph.node {
        reader.node(node)?;
    }
    let outputs = signature
        .outputs
        .iter()
        .map(|output| reader.output(output, input));
    let outputs = outputs.collect::<Result<Vec<_>, _>>()?;
    for output in &outputs {
        reader.pay(reader.widths[*output].saturating_mul(ELEMENT_COST))?;
    }
    Ok(Network::new(
        reader.widths,
        reader.steps,
        outputs,
        reader.row_cost,
    ))
}

/// What a name stands for.
#[derive(Clone, Copy)]
enum Value<'a> {
    /// Rows, by their number.
    Rows(usize),
    Fixed(&'a TensorProto),
}

#[derive(Default)]
struct Reader<'a> {
    names: HashMap<&'a str, Value<'a>>,
    widths: Vec<usize>,
    steps: Vec<Step>,
    row_cost: usize,
}

impl<'a> Reader<'a> {
    fn name(&mut self, name: &'a str, value: Value<'a>) -> Result<(), LoadError> {
        if name.is_empty() || self.names.insert(name, value).is_some() {
            return Err(refused(format!("the name '{name}' is not of one value alone")));
        }
        Ok(())
    }

    /// A new value of rows.
    fn value(&mut self, width: usize) -> Result<Value<'a>, LoadError> {
        self.pay(width.saturating_mul(ELEMENT_COST))?;
        self.widths.push(width);
        Ok(Value::Rows(self.widths.len() - 1))
    }

    /// Counts work of a row.
    fn pay(&mut self, cost: usize) -> Result<(), LoadError> {
        self.row_cost = self.row_cost.saturating_add(cost);
        if self.row_cost > MAX_ROW_COST {
            return Err(too_large());
        }
        Ok(())
    }

    /// A step that makes a value.
    fn step(&mut self, from: usize, width: usize, op: Op) -> Result<Value<'a>, LoadError> {
        if matches!(op, Op::Softmax | Op::Each(Function::Sigmoid | Function::Tanh)) {
            self.pay(width.saturating_mul(EXPONENTIAL_COST))?;
        }
        let value = self.value(width)?;
        self.steps.push(Step { from, op });
        Ok(value)
    }

    fn node(&mut self, node: &'a NodeProto) -> Result<(), LoadError> {
        let op = node.op_type.as_deref().unwrap_or_default();
        let [output] = node.output.as_slice() else {
            return Err(refused(format!("operator '{op}' has not one output")));
        };
        if !matches!(node.domain.as_deref(), None | Some("" | "ai.onnx")) {
            return Err(refused(format!("operator '{op}' is none of ONNX's own")));
        }
        let value = match op {
            "Constant" => {
                let [attribute] = attributes(node, ["value"])?;
                let tensor = attribute.and_then(|value| value.t.as_ref());
                Value::Fixed(tensor.ok_or_else(|| refused("a constant of it is no tensor"))?)
            }
            "Identity" => {
                let [] = attributes(node, [])?;
                self.given(node, 0)?
            }
            "Flatten" => {
                let [axis] = attributes(node, ["axis"])?;
                expect(node, integer(axis, 1) == 1)?;
                Value::Rows(self.rows(node, 0)?)
            }
            "Gemm" => self.gemm(node)?,
            "MatMul" => {
                let [] = attributes(node, [])?;
                let from = self.rows(node, 0)?;
                let (shape, weights) = (self.matrix(node)?, self.fixed(node, 1)?);
                self.product(node, from, shape, weights, None)?
            }
            "Add" => self.arithmetic(node, Arithmetic::Add)?,
            "Sub" => self.arithmetic(node, Arithmetic::Sub)?,
            "Mul" => self.arithmetic(node, Arithmetic::Mul)?,
            "Div" => self.arithmetic(node, Arithmetic::Div)?,
            "Softmax" => {
                let [axis] = attributes(node, ["axis"])?;
                expect(node, matches!(integer(axis, -1), -1 | 1))?;
                self.each(node, Op::Softmax)?
            }
            "LeakyRelu" => {
                let [alpha] = attributes(node, ["alpha"])?;
                let slope = number(alpha, 0.01);
                self.each(node, Op::Each(Function::LeakyRelu { slope }))?
            }
            "Relu" | "Sigmoid" | "Tanh" => {
                let [] = attributes(node, [])?;
                let function = match op {
                    "Relu" => Function::Relu,
                    "Sigmoid" => Function::Sigmoid,
                    _ => Function::Tanh,
                };
                self.each(node, Op::Each(function))?
            }
            _ => return Err(refused(format!("operator '{op}' is none of such networks"))),
        };
        // One that is missing was refused already.
        let most_inputs = match op {
            "Constant" => 0,
            "Gemm" => 3,
            "MatMul" | "Add" | "Sub" | "Mul" | "Div" => 2,
            _ => 1,
        };
        expect(node, node.input.len() <= most_inputs)?;
        self.name(output, value)
    }

    /// `alpha·A·B + beta·C`, with `B` turned around if it says so.
    fn gemm(&mut self, node: &NodeProto) -> Result<Value<'a>, LoadError> {
        let [alpha, beta, turned, other] = attributes(node, ["alpha", "beta", "transB", "transA"])?;
        expect(node, integer(other, 0) == 0)?;
        let (from, [mut depth, mut width]) = (self.rows(node, 0)?, self.matrix(node)?);
        let mut weights = self.fixed(node, 1)?;
        if integer(turned, 0) != 0 {
            weights = (0..width)
                .flat_map(|column| weights.iter().skip(column).step_by(width).copied())
                .collect();
            (depth, width) = (width, depth);
        }
        let (alpha, beta) = (number(alpha, 1.0), number(beta, 1.0));
        weights.iter_mut().for_each(|weight| *weight *= alpha);
        let bias = match node.input.get(2).filter(|name| !name.is_empty()) {
            Some(_) => Some(self.row(node, 2, width)?.into_iter().map(|x| beta * x).collect()),
            None => None,
        };
        self.product(node, from, [depth, width], weights, bias)
    }

    fn product(
        &mut self,
        node: &NodeProto,
        from: usize,
        [depth, width]: [usize; 2],
        weights: Vec<f32>,
        bias: Option<Vec<f32>>,
    ) -> Result<Value<'a>, LoadError> {
        expect(node, self.widths[from] == depth)?;
        let mut bias = bias.unwrap_or_else(|| vec![0.0]);
        if bias.len() == 1 {
            bias = bias.repeat(width);
        }
        self.step(from, width, Op::Product { weights, bias })
    }

    fn arithmetic(&mut self, node: &NodeProto, how: Arithmetic) -> Result<Value<'a>, LoadError> {
        let [] = attributes(node, [])?;
        let (from, op) = match (self.given(node, 0)?, self.given(node, 1)?) {
            (Value::Rows(from), Value::Rows(other)) => {
                expect(node, self.widths[from] == self.widths[other])?;
                (from, Op::WithValue { how, other })
            }
            (Value::Rows(from), Value::Fixed(_)) => {
                let (fixed, turned) = (self.row(node, 1, self.widths[from])?, false);
                (from, Op::WithFixed { how, fixed, turned })
            }
            (Value::Fixed(_), Value::Rows(from)) => {
                let (fixed, turned) = (self.row(node, 0, self.widths[from])?, true);
                (from, Op::WithFixed { how, fixed, turned })
            }
            (Value::Fixed(_), Value::Fixed(_)) => return Err(misfit(node)),
        };
        self.step(from, self.widths[from], op)
    }

    fn each(&mut self, node: &NodeProto, op: Op) -> Result<Value<'a>, LoadError> {
        let from = self.rows(node, 0)?;
        self.step(from, self.widths[from], op)
    }

    fn given(&self, node: &NodeProto, at: usize) -> Result<Value<'a>, LoadError> {
        let name = node.input.get(at).map(String::as_str).unwrap_or_default();
        self.names.get(name).copied().ok_or_else(|| misfit(node))
    }

    fn rows(&self, node: &NodeProto, at: usize) -> Result<usize, LoadError> {
        match self.given(node, at)? {
            Value::Rows(rows) => Ok(rows),
            Value::Fixed(_) => Err(misfit(node)),
        }
    }

    fn tensor(&self, node: &NodeProto, at: usize) -> Result<&'a TensorProto, LoadError> {
        match self.given(node, at)? {
            Value::Fixed(tensor) => Ok(tensor),
            Value::Rows(_) => Err(misfit(node)),
        }
    }

    /// The shape of the second input, a matrix that is paid for.
    fn matrix(&mut self, node: &NodeProto) -> Result<[usize; 2], LoadError> {
        let shape = dims(self.tensor(node, 1)?);
        let &[rows, columns] = shape.as_slice() else {
            return Err(misfit(node));
        };
        expect(node, rows > 0 && columns > 0)?;
        self.pay(rows.saturating_mul(columns.saturating_add(LANES)))?;
        Ok([rows, columns])
    }

    /// A fixed input that fits rows of this width: one number, or one for each element.
    fn row(&self, node: &NodeProto, at: usize, width: usize) -> Result<Vec<f32>, LoadError> {
        let shape = dims(self.tensor(node, at)?);
        let fits = matches!(*shape.as_slice(), [] | [1] | [1, 1])
            || matches!(*shape.as_slice(), [length] | [1, length] if length == width);
        expect(node, fits)?;
        self.fixed(node, at)
    }

    /// The elements of a fixed input whose shape is known to be small.
    fn fixed(&self, node: &NodeProto, at: usize) -> Result<Vec<f32>, LoadError> {
        let tensor = self.tensor(node, at)?;
        expect(node, tensor.data_type == Some(DataType::FLOAT))?;
        let elements: Vec<f32> = match &tensor.raw_data {
            Some(raw) => {
                let raw = raw.borrow();
                let (chunks, rest) = raw.as_chunks();
                expect(node, rest.is_empty())?;
                chunks.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
            }
            None => tensor.float_data.clone(),
        };
        if elements.len() != dims(tensor).into_iter().product::<usize>() {
            let name = tensor.name.as_deref().unwrap_or_default();
            return Err(onnx::invalid(format!(
                "weight '{name}' is not as long as its shape says"
            )));
        }
        Ok(elements)
    }

    /// Which value an output is. It has as many rows as the input.
    fn output(&self, output: &TensorSpec, input: &TensorSpec) -> Result<usize, LoadError> {
        let Some(&Value::Rows(rows)) = self.names.get(output.name.as_str()) else {
            return Err(refused(format!(
                "output '{}' does not follow from its input",
                output.name
            )));
        };
        match *output.shape.as_slice() {
            [first, second]
                if (first.is_none() || first == input.shape[0])
                    && second.is_none_or(|width| width as usize == self.widths[rows]) =>
            {
                Ok(rows)
            }
            _ => Err(onnx::invalid(format!(
                "output '{}' is declared as {}, and has rows of {}",
                output.name,
                check::shape(&output.shape),
                self.widths[rows]
            ))),
        }
    }
}

/// The attributes of these names; there may be no others.
fn attributes<'a, const N: usize>(
    node: &'a NodeProto,
    names: [&str; N],
) -> Result<[Option<&'a AttributeProto>; N], LoadError> {
    let name = |attribute: &'a AttributeProto| attribute.name.as_deref().unwrap_or_default();
    let mut all = node.attribute.iter();
    expect(node, all.all(|attribute| names.contains(&name(attribute))))?;
    Ok(names.map(|wanted| node.attribute.iter().find(|attribute| name(attribute) == wanted)))
}

/// A number; some writers leave a 0 out.
fn number(attribute: Option<&AttributeProto>, or: f32) -> f32 {
    attribute.map_or(or, |attribute| attribute.f.unwrap_or_default())
}

fn integer(attribute: Option<&AttributeProto>, or: i64) -> i64 {
    attribute.map_or(or, |attribute| attribute.i.unwrap_or_default())
}

/// A size that cannot be one counts as beyond every limit.
fn dims(tensor: &TensorProto) -> Vec<usize> {
    let sizes = tensor.dims.iter();
    sizes
        .map(|&dim| usize::try_from(dim).unwrap_or(usize::MAX))
        .collect()
}

fn expect(node: &NodeProto, fits: bool) -> Result<(), LoadError> {
    if fits { Ok(()) } else { Err(misfit(node)) }
}

fn misfit(node: &NodeProto) -> LoadError {
    let op = node.op_type.as_deref().unwrap_or_default();
    refused(format!("operator '{op}' is used otherwise than in such networks"))
}

pub(super) fn too_large() -> LoadError {
    refused(format!(
        "it is too large: a row takes more than {MAX_ROW_COST} multiply-accumulates, or its file more than {} MiB",
        MAX_FILE_BYTES >> 20
    ))
}

fn refused(why: impl std::fmt::Display) -> LoadError {
    onnx::unsupported(
        format!("the model is no small dense network: {why}"),
        "deploy it with backend auto",
    )
}
