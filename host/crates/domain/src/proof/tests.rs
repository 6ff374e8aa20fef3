//! A proof holds as it is, and in no other way.

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::checkpoint::Record;
use crate::signature::SigningKey;
use crate::{Digest, Epoch, NodeId, Work};

fn call(n: u128) -> Call {
    Call {
        invocation: InvocationId(Uuid::from_u128(n)),
        kind: CallKind::Infer,
        tenant: TenantId(Uuid::from_u128(n % 2)),
        deployment: Some("filetype".parse().unwrap()),
        release: Some(3),
        started_at: OffsetDateTime::UNIX_EPOCH + time::Duration::microseconds(5),
    }
}

fn line(n: u128, ordinal: u32, outcome: Option<Outcome>, busy_ns: u64) -> ReceiptLine {
    ReceiptLine {
        call: call(n),
        ordinal,
        outcome,
        usage: Usage {
            fuel: 100,
            cpu_ns: 5,
            bytes_in: 6,
            bytes_out: 7,
            peak_memory_bytes: 8,
            work: vec![Work {
                graph: Digest::of(b"graph"),
                backend: "rten".into(),
                device: "cpu".into(),
                precision: "exact".into(),
                runs: 1,
                rows: 2,
                cpu_ns: 9,
                busy_ns,
                tokens: 0,
            }],
        },
        energy_uj: Some(30),
    }
}

fn key() -> SigningKey {
    SigningKey::from_seed(&[7; 32]).unwrap()
}

/// The leaves of a posting with `others` calls before it and one behind, and the posting.
fn posting(seq: u64, own: &ReceiptLine, others: u128) -> (Vec<Digest>, CheckedPosting) {
    let mut leaves: Vec<_> = (0..others)
        .map(|n| line(n + 100, 0, Some(Outcome::Ok), 0).leaf())
        .collect();
    leaves.push(own.leaf());
    leaves.push(line(999, 0, Some(Outcome::Trapped), 1).leaf());
    let at = OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(i64::try_from(seq).unwrap());
    let posting = CheckedPosting {
        node: NodeId(Uuid::from_u128(1)),
        epoch: Epoch(Uuid::from_u128(2)),
        seq,
        from: at,
        to: at + time::Duration::milliseconds(1_500),
        fuel_schedule: 1,
        merkle_root: merkle::root(&leaves),
        hash: Digest::of(&seq.to_be_bytes()),
    };
    (leaves, posting)
}

/// A receipt of two lines, each in a posting of its own, these in two checkpoints.
fn proof() -> ReceiptProof {
    let lines = [line(7, 0, None, 0), line(7, 1, Some(Outcome::Ok), 3)];
    let (mut proven, mut before) = (Vec::new(), None);
    let mut checkpoints = Vec::new();
    for (seq, own) in (1..).zip(&lines) {
        let (leaves, own_posting) = posting(seq, own, 3 + u128::from(seq));
        let neighbours: Vec<_> = (0..4).map(|n| posting(10 * seq + n, own, 1).1).collect();
        let postings = [&neighbours[..], std::slice::from_ref(&own_posting)].concat();
        let at = OffsetDateTime::UNIX_EPOCH + time::Duration::hours(1);
        let record = Record::make(before.as_ref(), &postings, at, &key());
        let place = leaves.len() - 2;
        proven.push(ProvenLine {
            ordinal: own.ordinal,
            outcome: own.outcome,
            usage: own.usage.clone(),
            energy_uj: own.energy_uj,
            to_posting: merkle::steps(&leaves, place).unwrap(),
            posting: own_posting,
            to_checkpoint: merkle::steps(&record.leaves, 4).unwrap(),
            checkpoint: record.signed.checkpoint.number,
        });
        checkpoints.push(record.signed.clone());
        before = Some(record);
    }
    let Call {
        invocation,
        kind,
        tenant,
        deployment,
        release,
        started_at,
    } = call(7);
    ReceiptProof {
        version: VERSION,
        receipt: invocation,
        kind,
        tenant,
        deployment,
        release,
        started_at,
        lines: proven,
        checkpoints,
    }
}

#[test]
fn a_proof_proves_the_sums_of_its_lines() {
    let proven = proof().verify(&[key().public()]).unwrap();
    assert_eq!(
        (proven.outcome, proven.energy_uj, proven.usage.fuel),
        (Outcome::Ok, Some(60), 200)
    );
    assert_eq!(proven.signers, BTreeSet::from([key().public()]));
    let text = serde_json::to_string(&proof()).unwrap();
    assert_eq!(serde_json::from_str::<ReceiptProof>(&text).unwrap(), proof());
}

