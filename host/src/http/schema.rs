//! What the API's document says of the types that belong to `domain` and `db`, which know nothing of HTTP.
//!
//! The unit tests hold each against what serde makes of the type that it describes.
#![expect(dead_code, reason = "these types are never made: only their schemas are used")]

pub mod proof;

use std::collections::HashMap;

use serde_json::Value;
use utoipa::openapi::schema::{AdditionalProperties, ObjectBuilder, Type};
use utoipa::openapi::{KnownFormat, RefOr, Schema, SchemaFormat};
use utoipa::{PartialSchema, ToSchema};

/// A name: 1 to 63 of `a-z`, `0-9`, `-`, `_` and `.`, beginning with a letter or digit.
#[derive(ToSchema)]
#[schema(value_type = String, pattern = "^[a-z0-9][a-z0-9._-]{0,62}$", example = "filetype")]
pub struct Name(String);

/// A part of the power grid, as its provider names it.
#[derive(ToSchema)]
#[schema(value_type = String, pattern = "^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$", example = "DE")]
pub struct Zone(String);

/// A calendar month in UTC.
#[derive(ToSchema)]
#[schema(value_type = String, pattern = "^[1-8][0-9]{3}-(0[1-9]|1[0-2])$", example = "2027-01")]
pub struct Month(String);

/// A currency of ISO 4217.
#[derive(ToSchema)]
#[schema(value_type = String, pattern = "^[A-Z]{3}$", example = "EUR")]
pub struct Currency(String);

/// A price in the currency's major unit: a decimal from 0 to 1000000 with at most 12 digits behind the point.
#[derive(ToSchema)]
#[schema(value_type = String, pattern = "^[0-9]{1,7}([.][0-9]{1,12})?$", example = "0.31")]
pub struct Rate(String);

/// The SHA-256 digest of an upload's bytes.
#[derive(ToSchema)]
#[schema(
    value_type = String,
    pattern = "^sha256:[0-9a-fA-F]{64}$",
    example = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
)]
pub struct Digest(String);

/// The bytes of a file.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
pub struct File(Vec<u8>);

/// A component by name, its newest revision unless one is given.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ComponentPick {
    /// The component's name.
    name: Name,
    /// Which revision.
    revision: Option<Digest>,
}

/// A graph by name, its newest version unless one is given.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GraphPick {
    /// The graph's name.
    name: Name,
    /// Which version.
    version: Option<Digest>,
}

/// Strings of which only some are used.
macro_rules! words {
    ($($(#[doc = $doc:literal])* $name:ident: $words:expr;)*) => {$(
        $(#[doc = $doc])*
        pub struct $name;

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                ObjectBuilder::new()
                    .schema_type(Type::String)
                    .description(Some(concat!($($doc, "\n"),*).trim()))
                    .enum_values(Some($words))
                    .into()
            }
        }

        impl ToSchema for $name {}
    )*};
}

