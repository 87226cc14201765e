//! Ports for the servers that tests start.

use std::{net::TcpListener, ops::Range, sync::Mutex};

/// A port that nobody else is given: of a hundred that are this process's until it ends, each once. They lie below those that
/// the kernel hands out.
pub fn free_port() -> u16 {
    static OURS: Mutex<Range<u16>> = Mutex::new(0..0);
    let mut ours = OURS.lock().unwrap();
    loop {
        match ours.next() {
            Some(port) if TcpListener::bind(("127.0.0.1", port)).is_ok() => return port,
            Some(_) => {} // somebody else's, of another program
            None => *ours = hundred(),
        }
    }
}

/// Whoever listens on the first of them has the others.
fn hundred() -> Range<u16> {
    let blocks = (0..100).cycle().skip(std::process::id() as usize % 100).map(|block| 10_000 + 100 * block);
    let free = blocks.take(100).find_map(|first| Some((first, TcpListener::bind(("127.0.0.1", first)).ok()?)));
    let (first, held) = free.expect("a hundred ports that nobody has");
    std::mem::forget(held);
    first + 1..first + 100
}
