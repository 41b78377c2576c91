//! Below and beside IP: packet sockets, AF_XDP, TUN, AF_VSOCK.

use std::io::{Error, Result};
use std::os::fd::{AsRawFd, OwnedFd};

use super::raw::{datagram, packet4, v4};
use crate::Aim;
use crate::sys::{self, Shared};

const SENT: &str = "sent";

/// The datagram as a packet of this host's.
fn packet_of(aim: &Aim) -> Result<Vec<u8>> {
    let datagram = datagram(aim.to().port(), aim.token());
    Ok(packet4(v4(aim.address("from"))?, v4(aim.to())?, 17, 0, &datagram))
}

fn device_index(aim: &Aim) -> Result<u32> {
    let name = sys::text(aim.get("device"));
    // SAFETY: a live string.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(Error::last_os_error()),
        index => Ok(index),
    }
}

/// The link address of the next machine, as `aa:bb:...`.
fn next_machine(aim: &Aim) -> Vec<u8> {
    aim.get("mac").split(':').filter_map(|pair| u8::from_str_radix(pair, 16).ok()).collect()
}

pub(crate) fn packet(aim: &Aim, bypass: bool) -> Result<String> {
    const QDISC_BYPASS: i32 = 20;
    let socket = sys::socket(libc::AF_PACKET, libc::SOCK_DGRAM, 0)?;
    if bypass {
        sys::set_number(&socket, libc::SOL_PACKET, QDISC_BYPASS, 1)?;
    }
    aim.pause();
    // sockaddr_ll: family, protocol, interface, hardware type, packet type, length of the address, address.
    let mut to = (libc::AF_PACKET as u16).to_ne_bytes().to_vec();
    to.extend(0x0800u16.to_be_bytes());
    to.extend(device_index(aim)?.to_ne_bytes());
    to.extend([0, 0, 0, 6]);
    to.extend(next_machine(aim));
    to.extend([0, 0]);
    sys::send_to(&socket, &packet_of(aim)?, &to, 0)?;
    Ok(SENT.to_owned())
}

/// One frame through a ring shared with the driver, in copy mode: every device can.
pub(crate) fn xdp(aim: &Aim) -> Result<String> {
    const SOL_XDP: i32 = 283;
    const TX_RING: i32 = 3;
    const UMEM_REG: i32 = 4;
    const UMEM_FILL_RING: i32 = 5;
    const UMEM_COMPLETION_RING: i32 = 6;
    const MMAP_OFFSETS: i32 = 1;
    const COPY: u16 = 2;
    let socket = sys::socket(libc::AF_XDP, libc::SOCK_RAW, 0)?;
    let mut frames = Shared::map(None, 4 * 4096, 0)?;
    let registration = [frames.address(), 4 * 4096, 4096, 0];
    let registration: Vec<u8> = registration.iter().flat_map(|word: &u64| word.to_ne_bytes()).collect();
    sys::set(&socket, SOL_XDP, UMEM_REG, &registration)?;
    for ring in [UMEM_FILL_RING, UMEM_COMPLETION_RING, TX_RING] {
        sys::set_number(&socket, SOL_XDP, ring, 4)?;
    }
    // Four offsets (producer, consumer, descriptors, flags) for each of the rings: receive, transmit, fill, completion.
    let (mut offsets, mut length) = ([0u64; 16], 128u32);
    // SAFETY: live variables of the sizes they say.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            SOL_XDP,
            MMAP_OFFSETS,
            offsets.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    sys::answer(i64::from(done))?;
    let [producer, _, descriptors, _] =
        [offsets[4], offsets[5], offsets[6], offsets[7]].map(|at| at as usize);
    let mut ring = Shared::map(Some(&socket), descriptors + 4 * 16, 0x8000_0000)?;
    let mut address = (libc::AF_XDP as u16).to_ne_bytes().to_vec();
    address.extend(COPY.to_ne_bytes());
    address.extend(device_index(aim)?.to_ne_bytes());
    address.extend([0; 8]);
    sys::bind(&socket, &address)?;
    let mut frame = next_machine(aim);
    frame.extend([2, 0, 0, 0, 0, 1, 8, 0]);
    frame.extend(packet_of(aim)?);
    frames.put(0, &frame);
    let mut descriptor = 0u64.to_ne_bytes().to_vec();
    descriptor.extend((frame.len() as u32).to_ne_bytes());
    descriptor.extend([0; 4]);
    ring.put(descriptors, &descriptor);
    ring.put(producer, &1u32.to_ne_bytes());
    kick(&socket)?;
    Ok(SENT.to_owned())
}

