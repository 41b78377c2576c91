//! One automaton for all rules by regular expression, walked from every place a find may start at.
//!
//! A walk ends where no rule can match any more, at the latest after [`PATTERN_MATCH_BYTES_MAX`] bytes: what it holds
//! back is bounded, and so is what it costs. The automaton is built as it is walked (a full one would not fit memory).

use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};

use aho_corasick::AhoCorasick;
use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::nfa::thompson;
use regex_automata::util::pool::Pool;
use regex_automata::{Anchored, Input, MatchKind};

use super::edge::{Edge, is_word};
use super::{Found, Rule, entropy_milli, syntax_config};
use crate::limits::{PATTERN_AUTOMATON_BYTES_MAX, PATTERN_MATCH_BYTES_MAX};

/// Bytes before a find in which its keyword must start.
pub const NEAR_BYTES: usize = 64;
/// Bytes before a find in which a word may stand that makes it something else.
const UNLESS_BYTES: usize = 16;

/// Rules, compiled together.
pub struct Engine {
    dfa: DFA,
    scratch: Pool<Scratch, Box<dyn Fn() -> Scratch + Send + Sync + UnwindSafe + RefUnwindSafe>>,
    /// Bytes that some rule's find starts with; those of rules whose finds may start inside of a word.
    first: [bool; 256],
    inside: [bool; 256],
    rules: Vec<Rule>,
    keywords: Option<AhoCorasick>,
    /// The rule that each keyword belongs to, and whether it speaks against.
    keyword_rules: Vec<(usize, bool)>,
    least_digits: usize,
}

/// What a walk needs, kept between walks.
struct Scratch {
    cache: Cache,
    /// Ends that rules accept: rule and offset.
    ends: Vec<(usize, usize)>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("rules", &self.rules.len()).finish_non_exhaustive()
    }
}

/// What a walk came to.
enum Walk {
    /// No rule can match beyond what was walked.
    Done,
    /// The text ended first, and more may come.
    Undecided,
}

impl Engine {
    /// An engine for these rules.
    ///
    /// # Errors
    /// Why they cannot be compiled, in words for the operator.
    pub fn new(rules: Vec<Rule>) -> Result<Self, String> {
        Self::within(PATTERN_AUTOMATON_BYTES_MAX, rules)
    }

    /// An engine for rules that were each found fit, with the room that all of them take together: those of the program, those
    /// of a policy directory, and a credential.
    ///
    /// # Errors
    /// As [`Engine::new`].
    pub fn of_all(rules: Vec<Rule>) -> Result<Self, String> {
        Self::within(4 * PATTERN_AUTOMATON_BYTES_MAX, rules)
    }

    fn within(bytes: usize, rules: Vec<Rule>) -> Result<Self, String> {
        let patterns: Vec<&str> = rules.iter().map(|rule| rule.pattern.as_str()).collect();
        let dfa = automaton(bytes, &patterns)?;
        let (mut words, mut keyword_rules) = (Vec::new(), Vec::new());
        for (index, rule) in rules.iter().enumerate() {
            for (list, against) in [(&rule.keywords, false), (&rule.unless, true)] {
                words.extend(list.iter().map(String::as_str));
                keyword_rules.extend(list.iter().map(|_| (index, against)));
            }
        }
        let keywords = (!words.is_empty())
            .then(|| AhoCorasick::builder().ascii_case_insensitive(true).build(&words))
            .transpose()
            .map_err(|error| error.to_string())?;
        let least_digits = rules.iter().map(|rule| rule.digits).min().unwrap_or(0);
        let made = dfa.clone();
        let scratch: Box<dyn Fn() -> Scratch + Send + Sync + UnwindSafe + RefUnwindSafe> =
            Box::new(move || Scratch { cache: made.create_cache(), ends: Vec::new() });
        let first = first_bytes(&dfa)?;
        let free: Vec<&str> =
            rules.iter().filter(|rule| rule.edge == Edge::Free).map(|rule| rule.pattern.as_str()).collect();
        let inside = if free.is_empty() { [false; 256] } else { first_bytes(&automaton(bytes, &free)?)? };
        let scratch = Pool::new(scratch);
        Ok(Self { dfa, scratch, first, inside, rules, keywords, keyword_rules, least_digits })
    }

    /// Figures without which nothing can be found.
    #[must_use]
    pub fn least_digits(&self) -> usize {
        self.least_digits
    }

    /// Finds what starts at `from` or later. Gives how far the text is decided. `name` is that of the text's JSON member.
    pub fn find(
        &self,
        text: &[u8],
        from: usize,
        (wanted, name): (&dyn Fn(usize) -> bool, &[u8]),
        more: bool,
        finds: &mut Vec<Found>,
    ) -> usize {
        let mut scratch = self.scratch.get();
        let mut certain = text.len();
        let mut at = from;
        while let Some(found) = text[at..].iter().position(|&b| self.first[usize::from(b)]) {
            let start = at + found;
            at = start + 1;
            // Inside a word nothing starts, but for the rules that say so.
            if start > 0 && is_word(text[start - 1]) && !self.inside[usize::from(text[start])] {
                continue;
            }
            scratch.ends.clear();
            if let Walk::Undecided = self.walk(text, start, more, &mut scratch) {
                certain = certain.min(start);
                continue;
            }
            if !scratch.ends.is_empty()
                && !self.judge(text, start, (wanted, name), more, &scratch.ends, finds)
            {
                certain = certain.min(start);
            }
        }
        certain
    }

