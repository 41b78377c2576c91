//! Credentials: API keys by [`shapes`](super::shapes), JSON Web Tokens, PEM private key blocks, and secrets without a
//! shape of their own that a word in front announces.
//!
//! One pass of an automaton over all literals, then a check of the few places it names. A private key block without
//! an end is hidden for [`pem::BYTES_MAX`] bytes, no further.

mod command;
mod pem;

use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};

use super::class::{
    ALNUM, ALPHA, B64, DIGIT, DOT, EQUALS, GAP, HEX, TILDE, URL, WORD, is, run_end, run_start,
};
use super::shapes::{
    Announced, KEYS, LITERAL_BYTES_MAX, Mixed, REPEATED_MAX, Shape, VARIED_FROM, VARIED_MIN,
};
use super::{Run, RunKind, Set, Span, is_ssn};
use crate::expression::entropy_milli;
use crate::policy::nouns::Detector;

/// Bytes of the longest JWT header that is looked at; x5c certificate chains stay below.
const JWT_HEADER_BYTES_MAX: usize = 8 * 1024;
/// Bytes between an announcing word and its secret: `_access_key_for_production" = "`.
const GAP_BYTES_MAX: usize = 40;
/// The part of any match that must stand in the text before it can be found: bytes a window keeps behind itself.
pub(super) const LOOK_BEHIND: usize = LITERAL_BYTES_MAX + GAP_BYTES_MAX;

const AUTHORIZATION_WORDS: [&str; 10] = [
    "uthorization",
    "UTHORIZATION",
    "Api-Token",
    "apikey:",
    "ApiKey:",
    "api-key:",
    "Api-Key:",
    "API-Key:",
    "API-KEY:",
    "Token:",
];
/// What stands before a user's name and password on a command line.
const USER_WORDS: [&str; 3] = [" -u ", "--user ", "--user\\"];
/// What the environment variable ends in that holds the name and password of a private gem source (Bundler's and
/// Sidekiq's documentation).
const PAIR_WORDS: [&str; 1] = ["__CONTRIBSYS__COM"];
/// Words after which a value of high entropy is a secret.
const SECRET_WORDS: [&str; 24] = [
    "password",
    "Password",
    "PASSWORD",
    "passwd",
    "PASSWD",
    "pwd",
    "PWD",
    "secret",
    "Secret",
    "SECRET",
    "token",
    "Token",
    "TOKEN",
    "api_key",
    "apiKey",
    "API_KEY",
    "apikey",
    "APIKEY",
    "api-key",
    "access_key",
    "accessKey",
    "ACCESS_KEY",
    "credential",
    "CREDENTIAL",
];
const SSN_WORDS: [&str; 6] = ["ssn", "SSN", "Ssn", "ocial security", "ocial Security", "OCIAL SECURITY"];

