//! Idle energy by reservation: who keeps something ready pays for the machine that waits.
//!
//! Once an hour the idle energy of each root, as sealed windows have placed it in the account `idle`, moves
//! to those who reserved: half of it by what is kept resident (bytes × seconds, of the machine's memory),
//! half by guaranteed concurrency (places × seconds, of the machine's places). Memory and places are what
//! a host runs out of; neither explains idle power better than the other, so they count alike. What nobody
//! reserved stays with the platform: it is the price of being ready for whoever comes. Where more is
//! reserved than there is, everyone's part shrinks in proportion, and the platform pays nothing of it.
//!
//! Amounts are exact shares, rounded by the largest remainder. An allocation moves all of what it cites.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::account::Account;
use crate::posting::{Posting, Transfer, TransferKind, Unit};
use crate::rounding::largest_remainder;
use crate::verify::PostingError;
use crate::{Digest, TenantId, encoding};

/// What is kept ready: of a machine as a whole, or for a tenant, over a span.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reserved {
    /// Bytes of memory × seconds.
    pub byte_seconds: u64,
    /// Calls that could run at once × seconds.
    pub place_seconds: u64,
}

/// Idle energy of one root in one sealed window.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CitedIdle {
    /// The hash of the window's posting.
    pub posting: Digest,
    /// The root.
    pub root: String,
    /// What it placed in the account `idle`, in microjoules.
    pub idle_uj: u64,
}

/// What one allocation is made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allocation {
    /// Wall time where it begins.
    pub from: OffsetDateTime,
    /// Wall time where it ends.
    pub to: OffsetDateTime,
    /// The idle energy that it moves, each at most once.
    pub cited: Vec<CitedIdle>,
    /// What the machine has; a dimension of 0 is not reserved by, and the other counts for all.
    pub capacity: Reserved,
    /// What was kept ready for each tenant.
    pub reserved: BTreeMap<TenantId, Reserved>,
}

/// Splits `idle_uj` between tenants and, under the key of none, the platform. The amounts sum to `idle_uj`;
/// a tenant that reserved nothing gets nothing.
pub fn allocate(
    idle_uj: u64,
    capacity: &Reserved,
    reserved: &BTreeMap<TenantId, Reserved>,
) -> BTreeMap<Option<TenantId>, u64> {
    let bytes = dimension(capacity.byte_seconds, reserved, |reserved| reserved.byte_seconds);
    let places = dimension(capacity.place_seconds, reserved, |reserved| {
        reserved.place_seconds
    });
    let mut weights = BTreeMap::<_, u128>::new();
    // Each dimension's parts over its own whole: a/A + b/B = (a·B + b·A) / (A·B).
    let (byte_whole, place_whole) = (whole(&bytes), whole(&places));
    let scaled = match (byte_whole, place_whole) {
        (0, _) => [(places, 1), (BTreeMap::new(), 0)],
        (_, 0) => [(bytes, 1), (BTreeMap::new(), 0)],
        _ => [(bytes, place_whole), (places, byte_whole)],
    };
    for (parts, factor) in scaled {
        for (who, part) in parts {
            let weight = weights.entry(who).or_default();
            *weight += u128::from(part) * u128::from(factor);
        }
    }
    if weights.values().all(|weight| *weight == 0) {
        weights.insert(None, 1);
    }
    largest_remainder(idle_uj, &weights)
}

/// What each reserved of one dimension, and the platform what is left of it. Halved until the sum of all
/// fits 63 bits, so that products with another's fit 128.
fn dimension(
    capacity: u64,
    reserved: &BTreeMap<TenantId, Reserved>,
    of: impl Fn(&Reserved) -> u64,
) -> BTreeMap<Option<TenantId>, u64> {
    if capacity == 0 {
        return BTreeMap::new();
    }
    let mut parts: BTreeMap<_, _> = reserved
        .iter()
        .map(|(tenant, reserved)| (Some(*tenant), u128::from(of(reserved))))
        .collect();
    let sum: u128 = parts.values().sum();
    parts.insert(None, u128::from(capacity).saturating_sub(sum));
    while parts.values().sum::<u128>() > u128::from(u64::MAX >> 1) {
        parts.values_mut().for_each(|part| *part /= 2);
    }
    let fits = |part: u128| u64::try_from(part).unwrap_or(u64::MAX);
    parts.into_iter().map(|(who, part)| (who, fits(part))).collect()
}

fn whole(parts: &BTreeMap<Option<TenantId>, u64>) -> u64 {
    parts.values().sum()
}

impl Allocation {
    /// Idle energy by root, in microjoules.
    pub fn idle_uj(&self) -> BTreeMap<&str, u128> {
        let mut sums = BTreeMap::<_, u128>::new();
        for cited in &self.cited {
            *sums.entry(cited.root.as_str()).or_default() += u128::from(cited.idle_uj);
        }
        sums
    }

