//! The audit trail: who did what, written in the transaction of the act.

use std::fmt::Display;

use domain::{KeyId, Role, TenantId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::convert::{from_json, parse, to_json, word};
use crate::{AdminTx, BillingTx, Cut, DbError, Page, TenantTx};

/// With what an act is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actor {
    /// A bearer key.
    Key {
        /// Its id.
        id: KeyId,
        /// Its role.
        role: Role,
    },
    /// The secret of the first start, which makes the first admin key.
    Bootstrap,
    /// The secret for when every admin key is lost.
    Recovery,
}

impl Actor {
    /// The name in the API and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Key { .. } => "key",
            Self::Bootstrap => "bootstrap",
            Self::Recovery => "recovery",
        }
    }

    /// The key, where it is one.
    pub fn key(self) -> Option<KeyId> {
        match self {
            Self::Key { id, .. } => Some(id),
            Self::Bootstrap | Self::Recovery => None,
        }
    }

    /// What it may do.
    pub fn role(self) -> Role {
        match self {
            Self::Key { role, .. } => role,
            Self::Bootstrap | Self::Recovery => Role::Admin,
        }
    }
}

macro_rules! actions {
    ($($(#[$doc:meta])* $action:ident = $name:literal,)*) => {
        /// What is done. Each has a stable name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum Action {
            $($(#[$doc])* #[serde(rename = $name)] $action,)*
        }

        impl Action {
            /// Every action.
            pub const ALL: &[Self] = &[$(Self::$action,)*];

            /// The name in the API and in the database.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$action => $name,)* }
            }
        }
    };
}

actions! {
    /// A tenant is made.
    TenantCreate = "tenant.create",
    /// A tenant's status or quotas are changed.
    TenantUpdate = "tenant.update",
    /// A key is made.
    KeyCreate = "key.create",
    /// A key's secret is replaced by another key's.
    KeyRotate = "key.rotate",
    /// A key is revoked.
    KeyRevoke = "key.revoke",
    /// A revision is uploaded.
    ComponentUpload = "component.upload",
    /// A component or one of its revisions is hidden.
    ComponentHide = "component.hide",
    /// A graph's version is uploaded.
    GraphUpload = "graph.upload",
    /// A graph or one of its versions is hidden.
    GraphHide = "graph.hide",
    /// A deployment is made with its first release.
    DeploymentCreate = "deployment.create",
    /// A deployment gets a further release.
    DeploymentRelease = "deployment.release",
    /// A deployment is hidden.
    DeploymentHide = "deployment.hide",
    /// A carbon intensity is brought or revised.
    FactorAdd = "factor.add",
    /// A price plan is made.
    PlanCreate = "plan.create",
    /// A node is declared lost.
    NodeLose = "node.lose",
    /// A correction is asked for.
    CorrectionCreate = "correction.create",
    /// A month is closed.
    PeriodClose = "period.close",
    /// A month's charges are exported.
    PeriodExport = "period.export",
    /// The audit trail is exported.
    AuditExport = "audit.export",
    /// The key that signs checkpoints is replaced.
    LedgerRotateKey = "ledger.rotate_key",
    /// Old receipt lines are archived before the host does it by itself.
    LedgerArchive = "ledger.archive",
}

/// A line of the audit trail.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditEvent {
    /// Its place among those of the same instant.
    pub id: i64,
    /// When the act's transaction began.
    pub at: OffsetDateTime,
    /// With what it was done.
    pub actor: Actor,
    /// Whom it concerns; none for the platform.
    pub tenant: Option<TenantId>,
    /// What was done.
    pub action: Action,
    /// The id or the name of what it was done to.
    pub object: String,
    /// What else there is to know: an object.
    pub details: Value,
}

/// Which lines of the audit trail; those that are none leave all in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// Of a tenant.
    pub tenant: Option<TenantId>,
    /// Of a key.
    pub key: Option<KeyId>,
    /// Of an action.
    pub action: Option<Action>,
    /// At this instant or later.
    pub from: Option<OffsetDateTime>,
    /// Before this instant.
    pub to: Option<OffsetDateTime>,
}

/// The place of a line in the trail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditCursor {
    /// Its instant.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// Its place among those of the same instant.
    pub id: i64,
}

struct Row {
    id: i64,
    at: OffsetDateTime,
    actor: String,
    key: Option<Uuid>,
    role: String,
    tenant: Option<Uuid>,
    action: String,
    object: String,
    details: String,
}

