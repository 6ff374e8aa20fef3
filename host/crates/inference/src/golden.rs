//! The golden check: a backend's answers to fixed inputs beside the reference's, before it serves a graph.
//!
//! Inputs follow from the signature alone. Free first axes are one row, then two; other free axes are as long
//! as the reference accepts, of a few lengths that models are made for. Floats are multiples of 1/64 between
//! −1 and 1, so that every type of them holds each exactly; integers are 0 or 1, which index and mask.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use domain::{DType, GoldenCheck, Signature, Tensor, UsageCell};
use tokio_util::sync::CancellationToken;

use crate::error::ComputeError;
use crate::handle::GraphHandle;
use crate::worker::blocking;

/// For each number of rows, the lengths that free axes are tried with.
const SHAPES: [(u32, [u32; 8]); 2] = [
    (1, [32, 48, 64, 16, 8, 4, 2, 1]),
    (2, [64, 48, 96, 16, 8, 4, 2, 1]),
];

/// The most elements of one input: a graph with many free axes is tried with short ones.
const MAX_ELEMENTS: u64 = 1 << 22;

/// The longest that one run may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How far an element may be from the reference's, as a part of the largest magnitude in the reference's
/// tensor; none where the bytes must be the same. Backends add in different orders and use approximations of
/// their own of exponential functions. For FP32 that is twice the most that was seen of rten and ONNX Runtime
/// (0.0024, the probabilities of a file-type model on bytes that no file has); a wrong kernel is off by far more.
fn tolerance(dtype: DType) -> Option<f64> {
    match dtype {
        DType::Fp64 => Some(1e-9),
        DType::Fp32 => Some(5e-3),
        DType::Fp16 => Some(1e-2),
        DType::Bf16 => Some(5e-2),
        _ => None,
    }
}

/// A tensor whose largest magnitude is below this counts as this large: what is left there is noise.
const LEAST_SCALE: f64 = 1e-3;

/// The reference's answers.
pub(crate) struct Golden {
    cases: Vec<Case>,
    is_random: bool,
}

struct Case {
    inputs: Vec<Tensor>,
    answers: Vec<Tensor>,
}

impl Golden {
    /// Asks the reference, at two shapes where its graph has free axes.
    pub(crate) async fn of(reference: &GraphHandle, cell: &UsageCell) -> Self {
        let mut cases = Vec::new();
        for (rows, lengths) in SHAPES {
            let mut tried = None;
            for length in lengths {
                let signature = reference.signature().clone();
                let made = blocking(cell, move || Ok(inputs(&signature, rows, length)));
                let Ok(Some(inputs)) = made.await else {
                    continue;
                };
                // Without free axes every length gives the same.
                if tried.as_ref() == Some(&inputs) {
                    break;
                }
                match run(reference, &inputs, cell).await {
                    Ok((answers, _)) => {
                        cases.push(Case { inputs, answers });
                        break;
                    }
                    Err(ComputeError::Input { .. } | ComputeError::Backend { .. }) => {
                        tried = Some(inputs);
                    }
                    // It takes too much already.
                    Err(_) => break,
                }
            }
        }
        Self {
            cases,
            is_random: reference.is_random(),
        }
    }

    /// Asks another backend the same; says where its answers differ. Of a graph that draws random numbers
    /// only types and shapes are compared.
    pub(crate) async fn check(&self, other: &GraphHandle, cell: &UsageCell) -> Result<GoldenCheck, String> {
        for Case { inputs, answers } in &self.cases {
            let (others, _) = run(other, inputs, cell)
                .await
                .map_err(|error| error.to_string())?;
            let (answers, is_random) = (answers.clone(), self.is_random);
            let compare = move || {
                let mut pairs = answers.iter().zip(&others);
                Ok(pairs.try_for_each(|(reference, other)| compare(reference, other, is_random)))
            };
            let compared = blocking(cell, compare).await;
            compared.map_err(|error| error.to_string())??;
        }
        Ok(match (self.cases.is_empty(), self.is_random) {
            (true, _) => GoldenCheck::Untried,
            (_, true) => GoldenCheck::Random,
            _ => GoldenCheck::Agrees,
        })
    }

    /// Whether `other` needs less CPU time than `reference` for the same run, by more than a twentieth: the
    /// least of some runs of each, in turns. Both have run before.
    pub(crate) async fn is_faster(
        &self,
        other: &GraphHandle,
        reference: &GraphHandle,
        cell: &UsageCell,
    ) -> bool {
        let Some(Case { inputs, .. }) = self.cases.last() else {
            return false;
        };
        let (mut least, mut spent_ns) = ([u64::MAX; 2], 0);
        for round in 0..MOST_ROUNDS {
            if round >= LEAST_ROUNDS && spent_ns > ENOUGH_NS {
                break;
            }
            for (least, graph) in least.iter_mut().zip([reference, other]) {
                let Ok((_, cpu_ns)) = run(graph, inputs, cell).await else {
                    return false;
                };
                *least = cpu_ns.min(*least);
                spent_ns += cpu_ns;
            }
        }
        tracing::debug!(
            backend = other.info().label(),
            cpu_ns = least[1],
            reference_cpu_ns = least[0],
            "a graph's backends were measured"
        );
        least[1] < least[0] - least[0] / 20
    }
}