words! {
    /// What a key may do. The three tenant roles belong to one tenant, the others to none.
    Role: domain::Role::ALL.map(domain::Role::as_str);
    /// What runs graphs. `auto` is, for each graph, the backend that needs the least CPU time of those whose answers
    /// agree with the reference's. A named one that is not there is refused.
    BackendChoice: domain::BackendChoice::ALL.map(domain::BackendChoice::as_str);
    /// What came of comparing the backend's answers with the reference's: `agrees`; `differs`, so that the reference
    /// serves; `reference`, asked for by name; `alone`, as no other backend loads the graph; `random`, where only types
    /// and shapes can be compared; `untried`, where the reference answered none of the inputs that were tried.
    GoldenCheck: domain::GoldenCheck::ALL.map(domain::GoldenCheck::as_str);
    /// How a call ended; everything but `ok` is also the code of a problem.
    Outcome: domain::Outcome::ALL.iter().map(|outcome| outcome.as_str());
    /// The element type of a tensor, as the Open Inference Protocol names it.
    Datatype: [
        "BOOL", "UINT8", "INT8", "UINT16", "INT16", "UINT32", "INT32", "UINT64", "INT64", "FP16", "BF16", "FP32",
        "FP64", "BYTES",
    ];
    /// Whether a tenant is served. The calls of a suspended tenant are refused and its data is kept; of a closed
    /// one only the ledger keeps its id.
    TenantStatus: ["active", "suspended", "closed"];
    /// What a call was for: calling a deployment, uploading, or making a release.
    CallKind: ["infer", "publish", "deploy"];
    /// What entered the ledger: a window of readings, a share that was moved, or a repair.
    PostingKind: ["window", "allocation", "correction"];
    /// With what an act was done: a key, the secret of the first start, or that for when every admin key is lost.
    Actor: ["key", "bootstrap", "recovery"];
    /// What was done.
    Action: db::Action::ALL.iter().map(|action| action.as_str());
    /// A unit of account: microjoules, or fuel.
    Unit: ["uj", "fuel"];
    /// What a line of a statement is for: energy, fuel, memory, calls, a flat price, or carbon, which is only told.
    Item: domain::billing::Item::ALL.iter().map(|item| item.as_str());
    /// Whether a line is of the month's own use, or of what came late of a closed month or was corrected.
    Class: ["usage", "correction"];
    /// Which plants a carbon intensity is of: all that feed the grid, or those that answer a change of load.
    Signal: domain::carbon::Signal::ALL.iter().map(|signal| signal.as_str());
    /// By which way of counting a carbon intensity is used: the grid's where the energy is used, or what is left of the
    /// market's mix when all contracts are taken out.
    Method: domain::carbon::Method::ALL.iter().map(|method| method.as_str());
    /// How readings came about: from a hardware counter, from a power model, or guessed.
    Provenance: ["measured", "modelled", "estimated"];
    /// What is wrong with a meter: it does not answer, cannot be read, says no number, fell, jumped, found its
    /// place again, was not read for too long, or stands still while the machine works.
    FaultKind: domain::energy::FaultKind::ALL.iter().map(|kind| kind.as_str());
    /// A kind of use that costs energy: CPU time of guests, of models, of the host and of other programs, bytes in and
    /// out of calls of the host, fuel, and time for which a device worked.
    Feature: domain::weights::Feature::ALL.iter().map(|feature| feature.as_str());
}

/// Each of [`domain::Limits`], in words.
const LIMITS: [(&str, &str); 10] = [
    (
        "fuel",
        "Units of fuel: the pipeline's instructions, its host calls and its models' arithmetic together.",
    ),
    (
        "deadline_ms",
        "Wall time of the whole call, waiting included, in milliseconds.",
    ),
    ("memory_bytes", "The pipeline's memory, in bytes."),
    (
        "table_elements",
        "Elements of all the pipeline's tables together.",
    ),
    (
        "handles",
        "Handles that the pipeline may hold at once: tensors, graphs and the like.",
    ),
    (
        "tensor_bytes",
        "Bytes of tensors that the host holds for the pipeline at once, and of the largest transfer.",
    ),
    (
        "output_bytes",
        "Bytes of the answer; as JSON it may have a few times as many.",
    ),
    (
        "log_bytes",
        "Bytes of log, standard output and standard error together.",
    ),
    ("concurrency", "Calls of the deployment that run at once."),
    ("queue", "Calls of the tenant that wait."),
];

/// What one call may use. What is left out has its default.
pub struct Limits;

impl PartialSchema for Limits {
    fn schema() -> RefOr<Schema> {
        let (default, ceiling) = (
            limits(&domain::Limits::default()),
            limits(&domain::Limits::CEILING),
        );
        let about = "What one call may use. What is left out has its default.";
        let schema = ObjectBuilder::new().description(Some(about));
        let schema = LIMITS.iter().fold(schema, |schema, (name, about)| {
            let limit = ObjectBuilder::new()
                .schema_type(Type::Integer)
                .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)))
                .description(Some(*about))
                .default(Some(default[name].clone()))
                .minimum(Some(1))
                .maximum(ceiling[name].as_u64().map(|most| most as usize));
            schema.property(*name, limit)
        });
        schema
            .additional_properties(Some(AdditionalProperties::FreeForm(false)))
            .into()
    }
}

