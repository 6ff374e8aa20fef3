//! The driver's library: opened at run time, asked, and what it may answer.

use std::path::{Path, PathBuf};

use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

use crate::MeterError;

/// More than any GPU takes in ten years: such a counter does not count energy.
const MOST_UJ: u64 = 1_000_000_000_000_000_000;

/// What to grant to whom the driver refuses.
const ADVICE: &str = "let the user of the host open /dev/nvidiactl and the /dev/nvidia0 and following of the \
                      GPUs, in a container by giving it the GPUs";

/// Why the driver gives no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The library cannot be loaded.
    Absent(String),
    /// The driver is not there, or not as it was when the library was opened.
    Driver(String),
    /// The GPU cannot be reached.
    Lost(String),
    /// This user may not ask.
    Denied,
    /// This GPU, or this library, has no such value.
    Unsupported,
    /// A value that cannot be, in millijoules.
    Nonsense(u64),
    /// Anything else.
    Other(String),
}

impl From<NvmlError> for Trouble {
    fn from(error: NvmlError) -> Self {
        let words = error.to_string();
        match error {
            NvmlError::LibloadingError(error) => Self::Absent(error.to_string()),
            NvmlError::DriverNotLoaded => Self::Driver(format!(
                "{words}: load it, or give the container its GPUs; 'nvidia-smi' shows whether it works"
            )),
            NvmlError::LibRmVersionMismatch => Self::Driver(format!(
                "{words}: it was updated while it ran, so load it anew or boot the machine"
            )),
            // Someone else in this process has shut the library down, or a handle is of an earlier time.
            NvmlError::Uninitialized | NvmlError::InvalidArg | NvmlError::NotFound => Self::Driver(words),
            NvmlError::GpuLost | NvmlError::ResetRequired => Self::Lost(words),
            NvmlError::NoPermission => Self::Denied,
            NvmlError::NotSupported | NvmlError::FunctionNotFound | NvmlError::FailedToLoadSymbol(_) => {
                Self::Unsupported
            }
            _ => Self::Other(words),
        }
    }
}

impl Trouble {
    /// Whether the library has to be opened anew to have a chance.
    pub(super) fn ends_session(&self) -> bool {
        matches!(self, Self::Absent(_) | Self::Driver(_) | Self::Lost(_))
    }

    /// The error for a root, asked through `library`.
    pub(super) fn error(self, library: &Path, root: &str) -> MeterError {
        let (library, root) = (library.to_owned(), root.to_owned());
        match self {
            Self::Absent(words) | Self::Driver(words) => MeterError::GpuDriver { library, words },
            Self::Lost(words) => MeterError::GpuLost { root, words },
            Self::Denied => MeterError::Denied {
                path: library,
                advice: ADVICE,
            },
            Self::Unsupported => MeterError::Gpu {
                root,
                words: "no counter of energy and no reading of power is supported".into(),
            },
            Self::Nonsense(energy_mj) => MeterError::GpuValue { root, energy_mj },
            Self::Other(words) => MeterError::Gpu { root, words },
        }
    }
}

/// A GPU as the library numbers it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) index: u32,
    pub(super) uuid: String,
}

/// The library, initialised; shut down when it is dropped. It may be initialised more than once: it counts its users.
pub(super) struct Session {
    nvml: Nvml,
}

impl Session {
    /// Opens the library at `library` and initialises it. That can take seconds where nobody else keeps the
    /// GPUs awake.
    pub(super) fn open(library: &Path) -> Result<Self, Trouble> {
        let nvml = Nvml::builder().lib_path(library.as_os_str()).init();
        // A library without a way to begin is not the driver's.
        let nvml = nvml.map_err(|error| match error {
            NvmlError::FailedToLoadSymbol(words) => Trouble::Absent(words),
            error => error.into(),
        })?;
        Ok(Self { nvml })
    }

    pub(super) fn gpus(&self) -> Result<u32, Trouble> {
        Ok(self.nvml.device_count()?)
    }