    /// The transfers, by root, the platform's before the tenants'.
    pub(crate) fn transfers(&self) -> Vec<Transfer> {
        let mut transfers = Vec::new();
        for (root, idle_uj) in self.idle_uj() {
            let idle_uj = u64::try_from(idle_uj).unwrap_or(u64::MAX);
            let parts = allocate(idle_uj, &self.capacity, &self.reserved);
            for (tenant, amount) in parts.into_iter().filter(|(_, amount)| *amount > 0) {
                transfers.push(Transfer {
                    ordinal: u32::try_from(transfers.len()).unwrap_or(u32::MAX),
                    credit: Account::Idle,
                    debit: tenant.map_or(Account::Platform, Account::Tenant),
                    root: Some(root.to_owned()),
                    unit: Unit::Uj,
                    kind: TransferKind::Allocation,
                    tenant,
                    deployment: None,
                    release: None,
                    amount,
                    cites: None,
                });
            }
        }
        transfers
    }
}

impl Posting {
    /// Checks an allocation against what it was made from: that it cites exactly this, cites no window's root
    /// twice, and moves from each root what it cites, by the reservations. [`Posting::verify`] checks all
    /// else.
    pub fn verify_allocation(&self, made_from: &Allocation) -> Result<(), PostingError> {
        let (stated, computed) = (self.input_digest, encoding::allocation_digest(made_from));
        if stated != computed {
            return Err(PostingError::Inputs { stated, computed });
        }
        let mut seen = BTreeSet::new();
        for cited in &made_from.cited {
            if !seen.insert((cited.posting, &cited.root)) {
                return Err(PostingError::CitedTwice {
                    posting: cited.posting,
                    root: cited.root.clone(),
                });
            }
        }
        let idle_uj = made_from.idle_uj();
        for (root, moved_uj) in self.moved_by_root() {
            let cited_uj = idle_uj.get(root).copied().unwrap_or_default();
            if moved_uj > cited_uj {
                return Err(PostingError::AllocatedMore {
                    root: root.to_owned(),
                    cited_uj,
                    moved_uj,
                });
            }
        }
        if self.transfers != made_from.transfers() {
            return Err(PostingError::Allocated);
        }
        Ok(())
    }

