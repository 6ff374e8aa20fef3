//! Loads of known kinds, run as guests are: what a calibration makes the machine do.

use domain::UsageCell;
use domain::usage::{FUEL_PER_HOST_CALL, transfer_fuel};
use inference::metered;
use wasmtime::{Caller, Engine, Extern, Linker, Module, Store};

use crate::engine::{self, RuntimeError};

/// The code of all of them.
const CODE: &str = include_str!("exercise.wat");

/// What a guest does over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exercise {
    /// Integer operations, many of them in a nanosecond.
    Integers,
    /// Divisions and roots, which take long and little fuel.
    Floats,
    /// Words all over its memory.
    Memory,
    /// Bytes to the host.
    Traffic,
}

impl Exercise {
    /// All.
    pub const ALL: [Self; 4] = [Self::Integers, Self::Floats, Self::Memory, Self::Traffic];

    /// The name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Integers => "integers",
            Self::Floats => "floats",
            Self::Memory => "memory",
            Self::Traffic => "traffic",
        }
    }

    /// Rounds between two looks at whether to go on: some milliseconds.
    fn rounds(self) -> i32 {
        match self {
            Self::Integers => 1_000_000,
            Self::Floats | Self::Memory => 200_000,
            Self::Traffic => 200,
        }
    }
}

/// What the host has of the guest.
#[derive(Default)]
struct Moved {
    buffer: Vec<u8>,
    calls: u64,
    bytes: u64,
}

/// The exercises, compiled as components are.
pub struct Exercises {
    engine: Engine,
    module: Module,
    linker: Linker<Moved>,
}

impl Exercises {
    /// Compiles them: a moment.
    pub fn new() -> Result<Self, RuntimeError> {
        let make = || -> wasmtime::Result<Self> {
            let engine = engine::compiling_engine()?;
            let module = Module::new(&engine, wat::parse_str(CODE)?)?;
            let mut linker = Linker::new(&engine);
            linker.func_wrap("load", "move", take)?;
            Ok(Self {
                engine,
                module,
                linker,
            })
        };
        make().map_err(failed)
    }

    /// Runs one on this thread for as long as `goes_on` says so. Its CPU time, its fuel and the bytes that it moved
    /// enter the cell every few milliseconds, as those of a guest's calls would.
    pub fn run(
        &self,
        exercise: Exercise,
        cell: &UsageCell,
        goes_on: impl Fn() -> bool,
    ) -> Result<(), RuntimeError> {
        let run = || -> wasmtime::Result<()> {
            let mut store = Store::new(&self.engine, Moved::default());
            store.set_epoch_deadline(u64::MAX / 2);
            store.set_fuel(u64::MAX)?;
            let instance = self.linker.instantiate(&mut store, &self.module)?;
            let guest = instance.get_typed_func::<i32, i64>(&mut store, exercise.as_str())?;
            while goes_on() {
                store.set_fuel(u64::MAX)?;
                metered(cell, || guest.call(&mut store, exercise.rounds()))?;
                let burnt = u64::MAX - store.get_fuel()?;
                let moved = store.data_mut();
                let (calls, bytes) = (std::mem::take(&mut moved.calls), std::mem::take(&mut moved.bytes));
                cell.add_fuel(burnt + calls * FUEL_PER_HOST_CALL + transfer_fuel(bytes));
                cell.add_bytes_in(bytes);
            }
            Ok(())
        };
        run().map_err(failed)
    }
}

/// Copies what the guest gives, as a call of the host does with a tensor.
fn take(mut guest: Caller<'_, Moved>, from: u32, bytes: u32) -> wasmtime::Result<()> {
    let Some(Extern::Memory(memory)) = guest.get_export("bytes") else {
        return Err(wasmtime::Error::msg("it has no memory"));
    };
    let mut buffer = std::mem::take(&mut guest.data_mut().buffer);
    buffer.resize(bytes as usize, 0);
    memory.read(&guest, from as usize, &mut buffer)?;
    let moved = guest.data_mut();
    moved.buffer = buffer;
    moved.calls += 1;
    moved.bytes += u64::from(bytes);
    Ok(())
}

fn failed(error: wasmtime::Error) -> RuntimeError {
    RuntimeError::Engine(format!("{error:#}"))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn each_uses_what_it_is_of() {
        let exercises = Exercises::new().unwrap();
        let usage = Exercise::ALL.map(|exercise| {
            let (cell, rounds) = (UsageCell::default(), Cell::new(0));
            let goes_on = || rounds.replace(rounds.get() + 1) < 3;
            exercises.run(exercise, &cell, goes_on).unwrap();
            cell.snapshot()
        });
        for used in &usage {
            assert!(used.cpu_ns > 0 && used.fuel > 0, "{used:?}");
        }
        let [integers, floats, memory, traffic] = usage;
        for quiet in [&integers, &floats, &memory] {
            assert_eq!(quiet.bytes_in, 0);
        }
        assert_eq!(traffic.bytes_in, 3 * 200 * 65_536);
        assert!(traffic.fuel > 3 * 200 * (FUEL_PER_HOST_CALL + 65_536 / 8));
        // Else nobody could tell fuel from time.
        let per_ns = |used: &domain::Usage| used.fuel as f64 / used.cpu_ns as f64;
        assert!(
            per_ns(&integers) > 2.0 * per_ns(&floats),
            "{integers:?} {floats:?}"
        );
    }
}
