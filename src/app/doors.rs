//! The doors of a server, and what lies behind them.

use std::{
    fs::{self, Permissions},
    io,
    net::TcpListener,
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixListener, UnixStream},
    },
    path::Path,
};

use actix_web::{
    App as Routes,
    dev::Server,
    middleware::{Condition, from_fn},
    web::Data,
};
use socket2::SockRef;

use super::{NOTICE, StartError};
use crate::{
    console,
    flows::Flows,
    http::{
        self,
        address::TrustedProxies,
        listener::{Doors, Listening},
        middleware::Draining,
    },
    settings::ServerSettings,
};

/// Of our answers, which are short, in the kernel's hands. The largest of the documentation page takes several rounds.
const UNREAD_BYTES_MAX: usize = 128 * 1024;

/// What accepted connections inherit: how much of an answer may wait for its reader, and for how long. Without these, a
/// client that asks and never reads would keep megabytes of ours, for ever.
pub fn listen(settings: &ServerSettings) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(settings.listen)?;
    let socket = SockRef::from(&listener);
    socket.set_send_buffer_size(UNREAD_BYTES_MAX)?;
    socket.set_tcp_user_timeout(Some(settings.request_timeout))?;
    Ok(listener)
}

/// One that nobody listens on any more was left by a process that was killed, and is replaced.
pub fn listen_on_socket(path: &Path) -> Result<UnixListener, StartError> {
    let failed = |source| StartError::ListenOnSocket { path: path.to_owned(), source };
    if UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
        fs::remove_file(path).map_err(failed)?;
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    // Ourselves, and the proxy by its group.
    fs::set_permissions(path, Permissions::from_mode(0o660)).map_err(failed)?;
    Ok(listener)
}

pub fn serve(
    doors: Doors,
    settings: &ServerSettings,
    tls: rustls::ServerConfig,
    flows: Data<Flows>,
    draining: Draining,
) -> io::Result<Server> {
    let (draining, limits) = (Data::new(draining), http::Limits { request_timeout: settings.request_timeout });
    let cors_origins = settings.cors_origins.clone();
    let proxies = TrustedProxies(settings.trusted_proxies.clone());
    let introduced_by = settings.proxy_protocol.then(|| proxies.clone());
    let proxies = Data::new(proxies);
    let routes = move || {
        Routes::new()
            .app_data(flows.clone())
            .app_data(draining.clone())
            .app_data(proxies.clone())
            .app_data(limits)
            .wrap(Condition::new(!cors_origins.is_empty(), http::cors::layer(&cors_origins)))
            .wrap(from_fn(http::middleware::around))
            .configure(console::configure)
            .configure(http::configure)
    };
    let listening = Listening {
        tls,
        workers: settings.workers,
        connections_max: settings.connections_max,
        head_timeout: settings.head_timeout,
        stop_timeout: settings.stop_timeout.saturating_sub(NOTICE),
        introduced_by,
    };
    http::listener::serve(doors, listening, routes)
}
