//! Holders of balances. A transfer moves from the source on credit to the user on debit.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{NodeId, TenantId};

/// The holder of one unit's balance.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Account {
    /// What a root metered: the source of all energy.
    Meter(String),
    /// What a node's guests burnt: the source of all fuel.
    Fuel(NodeId),
    /// A tenant's use.
    Tenant(TenantId),
    /// The platform's own work.
    Platform,
    /// Energy that the machine takes when nobody computes.
    Idle,
    /// The host's own work and its Postgres.
    System,
    /// Load on the machine that is not ours.
    Foreign,
    /// Energy that no reading can place.
    Unattributed,
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Meter(root) => write!(f, "meter:{root}"),
            Self::Fuel(node) => write!(f, "fuel:{node}"),
            Self::Tenant(tenant) => write!(f, "tenant:{tenant}"),
            Self::Platform => f.write_str("platform"),
            Self::Idle => f.write_str("idle"),
            Self::System => f.write_str("system"),
            Self::Foreign => f.write_str("foreign"),
            Self::Unattributed => f.write_str("unattributed"),
        }
    }
}

/// Text that is no account.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' is no account")]
pub struct ParseAccountError(String);

impl FromStr for Account {
    type Err = ParseAccountError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseAccountError(text.to_owned());
        match text.split_once(':') {
            Some(("meter", root)) => Ok(Self::Meter(root.to_owned())),
            Some(("fuel", node)) => node.parse().map(Self::Fuel).map_err(|_| wrong()),
            Some(("tenant", tenant)) => tenant.parse().map(Self::Tenant).map_err(|_| wrong()),
            Some(_) => Err(wrong()),
            None => [
                Self::Platform,
                Self::Idle,
                Self::System,
                Self::Foreign,
                Self::Unattributed,
            ]
            .into_iter()
            .find(|account| account.to_string() == text)
            .ok_or_else(wrong),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_round_trip_as_text() {
        let id = uuid::Uuid::from_u128(7);
        for account in [
            Account::Meter("package-0".into()),
            Account::Fuel(NodeId(id)),
            Account::Tenant(TenantId(id)),
            Account::Platform,
            Account::Unattributed,
        ] {
            assert_eq!(account.to_string().parse::<Account>().unwrap(), account);
        }
        assert!("tenant:x".parse::<Account>().is_err());
    }
}
