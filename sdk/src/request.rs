use crate::parameter::find;
use crate::{Dtype, Failure, Parameter, Request, RequestedOutput, Response, Signature, Tensor, TensorSpec};

impl Request {
    /// The input called `name`, or a failure `missing-input` that names it.
    pub fn input(&self, name: &str) -> Result<&Tensor, Failure> {
        let found = self.optional(name);
        found.ok_or_else(|| Failure::new("missing-input", format!("there is no input '{name}'")))
    }

    /// The input called `name`, if the caller gave it.
    pub fn optional(&self, name: &str) -> Option<&Tensor> {
        self.inputs.iter().find(|tensor| tensor.name == name)
    }

    /// Whether the caller wants the output `name`: by that name, or with all the others.
    pub fn wants(&self, name: &str) -> bool {
        self.outputs.is_empty() || self.outputs.iter().any(|output| output.name == name)
    }

    /// The value of a parameter, as JSON text.
    pub fn parameter(&self, key: &str) -> Option<&str> {
        find(&self.parameters, key)
    }
}

impl RequestedOutput {
    /// The value of a parameter, as JSON text.
    pub fn parameter(&self, key: &str) -> Option<&str> {
        find(&self.parameters, key)
    }
}

impl Response {
    /// An answer without parameters.
    pub fn new(outputs: impl Into<Vec<Tensor>>) -> Self {
        Self {
            outputs: outputs.into(),
            parameters: Vec::new(),
        }
    }

    /// The same answer with a parameter; see [`Parameter::json`].
    pub fn with(mut self, parameter: Parameter) -> Self {
        self.parameters.push(parameter);
        self
    }
}

impl Signature {
    /// A signature without inputs and outputs, to add to.
    pub fn new() -> Self {
        Self {
            inputs: Vec::new(),
            outputs: Vec::new(),
            parameters: Vec::new(),
        }
    }

    /// The same with one more input; `None` in the shape is a free axis. For an optional one or one with
    /// parameters push a [`TensorSpec`] to [`Signature::inputs`].
    pub fn input(mut self, name: &str, dtype: Dtype, shape: impl Into<Vec<Option<u32>>>) -> Self {
        self.inputs.push(TensorSpec::new(name, dtype, shape));
        self
    }

    /// The same with one more output; `None` in the shape is a free axis.
    pub fn output(mut self, name: &str, dtype: Dtype, shape: impl Into<Vec<Option<u32>>>) -> Self {
        self.outputs.push(TensorSpec::new(name, dtype, shape));
        self
    }

    /// The same with a parameter; see [`Parameter::json`].
    pub fn with(mut self, parameter: Parameter) -> Self {
        self.parameters.push(parameter);
        self
    }
}

impl TensorSpec {
    /// A tensor that must be there; `None` in the shape is a free axis.
    pub fn new(name: &str, dtype: Dtype, shape: impl Into<Vec<Option<u32>>>) -> Self {
        Self {
            name: name.to_owned(),
            dtype,
            shape: shape.into(),
            optional: false,
            parameters: Vec::new(),
        }
    }

    /// The same, but it may be left out.
    pub fn optional(self) -> Self {
        Self {
            optional: true,
            ..self
        }
    }

    /// The same with a parameter; see [`Parameter::json`].
    pub fn with(mut self, parameter: Parameter) -> Self {
        self.parameters.push(parameter);
        self
    }
}

impl Default for Signature {
    fn default() -> Self {
        Self::new()
    }
}
