//! Keys for what is encrypted at rest: bodies, and operations that wait. Seals with the newest generation, opens with any
//! it holds, and never uses one key for two messages.
//!
//! Every sealed item carries 32 random bytes. From them and the master key of its generation HKDF-SHA-256 derives the
//! AES-256-GCM key and nonce of this one item. So the bound on messages per derived key is one, and a master key may
//! seal 2^64 items before two of them share those random bytes with a chance above 2^-128.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use zeroize::Zeroizing;

use super::keyfile::{KeyError, Place};

/// First line of a key file.
const TITLE: &str = "tidegate keys 1";
/// Version of the sealed form, its first byte.
const VERSION: u8 = 1;
/// Random bytes in every sealed item.
const SALT_BYTES: usize = 32;
/// Bytes before the ciphertext: version, generation, random bytes.
const HEADER_BYTES: usize = 1 + 4 + SALT_BYTES;
/// Bytes of a GCM tag.
const TAG_BYTES: usize = 16;
/// What a derived key is for.
const INFO: &[u8] = b"tidegate sealed item 1";
/// Bytes a sealed item is longer than what it holds.
pub const SEAL_OVERHEAD_BYTES: usize = HEADER_BYTES + TAG_BYTES;
/// Generations in one ring. A rotation a month for five years.
pub const GENERATIONS_MAX: usize = 64;

/// Why something sealed cannot be opened, or nothing can be sealed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Its key is not in the ring.
    #[error("it is sealed with generation {0} of its key, and that key is not here")]
    NoKey(u32),
    /// It was changed, is no sealed item, or belongs elsewhere.
    #[error("it does not open: it was changed, moved from another place, or sealed with another key")]
    Broken,
    /// The system gives no random numbers.
    #[error("the system gives no random numbers")]
    NoRandom,
}

/// A key of 32 bytes, forgotten when dropped.
pub type Secret = Zeroizing<[u8; 32]>;

/// A new random key.
///
/// # Errors
/// The system gives no random numbers.
pub fn random() -> Result<Secret, SealError> {
    let mut key = Secret::default();
    aws_lc_rs::rand::fill(&mut key[..]).map_err(|_| SealError::NoRandom)?;
    Ok(key)
}

/// Master keys by generation, ascending. The last one seals.
#[derive(Clone, Default)]
pub struct Ring(Vec<(u32, Secret)>);

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ring{:?}", self.generations())
    }
}

