//! Where a call comes from: the address, for the few who must read it; its keyed hash, for everybody else; and networks.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

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

/// Of the IPv4 addresses those that are no host of the public Internet: IANA's special-purpose registry, multicast and what is
/// reserved. The last is one cloud's own, from which it tells its guests their secrets.
const NOT_PUBLIC_V4: [Ipv4Net; 16] = [
    v4(0, 0, 0, 0, 8),
    v4(10, 0, 0, 0, 8),
    v4(100, 64, 0, 0, 10),
    v4(127, 0, 0, 0, 8),
    v4(169, 254, 0, 0, 16),
    v4(172, 16, 0, 0, 12),
    v4(192, 0, 0, 0, 24),
    v4(192, 0, 2, 0, 24),
    v4(192, 88, 99, 0, 24),
    v4(192, 168, 0, 0, 16),
    v4(198, 18, 0, 0, 15),
    v4(198, 51, 100, 0, 24),
    v4(203, 0, 113, 0, 24),
    v4(224, 0, 0, 0, 4),
    v4(240, 0, 0, 0, 4),
    v4(168, 63, 129, 16, 32),
];

/// Hosts of the public Internet have IPv6 addresses from here ...
const GLOBAL_V6: Ipv6Net = v6(0x2000, 0, 3);
/// ... and not from here: protocols (Teredo among them), documentation, and 6to4, whose addresses stand for IPv4 ones.
const NOT_PUBLIC_V6: [Ipv6Net; 4] = [v6(0x2001, 0, 23), v6(0x2001, 0xdb8, 32), v6(0x2002, 0, 16), v6(0x3fff, 0, 20)];

const fn v4(a: u8, b: u8, c: u8, d: u8, bits: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), bits)
}

const fn v6(first: u16, second: u16, bits: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(first, second, 0, 0, 0, 0, 0, 0), bits)
}

/// Whether an address can be a host of the public Internet, and nothing that only we can reach.
pub fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => !NOT_PUBLIC_V4.iter().any(|network| network.contains(&address)),
        IpAddr::V6(address) => {
            GLOBAL_V6.contains(&address) && !NOT_PUBLIC_V6.iter().any(|network| network.contains(&address))
        }
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

    #[test]
    fn what_only_we_can_reach_is_not_public() {
        for text in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.100.100.200",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.9",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "168.63.129.16",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:0:127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:2::1",
            "2001:10::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_public(text.parse().unwrap()), "{text}");
        }
        for text in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.0.0.1",
            "172.15.255.255",
            "172.32.0.0",
            "192.167.0.1",
            "223.255.255.255",
            "::ffff:8.8.8.8",
            "2001:4860:4860::8888",
            "2606:4700::1111",
            "2a00:1450::1",
        ] {
            assert!(is_public(text.parse().unwrap()), "{text}");
        }
    }
}
