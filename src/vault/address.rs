//! Addresses of clients, hashed before anybody sees them: HMAC-SHA-256 under a key that lives for one period.
//!
//! ```text
//! hash = first 16 bytes of HMAC-SHA-256(key, len(family) ‖ family ‖ len(address) ‖ address)      len: u64, big-endian
//!        family "IPv4" with the 4 bytes of the address, "IPv6" with the 8 bytes of its /64 network
//! ```
//! One household or one server has a /64 of its own and may change the rest of its address with every connection.
//! There are 2^32 IPv4 addresses: whoever has the key tries them all in minutes, so the key is what protects them, and it
//! is destroyed once its period is over (`store::address_keys`).

use std::net::IpAddr;

use zeroize::Zeroizing;

use super::{VaultError, blind_index::mac, field, push_length_prefixed, random};
use crate::domain::network::{AddressHash, ClientAddress};

/// The key of one period. It cannot be printed, cloned or serialised; it is wiped when dropped.
pub struct AddressKey(pub(super) Zeroizing<[u8; field::KEY_BYTES]>);

impl AddressKey {
    pub fn generate() -> Result<Self, VaultError> {
        Ok(Self(Zeroizing::new(random()?)))
    }

    pub fn hash(&self, address: ClientAddress) -> AddressHash {
        let mut message = Zeroizing::new(Vec::new());
        let (family, bytes): (&str, &[u8]) = match address.expose_ip() {
            IpAddr::V4(address) => ("IPv4", &address.octets()),
            IpAddr::V6(address) => ("IPv6", &address.octets()[..8]),
        };
        push_length_prefixed(&mut message, family.as_bytes());
        push_length_prefixed(&mut message, bytes);
        let tag = mac(&self.0, &message);
        AddressHash(std::array::from_fn(|i| tag[i]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(address: &str) -> String {
        let key = AddressKey(Zeroizing::new(std::array::from_fn(|i| i as u8)));
        key.hash(ClientAddress::new(address.parse().unwrap())).to_string()
    }

    /// Made with Python's `hmac` from the formula above.
    #[test]
    fn the_hash_is_that_of_an_independent_implementation() {
        assert_eq!(hash("203.0.113.7"), "f839f5907bc83fded6e64ca61238171a");
        assert_eq!(hash("2001:db8:1:2:3:4:5:6"), "e1ad20b79f0812cec5a2f14a6904770c");
    }

    #[test]
    fn a_whole_network_of_ipv6_and_one_address_of_ipv4_have_one_hash() {
        assert_eq!(hash("2001:db8:1:2::"), hash("2001:db8:1:2:ffff:ffff:ffff:ffff"));
        assert_ne!(hash("2001:db8:1:2::"), hash("2001:db8:1:3::"));
        assert_eq!(hash("::ffff:203.0.113.7"), hash("203.0.113.7"));
        assert_ne!(hash("203.0.113.7"), hash("203.0.113.6"));
    }

    #[test]
    fn another_key_gives_another_hash() {
        let address = ClientAddress::new("203.0.113.7".parse().unwrap());
        assert_ne!(AddressKey::generate().unwrap().hash(address), AddressKey::generate().unwrap().hash(address));
    }
}