impl Ring {
    /// Reads the text of a key file.
    ///
    /// # Errors
    /// What is wrong with it, in words that follow its name; never a part of a key.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut lines = text.lines().map(str::trim_end);
        if lines.next() != Some(TITLE) {
            return Err(format!("does not begin with the line {TITLE:?}"));
        }
        let mut keys: Vec<(u32, Secret)> = Vec::new();
        for (line, at) in lines.zip(2..).filter(|(line, _)| !line.is_empty()) {
            let (number, hex) =
                line.split_once(' ').ok_or_else(|| format!("line {at}: not a number and a key"))?;
            let number: u32 = number.parse().map_err(|_| format!("line {at}: not a generation number"))?;
            if number <= keys.last().map_or(0, |(last, _)| *last) {
                return Err(format!("line {at}: generations must count up from 1"));
            }
            if keys.len() >= GENERATIONS_MAX {
                return Err(format!("holds more than {GENERATIONS_MAX} generations"));
            }
            let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).map(Zeroizing::new);
            let bytes = bytes.map_err(|_| format!("line {at}: the key is not hexadecimal"))?;
            let key = <[u8; 32]>::try_from(bytes.as_slice())
                .map_err(|_| format!("line {at}: the key is not 64 hexadecimal digits"))?;
            keys.push((number, Zeroizing::new(key)));
        }
        if keys.is_empty() { Err("holds no key".to_owned()) } else { Ok(Self(keys)) }
    }

    /// The text of its key file.
    #[must_use]
    pub fn text(&self) -> Zeroizing<String> {
        // Long enough from the start, so that no part of a key stays in memory that was given back.
        let mut text = String::with_capacity(TITLE.len() + 1 + self.0.len() * 80);
        text.push_str(TITLE);
        text.push('\n');
        for (number, key) in &self.0 {
            let hex = Zeroizing::new(data_encoding::HEXLOWER.encode(&key[..]));
            text.push_str(&number.to_string());
            text.push(' ');
            text.push_str(&hex);
            text.push('\n');
        }
        Zeroizing::new(text)
    }

    /// The same with one more, random generation. Of a full ring the oldest is given up.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn grown(&self) -> Result<Self, SealError> {
        let mut keys = self.0.clone();
        keys.push((self.current() + 1, random()?));
        let extra = keys.len().saturating_sub(GENERATIONS_MAX);
        keys.drain(..extra);
        Ok(Self(keys))
    }

    /// The same with only those generations, and the current one.
    #[must_use]
    pub fn keeping(&self, used: impl Fn(u32) -> bool) -> Self {
        let current = self.current();
        Self(self.0.iter().filter(|(number, _)| *number == current || used(*number)).cloned().collect())
    }

    /// The generation that seals; 0 where there is none.
    #[must_use]
    pub fn current(&self) -> u32 {
        self.0.last().map_or(0, |(number, _)| *number)
    }

    /// All generations, ascending.
    #[must_use]
    pub fn generations(&self) -> Vec<u32> {
        self.0.iter().map(|(number, _)| *number).collect()
    }

    /// Every generation and its key.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = (u32, &Secret)> {
        self.0.iter().map(|(number, key)| (*number, key))
    }

    fn key(&self, generation: u32) -> Result<&Secret, SealError> {
        let found = self.0.iter().find(|(number, _)| *number == generation);
        found.map(|(_, key)| key).ok_or(SealError::NoKey(generation))
    }

    fn seal(&self, aad: &[u8], plain: &[u8]) -> Result<Vec<u8>, SealError> {
        let generation = self.current();
        let mut salt = [0; SALT_BYTES];
        aws_lc_rs::rand::fill(&mut salt).map_err(|_| SealError::NoRandom)?;
        let mut out = Vec::with_capacity(plain.len() + SEAL_OVERHEAD_BYTES);
        out.push(VERSION);
        out.extend_from_slice(&generation.to_be_bytes());
        out.extend_from_slice(&salt);
        let header = out.clone();
        out.extend_from_slice(plain);
        let (key, nonce) = derive(self.key(generation)?, &salt)?;
        let aad = Aad::from([&header, aad].concat());
        let tag = key.seal_in_place_separate_tag(nonce, aad, &mut out[HEADER_BYTES..]);
        out.extend_from_slice(tag.map_err(|_| SealError::Broken)?.as_ref());
        Ok(out)
    }

    fn open(&self, aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let generation = generation_of(sealed).ok_or(SealError::Broken)?;
        let (header, body) = sealed.split_at(HEADER_BYTES);
        let (key, nonce) = derive(self.key(generation)?, &header[5..])?;
        let mut plain = Zeroizing::new(body.to_vec());
        let opened = key.open_in_place(nonce, Aad::from([header, aad].concat()), &mut plain);
        let length = opened.map_err(|_| SealError::Broken)?.len();
        plain.truncate(length);
        Ok(plain)
    }
}

/// The generation that something is sealed with; `None` where it cannot be a sealed item.
#[must_use]
pub fn generation_of(sealed: &[u8]) -> Option<u32> {
    let (header, body) = sealed.split_at_checked(HEADER_BYTES)?;
    let number = header.get(1..5)?.try_into().ok()?;
    (header[0] == VERSION && body.len() >= TAG_BYTES).then(|| u32::from_be_bytes(number))
}

struct KeyAndNonce;

impl KeyType for KeyAndNonce {
    fn len(&self) -> usize {
        32 + 12
    }
}

