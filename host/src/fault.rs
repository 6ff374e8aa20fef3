//! Named points at which the crash tests kill the host.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

struct Fault {
    point: String,
    passes_left: AtomicU64,
}

/// The fault that `WATTLE_FAULT=<point>:<passes>` asks for, none in ordinary service.
fn asked() -> Option<&'static Fault> {
    static ASKED: OnceLock<Option<Fault>> = OnceLock::new();
    let parse = || {
        let text = std::env::var("WATTLE_FAULT").ok()?;
        let (point, passes) = text.split_once(':')?;
        Some(Fault {
            point: point.to_owned(),
            passes_left: AtomicU64::new(passes.parse().ok()?),
        })
    };
    ASKED.get_or_init(parse).as_ref()
}

/// Kills this process, as `kill -9` would, when the asked-for point is passed for the last time.
pub fn point(name: &str) {
    let Some(fault) = asked().filter(|fault| fault.point == name) else {
        return;
    };
    if fault
        .passes_left
        .fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1))
        == Ok(1)
    {
        let myself = rustix::process::getpid();
        // Nothing is to be done if the kill fails: the test then sees a living host.
        let _ = rustix::process::kill_process(myself, rustix::process::Signal::KILL);
    }
}
