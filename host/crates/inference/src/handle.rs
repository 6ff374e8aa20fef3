//! A loaded graph, the task that owns its runner, and the calls that wait for it.

use std::collections::VecDeque;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domain::usage::TOKENS;
use domain::{Digest, Signature, Tensor, UsageCell, Work};
use futures::FutureExt as _;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::backend::{BackendInfo, Direct, Graph, Run, RunMeter, Runner};
use crate::error::{ComputeError, LoadError};
use crate::paying::metered_run;
use crate::queue::Queue;
use crate::turns::Turns;
use crate::{check, cpu};

/// A loaded graph. Its runner, where it has one, ends when the handle is dropped.
pub struct GraphHandle {
    digest: Digest,
    info: BackendInfo,
    graph: Arc<dyn Graph>,
    /// What is counted of short runs, where these are answered at once.
    direct: Option<Counted>,
    /// The runs that wait for the runner.
    queue: Arc<Queue<Job>>,
    /// The shapes that were last asked for, and their cost: walking the graph takes longer than a small run.
    last_cost: Mutex<Option<(Vec<Vec<u32>>, u64)>>,
}

struct Job {
    inputs: Vec<Tensor>,
    cell: Arc<UsageCell>,
    /// Fires when nobody wants the answer any more.
    stop: CancellationToken,
    reply: Reply,
}

type Reply = oneshot::Sender<Result<Vec<Tensor>, ComputeError>>;

/// Bytes of the inputs of a run that is given to the runner together with others.
const SMALL_BYTES: u64 = 4 << 10;

