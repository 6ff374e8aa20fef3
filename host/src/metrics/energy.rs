//! Joules by who used them, since the start, and where the last window's went.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use domain::posting::{Posting, PostingKind, Transfer, TransferKind, Unit};
use domain::{Name, TenantId};
use time::Duration;

/// Series of tenants' deployments at most, so that no page grows with what tenants do; the energy of those
/// beyond is counted together.
const SERIES: usize = 2_000;

/// Whose energy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Series {
    /// A tenant's deployment's; what publishing took has no deployment.
    Deployment(TenantId, Option<Name>),
    /// Of tenants that have no series of their own.
    Others,
    /// Nobody's in particular.
    Kind(TransferKind),
}

impl Series {
    fn of(transfer: &Transfer) -> Self {
        match transfer.tenant {
            Some(tenant) => Self::Deployment(tenant, transfer.deployment.clone()),
            None => Self::Kind(transfer.kind),
        }
    }
}

/// Joules since the start, and the last window.
#[derive(Debug, Default)]
pub struct Energy {
    total_uj: BTreeMap<Series, u64>,
    last: LastWindow,
}

/// Where the energy of the last window went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastWindow {
    /// How long it was.
    pub span: Duration,
    /// Microjoules by kind.
    pub energy_uj: BTreeMap<TransferKind, u64>,
}

impl LastWindow {
    /// What nobody can place, of all, in millionths.
    pub fn unattributed_ppm(&self) -> u64 {
        let all: u64 = self.energy_uj.values().sum();
        let lost = self.energy_uj.get(&TransferKind::Unattributed).copied();
        lost.unwrap_or_default().saturating_mul(1_000_000) / all.max(1)
    }
}

impl Energy {
    /// Counts a sealed window.
    pub fn sealed(&mut self, posting: &Posting) {
        if posting.kind != PostingKind::Window {
            return;
        }
        let mut last = LastWindow {
            span: posting.to - posting.from,
            energy_uj: BTreeMap::new(),
        };
        for transfer in posting
            .transfers
            .iter()
            .filter(|transfer| transfer.unit == Unit::Uj)
        {
            *last.energy_uj.entry(transfer.kind).or_default() += transfer.amount;
            let mut series = Series::of(transfer);
            if self.total_uj.len() >= SERIES
                && !self.total_uj.contains_key(&series)
                && transfer.tenant.is_some()
            {
                series = Series::Others;
            }
            *self.total_uj.entry(series).or_default() += transfer.amount;
        }
        self.last = last;
    }

    /// The last window.
    pub fn last(&self) -> &LastWindow {
        &self.last
    }

    /// Adds to the page that Prometheus scrapes.
    pub fn render(&self, page: &mut String) -> fmt::Result {
        let name = "wattle_energy_joules_total";
        writeln!(page, "# TYPE {name} counter")?;
        for (series, uj) in &self.total_uj {
            let labels = match series {
                Series::Deployment(tenant, Some(deployment)) => {
                    format!("kind=\"dynamic\",tenant=\"{tenant}\",deployment=\"{deployment}\"")
                }
                Series::Deployment(tenant, None) => {
                    format!("kind=\"dynamic\",tenant=\"{tenant}\",deployment=\"\"")
                }
                Series::Others => "kind=\"dynamic\",tenant=\"\",deployment=\"\"".to_owned(),
                Series::Kind(kind) => format!("kind=\"{}\"", kind.as_str()),
            };
            writeln!(page, "{name}{{{labels}}} {}", joules(*uj))?;
        }
        writeln!(
            page,
            "# TYPE wattle_energy_unattributed_ratio gauge\nwattle_energy_unattributed_ratio {}",
            joules(self.last.unattributed_ppm())
        )
    }
}

/// Millionths as a decimal number, exactly.
pub fn joules(uj: u64) -> String {
    format!("{}.{:06}", uj / 1_000_000, uj % 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::account::Account;
    use domain::{Digest, Epoch, NodeId};
    use time::OffsetDateTime;
    use uuid::Uuid;

    fn window(tenants: u128, uj: u64) -> Posting {
        let transfer = |tenant: Option<u128>, kind| Transfer {
            ordinal: 0,
            credit: Account::Meter("m".into()),
            debit: Account::Idle,
            root: Some("m".into()),
            unit: Unit::Uj,
            kind,
            tenant: tenant.map(|tenant| TenantId(Uuid::from_u128(tenant))),
            deployment: tenant.map(|_| "echo".parse().unwrap()),
            release: tenant.map(|_| 1),
            amount: uj,
            cites: None,
        };
        let mut transfers: Vec<_> = (0..tenants)
            .map(|tenant| transfer(Some(tenant), TransferKind::Dynamic))
            .collect();
        transfers.push(transfer(None, TransferKind::Unattributed));
        Posting {
            node: NodeId(Uuid::nil()),
            epoch: Epoch(Uuid::nil()),
            seq: 0,
            kind: PostingKind::Window,
            from: OffsetDateTime::UNIX_EPOCH,
            to: OffsetDateTime::UNIX_EPOCH + Duration::SECOND,
            fuel_schedule: 1,
            roots: Vec::new(),
            transfers,
            lines: Vec::new(),
            input_digest: Digest::ZERO,
            merkle_root: Digest::ZERO,
            prev_hash: Digest::ZERO,
            hash: Digest::ZERO,
        }
    }

    #[test]
    fn joules_are_counted_by_tenant_and_deployment() {
        let mut energy = Energy::default();
        energy.sealed(&window(3, 1_500_000));
        energy.sealed(&window(1, 500_000));
        let mut page = String::new();
        energy.render(&mut page).unwrap();
        let of = |tenant: u128, joules: &str| {
            let tenant = Uuid::from_u128(tenant);
            format!(
                "\nwattle_energy_joules_total{{kind=\"dynamic\",tenant=\"{tenant}\",deployment=\"echo\"}} {joules}\n"
            )
        };
        for line in [of(0, "2.000000"), of(2, "1.500000")] {
            assert!(page.contains(&line), "{page}");
        }
        assert!(page.contains("{kind=\"unattributed\"} 2.000000\n"), "{page}");
        assert!(
            page.ends_with("wattle_energy_unattributed_ratio 0.500000\n"),
            "{page}"
        );
    }

    #[test]
    fn the_page_does_not_grow_with_tenants() {
        let mut energy = Energy::default();
        energy.sealed(&window(SERIES as u128 + 500, 1));
        energy.sealed(&window(SERIES as u128 + 500, 1));
        let mut page = String::new();
        energy.render(&mut page).unwrap();
        assert!(page.lines().count() <= SERIES + 6);
        assert!(page.contains("{kind=\"dynamic\",tenant=\"\",deployment=\"\"} 0.001000\n"));
        assert!(
            page.contains("{kind=\"unattributed\"} 0.000002\n"),
            "what is nobody's has its own series"
        );
        assert_eq!(
            energy.last().energy_uj[&TransferKind::Dynamic],
            SERIES as u64 + 500
        );
    }
}
