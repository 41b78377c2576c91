//! Promises of the decoder: what honest encoders write is read in any split, everything else is refused, and no input
//! makes more output than it may.

use std::io::Write;

use bytes::Bytes;

use super::{Coding, Codings, DecodeError, Decoder};
use crate::limits::{DECODED_GRACE_BYTES, DECODED_PIECE_BYTES};

const CODINGS: [Coding; 4] = [Coding::Gzip, Coding::Deflate, Coding::Br, Coding::Zstd];

fn encode(coding: Coding, text: &[u8]) -> Vec<u8> {
    match coding {
        Coding::Gzip => {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            gzip.write_all(text).unwrap();
            gzip.finish().unwrap()
        }
        Coding::Deflate => {
            let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
            zlib.write_all(text).unwrap();
            zlib.finish().unwrap()
        }
        Coding::Br => {
            let mut coded = Vec::new();
            let mut br = brotli::CompressorWriter::new(&mut coded, 4096, 5, 22);
            br.write_all(text).unwrap();
            drop(br);
            coded
        }
        Coding::Zstd => {
            let mut zstd = zstd::stream::Encoder::new(Vec::new(), 3).unwrap();
            zstd.include_checksum(true).unwrap();
            zstd.write_all(text).unwrap();
            zstd.finish().unwrap()
        }
    }
}

fn codings(name: &str) -> Codings {
    Codings::read([name.as_bytes()]).unwrap()
}

fn decode(codings: Codings, pieces: impl Iterator<Item = impl AsRef<[u8]>>) -> Result<Vec<u8>, DecodeError> {
    let mut decoder = Decoder::new(codings);
    let mut all = Vec::new();
    for piece in pieces {
        decoder.give(Bytes::copy_from_slice(piece.as_ref()));
        loop {
            let before = all.len();
            if !decoder.take(&mut all)? {
                break;
            }
            assert!(all.len() - before <= DECODED_PIECE_BYTES, "a piece is bounded");
        }
    }
    decoder.finish()?;
    Ok(all)
}

fn text() -> Vec<u8> {
    (0..400u32).flat_map(|n| format!("row {n}: {}\n", n.wrapping_mul(2_654_435_761)).into_bytes()).collect()
}

#[test]
fn every_coding_and_every_pair_is_undone_in_any_split() {
    let text = text();
    for outer in [None, Some(Coding::Gzip), Some(Coding::Deflate), Some(Coding::Br), Some(Coding::Zstd)] {
        for inner in CODINGS {
            let mut coded = encode(inner, &text);
            let mut name = inner.name().to_owned();
            if let Some(outer) = outer {
                coded = encode(outer, &coded);
                name = format!("{name}, {}", outer.name());
            }
            let codings = codings(&name);
            assert_eq!(codings.to_string(), name);
            assert_eq!(decode(codings, std::iter::once(&coded)).unwrap(), text, "{name}");
            assert_eq!(decode(codings, coded.chunks(1)).unwrap(), text, "{name} byte by byte");
            for cut in (0..=coded.len()).step_by(7) {
                let (before, after) = coded.split_at(cut);
                assert_eq!(decode(codings, [before, after].iter()).unwrap(), text, "{name} cut at {cut}");
            }
        }
    }
}

#[test]
fn deflate_without_a_zlib_header_is_read_too() {
    let mut raw = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
    raw.write_all(&text()).unwrap();
    let coded = raw.finish().unwrap();
    assert_eq!(decode(codings("deflate"), coded.chunks(1)).unwrap(), text());
    assert_eq!(decode(codings("deflate"), std::iter::once(&coded)).unwrap(), text());
}

#[test]
fn a_gzip_header_may_have_every_field_and_none_too_long() {
    let mut coded = vec![0x1F, 0x8B, 8, 4 | 8 | 16, 0, 0, 0, 0, 0, 3];
    coded.extend_from_slice(&[3, 0]);
    coded.extend_from_slice(b"xyzname\0comment\0");
    let plain = encode(Coding::Gzip, b"hello");
    coded.extend_from_slice(&plain[10..]);
    assert_eq!(decode(codings("x-gzip"), coded.chunks(1)).unwrap(), b"hello");
    let mut long = vec![0x1F, 0x8B, 8, 8, 0, 0, 0, 0, 0, 3];
    long.extend(std::iter::repeat_n(b'n', 20_000));
    assert!(matches!(
        decode(codings("gzip"), long.chunks(100)),
        Err(DecodeError::Damaged(Coding::Gzip, "its header is too long"))
    ));
}

