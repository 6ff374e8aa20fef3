//! Runs of a graph in its process, brief ones together.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domain::rounding::largest_remainder;
use domain::{Signature, Tensor};
use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::frame::{self, Answer, Ask, Head};
use super::is_beyond_memory;
use super::process::{End, Lost, Process, Question};
use crate::backend::{Run, Runner};
use crate::check;
use crate::error::ComputeError;

/// CPU time of a brief run: more than what the way to the process and back takes.
const BRIEF: Duration = Duration::from_micros(200);

/// What a run is believed to have taken at most, in nanoseconds.
const MOST_NS: u64 = 3_600_000_000_000;

/// So many brief runs on end make the next ones be expected to be brief.
const TRUST: u32 = 20;

/// Brief runs that go the way together. The last waits for the others, and what one of them does to the process happens
/// to all.
const TOGETHER: usize = 8;

/// Has a process run its graph.
pub(super) struct WorkerRunner {
    process: Option<Process>,
    signature: Arc<Signature>,
    memory_bytes: u64,
    /// How many runs on end were brief.
    brief_runs: u32,
}

impl Runner for WorkerRunner {
    fn run<'a>(&'a mut self, runs: &'a mut [Run]) -> BoxFuture<'a, ()> {
        self.run(runs).boxed()
    }

    fn most_at_once(&self) -> usize {
        if self.brief_runs < TRUST { 1 } else { TOGETHER }
    }

    fn is_spent(&mut self) -> bool {
        self.process.as_ref().is_none_or(Process::has_ended)
    }
}

impl WorkerRunner {
    pub(super) fn new(process: Process, signature: Arc<Signature>, memory_bytes: u64) -> Self {
        Self {
            process: Some(process),
            signature,
            memory_bytes,
            brief_runs: 0,
        }
    }

    async fn run(&mut self, runs: &mut [Run]) {
        // Held here while it works: one that was left in the middle of an answer is never asked again.
        let Some(mut process) = self.process.take() else {
            runs[0].answer = Some(Err(failed("its process has ended")));
            return;
        };
        let mut questions: Vec<_> = runs.iter().map(question).collect();
        runs.iter_mut().for_each(|run| run.meter.add_ns(0));
        let alone = runs.len() == 1;
        // What the process used for several, and what each of them took as it says.
        let (mut spent_ns, mut told_ns) = (0, Vec::with_capacity(runs.len()));
        for run in runs.iter_mut() {
            let mut spend = |cpu_ns| match alone {
                true => run.meter.add_ns(cpu_ns),
                false => spent_ns += cpu_ns,
            };
            let asked = process.ask(&questions, &run.stop, None, &mut spend).await;
            let lost = match asked.map(|(answer, body)| self.read(answer, body)) {
                Ok(Some((answer, cpu_ns))) => {
                    questions.clear();
                    told_ns.push(cpu_ns);
                    run.answer = Some(answer);
                    continue;
                }
                Ok(None) => Some(failed("its process answered what makes no sense")),
                Err(Lost::Cancelled) => Some(ComputeError::Cancelled),
                Err(Lost::Expensive(_) | Lost::Broken) => None,
            };
            let by_end = match process.end(&mut spend).await {
                End::Memory => self.memory(),
                End::Other(reason) => failed(reason),
            };
            told_ns.push(spent_ns.saturating_sub(told_ns.iter().sum()));
            run.answer = Some(Err(lost.unwrap_or(by_end)));
            share(spent_ns, &told_ns, runs);
            return;
        }
        process.tell(&mut |cpu_ns| spent_ns += cpu_ns);
        share(spent_ns, &told_ns, runs);
        self.process = Some(process);
    }

    /// The outputs or the error that the process answered, and the CPU time that it says the run took; none where it
    /// makes no sense.
    fn read(&mut self, answer: Answer, body: Bytes) -> Option<(Result<Vec<Tensor>, ComputeError>, u64)> {
        let Answer::Ran { outputs, cpu_ns } = answer else {
            return None;
        };
        // It may say anything.
        let cpu_ns = cpu_ns.min(MOST_NS);
        self.brief_runs = match Duration::from_nanos(cpu_ns) <= BRIEF {
            true => self.brief_runs.saturating_add(1),
            false => 0,
        };
        let answer = match outputs {
            Ok(heads) => {
                let outputs = frame::tensors(heads, body).ok()?;
                check::outputs(&self.signature, &outputs).then_some(Ok(outputs))?
            }
            Err(ComputeError::Backend { reason }) if is_beyond_memory(&reason) => Err(self.memory()),
            Err(error) => Err(error),
        };
        Some((answer, cpu_ns))
    }

    fn memory(&self) -> ComputeError {
        ComputeError::Memory {
            limit_bytes: self.memory_bytes,
        }
    }
}

fn question(run: &Run) -> Question {
    Question {
        ask: Ask::Run(run.inputs.iter().map(Head::of).collect()),
        body: run.inputs.iter().map(|input| input.data().clone()).collect(),
    }
}

/// Shares what was spent for the first of `runs` together in proportion to what each of them took as the process says:
/// the sum is what was measured, whatever it says.
fn share(spent_ns: u64, told_ns: &[u64], runs: &mut [Run]) {
    if spent_ns == 0 {
        return;
    }
    // Even one that took no time counts for something.
    let weights = told_ns.iter().map(|&ns| u128::from(ns) + 1).enumerate().collect();
    for (index, cpu_ns) in largest_remainder(spent_ns, &weights) {
        runs[index].meter.add_ns(cpu_ns);
    }
}

fn failed(reason: impl Into<String>) -> ComputeError {
    ComputeError::Backend {
        reason: reason.into(),
    }
}
