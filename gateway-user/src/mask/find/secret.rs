//! Credentials: API keys by [`shapes`](super::shapes), JSON Web Tokens, PEM private key blocks, and secrets without a
//! shape of their own that a word in front announces.
//!
//! One pass of an automaton over all literals, then a check of the few places it names. A private key block without
//! an end is hidden for [`PEM_BYTES_MAX`] bytes, no further.

use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};

use super::class::{
    ALNUM, ALPHA, B64, CONTROL, DIGIT, DOT, EQUALS, GAP, TILDE, URL, WORD, is, run_end, run_start,
};
use super::shapes::{LITERAL_BYTES_MAX, Mixed, SHAPES, Shape};
use super::{Run, RunKind, Set, Span, is_ssn};
use crate::policy::nouns::Detector;

/// Bytes of the longest JWT header that is looked at; x5c certificate chains stay below.
const JWT_HEADER_BYTES_MAX: usize = 8 * 1024;
/// Bytes hidden after a private key's first line if its last line never comes. An RSA key of 16,384 bits takes 13 KiB.
const PEM_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a PEM label: `-----BEGIN ENCRYPTED PRIVATE KEY-----`.
const PEM_LABEL_BYTES_MAX: usize = 64;
/// Bytes between an announcing word and its secret: `_access_key_for_production" = "`.
const GAP_BYTES_MAX: usize = 40;
/// The part of any match that must stand in the text before it can be found: bytes a window keeps behind itself.
pub(super) const LOOK_BEHIND: usize = LITERAL_BYTES_MAX + GAP_BYTES_MAX;

const SECRET_WORDS: [&str; 3] = ["secret", "Secret", "SECRET"];
const SSN_WORDS: [&str; 6] = ["ssn", "SSN", "Ssn", "ocial security", "ocial Security", "OCIAL SECURITY"];

#[derive(Clone, Copy)]
enum What {
    Shape(&'static Shape),
    Jwt,
    Pem,
    SecretWord(usize),
    SsnWord(usize),
}

struct Literals {
    automaton: AhoCorasick,
    what: Vec<(What, Detector)>,
}

static LITERALS: LazyLock<Literals> = LazyLock::new(|| {
    let mut literals = Vec::new();
    let mut what = Vec::new();
    let mut add = |literal: &'static str, of: What, detector: Detector| {
        literals.push(literal);
        what.push((of, detector));
    };
    for shape in SHAPES {
        add(shape.literal, What::Shape(shape), Detector::ApiKey);
    }
    for start in ["eyJ", "eyA", "ewo", "ew0"] {
        add(start, What::Jwt, Detector::Jwt);
    }
    add("-----BEGIN ", What::Pem, Detector::PrivateKey);
    for word in SECRET_WORDS {
        add(word, What::SecretWord(word.len()), Detector::ApiKey);
    }
    for word in SSN_WORDS {
        add(word, What::SsnWord(word.len()), Detector::UsSsn);
    }
    let automaton = AhoCorasick::builder()
        .match_kind(MatchKind::Standard)
        .kind(Some(AhoCorasickKind::DFA))
        .build(literals);
    #[expect(clippy::expect_used, reason = "the literals are constants, and a test builds this")]
    let automaton = automaton.expect("fewer than two billion states");
    Literals { automaton, what }
});

enum Seen {
    Nothing,
    Found(Span),
    /// What starts at this offset is not decided yet.
    Undecided(usize),
}

/// Finds credentials that start at `from` or later. Gives how far the text is decided.
pub(super) fn find(text: &[u8], from: usize, set: Set, more: bool, spans: &mut Vec<Span>) -> usize {
    let mut certain = if more { unfinished_literal(text) } else { text.len() };
    let literals = &*LITERALS;
    let start = from.saturating_sub(LOOK_BEHIND);
    let mut run = KnownRun { class: 0, start: 0, end: 0 };
    for hit in literals.automaton.find_overlapping_iter(&text[start..]) {
        let (what, detector) = literals.what[hit.pattern().as_usize()];
        if !set.has(detector) {
            continue;
        }
        let at = start + hit.start();
        let seen = match what {
            What::Shape(shape) => self::shape(text, at, shape, more, &mut run),
            What::Jwt => jwt(text, at, more, &mut run),
            What::Pem => pem(text, at, more),
            What::SecretWord(long) => secret_after(text, at + long, more),
            What::SsnWord(long) => ssn_after(text, at + long, more),
        };
        match seen {
            Seen::Nothing => {}
            Seen::Found(span) => spans.push(span),
            Seen::Undecided(at) => certain = certain.min(at),
        }
    }
    certain
}

/// Where a literal, or what a shape needs in front of it, may have begun at the end of the text.
fn unfinished_literal(text: &[u8]) -> usize {
    let kinds = ALNUM | WORD | URL | DOT | TILDE | B64 | EQUALS;
    let floor = text.len().saturating_sub(2 * LITERAL_BYTES_MAX);
    let words = |&b: &u8| !is(b, kinds) && b != b':' && b != b' ';
    text[floor..].iter().rposition(words).map_or(floor, |n| floor + n + 1)
}

