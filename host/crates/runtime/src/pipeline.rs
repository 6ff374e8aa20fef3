//! A compiled pipeline, and its calls.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::pin;
use std::sync::Arc;

use domain::{InvocationId, Limits, Outcome, Parameter, Signature, TenantId, Tensor, UsageCell};
use inference::{GraphHandle, metered_polls};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wasmtime::component::{Component, Linker};
use wasmtime::{Engine, Store, UpdateDeadline};

use crate::bindings::PipelinePre;
use crate::bindings::wattle::pipeline::types as wit;
use crate::convert::{MAX_MESSAGE_BYTES, cut};
use crate::engine::Ticker;
use crate::guard::Guard;
use crate::state::{State, count_fuel};
use crate::turns::Turns;
use crate::{contract, convert, nn, outcome};

/// How much fuel a guest burns between two looks at what it burnt. Without it a tight loop that is stopped
/// from outside would be found to have burnt nothing.
const FUEL_SLICE: u64 = 1_000_000;

/// What a guest may pass at once beside its tensors: names, shapes, a log line.
const SMALL_BYTES: u64 = 64 << 10;

/// The graphs of a release, by the names that its guest uses.
pub type Graphs = Arc<BTreeMap<String, Arc<GraphHandle>>>;

/// All that a call brings besides its request.
#[derive(Clone)]
pub struct Invocation {
    /// Its id, for the log.
    pub invocation: InvocationId,
    /// Whose it is: tenants take turns on a busy host.
    pub tenant: TenantId,
    /// What it may use.
    pub limits: Limits,
    /// Where its use is written, while it runs and to the end.
    pub cell: Arc<UsageCell>,
    /// Fires when the caller goes away.
    pub cancel: CancellationToken,
    /// When it must have ended.
    pub deadline: Instant,
    /// The release's graphs.
    pub graphs: Graphs,
    /// The release's settings.
    pub settings: Arc<BTreeMap<String, String>>,
}

/// What a guest is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The caller's own id, or one that was made for it.
    pub id: String,
    /// The inputs; the caller has checked them against the signature.
    pub inputs: Vec<Tensor>,
    /// The outputs that are wanted; all if empty.
    pub outputs: Vec<RequestedOutput>,
    /// The caller's parameters; the caller has checked them with [`crate::check_parameters`].
    pub parameters: Vec<Parameter>,
}

/// An output that is wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestedOutput {
    /// Its name.
    pub name: String,
    /// How it is wanted.
    pub parameters: Vec<Parameter>,
}

impl Request {
    /// Bytes of the inputs' elements and of all parameters.
    pub fn bytes(&self) -> u64 {
        let outputs = self.outputs.iter().flat_map(|output| &output.parameters);
        let parameters = outputs.chain(&self.parameters).map(Parameter::bytes);
        parameters.chain(self.inputs.iter().map(Tensor::bytes)).sum()
    }
}

/// What a guest answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Response {
    /// The outputs: those that were wanted, in that order. Their lengths fit their shapes; whether they fit
    /// the signature is the caller's to check.
    pub outputs: Vec<Tensor>,
    /// The guest's parameters, checked as its tensors' are.
    pub parameters: Vec<Parameter>,
}

impl Response {
    /// Bytes of the outputs' elements and of all parameters.
    pub fn bytes(&self) -> u64 {
        let parameters = self.parameters.iter().map(Parameter::bytes);
        parameters.chain(self.outputs.iter().map(Tensor::bytes)).sum()
    }
}

/// Why a call gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Failure {
    /// What is recorded; never [`Outcome::Ok`].
    pub outcome: Outcome,
    /// The guest's own code for [`Outcome::GuestFailure`], else the outcome's.
    pub code: String,
    /// A sentence for people.
    pub message: String,
    /// Whether the same call may succeed later.
    pub retryable: bool,
    /// A guest's details for programs.
    pub parameters: Vec<Parameter>,
}

impl Failure {
    /// A failure for the host's own reasons, under the outcome's code.
    pub fn new(outcome: Outcome, message: impl Into<String>) -> Self {
        let code = outcome.as_str().to_owned();
        // It may quote a guest.
        let message = cut(message.into(), MAX_MESSAGE_BYTES);
        Self {
            outcome,
            code,
            message,
            retryable: false,
            parameters: Vec::new(),
        }
    }

    fn host(error: &wasmtime::Error, invocation: InvocationId) -> Self {
        tracing::error!(%invocation, error = format!("{error:#}"), "a call could not be prepared");
        Self {
            retryable: true,
            ..Self::new(Outcome::HostFault, "the call could not be prepared")
        }
    }
}

/// A component that is compiled and linked, ready to be called. It holds no state of any call.
pub struct Pipeline {
    exports: PipelinePre<State>,
    ticker: Arc<Ticker>,
    turns: Arc<Turns>,
    code_bytes: u64,
}

impl fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipeline").finish_non_exhaustive()
    }
}

/// A linker of everything that a pipeline may import.
pub(crate) fn linker(engine: &Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    contract::add_to_linker(&mut linker)?;
    nn::add_to_linker(&mut linker)?;
    Ok(linker)
}

