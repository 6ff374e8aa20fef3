//! Checks of a posting by itself: whatever sealed it, these must hold.

use std::collections::BTreeMap;

use crate::account::Account;
use crate::posting::{Posting, PostingKind, Transfer, TransferKind, Unit};
use crate::{Digest, InvocationId, Name, TenantId};

/// The first thing in a posting that does not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PostingError {
    /// A counter ends before it starts.
    #[error("root '{root}' ends below its start")]
    CounterFell {
        /// The root.
        root: String,
    },
    /// What was moved from a root is not what it metered.
    #[error("root '{root}' metered {metered_uj} µJ, and {moved_uj} µJ were moved")]
    Law {
        /// The root.
        root: String,
        /// End − start, over all rows of the root.
        metered_uj: u128,
        /// The sum of its transfers.
        moved_uj: u128,
    },
    /// Receipt lines do not explain the dynamic transfers.
    #[error(
        "tenant {tenant}, deployment {deployment:?}, release {release:?}: lines say {lines} {unit:?}, transfers {transfers}"
    )]
    Lines {
        /// Who pays.
        tenant: TenantId,
        /// For which deployment.
        deployment: Option<Name>,
        /// For which release.
        release: Option<u32>,
        /// In which unit.
        unit: Unit,
        /// The sum of the lines.
        lines: u128,
        /// The sum of the transfers.
        transfers: u128,
    },
    /// Transfers are not numbered from 0.
    #[error("transfer {found} stands where {expected} should")]
    Ordinal {
        /// The number that belongs there.
        expected: u32,
        /// The number that is there.
        found: u32,
    },
    /// A transfer of nothing, or one whose accounts, unit, kind and payer contradict each other.
    #[error("transfer {ordinal} contradicts itself")]
    Transfer {
        /// The transfer.
        ordinal: u32,
    },
    /// Lines are not sorted by invocation, or an invocation has two.
    #[error("the line of invocation {invocation} is out of order")]
    LineOrder {
        /// The invocation.
        invocation: InvocationId,
    },
    /// An allocation was made from something else.
    #[error("the allocation cites {stated}, not {computed}")]
    Inputs {
        /// What the posting says.
        stated: Digest,
        /// What the inputs give.
        computed: Digest,
    },
    /// An allocation moves the idle energy of one window twice.
    #[error("the idle energy of root '{root}' in posting {posting} is cited twice")]
    CitedTwice {
        /// The window's posting.
        posting: Digest,
        /// The root.
        root: String,
    },
    /// An allocation moves more than what it cites.
    #[error("root '{root}' has {cited_uj} µJ of idle energy cited, and {moved_uj} µJ were moved")]
    AllocatedMore {
        /// The root.
        root: String,
        /// The sum of the cited windows.
        cited_uj: u128,
        /// The sum of the transfers.
        moved_uj: u128,
    },
    /// An allocation does not follow from the reservations.
    #[error("the allocation's transfers are not what the reservations give")]
    Allocated,
    /// The lines are not those that were sealed.
    #[error("the lines have the Merkle root {computed}, not {stated}")]
    Merkle {
        /// What the posting says.
        stated: Digest,
        /// What its lines give.
        computed: Digest,
    },
    /// Something else is not what was sealed.
    #[error("the posting has the hash {computed}, not {stated}")]
    Hash {
        /// What the posting says.
        stated: Digest,
        /// What its content gives.
        computed: Digest,
    },
}

impl Posting {
    /// Recomputes all that a posting says about itself, or names the first thing that does not fit: the
    /// law for each root, lines against transfers for each tenant, deployment and release, the order of
    /// transfers and lines, the Merkle root, the hash. It does not look at other postings.
    ///
    /// A correction that was sealed before its hash covered what it cites fits that hash still. A later one cannot pass
    /// for such a one, whatever becomes of what it cites: its hash is of other bytes.
    pub fn verify(&self) -> Result<(), PostingError> {
        if self.kind == PostingKind::Window {
            self.verify_law()?;
            self.verify_lines()?;
        }
        self.verify_order()?;
        let (stated, computed) = (self.merkle_root, self.compute_merkle_root());
        if stated != computed {
            return Err(PostingError::Merkle { stated, computed });
        }
        let (stated, computed) = (self.hash, self.compute_hash());
        if stated != computed && stated != self.compute_hash_without_cites() {
            return Err(PostingError::Hash { stated, computed });
        }
        Ok(())
    }

    /// For each root: Σ transfers = Σ (end − start).
    fn verify_law(&self) -> Result<(), PostingError> {
        let mut roots = BTreeMap::<&str, (u128, u128)>::new();
        for row in &self.roots {
            let Some(grown_uj) = row.end_uj.checked_sub(row.start_uj) else {
                return Err(PostingError::CounterFell {
                    root: row.root.name.clone(),
                });
            };
            roots.entry(&row.root.name).or_default().0 += u128::from(grown_uj);
        }
        for transfer in &self.transfers {
            if let Some(root) = &transfer.root {
                roots.entry(root).or_default().1 += u128::from(transfer.amount);
            }
        }
        for (root, (metered_uj, moved_uj)) in roots {
            if metered_uj != moved_uj {
                return Err(PostingError::Law {
                    root: root.to_owned(),
                    metered_uj,
                    moved_uj,
                });
            }
        }
        Ok(())
    }