/// The key and nonce of one item. Nothing else is ever sealed with them.
fn derive(master: &Secret, salt: &[u8]) -> Result<(LessSafeKey, Nonce), SealError> {
    let broken = |_| SealError::Broken;
    let mut derived = Zeroizing::new([0; 44]);
    let secret = Salt::new(HKDF_SHA256, salt).extract(&master[..]);
    secret.expand(&[INFO], KeyAndNonce).and_then(|made| made.fill(&mut derived[..])).map_err(broken)?;
    let key = UnboundKey::new(&AES_256_GCM, &derived[..32]).map_err(broken)?;
    Ok((LessSafeKey::new(key), Nonce::try_assume_unique_for_key(&derived[32..]).map_err(broken)?))
}

/// The keys of this gate. Clones share one ring, so that a rotation reaches all who seal.
#[derive(Clone)]
pub struct Keyring {
    ring: Arc<RwLock<Arc<Ring>>>,
    place: Option<Place>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring").field("ring", &self.ring()).field("place", &self.place).finish()
    }
}

impl Keyring {
    /// Reads the keys from their place.
    ///
    /// # Errors
    /// There are none, others may read them, or they are not in the form of a key file.
    pub fn open(place: &Place) -> Result<Self, KeyError> {
        Ok(Self::of(place.read()?, Some(place.clone())))
    }

    /// As [`Keyring::open`], and makes the first key where there is none. For a gate that has sealed nothing yet.
    ///
    /// # Errors
    /// As [`Keyring::open`], or the file cannot be made.
    pub fn open_or_make(place: &Place) -> Result<Self, KeyError> {
        match place.read() {
            Err(KeyError::Missing(_)) if !place.credential => {
                let ring = Ring::default().grown().map_err(|cause| KeyError::NoRandom(cause.to_string()))?;
                place.write(&ring)?;
                Ok(Self::of(ring, Some(place.clone())))
            }
            other => Ok(Self::of(other?, Some(place.clone()))),
        }
    }

    /// A reader's ring that opens nothing: what is sealed stays so.
    #[must_use]
    pub fn empty() -> Self {
        Self::of(Ring::default(), None)
    }

    fn of(ring: Ring, place: Option<Place>) -> Self {
        Self { ring: Arc::new(RwLock::new(Arc::new(ring))), place }
    }

    /// Of these keys, in memory only.
    #[cfg(test)]
    pub(crate) fn in_memory(ring: Ring) -> Self {
        Self::of(ring, None)
    }

