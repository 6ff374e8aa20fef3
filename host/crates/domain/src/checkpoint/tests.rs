//! Checkpoints, and everything that can be wrong with one.

use uuid::Uuid;

use super::*;

fn key(n: u8) -> SigningKey {
    SigningKey::from_seed(&[n; 32]).unwrap()
}

fn signer(n: u8) -> Signer {
    Signer {
        key: key(n).public(),
        since: OffsetDateTime::UNIX_EPOCH,
        succession: None,
    }
}

fn posting(node: u128, seq: u64) -> CheckedPosting {
    let at = OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(i64::try_from(seq).unwrap());
    CheckedPosting {
        node: NodeId(Uuid::from_u128(node)),
        epoch: Epoch(Uuid::from_u128(9)),
        seq,
        from: at,
        to: at + time::Duration::SECOND,
        fuel_schedule: 1,
        merkle_root: Digest::of(b"lines"),
        hash: Digest::of(&[u8::try_from(seq).unwrap(), u8::try_from(node).unwrap()]),
    }
}

fn hour(n: i64) -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + time::Duration::hours(n)
}

/// Two checkpoints over two nodes; the second of them posts nothing in the second hour.
fn two() -> ([Vec<CheckedPosting>; 2], [Record; 2]) {
    let first = vec![posting(1, 0), posting(2, 0), posting(1, 1)];
    let second = vec![posting(1, 2), posting(1, 3)];
    let a = Record::make(None, &first, hour(1), &key(1));
    let b = Record::make(Some(&a), &second, hour(2), &key(1));
    ([first, second], [a, b])
}

#[test]
fn checkpoints_chain_and_keep_the_heads_of_all_nodes() {
    let ([first, second], [a, b]) = two();
    assert_eq!(a.verify(None, &[signer(1)]), Ok(()));
    assert_eq!(b.verify(Some(&a), &[signer(2), signer(1)]), Ok(()));
    assert_eq!(a.verify_ledger(None, &first), Ok(()));
    assert_eq!(b.verify_ledger(Some(&a), &second), Ok(()));
    let heads: Vec<_> = b
        .heads
        .iter()
        .map(|head| (head.node.0.as_u128(), head.seq))
        .collect();
    assert_eq!(heads, [(1, 3), (2, 0)]);
    assert_eq!((b.signed.checkpoint.number, b.signed.checkpoint.postings), (2, 2));
    // A clock that is set back makes no checkpoint older than the one before.
    let c = Record::make(Some(&b), &[], hour(0), &key(1));
    assert_eq!(c.signed.checkpoint.at, hour(2));
    assert_eq!(c.verify(Some(&b), &[signer(1)]), Ok(()));
}

fn resigned(mut record: Record, by: u8, change: impl FnOnce(&mut Checkpoint)) -> Record {
    change(&mut record.signed.checkpoint);
    record.signed.checkpoint.signer = key(by).public();
    record.signed.signature = key(by).sign(&record.signed.checkpoint.bytes());
    record
}

