//! A loaded graph, the thread that owns its runner, and the calls that wait for it.

use std::fmt;
use std::sync::Arc;
use std::thread;

use domain::{Digest, Signature, Tensor, UsageCell, Work};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::backend::{BackendInfo, Graph, Runner};
use crate::error::{ComputeError, LoadError};
use crate::queue::Queue;
use crate::{check, cpu};

/// A loaded graph. Its thread ends when the handle is dropped.
pub struct GraphHandle {
    digest: Digest,
    info: BackendInfo,
    graph: Box<dyn Graph>,
    queue: Arc<Queue<Job>>,
}

struct Job {
    inputs: Vec<Tensor>,
    cell: Arc<UsageCell>,
    cancel: CancellationToken,
    reply: oneshot::Sender<Result<Vec<Tensor>, ComputeError>>,
}

impl GraphHandle {
    /// Starts the graph's thread.
    pub(crate) fn start(
        digest: Digest,
        info: BackendInfo,
        graph: Box<dyn Graph>,
        capacity: usize,
    ) -> Result<Self, LoadError> {
        let mut runner = graph.runner()?;
        let queue = Arc::new(Queue::new(capacity));
        let owner = Owner {
            queue: Arc::clone(&queue),
            digest,
            info: info.clone(),
        };
        thread::Builder::new()
            .name(format!("graph-{}", &digest.hex()[..8]))
            .spawn(move || runner.drive(&mut |runner| owner.serve(runner)))
            .map_err(|error| LoadError::Backend {
                reason: format!("no thread for the graph: {error}"),
            })?;
        Ok(Self {
            digest,
            info,
            graph,
            queue,
        })
    }

    /// The digest of the model.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// What the graph takes and gives.
    pub fn signature(&self) -> &Signature {
        self.graph.signature()
    }

    /// What runs it.
    pub fn info(&self) -> &BackendInfo {
        &self.info
    }

    /// Multiply-accumulates of one run on inputs of these shapes, in the signature's order. It depends on
    /// the model and the shapes alone: fuel may be made of it.
    pub fn cost_macs(&self, shapes: &[Vec<u32>]) -> u64 {
        self.graph.cost(shapes)
    }

    /// Runs the graph on named inputs, in any order; gives the outputs in the signature's order.
    ///
    /// Each run adds a work entry to `cell`, also when it fails; a call that is refused or cancelled before
    /// it ran adds none. Tensor bytes are the caller's to count.
    ///
    /// When `cancel` fires, a call that still waits leaves the queue and returns at once. A call that runs
    /// returns only when its run has ended, because rten cannot be interrupted and `cell` must be complete
    /// when this returns; the answer is dropped. If this future is dropped, a waiting call leaves the
    /// queue, and a running one still adds to `cell` when it ends.
    ///
    /// # Errors
    /// Inputs that do not fit the signature, a full queue, cancellation, a fault of the backend.
    pub async fn compute(
        &self,
        inputs: Vec<Tensor>,
        cell: Arc<UsageCell>,
        cancel: CancellationToken,
    ) -> Result<Vec<Tensor>, ComputeError> {
        let inputs = check::inputs(self.signature(), inputs)?;
        if cancel.is_cancelled() {
            return Err(ComputeError::Cancelled);
        }
        let (reply, mut answer) = oneshot::channel();
        let job = Job {
            inputs,
            cell,
            cancel: cancel.clone(),
            reply,
        };
        let place = self
            .queue
            .push(job)
            .map_err(|waiting| ComputeError::QueueFull { waiting })?;
        let ended = ComputeError::Backend {
            reason: "the graph's thread has ended".into(),
        };
        tokio::select! {
            biased;
            answer = &mut answer => return answer.unwrap_or(Err(ended)),
            () = cancel.cancelled() => {}
        }
        if !place.leave() {
            // It runs: wait for its work entry, whatever the answer is.
            let _ = answer.await;
        }
        Err(ComputeError::Cancelled)
    }
}

impl fmt::Debug for GraphHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GraphHandle")
            .field("digest", &self.digest)
            .field("info", &self.info)
            .finish()
    }
}

impl Drop for GraphHandle {
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// What the graph's thread knows.
struct Owner {
    queue: Arc<Queue<Job>>,
    digest: Digest,
    info: BackendInfo,
}

impl Owner {
    fn serve(&self, runner: &mut dyn Runner) {
        while let Some(Job {
            inputs,
            cell,
            cancel,
            reply,
        }) = self.queue.pop()
        {
            if cancel.is_cancelled() || reply.is_closed() {
                let _ = reply.send(Err(ComputeError::Cancelled));
                continue;
            }
            let (answer, cpu_ns) = cpu::metered(|elsewhere| runner.run(&inputs, &cancel, elsewhere));
            cell.add_work(&self.work(&inputs, cpu_ns));
            let answer = answer.unwrap_or_else(|reason| Err(ComputeError::Backend { reason }));
            // The caller may be gone; its usage is in the cell.
            let _ = reply.send(answer);
        }
    }

    fn work(&self, inputs: &[Tensor], cpu_ns: u64) -> Work {
        Work {
            graph: self.digest,
            backend: self.info.label(),
            device: self.info.device.clone(),
            precision: self.info.precision.to_owned(),
            runs: 1,
            rows: inputs.first().map_or(1, Tensor::rows),
            cpu_ns,
        }
    }
}
