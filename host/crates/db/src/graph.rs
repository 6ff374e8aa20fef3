//! Graphs and their versions.

use domain::{Digest, Name, Signature};
use time::OffsetDateTime;

use crate::convert::{digest, from_json, load, parse, some, store, to_json};
use crate::{Cut, DbError, Page, TenantTx};

/// A graph: a name with at least one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Graph {
    /// Its name.
    pub name: Name,
    /// How many versions it has.
    pub versions: u64,
    /// The version that was uploaded last.
    pub newest: Digest,
    /// When that was.
    pub uploaded_at: OffsetDateTime,
}

/// One immutable upload of a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraphVersion {
    /// The graph.
    pub graph: Name,
    /// The digest of its bytes.
    pub digest: Digest,
    /// How many bytes.
    pub bytes: u64,
    /// How the bytes encode it, such as `onnx`.
    pub encoding: String,
    /// What it takes and gives.
    pub signature: Signature,
    /// When it was uploaded first.
    pub created_at: OffsetDateTime,
}

struct Row {
    graph: String,
    digest: Vec<u8>,
    bytes: i64,
    encoding: String,
    signature: String,
    created_at: OffsetDateTime,
    uploaded: i64,
}

impl TryFrom<Row> for GraphVersion {
    type Error = DbError;
    fn try_from(row: Row) -> Result<Self, DbError> {
        Ok(Self {
            graph: parse("graph_version.graph", &row.graph)?,
            digest: digest("graph_version.digest", &row.digest)?,
            bytes: load("graph_version.bytes", row.bytes)?,
            encoding: row.encoding,
            signature: from_json("graph_version.signature", &row.signature)?,
            created_at: row.created_at,
        })
    }
}

struct Newest {
    graph: String,
    digest: Vec<u8>,
    created_at: OffsetDateTime,
    versions: i64,
}

impl TryFrom<Newest> for Graph {
    type Error = DbError;
    fn try_from(row: Newest) -> Result<Self, DbError> {
        Ok(Self {
            name: parse("graph_version.graph", &row.graph)?,
            versions: load("count of versions", row.versions)?,
            newest: digest("graph_version.digest", &row.digest)?,
            uploaded_at: row.created_at,
        })
    }
}

/// Versions that are not hidden, of a tenant ($1), by further conditions.
macro_rules! versions {
    ($tail:literal, $($argument:expr),*) => {
        sqlx::query_as!(
            Row,
            r#"select graph, digest, bytes, encoding, signature::text as "signature!", created_at, uploaded
               from graph_version
               where tenant = $1 and hidden_at is null "# + $tail,
            $($argument),*
        )
    };
}

impl TenantTx {
    /// Adds a version, or finds the one with this digest (a hidden one comes back); whether it was added.
    pub async fn graph_version_insert(
        &mut self,
        graph: &Name,
        digest: Digest,
        bytes: u64,
        encoding: &str,
        signature: &Signature,
    ) -> Result<(GraphVersion, bool), DbError> {
        let done = sqlx::query!(
            "insert into graph_version (tenant, graph, digest, bytes, encoding, signature)
             values ($1, $2, $3, $4, $5, $6::text::jsonb)
             on conflict (tenant, graph, digest) do nothing",
            self.tenant.0,
            graph.as_str(),
            &digest.0[..],
            store::<u64, i64>("graph_version.bytes", bytes)?,
            encoding,
            to_json("graph_version.signature", signature)?
        )
        .execute(&mut *self.tx)
        .await?;
        sqlx::query!(
            "update graph_version set hidden_at = null
             where tenant = $1 and graph = $2 and digest = $3 and hidden_at is not null",
            self.tenant.0,
            graph.as_str(),
            &digest.0[..]
        )
        .execute(&mut *self.tx)
        .await?;
        let version = self.graph_version_get(graph, digest).await?;
        let version = version.ok_or(DbError::NotFound("graph version"))?;
        Ok((version, done.rows_affected() == 1))
    }

    /// The tenant's graphs by name, those whose names begin with `prefix`.
    pub async fn graphs_list(
        &mut self,
        prefix: Option<&Name>,
        cut: &Cut<Name>,
    ) -> Result<Page<Graph, Name>, DbError> {
        let rows = sqlx::query_as!(
            Newest,
            r#"select distinct on (graph) graph, digest, created_at,
                   count(*) over (partition by graph) as "versions!"
               from graph_version
               where tenant = $1 and hidden_at is null and graph > coalesce($2, '')
                   and starts_with(graph, coalesce($3, ''))
               order by graph, uploaded desc
               limit $4"#,
            self.tenant.0,
            cut.after.as_ref().map(Name::as_str),
            prefix.map(Name::as_str),
            cut.rows()
        )
        .fetch_all(&mut *self.tx)
        .await?;
        Page::of(rows, cut, |row| parse("graph_version.graph", &row.graph))
    }

    /// The versions of a graph, newest first, by their places in the order of uploads.
    pub async fn graph_versions_list(
        &mut self,
        graph: &Name,
        cut: &Cut<i64>,
    ) -> Result<Page<GraphVersion, i64>, DbError> {
        let rows = versions!(
            "and graph = $2 and uploaded < coalesce($3, 9223372036854775807)
             order by uploaded desc
             limit $4",
            self.tenant.0,
            graph.as_str(),
            cut.after,
            cut.rows()
        )
        .fetch_all(&mut *self.tx)
        .await?;
        Page::of(rows, cut, |row| Ok(row.uploaded))
    }

    /// A version that is not hidden.
    pub async fn graph_version_get(
        &mut self,
        graph: &Name,
        digest: Digest,
    ) -> Result<Option<GraphVersion>, DbError> {
        let row = versions!(
            "and graph = $2 and digest = $3",
            self.tenant.0,
            graph.as_str(),
            &digest.0[..]
        )
        .fetch_optional(&mut *self.tx)
        .await?;
        some(row, GraphVersion::try_from)
    }

    /// The version that was uploaded last and is not hidden.
    pub async fn graph_version_newest(&mut self, graph: &Name) -> Result<Option<GraphVersion>, DbError> {
        let row = versions!(
            "and graph = $2 order by uploaded desc limit 1",
            self.tenant.0,
            graph.as_str()
        )
        .fetch_optional(&mut *self.tx)
        .await?;
        some(row, GraphVersion::try_from)
    }

    /// Hides a graph with all its versions. Releases keep what they have.
    pub async fn graph_delete(&mut self, graph: &Name) -> Result<(), DbError> {
        let done = sqlx::query!(
            "update graph_version set hidden_at = now()
             where tenant = $1 and graph = $2 and hidden_at is null",
            self.tenant.0,
            graph.as_str()
        )
        .execute(&mut *self.tx)
        .await?;
        if done.rows_affected() > 0 {
            Ok(())
        } else {
            Err(DbError::NotFound("graph"))
        }
    }

    /// Hides a version. Releases keep it.
    pub async fn graph_version_delete(&mut self, graph: &Name, digest: Digest) -> Result<(), DbError> {
        let done = sqlx::query!(
            "update graph_version set hidden_at = now()
             where tenant = $1 and graph = $2 and digest = $3 and hidden_at is null",
            self.tenant.0,
            graph.as_str(),
            &digest.0[..]
        )
        .execute(&mut *self.tx)
        .await?;
        match done.rows_affected() {
            1 => Ok(()),
            _ => Err(DbError::NotFound("version")),
        }
    }
}
