//! The path of a connect through the real programs on the real kernel: redirected, identified, shown the peer it dialled.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stderr)]

mod kernel_support;

use std::net::{SocketAddr, TcpStream};

use kernel_support::calls::{self, mapped};
use kernel_support::{PORT, World, is_gate_answer};

#[test]
fn a_connect_to_a_target_reaches_the_gate_with_its_destination_and_its_process() {
    let mut world = World::new();
    world.load(&world.target());
    world.gate("reply");
    for to in [world.there(PORT), world.there6(PORT), mapped(world.there(PORT))] {
        let answer = world.call("tcp", to);
        assert!(is_gate_answer(&answer, "out", to, std::process::id()), "{to}: {answer}");
    }
    assert_eq!(world.counter("redirected"), 3);
    assert_eq!(world.counter("handed_over"), 3);
}

#[test]
fn the_client_sees_the_peer_it_dialled() {
    let mut world = World::new();
    world.load(&world.target());
    world.gate("reply");
    for to in [world.there(PORT), world.there6(PORT), mapped(world.there(PORT))] {
        let peer = world.inside(|| TcpStream::connect(to).unwrap().peer_addr().unwrap());
        assert_eq!(peer, to);
    }
}
