//! What operators do to shapes.

pub(super) type Shape = Vec<u64>;

/// What is known of a value.
#[derive(Clone)]
pub(super) struct Value {
    pub(super) shape: Shape,
    /// Its elements, where it is a short list of integers: shapes are made of such.
    pub(super) ints: Option<Vec<i64>>,
}

pub(super) enum Op {
    Same,
    /// The same elements in another type.
    Carry,
    /// Element by element, and what it does to integers.
    Broadcast(Option<fn(i64, i64) -> Option<i64>>),
    MatMul,
    Gemm {
        turned: [bool; 2],
    },
    Conv(Slide),
    Pool {
        kernel: Shape,
        slide: Slide,
    },
    GlobalPool,
    Reduce {
        axes: Option<Vec<i64>>,
        keep: bool,
        all: bool,
    },
    Flatten {
        axis: i64,
    },
    Transpose {
        order: Vec<i64>,
    },
    Reshape,
    Expand,
    Filled,
    Shape,
    Squeeze {
        axes: Option<Vec<i64>>,
    },
    Unsqueeze {
        axes: Option<Vec<i64>>,
    },
    Slice,
    Concat {
        axis: i64,
    },
    Gather {
        axis: i64,
    },
    /// A product whose shapes are not followed.
    Product,
    Other,
}

/// How a window moves over the spatial axes.
pub(super) struct Slide {
    pub(super) strides: Vec<i64>,
    pub(super) dilations: Vec<i64>,
    pub(super) pads: Vec<i64>,
    pub(super) same: bool,
    pub(super) round_up: bool,
}

impl Op {
    pub(super) fn is_product(&self) -> bool {
        matches!(
            self,
            Self::MatMul | Self::Gemm { .. } | Self::Conv(_) | Self::Product
        )
    }

    /// What each element of the output costs, where it is not one.
    pub(super) fn depth(&self, given: &[Option<&Value>]) -> Option<u64> {
        match self {
            Self::MatMul => shape(given, 0)?.last().copied(),
            Self::Gemm { turned } => shape(given, 0)?.get(usize::from(!turned[0])).copied(),
            Self::Conv(_) => Some(product(shape(given, 1)?.iter().skip(1).copied())),
            Self::Pool { kernel, .. } => Some(size(kernel)),
            Self::GlobalPool => Some(product(shape(given, 0)?.iter().skip(2).copied())),
            Self::Reduce { .. } => size(shape(given, 0)?).checked_div(size(&self.shape(given)?)),
            _ => None,
        }
    }

    /// The shape of the first output.
    pub(super) fn shape(&self, given: &[Option<&Value>]) -> Option<Shape> {
        let first = || shape(given, 0);
        match self {
            Self::Same | Self::Carry => first().cloned(),
            Self::Broadcast(_) => {
                let all: Option<Vec<_>> = (0..given.len()).map(|index| shape(given, index)).collect();
                all?.into_iter()
                    .try_fold(Shape::new(), |so_far, next| broadcast(&so_far, next))
            }
            Self::MatMul => matmul(first()?, shape(given, 1)?),
            Self::Gemm { turned } => {
                let rows = first()?.get(usize::from(turned[0]))?;
                let columns = shape(given, 1)?.get(usize::from(!turned[1]))?;
                Some(vec![*rows, *columns])
            }
            Self::Conv(slide) => {
                let weights = shape(given, 1)?;
                slide.shape(first()?, *weights.first()?, weights.get(2..)?)
            }
            Self::Pool { kernel, slide } => slide.shape(first()?, *first()?.get(1)?, kernel),
            Self::GlobalPool => Some(
                first()?
                    .iter()
                    .enumerate()
                    .map(|(axis, &dim)| if axis < 2 { dim } else { 1 })
                    .collect(),
            ),
            Self::Reduce { axes, keep, all } => reduce(first()?, list(axes, given).as_deref(), *keep, *all),
            Self::Flatten { axis } => flatten(first()?, *axis),
            Self::Transpose { order } if order.is_empty() => Some(first()?.iter().rev().copied().collect()),
            Self::Transpose { order } => {
                let input = first()?;
                order
                    .iter()
                    .map(|&axis| Some(input[place(axis, input.len())?]))
                    .collect()
            }
            Self::Reshape => reshape(first()?, ints(given, 1)?),
            Self::Expand => broadcast(first()?, &whole(ints(given, 1)?)?),
            Self::Filled => whole(ints(given, 0)?),
            Self::Shape => Some(vec![first()?.len() as u64]),
            Self::Squeeze { axes } => squeeze(first()?, list(axes, given).as_deref()),
            Self::Unsqueeze { axes } => unsqueeze(first()?, &list(axes, given)?),
            Self::Slice => slice(given),
            Self::Concat { axis } => {
                let mut joined = first()?.clone();
                let axis = place(*axis, joined.len())?;
                let dims: Option<Vec<_>> = (0..given.len()).map(|i| shape(given, i)?.get(axis)).collect();
                joined[axis] = dims?.into_iter().fold(0, |sum, dim| sum.saturating_add(*dim));
                Some(joined)
            }
            Self::Gather { axis } => {
                let input = first()?;
                let axis = place(*axis, input.len())?;
                Some([&input[..axis], shape(given, 1)?, &input[axis + 1..]].concat())
            }
            Self::Product | Self::Other => None,
        }
    }

