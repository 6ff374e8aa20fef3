//! Which backend serves a graph: the one that is asked for, or the fastest that answers as the reference does.

use std::sync::Arc;

use bytes::Bytes;
use domain::{BackendChoice, Digest, GoldenCheck, Placement, TenantId, UsageCell};

use crate::backend::Target;
use crate::error::LoadError;
use crate::golden::Golden;
use crate::handle::GraphHandle;
use crate::registry::{Inference, Installed};

/// A model that a graph is to be made of.
#[derive(Clone, Debug)]
pub struct Source {
    /// Whose it is.
    pub tenant: TenantId,
    /// The digest of its bytes.
    pub digest: Digest,
    /// Its bytes.
    pub blob: Bytes,
    /// Where it is to run.
    pub target: Target,
}

impl Inference {
    /// Loads a graph on the backend of `choice` and says how that one was checked. Where `known` was found
    /// before for a backend and version that is still here, it holds, and nothing is run.
    ///
    /// Otherwise every backend that is needed loads the graph: the golden check compares their answers, and
    /// among those that agree `auto` takes the one that needs the least CPU time. What all this uses goes to
    /// `cell`, the runs as work.
    ///
    /// # Errors
    /// A named backend that is not here or whose answers differ; else those of [`Inference::load`].
    pub async fn place(
        &self,
        source: &Source,
        choice: BackendChoice,
        known: Option<&Placement>,
        cell: &UsageCell,
    ) -> Result<(Arc<GraphHandle>, Placement), LoadError> {
        let fits = |backend: &&Installed| match choice {
            BackendChoice::Auto => true,
            named => backend.0.info.name == named.as_str(),
        };
        let target = source.target;
        if let Some(known) = known {
            let mut here = self.installed(target).filter(fits);
            if let Some(backend) = here.find(|backend| backend.0.info.label() == known.backend) {
                return Ok((self.load_on(backend, source, cell).await?, known.clone()));
            }
        }
        let (graph, check) = match choice {
            BackendChoice::Auto => self.fastest(source, cell).await?,
            named => {
                let backend = self.installed(target).find(fits);
                let backend = backend.ok_or_else(|| LoadError::BackendUnavailable {
                    backend: named.to_string(),
                    target,
                })?;
                self.checked(backend, source, cell).await?
            }
        };
        let backend = graph.info().label();
        Ok((graph, Placement { backend, check }))
    }

    /// The named backend, if it answers as the reference does.
    async fn checked(
        &self,
        backend: &Installed,
        source: &Source,
        cell: &UsageCell,
    ) -> Result<(Arc<GraphHandle>, GoldenCheck), LoadError> {
        let graph = self.load_on(backend, source, cell).await?;
        let reference = self.installed(source.target).next();
        let reference = reference.filter(|reference| reference.0.info.name != backend.0.info.name);
        let Some(reference) = reference else {
            return Ok((graph, GoldenCheck::Reference));
        };
        let Ok(reference) = self.load_on(reference, source, cell).await else {
            return Ok((graph, GoldenCheck::Alone));
        };
        let golden = Golden::of(&reference, cell).await;
        match golden.check(&graph, cell).await {
            Ok(check) => Ok((graph, check)),
            Err(reason) => Err(LoadError::Disagrees {
                backend: graph.info().label(),
                reference: reference.info().label(),
                reason,
            }),
        }
    }

    /// The backend that needs the least CPU time of those that answer as the reference does: the first that
    /// loads the graph.
    async fn fastest(
        &self,
        source: &Source,
        cell: &UsageCell,
    ) -> Result<(Arc<GraphHandle>, GoldenCheck), LoadError> {
        let reference = self.load_first(source, cell).await?;
        let name = reference.info().name;
        let after = self
            .installed(source.target)
            .skip_while(|backend| backend.0.info.name != name);
        let mut others = Vec::new();
        for backend in after.skip(1) {
            others.extend(self.load_on(backend, source, cell).await.ok());
        }
        if others.is_empty() {
            return Ok((reference, GoldenCheck::Alone));
        }
        let golden = Golden::of(&reference, cell).await;
        let (mut best, mut check) = (Arc::clone(&reference), GoldenCheck::Differs);
        for other in others {
            match golden.check(&other, cell).await {
                Ok(found) => {
                    check = found;
                    if golden.is_faster(&other, &best, cell).await {
                        best = other;
                    }
                }
                Err(reason) => {
                    let (backend, graph) = (other.info().label(), source.digest);
                    tracing::warn!(%graph, backend, reason, "a backend failed the golden check");
                }
            }
        }
        Ok((best, check))
    }
}