impl TryFrom<Row> for AuditEvent {
    type Error = DbError;
    fn try_from(row: Row) -> Result<Self, DbError> {
        let actor = match (row.actor.as_str(), row.key) {
            ("key", Some(id)) => Actor::Key {
                id: KeyId(id),
                role: parse("audit_event.role", &row.role)?,
            },
            ("bootstrap", None) => Actor::Bootstrap,
            ("recovery", None) => Actor::Recovery,
            (other, _) => return Err(DbError::inconsistent("audit_event.actor", other)),
        };
        Ok(Self {
            id: row.id,
            at: row.at,
            actor,
            tenant: row.tenant.map(TenantId),
            action: word("audit_event.action", &row.action)?,
            object: row.object,
            details: from_json("audit_event.details", &row.details)?,
        })
    }
}

impl TenantTx {
    /// Writes down an act of this transaction that concerns its tenant. `details` is an object without
    /// secrets, of 4 KiB at most.
    pub async fn audit(
        &mut self,
        actor: Actor,
        action: Action,
        object: impl Display,
        details: Value,
    ) -> Result<(), DbError> {
        insert(
            &mut self.tx,
            actor,
            Some(self.tenant),
            action,
            object.to_string(),
            details,
        )
        .await
    }

    /// The tenant's lines, newest first.
    pub async fn audit_list(
        &mut self,
        filter: &AuditFilter,
        cut: &Cut<AuditCursor>,
    ) -> Result<Page<AuditEvent, AuditCursor>, DbError> {
        let own = AuditFilter {
            tenant: Some(self.tenant),
            ..filter.clone()
        };
        list(&mut self.tx, &own, cut).await
    }
}

impl AdminTx {
    /// Writes down an act of this transaction that concerns `tenant`, or the platform. `details` is an
    /// object without secrets, of 4 KiB at most.
    pub async fn audit(
        &mut self,
        actor: Actor,
        tenant: Option<TenantId>,
        action: Action,
        object: impl Display,
        details: Value,
    ) -> Result<(), DbError> {
        insert(&mut self.tx, actor, tenant, action, object.to_string(), details).await
    }
}

impl BillingTx {
    /// Everyone's lines, newest first.
    pub async fn audit_list(
        &mut self,
        filter: &AuditFilter,
        cut: &Cut<AuditCursor>,
    ) -> Result<Page<AuditEvent, AuditCursor>, DbError> {
        list(&mut self.tx, filter, cut).await
    }
}

async fn insert(
    tx: &mut PgConnection,
    actor: Actor,
    tenant: Option<TenantId>,
    action: Action,
    object: String,
    details: Value,
) -> Result<(), DbError> {
    sqlx::query!(
        "insert into audit_event (actor, key, role, tenant, action, object, details)
         values ($1, $2, $3, $4, $5, $6, $7::text::jsonb)",
        actor.as_str(),
        actor.key().map(|key| key.0),
        actor.role().as_str(),
        tenant.map(|tenant| tenant.0),
        action.as_str(),
        object,
        to_json("audit_event.details", &details)?
    )
    .execute(tx)
    .await?;
    Ok(())
}

async fn list(
    tx: &mut PgConnection,
    filter: &AuditFilter,
    cut: &Cut<AuditCursor>,
) -> Result<Page<AuditEvent, AuditCursor>, DbError> {
    let (at, id) = cut.after.map(|after| (after.at, after.id)).unzip();
    let rows = sqlx::query_as!(
        Row,
        r#"select id, at, actor, key, role, tenant, action, object, details::text as "details!"
           from audit_event
           where ($1::uuid is null or tenant = $1) and ($2::uuid is null or key = $2)
               and ($3::text is null or action = $3)
               and at >= coalesce($4, '-infinity'::timestamptz) and at < coalesce($5, 'infinity'::timestamptz)
               and (at, id) < (coalesce($6, 'infinity'::timestamptz), coalesce($7, 0::bigint))
           order by at desc, id desc
           limit $8"#,
        filter.tenant.map(|tenant| tenant.0),
        filter.key.map(|key| key.0),
        filter.action.map(Action::as_str),
        filter.from,
        filter.to,
        at,
        id,
        cut.rows()
    )
    .fetch_all(tx)
    .await?;
    Page::of(rows, cut, |row| {
        Ok(AuditCursor {
            at: row.at,
            id: row.id,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_is_read_by_its_name() {
        for action in Action::ALL {
            assert_eq!(word::<Action>("action", action.as_str()).unwrap(), *action);
        }
        assert!(word::<Action>("action", "tenant.rename").is_err());
    }
}