/// The last run of one class that was measured: a long run with many literals in it is measured once.
struct KnownRun {
    class: u16,
    start: usize,
    end: usize,
}

impl KnownRun {
    fn end(&mut self, text: &[u8], from: usize, class: u16) -> usize {
        if self.class != class || !(self.start..=self.end).contains(&from) {
            *self = Self { class, start: from, end: run_end(text, from, class) };
        }
        self.end
    }
}

fn shape(text: &[u8], at: usize, shape: &Shape, more: bool, run: &mut KnownRun) -> Seen {
    let start = match shape.behind {
        None if shape.literal.len() >= 5 || at == 0 || !is(text[at - 1], ALNUM) => at,
        None => return Seen::Nothing,
        Some((class, least, most)) => {
            let start = run_start(text, at, class, most + 1);
            if !(least..=most).contains(&(at - start)) {
                return Seen::Nothing;
            }
            start
        }
    };
    let body = at + shape.literal.len();
    let end = run.end(text, body, shape.class);
    let open = more && end == text.len();
    let long = end - body;
    if shape.max > 0 && long > shape.max {
        return Seen::Nothing;
    }
    if open && (long < shape.min || shape.max > 0) {
        return Seen::Undecided(start);
    }
    if long < shape.min || !tells(&text[body..body + shape.min], shape.mixed) {
        return Seen::Nothing;
    }
    let kind = open.then_some(RunKind::Class(shape.class));
    Seen::Found(Span { start, end, detector: Detector::ApiKey, run: kind })
}

fn tells(text: &[u8], mixed: Mixed) -> bool {
    match mixed {
        Mixed::Any => true,
        Mixed::Digits => is_mixed(text),
        Mixed::Cases => {
            text.iter().skip(1).any(u8::is_ascii_uppercase) && text.iter().any(u8::is_ascii_lowercase)
        }
    }
}

fn is_mixed(text: &[u8]) -> bool {
    text.iter().any(|&b| is(b, DIGIT)) && text.iter().any(|&b| is(b, ALPHA))
}

/// `header.payload` and what follows of `.signature` or the five parts of a JWE, all base64url (RFC 7515, RFC 7516).
fn jwt(text: &[u8], at: usize, more: bool, run: &mut KnownRun) -> Seen {
    if at > 0 && is(text[at - 1], ALNUM) {
        return Seen::Nothing;
    }
    let header = run.end(text, at, URL);
    if header - at > JWT_HEADER_BYTES_MAX || header - at < 8 && header < text.len() {
        return Seen::Nothing;
    }
    let payload = match text.get(header) {
        None if more => return Seen::Undecided(at),
        Some(b'.') => header + 1,
        _ => return Seen::Nothing,
    };
    let enough = text[payload..].iter().take(4).take_while(|&&b| is(b, URL)).count();
    if enough < 4 {
        let undecided = more && payload + enough == text.len();
        return if undecided { Seen::Undecided(at) } else { Seen::Nothing };
    }
    if !text[at..].starts_with(b"eyJ") && !names_an_algorithm(&text[at..header]) {
        return Seen::Nothing;
    }
    let (end, open) = dotted_end(text, payload, more);
    Seen::Found(Span { start: at, end, detector: Detector::Jwt, run: open.then_some(RunKind::Dotted) })
}

/// Whether base64url text decodes to JSON that has `"alg"`, as every JOSE header does.
fn names_an_algorithm(header: &[u8]) -> bool {
    let whole = &header[..header.len() - header.len() % 4];
    data_encoding::BASE64URL_NOPAD
        .decode(whole)
        .is_ok_and(|json| json.windows(5).any(|five| five == b"\"alg\""))
}

/// The end of base64url text with single dots inside, and whether it may go on.
fn dotted_end(text: &[u8], from: usize, more: bool) -> (usize, bool) {
    let mut at = from;
    loop {
        at = run_end(text, at, URL);
        match (text.get(at), text.get(at + 1)) {
            (Some(b'.'), Some(&b)) if is(b, URL) => at += 1,
            (None, _) | (Some(b'.'), None) => return (at, more),
            _ => return (at, false),
        }
    }
}

fn pem(text: &[u8], at: usize, more: bool) -> Seen {
    let label = at + b"-----BEGIN ".len();
    let limit = text.len().min(label + PEM_LABEL_BYTES_MAX);
    let is_label = |&b: &u8| b == b' ' || b.is_ascii_uppercase() || b.is_ascii_digit();
    let end = text[label..limit].iter().position(|b| !is_label(b)).map_or(limit, |n| label + n);
    let dashes = text[end..].iter().take(5).take_while(|&&b| b == b'-').count();
    if dashes < 5 {
        let undecided = more && end + dashes == text.len() && end - label < PEM_LABEL_BYTES_MAX;
        return if undecided { Seen::Undecided(at) } else { Seen::Nothing };
    }
    if !text[label..end].windows(11).any(|words| words == b"PRIVATE KEY") {
        return Seen::Nothing;
    }
    let inside = end + 5;
    let (end, open) = pem_end(text, inside, PEM_BYTES_MAX, more);
    let kind = open.then_some(RunKind::Pem { inside, left: PEM_BYTES_MAX.saturating_sub(end - inside) });
    Seen::Found(Span { start: at, end, detector: Detector::PrivateKey, run: kind })
}

