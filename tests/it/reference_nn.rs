//! Our host of `wasi:nn` against wasmtime's own: the same guest, the same graph and the same backend behind
//! both give the same bits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domain::{DType, Digest, InvocationId, Limits, TenantId, Tensor, UsageCell};
use inference::backends::rten::Rten;
use inference::{Inference, Target};
use runtime::{CompileLimits, CompilerCommand, Invocation, Options, Request, Runtime};
use tests::guests;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wasmtime::component::{Component, HasSelf, Linker, ResourceTable};
use wasmtime::{Engine, Store};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_nn::backend::{
    BackendError, BackendExecutionContext, BackendFromDir, BackendGraph, BackendInner, Id, NamedTensor,
};
use wasmtime_wasi_nn::wit::types::{ExecutionTarget, GraphEncoding, TensorType};
use wasmtime_wasi_nn::wit::{WasiNnCtx, WasiNnView};
use wasmtime_wasi_nn::{Backend, ExecutionContext, Graph, GraphRegistry, Registry, Tensor as NnTensor};

use contract::Pipeline;
use contract::wattle::pipeline::{config, log, types};

mod contract {
    #![allow(missing_docs, reason = "generated")]
    wasmtime::component::bindgen!({ path: "../sdk/wit", world: "wattle:pipeline/pipeline" });
}

const COLUMNS: u32 = 100;

#[tokio::test(flavor = "multi_thread")]
async fn the_same_guest_gets_the_same_answers() -> anyhow::Result<()> {
    let (component, model) = (guests::guest("nnfp32")?, guests::model("tabular.onnx")?);
    let ours = Ours::new(&component, &model).await?;
    let reference = Reference::new(&component, &model).map_err(words)?;
    for rows in batches() {
        let shape = vec![u32::try_from(rows.len())? / COLUMNS, COLUMNS];
        let data: Vec<u8> = rows.iter().flat_map(|value| value.to_le_bytes()).collect();
        let input = Tensor::new("input", DType::Fp32, shape.clone(), data)?;
        let got = ours.infer(input.clone()).await?;
        let reference = reference.clone();
        let want = tokio::task::spawn_blocking(move || reference.infer(&input))
            .await?
            .map_err(words)?;
        assert_eq!(want[0].shape(), [shape[0], 1]);
        assert_eq!(got, want, "{shape:?}");
    }
    Ok(())
}

fn words(error: wasmtime::Error) -> anyhow::Error {
    anyhow::anyhow!("{error:?}")
}

/// One row, a few, more than a vector register's worth; values of every size, and some that are no number.
fn batches() -> Vec<Vec<f32>> {
    let mut state = 1_u32;
    let mut random = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32
    };
    let mut batches: Vec<Vec<f32>> = [1, 3, 65]
        .iter()
        .map(|rows| (0..rows * COLUMNS).map(|_| random()).collect())
        .collect();
    let odd = [
        0.0,
        -0.0,
        f32::MIN_POSITIVE / 2.0,
        -1e30,
        1e30,
        f32::INFINITY,
        f32::NAN,
    ];
    batches.extend(odd.map(|value| vec![value; COLUMNS as usize]));
    batches
}

/// The guest under our runtime.
struct Ours {
    pipeline: Arc<runtime::Pipeline>,
    graphs: runtime::Graphs,
    _folder: tempfile::TempDir,
}

impl Ours {
    async fn new(component: &[u8], model: &[u8]) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let runtime = Runtime::new(Options {
            compiled_dir: folder.path().to_owned(),
            mac_key: [7; 32],
            max_concurrency: 2,
            threads: 2,
            compiler: CompilerCommand {
                program: guests::wattle()?,
                args: vec!["compile-child".into()],
            },
            compile_limits: CompileLimits::default(),
        })?;
        let (digest, cell) = (Digest::of(component), UsageCell::default());
        runtime
            .compile(digest, Bytes::copy_from_slice(component), &cell)
            .await?;
        let tenant = TenantId(uuid::Uuid::from_u128(1));
        let inference = Inference::new(inference::Options::default(), guests::graph_worker()?);
        let blob = Bytes::copy_from_slice(model);
        let graph = inference
            .load(tenant, Digest::of(model), blob, Target::Cpu, &cell)
            .await?;
        let graphs = Arc::new(BTreeMap::from([("net".to_owned(), graph)]));
        Ok(Self {
            pipeline: runtime.load(digest).await?,
            graphs,
            _folder: folder,
        })
    }

    async fn infer(&self, input: Tensor) -> anyhow::Result<Vec<Tensor>> {
        let invocation = Invocation {
            invocation: InvocationId(uuid::Uuid::from_u128(2)),
            tenant: TenantId(uuid::Uuid::from_u128(2)),
            limits: Limits::default(),
            cell: Arc::default(),
            cancel: CancellationToken::new(),
            deadline: Instant::now() + Duration::from_secs(60),
            graphs: Arc::clone(&self.graphs),
            settings: Arc::default(),
        };
        let request = Request {
            id: "r".into(),
            inputs: vec![input],
            outputs: vec![],
            parameters: vec![],
        };
        let answer = self.pipeline.infer(request, invocation).await;
        answer
            .map(|response| response.outputs)
            .map_err(|failure| anyhow::anyhow!("{failure:?}"))
    }
}

/// The guest under wasmtime's own host of `wasi:nn`.
#[derive(Clone)]
struct Reference {
    component: Component,
    linker: Linker<Host>,
    graph: Graph,
}

/// What one call of the reference has.
struct Host {
    wasi: WasiCtx,
    nn: WasiNnCtx,
    table: ResourceTable,
}

