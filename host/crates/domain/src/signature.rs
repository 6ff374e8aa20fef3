//! Ed25519 (RFC 8032): keys that sign checkpoints, and whether a signature is theirs.
//!
//! Signing takes no randomness, so that it is arithmetic as everything here is; the seed of a key is passed in.

use std::fmt;
use std::str::FromStr;

use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::OffsetDateTime;

use crate::encoding::{Encoder, SUCCESSION};

/// A key that signatures are checked with, written `ed25519:<64 hex digits>`. It is its own id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

/// An Ed25519 signature, written `<128 hex digits>`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; 64]);

/// Text that is no public key.
#[derive(Debug, thiserror::Error)]
#[error("a public key is written ed25519:<64 hex digits>")]
pub struct ParsePublicKeyError;

/// Text that is no signature.
#[derive(Debug, thiserror::Error)]
#[error("a signature is written as 128 hex digits")]
pub struct ParseSignatureError;

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ed25519:{}", hex::encode(self.0))
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for PublicKey {
    type Err = ParsePublicKeyError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix("ed25519:").ok_or(ParsePublicKeyError)?;
        let mut bytes = [0; 32];
        hex::decode_to_slice(digits, &mut bytes).map_err(|_| ParsePublicKeyError)?;
        Ok(Self(bytes))
    }
}

impl FromStr for Signature {
    type Err = ParseSignatureError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 64];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| ParseSignatureError)?;
        Ok(Self(bytes))
    }
}

macro_rules! as_text {
    ($($name:ident)*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?
                    .parse()
                    .map_err(serde::de::Error::custom)
            }
        }
    )*};
}

as_text! { PublicKey Signature }

impl PublicKey {
    /// Whether `signature` over `message` was made with this key.
    pub fn verifies(&self, message: &[u8], signature: &Signature) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0)
            .verify(message, &signature.0)
            .is_ok()
    }
}

/// A key that signs. Its `Debug` shows the public half alone.
pub struct SigningKey(Ed25519KeyPair);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SigningKey").field(&self.public()).finish()
    }
}

/// A seed that makes no key.
#[derive(Debug, thiserror::Error)]
#[error("the seed of the signing key makes no key")]
pub struct SeedError;

impl SigningKey {
    /// The key of a seed of 32 random bytes.
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self, SeedError> {
        Ed25519KeyPair::from_seed_unchecked(seed)
            .map(Self)
            .map_err(|_| SeedError)
    }

    /// The half that everyone may know.
    pub fn public(&self) -> PublicKey {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.0.public_key().as_ref());
        PublicKey(bytes)
    }

    /// Signs `message`.
    pub fn sign(&self, message: &[u8]) -> Signature {
        let mut bytes = [0; 64];
        bytes.copy_from_slice(self.0.sign(message).as_ref());
        Signature(bytes)
    }

    /// Names `next` as the key that takes over at `since`.
    pub fn hand_over(&self, next: PublicKey, since: OffsetDateTime) -> Succession {
        let follows = self.public();
        let endorsement = self.sign(&handed_over(follows, next, since));
        Succession { follows, endorsement }
    }
}

fn handed_over(follows: PublicKey, key: PublicKey, since: OffsetDateTime) -> Vec<u8> {
    let mut to = Encoder::new(Some(SUCCESSION), 1);
    to.raw(&follows.0);
    to.raw(&key.0);
    to.time(since);
    to.bytes
}

/// That a key took over from another, in that one's own hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Succession {
    /// The key before it.
    pub follows: PublicKey,
    /// That one's signature over both keys and the instant.
    pub endorsement: Signature,
}

/// A key that the ledger lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signer {
    /// The key.
    pub key: PublicKey,
    /// From when on it signs.
    pub since: OffsetDateTime,
    /// The key that it took over from; none for the first one of a node.
    pub succession: Option<Succession>,
}

impl Signer {
    /// Whether the key that it follows, if it follows one, said so itself.
    pub fn is_endorsed(&self) -> bool {
        self.succession.as_ref().is_none_or(|succession| {
            let message = handed_over(succession.follows, self.key, self.since);
            succession.follows.verifies(&message, &succession.endorsement)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8032, section 7.1, test 2.
    #[test]
    fn signatures_are_those_of_the_rfc() {
        let seed = hex::decode("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb").unwrap();
        let key = SigningKey::from_seed(&seed.try_into().unwrap()).unwrap();
        assert_eq!(
            key.public().to_string(),
            "ed25519:3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
        );
        let signature = key.sign(&[0x72]);
        assert_eq!(
            signature.to_string(),
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da\
             085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
        );
        assert!(key.public().verifies(&[0x72], &signature));
        assert!(!key.public().verifies(&[0x73], &signature));
    }

    #[test]
    fn keys_and_signatures_round_trip_as_text() {
        let key = SigningKey::from_seed(&[7; 32]).unwrap();
        let (public, signature) = (key.public(), key.sign(b"wattle"));
        assert_eq!(public.to_string().parse::<PublicKey>().unwrap(), public);
        assert_eq!(signature.to_string().parse::<Signature>().unwrap(), signature);
        for bad in ["", "ed25519:", "ed25519:zz", &hex::encode(public.0)] {
            assert!(bad.parse::<PublicKey>().is_err(), "{bad:?}");
        }
        assert!("00".parse::<Signature>().is_err());
        assert!(!format!("{key:?}").contains(&hex::encode([7; 32])));
    }

    #[test]
    fn a_key_takes_over_by_the_hand_of_the_one_before() {
        let (old, new) = (
            SigningKey::from_seed(&[1; 32]).unwrap(),
            SigningKey::from_seed(&[2; 32]).unwrap(),
        );
        let since = OffsetDateTime::UNIX_EPOCH;
        let signer = Signer {
            key: new.public(),
            since,
            succession: Some(old.hand_over(new.public(), since)),
        };
        assert!(signer.is_endorsed());
        let later = Signer {
            since: since + time::Duration::SECOND,
            ..signer
        };
        assert!(!later.is_endorsed());
        let other = Signer {
            key: SigningKey::from_seed(&[3; 32]).unwrap().public(),
            ..signer
        };
        assert!(!other.is_endorsed());
        assert!(
            Signer {
                succession: None,
                ..other
            }
            .is_endorsed()
        );
    }
}
