//! A connection that hands out what came in small portions.
//!
//! The HTTP layer reads until its buffer of 128 KB is full, and then makes a request of every head in it before it answers
//! the first. A head of thirty bytes becomes some seven kilobytes that way, so a client that sends nothing but heads, and reads
//! no answer, would hold thirty megabytes with one connection. In portions there are never more than a few heads to be made:
//! with sixteen of them waiting, the HTTP layer makes no more.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Between two looks of the HTTP layer at what it has.
const PORTION_BYTES: usize = 2 * 1024;

pub struct Paced<S> {
    stream: S,
    /// Of the present portion.
    bytes_left: usize,
}

impl<S> Paced<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, bytes_left: PORTION_BYTES }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.bytes_left == 0 {
            self.bytes_left = PORTION_BYTES;
            // There may be more: the reader is called again as soon as it has looked at this.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let room = buffer.remaining().min(self.bytes_left);
        let mut portion = ReadBuf::new(buffer.initialize_unfilled_to(room));
        match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut portion)) {
            Ok(()) => {
                let count = portion.filled().len();
                buffer.advance(count);
                self.bytes_left -= count;
                Poll::Ready(Ok(()))
            }
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// What one turn of a reader gets, that reads until it would have to wait.
    fn turn(stream: &mut Paced<&[u8]>) -> Vec<u8> {
        let mut got = vec![];
        loop {
            let mut bytes = [0; 1000];
            let mut buffer = ReadBuf::new(&mut bytes);
            let polled = Pin::new(&mut *stream).poll_read(&mut Context::from_waker(Waker::noop()), &mut buffer);
            match polled {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => got.extend_from_slice(buffer.filled()),
                Poll::Ready(_) | Poll::Pending => return got,
            }
        }
    }

    #[test]
    fn a_turn_gets_a_portion_and_nothing_is_lost() {
        let bytes: Vec<u8> = (0..5_000_u32).map(|number| (number % 251) as u8).collect();
        let mut stream = Paced::new(bytes.as_slice());
        let turns: Vec<_> = (0..4).map(|_| turn(&mut stream)).collect();
        assert_eq!(turns.iter().map(Vec::len).collect::<Vec<_>>(), [2048, 2048, 904, 0]);
        assert_eq!(turns.concat(), bytes);
    }
}