impl ToSchema for Limits {}

fn limits(limits: &domain::Limits) -> Value {
    serde_json::to_value(limits).unwrap_or_default()
}

/// What a pipeline or graph takes and gives.
#[derive(ToSchema)]
pub struct Signature {
    /// The tensors that a call sends.
    inputs: Vec<TensorSpec>,
    /// The tensors that it gets.
    outputs: Vec<TensorSpec>,
    /// What callers may like to know of the whole.
    parameters: Vec<Parameter>,
}

/// What a tensor must look like.
#[derive(ToSchema)]
pub struct TensorSpec {
    /// The tensor's name.
    name: String,
    /// The element type.
    dtype: Datatype,
    /// The dimensions; null is free.
    shape: Vec<Option<u32>>,
    /// Whether a call may leave it out, or an answer that was not asked for it by name.
    optional: bool,
    /// What callers may like to know of it.
    parameters: Vec<Parameter>,
}

/// A named JSON value beside tensors.
#[derive(ToSchema)]
pub struct Parameter {
    /// Its name, once in each list.
    key: String,
    /// A JSON text.
    value: String,
}

/// What a release's proof found for a graph.
#[derive(ToSchema)]
pub struct Placement {
    /// The backend that serves it, and its version.
    #[schema(example = "onnxruntime 1.32.0")]
    backend: String,
    /// How its answers were checked.
    check: GoldenCheck,
}

/// What models did for a call: one entry for each graph, backend, device and precision.
#[derive(ToSchema)]
pub struct Work {
    /// The graph's digest.
    graph: Digest,
    /// The backend and its version.
    #[schema(example = "rten 0.27.0")]
    backend: String,
    /// The device.
    #[schema(example = "cpu")]
    device: String,
    /// The precision.
    #[schema(example = "exact")]
    precision: String,
    /// Runs of the graph.
    runs: u64,
    /// Rows over all runs.
    rows: u64,
    /// CPU time of the backend's threads, in nanoseconds.
    cpu_ns: u64,
    /// Time for which the device worked, in nanoseconds; on the CPU, that for which at least one thread did.
    busy_ns: u64,
    /// Tokens over all runs: elements of the input `input_ids`, where the graph has one.
    tokens: u64,
}

/// A call of the Open Inference Protocol.
#[derive(ToSchema)]
pub struct InferRequest {
    /// Comes back in the answer.
    #[schema(nullable = false)]
    id: Option<String>,
    /// What the pipeline may like to know beside tensors.
    #[schema(nullable = false)]
    parameters: Option<HashMap<String, Value>>,
    /// The tensors that the deployment's signature asks for.
    #[schema(max_items = 256)]
    inputs: Vec<InferInput>,
    /// The outputs to send; all, where none is named.
    #[schema(max_items = 256, nullable = false)]
    outputs: Option<Vec<InferOutput>>,
}

/// A tensor of a call.
#[derive(ToSchema)]
pub struct InferInput {
    /// Its name in the signature.
    name: String,
    /// Its dimensions; empty for a scalar.
    #[schema(example = json!([1, 2]))]
    shape: Vec<u32>,
    /// The type of its elements; FP16 and BF16 have no form in JSON.
    datatype: Datatype,
    /// `{"content_type": "base64"}` marks BYTES that are not text.
    #[schema(nullable = false)]
    parameters: Option<HashMap<String, Value>>,
    /// The elements in row-major order, flat or nested: numbers, booleans, or strings for BYTES.
    #[schema(value_type = Vec<Value>, example = json!([0.5, 1.5]))]
    data: Vec<Value>,
}

/// An output that a call asks for.
#[derive(ToSchema)]
pub struct InferOutput {
    /// Its name in the signature.
    name: String,
    /// What the pipeline may like to know of it.
    #[schema(nullable = false)]
    parameters: Option<HashMap<String, Value>>,
}