/// The end of a block whose inside is looked at from `from`, and whether it may go on.
fn pem_end(text: &[u8], from: usize, left: usize, more: bool) -> (usize, bool) {
    const LAST: &[u8] = b"-----END ";
    let limit = text.len().min(from.saturating_add(left));
    let inside = &text[from..limit];
    let stop = inside.iter().position(|&b| is(b, CONTROL)).unwrap_or(inside.len());
    let last = inside[..stop].windows(LAST.len()).position(|bytes| bytes == LAST);
    let Some(last) = last else {
        return (from + stop, more && from + stop == text.len());
    };
    let label = last + LAST.len();
    let tail = &inside[label..stop.min(label + PEM_LABEL_BYTES_MAX)];
    match tail.windows(5).position(|bytes| bytes == b"-----") {
        Some(n) => (from + label + n + 5, false),
        None => (from + label + tail.len(), more && from + label + tail.len() == text.len()),
    }
}

/// Forty characters of base64, as AWS secret access keys are, after a word that says "secret".
fn secret_after(text: &[u8], word_end: usize, more: bool) -> Seen {
    let (start, undecided) = after_gap(text, word_end, 40, more);
    if undecided {
        return Seen::Undecided(start);
    }
    let end = run_end(&text[..text.len().min(start + 41)], start, B64);
    if more && end == text.len() && end - start <= 40 {
        return Seen::Undecided(start);
    }
    if end - start == 40 && is_mixed(&text[start..end]) {
        return Seen::Found(Span::new(start, end, Detector::ApiKey));
    }
    Seen::Nothing
}

/// The start of the first run of at least `long` base64 characters after a word, which only gap characters may part from it.
fn after_gap(text: &[u8], word_end: usize, long: usize, more: bool) -> (usize, bool) {
    let limit = text.len().min(word_end + GAP_BYTES_MAX);
    let mut at = word_end;
    while at < limit {
        let end = run_end(text, at, B64).min(at + long);
        if end - at == long {
            break;
        }
        if end == text.len() {
            return (at, more);
        }
        if !is(text[end], GAP) {
            break;
        }
        at = end + 1;
    }
    (at, more && at == text.len())
}

/// Nine digits in one group, after a word that says what they are.
fn ssn_after(text: &[u8], word_end: usize, more: bool) -> Seen {
    let limit = text.len().min(word_end + GAP_BYTES_MAX / 2);
    let Some(start) = (word_end..limit).find(|&n| text[n].is_ascii_digit()) else { return Seen::Nothing };
    let end = run_end(&text[..text.len().min(start + 10)], start, DIGIT);
    if more && end == text.len() {
        return Seen::Undecided(start);
    }
    match nine_digits(&text[start..end]) {
        Some(digits) if is_ssn(digits) => Seen::Found(Span::new(start, end, Detector::UsSsn)),
        _ => Seen::Nothing,
    }
}

fn nine_digits(text: &[u8]) -> Option<[u8; 9]> {
    let digits: [u8; 9] = text.try_into().ok()?;
    digits.iter().all(u8::is_ascii_digit).then(|| digits.map(|b| b - b'0'))
}

/// What the name of a JSON member makes of its whole value: an undashed social security number under a name that says
/// so, a secret access key under a name that says "secret".
pub(in crate::mask) fn named(name: &[u8], value: &[u8], set: Set) -> Option<Detector> {
    let says = |words: &[&str]| {
        words
            .iter()
            .any(|word| name.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word.as_bytes())))
    };
    match value.len() {
        9 if set.has(Detector::UsSsn) => {
            (nine_digits(value).is_some_and(is_ssn) && says(&["ssn", "social"])).then_some(Detector::UsSsn)
        }
        40 if set.has(Detector::ApiKey) => {
            let shaped = value.iter().all(|&b| is(b, B64)) && is_mixed(value);
            (shaped && says(&["secret"])).then_some(Detector::ApiKey)
        }
        _ => None,
    }
}

/// Grows a run that reached the end of what was known before; gives whether it may go on.
pub(super) fn grow(text: &[u8], run: &mut Run, more: bool) -> bool {
    let (end, open) = match run.kind {
        RunKind::Class(class) => {
            let end = run_end(text, run.at, class);
            (end, more && end == text.len())
        }
        RunKind::Dotted => dotted_end(text, run.at, more),
        RunKind::Pem { inside, left } => {
            // The last line may have begun before: look at the end of what is already hidden again.
            let from = inside.max(run.at.saturating_sub(PEM_LABEL_BYTES_MAX + 16)).min(run.at);
            let (end, open) = pem_end(text, from, left + (run.at - from), more);
            let end = end.max(run.at);
            run.kind = RunKind::Pem { inside, left: left.saturating_sub(end - run.at) };
            (end, open)
        }
    };
    run.at = end;
    open
}
