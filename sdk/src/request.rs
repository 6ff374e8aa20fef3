use crate::{Dtype, Failure, Request, Response, Signature, Tensor, TensorSpec};

impl Request {
    /// The input called `name`, or a failure `missing-input` that names it.
    pub fn input(&self, name: &str) -> Result<&Tensor, Failure> {
        let found = self.inputs.iter().find(|tensor| tensor.name == name);
        found.ok_or_else(|| Failure::new("missing-input", format!("there is no input '{name}'")))
    }

    /// The value of a parameter, as JSON text.
    pub fn parameter(&self, key: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|parameter| parameter.key == key);
        found.map(|parameter| parameter.value.as_str())
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
}

impl Signature {
    /// A signature without inputs and outputs, to add to.
    pub fn new() -> Self {
        Self {
            inputs: Vec::new(),
            outputs: Vec::new(),
        }
    }

    /// The same with one more input; `None` in the shape is a free axis.
    pub fn input(mut self, name: &str, dtype: Dtype, shape: impl Into<Vec<Option<u32>>>) -> Self {
        self.inputs.push(TensorSpec {
            name: name.to_owned(),
            dtype,
            shape: shape.into(),
        });
        self
    }

    /// The same with one more output; `None` in the shape is a free axis.
    pub fn output(mut self, name: &str, dtype: Dtype, shape: impl Into<Vec<Option<u32>>>) -> Self {
        self.outputs.push(TensorSpec {
            name: name.to_owned(),
            dtype,
            shape: shape.into(),
        });
        self
    }
}

impl Default for Signature {
    fn default() -> Self {
        Self::new()
    }
}