const LEAST_ROUNDS: u32 = 3;
const MOST_ROUNDS: u32 = 20;
const ENOUGH_NS: u64 = 200_000_000;

/// Runs once and gives the CPU time too; what is used goes to `cell`.
async fn run(
    graph: &GraphHandle,
    inputs: &[Tensor],
    cell: &UsageCell,
) -> Result<(Vec<Tensor>, u64), ComputeError> {
    let (own, cancel) = (Arc::new(UsageCell::default()), CancellationToken::new());
    let mut running = pin!(graph.compute(inputs.to_vec(), Arc::clone(&own), cancel.clone()));
    let answer = tokio::select! {
        answer = &mut running => answer,
        () = tokio::time::sleep(PATIENCE) => {
            cancel.cancel();
            running.await
        }
    };
    let used = own.snapshot();
    used.work.iter().for_each(|work| cell.add_work(work));
    cell.add_cpu_ns(used.cpu_ns);
    Ok((answer?, used.model_ns()))
}

/// An input of each kind; none where one would be too large, or is of byte strings.
fn inputs(signature: &Signature, rows: u32, length: u32) -> Option<Vec<Tensor>> {
    let mut random = Random(u64::from(rows));
    let inputs = signature.inputs.iter().map(|spec| {
        let free = |axis: usize| if axis == 0 { rows } else { length };
        let axes = spec.shape.iter().enumerate();
        let shape: Vec<u32> = axes.map(|(axis, dim)| dim.unwrap_or(free(axis))).collect();
        let elements = shape
            .iter()
            .try_fold(1_u64, |n, &dim| n.checked_mul(dim.into()))?;
        if elements > MAX_ELEMENTS {
            return None;
        }
        let mut data = Vec::new();
        for _ in 0..elements {
            push(&mut data, spec.dtype, random.next())?;
        }
        Tensor::new(&spec.name, spec.dtype, shape, data).ok()
    });
    inputs.collect()
}

/// SplitMix64: the same numbers on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// Appends the element of a type that 64 random bits make.
fn push(data: &mut Vec<u8>, dtype: DType, random: u64) -> Option<()> {
    let float = f32::from((random % 129) as u8) / 64.0 - 1.0;
    match dtype {
        DType::Fp64 => data.extend(f64::from(float).to_le_bytes()),
        DType::Fp32 => data.extend(float.to_le_bytes()),
        DType::Fp16 => data.extend(to_half(float).to_le_bytes()),
        DType::Bf16 => data.extend(&float.to_le_bytes()[2..]),
        DType::Bytes => return None,
        integer => {
            data.push((random & 1) as u8);
            data.resize(data.len() + integer.size()? - 1, 0);
        }
    }
    Some(())
}

/// Half precision of a number that it holds exactly.
fn to_half(float: f32) -> u16 {
    let bits = float.to_bits();
    let sign = (bits >> 16) as u16 & 0x8000;
    match (bits >> 23) as u16 & 0xff {
        0 => sign,
        exponent => sign | (exponent + 15 - 127) << 10 | (bits >> 13) as u16 & 0x3ff,
    }
}

fn from_half(bits: u16) -> f64 {
    let (exponent, fraction) = (i32::from(bits >> 10 & 0x1f), f64::from(bits & 0x3ff) / 1024.0);
    let magnitude = match exponent {
        0 => fraction * 2_f64.powi(-14),
        31 if fraction > 0.0 => f64::NAN,
        31 => f64::INFINITY,
        exponent => (1.0 + fraction) * 2_f64.powi(exponent - 15),
    };
    if bits & 0x8000 == 0 { magnitude } else { -magnitude }
}

/// The elements of a tensor of floats.
fn floats(tensor: &Tensor) -> Vec<f64> {
    fn each<const N: usize>(data: &[u8], read: impl Fn([u8; N]) -> f64) -> Vec<f64> {
        data.as_chunks().0.iter().map(|bytes| read(*bytes)).collect()
    }
    match tensor.dtype() {
        DType::Fp64 => each(tensor.data(), f64::from_le_bytes),
        DType::Fp32 => each(tensor.data(), |bytes| f32::from_le_bytes(bytes).into()),
        DType::Fp16 => each(tensor.data(), |bytes| from_half(u16::from_le_bytes(bytes))),
        DType::Bf16 => each(tensor.data(), |[low, high]| {
            f32::from_le_bytes([0, 0, low, high]).into()
        }),
        _ => Vec::new(),
    }
}

