//! From a connection to a request: TCP, where it is set the header of the PROXY protocol, TLS, HTTP/1.1.
//!
//! actix-web's own server puts the same pieces together, but lets nobody in between TCP and TLS.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use actix_http::{HttpService, Protocol};
use actix_server::Server;
use actix_service::{ServiceFactoryExt as _, apply_fn, fn_factory, map_config};
use actix_tls::accept::rustls_0_23::{Acceptor, TlsStream};
use actix_web::{
    App, Error,
    body::BoxBody,
    dev::{AppConfig, Service as _, ServiceFactory, ServiceRequest, ServiceResponse},
    rt::net::TcpStream,
};
use tokio::time::timeout;

use super::{address::TrustedProxies, paced::Paced, proxy_protocol};
use crate::domain::network::ClientAddress;

/// A client that was answered before it had sent everything may still read the answer.
const LINGER: Duration = Duration::from_secs(2);

pub struct Listening {
    pub tls: rustls::ServerConfig,
    pub workers: usize,
    /// For each worker.
    pub connections_max: usize,
    /// For each of: the header of the PROXY protocol, the handshake of TLS, the head of a request.
    pub head_timeout: Duration,
    pub stop_timeout: Duration,
    /// Set where every connection begins with a header of the PROXY protocol; only these may open one.
    pub introduced_by: Option<TrustedProxies>,
}

/// The result must be awaited to make progress.
pub fn serve<T>(
    listener: TcpListener,
    listening: Listening,
    routes: impl Fn() -> App<T> + Clone + Send + 'static,
) -> io::Result<Server>
where
    T: ServiceFactory<ServiceRequest, Config = (), Response = ServiceResponse<BoxBody>, Error = Error, InitError = ()>
        + 'static,
{
    let Listening { head_timeout, .. } = listening;
    let entrance = Entrance::new(listening.tls, head_timeout, listening.introduced_by);
    let server = Server::build()
        .disable_signals()
        .workers(listening.workers)
        .max_concurrent_connections(listening.connections_max)
        .shutdown_timeout(listening.stop_timeout.as_secs());
    // The connections are not told of a stop: told so, they would close at once, and drop a request that has arrived and is not
    // read yet. While the server stops, each answer closes its connection (`middleware`), and one that lies idle ends
    // with its keep-alive.
    let connection = move || {
        let http = HttpService::build()
            .client_request_timeout(head_timeout)
            .client_disconnect_timeout(LINGER)
            .finish(map_config(routes(), |()| AppConfig::default()));
        entrance.clone().open().and_then(http.map_err(drop))
    };
    Ok(server.listen("velum", listener, connection)?.run())
}

/// What stands before HTTP.
#[derive(Clone)]
struct Entrance {
    tls: Acceptor,
    limit: Duration,
    introduced_by: Option<Arc<TrustedProxies>>,
}

impl Entrance {
    fn new(mut tls: rustls::ServerConfig, limit: Duration, introduced_by: Option<TrustedProxies>) -> Self {
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut tls = Acceptor::new(tls);
        tls.set_handshake_timeout(limit);
        Self { tls, limit, introduced_by: introduced_by.map(Arc::new) }
    }

    /// A connection with TLS, and who is at its other end. Whoever is not let in is told nothing.
    fn open(
        self,
    ) -> impl ServiceFactory<
        TcpStream,
        Config = (),
        Response = (Paced<TlsStream<TcpStream>>, Protocol, Option<SocketAddr>),
        Error = (),
        InitError = (),
    > {
        fn_factory(move || {
            let entrance = self.clone();
            async move {
                // Ready as long as the acceptor is, which bounds the handshakes in progress.
                let tls = Rc::new(entrance.tls.clone().map_err(drop).new_service(()).await?);
                Ok(apply_fn(Rc::clone(&tls), move |mut stream: TcpStream, _: &Rc<_>| {
                    let (tls, entrance) = (Rc::clone(&tls), entrance.clone());
                    async move {
                        let client = entrance.client(&mut stream).await.map_err(note_refusal)?;
                        Ok((Paced::new(tls.call(stream).await?), Protocol::Http1, Some(client)))
                    }
                }))
            }
        })
    }

    /// The peer, or whom a trusted proxy names instead.
    async fn client(&self, stream: &mut TcpStream) -> io::Result<SocketAddr> {
        let peer = stream.peer_addr()?;
        let Some(TrustedProxies(trusted)) = self.introduced_by.as_deref() else { return Ok(peer) };
        if !trusted.contains(ClientAddress::new(peer.ip())) {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "a peer that is no trusted proxy"));
        }
        let named = timeout(self.limit, proxy_protocol::read(stream)).await??;
        Ok(named.unwrap_or(peer))
    }
}

/// The error holds no address.
fn note_refusal(error: io::Error) {
    tracing::info!(event = "connection_refused", reason = %error, "a connection without a good PROXY header was closed");
}