/// The answer to a call.
#[derive(ToSchema)]
pub struct InferResponse {
    /// The deployment.
    model_name: Name,
    /// The release that answered.
    #[schema(example = "1")]
    model_version: String,
    /// The call's id, where it had one.
    #[schema(nullable = false)]
    id: Option<String>,
    /// What the pipeline says beside tensors.
    #[schema(nullable = false)]
    parameters: Option<HashMap<String, Value>>,
    /// The tensors.
    outputs: Vec<InferResult>,
}

/// A tensor of an answer.
#[derive(ToSchema)]
pub struct InferResult {
    /// Its name in the signature.
    name: String,
    /// Its dimensions; empty for a scalar.
    shape: Vec<u32>,
    /// The type of its elements.
    datatype: Datatype,
    /// `{"content_type": "base64"}` marks BYTES that are not text.
    #[schema(nullable = false)]
    parameters: Option<HashMap<String, Value>>,
    /// The elements in row-major order, flat.
    data: Vec<Value>,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use utoipa::PartialSchema;

    pub fn properties<T: PartialSchema>() -> Vec<String> {
        let schema = serde_json::to_value(T::schema()).unwrap();
        let mut names: Vec<_> = schema["properties"]
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect();
        names.sort();
        names
    }

    pub fn members(value: impl serde::Serialize) -> Vec<String> {
        let value = serde_json::to_value(value).unwrap();
        let mut names: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
        names.sort();
        names
    }

    fn words<T: PartialSchema>() -> Value {
        serde_json::to_value(T::schema()).unwrap()["enum"].clone()
    }

    #[test]
    fn objects_have_the_members_that_serde_writes() {
        use domain::{DType, Digest, Limits, Parameter, Signature, TensorSpec};
        let parameter = Parameter {
            key: "k".into(),
            value: "1".into(),
        };
        let placement = domain::Placement {
            backend: String::new(),
            check: domain::GoldenCheck::Agrees,
        };
        let work = json!({
            "graph": Digest::ZERO, "backend": "", "device": "", "precision": "", "runs": 0, "rows": 0, "cpu_ns": 0,
        });
        let work: domain::usage::Work = serde_json::from_value(work).unwrap();
        let cases = [
            (properties::<super::Limits>(), members(Limits::default())),
            (properties::<super::Signature>(), members(Signature::default())),
            (
                properties::<super::TensorSpec>(),
                members(TensorSpec::new("x", DType::Fp32, [])),
            ),
            (properties::<super::Parameter>(), members(parameter)),
            (properties::<super::Work>(), members(work)),
            (properties::<super::Placement>(), members(placement)),
        ];
        for (documented, written) in cases {
            assert_eq!(documented, written);
        }
    }

    #[test]
    fn words_are_those_that_serde_reads() {
        fn all<T: serde::de::DeserializeOwned>(words: Value) {
            serde_json::from_value::<Vec<T>>(words).unwrap();
        }
        all::<domain::Role>(words::<super::Role>());
        all::<domain::Outcome>(words::<super::Outcome>());
        all::<domain::BackendChoice>(words::<super::BackendChoice>());
        all::<domain::GoldenCheck>(words::<super::GoldenCheck>());
        all::<domain::DType>(words::<super::Datatype>());
        all::<db::TenantStatus>(words::<super::TenantStatus>());
        all::<domain::posting::CallKind>(words::<super::CallKind>());
        all::<domain::posting::PostingKind>(words::<super::PostingKind>());
        all::<domain::posting::Unit>(words::<super::Unit>());
        all::<domain::energy::Provenance>(words::<super::Provenance>());
        all::<domain::energy::FaultKind>(words::<super::FaultKind>());
        all::<domain::weights::Feature>(words::<super::Feature>());
        all::<domain::billing::Item>(words::<super::Item>());
        all::<domain::billing::statement::Class>(words::<super::Class>());
        all::<domain::carbon::Signal>(words::<super::Signal>());
        all::<domain::carbon::Method>(words::<super::Method>());
    }
}
