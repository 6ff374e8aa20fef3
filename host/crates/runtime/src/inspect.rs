//! Whether uploaded bytes may become a pipeline.
//!
//! wasmparser is made for hostile input and is all that reads it in this process. What turns a core module
//! into a component is not (its stack overflows on some): that happens in the child.

use wasmparser::{ComponentTypeRef, Instance, Parser, Payload, Validator};
use wasmtime::Engine;

use crate::engine;
use crate::nesting::{Nesting, Uncounted};

/// The interface that a pipeline exports.
const HANDLER: &str = "wattle:pipeline/handler@0.1.0";

/// Imports of exactly these names are linked.
const EXACT_IMPORTS: &[&str] = &[
    "wattle:pipeline/config@0.1.0",
    "wattle:pipeline/log@0.1.0",
    "wattle:pipeline/types@0.1.0",
    "wasi:nn/errors@0.2.0-rc-2024-10-28",
    "wasi:nn/graph@0.2.0-rc-2024-10-28",
    "wasi:nn/inference@0.2.0-rc-2024-10-28",
    "wasi:nn/tensor@0.2.0-rc-2024-10-28",
];

/// Imports of these names are linked in any release of WASI 0.2.
const WASI_IMPORTS: &[&str] = &[
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock",
    "wasi:filesystem/preopens",
    "wasi:filesystem/types",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
    "wasi:sockets/instance-network",
    "wasi:sockets/ip-name-lookup",
    "wasi:sockets/network",
    "wasi:sockets/tcp",
    "wasi:sockets/tcp-create-socket",
    "wasi:sockets/udp",
    "wasi:sockets/udp-create-socket",
];

/// What an upload may have. wasmparser's own limits keep it from harm, they are no policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadCaps {
    /// Bytes of the upload, and of the component made from it.
    pub bytes: u64,
    /// Core modules, nested ones included.
    pub modules: u64,
    /// Instances made of core modules: each takes a place in the pool.
    pub instances: u64,
    /// Components within components, all together.
    pub components: u64,
    /// Instances of components and core modules, each as often as it is made.
    pub instances_made: u64,
    /// Functions of all modules together.
    pub functions: u64,
    /// Bytes of the longest function.
    pub function_bytes: u64,
    /// Locals of one function.
    pub locals: u64,
    /// Linear memories of all modules together.
    pub memories: u64,
    /// Tables of all modules together.
    pub tables: u64,
}

impl Default for UploadCaps {
    fn default() -> Self {
        Self {
            bytes: 64 << 20,
            modules: 64,
            instances: u64::from(engine::CORE_INSTANCES_PER_COMPONENT),
            components: 64,
            instances_made: 1_000,
            functions: 200_000,
            function_bytes: 1 << 20,
            locals: 20_000,
            memories: 4,
            tables: 16,
        }
    }
}

/// An upload that may become a pipeline.
#[derive(Clone, Debug)]
pub struct Inspected {
    /// The component: the upload itself, or what was made from a core module with embedded WIT.
    pub component: Vec<u8>,
    /// The interfaces that it imports, as it names them.
    pub imports: Vec<String>,
}

/// Why an upload is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InspectError {
    /// More bytes than allowed.
    #[error("the component has {bytes} bytes, {limit} are allowed")]
    TooLarge {
        /// Bytes found.
        bytes: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// Native code: only this host compiles.
    #[error("this is precompiled native code: upload the WebAssembly component")]
    Precompiled,
    /// Not WebAssembly, or broken.
    #[error("not a valid WebAssembly component: {reason}")]
    Invalid {
        /// What is wrong, and where.
        reason: String,
    },
    /// A core module that does not say which world it implements, or does not implement it.
    #[error("a core module that cannot be made a component: {reason}")]
    NotAComponent {
        /// What is missing.
        reason: String,
    },
    /// More of something than allowed.
    #[error("the component has {actual} {what}, {limit} are allowed")]
    TooComplex {
        /// Of what.
        what: &'static str,
        /// How many.
        actual: u64,
        /// How many are allowed.
        limit: u64,
    },
    /// An import that this host does not offer.
    #[error("the import '{name}' is not offered here")]
    ForbiddenImport {
        /// The import's name.
        name: String,
    },
    /// No pipeline.
    #[error("the component does not export '{HANDLER}'")]
    MissingExport,
    /// The host could not look. The upload may be sound.
    #[error("the host could not inspect the component: {0}")]
    Host(String),
}

impl InspectError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "component_too_large",
            Self::Precompiled => "component_precompiled",
            Self::Invalid { .. } => "invalid_component",
            Self::NotAComponent { .. } => "not_a_component",
            Self::TooComplex { .. } => "component_too_complex",
            Self::ForbiddenImport { .. } => "forbidden_import",
            Self::MissingExport => "missing_export",
            Self::Host(_) => "inspection_failed",
        }
    }
}

/// Checks a component. A core module is refused: [`Runtime::inspect`](crate::Runtime::inspect) takes these
/// too, since it has a child process for them.
///
/// Takes CPU time in proportion to the upload: call it where blocking is allowed.
pub fn inspect(bytes: &[u8], caps: &UploadCaps) -> Result<Inspected, InspectError> {
    if is_module(bytes, caps)? {
        return Err(InspectError::NotAComponent {
            reason: "it is not encoded".into(),
        });
    }
    let names = count(bytes, caps)?;
    if let Some(name) = names.imports.iter().find(|name| !is_offered(name)) {
        return Err(InspectError::ForbiddenImport { name: name.clone() });
    }
    if !names.exports_handler {
        return Err(InspectError::MissingExport);
    }
    let features = engine::features().map_err(|error| InspectError::Host(format!("{error:#}")))?;
    Validator::new_with_features(features)
        .validate_all(bytes)
        .map_err(invalid)?;
    Ok(Inspected {
        component: bytes.to_vec(),
        imports: names.imports,
    })
}

