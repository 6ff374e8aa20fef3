//! Components and their revisions.

use domain::{Digest, Name};
use time::OffsetDateTime;

use crate::convert::{digest, load, parse, some, store};
use crate::{Cut, DbError, Page, TenantTx};

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
    uploaded: i64,
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

struct Newest {
    component: String,
    digest: Vec<u8>,
    created_at: OffsetDateTime,
    revisions: i64,
}

impl TryFrom<Newest> for Component {
    type Error = DbError;
    fn try_from(row: Newest) -> Result<Self, DbError> {
        Ok(Self {
            name: parse("component_revision.component", &row.component)?,
            revisions: load("count of revisions", row.revisions)?,
            newest: digest("component_revision.digest", &row.digest)?,
            uploaded_at: row.created_at,
        })
    }
}

/// Revisions that are not hidden, of a tenant ($1), by further conditions.
macro_rules! revisions {
    ($tail:literal, $($argument:expr),*) => {
        sqlx::query_as!(
            Row,
            r#"select component, digest, bytes, created_at, uploaded
               from component_revision
               where tenant = $1 and hidden_at is null "# + $tail,
            $($argument),*
        )
    };
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

    /// The tenant's components by name, those whose names begin with `prefix`.
    pub async fn components_list(
        &mut self,
        prefix: Option<&Name>,
        cut: &Cut<Name>,
    ) -> Result<Page<Component, Name>, DbError> {
        let rows = sqlx::query_as!(
            Newest,
            r#"select distinct on (component) component, digest, created_at,
                   count(*) over (partition by component) as "revisions!"
               from component_revision
               where tenant = $1 and hidden_at is null and component > coalesce($2, '')
                   and starts_with(component, coalesce($3, ''))
               order by component, uploaded desc
               limit $4"#,
            self.tenant.0,
            cut.after.as_ref().map(Name::as_str),
            prefix.map(Name::as_str),
            cut.rows()
        )
        .fetch_all(&mut *self.tx)
        .await?;
        Page::of(rows, cut, |row| {
            parse("component_revision.component", &row.component)
        })
    }

    /// The revisions of a component, newest first, by their places in the order of uploads.
    pub async fn revisions_list(
        &mut self,
        component: &Name,
        cut: &Cut<i64>,
    ) -> Result<Page<Revision, i64>, DbError> {
        let rows = revisions!(
            "and component = $2 and uploaded < coalesce($3, 9223372036854775807)
             order by uploaded desc
             limit $4",
            self.tenant.0,
            component.as_str(),
            cut.after,
            cut.rows()
        )
        .fetch_all(&mut *self.tx)
        .await?;
        Page::of(rows, cut, |row| Ok(row.uploaded))
    }

    /// A revision that is not hidden.
    pub async fn revision_get(
        &mut self,
        component: &Name,
        digest: Digest,
    ) -> Result<Option<Revision>, DbError> {
        let row = revisions!(
            "and component = $2 and digest = $3",
            self.tenant.0,
            component.as_str(),
            &digest.0[..]
        )
        .fetch_optional(&mut *self.tx)
        .await?;
        some(row, Revision::try_from)
    }

    /// The revision that was uploaded last and is not hidden.
    pub async fn revision_newest(&mut self, component: &Name) -> Result<Option<Revision>, DbError> {
        let row = revisions!(
            "and component = $2 order by uploaded desc limit 1",
            self.tenant.0,
            component.as_str()
        )
        .fetch_optional(&mut *self.tx)
        .await?;
        some(row, Revision::try_from)
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

    /// Hides a revision. Releases keep it.
    pub async fn revision_delete(&mut self, component: &Name, digest: Digest) -> Result<(), DbError> {
        let done = sqlx::query!(
            "update component_revision set hidden_at = now()
             where tenant = $1 and component = $2 and digest = $3 and hidden_at is null",
            self.tenant.0,
            component.as_str(),
            &digest.0[..]
        )
        .execute(&mut *self.tx)
        .await?;
        match done.rows_affected() {
            1 => Ok(()),
            _ => Err(DbError::NotFound("revision")),
        }
    }
}