    /// The keys as they are now.
    #[must_use]
    pub fn ring(&self) -> Arc<Ring> {
        Arc::clone(&self.ring.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Encrypts with the current generation. `aad` says what and where this is; [`Keyring::open_sealed`] must be told the same.
    ///
    /// # Errors
    /// There is no key, or no random numbers.
    pub fn seal(&self, aad: &[u8], plain: &[u8]) -> Result<Vec<u8>, SealError> {
        self.ring().seal(aad, plain)
    }

    /// Decrypts what [`Keyring::seal`] gave, with whichever generation it was sealed.
    ///
    /// # Errors
    /// Its key is not here; it was changed; `aad` is not what it was sealed with.
    pub fn open_sealed(&self, aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        self.ring().open(aad, sealed)
    }

    /// Writes these keys durably to their place and uses them from now on.
    ///
    /// # Errors
    /// The place is a credential, which only the operator can change, or the disk refuses. The old keys stay then.
    pub fn replace(&self, ring: Ring) -> Result<(), KeyError> {
        if let Some(place) = &self.place {
            place.write(&ring)?;
        }
        *self.ring.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(ring);
        Ok(())
    }

    /// Reads the keys again from their place: a credential may have got another generation.
    ///
    /// # Errors
    /// As [`Keyring::open`]. The keys stay as they are then.
    pub fn reload(&self) -> Result<(), KeyError> {
        if let Some(place) = &self.place {
            let ring = place.read()?;
            *self.ring.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(ring);
        }
        Ok(())
    }

    /// Whether only the operator can change the keys.
    #[must_use]
    pub fn is_credential(&self) -> bool {
        self.place.as_ref().is_some_and(|place| place.credential)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(numbers: &[u32]) -> Ring {
        Ring(numbers.iter().map(|number| (*number, Zeroizing::new([*number as u8; 32]))).collect())
    }

    #[test]
    fn what_is_sealed_opens_with_its_own_words_only_and_shows_nothing() {
        let keys = ring(&[1, 2]);
        let sealed = keys.seal(b"here", b"a secret body").unwrap();
        assert_eq!(generation_of(&sealed), Some(2));
        assert_eq!(sealed.len(), 13 + SEAL_OVERHEAD_BYTES);
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
        assert_eq!(&keys.open(b"here", &sealed).unwrap()[..], b"a secret body");
        assert_eq!(keys.open(b"there", &sealed).unwrap_err(), SealError::Broken);
        assert_ne!(sealed, keys.seal(b"here", b"a secret body").unwrap());
    }

    #[test]
    fn every_changed_or_missing_byte_is_noticed() {
        let keys = ring(&[1]);
        let sealed = keys.seal(b"", b"body").unwrap();
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(keys.open(b"", &changed).is_err(), "byte {at}");
            assert!(keys.open(b"", &sealed[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn an_old_generation_opens_until_it_is_given_up_and_then_says_which_key_is_missing() {
        let old = ring(&[1]);
        let sealed = old.seal(b"", b"body").unwrap();
        let grown = old.grown().unwrap();
        assert_eq!(grown.generations(), [1, 2]);
        assert!(grown.open(b"", &sealed).is_ok());
        let kept = grown.keeping(|_| false);
        assert_eq!(kept.generations(), [2]);
        assert_eq!(kept.open(b"", &sealed).unwrap_err(), SealError::NoKey(1));
        assert_eq!(Ring::default().seal(b"", b"x").unwrap_err(), SealError::NoKey(0));
    }

    #[test]
    fn a_key_file_is_read_as_it_was_written_and_anything_else_is_refused() {
        let keys = ring(&[1, 3]);
        let again = Ring::parse(&keys.text()).unwrap();
        assert_eq!(again.0, keys.0);
        let key = "00".repeat(32);
        for (text, what) in [
            (String::new(), "begin with"),
            ("tidegate keys 2\n".to_owned(), "begin with"),
            (format!("{TITLE}\n"), "no key"),
            (format!("{TITLE}\n0 {key}\n"), "count up"),
            (format!("{TITLE}\n2 {key}\n2 {key}\n"), "line 3"),
            (format!("{TITLE}\n1 {key}00\n"), "64 hexadecimal"),
            (format!("{TITLE}\n1 {}x\n", &key[1..]), "not hexadecimal"),
            (format!("{TITLE}\n1{key}\n"), "a number and a key"),
            (format!("{TITLE}\none {key}\n"), "generation number"),
        ] {
            let refused = Ring::parse(&text).unwrap_err();
            assert!(refused.contains(what), "{refused}");
            assert!(!refused.contains(&key), "{refused}");
        }
        let many: String = (1..=GENERATIONS_MAX + 1).map(|number| format!("{number} {key}\n")).collect();
        assert!(Ring::parse(&format!("{TITLE}\n{many}")).unwrap_err().contains("more than 64"));
    }

    #[test]
    fn a_full_ring_gives_up_its_oldest_key_only() {
        let numbers: Vec<u32> = (1..=GENERATIONS_MAX as u32).collect();
        let grown = ring(&numbers).grown().unwrap();
        assert_eq!(grown.generations().first(), Some(&2));
        assert_eq!(grown.current(), GENERATIONS_MAX as u32 + 1);
    }

    #[test]
    fn no_key_is_ever_printed() {
        let keyring = Keyring::in_memory(ring(&[7]));
        assert!(!format!("{keyring:?}").contains("0707"));
    }
}
