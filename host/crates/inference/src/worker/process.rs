//! The host's side of a graph's process: started, talked to, metered, ended.

use std::io::{self, Write as _};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use bytes::Bytes;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, waitid};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStderr, Command};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::WorkerOptions;
use super::frame::{self, Answer, Ask, PREFIX_BYTES, Prefix};
use crate::MAX_OUTPUT_BYTES;
use crate::cpu::ProcessClock;

/// How often the CPU time of a busy process is looked at, so that its cell lives: what is not told yet when a slice is
/// cut goes to the host's own work there. A look costs a microsecond.
const SAMPLING: Duration = Duration::from_millis(10);
/// What a run gets to end by itself once nobody wants its answer.
const GRACE: Duration = Duration::from_millis(50);
/// Bytes of a small frame, written and read at once.
const BUFFER_BYTES: usize = 64 << 10;
/// The end of what a process complains that is kept.
const COMPLAINT_BYTES: usize = 2 << 10;
/// What the last words of an ended process are waited for.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// The stack of the thread that runs the model: the planner recurses along the longest way of its graph.
const STACK_BYTES: &str = "67108864";

/// A process with a graph, or about to have one.
pub(super) struct Process {
    child: Child,
    socket: BufReader<UnixStream>,
    stopping: std::os::unix::net::UnixStream,
    answered: u64,
    complaint: JoinHandle<Vec<u8>>,
    clock: Option<ProcessClock>,
    seen_ns: u64,
    /// When the clock is looked at next. It outlives a question: to set a timer wakes the thread that waits for
    /// them, and most answers come long before it.
    sampling: Pin<Box<Sleep>>,
}

/// What is asked.
pub(super) struct Question {
    pub(super) ask: Ask,
    pub(super) body: Vec<Bytes>,
}

/// What one question may take.
pub(super) struct Bounds {
    pub(super) cpu: Duration,
    pub(super) wall: Duration,
}

/// Why there is no answer. The process is then of no more use.
pub(super) enum Lost {
    /// Nobody wants the answer any more.
    Cancelled,
    /// It took more than this.
    Expensive(String),
    /// The process has ended, or says what makes no sense.
    Broken,
}

impl Lost {
    fn broken(error: io::Error) -> Self {
        tracing::debug!(%error, "a graph's process does not answer");
        Self::Broken
    }
}

/// How a process ended that should not have.
pub(super) enum End {
    /// It got no more memory.
    Memory,
    /// In words.
    Other(String),
}

impl Process {
    pub(super) async fn start(options: &WorkerOptions) -> io::Result<Self> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let (stopping, stopped) = std::os::unix::net::UnixStream::pair()?;
        stopping.set_nonblocking(true)?;
        // Whatever a library prints there goes nowhere.
        stopping.shutdown(Shutdown::Read)?;
        let mut child = Command::new(&options.program)
            .args(&options.args)
            .env_clear()
            // One thread, one heap: CPU time and memory are the model's alone.
            .env("RTEN_NUM_THREADS", "1")
            .env("MALLOC_ARENA_MAX", "1")
            .env("RUST_MIN_STACK", STACK_BYTES)
            // Else ONNX Runtime opens a database in the user's home and reports to its makers over the network.
            .env("ORT_DISABLE_TELEMETRY", "1")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::from(OwnedFd::from(stopped)))
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stderr = child.stderr.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let mut socket = BufReader::with_capacity(BUFFER_BYTES, UnixStream::from_std(ours)?);
        socket.write_all(&options.memory_bytes.to_le_bytes()).await?;
        Ok(Self {
            clock: child.id().and_then(ProcessClock::of),
            child,
            socket,
            stopping,
            answered: 0,
            complaint: tokio::spawn(tail(stderr)),
            seen_ns: 0,
            sampling: Box::pin(sleep(SAMPLING)),
        })
    }

    /// Asks `questions`, and waits for the answer to the first that has none yet: there is one answer for each, in their
    /// order. CPU time goes to `spend` while it is used, in nanoseconds; the rest follows when it is
    /// [told](Self::tell) or the process has been [ended](Self::end).
    pub(super) async fn ask(
        &mut self,
        questions: &[Question],
        cancel: &CancellationToken,
        bounds: Option<&Bounds>,
        spend: &mut (dyn FnMut(u64) + Send),
    ) -> Result<(Answer, Bytes), Lost> {
        let (began, began_ns) = (Instant::now(), self.seen_ns);
        self.answered += 1;
        if self.sampling.is_elapsed() {
            self.sampling.as_mut().reset(began + SAMPLING);
        }
        let mut killed_at = None;
        let (socket, clock, seen_ns) = (&mut self.socket, self.clock, &mut self.seen_ns);
        let (mut stopping, number) = (&self.stopping, self.answered);
        let sampling = &mut self.sampling;
        let mut talk = std::pin::pin!(talk(socket, questions));
        loop {
            tokio::select! {
                biased;
                answer = &mut talk => break answer.map_err(Lost::broken),
                () = cancel.cancelled(), if killed_at.is_none() => {
                    // Where the library can stop between two operators, the process and its model stay.
                    let _ = stopping.write_all(&number.to_le_bytes());
                    killed_at = Some(Instant::now() + GRACE);
                }
                () = sleep_until(killed_at.unwrap_or(began)), if killed_at.is_some() => {
                    break Err(Lost::Cancelled);
                }
                () = sampling.as_mut() => {
                    sampling.as_mut().reset(Instant::now() + SAMPLING);
                    sample(clock, seen_ns, spend);
                    let cpu = Duration::from_nanos(*seen_ns - began_ns);
                    if let Some(bound) = bounds.and_then(|bounds| bounds.broken(cpu, began.elapsed())) {
                        break Err(Lost::Expensive(bound));
                    }
                }
            }
        }
    }

    /// Tells the CPU time that has been used up to now.
    pub(super) fn tell(&mut self, spend: &mut (dyn FnMut(u64) + Send)) {
        sample(self.clock, &mut self.seen_ns, spend);
    }

    /// Ends the process, tells the rest of its CPU time, and says how it ended if it did so by itself.
    pub(super) async fn end(mut self, spend: &mut (dyn FnMut(u64) + Send)) -> End {
        // One that has ended already keeps its own status.
        let by_itself = self.has_ended();
        let _ = self.child.start_kill();
        // Giving back its memory is work as well. Its clock stands when that is done, and is gone once it was
        // waited for.
        if let Some(pid) = self.pid() {
            let _ = tokio::task::spawn_blocking(move || dead(pid, WaitIdOptions::empty())).await;
        }
        sample(self.clock, &mut self.seen_ns, spend);
        let status = self.child.wait().await;
        let complaint = timeout(LAST_WORDS, self.complaint).await;
        let complaint = complaint.ok().and_then(Result::ok).unwrap_or_default();
        let complaint = String::from_utf8_lossy(&complaint);
        match status {
            Ok(status) => post_mortem(status, complaint.trim_end(), by_itself),
            Err(error) => End::Other(error.to_string()),
        }
    }

    /// Whether it has ended by itself: the kernel takes it where memory is short.
    pub(super) fn has_ended(&self) -> bool {
        self.pid().is_none_or(|pid| dead(pid, WaitIdOptions::NOHANG))
    }

    fn pid(&self) -> Option<Pid> {
        Pid::from_raw(i32::try_from(self.child.id()?).ok()?)
    }

    /// The most memory that it had at once, in bytes.
    pub(super) fn peak_bytes(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()?)).ok()?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        let kib: u64 = peak.trim().strip_suffix(" kB")?.parse().ok()?;
        Some(kib << 10)
    }
}

