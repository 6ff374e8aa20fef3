//! How much a component comes to once its instances are made.
//!
//! A component within a component may be made twice, and so may each that it holds: thirty of them, in a few
//! hundred bytes, come to a billion instances, each of which the compiler would lay out.

use wasmparser::{
    BinaryReaderError, ComponentAlias, ComponentExternalKind, ComponentInstance, ComponentOuterAliasKind,
    ComponentTypeRef, Encoding, Instance, Payload,
};

/// The components and modules that stand around what is being read, the innermost last.
#[derive(Default)]
pub(crate) struct Nesting(Vec<Scope>);

#[derive(Default)]
struct Scope {
    is_component: bool,
    /// Instances that one instance of this comes to, itself included.
    instances: u64,
    /// The same of each component that it may instantiate, by index.
    components: Vec<u64>,
}

/// What cannot be counted.
pub(crate) enum Uncounted {
    /// It is broken.
    Broken(BinaryReaderError),
    /// A component comes from where its instances cannot be seen.
    Passed,
}

impl From<BinaryReaderError> for Uncounted {
    fn from(error: BinaryReaderError) -> Self {
        Self::Broken(error)
    }
}

impl Nesting {
    /// How deep what is being read stands: 1 in the outermost.
    pub(crate) fn depth(&self) -> usize {
        self.0.len()
    }

    /// Reads on, and gives the instances that the innermost comes to so far.
    pub(crate) fn add(&mut self, payload: &Payload<'_>) -> Result<u64, Uncounted> {
        match payload {
            Payload::Version { encoding, .. } => self.0.push(Scope {
                is_component: *encoding == Encoding::Component,
                instances: 1,
                components: Vec::new(),
            }),
            Payload::End(_) => {
                if let (Some(ended), Some(around)) = (self.0.pop(), self.0.last_mut())
                    && ended.is_component
                {
                    around.components.push(ended.instances);
                }
            }
            Payload::InstanceSection(reader) => {
                for instance in reader.clone() {
                    if matches!(instance?, Instance::Instantiate { .. }) {
                        self.make(1);
                    }
                }
            }
            Payload::ComponentInstanceSection(reader) => {
                for instance in reader.clone() {
                    if let ComponentInstance::Instantiate { component_index, .. } = instance? {
                        self.make(self.component(0, component_index));
                    }
                }
            }
            Payload::ComponentAliasSection(reader) => {
                for alias in reader.clone() {
                    self.alias(&alias?)?;
                }
            }
            Payload::ComponentImportSection(reader) => {
                for import in reader.clone() {
                    if matches!(import?.ty, ComponentTypeRef::Component(_)) {
                        return Err(Uncounted::Passed);
                    }
                }
            }
            Payload::ComponentExportSection(reader) => {
                for export in reader.clone() {
                    if export?.kind == ComponentExternalKind::Component {
                        return Err(Uncounted::Passed);
                    }
                }
            }
            _ => {}
        }
        Ok(self.0.last().map_or(0, |scope| scope.instances))
    }

    fn alias(&mut self, alias: &ComponentAlias<'_>) -> Result<(), Uncounted> {
        match *alias {
            ComponentAlias::InstanceExport {
                kind: ComponentExternalKind::Component,
                ..
            } => Err(Uncounted::Passed),
            ComponentAlias::Outer {
                kind: ComponentOuterAliasKind::Component,
                count,
                index,
            } => {
                let instances = self.component(count, index);
                if let Some(scope) = self.0.last_mut() {
                    scope.components.push(instances);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn make(&mut self, instances: u64) {
        if let Some(scope) = self.0.last_mut() {
            scope.instances = scope.instances.saturating_add(instances);
        }
    }

    /// What component `index` of the scope that stands `outward` scopes out comes to; one that is not there
    /// is the validator's to refuse.
    fn component(&self, outward: u32, index: u32) -> u64 {
        let scope = self.0.iter().rev().nth(outward as usize);
        let found = scope.and_then(|scope| scope.components.get(index as usize));
        found.copied().unwrap_or(1)
    }
}
