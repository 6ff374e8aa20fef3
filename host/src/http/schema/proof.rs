//! What the document says of checkpoints and of proofs.

use utoipa::ToSchema;

use super::{CallKind, Digest, Name, Outcome, Work};

/// A public key of Ed25519, with which signatures are checked.
#[derive(ToSchema)]
#[schema(
    value_type = String,
    pattern = "^ed25519:[0-9a-f]{64}$",
    example = "ed25519:3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
)]
pub struct PublicKey(String);

/// A signature of Ed25519.
#[derive(ToSchema)]
#[schema(as = Ed25519Signature, value_type = String, pattern = "^[0-9a-f]{128}$")]
pub struct Ed25519Signature(String);

/// A checkpoint with its signature.
#[derive(ToSchema)]
pub struct SignedCheckpoint {
    /// What is signed.
    checkpoint: Checkpoint,
    /// The signer's signature over it.
    signature: Ed25519Signature,
}

/// What a checkpoint says.
#[derive(ToSchema)]
pub struct Checkpoint {
    /// Counts the checkpoints of a ledger from 1.
    #[schema(minimum = 1)]
    number: u64,
    /// When it was made.
    #[schema(format = DateTime)]
    at: String,
    /// The hash of the one before it; zeroes for the first.
    prev_hash: Digest,
    /// How many postings entered the ledger since the one before.
    postings: u64,
    /// The Merkle root over these.
    merkle_root: Digest,
    /// The Merkle root over the heads of every node.
    heads_root: Digest,
    /// Who signs it.
    signer: PublicKey,
}

/// A receipt with all that it takes to verify it offline.
#[derive(ToSchema)]
pub struct ReceiptProof {
    /// The version of this form.
    version: u32,
    /// The receipt's id.
    #[schema(value_type = Uuid)]
    receipt: String,
    /// What the call was for.
    kind: CallKind,
    /// Who pays.
    #[schema(value_type = Uuid)]
    tenant: String,
    /// The deployment; null where none was called.
    deployment: Option<Name>,
    /// Its release; null where none was called.
    release: Option<u32>,
    /// When the call was accepted.
    #[schema(format = DateTime)]
    started_at: String,
    /// The receipt's lines, in their order.
    lines: Vec<ProvenLine>,
    /// The checkpoints that they lead to, each once.
    checkpoints: Vec<SignedCheckpoint>,
}

/// A line of a receipt, with the way up from it.
#[derive(ToSchema)]
pub struct ProvenLine {
    /// Counts the receipt's lines from 0.
    ordinal: u32,
    /// How the call ended, on the last line only.
    outcome: Option<Outcome>,
    /// What was used in the window.
    usage: ProvenUsage,
    /// Energy in microjoules; null where no reading covers it.
    energy_uj: Option<u64>,
    /// From the line to the Merkle root of its posting.
    to_posting: Vec<Step>,
    /// The posting.
    posting: CheckedPosting,
    /// From the posting to the Merkle root of its checkpoint.
    to_checkpoint: Vec<Step>,
    /// The checkpoint's number.
    checkpoint: u64,
}

/// What a line says was used.
#[derive(ToSchema)]
pub struct ProvenUsage {
    /// Fuel.
    fuel: u64,
    /// CPU time of the pipeline and of host calls on its behalf, in nanoseconds.
    cpu_ns: u64,
    /// Bytes of the request and of tensors that went to models.
    bytes_in: u64,
    /// Bytes of the answer and of tensors that came from models.
    bytes_out: u64,
    /// The most memory that the pipeline had at once, in bytes.
    peak_memory_bytes: u64,
    /// What models did.
    work: Vec<Work>,
}

/// A level on the way up a Merkle tree: the sibling there, by the side on which it stands.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// It is on the left.
    Left(Digest),
    /// It is on the right.
    Right(Digest),
}

/// What a checkpoint says of a posting.
#[derive(ToSchema)]
pub struct CheckedPosting {
    /// The host's node.
    #[schema(value_type = Uuid)]
    node: String,
    /// The start of the host that sealed it.
    #[schema(value_type = Uuid)]
    epoch: String,
    /// Counts the postings of that start from 0.
    seq: u64,
    /// When its window began.
    #[schema(format = DateTime)]
    from: String,
    /// When it ended.
    #[schema(format = DateTime)]
    to: String,
    /// The version of the rule that turns work into fuel.
    fuel_schedule: u32,
    /// The root of the Merkle tree over its receipt lines.
    merkle_root: Digest,
    /// The hash of all that it says.
    hash: Digest,
}

#[cfg(test)]
mod tests {
    use domain::checkpoint::{CheckedPosting, Record};
    use domain::merkle::Step;
    use domain::proof::{ProvenLine, ReceiptProof};
    use domain::{Digest, Epoch, InvocationId, NodeId, Outcome, SigningKey, TenantId, Usage};
    use time::OffsetDateTime;
    use uuid::Uuid;

    use crate::http::schema::tests::{members, properties};

    #[test]
    fn proofs_have_the_members_that_serde_writes() {
        let at = OffsetDateTime::UNIX_EPOCH;
        let posting = CheckedPosting {
            node: NodeId(Uuid::nil()),
            epoch: Epoch(Uuid::nil()),
            seq: 0,
            from: at,
            to: at,
            fuel_schedule: 1,
            merkle_root: Digest::ZERO,
            hash: Digest::ZERO,
        };
        let key = SigningKey::from_seed(&[0; 32]).unwrap();
        let signed = Record::make(None, std::slice::from_ref(&posting), at, &key).signed;
        let line = ProvenLine {
            ordinal: 0,
            outcome: Some(Outcome::Ok),
            usage: Usage::default(),
            energy_uj: None,
            to_posting: vec![],
            posting: posting.clone(),
            to_checkpoint: vec![],
            checkpoint: 1,
        };
        let proof = ReceiptProof {
            version: 1,
            receipt: InvocationId(Uuid::nil()),
            kind: domain::posting::CallKind::Infer,
            tenant: TenantId(Uuid::nil()),
            deployment: None,
            release: None,
            started_at: at,
            lines: vec![line.clone()],
            checkpoints: vec![signed.clone()],
        };
        for (documented, written) in [
            (properties::<super::CheckedPosting>(), members(posting)),
            (properties::<super::SignedCheckpoint>(), members(&signed)),
            (properties::<super::Checkpoint>(), members(&signed.checkpoint)),
            (properties::<super::ProvenLine>(), members(&line)),
            (properties::<super::ProvenUsage>(), members(&line.usage)),
            (properties::<super::ReceiptProof>(), members(proof)),
        ] {
            assert_eq!(documented, written);
        }
        let step = serde_json::to_value(Step::Left(Digest::ZERO)).unwrap();
        assert_eq!(step, serde_json::json!({ "left": Digest::ZERO }));
    }
}
