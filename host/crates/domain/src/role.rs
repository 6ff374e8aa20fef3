//! What a bearer key may do.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The role of a bearer key. The three tenant roles belong to one tenant, the others to none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Role {
    /// Manages tenants and keys, and may read what billing reads.
    #[serde(rename = "admin")]
    Admin,
    /// Reads the ledger and everyone's receipts.
    #[serde(rename = "billing")]
    Billing,
    /// Reads the ledger.
    #[serde(rename = "auditor")]
    Auditor,
    /// Uploads and deploys, and may do what the two lesser tenant roles may.
    #[serde(rename = "tenant:manage")]
    TenantManage,
    /// Calls deployments.
    #[serde(rename = "tenant:invoke")]
    TenantInvoke,
    /// Reads the tenant's own things.
    #[serde(rename = "tenant:read")]
    TenantRead,
}

/// Text that is no role.
#[derive(Debug, thiserror::Error)]
#[error("a role is one of admin, billing, auditor, tenant:manage, tenant:invoke, tenant:read")]
pub struct ParseRoleError;

impl Role {
    /// Every role.
    pub const ALL: [Self; 6] = [
        Self::Admin,
        Self::Billing,
        Self::Auditor,
        Self::TenantManage,
        Self::TenantInvoke,
        Self::TenantRead,
    ];

    /// The role's name in the API and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Billing => "billing",
            Self::Auditor => "auditor",
            Self::TenantManage => "tenant:manage",
            Self::TenantInvoke => "tenant:invoke",
            Self::TenantRead => "tenant:read",
        }
    }

    /// Whether a key of this role belongs to a tenant.
    pub fn is_tenants(self) -> bool {
        matches!(self, Self::TenantManage | Self::TenantInvoke | Self::TenantRead)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = ParseRoleError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or(ParseRoleError)
    }
}
