//! What nobody has read of a body when its answer stands.
//!
//! Whoever is refused before the body is wanted (no consent, a token that ended, a quota) is still sending it. To answer and
//! close the connection takes the next request on it along; and nginx, which has told its client `keep-alive` by then, closes
//! that connection as well. So a body within the limits is received to its end, thrown away piece by piece, and then answered.
//! Who announces more, sends more, or sends nothing for a while is answered at once, and the connection ends.

use std::{
    cell::RefCell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use actix_http::BoxedPayloadStream;
use actix_web::{
    HttpMessage as _,
    dev::{Payload, ServiceRequest},
    error::PayloadError,
    web::Bytes,
};
use futures_util::{Stream, StreamExt as _};
use tokio::time::timeout;

use super::{
    extract::announced_bytes,
    upload::{BODY_BYTES_MAX, RECEIVE_TIMEOUT},
};

/// How long a sender may pause.
const SILENCE_MAX: Duration = Duration::from_secs(1);

/// A body that the handler of a request shares with the layers around it.
#[derive(Clone)]
pub struct SharedBody(Rc<RefCell<Payload>>);

impl SharedBody {
    /// `None` where there is no body, or one that is too long to be received for nothing.
    pub fn of(request: &mut ServiceRequest) -> Option<Self> {
        if announced_bytes(request.request()).is_some_and(|bytes| bytes > BODY_BYTES_MAX) {
            return None;
        }
        let payload = request.take_payload();
        if matches!(payload, Payload::None) {
            return None;
        }
        let body = Self(Rc::new(RefCell::new(payload)));
        let shared: BoxedPayloadStream = Box::pin(body.clone());
        request.set_payload(Payload::from(shared));
        Some(body)
    }

    /// Receives what is left, if it comes.
    pub async fn receive_rest(mut self) {
        let all = async {
            let mut received = 0;
            while received <= BODY_BYTES_MAX
                && let Ok(Some(Ok(piece))) = timeout(SILENCE_MAX, self.next()).await
            {
                received += piece.len();
            }
        };
        let _cut_off = timeout(RECEIVE_TIMEOUT, all).await;
    }
}

impl Stream for SharedBody {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_next(cx)
    }
}