    /// For each tenant, deployment, release and unit: Σ lines = Σ dynamic transfers.
    fn verify_lines(&self) -> Result<(), PostingError> {
        let mut sums = BTreeMap::<(TenantId, Option<&Name>, Option<u32>, Unit), (u128, u128)>::new();
        for line in &self.lines {
            let call = &line.call;
            let key = |unit| (call.tenant, call.deployment.as_ref(), call.release, unit);
            sums.entry(key(Unit::Uj)).or_default().0 += u128::from(line.energy_uj.unwrap_or(0));
            sums.entry(key(Unit::Fuel)).or_default().0 += u128::from(line.usage.fuel);
        }
        for transfer in &self.transfers {
            if let (TransferKind::Dynamic, Some(tenant)) = (transfer.kind, transfer.tenant) {
                let key = (
                    tenant,
                    transfer.deployment.as_ref(),
                    transfer.release,
                    transfer.unit,
                );
                sums.entry(key).or_default().1 += u128::from(transfer.amount);
            }
        }
        for ((tenant, deployment, release, unit), (lines, transfers)) in sums {
            if lines != transfers {
                let deployment = deployment.cloned();
                return Err(PostingError::Lines {
                    tenant,
                    deployment,
                    release,
                    unit,
                    lines,
                    transfers,
                });
            }
        }
        Ok(())
    }

    fn verify_order(&self) -> Result<(), PostingError> {
        for (expected, transfer) in (0..).zip(&self.transfers) {
            let found = transfer.ordinal;
            if found != expected {
                return Err(PostingError::Ordinal { expected, found });
            }
            let fits = match self.kind {
                PostingKind::Window => self.fits_window(transfer),
                PostingKind::Allocation => self.fits_allocation(transfer),
                PostingKind::Correction => self.fits_correction(transfer),
            };
            let is_cited = transfer.cites.is_some() && self.kind != PostingKind::Correction;
            if transfer.amount == 0 || !fits || is_cited {
                return Err(PostingError::Transfer { ordinal: found });
            }
        }
        for pair in self.lines.windows(2) {
            if let [before, line] = pair
                && before.call.invocation >= line.call.invocation
            {
                return Err(PostingError::LineOrder {
                    invocation: line.call.invocation,
                });
            }
        }
        Ok(())
    }

    /// Whether a window can have such a transfer: from a meter or the node's fuel, to a tenant for
    /// dynamic use, else to the account that its kind names.
    fn fits_window(&self, transfer: &Transfer) -> bool {
        let credit_fits = match (transfer.unit, &transfer.root) {
            (Unit::Uj, Some(root)) => matches!(&transfer.credit, Account::Meter(meter) if meter == root),
            (Unit::Fuel, None) => {
                transfer.credit == Account::Fuel(self.node) && transfer.kind == TransferKind::Dynamic
            }
            _ => false,
        };
        let debit = match transfer.kind {
            TransferKind::Dynamic => transfer.tenant.map(Account::Tenant),
            TransferKind::Idle => Some(Account::Idle),
            TransferKind::System => Some(Account::System),
            TransferKind::Foreign => Some(Account::Foreign),
            TransferKind::Unattributed => Some(Account::Unattributed),
            TransferKind::Allocation | TransferKind::Correction => None,
        };
        let unowned =
            transfer.tenant.is_none() && transfer.deployment.is_none() && transfer.release.is_none();
        credit_fits
            && debit.as_ref() == Some(&transfer.debit)
            && (transfer.kind == TransferKind::Dynamic || unowned)
    }

    /// Whether an allocation can have such a transfer: from idle energy of a root to a tenant or the
    /// platform. It has neither counters nor receipt lines.
    fn fits_allocation(&self, transfer: &Transfer) -> bool {
        let debit = transfer.tenant.map_or(Account::Platform, Account::Tenant);
        transfer.kind == TransferKind::Allocation
            && transfer.unit == Unit::Uj
            && transfer.root.is_some()
            && transfer.credit == Account::Idle
            && transfer.debit == debit
            && transfer.deployment.is_none()
            && transfer.release.is_none()
            && self.roots.is_empty()
            && self.lines.is_empty()
    }

    /// Whether a correction can have such a transfer: between a tenant and the platform. It has neither counters
    /// nor receipt lines.
    fn fits_correction(&self, transfer: &Transfer) -> bool {
        let tenant = transfer.tenant.map(Account::Tenant);
        let pair = match &transfer.credit {
            Account::Platform => Some(&transfer.debit),
            credit => Some(credit).filter(|_| transfer.debit == Account::Platform),
        };
        transfer.kind == TransferKind::Correction
            && tenant.is_some()
            && pair == tenant.as_ref()
            && transfer.root.is_none()
            && transfer.release.is_none()
            && self.roots.is_empty()
            && self.lines.is_empty()
    }
}
