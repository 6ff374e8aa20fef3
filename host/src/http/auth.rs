//! Who calls: a bearer key, looked up by its hash.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use db::Actor;
use domain::{Role, TenantId};
use time::OffsetDateTime;

use crate::app::App;
use crate::flow::Error;

/// The holder of a valid key.
#[derive(Clone, Debug)]
pub struct Principal {
    /// The key, and what it may do.
    pub actor: Actor,
    /// Whose it is, for the tenant roles.
    pub tenant: Option<TenantId>,
    /// When it ends: what it makes ends no later.
    pub expires_at: Option<OffsetDateTime>,
    /// Whether its tenant is suspended and may only read.
    pub suspended: bool,
}

impl Principal {
    /// The tenant, if the key may upload and deploy.
    pub fn manages(&self) -> Result<TenantId, Error> {
        self.active(self.of_tenant(&[Role::TenantManage], "tenant:manage")?)
    }

    /// The tenant, if the key may call deployments.
    pub fn invokes(&self) -> Result<TenantId, Error> {
        self.active(self.of_tenant(&[Role::TenantManage, Role::TenantInvoke], "tenant:invoke")?)
    }

    /// The tenant, if the key may see the tenant's things.
    pub fn reads(&self) -> Result<TenantId, Error> {
        self.of_tenant(&[Role::TenantManage, Role::TenantRead], "tenant:read")
    }

    /// The tenant, whatever the key may do in it.
    pub fn belongs(&self) -> Result<TenantId, Error> {
        self.of_tenant(
            &[Role::TenantManage, Role::TenantInvoke, Role::TenantRead],
            "tenant:read",
        )
    }

    /// Refuses all but admins.
    pub fn administers(&self) -> Result<(), Error> {
        match self.actor {
            Actor::Key {
                role: Role::Admin, ..
            } => Ok(()),
            Actor::Key { .. } => Err(Error::Forbidden("admin")),
            Actor::Bootstrap | Actor::Recovery => Err(Error::FirstAdminOnly),
        }
    }

    /// Refuses those who may not read the ledger.
    pub fn audits(&self) -> Result<(), Error> {
        match self.actor.role() {
            Role::Billing | Role::Auditor => Ok(()),
            Role::Admin => self.administers(),
            _ => Err(Error::Forbidden("billing")),
        }
    }

    /// Refuses nobody who has a key of whatever role.
    pub fn is_known(&self) -> Result<(), Error> {
        match self.actor {
            Actor::Key { .. } => Ok(()),
            Actor::Bootstrap | Actor::Recovery => Err(Error::FirstAdminOnly),
        }
    }

    /// Refuses those who may not bring what bills rest on.
    pub fn bills(&self) -> Result<(), Error> {
        match self.actor.role() {
            Role::Billing => Ok(()),
            _ => self.administers(),
        }
    }

    /// Whether the key may list the tenant's keys, make, rotate and revoke them: its tenant, or none for those
    /// of everyone.
    pub fn keeps_keys(&self) -> Result<Option<TenantId>, Error> {
        match self.actor.role() {
            Role::Admin => self.administers().map(|()| None),
            Role::TenantManage => self.manages().map(Some),
            _ => Err(Error::Forbidden("admin or tenant:manage")),
        }
    }

    fn active(&self, tenant: TenantId) -> Result<TenantId, Error> {
        match self.suspended {
            false => Ok(tenant),
            true => Err(Error::TenantSuspended),
        }
    }

    /// Whose rows it may see of those that are asked for: its own tenant's, or everyone's (none) with one of
    /// `roles`.
    pub fn sees(&self, roles: &[Role], asked: Option<TenantId>) -> Result<Option<TenantId>, Error> {
        if roles.contains(&self.actor.role()) {
            return Ok(None);
        }
        let own = self.reads()?;
        match asked {
            Some(other) if other != own => {
                let message = "a tenant's key sees its own tenant only: leave it out";
                Err(Error::invalid("tenant", message))
            }
            _ => Ok(Some(own)),
        }
    }

    fn of_tenant(&self, roles: &[Role], needed: &'static str) -> Result<TenantId, Error> {
        let tenant = self.tenant.filter(|_| roles.contains(&self.actor.role()));
        tenant.ok_or(Error::Forbidden(needed))
    }
}

impl FromRequestParts<Arc<App>> for Principal {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Error> {
        let header = parts
            .headers
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok());
        let secret = header.and_then(|value| value.split_once(' '));
        let secret = secret
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, secret)| secret);
        app.keys
            .principal(app, secret.ok_or(Error::Unauthorised)?.trim())
            .await
    }
}
