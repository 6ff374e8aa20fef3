//! The parent's side of the compile child.

use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use domain::UsageCell;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;

use crate::child::{DONE, HEAD_BYTES, REFUSED};

/// How often the child's CPU time is looked at, so that its cell lives.
const SAMPLING: Duration = Duration::from_millis(50);
/// The most that a child may answer.
const MAX_CODE_BYTES: u64 = 1 << 30;
/// The most of a child's complaints that is kept.
const MAX_COMPLAINT_BYTES: u64 = 16 << 10;

/// The program that calls [`compile_child`](crate::compile_child).
#[derive(Clone, Debug)]
pub struct CompilerCommand {
    /// The executable.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
}

/// What one compilation may use.
#[derive(Clone, Debug)]
pub struct CompileLimits {
    /// Address space of the child, in bytes.
    pub address_space_bytes: u64,
    /// CPU time of the child, in seconds.
    pub cpu_s: u64,
    /// Wall time, in milliseconds.
    pub wall_ms: u64,
}

impl Default for CompileLimits {
    fn default() -> Self {
        Self {
            address_space_bytes: 4 << 30,
            cpu_s: 120,
            wall_ms: 300_000,
        }
    }
}

/// Why there is no runnable code.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// There is no code that this node made for this engine: compile the component.
    #[error("the component is not compiled on this node")]
    Missing,
    /// The compiler refuses the component.
    #[error("the component does not compile: {0}")]
    Refused(String),
    /// Compiling took more time or memory than allowed.
    #[error("making code of the component took more than {0}")]
    TooExpensive(&'static str),
    /// The component's imports or exports have the right names and the wrong types.
    #[error("the component does not fit the contract: {0}")]
    Mismatch(String),
    /// The compiler cannot be started, or its answer cannot be kept. The component may be sound.
    #[error("the compiler cannot be used: {0}")]
    Io(#[from] io::Error),
    /// The compiler ended without an answer.
    #[error("the compiler failed: {0}")]
    Crashed(String),
}

impl CompileError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Missing => "not_compiled",
            Self::Refused(_) => "compile_refused",
            Self::TooExpensive(_) => "compile_too_expensive",
            Self::Mismatch(_) => "contract_mismatch",
            Self::Io(_) => "compiler_unavailable",
            Self::Crashed(_) => "compiler_failed",
        }
    }

    /// Whether the component is at fault and not the host.
    pub fn is_components_fault(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::TooExpensive(_) | Self::Mismatch(_))
    }
}

/// Runs compile children, one at a time.
pub(crate) struct Compiler {
    command: CompilerCommand,
    limits: CompileLimits,
    turn: Semaphore,
}

impl Compiler {
    pub(crate) fn new(command: CompilerCommand, limits: CompileLimits) -> Self {
        Self {
            command,
            limits,
            turn: Semaphore::new(1),
        }
    }

    /// Waits for a turn. Whoever holds it may also write the folder of compiled code.
    pub(crate) async fn turn(&self) -> Result<tokio::sync::SemaphorePermit<'_>, CompileError> {
        self.turn
            .acquire()
            .await
            .map_err(|_| CompileError::Crashed("the host stops".into()))
    }

    /// What the child makes of `upload`. Its CPU time enters the cell while it runs.
    pub(crate) async fn run(
        &self,
        job: u8,
        upload: &[u8],
        cell: &UsageCell,
    ) -> Result<Vec<u8>, CompileError> {
        let mut child = Command::new(&self.command.program)
            .args(&self.command.args)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut meter = ChildMeter::new(child.id());
        let wall = tokio::time::sleep(Duration::from_millis(self.limits.wall_ms));
        let mut sampling = tokio::time::interval(SAMPLING);
        let answer = {
            let talk = talk(&mut child, job, upload, &self.limits);
            tokio::pin!(talk, wall);
            loop {
                tokio::select! {
                    answer = &mut talk => break Some(answer),
                    () = &mut wall => break None,
                    _ = sampling.tick() => meter.sample(cell),
                }
            }
        };
        if answer.is_none() {
            child.start_kill()?;
        }
        // The child is not reaped yet, so its last figure can still be read.
        meter.sample(cell);
        let status = child.wait().await?;
        let Some(answer) = answer else {
            return Err(CompileError::TooExpensive("its wall time"));
        };
        let (output, complaint) = answer?;
        if let (true, Some((head, payload))) = (status.success(), output.split_at_checked(HEAD_BYTES)) {
            return verdict(head, payload, &mut meter, cell);
        }
        Err(post_mortem(status, &complaint))
    }
}

fn verdict(
    head: &[u8],
    payload: &[u8],
    meter: &mut ChildMeter,
    cell: &UsageCell,
) -> Result<Vec<u8>, CompileError> {
    let (verdict, cpu_ns) = head.split_first().unwrap_or((&u8::MAX, &[]));
    if let Ok(cpu_ns) = cpu_ns.try_into() {
        meter.note(u64::from_le_bytes(cpu_ns), cell);
    }
    match *verdict {
        DONE => Ok(payload.to_vec()),
        REFUSED => Err(CompileError::Refused(
            String::from_utf8_lossy(payload).into_owned(),
        )),
        other => Err(CompileError::Crashed(format!("it answered with verdict {other}"))),
    }
}