impl Bounds {
    fn broken(&self, cpu: Duration, wall: Duration) -> Option<String> {
        if cpu > self.cpu {
            Some(format!("{} s of CPU time", self.cpu.as_secs()))
        } else if wall > self.wall {
            Some(format!("{} s", self.wall.as_secs()))
        } else {
            None
        }
    }
}

/// Whether a child is dead, without taking its status; waits for it unless `options` say otherwise.
fn dead(pid: Pid, options: WaitIdOptions) -> bool {
    let options = options | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    !matches!(waitid(WaitId::Pid(pid), options), Ok(None))
}

/// Tells what the process used beyond what is known.
fn sample(clock: Option<ProcessClock>, seen_ns: &mut u64, spend: &mut (dyn FnMut(u64) + Send)) {
    let now_ns = clock.and_then(ProcessClock::now_ns).unwrap_or(*seen_ns);
    spend(now_ns.saturating_sub(*seen_ns));
    *seen_ns = now_ns.max(*seen_ns);
}

async fn talk(socket: &mut BufReader<UnixStream>, questions: &[Question]) -> io::Result<(Answer, Bytes)> {
    let mut waiting = Vec::new();
    for Question { ask, body } in questions {
        let body_bytes: u64 = body.iter().map(|part| part.len() as u64).sum();
        waiting.extend_from_slice(&frame::start(ask, body_bytes)?);
        for part in body {
            if waiting.len() + part.len() <= BUFFER_BYTES {
                waiting.extend_from_slice(part);
                continue;
            }
            socket.write_all(&waiting).await?;
            socket.write_all(part).await?;
            waiting.clear();
        }
    }
    if !waiting.is_empty() {
        socket.write_all(&waiting).await?;
    }

    let mut prefix = [0; PREFIX_BYTES];
    socket.read_exact(&mut prefix).await?;
    let prefix = Prefix::parse(prefix, MAX_OUTPUT_BYTES)?;
    let mut head = vec![0; prefix.head_bytes];
    socket.read_exact(&mut head).await?;
    let mut body = Vec::new();
    socket
        .take(prefix.body_bytes as u64)
        .read_to_end(&mut body)
        .await?;
    Ok((frame::head(&head)?, body.into()))
}

/// The end of what a process says on standard error, once it has closed it.
async fn tail(mut stderr: ChildStderr) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut buffer = [0; COMPLAINT_BYTES];
    while let Ok(length @ 1..) = stderr.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..length]);
        kept.drain(..kept.len().saturating_sub(COMPLAINT_BYTES));
    }
    kept
}

/// How a process ended, by its status and its last words.
fn post_mortem(status: ExitStatus, complaint: &str, by_itself: bool) -> End {
    if by_itself {
        tracing::warn!(%status, %complaint, "a graph's process ended");
    }
    // Rust aborts and says so where the limit of its address space refuses memory.
    if complaint.contains("memory allocation of") {
        return End::Memory;
    }
    if complaint.contains("overflowed its stack") {
        return End::Other("the graph is too deep: its operators overflowed the stack".into());
    }
    match status.signal() {
        // Not by us: it had closed its socket before. Then it was the kernel, short of memory.
        Some(signal) if signal == Signal::KILL.as_raw() => End::Other("its process was killed".into()),
        _ => End::Other(format!("its process ended with {status}")),
    }
}
