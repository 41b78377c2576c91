//! One direction of a TCP connection, put together from its segments. No I/O; holds what came too early within a bound,
//! and a window of what went by.
//!
//! Where segments overlap, the byte that came first counts, as it does for whoever has read it already. Overlaps that do
//! not agree are counted: one of the two sides of the wire may have read something else.

use std::collections::{BTreeMap, VecDeque};

use crate::limits::{CAPTURE_AHEAD_BYTES_MAX, CAPTURE_WINDOW_BYTES};

/// One direction.
#[derive(Debug, Default)]
pub struct Stream {
    /// The sequence number of the next byte; none before the first segment.
    next: Option<u32>,
    /// Bytes given so far.
    given: u64,
    /// Where the other side said it would end.
    end: Option<u64>,
    /// What came too early, by its place. Parts never overlap.
    ahead: BTreeMap<u64, Vec<u8>>,
    ahead_bytes: usize,
    /// The last bytes given, to compare with what is sent again.
    window: VecDeque<u8>,
    /// What was met.
    pub seen: Seen,
}

/// What one direction went through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Seen {
    /// The capture began after the connection did.
    pub midstream: bool,
    /// Bytes that were there before.
    pub repeated: u64,
    /// Of them, bytes that were not the same.
    pub conflicting: u64,
    /// Bytes that came too early for the bound, or from elsewhere, and were not looked at.
    pub dropped: u64,
}

/// One segment.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'a> {
    /// Sequence number of its first byte, or of its SYN.
    pub sequence: u32,
    /// It begins the connection.
    pub syn: bool,
    /// It ends this direction.
    pub fin: bool,
    /// Its bytes.
    pub bytes: &'a [u8],
}

impl Stream {
    /// Takes a segment, and appends the bytes that are next to `out`.
    pub fn take(&mut self, segment: &Segment<'_>, out: &mut Vec<u8>) {
        let first = segment.sequence.wrapping_add(u32::from(segment.syn));
        let next = *self.next.get_or_insert_with(|| {
            self.seen.midstream = !segment.syn;
            first
        });
        // How far the segment is from the next byte, within half of the number space either way.
        let distance = i64::from(first.wrapping_sub(next).cast_signed());
        let place = self.given.cast_signed().saturating_add(distance);
        let Ok(at) = u64::try_from(place) else {
            // It begins before the first byte there is.
            let before = usize::try_from(place.unsigned_abs()).unwrap_or(usize::MAX);
            self.seen.dropped += before.min(segment.bytes.len()) as u64;
            let rest = segment.bytes.get(before..).unwrap_or_default();
            self.place(0, rest);
            return self.give(out);
        };
        if at > self.given + CAPTURE_AHEAD_BYTES_MAX as u64 {
            self.seen.dropped += segment.bytes.len() as u64;
            return;
        }
        if segment.fin {
            self.end.get_or_insert(at + segment.bytes.len() as u64);
        }
        self.place(at, segment.bytes);
        self.give(out);
    }

    /// Whether the direction ended and everything before its end was given.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.end.is_some_and(|end| self.given >= end)
    }

    /// Bytes that were never captured, though later ones were: from where on, and how many until the next.
    #[must_use]
    pub fn gap(&self) -> Option<(u64, u64)> {
        let (at, _) = self.ahead.first_key_value()?;
        Some((self.given, at - self.given))
    }

    /// Bytes held because something before them is missing.
    #[must_use]
    pub fn held(&self) -> usize {
        self.ahead_bytes
    }

    fn place(&mut self, mut at: u64, mut bytes: &[u8]) {
        if at < self.given {
            let old = usize::try_from(self.given - at).map_or(bytes.len(), |old| old.min(bytes.len()));
            self.compare_given(at, &bytes[..old]);
            (at, bytes) = (at + old as u64, &bytes[old..]);
        }
        while !bytes.is_empty() {
            let before = self.ahead.range(..=at).next_back();
            if let Some((start, held)) = before
                && start + held.len() as u64 > at
            {
                let offset = (at - start) as usize;
                let both = (held.len() - offset).min(bytes.len());
                self.seen.repeated += both as u64;
                self.seen.conflicting += differ(held[offset..].iter(), &bytes[..both]);
                (at, bytes) = (at + both as u64, &bytes[both..]);
                continue;
            }
            let room = self.ahead.range(at..).next().map_or(bytes.len() as u64, |(start, _)| start - at);
            let part = usize::try_from(room).map_or(bytes.len(), |room| room.min(bytes.len()));
            if at > self.given && self.ahead_bytes + part > CAPTURE_AHEAD_BYTES_MAX {
                self.seen.dropped += bytes.len() as u64;
                return;
            }
            self.ahead.insert(at, bytes[..part].to_vec());
            self.ahead_bytes += part;
            (at, bytes) = (at + part as u64, &bytes[part..]);
        }
    }

    fn compare_given(&mut self, at: u64, bytes: &[u8]) {
        self.seen.repeated += bytes.len() as u64;
        let start = self.given - self.window.len() as u64;
        let skip = usize::try_from(start.saturating_sub(at)).unwrap_or(usize::MAX).min(bytes.len());
        let from = usize::try_from((at + skip as u64).saturating_sub(start)).unwrap_or(usize::MAX);
        if from <= self.window.len() {
            self.seen.conflicting += differ(self.window.range(from..), &bytes[skip..]);
        }
    }

    fn give(&mut self, out: &mut Vec<u8>) {
        while let Some(entry) = self.ahead.first_entry().filter(|entry| *entry.key() == self.given) {
            let bytes = entry.remove();
            self.ahead_bytes -= bytes.len();
            self.given += bytes.len() as u64;
            self.next = self.next.map(|next| next.wrapping_add(bytes.len() as u32));
            self.window.extend(&bytes);
            let old = self.window.len().saturating_sub(CAPTURE_WINDOW_BYTES);
            self.window.drain(..old);
            out.extend(bytes);
        }
    }
}