/// Says how an output differs from the reference's.
fn compare(reference: &Tensor, other: &Tensor, is_random: bool) -> Result<(), String> {
    let name = reference.name();
    if reference.shape() != other.shape() || reference.dtype() != other.dtype() {
        let shapes = (reference.shape(), other.shape());
        return Err(format!(
            "output '{name}' has the shape {:?}, not {:?}",
            shapes.1, shapes.0
        ));
    }
    if is_random || reference.data() == other.data() {
        return Ok(());
    }
    let Some(tolerance) = tolerance(reference.dtype()) else {
        return Err(format!("output '{name}' is not the same"));
    };
    let distance = distance(&floats(reference), &floats(other));
    if distance <= tolerance {
        return Ok(());
    }
    Err(format!(
        "output '{name}' is {distance:.2e} of its scale away, {tolerance:.0e} are allowed"
    ))
}

/// The largest difference of two elements, as a part of the largest magnitude in the reference's; infinite
/// where one is not a number or not finite and the other is.
fn distance(reference: &[f64], other: &[f64]) -> f64 {
    let finite = reference.iter().filter(|x| x.is_finite());
    let scale = finite.fold(LEAST_SCALE, |scale, x| scale.max(x.abs()));
    let pairs = reference.iter().zip(other);
    pairs.fold(0.0, |most, (a, b)| {
        let same = a == b || a.is_nan() && b.is_nan();
        let apart = if same { 0.0 } else { (a - b).abs() / scale };
        most.max(if apart.is_nan() { f64::INFINITY } else { apart })
    })
}

#[cfg(test)]
mod tests {
    use domain::TensorSpec;

    use super::*;

    fn tensor(dtype: DType, data: &[f32]) -> Tensor {
        let bytes: Vec<u8> = match dtype {
            DType::Fp16 => data.iter().flat_map(|x| to_half(*x).to_le_bytes()).collect(),
            _ => data.iter().flat_map(|x| x.to_le_bytes()).collect(),
        };
        Tensor::new("y", dtype, vec![data.len() as u32], bytes).unwrap()
    }

    #[test]
    fn inputs_are_the_same_every_time_and_exact_in_every_type() {
        let types = [DType::Fp64, DType::Fp32, DType::Fp16, DType::Bf16];
        let spec = |dtype: DType| TensorSpec::new(dtype.as_str(), dtype, vec![None, None]);
        let signature = Signature {
            inputs: types.map(spec).to_vec(),
            ..Signature::default()
        };
        let given = inputs(&signature, 2, 64).unwrap();
        assert_eq!(given, inputs(&signature, 2, 64).unwrap());
        for tensor in &given {
            assert_eq!(tensor.shape(), [2, 64]);
            for x in floats(tensor) {
                assert!((-1.0..=1.0).contains(&x) && (x * 64.0).fract() == 0.0, "{x}");
            }
        }
        let integers = Signature {
            inputs: vec![spec(DType::I64)],
            ..Signature::default()
        };
        let given = inputs(&integers, 1, 16).unwrap();
        let (longs, _) = given[0].data().as_chunks::<8>();
        assert!(longs.iter().all(|long| i64::from_le_bytes(*long) >> 1 == 0));
        assert!(inputs(&signature, 1, 1 << 23).is_none(), "too large");
    }

    #[test]
    fn answers_may_differ_by_the_tolerance_of_their_type_and_scale() {
        let agree = |dtype, a: &[f32], b: &[f32]| compare(&tensor(dtype, a), &tensor(dtype, b), false);
        assert!(agree(DType::Fp32, &[1000.0, 0.0], &[1000.5, 0.5]).is_ok());
        assert!(agree(DType::Fp32, &[1.0, 0.0], &[1.0, 0.5]).is_err());
        assert!(
            agree(
                DType::Fp32,
                &[f32::NAN, f32::INFINITY],
                &[f32::NAN, f32::INFINITY]
            )
            .is_ok()
        );
        assert!(agree(DType::Fp32, &[1.0], &[f32::NAN]).is_err());
        assert!(agree(DType::Fp32, &[f32::INFINITY], &[f32::NEG_INFINITY]).is_err());
        assert!(agree(DType::Fp16, &[1.0], &[1.0078125]).is_ok());
        assert!(agree(DType::Fp16, &[1.0], &[1.03125]).is_err());
        let (one, two) = (tensor(DType::Fp32, &[1.0]), tensor(DType::Fp32, &[2.0]));
        assert!(
            compare(&one, &two, true).is_ok(),
            "of random numbers only the shape counts"
        );
        let longer = tensor(DType::Fp32, &[1.0, 2.0]);
        assert!(compare(&one, &longer, true).is_err());
        let bits = |byte| Tensor::new("y", DType::U8, vec![1], vec![byte]).unwrap();
        assert_eq!(
            compare(&bits(1), &bits(2), false).unwrap_err(),
            "output 'y' is not the same"
        );
    }
}
