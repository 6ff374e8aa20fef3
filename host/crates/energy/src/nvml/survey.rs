//! Which GPUs the driver shows.

use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use nvml_wrapper::Device;

use super::NvmlMeter;
use super::driver::{Link, Session, Trouble};
use crate::MeterError;
use crate::discover::{Candidate, Verdict};

const SOURCE: &str = "nvml";

/// A GPU, and its meter or why there is none.
pub(crate) struct Found {
    /// Its number and name, for people.
    pub(crate) subject: String,
    pub(crate) meter: Result<NvmlMeter, MeterError>,
}

/// The GPUs that `library` shows, by the driver's numbers; else why it shows none. A driver that hangs is
/// waited for as long as `patience` lasts.
pub(crate) fn survey(library: &Path, patience: Duration) -> Result<Vec<Found>, Candidate> {
    let none = |verdict, why: String| {
        Err(Candidate::new(
            SOURCE,
            library.display().to_string(),
            verdict,
            why,
        ))
    };
    let (to_us, answer) = mpsc::channel();
    let theirs = library.to_owned();
    let look = move || {
        // A late answer is nobody's: it is dropped, and the library is closed.
        let _ = to_us.send(look(&theirs));
    };
    if let Err(error) = thread::Builder::new().name("nvml survey".into()).spawn(look) {
        return none(Verdict::Unusable, MeterError::Thread(error).to_string());
    }
    match answer.recv_timeout(patience) {
        Ok(Ok(found)) if found.is_empty() => {
            none(Verdict::Left, "the driver shows no GPU to this process".into())
        }
        Ok(Ok(found)) => Ok(found),
        // The usual name, which nobody configured: without the library there is nothing to read. A path is one
        // that the site has asked for.
        Ok(Err(Trouble::Absent(words))) if library.components().count() == 1 => none(
            Verdict::Left,
            format!("there is no driver of NVIDIA's GPUs on this machine: {words}"),
        ),
        Ok(Err(trouble)) => none(Verdict::Unusable, trouble.error(library, "").to_string()),
        Err(RecvTimeoutError::Timeout) => none(
            Verdict::Unusable,
            format!("the driver did not answer within {} s", patience.as_secs_f32()),
        ),
        Err(RecvTimeoutError::Disconnected) => none(
            Verdict::Unusable,
            "the library does not behave as the driver's does".into(),
        ),
    }
}

fn look(library: &Path) -> Result<Vec<Found>, Trouble> {
    let session = Session::open(library)?;
    let each = (0..session.gpus()?).map(|index| match session.by_index(index) {
        Ok(gpu) => found(index, &gpu, library),
        Err(trouble) => unknown(index, trouble, library),
    });
    Ok(each.collect())
}

fn unknown(index: u32, trouble: Trouble, library: &Path) -> Found {
    Found {
        subject: format!("GPU {index}"),
        meter: Err(trouble.error(library, &format!("GPU {index}"))),
    }
}

fn found(index: u32, gpu: &Device<'_>, library: &Path) -> Found {
    let uuid = match gpu.uuid() {
        Ok(uuid) => uuid,
        Err(error) => return unknown(index, error.into(), library),
    };
    let subject = match gpu.name() {
        Ok(name) => format!("GPU {index} ({name})"),
        Err(_) => format!("GPU {index}"),
    };
    let has_mig = gpu.mig_mode().is_ok_and(|mode| mode.current != 0);
    let board = if has_mig {
        format!("{subject}, all of the board, as MIG's partitions have no counters of their own")
    } else {
        subject.clone()
    };
    let link = Link::new(library, &uuid);
    Found {
        meter: NvmlMeter::new(gpu, &uuid, board, link),
        subject,
    }
}
