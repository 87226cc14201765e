//! From a connection to a request: TCP or a Unix socket, where it is set the header of the PROXY protocol, TLS, HTTP/1.1.
//!
//! actix-web's own server puts the same pieces together, but lets nobody in between TCP and TLS.
//!
//! On a Unix socket stands a proxy of the same host. A deploy makes one name lead to another process by a rename, so that the
//! proxy need not be told; and whoever may open it is decided by the file's rights. It counts as 127.0.0.1.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::net::UnixListener,
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
    rt::net::{ActixStream, TcpStream, UnixStream},
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

/// Where connections come from.
pub struct Doors {
    pub tcp: TcpListener,
    pub unix: Option<UnixListener>,
}

/// The result must be awaited to make progress.
pub fn serve<T>(
    doors: Doors,
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
    let over_tcp = {
        let (entrance, routes) = (entrance.clone(), routes.clone());
        move || connection::<TcpStream, T>(entrance.clone(), routes(), head_timeout)
    };
    let over_unix = move || connection::<UnixStream, T>(entrance.clone(), routes(), head_timeout);
    let server = server.listen("velum", doors.tcp, over_tcp)?;
    let server = match doors.unix {
        Some(unix) => server.listen_uds("velum-socket", unix, over_unix)?,
        None => server,
    };
    Ok(server.run())
}

fn connection<S, T>(
    entrance: Entrance,
    routes: App<T>,
    head_timeout: Duration,
) -> impl ServiceFactory<S, Config = (), Response = (), Error = (), InitError = ()>
where
    S: Transport,
    T: ServiceFactory<ServiceRequest, Config = (), Response = ServiceResponse<BoxBody>, Error = Error, InitError = ()>
        + 'static,
{
    let http = HttpService::build()
        .client_request_timeout(head_timeout)
        .client_disconnect_timeout(LINGER)
        .finish(map_config(routes, |()| AppConfig::default()));
    entrance.open().and_then(http.map_err(drop))
}

/// What a connection comes over.
trait Transport: ActixStream + 'static {
    /// Who has opened it, as far as the network says so, or whoever a proxy names that is trusted with the word.
    fn client(&mut self, entrance: &Entrance) -> impl Future<Output = io::Result<SocketAddr>>;
}

impl Transport for TcpStream {
    async fn client(&mut self, entrance: &Entrance) -> io::Result<SocketAddr> {
        let peer = self.peer_addr()?;
        let Some(TrustedProxies(trusted)) = entrance.introduced_by.as_deref() else { return Ok(peer) };
        if !trusted.contains(ClientAddress::new(peer.ip())) {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "a peer that is no trusted proxy"));
        }
        let named = timeout(entrance.limit, proxy_protocol::read(self)).await??;
        Ok(named.unwrap_or(peer))
    }
}

impl Transport for UnixStream {
    async fn client(&mut self, _: &Entrance) -> io::Result<SocketAddr> {
        Ok((Ipv4Addr::LOCALHOST, 0).into())
    }
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
    fn open<S: Transport>(
        self,
    ) -> impl ServiceFactory<
        S,
        Config = (),
        Response = (Paced<TlsStream<S>>, Protocol, Option<SocketAddr>),
        Error = (),
        InitError = (),
    > {
        fn_factory(move || {
            let entrance = self.clone();
            async move {
                // Ready as long as the acceptor is, which bounds the handshakes in progress.
                let tls = Rc::new(entrance.tls.clone().map_err(drop).new_service(()).await?);
                Ok(apply_fn(Rc::clone(&tls), move |mut stream: S, _: &Rc<_>| {
                    let (tls, entrance) = (Rc::clone(&tls), entrance.clone());
                    async move {
                        let client = stream.client(&entrance).await.map_err(note_refusal)?;
                        Ok((Paced::new(tls.call(stream).await?), Protocol::Http1, Some(client)))
                    }
                }))
            }
        })
    }
}

/// The error holds no address.
fn note_refusal(error: io::Error) {
    tracing::info!(event = "connection_refused", reason = %error, "a connection without a good PROXY header was closed");
}
