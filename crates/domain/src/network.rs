//! Where a call comes from: the address, for the few who must read it; its keyed hash, for everybody else; and networks.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::{IpNet, Ipv4Net};

/// The address of a client. It has no `Debug` and no `Display`: what is logged, stored or counted is its [`AddressHash`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ClientAddress(IpAddr);

impl ClientAddress {
    /// An IPv4 address that came as an IPv6 one (`::ffff:192.0.2.1`) is the IPv4 address that it stands for.
    pub fn new(address: IpAddr) -> Self {
        Self(address.to_canonical())
    }

    pub fn expose_ip(&self) -> IpAddr {
        self.0
    }
}

/// The keyed hash of an address; for IPv6, of its /64 network. Whoever lacks the key of the period learns from it only
/// whether two calls of one period came from the same place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AddressHash(pub [u8; 16]);

impl fmt::Display for AddressHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A block of addresses: an address or a CIDR network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network(IpNet);

impl Network {
    pub fn contains(&self, address: ClientAddress) -> bool {
        self.0.contains(&address.0)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a network is an address or a CIDR block such as 192.0.2.0/24 or 2001:db8::/32")]
pub struct InvalidNetwork;

impl FromStr for Network {
    type Err = InvalidNetwork;

    /// Drops the bits beyond the prefix, and reads as IPv4 what stands for IPv4: so it meets the addresses that it means.
    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        const MAPPED_BITS: u8 = 96;
        let network: IpNet =
            text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).map_err(|_| InvalidNetwork)?;
        let (bits, address) = (network.prefix_len(), network.addr());
        let mapped = (address.is_ipv6() && bits >= MAPPED_BITS).then(|| address.to_canonical());
        let network = match mapped {
            Some(IpAddr::V4(address)) => Ipv4Net::new(address, bits - MAPPED_BITS).map_err(|_| InvalidNetwork)?.into(),
            _ => network,
        };
        Ok(Self(network.trunc()))
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Some networks, perhaps none. As text, joined by commas.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks(Vec<Network>);

impl Networks {
    pub fn contains(&self, address: ClientAddress) -> bool {
        self.0.iter().any(|network| network.contains(address))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = Network> + '_ {
        self.0.iter().copied()
    }
}

impl FromIterator<Network> for Networks {
    fn from_iter<I: IntoIterator<Item = Network>>(networks: I) -> Self {
        Self(networks.into_iter().collect())
    }
}

impl FromStr for Networks {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        text.split(',').map(|part| part.trim().parse()).collect()
    }
}

impl fmt::Display for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let networks: Vec<String> = self.iter().map(|network| network.to_string()).collect();
        f.write_str(&networks.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> ClientAddress {
        ClientAddress::new(text.parse().unwrap())
    }

    #[test]
    fn networks_hold_what_lies_in_them() {
        for (networks, inside, outside) in [
            ("203.0.113.0/24", "203.0.113.255", "203.0.114.0"),
            ("203.0.113.7", "203.0.113.7", "203.0.113.8"),
            ("203.0.113.7/24", "203.0.113.1", "203.0.112.255"),
            ("10.0.0.0/8, 2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("10.0.0.0/8,::1", "::ffff:10.1.2.3", "::2"),
            ("::ffff:10.0.0.0/104", "10.1.2.3", "11.0.0.0"),
            ("0.0.0.0/0", "255.255.255.255", "::1"),
        ] {
            let networks: Networks = networks.parse().unwrap();
            assert!(networks.contains(address(inside)), "{networks}: {inside}");
            assert!(!networks.contains(address(outside)), "{networks}: {outside}");
            assert_eq!(networks.to_string().parse(), Ok(networks));
        }
        assert!(!Networks::default().contains(address("127.0.0.1")));
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for bad in ["", ",", "10.0.0.0/33", "10.0.0/8", "::/129", "localhost", "10.0.0.0/8,", "10.0.0.1:80", "[::1]"] {
            assert_eq!(bad.parse::<Networks>(), Err(InvalidNetwork), "{bad:?}");
        }
    }

    #[test]
    fn a_hash_is_shown_in_hexadecimal() {
        let hash = AddressHash(std::array::from_fn(|i| 16 * i as u8 + 1));
        assert_eq!(hash.to_string(), "01112131415161718191a1b1c1d1e1f1");
    }
}
