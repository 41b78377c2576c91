//! No bytes make the reader of the kernel's socket lists panic, or give more sockets than there is room for in them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::kernel::diag::unix::Listing;
use tidegate::kernel::diag::{destroy_request, take};

fuzz_target!(|datagram: &[u8]| {
    let mut sockets = Vec::new();
    let _ = take(datagram, &mut sockets);
    assert!(sockets.len() <= datagram.len() / 88);
    for socket in &sockets {
        assert!(socket.storages.iter().map(|(_, value)| value.len()).sum::<usize>() <= datagram.len());
        assert_eq!(destroy_request(6, socket).len(), 72);
    }
    let mut listing = Listing::default();
    let _ = listing.take(datagram);
    assert!(listing.sockets.len() <= datagram.len() / 32);
    for name in listing.sockets.iter().filter_map(|socket| socket.name.as_ref()) {
        // A byte is three at most, as a replacement character.
        assert!(name.to_string().len() <= 1 + 109 * 3);
    }
});