#[derive(Clone, Copy)]
enum What {
    Shape(&'static Shape),
    Jwt,
    Pem,
    /// A word of this many bytes announces a secret.
    Announced(usize, &'static Announced),
    /// A word of this many bytes announces a credential of any shape.
    Authorization(usize),
    SsnWord(usize),
    /// A word of this many bytes announces a name, a colon and a password.
    User(usize),
    /// What ends the scheme of an address, which may have a name and a password.
    Address,
    /// A word of this many bytes announces two words of eight hexadecimal digits.
    Pair(usize),
    /// A word of this many bytes announces a value of high entropy.
    SecretWord(usize),
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
    for shape in &KEYS.shapes {
        add(shape.literal, What::Shape(shape), Detector::ApiKey);
    }
    for start in ["eyJ", "eyA", "ewo", "ew0"] {
        add(start, What::Jwt, Detector::Jwt);
    }
    add("-----BEGIN ", What::Pem, Detector::PrivateKey);
    for announced in &KEYS.announced {
        for &word in &announced.words {
            add(word, What::Announced(word.len(), announced), Detector::ApiKey);
        }
    }
    for word in AUTHORIZATION_WORDS {
        add(word, What::Authorization(word.len()), Detector::ApiKey);
    }
    for word in SSN_WORDS {
        add(word, What::SsnWord(word.len()), Detector::UsSsn);
    }
    for word in USER_WORDS {
        add(word, What::User(word.len()), Detector::ApiKey);
    }
    add("://", What::Address, Detector::ApiKey);
    for word in PAIR_WORDS {
        add(word, What::Pair(word.len()), Detector::ApiKey);
    }
    for word in SECRET_WORDS {
        add(word, What::SecretWord(word.len()), Detector::Secret);
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
    let (mut dotted, mut block) = (KnownDotted::default(), pem::KnownBlock::default());
    for hit in literals.automaton.find_overlapping_iter(&text[start..]) {
        let (what, detector) = literals.what[hit.pattern().as_usize()];
        if !set.has(detector) {
            continue;
        }
        let at = start + hit.start();
        let seen = match what {
            What::Shape(shape) => self::shape(text, at, shape, more, &mut run),
            What::Jwt => jwt(text, at, more, (&mut run, &mut dotted)),
            What::Pem => pem::found(text, at, more, &mut block),
            What::Announced(long, secret) => announced(text, at + long, secret, more),
            What::Authorization(long) => authorization(text, at + long, more),
            What::SsnWord(long) => ssn_after(text, at + long, more),
            What::User(long) => command::user(text, at + long, more),
            What::Address => command::address(text, at + "://".len(), more),
            What::Pair(long) => command::pair(text, at + long, more),
            What::SecretWord(long) => secret_after(text, at + long, more),
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
    let words = |&b: &u8| !is(b, kinds) && !matches!(b, b':' | b' ' | b'|');
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
        None if shape.literal.len() >= 5 || at == 0 || !(is(text[at - 1], ALNUM) || text[at - 1] == b'+') => {
            at
        }
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
    let others = || shape.unless.iter().any(|word| text[body..].starts_with(word.as_bytes()));
    let published = || shape.published.iter().any(|key| text[start..end] == *key.as_bytes());
    if long < shape.min || !tells(&text[body..body + shape.min], shape.mixed) || others() || published() {
        return Seen::Nothing;
    }
    let kind = open.then_some(RunKind::Class(shape.class));
    Seen::Found(Span { run: kind, ..Span::by_rule(start, end, Detector::ApiKey.into(), shape.rule) })
}

fn tells(text: &[u8], mixed: Mixed) -> bool {
    if text.len() >= VARIED_FROM && (!is_varied(text) || is_filled_in(text)) {
        return false;
    }
    match mixed {
        Mixed::Any => true,
        Mixed::Digits => is_mixed(text),
        Mixed::Cases => {
            text.iter().skip(1).any(u8::is_ascii_uppercase) && text.iter().any(u8::is_ascii_lowercase)
        }
    }
}

fn is_varied(text: &[u8]) -> bool {
    let mut seen = [0u8; VARIED_MIN];
    let mut count = 0;
    for &b in text {
        if !seen[..count].contains(&b) {
            seen[count] = b;
            count += 1;
            if count == VARIED_MIN {
                return true;
            }
        }
    }
    false
}

/// Whether somebody wrote `XXXXXXXX` where a key would stand.
fn is_filled_in(text: &[u8]) -> bool {
    text.chunk_by(|a, b| a == b).any(|same| same.len() > REPEATED_MAX && same[0] != b'A')
}

fn is_mixed(text: &[u8]) -> bool {
    text.iter().any(|&b| is(b, DIGIT)) && text.iter().any(|&b| is(b, ALPHA))
}

/// `header.payload` and what follows of `.signature` or the five parts of a JWE, all base64url (RFC 7515, RFC 7516).
fn jwt(text: &[u8], at: usize, more: bool, (run, dotted): (&mut KnownRun, &mut KnownDotted)) -> Seen {
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
    let (end, open) = dotted.end(text, payload, more);
    Seen::Found(Span { run: open.then_some(RunKind::Dotted), ..Span::new(at, end, Detector::Jwt) })
}

/// The last parts between dots that were measured, for the same reason.
#[derive(Default)]
struct KnownDotted {
    start: usize,
    end: usize,
    open: bool,
}

impl KnownDotted {
    fn end(&mut self, text: &[u8], from: usize, more: bool) -> (usize, bool) {
        if !(self.start..self.end).contains(&from) {
            let (end, open) = dotted_end(text, from, more);
            *self = Self { start: from, end, open };
        }
        (self.end, self.open)
    }
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

/// A secret of a known length after a word that names it.
fn announced(text: &[u8], word_end: usize, secret: &Announced, more: bool) -> Seen {
    let start = after_gap(text, word_end, secret);
    let limit = text.len().min(start + secret.length + 1);
    let end = run_end(&text[..limit], start, secret.class);
    if more && end == text.len() {
        return Seen::Undecided(start);
    }
    let found = end - start == secret.length && is_secret(&text[start..end], secret);
    let span = Span::by_rule(start, end, Detector::ApiKey.into(), secret.rule);
    if found { Seen::Found(span) } else { Seen::Nothing }
}

fn is_secret(text: &[u8], secret: &Announced) -> bool {
    let uuid =
        |(place, &b): (usize, &u8)| if matches!(place, 8 | 13 | 18 | 23) { b == b'-' } else { is(b, HEX) };
    is_mixed(text) && (!secret.uuid || text.iter().enumerate().all(uuid))
}

/// The start of the first run that is long enough after a word, which only gap characters may part from it; or where
/// the text ends or something else comes.
fn after_gap(text: &[u8], word_end: usize, secret: &Announced) -> usize {
    let limit = word_end + GAP_BYTES_MAX;
    let mut at = word_end;
    while at < limit && at < text.len() {
        let end = run_end(&text[..text.len().min(at + secret.length)], at, secret.class);
        let parted = end < limit && end < text.len() && end - at < secret.length && is(text[end], GAP);
        if !parted {
            break;
        }
        at = end + 1;
    }
    at
}

/// A credential of any shape in a header field or an assignment: `Authorization: Token 22cb...`.
fn authorization(text: &[u8], word_end: usize, more: bool) -> Seen {
    const CREDENTIAL: u16 = URL | DOT | TILDE | B64 | EQUALS;
    /// A scheme and its space.
    const SCHEME_BYTES_MAX: usize = 16;
    let gap = |b: &u8| matches!(b, b' ' | b':' | b'=' | b'"' | b'\'' | b'\\');
    let limit = text.len().min(word_end + 8);
    let after = text[word_end..limit].iter().position(|b| !gap(b)).map_or(limit, |n| word_end + n);
    if after == word_end && after < text.len() {
        return Seen::Nothing;
    }
    let mut start = after;
    let first = run_end(text, start, CREDENTIAL);
    if text.get(first) == Some(&b' ') && first - start < SCHEME_BYTES_MAX && first > start {
        start = first + 1;
    }
    let end = run_end(text, start, CREDENTIAL);
    let open = more && end == text.len();
    if end - start < SCHEME_BYTES_MAX {
        return if open { Seen::Undecided(after) } else { odd_credential(text, start, (after, more)) };
    }
    if !is_mixed(&text[start..start + SCHEME_BYTES_MAX]) {
        return Seen::Nothing;
    }
    let kind = open.then_some(RunKind::Class(CREDENTIAL));
    Seen::Found(Span { run: kind, ..Span::by_rule(start, end, Detector::ApiKey.into(), "authorization") })
}

/// A credential that has characters no scheme allows, to the next quote or blank.
fn odd_credential(text: &[u8], start: usize, (held, more): (usize, bool)) -> Seen {
    let cap = text.len().min(start + SECRET_VALUE_BYTES_MAX + 1);
    let end = text[start..cap].iter().position(|&b| !is_secret_byte(b)).map_or(cap, |n| start + n);
    if more && end == text.len() && end - start <= SECRET_VALUE_BYTES_MAX {
        return Seen::Undecided(held);
    }
    let value = &text[start..end];
    let drawn = is_mixed(value) && entropy_milli(value) >= SECRET_ENTROPY_MILLI;
    let reference = value.windows(3).any(|three| three == b"://");
    if !(16..=SECRET_VALUE_BYTES_MAX).contains(&value.len()) || !drawn || reference {
        return Seen::Nothing;
    }
    Seen::Found(Span::by_rule(start, end, Detector::ApiKey.into(), "authorization"))
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

/// A value of high entropy that is assigned to a name with a telling word in it: `db_password_prod = "..."`.
fn secret_after(text: &[u8], word_end: usize, more: bool) -> Seen {
    let limit = word_end + GAP_BYTES_MAX;
    let cap = text.len().min(limit);
    let mut at = run_end(&text[..cap], word_end, URL);
    let mut assigned = false;
    // At most: quote, spaces, `:=` or `=>` or `=`, spaces, quote.
    while at < cap {
        match text[at] {
            b':' | b'=' => assigned = true,
            b'>' if assigned => {}
            b' ' | b'\t' | b'"' | b'\'' | b'`' | b'\\' => {}
            _ => break,
        }
        at += 1;
    }
    if at == text.len() {
        return if more && at < limit { Seen::Undecided(at) } else { Seen::Nothing };
    }
    if !assigned || at == limit {
        return Seen::Nothing;
    }
    let end =
        text[at..text.len().min(at + SECRET_VALUE_BYTES_MAX + 1)].iter().position(|&b| !is_secret_byte(b));
    let end = end.map_or(text.len().min(at + SECRET_VALUE_BYTES_MAX + 1), |n| at + n);
    if end == text.len() && more && end - at <= SECRET_VALUE_BYTES_MAX {
        return Seen::Undecided(at);
    }
    let found = is_high_entropy(&text[at..end]);
    if found { Seen::Found(Span::new(at, end, Detector::Secret)) } else { Seen::Nothing }
}

/// Bytes of the longest value that is judged by its entropy.
const SECRET_VALUE_BYTES_MAX: usize = 128;
/// Thousandths of a bit per character that such a value has at least; English has about 2500 over lengths like these.
const SECRET_ENTROPY_MILLI: u32 = 3000;

fn is_secret_byte(b: u8) -> bool {
    b.is_ascii_graphic()
        && !matches!(
            b,
            b'"' | b'\''
                | b'`'
                | b','
                | b';'
                | b'&'
                | b'<'
                | b'>'
                | b'('
                | b')'
                | b'['
                | b']'
                | b'{'
                | b'}'
                | b'|'
                | b'\\'
        )
}

/// Whether a value looks drawn at random: long enough, of letters and digits, of high entropy; not a name, a date, a
/// version, a UUID, or a reference to where the secret is.
fn is_high_entropy(text: &[u8]) -> bool {
    let figures = text.iter().filter(|b| b.is_ascii_digit()).count();
    let letters = text.iter().filter(|b| b.is_ascii_alphabetic()).count();
    let uuid = text.len() == 36
        && text
            .iter()
            .enumerate()
            .all(|(place, &b)| if matches!(place, 8 | 13 | 18 | 23) { b == b'-' } else { is(b, HEX) });
    let reference =
        text.starts_with(b"$") || text.starts_with(b"%") || text.windows(3).any(|three| three == b"://");
    (10..=SECRET_VALUE_BYTES_MAX).contains(&text.len())
        && figures >= 2
        && letters >= 4
        && !uuid
        && !reference
        && !is_filled_in(text)
        && entropy_milli(text) >= SECRET_ENTROPY_MILLI
}

fn nine_digits(text: &[u8]) -> Option<[u8; 9]> {
    let digits: [u8; 9] = text.try_into().ok()?;
    digits.iter().all(u8::is_ascii_digit).then(|| digits.map(|b| b - b'0'))
}

/// What the name of a JSON member makes of its whole value: an undashed social security number under a name that says
/// so, a secret access key under a name that says "secret", a credential under the name of the header field.
pub(in crate::mask) fn named(name: &[u8], value: &[u8], set: Set) -> Option<Detector> {
    let says = |words: &[&str]| {
        words
            .iter()
            .any(|word| name.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word.as_bytes())))
    };
    let ssn = set.has(Detector::UsSsn) && nine_digits(value).is_some_and(is_ssn) && says(&["ssn", "social"]);
    if ssn {
        return Some(Detector::UsSsn);
    }
    if set.has(Detector::Secret)
        && is_high_entropy(value)
        && value.iter().all(|&b| is_secret_byte(b))
        && says(&SECRET_WORDS)
    {
        return Some(Detector::Secret);
    }
    if !set.has(Detector::ApiKey) || value.is_empty() {
        return None;
    }
    let is_field = |field: &str| name.eq_ignore_ascii_case(field.as_bytes());
    let announced = KEYS.announced.iter().any(|secret| {
        value.len() == secret.length
            && value.iter().all(|&b| is(b, secret.class))
            && is_secret(value, secret)
            && says(&secret.words)
    });
    (announced || is_field("authorization") || is_field("proxy-authorization")).then_some(Detector::ApiKey)
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
            let from = inside.max(run.at.saturating_sub(pem::LABEL_BYTES_MAX + 16)).min(run.at);
            let (end, open) =
                pem::end_of(text, from, left + (run.at - from), more, &mut pem::KnownBlock::default());
            let end = end.max(run.at);
            run.kind = RunKind::Pem { inside, left: left.saturating_sub(end - run.at) };
            (end, open)
        }
    };
    run.at = end;
    open
}
