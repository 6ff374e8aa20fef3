//! A graph's process: confined before it sees a byte of the tenant's or opens a library, on one thread beside
//! the one that watches for the host's stops and for its end.

use std::io::{self, BufReader, Read, Write};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use domain::Tensor;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Resource, Rlimit, Signal, getpid, kill_process, setrlimit};

use super::frame::{self, Answer, Ask, Head, PREFIX_BYTES, Prefix};
use super::stop::Stops;
use crate::backends::onnxruntime;
use crate::cpu;
use crate::error::{ComputeError, LoadError};

/// Bytes of a small frame, read at once.
const BUFFER_BYTES: usize = 64 << 10;

/// Files that the process may have open: the library looks at the machine's processors.
const MAX_FILES: u64 = 16;

/// Why a graph's process gives up. The host sees only that it ended.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The socket on standard input is gone, or the host does not speak as it should.
    #[error("the host does not talk: {0}")]
    Io(#[from] io::Error),
    /// The process cannot be confined.
    #[error("the limits cannot be set: {0}")]
    Limits(#[from] rustix::io::Errno),
}

/// Loads the model that comes over the socket on standard input and runs it as it is told, until the host
/// closes the socket. Over the one on standard output come the runs that are to be stopped.
///
/// The body of a hidden subcommand, to be run in a process that does nothing else.
///
/// # Errors
/// No socket on standard input or output, limits that cannot be set.
pub fn graph_worker() -> Result<(), WorkerError> {
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut limit_bytes = [0; 8];
    (&socket).read_exact(&mut limit_bytes)?;
    confine(u64::from_le_bytes(limit_bytes))?;
    let stopping = UnixStream::from(io::stdout().as_fd().try_clone_to_owned()?);
    let stops = Arc::new(Stops::default());
    watch(socket.try_clone()?, stopping, Arc::clone(&stops))?;
    // The words of a panic go into the answer.
    panic::set_hook(Box::new(|_| {}));
    // Entered once: inside, rten works on the thread that it finds itself on.
    rten::thread_pool().run(|| serve(&socket, &stops))?;
    Ok(())
}

fn confine(address_space_bytes: u64) -> Result<(), WorkerError> {
    // Where memory is short, the kernel is to take this process before the host. It may not be ours to say.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    rustix::thread::set_no_new_privs(true)?;
    for (resource, most) in [
        (Resource::Core, 0),
        (Resource::Fsize, 0),
        (Resource::Nofile, MAX_FILES),
        (Resource::As, address_space_bytes),
    ] {
        let limit = Rlimit {
            current: Some(most),
            maximum: Some(most),
        };
        setrlimit(resource, limit)?;
    }
    Ok(())
}

/// Ends this process when the other end of the socket is closed, whatever the model does just then, and stops
/// the runs whose numbers come over `stopping`.
fn watch(socket: UnixStream, mut stopping: UnixStream, stops: Arc<Stops>) -> io::Result<()> {
    let watch = move || {
        loop {
            // Nothing is asked of the first: it returns when the other end is gone.
            let mut watched = [
                PollFd::new(&socket, PollFlags::empty()),
                PollFd::new(&stopping, PollFlags::IN),
            ];
            if poll(&mut watched, None).is_err() {
                continue;
            }
            let hung_up = watched[0].revents().intersects(PollFlags::HUP | PollFlags::ERR);
            let told = !watched[1].revents().is_empty();
            let mut number = [0; 8];
            if hung_up || told && stopping.read_exact(&mut number).is_err() {
                let _ = kill_process(getpid(), Signal::KILL);
            } else if told {
                stops.stop(u64::from_le_bytes(number));
            }
        }
    };
    thread::Builder::new().stack_size(64 << 10).spawn(watch).map(drop)
}

fn serve(socket: &UnixStream, stops: &Stops) -> io::Result<()> {
    let mut input = BufReader::with_capacity(BUFFER_BYTES, socket);
    stops.next();
    let (library, blob) = match read(&mut input)? {
        Some((Ask::Load(library), blob)) => (library, blob),
        Some((Ask::Probe(path), _)) => {
            let answer = match loaded(|| onnxruntime::probe(&path)) {
                Ok(version) => Answer::Probed(version),
                Err(error) => Answer::Refused(error),
            };
            return write(socket, &answer);
        }
        _ => return Err(frame::garbled("a run before a model")),
    };
    let mut model = match loaded(|| library.load(blob)) {
        Ok(model) => model,
        Err(error) => return write(socket, &Answer::Refused(error)),
    };
    write(socket, &Answer::Loaded(model.signature().clone()))?;
    let (mut answers, mut told_ns) = (Vec::new(), cpu::thread_ns());
    while let Some((ask, body)) = read(&mut input)? {
        stops.next();
        let Ask::Run(heads) = ask else {
            return Err(frame::garbled("a second model"));
        };
        let inputs = frame::tensors(heads, Bytes::from(body))?;
        let answer = guarded(|| model.run(&inputs, stops));
        let outputs = answer.unwrap_or_else(|reason| Err(ComputeError::Backend { reason }));
        let now_ns = cpu::thread_ns();
        let answer = Answer::Ran {
            outputs: outputs
                .as_ref()
                .map(|outputs| outputs.iter().map(Head::of).collect())
                .map_err(ComputeError::clone),
            cpu_ns: now_ns - std::mem::replace(&mut told_ns, now_ns),
        };
        append(&mut answers, socket, &answer, &outputs.unwrap_or_default())?;
        // What was asked together is answered together.
        if input.buffer().is_empty() {
            flush(&mut answers, socket)?;
        }
    }
    Ok(())
}

/// What loading gives; a panic is the library's failure.
fn loaded<T>(load: impl FnOnce() -> Result<T, LoadError>) -> Result<T, LoadError> {
    guarded(load).unwrap_or_else(|reason| Err(LoadError::Backend { reason }))
}

/// What `work` gives, or the words of its panic.
fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| cpu::words(&*panic))
}

/// The next frame; none once the host has closed the socket.
fn read(input: &mut impl Read) -> io::Result<Option<(Ask, Vec<u8>)>> {
    let mut prefix = [0; PREFIX_BYTES];
    match input.read_exact(&mut prefix) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let prefix = Prefix::parse(prefix, u64::MAX)?;
    let mut head = vec![0; prefix.head_bytes];
    input.read_exact(&mut head)?;
    let mut body = vec![0; prefix.body_bytes];
    input.read_exact(&mut body)?;
    Ok(Some((frame::head(&head)?, body)))
}

fn write(socket: &UnixStream, answer: &Answer) -> io::Result<()> {
    let mut frame = Vec::new();
    append(&mut frame, socket, answer, &[])?;
    flush(&mut frame, socket)
}

/// Adds an answer to those that wait to be written; what is too much to wait is written.
fn append(
    waiting: &mut Vec<u8>,
    mut socket: &UnixStream,
    answer: &Answer,
    tensors: &[Tensor],
) -> io::Result<()> {
    waiting.extend_from_slice(&frame::start(answer, frame::body_bytes(tensors))?);
    for tensor in tensors {
        if waiting.len() + tensor.data().len() <= BUFFER_BYTES {
            waiting.extend_from_slice(tensor.data());
            continue;
        }
        flush(waiting, socket)?;
        socket.write_all(tensor.data())?;
    }
    Ok(())
}

fn flush(waiting: &mut Vec<u8>, mut socket: &UnixStream) -> io::Result<()> {
    socket.write_all(waiting)?;
    waiting.clear();
    Ok(())
}