    fn moved_by_root(&self) -> BTreeMap<&str, u128> {
        let mut moved = BTreeMap::<&str, u128>::new();
        for transfer in &self.transfers {
            let root = transfer.root.as_deref().unwrap_or_default();
            *moved.entry(root).or_default() += u128::from(transfer.amount);
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::window::{OpenReceipts, Sealer};
    use crate::{Epoch, NodeId};

    fn tenant(n: u128) -> TenantId {
        TenantId(Uuid::from_u128(n))
    }

    fn reserved(byte_seconds: u64, place_seconds: u64) -> Reserved {
        Reserved {
            byte_seconds,
            place_seconds,
        }
    }

    fn allocated(idle_uj: u64, capacity: Reserved, each: &[(u64, u64)]) -> (u64, Vec<u64>) {
        let all = (1..)
            .zip(each)
            .map(|(n, (bytes, places))| (tenant(n), reserved(*bytes, *places)));
        let parts = allocate(idle_uj, &capacity, &all.collect());
        let of = |who| parts.get(&who).copied().unwrap_or(0);
        let tenants = (1..).zip(each).map(|(n, _)| of(Some(tenant(n)))).collect();
        (of(None), tenants)
    }

    #[test]
    fn half_by_memory_and_half_by_places() {
        let cases = [
            // A quarter of the memory, half of the places.
            (reserved(400, 8), vec![(100, 4)], (625, vec![375])),
            (reserved(400, 8), vec![(0, 0)], (1_000, vec![0])),
            (reserved(400, 8), vec![], (1_000, vec![])),
            // Nothing can be reserved by places.
            (reserved(400, 0), vec![(100, 9), (300, 0)], (0, vec![250, 750])),
            (reserved(0, 0), vec![(100, 9)], (1_000, vec![0])),
            // More than there is.
            (reserved(100, 10), vec![(300, 0), (100, 10)], (0, vec![375, 625])),
            (
                reserved(u64::MAX, u64::MAX),
                vec![(u64::MAX, u64::MAX); 2],
                (0, vec![500, 500]),
            ),
        ];
        for (capacity, each, expected) in cases {
            assert_eq!(
                allocated(1_000, capacity, &each),
                expected,
                "{capacity:?} {each:?}"
            );
        }
    }

    fn any_reserved() -> impl Strategy<Value = (u64, u64)> {
        (
            prop_oneof![Just(0), 0..1_000_000_u64],
            prop_oneof![Just(0), 0..100_u64],
        )
    }

    proptest! {
        #[test]
        fn all_is_placed_and_more_reserved_is_never_less_paid(
            idle_uj in prop_oneof![0..9_u64, any::<u64>()],
            capacity in (0..5_000_000_u64, 0..500_u64),
            each in proptest::collection::vec(any_reserved(), 0..6),
        ) {
            let capacity = reserved(capacity.0, capacity.1);
            let (platform, tenants) = allocated(idle_uj, capacity, &each);
            let sum: u128 = tenants.iter().map(|uj| u128::from(*uj)).sum();
            prop_assert_eq!(sum + u128::from(platform), u128::from(idle_uj));
            for (a, share_a) in each.iter().zip(&tenants) {
                prop_assert!(*a != (0, 0) || *share_a == 0);
                for (b, share_b) in each.iter().zip(&tenants) {
                    if a.0 >= b.0 && a.1 >= b.1 {
                        prop_assert!(share_a + 1 >= *share_b);
                    }
                }
            }
        }
    }

    fn sealed() -> (Allocation, Posting) {
        let cited = |n: u8, root: &str, idle_uj| CitedIdle {
            posting: Digest::of(&[n]),
            root: root.into(),
            idle_uj,
        };
        let made_from = Allocation {
            from: OffsetDateTime::UNIX_EPOCH,
            to: OffsetDateTime::UNIX_EPOCH + time::Duration::hours(1),
            cited: vec![
                cited(1, "dram-0", 7),
                cited(1, "package-0", 1_000),
                cited(2, "package-0", 11),
            ],
            capacity: reserved(400, 8),
            reserved: BTreeMap::from([(tenant(1), reserved(100, 4)), (tenant(2), reserved(0, 1))]),
        };
        let (node, epoch, at) = (
            NodeId(Uuid::nil()),
            Epoch(Uuid::nil()),
            OffsetDateTime::UNIX_EPOCH,
        );
        let mut sealer = Sealer::new(
            node,
            epoch,
            3,
            Digest::of(b"before"),
            at,
            vec![],
            OpenReceipts::default(),
        );
        let posting = sealer.allocate(&made_from);
        assert_eq!((posting.seq, posting.prev_hash), (3, Digest::of(b"before")));
        assert_eq!((sealer.next_seq(), sealer.head()), (4, posting.hash));
        let next = sealer.seal(&[]);
        assert_eq!(
            (next.prev_hash, next.from),
            (posting.hash, at),
            "windows go on where they were"
        );
        (made_from, posting)
    }

    #[test]
    fn an_allocation_moves_what_it_cites() {
        let (made_from, posting) = sealed();
        assert_eq!(posting.verify(), Ok(()));
        assert_eq!(posting.verify_allocation(&made_from), Ok(()));
        let moved: Vec<_> = posting.moved_by_root().into_iter().collect();
        assert_eq!(moved, [("dram-0", 7), ("package-0", 1_011)]);
        let debits: Vec<_> = posting.transfers[2..]
            .iter()
            .map(|t| (t.debit.clone(), t.amount))
            .collect();
        let expected = [
            (Account::Platform, 569),
            (Account::Tenant(tenant(1)), 379),
            (Account::Tenant(tenant(2)), 63),
        ];
        assert_eq!(debits, expected);
    }

    type Tamper = (fn(&mut Posting), fn(&PostingError) -> bool);

    #[test]
    fn tampering_with_an_allocation_is_named() {
        let cases: [Tamper; 6] = [
            (
                |p| p.transfers[0].credit = Account::System,
                |e| matches!(e, PostingError::Transfer { ordinal: 0 }),
            ),
            (
                |p| p.transfers[0].debit = Account::Foreign,
                |e| matches!(e, PostingError::Transfer { ordinal: 0 }),
            ),
            (
                |p| p.transfers[1].tenant = None,
                |e| matches!(e, PostingError::Transfer { ordinal: 1 }),
            ),
            (
                |p| p.transfers[1].kind = TransferKind::Idle,
                |e| matches!(e, PostingError::Transfer { ordinal: 1 }),
            ),
            (
                |p| p.transfers[0].root = None,
                |e| matches!(e, PostingError::Transfer { ordinal: 0 }),
            ),
            (
                |p| p.input_digest = Digest::ZERO,
                |e| matches!(e, PostingError::Hash { .. }),
            ),
        ];
        for (n, (tamper, named)) in cases.iter().enumerate() {
            let (_, mut posting) = sealed();
            tamper(&mut posting);
            let error = posting.verify().unwrap_err();
            assert!(named(&error), "case {n}: {error}");
        }
        let (made_from, mut posting) = sealed();
        posting.transfers[2].amount += 1;
        let more = posting.verify_allocation(&made_from);
        assert!(matches!(
            more,
            Err(PostingError::AllocatedMore {
                cited_uj: 1_011,
                moved_uj: 1_012,
                ..
            })
        ));
        posting.transfers[3].amount -= 1;
        assert_eq!(
            posting.verify_allocation(&made_from),
            Err(PostingError::Allocated)
        );
        let mut twice = made_from.clone();
        twice.cited.push(twice.cited[1].clone());
        posting.input_digest = encoding::allocation_digest(&twice);
        assert!(matches!(
            posting.verify_allocation(&twice),
            Err(PostingError::CitedTwice { .. })
        ));
        assert!(matches!(
            posting.verify_allocation(&made_from),
            Err(PostingError::Inputs { .. })
        ));
    }
}
