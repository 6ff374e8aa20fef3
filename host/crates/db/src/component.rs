//! Components and their revisions.

use domain::{Digest, Name};
use time::OffsetDateTime;

use crate::convert::{digest, load, parse, store};
use crate::{DbError, TenantTx};

/// A component: a name with at least one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Component {
    /// Its name.
    pub name: Name,
    /// How many revisions it has.
    pub revisions: u64,
    /// The revision that was uploaded last.
    pub newest: Digest,
    /// When that was.
    pub uploaded_at: OffsetDateTime,
}

/// One immutable upload of a component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    /// The component.
    pub component: Name,
    /// The digest of its bytes.
    pub digest: Digest,
    /// How many bytes.
    pub bytes: u64,
    /// When it was uploaded first.
    pub created_at: OffsetDateTime,
}

struct Row {
    component: String,
    digest: Vec<u8>,
    bytes: i64,
    created_at: OffsetDateTime,
}

impl TryFrom<Row> for Revision {
    type Error = DbError;
    fn try_from(row: Row) -> Result<Self, DbError> {
        Ok(Self {
            component: parse("component_revision.component", &row.component)?,
            digest: digest("component_revision.digest", &row.digest)?,
            bytes: load("component_revision.bytes", row.bytes)?,
            created_at: row.created_at,
        })
    }
}

impl TenantTx {
    /// Adds a revision, or finds the one with this digest (a hidden one comes back); whether it was added.
    pub async fn component_revision_insert(
        &mut self,
        component: &Name,
        digest: Digest,
        bytes: u64,
    ) -> Result<(Revision, bool), DbError> {
        let done = sqlx::query!(
            "insert into component_revision (tenant, component, digest, bytes)
             values ($1, $2, $3, $4)
             on conflict (tenant, component, digest) do nothing",
            self.tenant.0,
            component.as_str(),
            &digest.0[..],
            store::<u64, i64>("component_revision.bytes", bytes)?
        )
        .execute(&mut *self.tx)
        .await?;
        sqlx::query!(
            "update component_revision set hidden_at = null
             where tenant = $1 and component = $2 and digest = $3 and hidden_at is not null",
            self.tenant.0,
            component.as_str(),
            &digest.0[..]
        )
        .execute(&mut *self.tx)
        .await?;
        let revision = self.revision_get(component, digest).await?;
        let revision = revision.ok_or(DbError::NotFound("revision"))?;
        Ok((revision, done.rows_affected() == 1))
    }

    /// The tenant's components, by name.
    pub async fn components_list(&mut self) -> Result<Vec<Component>, DbError> {
        let rows = sqlx::query!(
            r#"select distinct on (component) component, digest, created_at,
                   count(*) over (partition by component) as "revisions!"
               from component_revision
               where tenant = $1 and hidden_at is null
               order by component, uploaded desc"#,
            self.tenant.0
        )
        .fetch_all(&mut *self.tx)
        .await?;
        rows.into_iter()
            .map(|row| {
                Ok(Component {
                    name: parse("component_revision.component", &row.component)?,
                    revisions: load("count of revisions", row.revisions)?,
                    newest: digest("component_revision.digest", &row.digest)?,
                    uploaded_at: row.created_at,
                })
            })
            .collect()
    }

    /// The revisions of a component, newest first.
    pub async fn revisions_list(&mut self, component: &Name) -> Result<Vec<Revision>, DbError> {
        let rows = sqlx::query_as!(
            Row,
            "select component, digest, bytes, created_at
             from component_revision
             where tenant = $1 and component = $2 and hidden_at is null
             order by uploaded desc",
            self.tenant.0,
            component.as_str()
        );
        rows.fetch_all(&mut *self.tx)
            .await?
            .into_iter()
            .map(Revision::try_from)
            .collect()
    }

    /// A revision that is not hidden.
    pub async fn revision_get(
        &mut self,
        component: &Name,
        digest: Digest,
    ) -> Result<Option<Revision>, DbError> {
        let row = sqlx::query_as!(
            Row,
            "select component, digest, bytes, created_at
             from component_revision
             where tenant = $1 and component = $2 and digest = $3 and hidden_at is null",
            self.tenant.0,
            component.as_str(),
            &digest.0[..]
        );
        row.fetch_optional(&mut *self.tx)
            .await?
            .map(Revision::try_from)
            .transpose()
    }

    /// The revision that was uploaded last and is not hidden.
    pub async fn revision_newest(&mut self, component: &Name) -> Result<Option<Revision>, DbError> {
        let row = sqlx::query_as!(
            Row,
            "select component, digest, bytes, created_at
             from component_revision
             where tenant = $1 and component = $2 and hidden_at is null
             order by uploaded desc
             limit 1",
            self.tenant.0,
            component.as_str()
        );
        row.fetch_optional(&mut *self.tx)
            .await?
            .map(Revision::try_from)
            .transpose()
    }

    /// Hides a component with all its revisions. Releases keep what they have.
    pub async fn component_delete(&mut self, component: &Name) -> Result<(), DbError> {
        let done = sqlx::query!(
            "update component_revision set hidden_at = now()
             where tenant = $1 and component = $2 and hidden_at is null",
            self.tenant.0,
            component.as_str()
        )
        .execute(&mut *self.tx)
        .await?;
        if done.rows_affected() > 0 {
            Ok(())
        } else {
            Err(DbError::NotFound("component"))
        }
    }
}
