//! What the host keeps for one call: the data of its store.

use std::collections::BTreeMap;
use std::sync::Arc;

use domain::{Limits, Outcome, UsageCell};
use inference::ComputeError;
use wasmtime::component::{Resource, ResourceTable};
use wasmtime::{AsContextMut, StoreContextMut, Trap};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use crate::guard::Guard;
use crate::limits::Limiter;
use crate::outcome::Stop;
use crate::pipeline::{Graphs, Invocation};
use crate::wasi::{self, Notes};

/// Fuel for one call of the host, WASI's functions included.
pub(crate) const FUEL_PER_CALL: u64 = 1_000;
/// Bytes that a call of `wasi:nn` or `wattle:pipeline` moves for one unit of fuel. What WASI moves is bounded
/// otherwise: by the log's limit, or to a few kilobytes.
const BYTES_PER_FUEL: u64 = 8;
/// Multiply-accumulates of a graph for one unit of fuel.
const MACS_PER_FUEL: u64 = 1_000;

pub(crate) struct State {
    /// Made when the guest first asks for it: most never do.
    wasi: Option<WasiCtx>,
    pub(crate) table: ResourceTable,
    pub(crate) limiter: Limiter,
    pub(crate) limits: Limits,
    pub(crate) cell: Arc<UsageCell>,
    pub(crate) guard: Arc<Guard>,
    pub(crate) graphs: Graphs,
    pub(crate) settings: Arc<BTreeMap<String, String>>,
    pub(crate) notes: Notes,
    /// What a graph said when it failed for reasons that are not the guest's.
    pub(crate) graph_fault: Option<ComputeError>,
    tensor_bytes: u64,
    /// Fuel for calls of WASI that the store has not given yet.
    owed_fuel: u64,
    /// Fuel that the cell knows of.
    counted_fuel: u64,
}

impl State {
    pub(crate) fn new(invocation: &Invocation, guard: Arc<Guard>) -> Self {
        let limits = invocation.limits.clone();
        let notes = Notes::new(invocation.invocation, limits.log_bytes);
        let mut table = ResourceTable::new();
        table.set_max_capacity(usize::try_from(limits.handles).unwrap_or(usize::MAX));
        Self {
            wasi: None,
            table,
            limiter: Limiter::new(&limits, Arc::clone(&invocation.cell), invocation.invocation),
            limits,
            cell: Arc::clone(&invocation.cell),
            guard,
            graphs: Arc::clone(&invocation.graphs),
            settings: Arc::clone(&invocation.settings),
            notes,
            graph_fault: None,
            tensor_bytes: 0,
            owed_fuel: 0,
            counted_fuel: 0,
        }
    }

    /// Counts tensor bytes that the host holds from now on for the guest.
    pub(crate) fn hold(&mut self, bytes: u64) -> wasmtime::Result<()> {
        let (held, limit) = (self.tensor_bytes.saturating_add(bytes), self.limits.tensor_bytes);
        if held > limit {
            let message = format!("the host may hold {limit} tensor bytes for the guest, not {held}");
            return Err(Stop::new(Outcome::TensorsExceeded, message).into());
        }
        self.tensor_bytes = held;
        Ok(())
    }

    /// Counts tensor bytes that the host holds no longer.
    pub(crate) fn release(&mut self, bytes: u64) {
        self.tensor_bytes = self.tensor_bytes.saturating_sub(bytes);
    }

    /// Drops a resource of the guest's.
    pub(crate) fn forget<T: Send + 'static>(&mut self, rep: u32) -> wasmtime::Result<()> {
        self.table.delete(Resource::<T>::new_own(rep))?;
        Ok(())
    }
}

impl WasiView for State {
    /// Every function of WASI fetches its context here, so here each is charged. The store, which has the
    /// fuel, is out of reach: what is owed is taken where it is at hand.
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.owed_fuel = self.owed_fuel.saturating_add(FUEL_PER_CALL);
        WasiCtxView {
            ctx: self.wasi.get_or_insert_with(|| wasi::context(&self.notes)),
            table: &mut self.table,
        }
    }
}

/// The fuel of a host call that moves `bytes` between guest and host.
pub(crate) fn call_fuel(bytes: u64) -> u64 {
    FUEL_PER_CALL + bytes.div_ceil(BYTES_PER_FUEL)
}

/// The fuel of a graph's run.
pub(crate) fn graph_fuel(macs: u64) -> u64 {
    macs.div_ceil(MACS_PER_FUEL)
}

/// Takes fuel for a host call before its work is done, and what is owed; too little left ends the call.
///
/// Only a host function may do so: while a guest runs, its code keeps the figure in a register.
pub(crate) fn charge(store: &mut StoreContextMut<'_, State>, fuel: u64) -> wasmtime::Result<()> {
    let fuel = fuel.saturating_add(std::mem::take(&mut store.data_mut().owed_fuel));
    let left = store.get_fuel()?;
    store.set_fuel(left.saturating_sub(fuel))?;
    count_fuel(&mut *store)?;
    if fuel > left {
        Err(Trap::OutOfFuel.into())
    } else {
        Ok(())
    }
}

/// Brings the cell's fuel up to date.
///
/// # Errors
/// More is owed than is left: the call must end.
pub(crate) fn count_fuel(mut store: impl AsContextMut<Data = State>) -> Result<(), Trap> {
    let mut store = store.as_context_mut();
    let left = store.get_fuel().unwrap_or_default();
    let state = store.data_mut();
    let burnt = state.limits.fuel.saturating_sub(left);
    let burnt = burnt.saturating_add(state.owed_fuel).min(state.limits.fuel);
    state.cell.add_fuel(burnt.saturating_sub(state.counted_fuel));
    state.counted_fuel = state.counted_fuel.max(burnt);
    if state.owed_fuel > left {
        Err(Trap::OutOfFuel)
    } else {
        Ok(())
    }
}
