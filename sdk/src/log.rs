//! Notes to whoever runs the host, under the invocation's id in its log. A call that writes more than its
//! limit ends there.

pub use crate::bindings::wattle::pipeline::log::{Level, write};

/// Notes something of interest only when looking for a fault.
pub fn debug(message: impl AsRef<str>) {
    write(Level::Debug, message.as_ref());
}

/// Notes something of interest.
pub fn info(message: impl AsRef<str>) {
    write(Level::Info, message.as_ref());
}

/// Notes something that looks wrong.
pub fn warn(message: impl AsRef<str>) {
    write(Level::Warn, message.as_ref());
}

/// Notes something that is wrong.
pub fn error(message: impl AsRef<str>) {
    write(Level::Error, message.as_ref());
}

/// From here on a panic leaves its message as a note before it traps: a pipeline has no standard error.
#[doc(hidden)]
pub fn panics() {
    std::panic::set_hook(Box::new(|info| error(info.to_string())));
}
