//! A pcap or pcapng file, packet by packet. Holds one buffer, whatever the file says about its sizes; ends at the first
//! block that cannot be read, and says so.

use std::io::Read;

use jiff::Timestamp;
use pcap_parser::traits::{PcapNGPacketBlock, PcapReaderIterator};
use pcap_parser::{Block, Linktype, PcapBlockOwned, PcapError, create_reader};

use crate::limits::{CAPTURE_BLOCK_BYTES_MAX, CAPTURE_INTERFACES_MAX};

/// One captured packet.
#[derive(Debug, Clone, Copy)]
pub struct Captured<'a> {
    /// When; the epoch where the file does not say.
    pub at: Timestamp,
    /// Its link type.
    pub link: Linktype,
    /// Its bytes.
    pub bytes: &'a [u8],
    /// How many it had on the wire.
    pub original: usize,
}

/// How a capture ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// With its last block.
    Whole,
    /// In the middle of a block, or with one that cannot be read.
    Broken(String),
}

/// Why a file is no capture.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// It does not begin like one.
    #[error("this is neither a pcap nor a pcapng file")]
    NoCapture,
    /// It cannot be read.
    #[error("the capture cannot be read: {0}")]
    Unreadable(String),
}

#[derive(Debug, Clone, Copy)]
struct Interface {
    link: Linktype,
    /// Units of time in a second, and seconds to add.
    resolution: u64,
    offset: i64,
}

/// Hands every packet to `visit`, in order. Gives how the capture ended.
///
/// # Errors
/// It is no capture, or the first read fails.
pub fn read(file: impl Read + Send, mut visit: impl FnMut(&Captured<'_>)) -> Result<End, CaptureError> {
    let mut reader = create_reader(CAPTURE_BLOCK_BYTES_MAX, file).map_err(|error| match error {
        PcapError::ReadError => CaptureError::Unreadable("the file system refuses".into()),
        _ => CaptureError::NoCapture,
    })?;
    let mut interfaces = Vec::new();
    loop {
        let step = match reader.next() {
            Ok((offset, block)) => match take(&block, &mut interfaces, &mut visit) {
                Ok(()) => Step::On(offset),
                Err(why) => Step::End(End::Broken(why)),
            },
            Err(PcapError::Eof) => Step::End(End::Whole),
            Err(PcapError::Incomplete(_)) => Step::More,
            Err(error) => Step::End(End::Broken(in_words(&error))),
        };
        match step {
            Step::On(offset) => reader.consume(offset),
            Step::More => {
                if let Err(why) = refill(&mut *reader) {
                    return Ok(End::Broken(why));
                }
            }
            Step::End(end) => return Ok(end),
        }
    }
}

/// What one look at the buffer came to.
enum Step {
    On(usize),
    More,
    End(End),
}

fn refill(reader: &mut dyn PcapReaderIterator) -> Result<(), String> {
    if reader.reader_exhausted() {
        return Err("it ends in the middle of a block".into());
    }
    let before = reader.data().len();
    reader.refill().map_err(|error| in_words(&error))?;
    match reader.data().len() > before || reader.reader_exhausted() {
        true => Ok(()),
        false => Err(format!("a block is larger than {CAPTURE_BLOCK_BYTES_MAX} bytes")),
    }
}

fn in_words(error: &PcapError<&[u8]>) -> String {
    match error {
        PcapError::UnexpectedEof | PcapError::Incomplete(_) | PcapError::Eof => {
            "it ends in the middle of a block".into()
        }
        PcapError::BufferTooSmall => format!("a block is larger than {CAPTURE_BLOCK_BYTES_MAX} bytes"),
        PcapError::ReadError => "the file system refuses to read on".into(),
        PcapError::HeaderNotRecognized => "a section begins that is none".into(),
        PcapError::NomError(..) | PcapError::OwnedNomError(..) => "a block contradicts itself".into(),
    }
}

fn take(
    block: &PcapBlockOwned<'_>,
    interfaces: &mut Vec<Interface>,
    visit: &mut impl FnMut(&Captured<'_>),
) -> Result<(), String> {
    match block {
        PcapBlockOwned::LegacyHeader(header) => {
            let resolution = if header.is_nanosecond_precision() { 1_000_000_000 } else { 1_000_000 };
            interfaces.push(Interface { link: header.network, resolution, offset: 0 });
        }
        PcapBlockOwned::Legacy(packet) => {
            let interface = interfaces.first().ok_or("a packet comes before the header")?;
            let seconds = u64::from(packet.ts_sec);
            let units = seconds.saturating_mul(interface.resolution) + u64::from(packet.ts_usec);
            let bytes = packet.data.get(..packet.caplen as usize).unwrap_or(packet.data);
            visit(&captured(*interface, units, bytes, packet.origlen));
        }
        PcapBlockOwned::NG(Block::SectionHeader(_)) => interfaces.clear(),
        PcapBlockOwned::NG(Block::InterfaceDescription(described)) => {
            if interfaces.len() == CAPTURE_INTERFACES_MAX {
                return Err(format!("it has more than {CAPTURE_INTERFACES_MAX} interfaces"));
            }
            interfaces.push(Interface {
                link: described.linktype,
                resolution: described.ts_resolution().unwrap_or(1_000_000),
                offset: described.ts_offset(),
            });
        }
        PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
            let interface = interfaces.get(packet.if_id as usize).ok_or("a packet names no interface")?;
            let units = u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low);
            let bytes = packet.data.get(..packet.caplen as usize).unwrap_or(packet.data);
            visit(&captured(*interface, units, bytes, packet.origlen));
        }
        PcapBlockOwned::NG(Block::SimplePacket(packet)) => {
            let interface = interfaces.first().ok_or("a packet names no interface")?;
            let bytes = packet.packet_data();
            let bytes = bytes.get(..packet.origlen as usize).unwrap_or(bytes);
            visit(&captured(*interface, 0, bytes, packet.origlen));
        }
        PcapBlockOwned::NG(_) => {}
    }
    Ok(())
}

fn captured(interface: Interface, units: u64, bytes: &[u8], original: u32) -> Captured<'_> {
    let resolution = interface.resolution.max(1);
    let seconds = i64::try_from(units / resolution).unwrap_or(i64::MAX).saturating_add(interface.offset);
    let nanos = (u128::from(units % resolution) * 1_000_000_000 / u128::from(resolution)) as i32;
    let at = Timestamp::new(seconds, nanos).unwrap_or(Timestamp::UNIX_EPOCH);
    Captured { at, link: interface.link, bytes, original: original as usize }
}