fn kick(socket: &OwnedFd) -> Result<()> {
    // SAFETY: a live descriptor and no bytes.
    let sent = unsafe {
        libc::sendto(socket.as_raw_fd(), std::ptr::null(), 0, libc::MSG_DONTWAIT, std::ptr::null(), 0)
    };
    sys::answer(sent as i64).map(drop)
}

/// A device of our own, whose packets look to the host like somebody else's on their way.
pub(crate) fn tun(aim: &Aim) -> Result<String> {
    const TUNSETIFF: u64 = 0x4004_54ca;
    const IFF_TUN_NO_PI: u16 = 0x1001;
    let tun: OwnedFd = std::fs::File::options().read(true).write(true).open("/dev/net/tun")?.into();
    let mut request = [0u8; 40];
    request[..5].copy_from_slice(b"tgtun");
    request[16..18].copy_from_slice(&IFF_TUN_NO_PI.to_ne_bytes());
    sys::call(libc::SYS_ioctl, [tun.as_raw_fd() as u64, TUNSETIFF, request.as_mut_ptr() as u64, 0, 0, 0])?;
    let ip = |words: &[&str]| std::process::Command::new("ip").args(words).status();
    ip(&["address", "add", "198.19.200.1/24", "dev", "tgtun"])?;
    ip(&["link", "set", "tgtun", "up"])?;
    let packet =
        packet4([198, 19, 200, 2].into(), v4(aim.to())?, 17, 0, &datagram(aim.to().port(), aim.token()));
    // SAFETY: a live descriptor, and live bytes with their own length.
    let written = unsafe { libc::write(tun.as_raw_fd(), packet.as_ptr().cast(), packet.len()) };
    sys::answer(written as i64)?;
    std::thread::sleep(std::time::Duration::from_millis(50));
    Ok(SENT.to_owned())
}

/// To this host's own other end, which needs no machine around it.
pub(crate) fn vsock(aim: &Aim) -> Result<String> {
    const LOCAL: u32 = 1;
    const ANY: u32 = u32::MAX;
    let at = |place: u32, port: u32| {
        let mut address = (libc::AF_VSOCK as u16).to_ne_bytes().to_vec();
        address.extend([0, 0]);
        address.extend(port.to_ne_bytes());
        address.extend(place.to_ne_bytes());
        address.extend([0; 4]);
        address
    };
    let listener = sys::socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0)?;
    // All network namespaces share these ports, so that others who attack at the same time take them, too.
    sys::bind(&listener, &at(ANY, ANY))?;
    let (mut bound, mut length) = (at(0, 0), 16u32);
    // SAFETY: a live descriptor, live bytes, and their length.
    let asked =
        unsafe { libc::getsockname(listener.as_raw_fd(), bound.as_mut_ptr().cast(), &raw mut length) };
    sys::answer(i64::from(asked))?;
    let port = u32::from_ne_bytes([bound[4], bound[5], bound[6], bound[7]]);
    // SAFETY: a live descriptor.
    sys::answer(i64::from(unsafe { libc::listen(listener.as_raw_fd(), 1) }))?;
    let socket = sys::socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0)?;
    sys::connect(&socket, &at(LOCAL, port))?;
    sys::send(&socket, aim.token().as_bytes())?;
    // SAFETY: a live descriptor; nobody asks for the address.
    let accepted = unsafe { libc::accept(listener.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut()) };
    let accepted = sys::owned(i64::from(accepted))?;
    Ok(format!("captured {}", sys::hear(&accepted)?))
}