impl GraphHandle {
    /// Starts the task that runs the graph. Where short runs are answered at once, its runner is started by the first
    /// that is not short.
    pub(crate) async fn start(
        digest: Digest,
        info: BackendInfo,
        graph: Box<dyn Graph>,
        turns: Turns,
        capacity: usize,
        linger: Duration,
        cell: &UsageCell,
    ) -> Result<Self, LoadError> {
        let graph: Arc<dyn Graph> = graph.into();
        let counted = |info: &BackendInfo| Counted::of(digest, info, graph.signature());
        let (runner, queued, direct) = match graph.direct() {
            Some(direct) => (None, counted(&direct.runner_info()), Some(counted(&info))),
            None => (Some(graph.runner(cell).await?), counted(&info), None),
        };
        let queue = Arc::new(Queue::new(capacity));
        let owner = Owner {
            queue: Arc::clone(&queue),
            graph: Arc::clone(&graph),
            turns,
            linger,
            counted: queued,
        };
        tokio::spawn(owner.serve(runner));
        Ok(Self {
            digest,
            info,
            graph,
            direct,
            queue,
            last_cost: Mutex::default(),
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

    /// What runs it; where short runs are answered at once, what answers those.
    pub fn info(&self) -> &BackendInfo {
        &self.info
    }

    /// Multiply-accumulates of one run on inputs of these shapes, in the signature's order. It depends on
    /// the model and the shapes alone: fuel may be made of it.
    pub fn cost_macs(&self, shapes: &[Vec<u32>]) -> u64 {
        let last = || self.last_cost.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, macs)) = &*last()
            && known == shapes
        {
            return *macs;
        }
        let macs = self.graph.cost(shapes);
        *last() = Some((shapes.to_vec(), macs));
        macs
    }

    /// Whether two runs on the same inputs may differ, because the graph draws random numbers.
    pub fn is_random(&self) -> bool {
        self.graph.is_random()
    }

    /// Memory that keeping the graph takes, in bytes: the most that its process had while it loaded, if it has one, and
    /// what the host keeps of it: the file, from which a lost process is started again.
    pub fn resident_bytes(&self) -> u64 {
        self.graph.resident_bytes()
    }

    /// Runs the graph on named inputs, in any order; gives the outputs in the signature's order.
    ///
    /// Each run adds to one work entry of `cell`: itself and its rows when it begins, its CPU time while it
    /// is used, also when it fails. A call that is refused or cancelled before it ran adds none. Where an
    /// earlier run took the graph's process with it, this call pays for loading it again. Tensor bytes are
    /// the caller's to count.
    ///
    /// When `cancel` fires, a call that still waits leaves the queue and returns at once. A call that runs
    /// gets a short grace, then its process is killed; `cell` is complete when this returns. If this future
    /// is dropped, the same happens behind its back. A short run that is answered at once waits for nothing and is not
    /// cancelled.
    ///
    /// # Errors
    /// Inputs that do not fit the signature, a full queue, cancellation, too much memory, a fault of the
    /// backend.
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
        if let (Some(graph), Some(counted)) = (self.graph.direct(), &self.direct)
            && graph.is_short(&inputs)
        {
            return answer_at_once(graph, &inputs, RunMeter::new(cell, counted.work(&inputs)));
        }
        let stop = CancellationToken::new();
        let stop_when_left = stop.clone().drop_guard();
        let (reply, mut answer) = oneshot::channel();
        let job = Job {
            inputs,
            cell,
            stop,
            reply,
        };
        let place = self
            .queue
            .push(job)
            .map_err(|waiting| ComputeError::QueueFull { waiting })?;
        let ended = ComputeError::Backend {
            reason: "the graph's task has ended".into(),
        };
        tokio::select! {
            biased;
            answer = &mut answer => return answer.unwrap_or(Err(ended)),
            () = cancel.cancelled() => {}
        }
        drop(stop_when_left);
        if !place.leave() {
            // It runs: wait for the rest of its work entry, whatever the answer is.
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

/// What the graph's task knows.
struct Owner {
    queue: Arc<Queue<Job>>,
    graph: Arc<dyn Graph>,
    turns: Turns,
    linger: Duration,
    counted: Counted,
}

/// What is counted of a graph's runs.
struct Counted {
    /// Of a run of one row.
    work: Work,
    /// Which input has tokens.
    tokens: Option<usize>,
}

impl Counted {
    fn of(graph: Digest, info: &BackendInfo, signature: &Signature) -> Self {
        let work = Work {
            graph,
            backend: info.label().into(),
            device: info.device.as_str().into(),
            precision: info.precision.into(),
            runs: 1,
            rows: 1,
            cpu_ns: 0,
            busy_ns: 0,
            tokens: 0,
        };
        let mut inputs = signature.inputs.iter();
        Self {
            work,
            tokens: inputs.position(|input| input.name == TOKENS),
        }
    }

    /// Of a run on these inputs.
    fn work(&self, inputs: &[Tensor]) -> Work {
        Work {
            rows: inputs.first().map_or(1, Tensor::rows),
            tokens: self
                .tokens
                .and_then(|at| inputs.get(at))
                .map_or(0, Tensor::elements),
            ..self.work.clone()
        }
    }
}

impl Owner {
    async fn serve(self, mut runner: Option<Box<dyn Runner>>) {
        while let Some(job) = self.next(&mut runner).await {
            let mut jobs = vec![job];
            let most = runner.as_ref().map_or(1, |runner| runner.most_at_once());
            if most > 1 && jobs.iter().all(Job::is_small) {
                jobs.extend(self.queue.pop_more(most - 1, Job::is_small));
            }
            self.answer_all(&mut runner, jobs).await;
        }
    }

    /// The next job. A runner that short runs do without is kept for a while only.
    async fn next(&self, runner: &mut Option<Box<dyn Runner>>) -> Option<Job> {
        if runner.is_some() && self.graph.direct().is_some() {
            if let Ok(job) = timeout(self.linger, self.queue.pop()).await {
                return job;
            }
            *runner = None;
        }
        self.queue.pop().await
    }

    /// Answers every job. Those that come to nothing with one before them, which took the runner along, begin anew.
    async fn answer_all(&self, held: &mut Option<Box<dyn Runner>>, jobs: Vec<Job>) {
        let mut waiting: VecDeque<(Run, Reply)> = jobs.into_iter().map(|job| self.run(job)).collect();
        loop {
            let Some(first) = next_wanted(&mut waiting) else {
                return;
            };
            let kept = held
                .take()
                .and_then(|mut runner| (!runner.is_spent()).then_some(runner));
            let runner = match kept {
                Some(runner) => runner,
                None => match self.revive(first.meter.cell()).await {
                    Ok(runner) => runner,
                    Err(error) => {
                        reply(waiting.pop_front(), Err(error));
                        continue;
                    }
                },
            };
            let runner = held.insert(runner);
            // It may have taken long to come back.
            if next_wanted(&mut waiting).is_none() {
                return;
            }
            let (mut runs, replies): (Vec<_>, Vec<_>) = waiting.drain(..).unzip();
            answer(runner.as_mut(), &mut runs).await;
            for (mut run, to) in runs.into_iter().zip(replies) {
                match run.answer.take() {
                    Some(answer) => reply(Some((run, to)), answer),
                    None => waiting.push_back((run, to)),
                }
            }
        }
    }

    fn run(&self, job: Job) -> (Run, Reply) {
        let run = Run {
            meter: RunMeter::new(job.cell, self.counted.work(&job.inputs)),
            inputs: job.inputs,
            stop: job.stop,
            answer: None,
        };
        (run, job.reply)
    }

    /// Loads the graph again, in its tenant's turn. Not stopped with the call that needs it: a graph that
    /// takes longer to load than its callers wait would never come back.
    async fn revive(&self, cell: &UsageCell) -> Result<Box<dyn Runner>, ComputeError> {
        let _turn = self.turns.take().await;
        Ok(self.graph.runner(cell).await?)
    }
}

impl Job {
    fn is_small(&self) -> bool {
        self.inputs.iter().map(Tensor::bytes).sum::<u64>() <= SMALL_BYTES
    }
}

/// The first run that somebody wants; those before it are over.
fn next_wanted(waiting: &mut VecDeque<(Run, Reply)>) -> Option<&Run> {
    while waiting.front().is_some_and(|(run, _)| run.stop.is_cancelled()) {
        reply(waiting.pop_front(), Err(ComputeError::Cancelled));
    }
    waiting.front().map(|(run, _)| run)
}

/// The caller may be gone; its usage is in the cell.
fn reply(job: Option<(Run, Reply)>, answer: Result<Vec<Tensor>, ComputeError>) {
    if let Some((_, reply)) = job {
        let _ = reply.send(answer);
    }
}

/// Answers a short run on this thread: a panic is an answer too.
fn answer_at_once(
    graph: &dyn Direct,
    inputs: &[Tensor],
    mut meter: RunMeter,
) -> Result<Vec<Tensor>, ComputeError> {
    let answer = || metered_run(&mut meter, || graph.answer(inputs));
    let answer = std::panic::catch_unwind(AssertUnwindSafe(answer)).unwrap_or_else(|panic| {
        let reason = cpu::words(&*panic);
        Err(ComputeError::Backend { reason })
    });
    // A run that took none of the CPU's time is one.
    meter.add_ns(0);
    answer
}

/// Has `runner` answer runs, at least the first: a panic is an answer too.
async fn answer(runner: &mut dyn Runner, runs: &mut [Run]) {
    let done = AssertUnwindSafe(runner.run(runs)).catch_unwind().await;
    let reason = match done {
        Err(panic) => Some(cpu::words(&*panic)),
        // Else it would be asked for ever.
        Ok(()) if runs.iter().all(|run| run.answer.is_none()) => Some("it gave no answer".to_owned()),
        Ok(()) => None,
    };
    let first = runs.iter_mut().find(|run| run.answer.is_none());
    if let (Some(run), Some(reason)) = (first, reason) {
        run.answer = Some(Err(ComputeError::Backend { reason }));
    }
    for run in runs.iter_mut().filter(|run| run.answer.is_some()) {
        run.meter.add_ns(0);
    }
}
