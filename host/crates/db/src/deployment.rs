//! Deployments and their immutable, numbered releases.

use std::collections::BTreeMap;

use domain::{BackendChoice, Digest, Limits, Name, Placement, Signature};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::convert::{digest, from_json, load, parse, some, to_json};
use crate::{Cut, DbError, Page, TenantTx};

/// A graph's version by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GraphRef {
    /// The graph.
    pub name: Name,
    /// The version.
    pub version: Digest,
    /// Which backend it was proven on; none in releases from before there was a choice.
    pub placement: Option<Placement>,
}

/// Everything of a release that its tenant decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleaseSpec {
    /// The component and its revision; none serves a graph as it is.
    pub component: Option<(Name, Digest)>,
    /// The graphs by the alias under which the component finds them.
    pub graphs: BTreeMap<String, GraphRef>,
    /// The component's own settings.
    pub settings: BTreeMap<String, String>,
    /// What one invocation may use.
    pub limits: Limits,
    /// The backend that its graphs run on.
    pub backend: BackendChoice,
    /// What it takes and gives.
    pub signature: Signature,
}

/// A release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// The deployment.
    pub deployment: Name,
    /// Counts the releases of a deployment from 1.
    pub number: u32,
    /// What it is made of.
    pub spec: ReleaseSpec,
    /// When it was made.
    pub created_at: OffsetDateTime,
}

/// A named route to a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployment {
    /// Its name.
    pub name: Name,
    /// When it was made.
    pub created_at: OffsetDateTime,
    /// The release that calls go to.
    pub current: Release,
}

fn hidden(constraint: &str) -> DbError {
    DbError::Reference {
        constraint: constraint.into(),
    }
}

struct Row {
    deployment: String,
    number: i32,
    component: Option<String>,
    revision: Option<Vec<u8>>,
    graphs: String,
    settings: String,
    limits: String,
    backend: String,
    signature: String,
    deployed_at: OffsetDateTime,
    released_at: OffsetDateTime,
}

impl TryFrom<Row> for Release {
    type Error = DbError;
    fn try_from(row: Row) -> Result<Self, DbError> {
        let component = match (row.component, row.revision) {
            (Some(name), Some(revision)) => Some((
                parse("release.component", &name)?,
                digest("release.revision", &revision)?,
            )),
            _ => None,
        };
        Ok(Self {
            deployment: parse("release.deployment", &row.deployment)?,
            number: load("release.number", row.number)?,
            spec: ReleaseSpec {
                component,
                graphs: from_json("release_graph", &row.graphs)?,
                settings: from_json("release.settings", &row.settings)?,
                limits: from_json("release.limits", &row.limits)?,
                backend: parse("release.backend", &row.backend)?,
                signature: from_json("release.signature", &row.signature)?,
            },
            created_at: row.released_at,
        })
    }
}

impl TryFrom<Row> for Deployment {
    type Error = DbError;
    fn try_from(row: Row) -> Result<Self, DbError> {
        let created_at = row.deployed_at;
        let current = Release::try_from(row)?;
        Ok(Self {
            name: current.deployment.clone(),
            created_at,
            current,
        })
    }
}

/// Releases of deployments that are not hidden, of a tenant ($1), by further conditions.
macro_rules! releases {
    ($tail:literal, $($argument:expr),*) => {
        sqlx::query_as!(
            Row,
            r#"select r.deployment, r.number, r.component, r.revision,
                   (select coalesce(jsonb_object_agg(g.alias, jsonb_build_object(
                        'name', g.graph, 'version', 'sha256:' || encode(g.digest, 'hex'),
                        'placement', case when g.backend is not null then
                            jsonb_build_object('backend', g.backend, 'check', g.golden_check) end)), '{}')
                    from release_graph g
                    where g.tenant = r.tenant and g.deployment = r.deployment and g.number = r.number
                   )::text as "graphs!",
                   r.settings::text as "settings!", r.limits::text as "limits!", r.backend,
                   r.signature::text as "signature!", d.created_at as deployed_at, r.created_at as released_at
               from deployment d
               join release r on r.tenant = d.tenant and r.deployment = d.name
               where d.tenant = $1 and d.hidden_at is null "# + $tail,
            $($argument),*
        )
    };
}

