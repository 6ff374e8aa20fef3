//! What a model file must be before any library sees it.
//!
//! The file is walked without recursion into unknown depths and without copying, because what comes after
//! trusts it more: parsers recurse where messages nest, so nesting is bounded here; weights in other files
//! would be read from wherever the model says, so they are refused.

use crate::LoadError;
use crate::onnx::{invalid, unsupported};

/// Messages inside messages: a graph inside a node's attribute counts three.
const MAX_DEPTH: u32 = 32;

/// Fields of all messages: a parser makes up to some hundred bytes of two.
const MAX_FIELDS: u64 = 1 << 20;

/// Bytes in lists of packed integers, of which a parser makes eight times as many.
const MAX_PACKED_BYTES: u64 = 16 << 20;

/// The messages of ONNX's schema that hold others, or a tensor.
#[derive(Clone, Copy)]
enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    Value,
    Type,
    TensorType,
    Shape,
    Sequence,
    Tensor,
}

impl Message {
    /// The message in field `number`, where it is one of these.
    fn child(self, number: u64) -> Option<Self> {
        Some(match (self, number) {
            (Self::Model, 7) | (Self::Attribute, 6) => Self::Graph,
            (Self::Graph, 1) => Self::Node,
            (Self::Node, 5) => Self::Attribute,
            (Self::Graph, 5) | (Self::Attribute, 5 | 10) => Self::Tensor,
            (Self::Graph, 11..=13) => Self::Value,
            (Self::Value, 2) | (Self::Sequence, 1) => Self::Type,
            (Self::Type, 1) => Self::TensorType,
            (Self::TensorType, 2) => Self::Shape,
            (Self::Type, 4) => Self::Sequence,
            _ => return None,
        })
    }

    /// Refuses in field `number` what hides operators or weights from those who read the file after the scan.
    fn refuse(self, number: u64) -> Result<(), LoadError> {
        let (what, advice) = match (self, number) {
            (Self::Model, 25) => ("functions of its own", "inline them when exporting it"),
            (Self::Graph, 15) | (Self::Attribute, 22 | 23) => ("sparse weights", "save them as dense ones"),
            (Self::Attribute, 11) => ("lists of graphs", "export it with operators of ONNX alone"),
            _ => return Ok(()),
        };
        Err(unsupported(format!("the model has {what}"), advice))
    }

    /// Whether field `number` is a list of integers that may be packed.
    fn packs(self, number: u64) -> bool {
        matches!(
            (self, number),
            (Self::Tensor, 1 | 5 | 7 | 11) | (Self::Attribute, 8)
        )
    }
}

/// What may still come before the file counts as absurd.
struct Budget {
    fields: u64,
    packed_bytes: u64,
}

/// Checks a model file: ONNX, whole, of bounded nesting and number of parts, with its weights inside.
pub(crate) fn check(blob: &[u8]) -> Result<(), LoadError> {
    if blob.is_empty() {
        return Err(invalid("the file is empty"));
    }
    let (mut version, mut graphs, mut operators) = (false, 0, false);
    let mut fields = Fields(blob);
    while let Some((number, field)) = fields.next()? {
        match (number, field) {
            (1, Field::Varint(_)) => version = true,
            (7, Field::Bytes(_)) => graphs += 1,
            (8, Field::Bytes(_)) => operators = true,
            _ => {}
        }
    }
    if !version || graphs != 1 || !operators {
        return Err(invalid(
            "the file is not ONNX: it lacks a version, a graph or an operator set",
        ));
    }
    let mut budget = Budget {
        fields: MAX_FIELDS,
        packed_bytes: MAX_PACKED_BYTES,
    };
    walk(Message::Model, blob, MAX_DEPTH, &mut budget)
}

fn walk(message: Message, bytes: &[u8], depth: u32, budget: &mut Budget) -> Result<(), LoadError> {
    let Some(deeper) = depth.checked_sub(1) else {
        return Err(invalid("its graphs nest too deep"));
    };
    let mut fields = Fields(bytes);
    while let Some((number, field)) = fields.next()? {
        budget.fields = budget.fields.checked_sub(1).ok_or_else(|| {
            unsupported(
                format!("the file has more than {MAX_FIELDS} parts"),
                "simplify the model's graph",
            )
        })?;
        if let Field::Bytes(_) = field {
            message.refuse(number)?;
        }
        match (message, number, field) {
            (Message::Tensor, 13, Field::Bytes(_)) | (Message::Tensor, 14, Field::Varint(1..)) => {
                return Err(unsupported(
                    "the model keeps weights in another file",
                    "save it again with all weights inside",
                ));
            }
            (_, _, Field::Bytes(inner)) if message.packs(number) => {
                let left = budget.packed_bytes.checked_sub(inner.len() as u64);
                budget.packed_bytes = left.ok_or_else(|| {
                    unsupported(
                        format!(
                            "the file has more than {} MiB of packed integers",
                            MAX_PACKED_BYTES >> 20
                        ),
                        "save its weights as raw data",
                    )
                })?;
            }
            (_, _, Field::Bytes(inner)) => {
                if let Some(child) = message.child(number) {
                    walk(child, inner, deeper, budget)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

enum Field<'a> {
    Varint(u64),
    Fixed,
    Bytes(&'a [u8]),
}

/// The fields of one protobuf message, in the file's order.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn next(&mut self) -> Result<Option<(u64, Field<'a>)>, LoadError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let field = self.field();
        field
            .map(Some)
            .ok_or_else(|| invalid("the file ends early or is damaged"))
    }

    fn field(&mut self) -> Option<(u64, Field<'a>)> {
        let tag = self.varint()?;
        let field = match tag & 7 {
            0 => Field::Varint(self.varint()?),
            1 => self.take(8).map(|_| Field::Fixed)?,
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Field::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Field::Fixed)?,
            _ => return None,
        };
        Some((tag >> 3, field))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..70).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }
}