type Case = (fn(&mut ReceiptProof), fn(&ProofError) -> bool);

fn all_fail(cases: &[Case]) {
    for (n, (change, named)) in cases.iter().enumerate() {
        let mut changed = proof();
        change(&mut changed);
        let error = changed.verify(&[key().public()]).unwrap_err();
        assert!(named(&error), "case {n}: {error}");
    }
}

#[test]
fn what_does_not_fit_in_lines_is_named() {
    use ProofError as E;
    all_fail(&[
        (|p| p.version = 2, |e| *e == E::Version(2)),
        (|p| p.lines.clear(), |e| *e == E::Empty),
        (
            |p| drop(p.lines.remove(0)),
            |e| {
                matches!(
                    e,
                    E::Order {
                        expected: 0,
                        found: 1
                    }
                )
            },
        ),
        (|p| p.lines.truncate(1), |e| *e == E::Incomplete { ordinal: 0 }),
        (
            |p| p.lines[0].outcome = Some(Outcome::Ok),
            |e| *e == E::Incomplete { ordinal: 0 },
        ),
        (
            |p| p.lines[1].energy_uj = Some(29),
            |e| {
                matches!(
                    e,
                    E::Line {
                        ordinal: 1,
                        seq: 2,
                        ..
                    }
                )
            },
        ),
        (
            |p| p.lines[1].usage.work[0].busy_ns = 0,
            |e| matches!(e, E::Line { ordinal: 1, .. }),
        ),
        (
            |p| p.tenant = TenantId(Uuid::max()),
            |e| matches!(e, E::Line { ordinal: 0, .. }),
        ),
        (
            |p| p.receipt = InvocationId(Uuid::max()),
            |e| matches!(e, E::Line { ordinal: 0, .. }),
        ),
    ]);
}

#[test]
fn what_does_not_fit_in_postings_and_checkpoints_is_named() {
    use ProofError as E;
    all_fail(&[
        (
            |p| p.lines[0].posting.fuel_schedule = 2,
            |e| {
                *e == E::Posting {
                    ordinal: 0,
                    number: 1,
                }
            },
        ),
        (
            |p| p.lines[0].checkpoint = 9,
            |e| *e == E::Checkpoint { number: 9 },
        ),
        (
            |p| p.lines[1].checkpoint = 1,
            |e| {
                *e == E::Posting {
                    ordinal: 1,
                    number: 1,
                }
            },
        ),
        (
            |p| p.checkpoints.push(p.checkpoints[0].clone()),
            |e| *e == E::Checkpoint { number: 1 },
        ),
        (
            |p| p.checkpoints[1].checkpoint.at += time::Duration::MICROSECOND,
            |e| matches!(e, E::Signature { number: 2, .. }),
        ),
        (
            |p| p.checkpoints[1].checkpoint.postings += 1,
            |e| matches!(e, E::Signature { number: 2, .. }),
        ),
        (
            |p| p.checkpoints[0].signature = p.checkpoints[1].signature,
            |e| matches!(e, E::Signature { number: 1, .. }),
        ),
        (
            |p| p.checkpoints[0].checkpoint.signer = PublicKey([1; 32]),
            |e| matches!(e, E::Signer { number: 1, .. }),
        ),
    ]);
    assert!(matches!(proof().verify(&[]), Err(E::Signer { number: 1, .. })));
}

proptest! {
    /// Whichever byte of a proof is changed, it is no proof any more, or it says the same in other letters.
    #[test]
    fn any_changed_byte_fails(at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut bytes = serde_json::to_vec(&proof()).unwrap();
        let at = at.index(bytes.len());
        prop_assume!(bytes[at] != to);
        bytes[at] = to;
        if let Ok(changed) = serde_json::from_slice::<ReceiptProof>(&bytes) {
            let holds = changed.verify(&[key().public()]).is_ok();
            prop_assert_eq!(holds, changed == proof(), "byte {} became {:?}", at, char::from(to));
        }
    }

    /// Not even a swap of steps, or of what stands on which side.
    #[test]
    fn no_other_steps_lead_there(line in 0..2_usize, level in any::<prop::sample::Index>(), up in any::<bool>()) {
        let mut changed = proof();
        let line = &mut changed.lines[line];
        let steps = if up { &mut line.to_checkpoint } else { &mut line.to_posting };
        let level = level.index(steps.len());
        steps[level] = match steps[level] {
            Step::Left(sibling) => Step::Right(sibling),
            Step::Right(sibling) => Step::Left(sibling),
        };
        prop_assert!(changed.verify(&[key().public()]).is_err());
    }
}