impl TenantTx {
    /// Makes a deployment with its first release; the release's number, 1 unless a deleted deployment had
    /// the name: its releases do not come back. A name that is taken is a conflict (`deployment_pkey`).
    pub async fn deployment_create(&mut self, name: &Name, spec: &ReleaseSpec) -> Result<u32, DbError> {
        let done = sqlx::query!(
            "insert into deployment (tenant, name) values ($1, $2)
             on conflict (tenant, name) do update
             set hidden_at = null,
                 first_release = (
                     select coalesce(max(number), 0) + 1 from release r
                     where r.tenant = deployment.tenant and r.deployment = deployment.name
                 )
             where deployment.hidden_at is not null",
            self.tenant.0,
            name.as_str()
        )
        .execute(&mut *self.tx)
        .await?;
        if done.rows_affected() == 0 {
            return Err(DbError::Conflict {
                constraint: "deployment_pkey".into(),
            });
        }
        self.release_insert(name, spec).await
    }

    /// Adds a release and lets the deployment point to it; the release's number. A revision or graph
    /// version that is not there, or hidden, is a [`DbError::Reference`].
    pub async fn release_insert(&mut self, deployment: &Name, spec: &ReleaseSpec) -> Result<u32, DbError> {
        let (tenant, name) = (self.tenant.0, deployment.as_str());
        // The lock keeps two releases of a deployment from taking the same number.
        sqlx::query!(
            "select name from deployment where tenant = $1 and name = $2 and hidden_at is null for update",
            tenant,
            name
        )
        .fetch_optional(&mut *self.tx)
        .await?
        .ok_or(DbError::NotFound("deployment"))?;
        self.hold_uploads(spec).await?;
        let (component, revision) = match &spec.component {
            Some((component, revision)) => (Some(component.as_str()), Some(&revision.0[..])),
            None => (None, None),
        };
        let number = sqlx::query_scalar!(
            "insert into release
                 (tenant, deployment, number, component, revision, settings, limits, signature, backend)
             select $1, $2, coalesce(max(number), 0) + 1, $3::text, $4::bytea,
                 $5::text::jsonb, $6::text::jsonb, $7::text::jsonb, $8::text
             from release
             where tenant = $1 and deployment = $2
             returning number",
            tenant,
            name,
            component,
            revision,
            to_json("release.settings", &spec.settings)?,
            to_json("release.limits", &spec.limits)?,
            to_json("release.signature", &spec.signature)?,
            spec.backend.as_str()
        )
        .fetch_one(&mut *self.tx)
        .await?;
        self.release_graphs_insert(name, number, &spec.graphs).await?;
        sqlx::query!(
            "update deployment set current = $3 where tenant = $1 and name = $2",
            tenant,
            name,
            number
        )
        .execute(&mut *self.tx)
        .await?;
        load("release.number", number)
    }

    /// Sees that all that a release needs is visible, and keeps it so until the transaction ends: what is
    /// hidden may be collected.
    async fn hold_uploads(&mut self, spec: &ReleaseSpec) -> Result<(), DbError> {
        if let Some((component, revision)) = &spec.component {
            sqlx::query!(
                "select digest from component_revision
                 where tenant = $1 and component = $2 and digest = $3 and hidden_at is null
                 for share",
                self.tenant.0,
                component.as_str(),
                &revision.0[..]
            )
            .fetch_optional(&mut *self.tx)
            .await?
            .ok_or_else(|| hidden("release_tenant_component_revision_fkey"))?;
        }
        for graph in spec.graphs.values() {
            sqlx::query!(
                "select digest from graph_version
                 where tenant = $1 and graph = $2 and digest = $3 and hidden_at is null
                 for share",
                self.tenant.0,
                graph.name.as_str(),
                &graph.version.0[..]
            )
            .fetch_optional(&mut *self.tx)
            .await?
            .ok_or_else(|| hidden("release_graph_tenant_graph_digest_fkey"))?;
        }
        Ok(())
    }

