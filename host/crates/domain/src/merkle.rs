//! Merkle trees as RFC 9162 (section 2.1) defines them, over SHA-256.
//!
//! A leaf is hashed as `00 ‖ data`, an inner node as `01 ‖ left ‖ right`, so that neither can pass for
//! the other; the root of no leaves is the digest of no bytes. A lone node at the end of a level moves
//! up as it is.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::Digest;

/// The first byte of what is hashed into a leaf.
pub const LEAF: u8 = 0;
/// The first byte of what is hashed into an inner node.
pub const NODE: u8 = 1;

/// The hash of a leaf over `data`.
pub fn leaf(data: &[u8]) -> Digest {
    Digest(
        Sha256::new()
            .chain_update([LEAF])
            .chain_update(data)
            .finalize()
            .into(),
    )
}

fn node(left: &Digest, right: &Digest) -> Digest {
    Digest(
        Sha256::new()
            .chain_update([NODE])
            .chain_update(left.0)
            .chain_update(right.0)
            .finalize()
            .into(),
    )
}

/// The next level up. A chunk has one or two nodes.
fn level_above(level: &[Digest]) -> Vec<Digest> {
    let up = |pair: &[Digest]| match pair {
        [left, right] => node(left, right),
        alone => alone.first().copied().unwrap_or(Digest::ZERO),
    };
    level.chunks(2).map(up).collect()
}

/// The root over the leaves' hashes.
pub fn root(leaves: &[Digest]) -> Digest {
    let mut level = leaves.to_vec();
    while level.len() > 1 {
        level = level_above(&level);
    }
    level.first().copied().unwrap_or_else(|| Digest::of(&[]))
}

/// That a leaf is at its place under a root: the siblings on the way up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The leaf's place, from 0.
    pub index: u64,
    /// How many leaves the tree has.
    pub size: u64,
    /// The siblings, lowest first; a level where the node is alone has none.
    pub path: Vec<Digest>,
}

/// The proof for the leaf at `index`; none if there is no such leaf.
pub fn prove(leaves: &[Digest], index: usize) -> Option<Proof> {
    if index >= leaves.len() {
        return None;
    }
    let (mut level, mut at, mut path) = (leaves.to_vec(), index, Vec::new());
    while level.len() > 1 {
        path.extend(level.get(at ^ 1));
        level = level_above(&level);
        at /= 2;
    }
    Some(Proof {
        index: index as u64,
        size: leaves.len() as u64,
        path,
    })
}

/// One level of a climb from a leaf to its root: the sibling there, and on which side it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// The sibling is on the left.
    Left(Digest),
    /// The sibling is on the right.
    Right(Digest),
}

/// The steps from the leaf at `index` to the root; none if there is no such leaf. Unlike a [`Proof`] they do not
/// say how many leaves there are beyond a power of two: how many calls of others fell into a window is not for
/// every tenant to know.
pub fn steps(leaves: &[Digest], index: usize) -> Option<Vec<Step>> {
    if index >= leaves.len() {
        return None;
    }
    let (mut level, mut at, mut steps) = (leaves.to_vec(), index, Vec::new());
    while level.len() > 1 {
        if let Some(sibling) = level.get(at ^ 1) {
            steps.push(match at % 2 {
                1 => Step::Left(*sibling),
                _ => Step::Right(*sibling),
            });
        }
        level = level_above(&level);
        at /= 2;
    }
    Some(steps)
}

/// The root that `steps` lead to from the hash of a leaf.
pub fn climb(leaf: Digest, steps: &[Step]) -> Digest {
    steps.iter().fold(leaf, |hash, step| match step {
        Step::Left(sibling) => node(sibling, &hash),
        Step::Right(sibling) => node(&hash, sibling),
    })
}

impl Proof {
    /// Whether the proof leads from the hash of the leaf to `root`.
    pub fn verify(&self, leaf: Digest, root: Digest) -> bool {
        if self.index >= self.size {
            return false;
        }
        let (mut at, mut last) = (self.index, self.size - 1);
        let (mut hash, mut path) = (leaf, self.path.iter());
        while last > 0 {
            if at % 2 == 1 || at < last {
                let Some(sibling) = path.next() else { return false };
                hash = if at % 2 == 1 {
                    node(sibling, &hash)
                } else {
                    node(&hash, sibling)
                };
            }
            (at, last) = (at / 2, last / 2);
        }
        path.next().is_none() && hash == root
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(count: u8) -> Vec<Digest> {
        (0..count).map(|n| leaf(&[n])).collect()
    }

    /// The RFC's own recursive definition.
    fn by_definition(leaves: &[Digest]) -> Digest {
        match leaves {
            [] => Digest::of(&[]),
            [one] => *one,
            many => {
                let (left, right) = many.split_at(many.len().next_power_of_two() / 2);
                node(&by_definition(left), &by_definition(right))
            }
        }
    }

    #[test]
    fn roots_are_those_of_the_rfc() {
        for count in 0..40 {
            assert_eq!(root(&leaves(count)), by_definition(&leaves(count)), "{count}");
        }
        assert_eq!(
            root(&[]).hex(),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }

    #[test]
    fn steps_lead_from_their_leaf_alone_to_the_root() {
        for count in 1..20 {
            let leaves = leaves(count);
            let root = root(&leaves);
            for index in 0..leaves.len() {
                let steps = steps(&leaves, index).unwrap();
                for (other, leaf) in leaves.iter().enumerate() {
                    assert_eq!(
                        climb(*leaf, &steps) == root,
                        other == index,
                        "{count} {index} {other}"
                    );
                }
                for short in 0..steps.len() {
                    assert_ne!(climb(leaves[index], &steps[..short]), root, "{count} {index}");
                }
            }
            assert_eq!(steps(&leaves, leaves.len()), None);
        }
    }

    #[test]
    fn proofs_hold_for_their_leaf_alone() {
        for count in 1..20 {
            let leaves = leaves(count);
            let root = root(&leaves);
            for index in 0..leaves.len() {
                let proof = prove(&leaves, index).unwrap();
                for (other, leaf) in leaves.iter().enumerate() {
                    assert_eq!(
                        proof.verify(*leaf, root),
                        other == index,
                        "{count} {index} {other}"
                    );
                }
                assert!(!proof.verify(leaves[index], Digest::of(b"another root")));
                let mut longer = proof.clone();
                longer.path.push(Digest::ZERO);
                assert!(!longer.verify(leaves[index], root));
                let elsewhere = Proof {
                    size: proof.index,
                    ..proof
                };
                assert!(!elsewhere.verify(leaves[index], root));
            }
            assert_eq!(prove(&leaves, leaves.len()), None);
        }
    }
}