    /// Collects the ends that rules accept for a find that starts at `start`.
    fn walk(&self, text: &[u8], start: usize, more: bool, scratch: &mut Scratch) -> Walk {
        let Scratch { cache, ends } = scratch;
        let end = text.len().min(start + PATTERN_MATCH_BYTES_MAX);
        let input = Input::new(text).range(start..end).anchored(Anchored::Yes);
        let Ok(mut state) = self.dfa.start_state_forward(cache, &input) else { return Walk::Done };
        let mut take = |cache: &Cache, state, at| {
            for n in 0..self.dfa.match_len(cache, state) {
                ends.push((self.dfa.match_pattern(cache, state, n).as_usize(), at));
            }
        };
        for (at, &byte) in text[..end].iter().enumerate().skip(start) {
            let Ok(next) = self.dfa.next_state(cache, state, byte) else { return Walk::Done };
            state = next;
            if state.is_tagged() {
                if state.is_match() {
                    take(cache, state, at);
                }
                if state.is_dead() || state.is_quit() {
                    return Walk::Done;
                }
            }
        }
        if more && end == text.len() && end - start < PATTERN_MATCH_BYTES_MAX {
            return Walk::Undecided;
        }
        if let Ok(last) = self.dfa.next_eoi_state(cache, state)
            && last.is_match()
        {
            take(cache, last, end);
        }
        Walk::Done
    }

    /// Of the ends that each rule accepts, takes the farthest that stands every test. `false`: what follows the text
    /// must be known first.
    fn judge(
        &self,
        text: &[u8],
        start: usize,
        (wanted, name): (&dyn Fn(usize) -> bool, &[u8]),
        more: bool,
        ends: &[(usize, usize)],
        finds: &mut Vec<Found>,
    ) -> bool {
        let mut decided = true;
        let mut near: Option<Near> = None;
        for (index, rule) in self.rules.iter().enumerate() {
            if !wanted(index) || !rule.edge.before(text, start) {
                continue;
            }
            for &(_, end) in ends.iter().rev().filter(|(of, _)| *of == index) {
                if !fits(rule, &text[start..end]) {
                    continue;
                }
                match rule.edge.after(text, end, more) {
                    None => {
                        decided = false;
                        break;
                    }
                    Some(false) => continue,
                    Some(true) => {}
                }
                let near = near.get_or_insert_with(|| self.near(text, start, name));
                if near.speaks_for(index, rule) {
                    finds.push(Found { start, end, rule: index });
                }
                break;
            }
        }
        decided
    }

    /// The rules for and against which words near `start` speak.
    fn near(&self, text: &[u8], start: usize, name: &[u8]) -> Near {
        let mut near = Near::default();
        let Some(keywords) = &self.keywords else { return near };
        let from = start.saturating_sub(NEAR_BYTES);
        let before = &text[from..start];
        for (place, named) in [(before, false), (name, true)] {
            for hit in keywords.find_overlapping_iter(place) {
                let (rule, against) = self.keyword_rules[hit.pattern().as_usize()];
                // What was cut off in front may be the rest of the word.
                let cut = !named && from > 0 && hit.start() == 0;
                if cut || !is_whole_word(place, hit.start(), hit.end()) {
                    continue;
                }
                if !against {
                    near.spoken_for.push(rule);
                } else if !named && place.len() - hit.start() <= UNLESS_BYTES {
                    near.spoken_against.push(rule);
                }
            }
        }
        near
    }
}

#[derive(Default)]
struct Near {
    spoken_for: Vec<usize>,
    spoken_against: Vec<usize>,
}

impl Near {
    fn speaks_for(&self, index: usize, rule: &Rule) -> bool {
        (rule.keywords.is_empty() || self.spoken_for.contains(&index))
            && !self.spoken_against.contains(&index)
    }
}

fn fits(rule: &Rule, text: &[u8]) -> bool {
    text.iter().filter(|&&b| b.is_ascii_digit()).count() >= rule.digits
        && rule.check.is_none_or(|check| check(text))
        && (rule.entropy_milli == 0 || entropy_milli(text) >= rule.entropy_milli)
}

/// Whether `text[start..end]` is a whole word, also as one of `camelCase`.
fn is_whole_word(text: &[u8], start: usize, end: usize) -> bool {
    let apart = |left: u8, right: u8| {
        !(left.is_ascii_alphabetic() && right.is_ascii_alphabetic())
            || left.is_ascii_lowercase() && right.is_ascii_uppercase()
    };
    let before = start == 0 || apart(text[start - 1], text[start]);
    let after = end == text.len() || apart(text[end - 1], text[end]);
    before && after
}

/// An automaton for these expressions, none larger than so many bytes.
fn automaton(bytes: usize, patterns: &[&str]) -> Result<DFA, String> {
    let nfa = thompson::Config::new()
        .utf8(false)
        .which_captures(thompson::WhichCaptures::None)
        .nfa_size_limit(Some(bytes));
    let dfa = DFA::config()
        .match_kind(MatchKind::All)
        .cache_capacity(PATTERN_AUTOMATON_BYTES_MAX)
        .skip_cache_capacity_check(true);
    let builder = DFA::builder().syntax(syntax_config()).thompson(nfa).configure(dfa).build_many(patterns);
    builder.map_err(|error| deepest(&error))
}

/// Which bytes lead on from the start.
fn first_bytes(dfa: &DFA) -> Result<[bool; 256], String> {
    let mut cache = dfa.create_cache();
    let mut first = [false; 256];
    for (byte, leads) in (0..=u8::MAX).zip(&mut first) {
        let input = Input::new(b"").anchored(Anchored::Yes);
        let start = dfa.start_state_forward(&mut cache, &input).map_err(|error| error.to_string())?;
        let next = dfa.next_state(&mut cache, start, byte).map_err(|error| error.to_string())?;
        *leads = !next.is_dead();
    }
    Ok(first)
}

/// The innermost reason, which is about the pattern and not about us.
fn deepest(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