/// Gives the child its work and collects what it says on both streams.
async fn talk(
    child: &mut Child,
    job: u8,
    upload: &[u8],
    limits: &CompileLimits,
) -> Result<(Vec<u8>, Vec<u8>), io::Error> {
    let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
    let mut stdin = child.stdin.take().ok_or_else(gone)?;
    let mut stdout = child.stdout.take().ok_or_else(gone)?.take(MAX_CODE_BYTES);
    let mut stderr = child.stderr.take().ok_or_else(gone)?;
    let write = async move {
        stdin.write_all(&[job]).await?;
        stdin.write_all(&limits.address_space_bytes.to_le_bytes()).await?;
        stdin.write_all(&limits.cpu_s.to_le_bytes()).await?;
        stdin.write_all(upload).await?;
        stdin.shutdown().await
    };
    let (mut output, mut complaint) = (Vec::new(), Vec::new());
    let complain = async {
        (&mut stderr)
            .take(MAX_COMPLAINT_BYTES)
            .read_to_end(&mut complaint)
            .await?;
        tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await
    };
    let (written, read, _) = tokio::join!(write, stdout.read_to_end(&mut output), complain);
    read?;
    // A child that died early says why by its status, not by the pipe that it broke.
    if output.is_empty() || written.is_ok() {
        Ok((output, complaint))
    } else {
        written.map(|()| (output, complaint))
    }
}

/// Why a child ended without an answer.
fn post_mortem(status: std::process::ExitStatus, complaint: &[u8]) -> CompileError {
    use std::os::unix::process::ExitStatusExt;
    let complaint = String::from_utf8_lossy(complaint);
    tracing::warn!(%status, %complaint, "the compile child ended without an answer");
    let signal = status.signal();
    if signal == Some(rustix::process::Signal::XCPU.as_raw()) {
        return CompileError::TooExpensive("its CPU time");
    }
    // Past its CPU time the kernel sends KILL where XCPU is not heeded; out of address space or stack, Rust
    // aborts and says so.
    if signal == Some(rustix::process::Signal::KILL.as_raw()) {
        return CompileError::TooExpensive("its CPU time or memory");
    }
    if signal == Some(rustix::process::Signal::ABORT.as_raw()) {
        if complaint.contains("memory allocation") {
            return CompileError::TooExpensive("its memory");
        }
        if complaint.contains("overflowed its stack") {
            return CompileError::TooExpensive("its stack");
        }
    }
    CompileError::Crashed(status.to_string())
}

/// Reads the CPU time of a child while it is not reaped.
struct ChildMeter {
    pid: Option<u32>,
    seen_ns: u64,
}

impl ChildMeter {
    fn new(pid: Option<u32>) -> Self {
        Self { pid, seen_ns: 0 }
    }

    fn sample(&mut self, cell: &UsageCell) {
        let path = self.pid.map(|pid| format!("/proc/{pid}/stat"));
        let stat = path.and_then(|path| std::fs::read_to_string(path).ok());
        if let Some(cpu_ns) = stat.as_deref().and_then(cpu_ns) {
            self.note(cpu_ns, cell);
        }
    }

    /// Adds what `cpu_ns`, the child's use since its start, says beyond what is known.
    fn note(&mut self, cpu_ns: u64, cell: &UsageCell) {
        cell.add_cpu_ns(cpu_ns.saturating_sub(self.seen_ns));
        self.seen_ns = self.seen_ns.max(cpu_ns);
    }
}

/// User and system time in a line of `/proc/<pid>/stat`, fields 14 and 15 of proc(5).
fn cpu_ns(stat: &str) -> Option<u64> {
    // The name, field 2, may hold blanks and brackets: count from its end.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let user: u64 = fields.nth(11)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) * (1_000_000_000 / rustix::param::clock_ticks_per_second().max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_name() {
        let tick = 1_000_000_000 / rustix::param::clock_ticks_per_second();
        let stat = "12 (a ) b (c) S 1 12 12 0 -1 4194304 100 0 0 0 7 5 0 0 20 0 1 0 100 200 300";
        assert_eq!(cpu_ns(stat), Some(12 * tick));
        assert_eq!(cpu_ns("12 (a) S 1"), None);
        assert_eq!(cpu_ns(""), None);
    }

    #[test]
    fn a_childs_time_is_counted_once() {
        let cell = UsageCell::default();
        let mut meter = ChildMeter::new(None);
        for cpu_ns in [0, 30, 30, 20, 70] {
            meter.note(cpu_ns, &cell);
        }
        assert_eq!(cell.snapshot().cpu_ns, 70);
    }
}
