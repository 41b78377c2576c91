//! Signed checkpoints: what the whole record was at one moment, in a few lines of text under an Ed25519 signature. Never
//! takes a signature for true that was made with a key the reader was not told to trust.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

use super::entry::Micros;
use crate::operation::Sha256;
use crate::store::keyring::Secret;
use crate::store::{Snapshot, StoreError};

/// What the record was after one commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedHead {
    /// The store's random name.
    pub store: Sha256,
    /// Commits since the store was made: leaves of the tree.
    pub commits: u64,
    /// Events in them.
    pub events: u64,
    /// The root of the tree over them.
    pub root: Sha256,
    /// The seal of the last.
    pub seal: Sha256,
    /// When it was signed.
    pub at: Micros,
    /// The public key, 64 hexadecimal digits.
    pub key: String,
    /// The signature of [`SignedHead::text`], 128 hexadecimal digits.
    pub signature: String,
}

impl SignedHead {
    /// What is signed.
    #[must_use]
    pub fn text(&self) -> String {
        format!(
            "tidegate checkpoint 1\nstore {}\ncommits {}\nevents {}\nroot {}\nseal {}\nat {}\nkey {}\n",
            self.store, self.commits, self.events, self.root, self.seal, self.at, self.key
        )
    }

    /// Whether its own key signed it. Whose key that is, is another question.
    #[must_use]
    pub fn is_signed(&self) -> bool {
        is_signed(&self.key, &self.text(), &self.signature)
    }
}

/// A public key as the record lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedKey {
    /// Counted from 1.
    pub number: u32,
    /// The public key, 64 hexadecimal digits.
    pub public: String,
    /// Signature of [`introduction`] by the key before; by itself for the first.
    pub signature: String,
}

/// The keys that a record lists.
///
/// # Errors
/// The row is damaged.
pub fn listed(snapshot: &Snapshot) -> Result<Vec<ListedKey>, StoreError> {
    super::chain::meta(snapshot, super::chain::META_KEYS)
}

/// What the key before signs of a new key.
#[must_use]
pub fn introduction(store: &Sha256, number: u32, public: &str) -> String {
    format!("tidegate signing key 1\nstore {store}\nnumber {number}\nkey {public}\n")
}

/// Whether each of these keys was introduced by the one before.
///
/// # Errors
/// The first that was not.
pub fn vouched(store: &Sha256, keys: &[ListedKey]) -> Result<(), String> {
    let mut by = keys.first();
    for (key, number) in keys.iter().zip(1..) {
        let signer = by.map_or("", |by| by.public.as_str());
        if key.number != number
            || !is_signed(signer, &introduction(store, number, &key.public), &key.signature)
        {
            return Err(format!("signing key {} was not introduced by the key before it", key.number));
        }
        by = Some(key);
    }
    Ok(())
}

/// Whether this key signed this text.
#[must_use]
pub fn is_signed(public: &str, text: &str, signature: &str) -> bool {
    let hex = |text: &str| data_encoding::HEXLOWER.decode(text.as_bytes()).ok();
    match (hex(public), hex(signature)) {
        (Some(public), Some(signature)) => {
            UnparsedPublicKey::new(&ED25519, public).verify(text.as_bytes(), &signature).is_ok()
        }
        _ => false,
    }
}

/// Signs.
pub struct Signer {
    pair: Ed25519KeyPair,
    public: String,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("public", &self.public).finish_non_exhaustive()
    }
}

impl Signer {
    /// With this seed.
    ///
    /// # Errors
    /// The library takes no such seed.
    pub fn of(seed: &Secret) -> Result<Self, StoreError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed[..])
            .map_err(|cause| StoreError::damaged("the signing key", cause))?;
        let public = data_encoding::HEXLOWER.encode(pair.public_key().as_ref());
        Ok(Self { pair, public })
    }

    /// Its public key, 64 hexadecimal digits.
    #[must_use]
    pub fn public(&self) -> &str {
        &self.public
    }

    /// Signs a text; 128 hexadecimal digits.
    #[must_use]
    pub fn sign(&self, text: &str) -> String {
        data_encoding::HEXLOWER.encode(self.pair.sign(text.as_bytes()).as_ref())
    }

    /// Signs a checkpoint, whatever key and signature it has.
    #[must_use]
    pub fn head(&self, mut head: SignedHead) -> SignedHead {
        head.key.clone_from(&self.public);
        head.signature = self.sign(&head.text());
        head
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer(seed: u8) -> Signer {
        Signer::of(&zeroize::Zeroizing::new([seed; 32])).unwrap()
    }

    fn listed(signer: &Signer, by: &Signer, number: u32) -> ListedKey {
        let signature = by.sign(&introduction(&Sha256::default(), number, signer.public()));
        ListedKey { number, public: signer.public().to_owned(), signature }
    }

    #[test]
    fn a_checkpoint_holds_only_as_it_was_signed() {
        let head = SignedHead {
            store: Sha256::of(b"store"),
            commits: 7,
            events: 21,
            root: Sha256::of(b"root"),
            seal: Sha256::of(b"seal"),
            at: 5,
            key: String::new(),
            signature: String::new(),
        };
        let signed = signer(1).head(head);
        assert!(signed.is_signed());
        assert!(!SignedHead { commits: 8, ..signed.clone() }.is_signed());
        assert!(!SignedHead { root: Sha256::of(b"other"), ..signed.clone() }.is_signed());
        assert!(!SignedHead { key: signer(2).public().to_owned(), ..signed.clone() }.is_signed());
        assert!(!SignedHead { signature: "zz".to_owned(), ..signed }.is_signed());
    }

    #[test]
    fn a_key_that_the_one_before_did_not_introduce_is_named() {
        let (first, second, other) = (signer(1), signer(2), signer(3));
        let good = [listed(&first, &first, 1), listed(&second, &first, 2)];
        assert_eq!(vouched(&Sha256::default(), &good), Ok(()));
        let bad = [listed(&first, &first, 1), listed(&other, &other, 2)];
        assert!(vouched(&Sha256::default(), &bad).unwrap_err().contains("signing key 2"));
        assert!(vouched(&Sha256::of(b"another store"), &good).unwrap_err().contains("signing key 1"));
        assert!(vouched(&Sha256::default(), &good[1..]).is_err());
    }
}