#[test]
fn what_ends_early_goes_on_after_its_end_or_is_damaged_is_refused() {
    for coding in CODINGS {
        let name = codings(coding.name());
        let coded = encode(coding, &text());
        for cut in [1, 3, coded.len() / 2, coded.len() - 1] {
            let got = decode(name, std::iter::once(&coded[..cut]));
            assert_eq!(got, Err(DecodeError::Truncated(coding)), "cut at {cut}");
        }
        let trailing = [coded.as_slice(), b"x"].concat();
        assert_eq!(decode(name, std::iter::once(&trailing)), Err(DecodeError::Trailing(coding)));
        assert_eq!(decode(name, trailing.chunks(1)), Err(DecodeError::Trailing(coding)));
        let twice = [coded.as_slice(), coded.as_slice()].concat();
        assert_eq!(decode(name, std::iter::once(&twice)), Err(DecodeError::Trailing(coding)), "two members");
        assert!(decode(name, std::iter::once(b"not coded at all")).is_err());
        assert_eq!(decode(name, std::iter::empty::<&[u8]>()), Ok(Vec::new()), "no byte at all");
    }
}

#[test]
fn a_wrong_checksum_is_refused() {
    for coding in [Coding::Gzip, Coding::Deflate, Coding::Zstd] {
        let mut coded = encode(coding, &text());
        let at = coded.len() - if coding == Coding::Gzip { 6 } else { 2 };
        coded[at] ^= 1;
        let got = decode(codings(coding.name()), std::iter::once(&coded));
        assert!(matches!(got, Err(DecodeError::Damaged(..))), "{coding:?}: {got:?}");
    }
}

#[test]
fn a_bomb_is_stopped_at_the_ratio_however_it_is_cut() {
    let zeros = vec![0; 64 * 1024 * 1024];
    for coding in CODINGS {
        let coded = encode(coding, &zeros);
        for pieces in [1, 1000, usize::MAX] {
            let mut decoder = Decoder::new(codings(coding.name()));
            let (mut made, mut refused) = (0u64, None);
            let mut piece = Vec::new();
            'all: for chunk in coded.chunks(pieces) {
                decoder.give(Bytes::copy_from_slice(chunk));
                loop {
                    piece.clear();
                    match decoder.take(&mut piece) {
                        Ok(true) => made += piece.len() as u64,
                        Ok(false) => break,
                        Err(error) => {
                            refused = Some(error);
                            break 'all;
                        }
                    }
                }
            }
            assert_eq!(refused, Some(DecodeError::Bomb(coding)), "{coding:?} in pieces of {pieces}");
            assert!(made <= DECODED_GRACE_BYTES + 256 * coded.len() as u64);
            assert_eq!(decoder.take(&mut piece), Err(DecodeError::Bomb(coding)), "errors stick");
        }
        let nested = encode(Coding::Gzip, &coded);
        let name = format!("{}, gzip", coding.name());
        assert!(matches!(decode(codings(&name), std::iter::once(&nested)), Err(DecodeError::Bomb(_))));
    }
}

#[test]
fn more_than_any_body_may_have_is_refused() {
    let mut decoder = Decoder { total_max: 1000, ..Decoder::new(codings("gzip")) };
    decoder.give(encode(Coding::Gzip, &[b'x'; 1001]).into());
    assert_eq!(decoder.take(&mut Vec::new()), Err(DecodeError::TooLong));
    let mut decoder = Decoder { total_max: 1000, ..Decoder::new(codings("gzip")) };
    decoder.give(encode(Coding::Gzip, &[b'x'; 1000]).into());
    assert_eq!(decoder.take(&mut Vec::new()), Ok(true));
}

#[test]
fn a_window_beyond_the_bound_is_refused() {
    // A frame header that asks for a window of 16 MiB, and one raw block.
    let wide = [0x28, 0xB5, 0x2F, 0xFD, 0x00, (24 - 10) << 3, 0x09, 0, 0, b'x'];
    assert!(matches!(decode(codings("zstd"), std::iter::once(&wide)), Err(DecodeError::Damaged(..))));
    let fits = [0x28, 0xB5, 0x2F, 0xFD, 0x00, (23 - 10) << 3, 0x09, 0, 0, b'x'];
    assert_eq!(decode(codings("zstd"), std::iter::once(&fits)).unwrap(), b"x");
    // Brotli's "large window" announces itself in the first byte.
    assert!(decode(codings("br"), std::iter::once(&[0x11, 30, 0x03, 0x00])).is_err());
}

#[test]
fn an_unknown_coding_or_a_third_one_is_refused() {
    for wrong in ["compress", "gzip, br, zstd", "gzip;q=1", "gzip gzip", "aes128gcm"] {
        assert!(Codings::read([wrong.as_bytes()]).is_err(), "{wrong}");
    }
    assert!(Codings::read([&b"gzip, br"[..], b"zstd"]).is_err());
    for none in ["", "identity", " identity , ,"] {
        assert!(codings(none).is_identity());
    }
    assert_eq!(codings("X-GZip,identity, BR").to_string(), "gzip, br");
}

#[test]
fn a_stream_that_is_flushed_is_passed_on_before_its_end() {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(b"data: 1\n\n").unwrap();
    gzip.flush().unwrap();
    let mut decoder = Decoder::new(codings("gzip"));
    decoder.give(Bytes::copy_from_slice(gzip.get_ref()));
    let mut out = Vec::new();
    while decoder.take(&mut out).unwrap() {}
    assert_eq!(out, b"data: 1\n\n");
}
