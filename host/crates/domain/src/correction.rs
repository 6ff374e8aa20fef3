//! Corrections: transfers that repair earlier ones, with a reason and an actor. Nothing is edited.
//!
//! A correction moves energy or fuel between a tenant and the platform, cites the posting that it repairs, and is a
//! posting of its own in the chain of the node that seals it. It counts in the month in which it is sealed, so a
//! closed month stays what it was. The digest of all of it is the posting's input digest.

use time::OffsetDateTime;
use uuid::Uuid;

use crate::account::Account;
use crate::posting::{Transfer, TransferKind, Unit};
use crate::{Digest, Name, TenantId, encoding};

/// A repair that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Correction {
    /// Its id.
    pub id: Uuid,
    /// When it was asked for.
    pub at: OffsetDateTime,
    /// Whose use it corrects.
    pub tenant: TenantId,
    /// Of which deployment; none for what belongs to none.
    pub deployment: Option<Name>,
    /// In which unit.
    pub unit: Unit,
    /// How much is added to the tenant's use, or taken off it where it is below 0; never 0.
    pub amount: i64,
    /// The hash of the posting that it corrects.
    pub cites: Digest,
    /// Why, in words.
    pub reason: String,
    /// Who asked for it: the id of an admin's key.
    pub key: Uuid,
}

impl Correction {
    /// The digest of all of it.
    pub fn digest(&self) -> Digest {
        encoding::correction_digest(self)
    }

    /// Its one transfer: what is added comes from the platform, what is taken off goes there. None where the
    /// amount is 0.
    pub(crate) fn transfers(&self) -> Vec<Transfer> {
        let (tenant, platform) = (Account::Tenant(self.tenant), Account::Platform);
        let (credit, debit) = match self.amount > 0 {
            true => (platform, tenant),
            false => (tenant, platform),
        };
        let transfer = Transfer {
            ordinal: 0,
            credit,
            debit,
            root: None,
            unit: self.unit,
            kind: TransferKind::Correction,
            tenant: Some(self.tenant),
            deployment: self.deployment.clone(),
            release: None,
            amount: self.amount.unsigned_abs(),
            cites: Some(self.cites),
        };
        Some(transfer)
            .filter(|transfer| transfer.amount > 0)
            .into_iter()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::posting::PostingKind;
    use crate::verify::PostingError;
    use crate::window::{OpenReceipts, Sealer};
    use crate::{Epoch, NodeId};

    fn correction(amount: i64) -> Correction {
        Correction {
            id: Uuid::from_u128(1),
            at: OffsetDateTime::UNIX_EPOCH,
            tenant: TenantId(Uuid::from_u128(2)),
            deployment: Some("echo".parse().unwrap()),
            unit: Unit::Uj,
            amount,
            cites: Digest::of(b"window"),
            reason: "the meter was wrong".into(),
            key: Uuid::from_u128(3),
        }
    }

    fn sealer() -> Sealer {
        let (node, epoch, at) = (
            NodeId(Uuid::nil()),
            Epoch(Uuid::nil()),
            OffsetDateTime::UNIX_EPOCH,
        );
        Sealer::new(node, epoch, 0, Digest::ZERO, at, vec![], OpenReceipts::default())
    }

    #[test]
    fn it_is_a_sound_posting_of_the_chain() {
        let mut sealer = sealer();
        for (seq, amount) in [(0, 5), (1, -5)] {
            let head = sealer.head();
            let posting = sealer.correct(&correction(amount), OffsetDateTime::UNIX_EPOCH);
            assert_eq!(posting.verify(), Ok(()));
            assert_eq!(
                (posting.kind, posting.seq, posting.prev_hash),
                (PostingKind::Correction, seq, head)
            );
            assert_eq!(posting.input_digest, correction(amount).digest());
            let transfer = &posting.transfers[0];
            let to_tenant = matches!(transfer.debit, Account::Tenant(_));
            assert_eq!((to_tenant, transfer.amount), (amount > 0, 5));
        }
    }

    #[test]
    fn its_hash_covers_what_it_cites() {
        let posting = sealer().correct(&correction(5), OffsetDateTime::UNIX_EPOCH);
        assert_eq!(posting.transfers[0].cites, Some(correction(5).cites));
        for cites in [None, Some(Digest::ZERO)] {
            let mut changed = posting.clone();
            changed.transfers[0].cites = cites;
            assert!(matches!(changed.verify(), Err(PostingError::Hash { .. })));
        }
        // One that was sealed before fits as it did.
        let mut old = posting.clone();
        old.hash = old.compute_hash_without_cites();
        assert_ne!(old.hash, posting.hash);
        for cites in [None, Some(correction(5).cites)] {
            old.transfers[0].cites = cites;
            assert_eq!(old.verify(), Ok(()));
        }
        old.transfers[0].amount += 1;
        assert!(matches!(old.verify(), Err(PostingError::Hash { .. })));
    }

    /// Version 3 of the encoding: if this fails, it needs a new version.
    #[test]
    fn the_encoding_stays() {
        let mut posting = sealer().correct(&correction(5), OffsetDateTime::UNIX_EPOCH);
        posting.fuel_schedule = 1;
        let digests = [posting.compute_hash(), posting.compute_hash_without_cites()];
        let expected: [&str; 2] = [
            "882bbf4279c6d0d946a7946bd02d2fac5fc4039ab62a301f5010896ba8818d71",
            "a11ada4942a2e46496502c67e7f931537de05b13b93e48826b6e67e231962046",
        ];
        assert_eq!(digests.map(|digest| digest.hex()), expected);
    }

    #[test]
    fn its_digest_covers_every_field() {
        let it = || correction(5);
        let others = [
            Correction {
                id: Uuid::from_u128(9),
                ..it()
            },
            Correction {
                at: OffsetDateTime::UNIX_EPOCH + time::Duration::MICROSECOND,
                ..it()
            },
            Correction {
                tenant: TenantId(Uuid::from_u128(9)),
                ..it()
            },
            Correction {
                deployment: None,
                ..it()
            },
            Correction {
                unit: Unit::Fuel,
                ..it()
            },
            Correction { amount: -5, ..it() },
            Correction {
                cites: Digest::ZERO,
                ..it()
            },
            Correction {
                reason: "another".into(),
                ..it()
            },
            Correction {
                key: Uuid::from_u128(9),
                ..it()
            },
        ];
        for other in others {
            assert_ne!(other.digest(), it().digest(), "{other:?}");
        }
    }

    #[test]
    fn what_no_correction_can_have_is_found() {
        let sealed = || sealer().correct(&correction(5), OffsetDateTime::UNIX_EPOCH);
        let spoils: [fn(&mut Transfer); 6] = [
            |transfer| transfer.credit = Account::Meter("package-0".into()),
            |transfer| transfer.kind = TransferKind::Dynamic,
            |transfer| transfer.tenant = Some(TenantId(Uuid::from_u128(9))),
            |transfer| transfer.tenant = None,
            |transfer| transfer.root = Some("package-0".into()),
            |transfer| transfer.amount = 0,
        ];
        for spoil in spoils {
            let mut posting = sealed();
            spoil(&mut posting.transfers[0]);
            posting.hash = posting.compute_hash();
            assert!(posting.verify().is_err(), "{posting:?}");
        }
    }
}
