//! Short runs of small dense networks, worked out in the host on the thread that asks.
//!
//! To hand a run to a graph's process and back costs tens of microseconds of CPU time, which for a network of some
//! thousand weights is several times the run itself. What may run here is so narrow that no process has to confine
//! it: products with fixed matrices and functions of single elements, on rows that know nothing of each other, in safe
//! code of our own. The work and the memory of a row follow from the file; a run takes a fraction of a millisecond.
//! One of more rows goes to rten, in a process that is started for it. Other graphs are refused, and run on another
//! backend.

mod network;
mod read;

use std::sync::Arc;

use bytes::Bytes;
use domain::{DType, Signature, Tensor, UsageCell};
use futures::FutureExt as _;
use futures::future::BoxFuture;

use self::network::Network;
use super::rten;
use crate::backend::{Backend, BackendInfo, Caps, Direct, Graph, Runner, Target};
use crate::cost::Cost;
use crate::error::{ComputeError, LoadError};
use crate::onnx;
use crate::worker::{WorkerGraph, WorkerOptions, blocking};

/// The version that receipts name: another one wherever this code's answers may differ in a bit.
const VERSION: &str = "1";

/// The largest file: some times the weights of the largest network.
const MAX_FILE_BYTES: usize = 4 << 20;

/// The backend, and how it starts processes for runs that are not short.
pub(crate) struct Dense(Arc<WorkerOptions>);

impl Dense {
    pub(crate) fn new(worker: Arc<WorkerOptions>) -> Self {
        Self(worker)
    }
}

impl Backend for Dense {
    fn probe(&self) -> Caps {
        let info = BackendInfo {
            name: "dense",
            version: VERSION.into(),
            device: Target::Cpu.as_str().into(),
            precision: "exact",
        };
        Caps {
            info,
            targets: vec![Target::Cpu],
            interruptible: true,
            narrow: true,
        }
    }

    fn load<'a>(
        &'a self,
        blob: Bytes,
        target: Target,
        cell: &'a UsageCell,
    ) -> BoxFuture<'a, Result<Box<dyn Graph>, LoadError>> {
        let worker = Arc::clone(&self.0);
        let load = async move {
            if target != Target::Cpu {
                return Err(LoadError::TargetUnavailable { target });
            }
            let graph: Box<dyn Graph> =
                blocking(cell, || DenseGraph::read(blob, worker).map(Box::new)).await?;
            Ok(graph)
        };
        load.boxed()
    }
}

struct DenseGraph {
    network: Network,
    /// What runs the graph where a run is not short.
    rten: WorkerGraph,
}

impl DenseGraph {
    fn read(blob: Bytes, worker: Arc<WorkerOptions>) -> Result<Self, LoadError> {
        if blob.len() > MAX_FILE_BYTES {
            return Err(read::too_large());
        }
        let proto = onnx::parse_whole(&blob)?;
        onnx::check(&proto)?;
        let signature = onnx::signature(&proto, |dtype| dtype == DType::Fp32, |_| None)?;
        let network = read::network(&proto, &signature)?;
        Ok(Self {
            network,
            rten: WorkerGraph::unstarted(worker, blob, signature, Cost::of(&proto)),
        })
    }
}

impl Graph for DenseGraph {
    fn signature(&self) -> &Signature {
        self.rten.signature()
    }

    fn cost(&self, shapes: &[Vec<u32>]) -> u64 {
        self.rten.cost(shapes)
    }

    fn resident_bytes(&self) -> u64 {
        self.rten.resident_bytes() + self.network.bytes() as u64
    }

    fn direct(&self) -> Option<&dyn Direct> {
        Some(self)
    }

    fn runner<'a>(&'a self, cell: &'a UsageCell) -> BoxFuture<'a, Result<Box<dyn Runner>, LoadError>> {
        self.rten.runner(cell)
    }
}

impl Direct for DenseGraph {
    fn is_short(&self, inputs: &[Tensor]) -> bool {
        inputs.iter().all(|input| self.network.is_short(input.rows()))
    }

    fn answer(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, ComputeError> {
        let failed = |reason: String| ComputeError::Backend { reason };
        let [input] = inputs else {
            return Err(failed(format!("it was given {} inputs", inputs.len())));
        };
        let outputs = self.network.run(input.data());
        let specs = self.signature().outputs.iter().zip(self.network.output_widths());
        let tensors = specs.zip(outputs).map(|((spec, width), data)| {
            let shape = vec![input.shape()[0], width as u32];
            Tensor::new(&spec.name, DType::Fp32, shape, data).map_err(|error| failed(error.to_string()))
        });
        tensors.collect()
    }

    fn runner_info(&self) -> BackendInfo {
        rten::info()
    }
}