#[test]
fn what_is_wrong_with_a_checkpoint_is_named() {
    use CheckpointError as E;
    let (_, [a, b]) = two();
    let found = |record: &Record| record.verify(Some(&a), &[signer(1)]).unwrap_err();
    assert!(matches!(
        found(&resigned(b.clone(), 1, |c| c.number = 3)),
        E::Number {
            expected: 2,
            found: 3
        }
    ));
    assert!(matches!(
        found(&resigned(b.clone(), 1, |c| c.prev_hash = Digest::ZERO)),
        E::Link { number: 2, .. }
    ));
    assert!(matches!(
        found(&resigned(b.clone(), 1, |c| c.at = hour(0))),
        E::Time { number: 2 }
    ));
    // Whoever rewrites it has another key.
    assert!(matches!(
        found(&resigned(b.clone(), 2, |c| c.merkle_root = Digest::ZERO)),
        E::Signer { number: 2, .. }
    ));
    assert!(matches!(
        found(&resigned(b.clone(), 1, |c| c.heads_root = Digest::ZERO)),
        E::Heads { number: 2, .. }
    ));
    assert!(matches!(
        found(&resigned(b.clone(), 1, |c| c.postings = 3)),
        E::Leaves { leaves: 2, .. }
    ));
    let unsigned: [fn(&mut Checkpoint); 3] = [
        |c| c.postings += 1,
        |c| c.merkle_root = Digest::ZERO,
        |c| c.signer = key(2).public(),
    ];
    for change in unsigned {
        let mut record = b.clone();
        change(&mut record.signed.checkpoint);
        assert!(matches!(found(&record), E::Signature { number: 2, .. }));
    }
    let mut record = b.clone();
    record.leaves.swap(0, 1);
    assert!(matches!(found(&record), E::Leaves { leaves: 2, .. }));
    let mut record = b.clone();
    record.heads[0].seq -= 1;
    assert!(matches!(found(&record), E::Heads { number: 2, .. }));
    // What stands first is the first.
    assert!(matches!(
        b.verify(None, &[signer(1)]),
        Err(E::Number {
            expected: 1,
            found: 2
        })
    ));
    let first = resigned(a.clone(), 1, |c| c.prev_hash = Digest::of(b"x"));
    assert!(matches!(
        first.verify(None, &[signer(1)]),
        Err(E::Link { number: 1, .. })
    ));
}

#[test]
fn a_key_signs_until_another_follows_it() {
    let (_, [a, b]) = two();
    let follows = |since| Signer {
        key: key(2).public(),
        since,
        succession: Some(key(1).hand_over(key(2).public(), since)),
    };
    assert_eq!(b.verify(Some(&a), &[signer(1), follows(hour(2))]), Ok(()));
    assert!(matches!(
        b.verify(Some(&a), &[signer(1), follows(hour(1))]),
        Err(CheckpointError::Retired { number: 2, .. })
    ));
    // Only the key itself can say that another follows it.
    let forged = Signer {
        since: hour(0),
        ..follows(hour(1))
    };
    assert_eq!(b.verify(Some(&a), &[signer(1), forged]), Ok(()));
}

#[test]
fn what_is_wrong_with_the_ledger_under_a_checkpoint_is_named() {
    use CheckpointError as E;
    let ([first, second], [a, b]) = two();
    let found = |postings: &[CheckedPosting]| a.verify_ledger(None, postings).unwrap_err();
    for n in 0..first.len() {
        let mut changed = first.clone();
        changed[n].hash = Digest::of(b"rewritten");
        let E::Posting {
            number: 1, node, seq, ..
        } = found(&changed)
        else {
            panic!("{n}");
        };
        assert_eq!((node, seq), (first[n].node, first[n].seq));
    }
    let mut swapped = first.clone();
    swapped.swap(0, 1);
    assert!(matches!(found(&swapped), E::Posting { seq: 0, .. }));
    assert!(matches!(
        found(&first[..2]),
        E::Count {
            stated: 3,
            found: 2,
            ..
        }
    ));
    let more = [&first[..], &second].concat();
    assert!(matches!(
        found(&more),
        E::Count {
            stated: 3,
            found: 5,
            ..
        }
    ));
    // The head of a node that is gone from the checkpoint before.
    let mut forgot = a.clone();
    forgot.heads.pop();
    assert!(matches!(
        b.verify_ledger(Some(&forgot), &second),
        Err(E::Head {
            number: 2,
            seq: 0,
            ..
        })
    ));
}

#[test]
fn every_field_of_a_posting_is_in_its_leaf() {
    let changes: [fn(&mut CheckedPosting); 8] = [
        |p| p.node = NodeId(Uuid::max()),
        |p| p.epoch = Epoch(Uuid::max()),
        |p| p.seq += 1,
        |p| p.from -= time::Duration::MICROSECOND,
        |p| p.to += time::Duration::MICROSECOND,
        |p| p.fuel_schedule += 1,
        |p| p.merkle_root = Digest::ZERO,
        |p| p.hash = Digest::ZERO,
    ];
    for (n, change) in changes.iter().enumerate() {
        let mut changed = posting(1, 1);
        change(&mut changed);
        assert_ne!(changed.leaf(), posting(1, 1).leaf(), "{n}");
    }
}
