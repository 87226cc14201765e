//! The header of the PROXY protocol, version 1 (a line) or 2 (bytes), at the very beginning of a connection: a proxy that
//! passes bytes on without looking inside TLS says with it who has called it.
//!
//! What comes after it is the client's and belongs to TLS, so not one byte more is read than the header has.

use std::{io, net::SocketAddr};

use ppp::{v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// What a proxy says that speaks for itself (version 2, LOCAL).
pub const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// More than any proxy adds of its own (version 2 could say up to 65535).
const ADDED_BYTES_MAX: usize = 2048;
/// Version 1: with both addresses as long as can be, and the line end.
const LINE_BYTES_MAX: usize = 107;
/// Version 2, up to and with the length of what follows.
const HEAD_BYTES: usize = 16;
/// Every header has at least these, and they tell the versions apart.
const SIGNATURE_BYTES: usize = v2::PROTOCOL_PREFIX.len();

/// Whom the header names; `None` when the proxy speaks for itself, or does not know.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<SocketAddr>> {
    let mut header = vec![0; SIGNATURE_BYTES];
    stream.read_exact(&mut header).await?;
    if header == v2::PROTOCOL_PREFIX { read_bytes(stream, header).await } else { read_line(stream, header).await }
}

async fn read_line(stream: &mut (impl AsyncRead + Unpin), mut header: Vec<u8>) -> io::Result<Option<SocketAddr>> {
    if !header.starts_with(v1::PROTOCOL_PREFIX.as_bytes()) {
        return Err(malformed("a connection without a header"));
    }
    while !header.ends_with(b"\r\n") {
        if header.len() == LINE_BYTES_MAX {
            return Err(malformed("a line without an end"));
        }
        header.push(stream.read_u8().await?);
    }
    let parsed = v1::Header::try_from(header.as_slice()).map_err(|_| malformed("a line that cannot be read"))?;
    Ok(match parsed.addresses {
        v1::Addresses::Tcp4(both) => Some((both.source_address, both.source_port).into()),
        v1::Addresses::Tcp6(both) => Some((both.source_address, both.source_port).into()),
        v1::Addresses::Unknown => None,
    })
}

async fn read_bytes(stream: &mut (impl AsyncRead + Unpin), mut header: Vec<u8>) -> io::Result<Option<SocketAddr>> {
    header.resize(HEAD_BYTES, 0);
    stream.read_exact(&mut header[SIGNATURE_BYTES..]).await?;
    let added = usize::from(u16::from_be_bytes([header[HEAD_BYTES - 2], header[HEAD_BYTES - 1]]));
    if added > ADDED_BYTES_MAX {
        return Err(malformed("a header longer than any"));
    }
    header.resize(HEAD_BYTES + added, 0);
    stream.read_exact(&mut header[HEAD_BYTES..]).await?;
    let parsed = v2::Header::try_from(header.as_slice()).map_err(|_| malformed("a header that cannot be read"))?;
    Ok(match (parsed.command, parsed.addresses) {
        (v2::Command::Proxy, v2::Addresses::IPv4(both)) => Some((both.source_address, both.source_port).into()),
        (v2::Command::Proxy, v2::Addresses::IPv6(both)) => Some((both.source_address, both.source_port).into()),
        // The proxy itself, or a client that has no address.
        _ => None,
    })
}

/// The sentence is ours: the library's would quote what came.
fn malformed(sentence: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, sentence)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REST: &[u8] = b"\x16\x03\x01rest";

    /// What is read of a header with more behind it, and whether that was left alone.
    fn parse(header: &[u8]) -> io::Result<Option<SocketAddr>> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let whole = [header, REST].concat();
        let mut stream = whole.as_slice();
        let read = runtime.block_on(read(&mut stream))?;
        assert_eq!(stream, REST, "{header:?}");
        Ok(read)
    }

    fn version_2(command: u8, family: u8, added: &[u8]) -> Vec<u8> {
        let length = (added.len() as u16).to_be_bytes();
        [v2::PROTOCOL_PREFIX, &[0x20 | command, family], &length, added].concat()
    }

    const IPV4: [u8; 12] = [203, 0, 113, 7, 10, 0, 0, 1, 0xd6, 0xd9, 0x01, 0xbb];

    #[test]
    fn a_header_names_the_client_and_nothing_behind_it_is_read() {
        let ipv6 = [&[0x20, 1, 0x0d, 0xb8, 0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 9][..], &[0; 16], &[0x01, 0xbb, 0, 80]];
        let with_note = [&IPV4[..], &[0x04, 0x00, 0x02, 5, 5]].concat();
        for (header, named) in [
            (b"PROXY TCP4 203.0.113.7 10.0.0.1 55001 443\r\n".to_vec(), Some("203.0.113.7:55001")),
            (b"PROXY TCP6 2001:db8:1:2::9 ::1 443 80\r\n".to_vec(), Some("[2001:db8:1:2::9]:443")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN 203.0.113.7 10.0.0.1 55001 443\r\n".to_vec(), None),
            (version_2(1, 0x11, &IPV4), Some("203.0.113.7:55001")),
            (version_2(1, 0x11, &with_note), Some("203.0.113.7:55001")),
            (version_2(1, 0x21, &ipv6.concat()), Some("[2001:db8:1:2::9]:443")),
            (LOCAL.to_vec(), None),
            (version_2(0, 0x11, &IPV4), None),
            (version_2(1, 0x00, &[]), None),
            (version_2(1, 0x31, &[1; 216]), None),
        ] {
            let named: Option<SocketAddr> = named.map(|text| text.parse().unwrap());
            assert_eq!(parse(&header).unwrap(), named, "{header:?}");
        }
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let long = format!("PROXY UNKNOWN {}\r\n", "a".repeat(100));
        for bad in [
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03abcdef".to_vec(),
            b"PROXY TCP4 203.0.113.7 10.0.0.1 55001\r\n".to_vec(),
            b"PROXY TCP4 203.0.113.700 10.0.0.1 55001 443\r\n".to_vec(),
            b"PROXY TCP4 2001:db8::9 ::1 443 80\r\n".to_vec(),
            b"PROXY TCP5 203.0.113.7 10.0.0.1 55001 443\r\n".to_vec(),
            b"PROXYTCP4 203.0.113.7 10.0.0.1 55001 443\r\n".to_vec(),
            long.into_bytes(),
            version_2(1, 0x11, &IPV4[..11]),
            version_2(2, 0x11, &IPV4),
            version_2(1, 0x41, &IPV4),
            version_2(1, 0x11, &[0; 4096]),
            [v2::PROTOCOL_PREFIX, &[0x11, 0x11, 0, 12], &IPV4].concat(),
        ] {
            assert!(parse(&bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_whatever_make_it_panic(bytes: Vec<u8>, head in 0..3) {
            let head: &[u8] = [&b""[..], b"PROXY ", v2::PROTOCOL_PREFIX][head as usize];
            let whole = [head, &bytes].concat();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let _ = runtime.block_on(read(&mut whole.as_slice()));
        }
    }
}
