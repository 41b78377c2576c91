//! The blocks of a pcapng file (draft-ietf-opsawg-pcapng), little-endian: one section, one interface, packets with
//! comments.

use std::io::{self, Write};

use crate::record::entry::Micros;

const SECTION: u32 = 0x0A0D_0D0A;
const INTERFACE: u32 = 1;
const PACKET: u32 = 6;
const BYTE_ORDER: u32 = 0x1A2B_3C4D;
/// Packets begin with their IP header.
const LINKTYPE_RAW: u16 = 101;
/// Bytes of one comment. The format takes 65,535; nobody reads so much.
const COMMENT_BYTES_MAX: usize = 8 * 1024;

const OPTION_COMMENT: u16 = 1;
const OPTION_APPLICATION: u16 = 4;
const OPTION_NAME: u16 = 2;
const OPTION_RESOLUTION: u16 = 9;

pub(super) struct Blocks<'a> {
    out: &'a mut dyn Write,
}

impl<'a> Blocks<'a> {
    /// Writes what stands at the beginning of a file.
    pub(super) fn begin(out: &'a mut dyn Write) -> io::Result<Self> {
        let mut this = Self { out };
        let mut section = BYTE_ORDER.to_le_bytes().to_vec();
        section.extend(1_u16.to_le_bytes());
        section.extend(0_u16.to_le_bytes());
        section.extend(u64::MAX.to_le_bytes());
        let application = concat!("tidegate ", env!("CARGO_PKG_VERSION"));
        option(&mut section, OPTION_APPLICATION, application.as_bytes());
        let comment = "made from a record: TCP is made up, messages are masked as they were recorded";
        option(&mut section, OPTION_COMMENT, comment.as_bytes());
        option(&mut section, 0, &[]);
        this.block(SECTION, &section)?;
        let mut interface = LINKTYPE_RAW.to_le_bytes().to_vec();
        interface.extend(0_u16.to_le_bytes());
        interface.extend(0_u32.to_le_bytes());
        option(&mut interface, OPTION_NAME, b"tidegate");
        option(&mut interface, OPTION_RESOLUTION, &[6]);
        option(&mut interface, 0, &[]);
        this.block(INTERFACE, &interface)?;
        Ok(this)
    }

    /// Writes one packet.
    pub(super) fn packet(&mut self, at: Micros, bytes: &[u8], comment: &str) -> io::Result<()> {
        let at = u64::try_from(at).unwrap_or(0);
        let length = (bytes.len() as u32).to_le_bytes();
        let mut packet = 0_u32.to_le_bytes().to_vec();
        packet.extend(((at >> 32) as u32).to_le_bytes());
        packet.extend((at as u32).to_le_bytes());
        packet.extend(length);
        packet.extend(length);
        padded(&mut packet, bytes);
        if !comment.is_empty() {
            let end =
                (0..=comment.len().min(COMMENT_BYTES_MAX)).rev().find(|at| comment.is_char_boundary(*at));
            // Whoever shows a comment may show it on a terminal.
            let shown: String = comment[..end.unwrap_or(0)].chars().map(harmless).collect();
            option(&mut packet, OPTION_COMMENT, shown.as_bytes());
            option(&mut packet, 0, &[]);
        }
        self.block(PACKET, &packet)
    }

    fn block(&mut self, kind: u32, body: &[u8]) -> io::Result<()> {
        let length = (body.len() as u32 + 12).to_le_bytes();
        self.out.write_all(&kind.to_le_bytes())?;
        self.out.write_all(&length)?;
        self.out.write_all(body)?;
        self.out.write_all(&length)
    }
}

fn harmless(c: char) -> char {
    if c.is_ascii_graphic() || c == ' ' || c.is_alphanumeric() { c } else { '?' }
}

fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    out.extend(code.to_le_bytes());
    out.extend((value.len() as u16).to_le_bytes());
    padded(out, value);
}

/// Values and packets are filled up to 32 bits.
fn padded(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(bytes);
    out.resize(out.len().next_multiple_of(4), 0);
}