    /// The integers of the first output.
    pub(super) fn ints(&self, given: &[Option<&Value>]) -> Option<Vec<i64>> {
        let flat =
            |index: usize| ints(given, index).filter(|_| shape(given, index).is_some_and(|s| s.len() < 2));
        match self {
            Self::Carry | Self::Reshape | Self::Squeeze { .. } | Self::Unsqueeze { .. } => {
                ints(given, 0).map(<[i64]>::to_vec)
            }
            Self::Shape => shape(given, 0)?
                .iter()
                .map(|&dim| i64::try_from(dim).ok())
                .collect(),
            Self::Broadcast(Some(join)) => {
                let (a, b) = (flat(0)?, flat(1)?);
                let at =
                    |list: &[i64], index: usize| list.get(if list.len() == 1 { 0 } else { index }).copied();
                (0..a.len().max(b.len()))
                    .map(|index| join(at(a, index)?, at(b, index)?))
                    .collect()
            }
            Self::Concat { .. } => {
                let all: Option<Vec<_>> = (0..given.len()).map(flat).collect();
                let length: usize = all.as_ref()?.iter().map(|ints| ints.len()).sum();
                // A ladder of these doubles at each step.
                all.filter(|_| length <= super::read::MAX_INTS)
                    .map(|all| all.concat())
            }
            Self::Gather { .. } => {
                let (from, which) = (flat(0)?, ints(given, 1)?);
                which
                    .iter()
                    .map(|&index| Some(from[place(index, from.len())?]))
                    .collect()
            }
            Self::Slice => {
                let (from, [start], [_]) = (flat(0)?, ints(given, 1)?, ints(given, 2)?) else {
                    return None;
                };
                let length = usize::try_from(*slice(given)?.first()?).ok()?;
                let step = ints(given, 4).map_or(Some(1), |steps| steps.first().copied())?;
                let rank = i64::try_from(from.len()).ok()?;
                let start = usize::try_from(from_start(*start, rank).clamp(0, rank)).ok()?;
                (step == 1).then(|| from.get(start..start.checked_add(length)?).map(<[i64]>::to_vec))?
            }
            _ => None,
        }
    }
}

impl Slide {
    fn shape(&self, input: &Shape, channels: u64, kernel: &[u64]) -> Option<Shape> {
        let (batch, space) = (input.first()?, input.get(2..)?);
        let mut shape = vec![*batch, channels];
        for (axis, (&size, &window)) in space.iter().zip(kernel).enumerate() {
            let at = |list: &[i64], axis: usize, or: i64| i128::from(list.get(axis).copied().unwrap_or(or));
            let (size, stride) = (i128::from(size), at(&self.strides, axis, 1).max(1));
            let steps = if self.same {
                (size + stride - 1) / stride
            } else {
                let pads = at(&self.pads, axis, 0) + at(&self.pads, axis + kernel.len(), 0);
                let room = size + pads - at(&self.dilations, axis, 1) * (i128::from(window) - 1) - 1;
                let room = if self.round_up { room + stride - 1 } else { room };
                room.div_euclid(stride) + 1
            };
            shape.push(u64::try_from(steps).ok()?);
        }
        Some(shape)
    }
}

fn shape<'a>(given: &[Option<&'a Value>], index: usize) -> Option<&'a Shape> {
    given.get(index).copied().flatten().map(|value| &value.shape)
}

fn ints<'a>(given: &[Option<&'a Value>], index: usize) -> Option<&'a [i64]> {
    given.get(index).copied().flatten()?.ints.as_deref()
}

/// Axes: an attribute in old operator sets, the second input in new ones.
fn list(attribute: &Option<Vec<i64>>, given: &[Option<&Value>]) -> Option<Vec<i64>> {
    attribute.clone().or_else(|| ints(given, 1).map(<[i64]>::to_vec))
}

pub(super) fn product(dims: impl Iterator<Item = u64>) -> u64 {
    dims.fold(1, u64::saturating_mul)
}

pub(super) fn size(shape: &[u64]) -> u64 {
    product(shape.iter().copied())
}

/// An axis or an index as ONNX counts it, from the end where it is negative.
fn place(axis: i64, rank: usize) -> Option<usize> {
    let place = from_start(axis, i64::try_from(rank).ok()?);
    usize::try_from(place).ok().filter(|place| *place < rank)
}

fn places(axes: &[i64], rank: usize) -> Option<Vec<usize>> {
    axes.iter().map(|&axis| place(axis, rank)).collect()
}

fn whole(dims: &[i64]) -> Option<Shape> {
    dims.iter().map(|&dim| u64::try_from(dim).ok()).collect()
}

