//! Who is at the other end, behind the operator's own proxies.
//!
//! The network says who has opened the connection. A proxy of ours says in `X-Forwarded-For` who called it, at the right end
//! of what was there before; whoever calls it can write whatever he likes further left. So the header is read from the right,
//! and only as far as each address on the way is a proxy of ours.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use actix_web::{
    dev::ServiceRequest,
    http::header::{HeaderMap, X_FORWARDED_FOR},
    web::Data,
};

use crate::domain::network::{ClientAddress, Networks};

/// The proxies whose word is taken.
#[derive(Debug, Clone, Default)]
pub struct TrustedProxies(pub Networks);

/// `None` for a request that came over no network.
pub fn client_of(request: &ServiceRequest) -> Option<ClientAddress> {
    let nobody = Networks::default();
    let trusted = request.app_data::<Data<TrustedProxies>>().map_or(&nobody, |proxies| &proxies.0);
    Some(client(request.peer_addr()?.ip(), request.headers(), trusted))
}

fn client(peer: IpAddr, headers: &HeaderMap, trusted: &Networks) -> ClientAddress {
    let lines: Vec<&[u8]> = headers.get_all(X_FORWARDED_FOR).map(|line| line.as_bytes()).collect();
    let from_the_right = lines.iter().rev().flat_map(|line| line.rsplit(|byte| *byte == b','));
    let mut client = ClientAddress::new(peer);
    for entry in from_the_right {
        if !trusted.contains(client) {
            break;
        }
        // What cannot be read ends the walk: this proxy is the last of which anything is known.
        let Some(caller) = address(entry) else { break };
        client = ClientAddress::new(caller);
    }
    client
}

/// `192.0.2.1`, `2001:db8::1`, or either with a port; IPv6 also in brackets.
fn address(entry: &[u8]) -> Option<IpAddr> {
    let entry = std::str::from_utf8(entry).ok()?.trim();
    let bracketed = || entry.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok();
    let with_port = || entry.parse::<SocketAddr>().ok();
    entry.parse().ok().or_else(|| bracketed().map(IpAddr::from)).or_else(|| with_port().map(|address| address.ip()))
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn found(peer: &str, lines: &[&str], trusted: &str) -> IpAddr {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(X_FORWARDED_FOR, HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        let trusted = if trusted.is_empty() { Networks::default() } else { trusted.parse().unwrap() };
        client(ip(peer), &headers, &trusted).expose_ip()
    }

    #[test]
    fn the_client_is_the_first_from_the_right_that_is_no_proxy_of_ours() {
        const OURS: &str = "10.0.0.0/8,2001:db8:1::/48";
        for (peer, lines, trusted, expected) in [
            // No proxy, or none that is trusted.
            ("192.0.2.1", &[][..], OURS, "192.0.2.1"),
            ("192.0.2.1", &["203.0.113.7"], OURS, "192.0.2.1"),
            ("10.0.0.1", &["203.0.113.7"], "", "10.0.0.1"),
            ("10.0.0.1", &[], OURS, "10.0.0.1"),
            // One and two of them.
            ("10.0.0.1", &["203.0.113.7"], OURS, "203.0.113.7"),
            ("10.0.0.1", &["203.0.113.7, 10.0.0.2"], OURS, "203.0.113.7"),
            ("10.0.0.1", &["203.0.113.7", "10.0.0.2"], OURS, "203.0.113.7"),
            ("2001:db8:1::5", &["2001:db8:2::9, 10.0.0.2"], OURS, "2001:db8:2::9"),
            // What the client wrote itself stands further left.
            ("10.0.0.1", &["198.51.100.1, 203.0.113.7"], OURS, "203.0.113.7"),
            ("10.0.0.1", &["198.51.100.1", "203.0.113.7, 10.0.0.2"], OURS, "203.0.113.7"),
            ("10.0.0.1", &["10.0.0.9, 203.0.113.7"], OURS, "203.0.113.7"),
            // Ours all the way: one of our own machines calls.
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], OURS, "10.0.0.3"),
            // Unreadable: the last proxy that is known counts.
            ("10.0.0.1", &["203.0.113.7, unknown"], OURS, "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.7, , 10.0.0.2"], OURS, "10.0.0.2"),
            ("10.0.0.1", &[""], OURS, "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.7 203.0.113.8"], OURS, "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.7,\u{fffd}"], OURS, "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.700"], OURS, "10.0.0.1"),
            // Ports, brackets, IPv4 in the dress of IPv6.
            ("10.0.0.1", &["203.0.113.7:55001"], OURS, "203.0.113.7"),
            ("10.0.0.1", &["[2001:db8:2::9]"], OURS, "2001:db8:2::9"),
            ("10.0.0.1", &["[2001:db8:2::9]:443 "], OURS, "2001:db8:2::9"),
            ("::ffff:10.0.0.1", &["::ffff:203.0.113.7"], OURS, "203.0.113.7"),
            ("::ffff:192.0.2.1", &["203.0.113.7"], OURS, "192.0.2.1"),
        ] {
            assert_eq!(found(peer, lines, trusted), ip(expected), "{peer} {lines:?} behind {trusted:?}");
        }
    }

    proptest! {
        #[test]
        fn whoever_is_no_proxy_of_ours_is_himself_whatever_he_says(
            peer: [u8; 4], lines in prop::collection::vec("[ -~]{0,60}", 0..4),
        ) {
            prop_assume!(peer[0] != 10);
            let peer = IpAddr::from(peer).to_string();
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            prop_assert_eq!(found(&peer, &lines, "10.0.0.0/8"), ip(&peer));
        }

        #[test]
        fn nothing_to_the_left_of_the_client_counts(
            client: [u8; 4], lines in prop::collection::vec("[ -~]{0,60}", 0..4), left in "[ -~]{0,60}",
        ) {
            prop_assume!(client[0] != 10);
            let client = IpAddr::from(client).to_string();
            let last = format!("{left},{client} , 10.0.0.2");
            let lines: Vec<&str> = lines.iter().map(String::as_str).chain([last.as_str()]).collect();
            prop_assert_eq!(found("10.0.0.1", &lines, "10.0.0.0/8"), ip(&client));
        }
    }
}