impl WasiView for Host {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl config::Host for Host {
    fn get(&mut self, _: String) -> Option<String> {
        None
    }
}

impl log::Host for Host {
    fn write(&mut self, _: log::Level, _: String) {}
}

impl Reference {
    fn new(component: &[u8], model: &[u8]) -> wasmtime::Result<Self> {
        let engine = Engine::default();
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_sync(&mut linker)?;
        wasmtime_wasi_nn::wit::add_to_linker(&mut linker, |host: &mut Host| {
            WasiNnView::new(&mut host.table, &mut host.nn)
        })?;
        config::add_to_linker::<_, HasSelf<Host>>(&mut linker, |host| host)?;
        log::add_to_linker::<_, HasSelf<Host>>(&mut linker, |host| host)?;
        let graph = Backend::from(Adapter).load(&[model], ExecutionTarget::Cpu)?;
        Ok(Self {
            component: Component::new(&engine, component)?,
            linker,
            graph,
        })
    }

    fn infer(&self, input: &Tensor) -> wasmtime::Result<Vec<Tensor>> {
        let nn = WasiNnCtx::new(
            [Backend::from(Adapter)],
            Registry::from(OneGraph(self.graph.clone())),
        );
        let host = Host {
            wasi: WasiCtx::builder().build(),
            nn,
            table: ResourceTable::new(),
        };
        let mut store = Store::new(self.linker.engine(), host);
        let guest = Pipeline::instantiate(&mut store, &self.component, &self.linker)?;
        let input = types::Tensor {
            name: input.name().into(),
            dtype: types::Dtype::Fp32,
            shape: input.shape().to_vec(),
            data: input.data().to_vec(),
            parameters: vec![],
        };
        let request = types::Request {
            id: "r".into(),
            inputs: vec![input],
            outputs: vec![],
            parameters: vec![],
        };
        let answer = guest.wattle_pipeline_handler().call_infer(&mut store, &request)?;
        let answer = answer.map_err(|failure| wasmtime::Error::msg(format!("{failure:?}")))?;
        let outputs = answer.outputs.into_iter().map(|output| {
            assert_eq!(output.dtype, types::Dtype::Fp32);
            Ok(Tensor::new(output.name, DType::Fp32, output.shape, output.data)?)
        });
        outputs.collect()
    }
}

/// The registry of a release with one graph, `net`.
struct OneGraph(Graph);

impl GraphRegistry for OneGraph {
    fn get(&self, name: &str) -> Option<&Graph> {
        (name == "net").then_some(&self.0)
    }

    fn get_mut(&mut self, name: &str) -> Option<&mut Graph> {
        (name == "net").then_some(&mut self.0)
    }
}

/// Our backend behind the traits of wasmtime's host.
struct Adapter;

struct AdaptedGraph(Arc<Rten>);

struct AdaptedContext(Arc<Rten>);

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> BackendError {
    BackendError::BackendAccess(wasmtime::Error::new(error))
}

fn missing(what: &str) -> BackendError {
    BackendError::BackendAccess(wasmtime::Error::msg(format!("{what} is missing")))
}

impl BackendInner for Adapter {
    fn encoding(&self) -> GraphEncoding {
        GraphEncoding::Onnx
    }

    fn load(&mut self, builders: &[&[u8]], target: ExecutionTarget) -> Result<Graph, BackendError> {
        let [model] = builders else {
            return Err(BackendError::InvalidNumberOfBuilders(1, builders.len()));
        };
        if !matches!(target, ExecutionTarget::Cpu) {
            return Err(missing("any target but the processor"));
        }
        let graph = Rten::load(model.to_vec()).map_err(failed)?;
        Ok(Graph::from(
            Box::new(AdaptedGraph(Arc::new(graph))) as Box<dyn BackendGraph>
        ))
    }

    fn as_dir_loadable(&mut self) -> Option<&mut dyn BackendFromDir> {
        None
    }
}

impl BackendGraph for AdaptedGraph {
    fn init_execution_context(&self) -> Result<ExecutionContext, BackendError> {
        let context = AdaptedContext(Arc::clone(&self.0));
        Ok(ExecutionContext::from(
            Box::new(context) as Box<dyn BackendExecutionContext>
        ))
    }
}

impl BackendExecutionContext for AdaptedContext {
    fn set_input(&mut self, _: Id, _: &NnTensor) -> Result<(), BackendError> {
        Err(missing("the interface of core modules"))
    }

    fn get_output(&mut self, _: Id) -> Result<NnTensor, BackendError> {
        Err(missing("the interface of core modules"))
    }

    fn compute(
        &mut self,
        inputs: Option<Vec<NamedTensor>>,
    ) -> Result<Option<Vec<NamedTensor>>, BackendError> {
        let given = inputs.ok_or_else(|| missing("the list of inputs"))?;
        let inputs = self.0.signature().inputs.iter().map(|spec| {
            let found = given.iter().find(|input| input.name == spec.name);
            let NnTensor { dimensions, ty, data } = &found.ok_or_else(|| missing(&spec.name))?.tensor;
            if *ty != TensorType::Fp32 {
                return Err(BackendError::UnsupportedTensorType(format!("{ty:?}")));
            }
            Tensor::new(&spec.name, DType::Fp32, dimensions.clone(), data.clone()).map_err(failed)
        });
        let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
        let outputs = self.0.run(&inputs).map_err(failed)?;
        let outputs = outputs.into_iter().map(|output| {
            let tensor = NnTensor::new(output.shape().to_vec(), TensorType::Fp32, output.data().to_vec());
            NamedTensor {
                name: output.name().to_owned(),
                tensor,
            }
        });
        Ok(Some(outputs.collect()))
    }
}
