//! `wattle:pipeline`: settings and notes.

use wasmtime::StoreContextMut;
use wasmtime::component::Linker;

use crate::bindings::wattle::pipeline::log::Level;
use crate::state::{State, call_fuel, charge};

/// Links `config` and `log`.
pub(crate) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let mut config = linker.instance("wattle:pipeline/config@0.1.0")?;
    config.func_wrap(
        "get",
        |mut store: StoreContextMut<'_, State>, (key,): (String,)| {
            let value = store.data().settings.get(&key).cloned();
            let bytes = key.len() + value.as_ref().map_or(0, String::len);
            charge(&mut store, call_fuel(bytes as u64))?;
            Ok((value,))
        },
    )?;
    let mut log = linker.instance("wattle:pipeline/log@0.1.0")?;
    log.func_wrap(
        "write",
        |mut store: StoreContextMut<'_, State>, (level, text): (Level, String)| {
            charge(&mut store, call_fuel(text.len() as u64))?;
            let invocation = store.data().notes.take(text.len())?;
            // Debug formatting escapes control characters: tenants do not draw on the operator's terminal.
            match level {
                Level::Trace => tracing::trace!(target: "guest", %invocation, text = ?text),
                Level::Debug => tracing::debug!(target: "guest", %invocation, text = ?text),
                Level::Info => tracing::info!(target: "guest", %invocation, text = ?text),
                Level::Warn => tracing::warn!(target: "guest", %invocation, text = ?text),
                Level::Error => tracing::error!(target: "guest", %invocation, text = ?text),
            }
            Ok(())
        },
    )?;
    Ok(())
}
