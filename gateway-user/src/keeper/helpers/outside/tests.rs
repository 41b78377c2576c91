//! Who counts as outside of a guard, and by which names it may be talked to.

use super::*;
use crate::kernel::diag::unix::sample;

fn socket(inode: u32, peer: Option<u32>, name: Option<&str>) -> Unix {
    Unix { inode, peer, name: name.map(sample), waiting: Vec::new() }
}

fn member(pid: u32, guard: &str, sockets: &[u64]) -> Member {
    Member { pid, started: 5, command: "agent".into(), guard: guard.into(), sockets: sockets.to_vec() }
}

const DOCKER: &str = "/run/docker.sock";

fn found(sockets: &[Unix], members: &[Member]) -> Vec<(u32, Option<String>)> {
    let found = outside(sockets, members, |guard, name| guard == "lax" && name.is(DOCKER));
    found.into_iter().map(|one| (one.pid, one.name.map(|name| name.to_string()))).collect()
}

#[test]
fn a_socket_to_a_server_outside_is_told_with_its_name_and_an_allowed_one_is_not() {
    let sockets = [socket(1, Some(2), None), socket(2, Some(1), Some(DOCKER)), socket(3, None, Some(DOCKER))];
    assert_eq!(found(&sockets, &[member(7, "strict", &[1, 99])]), [(7, Some(DOCKER.into()))]);
    assert_eq!(found(&sockets, &[member(7, "lax", &[1])]), []);
    assert_eq!(found(&sockets, &[]), [], "nobody is guarded");
}

#[test]
fn a_server_of_the_same_guard_is_inside_and_one_of_another_guard_is_not() {
    let sockets = [socket(1, Some(2), None), socket(2, Some(1), Some("@own")), socket(3, None, Some("@own"))];
    assert_eq!(found(&sockets, &[member(7, "one", &[1]), member(8, "one", &[2, 3])]), []);
    assert_eq!(
        found(&sockets, &[member(7, "one", &[1]), member(8, "two", &[2, 3])]),
        [(7, Some("@own".into()))]
    );
}

#[test]
fn one_that_waits_to_be_accepted_is_judged_by_who_may_accept_it() {
    let listener = Unix { waiting: vec![9, 1], ..socket(3, None, Some(DOCKER)) };
    let sockets = [socket(1, Some(0), None), socket(3, None, Some(DOCKER)), listener];
    assert_eq!(found(&sockets, &[member(7, "one", &[1])]), [(7, Some(DOCKER.into()))]);
    assert_eq!(found(&sockets, &[member(7, "one", &[1, 3])]), []);
    assert_eq!(found(&sockets[..2], &[member(7, "one", &[1])]), [], "its server has closed it");
}

#[test]
fn a_datagram_socket_leads_to_the_one_that_is_bound_and_pairs_without_a_name_lead_nowhere() {
    let sockets = [socket(1, Some(2), None), socket(2, None, Some("/run/log"))];
    assert_eq!(found(&sockets, &[member(7, "one", &[1])]), [(7, Some("/run/log".into()))]);
    let pair = [socket(1, Some(2), None), socket(2, Some(1), None)];
    assert_eq!(found(&pair, &[member(7, "one", &[1])]), []);
    let own = [socket(1, Some(2), Some("/run/agent.sock")), socket(2, Some(1), None)];
    assert_eq!(found(&own, &[member(7, "one", &[1])]), [], "who comes to a guarded server dials for nobody");
}

#[test]
fn one_whose_other_end_is_in_a_namespace_that_is_not_listed_is_told_without_a_name() {
    assert_eq!(found(&[socket(1, Some(2), None)], &[member(7, "one", &[1])]), [(7, None)]);
}
