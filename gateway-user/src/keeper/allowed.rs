//! Where the gate's own sockets may go: to what policy declares, and nowhere else. Asked before each socket is made, of the
//! keeper's own reading of the policy files. What is declared by name is known by its port alone, and never on this host.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use crate::operation::Direction;
use crate::policy::Set;
use crate::policy::nouns::Jwks;

/// Whether a target, a key set or a channel is declared there. What is declared by name is known by its port alone: whose
/// address a name is now, only a name server says. But a name is not a way to this host, its links or a cloud's metadata.
pub(super) fn is_declared(set: &Set, to: SocketAddr) -> bool {
    let by_address =
        [Direction::Outbound, Direction::Inbound].iter().any(|way| set.target_at(*way, to).is_some());
    let by_name = set.targets().iter().any(|target| {
        target.direction == Direction::Outbound
            && is_elsewhere(to.ip())
            && !target.hosts.is_empty()
            && target.ports.contains(&to.port())
    });
    let key_sets = set.providers().iter().filter_map(|provider| match &provider.jwks {
        Jwks::Url(url) => Some(url.as_str()),
        Jwks::File(_) => None,
    });
    let mut urls = key_sets.chain(set.notifies().iter().map(|notify| notify.url.as_str()));
    by_address || by_name || urls.any(|url| is_at(url, to))
}

/// Whether an address can be another host's, and not a neighbour's on the link alone.
fn is_elsewhere(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            !(v4.is_loopback()
                || v4.is_link_local()
                || v4.is_unspecified()
                || v4.is_multicast()
                || v4.is_broadcast())
        }
        IpAddr::V6(v6) => {
            !(v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unspecified() || v6.is_multicast())
        }
    }
}

/// The files that policy names: key sets and secrets of channels.
#[must_use]
pub fn files_named(set: &Set) -> Vec<PathBuf> {
    let key_sets = set.providers().iter().filter_map(|provider| match &provider.jwks {
        Jwks::File(path) => Some(path.clone()),
        Jwks::Url(_) => None,
    });
    key_sets.chain(set.notifies().iter().map(|notify| notify.secret.clone())).collect()
}

/// Whether a URL may mean this address: the port is its own, and so is the address where it says one.
fn is_at(url: &str, to: SocketAddr) -> bool {
    let Ok(uri) = url.parse::<http::Uri>() else { return false };
    let Some(host) = uri.host() else { return false };
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("http") { 80 } else { 443 });
    let literal = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    let address = to.ip().to_canonical();
    let named = || match host.eq_ignore_ascii_case("localhost") {
        true => address.is_loopback(),
        false => is_elsewhere(address),
    };
    port == to.port() && literal.map_or_else(|_| named(), |literal| literal == address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_means_its_port_and_its_address_where_it_has_one() {
        let at = |to: &str| to.parse::<SocketAddr>().unwrap();
        assert!(is_at("https://idp.example/keys", at("192.0.2.7:443")));
        assert!(!is_at("https://idp.example/keys", at("192.0.2.7:80")));
        assert!(is_at("http://127.0.0.1:8080/keys", at("127.0.0.1:8080")));
        assert!(!is_at("http://127.0.0.1:8080/keys", at("127.0.0.2:8080")));
        assert!(is_at("http://[::1]:8080/keys", at("[::1]:8080")));
        assert!(!is_at("no url", at("192.0.2.7:443")));
        for here in
            ["127.0.0.1:443", "169.254.169.254:443", "0.0.0.0:443", "[fe80::1]:443", "[::ffff:127.0.0.1]:443"]
        {
            assert!(!is_at("https://idp.example/keys", at(here)), "{here}");
        }
        assert!(is_at("http://localhost:8080/keys", at("127.0.0.1:8080")));
        assert!(!is_at("http://localhost:8080/keys", at("192.0.2.7:8080")));
    }
}