/// Whether an upload is a core module, within the caps, that should be made a component.
pub(crate) fn is_module(bytes: &[u8], caps: &UploadCaps) -> Result<bool, InspectError> {
    let (length, limit) = (bytes.len() as u64, caps.bytes);
    if length > limit {
        return Err(InspectError::TooLarge { bytes: length, limit });
    }
    if Engine::detect_precompiled(bytes).is_some() {
        return Err(InspectError::Precompiled);
    }
    if Parser::is_core_wasm(bytes) {
        return count(bytes, caps).map(|_| true);
    }
    if Parser::is_component(bytes) {
        return Ok(false);
    }
    Err(InspectError::Invalid {
        reason: "it does not begin as WebAssembly does".into(),
    })
}

fn invalid(error: wasmparser::BinaryReaderError) -> InspectError {
    InspectError::Invalid {
        reason: error.to_string(),
    }
}

fn is_offered(name: &str) -> bool {
    let wasi = |(interface, version): (&str, &str)| {
        let patch = version.strip_prefix("0.2.").unwrap_or_default();
        WASI_IMPORTS.contains(&interface) && patch.parse::<u32>().is_ok()
    };
    EXACT_IMPORTS.contains(&name) || name.split_once('@').is_some_and(wasi)
}

#[derive(Default)]
struct Names {
    imports: Vec<String>,
    exports_handler: bool,
}

/// Counts what the caps name and collects what the outermost component imports and exports.
fn count(bytes: &[u8], caps: &UploadCaps) -> Result<Names, InspectError> {
    let mut tally = Tally::default();
    let mut names = Names::default();
    let mut nesting = Nesting::default();
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload.map_err(invalid)?;
        match &payload {
            Payload::ComponentImportSection(reader) if nesting.depth() == 1 => {
                for import in reader.clone() {
                    let import = import.map_err(invalid)?;
                    let name = import.name.name.to_owned();
                    // A bare function or type has no interface that could be offered.
                    if !matches!(import.ty, ComponentTypeRef::Instance(_)) {
                        return Err(InspectError::ForbiddenImport { name });
                    }
                    names.imports.push(name);
                }
            }
            Payload::ComponentExportSection(reader) if nesting.depth() == 1 => {
                for export in reader.clone() {
                    names.exports_handler |= export.map_err(invalid)?.name.name == HANDLER;
                }
            }
            _ => {}
        }
        tally.add(&payload, caps)?;
        let made = nesting.add(&payload).map_err(uncounted)?;
        within(
            made,
            caps.instances_made,
            "instances, those within others included",
        )?;
    }
    Ok(names)
}

fn uncounted(error: Uncounted) -> InspectError {
    match error {
        Uncounted::Broken(error) => invalid(error),
        Uncounted::Passed => InspectError::Invalid {
            reason: "components within it may be instantiated, but not imported, exported or handed on"
                .into(),
        },
    }
}

#[derive(Default)]
struct Tally {
    modules: u64,
    instances: u64,
    components: u64,
    functions: u64,
    memories: u64,
    tables: u64,
}

impl Tally {
    fn add(&mut self, payload: &Payload<'_>, caps: &UploadCaps) -> Result<(), InspectError> {
        match payload {
            Payload::ModuleSection { .. } => grow(&mut self.modules, 1, caps.modules, "core modules"),
            Payload::InstanceSection(reader) => {
                let mut made = 0;
                for instance in reader.clone() {
                    made += u32::from(matches!(instance.map_err(invalid)?, Instance::Instantiate { .. }));
                }
                grow(&mut self.instances, made, caps.instances, "core instances")
            }
            Payload::ComponentSection { .. } => {
                grow(&mut self.components, 1, caps.components, "nested components")
            }
            Payload::FunctionSection(reader) => {
                grow(&mut self.functions, reader.count(), caps.functions, "functions")
            }
            Payload::MemorySection(reader) => {
                grow(&mut self.memories, reader.count(), caps.memories, "memories")
            }
            Payload::TableSection(reader) => grow(&mut self.tables, reader.count(), caps.tables, "tables"),
            Payload::CodeSectionEntry(body) => {
                let bytes = body.range().len() as u64;
                within(bytes, caps.function_bytes, "bytes in one function")?;
                let mut locals = 0_u64;
                for run in body.get_locals_reader().map_err(invalid)? {
                    locals += u64::from(run.map_err(invalid)?.0);
                    within(locals, caps.locals, "locals in one function")?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

fn grow(total: &mut u64, by: u32, limit: u64, what: &'static str) -> Result<(), InspectError> {
    *total += u64::from(by);
    within(*total, limit, what)
}

fn within(actual: u64, limit: u64, what: &'static str) -> Result<(), InspectError> {
    if actual > limit {
        Err(InspectError::TooComplex { what, actual, limit })
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_released_interfaces_are_offered() {
        for good in [
            "wasi:cli/exit@0.2.0",
            "wasi:io/poll@0.2.14",
            EXACT_IMPORTS[0],
            EXACT_IMPORTS[6],
        ] {
            assert!(is_offered(good), "{good}");
        }
        for bad in [
            "wasi:cli/exit",
            "wasi:cli/exit@0.3.0",
            "wasi:cli/exit@0.2.0-rc-1",
            "wasi:cli/exit@0.2.",
            "wasi:http/outgoing-handler@0.2.0",
            "wasi:nn/graph@0.2.0",
            "wattle:pipeline/log@0.2.0",
            "",
        ] {
            assert!(!is_offered(bad), "{bad}");
        }
    }
}