fn broadcast(a: &[u64], b: &[u64]) -> Option<Shape> {
    let rank = a.len().max(b.len());
    let at = |dims: &[u64], axis: usize| {
        (axis + dims.len())
            .checked_sub(rank)
            .map_or(1, |index| dims[index])
    };
    let one = |axis| match (at(a, axis), at(b, axis)) {
        (1, dim) | (dim, 1) => Some(dim),
        (dim, other) => (dim == other).then_some(dim),
    };
    (0..rank).map(one).collect()
}

fn matmul(a: &[u64], b: &[u64]) -> Option<Shape> {
    let (a_batch, rows) = match a {
        [_] => (&[][..], None),
        [batch @ .., rows, _] => (batch, Some(*rows)),
        [] => return None,
    };
    let (b_batch, columns) = match b {
        [_] => (&[][..], None),
        [batch @ .., _, columns] => (batch, Some(*columns)),
        [] => return None,
    };
    let mut shape = broadcast(a_batch, b_batch)?;
    shape.extend(rows);
    shape.extend(columns);
    Some(shape)
}

fn reduce(from: &Shape, axes: Option<&[i64]>, keep: bool, all: bool) -> Option<Shape> {
    let axes = match axes {
        None | Some([]) if all => (0..from.len()).collect(),
        None | Some([]) => return Some(from.clone()),
        Some(axes) => places(axes, from.len())?,
    };
    let dims = from
        .iter()
        .enumerate()
        .filter_map(|(axis, &dim)| match axes.contains(&axis) {
            true => keep.then_some(1),
            false => Some(dim),
        });
    Some(dims.collect())
}

fn flatten(from: &[u64], axis: i64) -> Option<Shape> {
    let rank = i64::try_from(from.len()).ok()?;
    let axis = if axis < 0 { axis.checked_add(rank)? } else { axis };
    let (rows, columns) = from.split_at_checked(usize::try_from(axis).ok()?)?;
    Some(vec![size(rows), size(columns)])
}

fn reshape(from: &[u64], to: &[i64]) -> Option<Shape> {
    let known = |(index, &dim): (usize, &i64)| match dim {
        0 => from.get(index).copied(),
        -1 => Some(1),
        dim => u64::try_from(dim).ok(),
    };
    let mut shape: Shape = to.iter().enumerate().map(known).collect::<Option<_>>()?;
    if let Some(rest) = to.iter().position(|dim| *dim == -1) {
        shape[rest] = size(from).checked_div(size(&shape))?;
    }
    Some(shape)
}

fn squeeze(from: &[u64], axes: Option<&[i64]>) -> Option<Shape> {
    let axes = axes.map(|axes| places(axes, from.len()));
    let axes = match axes {
        Some(axes) => axes?,
        None => (0..from.len()).filter(|&axis| from[axis] == 1).collect(),
    };
    Some(
        from.iter()
            .enumerate()
            .filter(|(axis, _)| !axes.contains(axis))
            .map(|(_, dim)| *dim)
            .collect(),
    )
}

fn unsqueeze(from: &[u64], axes: &[i64]) -> Option<Shape> {
    let rank = from.len() + axes.len();
    let axes = places(axes, rank)?;
    let mut dims = from.iter().copied();
    (0..rank)
        .map(|axis| {
            if axes.contains(&axis) {
                Some(1)
            } else {
                dims.next()
            }
        })
        .collect()
}

/// Inputs: the data, starts, ends, axes (all from the first on), steps (one).
fn slice(given: &[Option<&Value>]) -> Option<Shape> {
    let mut dims = shape(given, 0)?.clone();
    let (starts, ends) = (ints(given, 1)?, ints(given, 2)?);
    let absent = |index: usize| given.get(index).is_none_or(Option::is_none);
    let axes = match ints(given, 3) {
        Some(axes) => places(axes, dims.len())?,
        None => (0..starts.len()).collect(),
    };
    if ints(given, 4).is_none() && !absent(4) || ints(given, 3).is_none() && !absent(3) {
        return None;
    }
    for (index, &axis) in axes.iter().enumerate() {
        let step = ints(given, 4).map_or(Some(1), |steps| steps.get(index).copied())?;
        let (start, end) = (*starts.get(index)?, *ends.get(index)?);
        let dim = dims.get_mut(axis)?;
        let length = i64::try_from(*dim).ok()?;
        let within = |bound: i64, low, high| from_start(bound, length).clamp(low, high);
        let length = if step > 0 {
            within(end, 0, length) - within(start, 0, length)
        } else {
            within(start, -1, length - 1) - within(end, -1, length - 1)
        };
        let length = u64::try_from(length).unwrap_or_default();
        *dim = length.div_ceil(step.unsigned_abs().max(1));
    }
    Some(dims)
}

/// An index counted from the end where it is negative.
fn from_start(index: i64, length: i64) -> i64 {
    if index < 0 {
        index.saturating_add(length)
    } else {
        index
    }
}