impl Pipeline {
    /// Links a component; fails where the types of its imports or exports are not the contract's.
    pub(crate) fn link(
        linker: &Linker<State>,
        component: &Component,
        ticker: Arc<Ticker>,
        turns: Arc<Turns>,
        code_bytes: u64,
    ) -> wasmtime::Result<Self> {
        Ok(Self {
            exports: PipelinePre::new(linker.instantiate_pre(component)?)?,
            ticker,
            turns,
            code_bytes,
        })
    }

    /// How much compiled code it holds, in bytes.
    pub fn code_bytes(&self) -> u64 {
        self.code_bytes
    }

    /// Asks the guest what it takes and gives.
    ///
    /// # Errors
    /// Any outcome but `Ok`. The invocation's cell is complete in either case.
    pub async fn describe(&self, invocation: Invocation) -> Result<Signature, Failure> {
        let cell = Arc::clone(&invocation.cell);
        let call = async |store: &mut Store<State>| {
            let guest = self.exports.instantiate_async(&mut *store).await?;
            guest.wattle_pipeline_handler().call_describe(store).await
        };
        let described = pin!(async {
            match self.run(invocation, call).await? {
                Ok(signature) => convert::signature(signature),
                Err(failure) => Err(convert::failure(failure)),
            }
        });
        metered_polls(&cell, described).await
    }

    /// Asks the guest to answer one call, in a fresh store. Bytes of the request's tensors and parameters and
    /// of the answer's enter the cell.
    ///
    /// # Errors
    /// Any outcome but `Ok`. The invocation's cell is complete in either case.
    pub async fn infer(&self, request: Request, invocation: Invocation) -> Result<Response, Failure> {
        let cell = Arc::clone(&invocation.cell);
        let answer = pin!(self.answer(request, invocation));
        metered_polls(&cell, answer).await
    }

    async fn answer(&self, request: Request, invocation: Invocation) -> Result<Response, Failure> {
        let (cell, limits) = (Arc::clone(&invocation.cell), invocation.limits.clone());
        let (bytes, limit) = (request.bytes(), limits.tensor_bytes);
        if bytes > limit {
            let message = format!("the inputs and parameters may have {limit} bytes, not {bytes}");
            return Err(Failure::new(Outcome::TensorsExceeded, message));
        }
        cell.add_bytes_in(bytes);
        let call = async |store: &mut Store<State>| {
            let guest = self.exports.instantiate_async(&mut *store).await?;
            let of_inputs: Vec<_> = request
                .inputs
                .iter()
                .map(|tensor| convert::parameters(tensor.parameters()))
                .collect();
            let of_outputs: Vec<_> = request
                .outputs
                .iter()
                .map(|output| convert::parameters(&output.parameters))
                .collect();
            let request = wit::Request {
                id: &request.id,
                inputs: &convert::inputs(&request.inputs, &of_inputs),
                outputs: &convert::outputs(&request.outputs, &of_outputs),
                parameters: &convert::parameters(&request.parameters),
            };
            guest.wattle_pipeline_handler().call_infer(store, request).await
        };
        match self.run(invocation, call).await? {
            Ok(answer) => {
                let response = convert::response(answer, &request.outputs, &limits)?;
                cell.add_bytes_out(response.bytes());
                Ok(response)
            }
            Err(failure) => Err(convert::failure(failure)),
        }
    }

    /// Makes a store, drives `call` in it, counts what is left to count and drops the store.
    async fn run<T>(
        &self,
        invocation: Invocation,
        call: impl AsyncFnOnce(&mut Store<State>) -> wasmtime::Result<T>,
    ) -> Result<T, Failure> {
        let _ticking = self.ticker.guard();
        let guard = Arc::new(Guard::new(invocation.deadline, invocation.cancel.clone()));
        let mut store = self
            .store(&invocation, Arc::clone(&guard))
            .map_err(|error| Failure::host(&error, invocation.invocation))?;
        let place = self.turns.place(invocation.tenant);
        let result = guard.drive(place, pin!(call(&mut store))).await;
        let counted = count_fuel(&mut store);
        let result = result.and_then(|answer| Ok(counted.map(|()| answer)?));
        result.map_err(|error| {
            tracing::debug!(error = format!("{error:?}"), invocation = %invocation.invocation, "a call ended");
            outcome::failure(&error, store.data())
        })
    }

    fn store(&self, invocation: &Invocation, guard: Arc<Guard>) -> wasmtime::Result<Store<State>> {
        let limits = &invocation.limits;
        let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let mut store = Store::new(self.exports.engine(), State::new(invocation, guard));
        store.limiter(|state| &mut state.limiter);
        store.set_fuel(limits.fuel)?;
        store.fuel_async_yield_interval(Some(FUEL_SLICE))?;
        store.set_hostcall_fuel(bytes(limits.tensor_bytes.saturating_add(SMALL_BYTES)));
        // Twice as many: a borrow counts here beside the handle that it borrows, and the table of the
        // host's resources, with the very limit, should be the first to fill.
        store.set_max_component_handles(bytes(limits.handles.saturating_mul(2)));
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|mut store| {
            count_fuel(&mut store)?;
            match store.data().guard.look() {
                Some(stop) => Err(stop.into()),
                // Not `Yield`: it comes back before its neighbours have had their turn.
                None => Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now()))),
            }
        });
        Ok(store)
    }
}