    /// The GPU with a number. By number, as `nvmlDeviceGetHandleByUUID` fails where any other GPU is lost.
    pub(super) fn by_index(&self, index: u32) -> Result<Device<'_>, Trouble> {
        Ok(self.nvml.device_by_index(index)?)
    }

    /// Where a GPU is now: numbers change, UUIDs do not. A root's name is the UUID in small letters.
    pub(super) fn find(&self, uuid: &str) -> Result<Place, Trouble> {
        let mut reason = None;
        for index in 0..self.gpus()? {
            match self.by_index(index).and_then(|gpu| Ok(gpu.uuid()?)) {
                Ok(found) if found.eq_ignore_ascii_case(uuid) => return Ok(Place { index, uuid: found }),
                Ok(_) => {}
                // One that is lost does not say who it is: it may be this.
                Err(trouble) => reason = Some(trouble),
            }
        }
        Err(reason.unwrap_or_else(|| Trouble::Lost("the driver does not show it".into())))
    }

    /// The GPU at a place, if it is still that one.
    pub(super) fn at(&self, place: &Place) -> Result<Device<'_>, Trouble> {
        let gpu = self.by_index(place.index)?;
        if gpu.uuid()? == place.uuid {
            Ok(gpu)
        } else {
            Err(Trouble::Driver("it numbers its GPUs anew".into()))
        }
    }
}

/// What a GPU says of its energy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Energy since the driver was loaded.
    Counter,
    /// Power now.
    Power,
}

impl Source {
    /// The best that the GPU has.
    pub(super) fn of(gpu: &Device<'_>) -> Result<Self, Trouble> {
        match Self::Counter.value(gpu) {
            Ok(_) => Ok(Self::Counter),
            Err(Trouble::Unsupported) => Self::Power.value(gpu).map(|_| Self::Power),
            Err(trouble) => Err(trouble),
        }
    }

    /// Microjoules or microwatts. NVML says millijoules and milliwatts.
    pub(super) fn value(self, gpu: &Device<'_>) -> Result<u64, Trouble> {
        match self {
            Self::Counter => {
                let energy_mj = gpu.total_energy_consumption()?;
                let energy_uj = energy_mj.checked_mul(1_000).filter(|&uj| uj <= MOST_UJ);
                energy_uj.ok_or(Trouble::Nonsense(energy_mj))
            }
            Self::Power => Ok(u64::from(gpu.power_usage()?) * 1_000),
        }
    }
}

/// A driver's library and a GPU in it, kept open as long as it answers.
pub(super) struct Link {
    library: PathBuf,
    uuid: String,
    open: Option<(Session, Place)>,
    /// Why it is closed and until when, in nanoseconds since boot.
    closed: Option<(Trouble, u64)>,
}

/// How long a closed library is left alone: to open it takes seconds, and a driver is not mended in less.
pub(super) const RETRY_NS: u64 = 10_000_000_000;

impl Link {
    /// A link that opens when it is first asked.
    pub(super) fn new(library: &Path, uuid: &str) -> Self {
        Self {
            library: library.to_owned(),
            uuid: uuid.to_owned(),
            open: None,
            closed: None,
        }
    }

    pub(super) fn library(&self) -> &Path {
        &self.library
    }

    /// Asks the GPU. After an answer that ends the session, or where the library cannot be opened, the same
    /// answer is given without asking until [`RETRY_NS`] have passed; then the library is opened anew.
    pub(super) fn ask<T>(
        &mut self,
        now_ns: u64,
        question: impl FnOnce(&Device<'_>) -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        if let Some((trouble, until_ns)) = &self.closed
            && now_ns < *until_ns
        {
            return Err(trouble.clone());
        }
        let answer = self
            .session()
            .and_then(|(session, place)| question(&session.at(place)?));
        self.closed = None;
        if let Err(trouble) = &answer
            && (trouble.ends_session() || self.open.is_none())
        {
            // Let go before anything else: a driver can be loaded anew, and another library opened, only then.
            self.open = None;
            self.closed = Some((trouble.clone(), now_ns.saturating_add(RETRY_NS)));
        }
        answer
    }

    fn session(&mut self) -> Result<&(Session, Place), Trouble> {
        let open = match self.open.take() {
            Some(open) => open,
            None => {
                let session = Session::open(&self.library)?;
                let place = session.find(&self.uuid)?;
                (session, place)
            }
        };
        Ok(self.open.insert(open))
    }
}