fn differ<'a>(one: impl Iterator<Item = &'a u8>, other: &[u8]) -> u64 {
    one.zip(other).filter(|(one, other)| one != other).count() as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn segment(sequence: u32, bytes: &[u8]) -> Segment<'_> {
        Segment { sequence, syn: false, fin: false, bytes }
    }

    fn begun(sequence: u32) -> Stream {
        let mut stream = Stream::default();
        stream.take(&Segment { sequence, syn: true, fin: false, bytes: &[] }, &mut Vec::new());
        stream
    }

    #[test]
    fn the_first_byte_wins_and_an_overlap_that_does_not_agree_is_counted() {
        let (mut stream, mut out) = (begun(9), Vec::new());
        stream.take(&segment(13, b"DEF"), &mut out);
        stream.take(&segment(12, b"cdxf"), &mut out);
        stream.take(&segment(10, b"abZ"), &mut out);
        assert_eq!(out, b"abcDEF");
        assert_eq!((stream.seen.conflicting, stream.gap()), (4, None));
        stream.take(&segment(10, b"abcDEf"), &mut out);
        assert_eq!((out.as_slice(), stream.seen.conflicting), (&b"abcDEF"[..], 5), "also what went by");
    }

    #[test]
    fn a_gap_is_named_and_nothing_after_it_is_given() {
        let (mut stream, mut out) = (begun(u32::MAX), Vec::new());
        stream.take(&segment(0, b"ab"), &mut out);
        stream.take(&segment(5, b"f"), &mut out);
        assert_eq!((out.as_slice(), stream.gap(), stream.held()), (&b"ab"[..], Some((2, 3)), 1));
    }

    #[test]
    fn what_comes_too_early_is_held_within_a_bound() {
        let (mut stream, mut out) = (begun(0), Vec::new());
        let part = vec![0; 64 * 1024];
        for number in 0..64_u32 {
            stream.take(&segment(2 + number * 65_536, &part), &mut out);
        }
        assert!(stream.held() <= CAPTURE_AHEAD_BYTES_MAX && stream.seen.dropped > 0, "{:?}", stream.seen);
        stream.take(&segment(0x7000_0000, &part), &mut out);
        assert!(out.is_empty());
    }

    #[test]
    fn a_capture_that_begins_in_the_middle_says_so() {
        let (mut stream, mut out) = (Stream::default(), Vec::new());
        stream.take(&Segment { sequence: 77, syn: false, fin: true, bytes: b"rest" }, &mut out);
        assert!(stream.seen.midstream && stream.is_over() && out == b"rest");
    }

    proptest! {
        #[test]
        fn however_it_is_cut_repeated_and_mixed_the_stream_is_the_same(
            bytes in proptest::collection::vec(any::<u8>(), 1..2000),
            start in any::<u32>(),
            mut cuts in proptest::collection::vec((any::<prop::sample::Index>(), 1_usize..200, any::<u32>()), 0..80),
            step in 1_usize..97,
        ) {
            let mut segments: Vec<(usize, usize, u32)> =
                (0..bytes.len()).step_by(step).enumerate().map(|(n, at)| (at, step, (n as u32).wrapping_mul(2_654_435_761))).collect();
            segments.extend(cuts.drain(..).map(|(at, length, order)| (at.index(bytes.len()), length, order)));
            segments.sort_by_key(|(_, _, order)| *order);
            let (mut stream, mut out) = (begun(start), Vec::new());
            for (at, length, _) in segments {
                let part = &bytes[at..bytes.len().min(at + length)];
                stream.take(&segment(start.wrapping_add(1 + at as u32), part), &mut out);
            }
            prop_assert_eq!(out, bytes);
            prop_assert_eq!((stream.seen.conflicting, stream.held()), (0, 0));
        }
    }
}