    async fn release_graphs_insert(
        &mut self,
        deployment: &str,
        number: i32,
        graphs: &BTreeMap<String, GraphRef>,
    ) -> Result<(), DbError> {
        let aliases: Vec<&str> = graphs.keys().map(String::as_str).collect();
        let names: Vec<&str> = graphs.values().map(|graph| graph.name.as_str()).collect();
        let digests: Vec<&[u8]> = graphs.values().map(|graph| &graph.version.0[..]).collect();
        let placements = || graphs.values().map(|graph| graph.placement.as_ref());
        let backends: Vec<_> = placements()
            .map(|placement| placement.map(|placement| placement.backend.as_str()))
            .collect();
        let checks: Vec<_> = placements()
            .map(|placement| placement.map(|placement| placement.check.as_str()))
            .collect();
        sqlx::query!(
            "insert into release_graph (tenant, deployment, number, alias, graph, digest, backend, golden_check)
             select $1::uuid, $2::text, $3::integer, alias, graph, digest, backend, golden_check
             from unnest($4::text[], $5::text[], $6::bytea[], $7::text[], $8::text[])
                 as t (alias, graph, digest, backend, golden_check)",
            self.tenant.0,
            deployment,
            number,
            &aliases as &[&str],
            &names as &[&str],
            &digests as &[&[u8]],
            &backends as &[Option<&str>],
            &checks as &[Option<&str>]
        )
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }

    /// The deployment with its current release.
    pub async fn deployment_get(&mut self, name: &Name) -> Result<Option<Deployment>, DbError> {
        let row = releases!(
            "and r.number = d.current and d.name = $2",
            self.tenant.0,
            name.as_str()
        )
        .fetch_optional(&mut *self.tx)
        .await?;
        some(row, Deployment::try_from)
    }

    /// The tenant's deployments with their current releases, by name, those whose names begin with `prefix`.
    pub async fn deployments_list(
        &mut self,
        prefix: Option<&Name>,
        cut: &Cut<Name>,
    ) -> Result<Page<Deployment, Name>, DbError> {
        let rows = releases!(
            "and r.number = d.current and d.name > coalesce($2, '') and starts_with(d.name, coalesce($3, ''))
             order by d.name
             limit $4",
            self.tenant.0,
            cut.after.as_ref().map(Name::as_str),
            prefix.map(Name::as_str),
            cut.rows()
        )
        .fetch_all(&mut *self.tx)
        .await?;
        Page::of(rows, cut, |row| parse("release.deployment", &row.deployment))
    }

    /// A release of a deployment that is not hidden.
    pub async fn release_get(&mut self, deployment: &Name, number: u32) -> Result<Option<Release>, DbError> {
        // A number beyond the column's range is one that no release has.
        let Ok(number) = i32::try_from(number) else {
            return Ok(None);
        };
        let row = releases!(
            "and d.name = $2 and r.number = $3 and r.number >= d.first_release",
            self.tenant.0,
            deployment.as_str(),
            number
        )
        .fetch_optional(&mut *self.tx)
        .await?;
        some(row, Release::try_from)
    }

    /// The releases of a deployment that is not hidden, newest first, by their numbers.
    pub async fn releases_list(
        &mut self,
        deployment: &Name,
        cut: &Cut<i32>,
    ) -> Result<Page<Release, i32>, DbError> {
        let rows = releases!(
            "and d.name = $2 and ($3::integer is null or r.number < $3)
             order by r.number desc
             limit $4",
            self.tenant.0,
            deployment.as_str(),
            cut.after,
            cut.rows()
        )
        .fetch_all(&mut *self.tx)
        .await?;
        Page::of(rows, cut, |row| Ok(row.number))
    }

    /// Hides a deployment. Its releases stay; its name may be taken anew.
    pub async fn deployment_delete(&mut self, name: &Name) -> Result<(), DbError> {
        let done = sqlx::query!(
            "update deployment set hidden_at = now() where tenant = $1 and name = $2 and hidden_at is null",
            self.tenant.0,
            name.as_str()
        )
        .execute(&mut *self.tx)
        .await?;
        if done.rows_affected() == 1 {
            Ok(())
        } else {
            Err(DbError::NotFound("deployment"))
        }
    }
}
