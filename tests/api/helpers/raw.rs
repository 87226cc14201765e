//! HTTP/1.1 by hand, over TLS: what no well-behaved client sends, and every byte of what comes back.

use std::{
    io::{self, Read as _, Write as _},
    net::TcpStream,
    path::Path,
    sync::Arc,
    time::Duration,
};

use rustls::{ClientConfig, ClientConnection, StreamOwned};
use velum::tls;

pub type Connection = StreamOwned<ClientConnection, TcpStream>;

pub fn connect(authority: &Path, port: u16) -> Connection {
    try_connect(&Arc::new(tls::public_client(authority).unwrap()), port).expect("a connection")
}

pub fn try_connect(tls: &Arc<ClientConfig>, port: u16) -> io::Result<Connection> {
    let tcp = TcpStream::connect(("127.0.0.1", port))?;
    tcp.set_nodelay(true)?;
    tcp.set_read_timeout(Some(Duration::from_secs(30)))?;
    tcp.set_write_timeout(Some(Duration::from_secs(10)))?;
    let client = ClientConnection::new(Arc::clone(tls), "localhost".try_into().unwrap()).unwrap();
    let mut connection = StreamOwned::new(client, tcp);
    connection.conn.complete_io(&mut connection.sock)?;
    Ok(connection)
}

/// The whole of one answer whose head states its length.
pub struct RawAnswer {
    pub status: u16,
    /// The server will not read another request here.
    pub closes: bool,
}

/// Reads one answer; an error where the connection ends before its end.
pub fn read_answer(connection: &mut Connection) -> io::Result<RawAnswer> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        read_more(connection, &mut bytes)?;
    };
    let head = String::from_utf8_lossy(&bytes[..head_end]).to_ascii_lowercase();
    let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let length: usize = header("content-length").map_or(0, |length| length.parse().expect("a length"));
    while bytes.len() < head_end + length {
        read_more(connection, &mut bytes)?;
    }
    Ok(RawAnswer { status: head[9..12].parse().expect("a status"), closes: header("connection") == Some("close") })
}

fn read_more(connection: &mut Connection, bytes: &mut Vec<u8>) -> io::Result<()> {
    let mut piece = [0; 4096];
    match connection.read(&mut piece)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        count => {
            bytes.extend_from_slice(&piece[..count]);
            Ok(())
        }
    }
}

/// All of a request; when this returns it has left this side.
pub fn send(connection: &mut Connection, request: &[u8]) -> io::Result<()> {
    connection.write_all(request)?;
    connection.flush()
}
