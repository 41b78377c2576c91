//! Captures of any bytes, and segments in any order: bounded, never a panic, and the same stream however it was cut.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::inspect::capture::read;
use tidegate::inspect::packet;
use tidegate::inspect::stream::{Segment, Stream};
use tidegate::limits::CAPTURE_AHEAD_BYTES_MAX;

fuzz_target!(|data: &[u8]| {
    let _ = read(data, |captured| {
        let _ = packet::read(captured.link, captured.bytes, captured.original);
    });
    let (mut stream, mut out, mut given) = (Stream::default(), Vec::new(), 0);
    for part in data.chunks(9) {
        let (Some(place), Some(flags), bytes) = (part.get(..2), part.get(2), part.get(3..).unwrap_or_default()) else {
            continue;
        };
        let sequence = u32::from(u16::from_be_bytes([place[0], place[1]])).wrapping_sub(1000);
        let segment = Segment { sequence, syn: flags & 2 != 0, fin: flags & 1 != 0, bytes };
        stream.take(&segment, &mut out);
        assert!(out.len() >= given && stream.held() <= CAPTURE_AHEAD_BYTES_MAX + bytes.len());
        assert!(stream.gap().is_none_or(|(at, bytes)| at == out.len() as u64 && bytes > 0));
        given = out.len();
    }
});
