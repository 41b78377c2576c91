//! The published shapes of API keys: a literal that issuers put in front, and the alphabet and length of what follows.
//!
//! The shapes are data (`rules/keys.toml`), each with its source. A shape says what a key must look like, never which
//! key it is. Built-in data that cannot be read is a defect that a test finds, not something to run without.

use std::sync::LazyLock;

use serde::Deserialize;

use super::class::{ALNUM, B64, DIGIT, DOT, EQUALS, HEX, TILDE, UPPER, URL, WORD};

/// One shape: a literal, then at least `min` and at most `max` (0: any number) bytes of `class`.
#[derive(Debug)]
pub(super) struct Shape {
    /// The rule it comes from.
    pub(super) rule: &'static str,
    pub(super) literal: &'static str,
    pub(super) class: u16,
    pub(super) min: usize,
    pub(super) max: usize,
    /// What the first `min` bytes must hold where the literal alone is an ordinary word.
    pub(super) mixed: Mixed,
    /// What makes it another issuer's key: what its body begins with.
    pub(super) unless: &'static [&'static str],
    /// Whole keys that everybody may read.
    pub(super) published: &'static [&'static str],
    /// What must stand right before the literal and belongs to the key: class, least, most.
    pub(super) behind: Option<(u16, usize, usize)>,
}

/// What tells a key from words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Mixed {
    /// Nothing is asked.
    #[default]
    Any,
    /// Letters and digits.
    Digits,
    /// Letters of both cases, upper case also after the first.
    Cases,
}

/// Secrets that have no literal of their own but are exactly so long, and stand after a word that names their issuer.
#[derive(Debug)]
pub(super) struct Announced {
    pub(super) rule: &'static str,
    pub(super) words: Vec<&'static str>,
    pub(super) class: u16,
    pub(super) length: usize,
    /// `8-4-4-4-12` hexadecimal digits.
    pub(super) uuid: bool,
}

/// Bytes of different value that a key's first `min` bytes have, if `min` is at least [`VARIED_FROM`]: `xxxxxxxx` is none.
pub(super) const VARIED_MIN: usize = 5;
/// See [`VARIED_MIN`].
pub(super) const VARIED_FROM: usize = 16;

/// Bytes of one value in a row that no key has in its first `min` bytes, but what people write in the place of one does:
/// drawn at random from 16 letters, one key in 200 million has. `A` stands for zero bytes in base64 and is passed over.
pub(super) const REPEATED_MAX: usize = 7;

/// Bytes of the longest literal or announcing word, and the most that a shape looks back.
pub(super) const LITERAL_BYTES_MAX: usize = 32;

/// Everything in `rules/keys.toml`.
#[derive(Debug)]
pub(super) struct Keys {
    pub(super) shapes: Vec<Shape>,
    pub(super) announced: Vec<Announced>,
}

/// See [`Keys`].
pub(super) static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    #[expect(clippy::expect_used, reason = "the file is part of the program, and a test reads it")]
    let file: File =
        toml::from_str(include_str!("../../../rules/keys.toml")).expect("rules/keys.toml is sound");
    let shapes = file.key.into_iter().flat_map(|key| {
        let (class, behind) = (key.body.class(), key.behind.map(|b| (b.of.class(), b.least, b.most)));
        let rule: &'static str = key.name.leak();
        let (unless, published) = (kept(key.unless), kept(key.published));
        key.prefixes.into_iter().map(move |literal| Shape {
            rule,
            literal: literal.leak(),
            class,
            min: key.min,
            max: key.max,
            mixed: key.needs,
            unless,
            published,
            behind,
        })
    });
    let announced = file.announced.into_iter().map(|secret| Announced {
        rule: secret.name.leak(),
        words: secret.words.into_iter().map(|word| &*word.leak()).collect(),
        class: secret.body.class(),
        length: secret.length,
        uuid: secret.uuid,
    });
    Keys { shapes: shapes.collect(), announced: announced.collect() }
});

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[expect(dead_code, reason = "a statement for readers; the key must stand in the file")]
    licence: String,
    key: Vec<Key>,
    announced: Vec<AnnouncedKey>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Key {
    name: String,
    prefixes: Vec<String>,
    body: Alphabet,
    min: usize,
    #[serde(default)]
    max: usize,
    #[serde(default)]
    needs: Mixed,
    #[serde(default)]
    unless: Vec<String>,
    #[serde(default)]
    published: Vec<String>,
    behind: Option<Behind>,
    #[expect(dead_code, reason = "where the fact comes from; a rule without it is refused")]
    source: String,
}

/// For as long as the program runs.
fn kept(words: Vec<String>) -> &'static [&'static str] {
    let words: Vec<&'static str> = words.into_iter().map(|word| &*word.leak()).collect();
    words.leak()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Behind {
    of: Alphabet,
    least: usize,
    most: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AnnouncedKey {
    name: String,
    words: Vec<String>,
    body: Alphabet,
    length: usize,
    #[serde(default)]
    uuid: bool,
    #[expect(dead_code, reason = "where the fact comes from; a rule without it is refused")]
    source: String,
}

/// What a key is made of.
#[derive(Deserialize)]
struct Alphabet(Vec<Letters>);

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Letters {
    Digit,
    Upper,
    Hex,
    Alnum,
    Word,
    Url,
    B64,
    Dot,
    Equals,
    Tilde,
}

impl Alphabet {
    fn class(&self) -> u16 {
        self.0.iter().fold(0, |class, letters| {
            class
                | match letters {
                    Letters::Digit => DIGIT,
                    Letters::Upper => UPPER,
                    Letters::Hex => HEX,
                    Letters::Alnum => ALNUM,
                    Letters::Word => WORD,
                    Letters::Url => URL,
                    Letters::B64 => B64,
                    Letters::Dot => DOT,
                    Letters::Equals => EQUALS,
                    Letters::Tilde => TILDE,
                }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_fits_the_window_it_is_looked_for_in() {
        assert!(KEYS.shapes.len() > 150 && KEYS.announced.len() >= 3);
        for shape in &KEYS.shapes {
            assert!((1..=LITERAL_BYTES_MAX).contains(&shape.literal.len()) && shape.min > 0, "{shape:?}");
            assert!(shape.max == 0 || shape.max >= shape.min, "{shape:?}");
            let exact =
                |key: &&&str| key.starts_with(shape.literal) && key.len() == shape.literal.len() + shape.max;
            assert_eq!(shape.published.iter().filter(exact).count(), shape.published.len(), "{shape:?}");
            if let Some((_, least, most)) = shape.behind {
                assert!(least <= most && most <= LITERAL_BYTES_MAX, "{shape:?}");
            }
        }
        for secret in &KEYS.announced {
            assert!(!secret.words.is_empty() && secret.length >= 16, "{secret:?}");
        }
    }
}
