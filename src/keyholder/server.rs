//! `velum keyholder`: the keyholder as a process of its own, reached over mutual TLS 1.3 only.

use std::{
    any::Any,
    io,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use actix_tls::accept::rustls_0_23::TlsStream;
use actix_web::{
    App, HttpRequest, HttpResponse, HttpServer,
    dev::{Extensions, Server},
    http::{StatusCode, header},
    rt::net::TcpStream,
    web,
};

use crate::{
    fhe::keys::KeyId,
    tls::{self, Fingerprint, Identity, TlsError},
};

use super::{Caller, KeyholderError, LocalKeyholder, OpenRequest, wire};

/// From the first byte of a request to its answer; the edge gives up a second later.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(4);
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(3);
/// Longer than the edge keeps an idle connection, so that the keyholder never closes one that is being written to.
const IDLE_TIME_MAX: Duration = Duration::from_secs(90);
/// How long answers in progress may take once the process is told to stop.
const STOP_TIME_MAX_S: u64 = 5;
/// A few edges, each with a handful of connections.
const CONNECTIONS_MAX: usize = 512;

pub struct ServerConfig {
    pub listen: SocketAddr,
    pub identity: Identity,
    /// Signs the certificates of edges, and of nothing else: each of them may ask for decisions.
    pub edge_authority: PathBuf,
    /// Narrows the edges further, to these certificates. Empty: every certificate of the authority.
    pub admitted_edges: Vec<Fingerprint>,
    pub workers: usize,
}

#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("the keyholder cannot listen on {address}")]
    Bind { address: SocketAddr, source: io::Error },
    #[error("the keyholder stopped")]
    Stopped(#[source] io::Error),
}

/// Serves until SIGTERM (answers in progress are finished) or SIGINT.
pub async fn run(config: ServerConfig, keyholder: Arc<LocalKeyholder>) -> Result<(), ServerError> {
    let bind_failed = |source| ServerError::Bind { address: config.listen, source };
    let listener = TcpListener::bind(config.listen).map_err(bind_failed)?;
    let address = listener.local_addr().map_err(bind_failed)?;
    let key = keyholder.key_id();
    let server = start(listener, &config, keyholder)?;
    tracing::info!(event = "keyholder_listens", %address, %key, "the keyholder listens");
    server.await.map_err(ServerError::Stopped)
}

/// The same on a listener that the caller brings. The result must be awaited to make progress.
pub fn start(
    listener: TcpListener,
    config: &ServerConfig,
    keyholder: Arc<LocalKeyholder>,
) -> Result<Server, ServerError> {
    let tls = tls::keyholder_server(&config.identity, &config.edge_authority)?;
    let desk = web::Data::new(Desk { keyholder, admitted_edges: config.admitted_edges.clone() });
    let app = move || {
        App::new()
            .app_data(desk.clone())
            .route(wire::OPEN, web::post().to(open))
            .route(wire::FORGET, web::post().to(forget))
            .route(wire::READY, web::get().to(ready))
            .default_service(web::to(HttpResponse::NotFound))
    };
    let server = HttpServer::new(app)
        .on_connect(remember_certificate)
        .workers(config.workers)
        .max_connections(CONNECTIONS_MAX)
        .tls_handshake_timeout(HANDSHAKE_TIME_MAX)
        .client_request_timeout(REQUEST_TIME_MAX)
        .keep_alive(IDLE_TIME_MAX)
        .shutdown_timeout(STOP_TIME_MAX_S)
        .listen_rustls_0_23(listener, tls)
        .map_err(|source| ServerError::Bind { address: config.listen, source })?;
    Ok(server.run())
}

/// What the handlers share.
struct Desk {
    keyholder: Arc<LocalKeyholder>,
    admitted_edges: Vec<Fingerprint>,
}

impl Desk {
    /// Every connection has a certificate by now, or TLS would have ended it; without one nobody is admitted.
    async fn admit(&self, request: &HttpRequest) -> Result<Caller, KeyholderError> {
        let edge = *request.conn_data::<Fingerprint>().ok_or(KeyholderError::Forbidden)?;
        if self.admitted_edges.is_empty() || self.admitted_edges.contains(&edge) {
            Ok(Caller::Edge(edge))
        } else {
            Err(self.keyholder.note_refusal(KeyholderError::Forbidden, Caller::Edge(edge)).await)
        }
    }
}

fn remember_certificate(connection: &dyn Any, data: &mut Extensions) {
    let certificates =
        connection.downcast_ref::<TlsStream<TcpStream>>().and_then(|stream| stream.get_ref().1.peer_certificates());
    if let Some(certificate) = certificates.and_then(<[_]>::first) {
        data.insert(Fingerprint::of(certificate));
    }
}

async fn open(desk: web::Data<Desk>, request: HttpRequest, payload: web::Payload) -> HttpResponse {
    let answer = within_time(async {
        let caller = desk.admit(&request).await?;
        match question(&request, payload, &desk.keyholder).await {
            Ok(question) => desk.keyholder.open(question, caller).await,
            Err(refusal) => Err(desk.keyholder.note_refusal(refusal, caller).await),
        }
    });
    match answer.await {
        Ok(decision) => HttpResponse::Ok().json(wire::Answer::from(decision)),
        Err(error) => refuse(&error),
    }
}

async fn question(
    request: &HttpRequest,
    payload: web::Payload,
    keyholder: &LocalKeyholder,
) -> Result<OpenRequest, KeyholderError> {
    let body = payload.to_bytes_limited(wire::BODY_BYTES_MAX).await;
    let body = body.ok().and_then(Result::ok).ok_or(KeyholderError::Malformed)?;
    let key = id::<KeyId>(request, wire::KEY)?;
    if !keyholder.holds(key) {
        return Err(KeyholderError::WrongKey);
    }
    Ok(OpenRequest {
        verification: id(request, wire::VERIFICATION)?,
        tenant: id(request, wire::TENANT)?,
        subject: id(request, wire::SUBJECT)?,
        decisions: wire::read_decisions(&body, key)?,
    })
}

async fn forget(desk: web::Data<Desk>, request: HttpRequest) -> HttpResponse {
    let done = within_time(async {
        let caller = desk.admit(&request).await?;
        desk.keyholder.forget(id(&request, wire::TENANT)?, id(&request, wire::SUBJECT)?, caller).await
    });
    match done.await {
        Ok(counters) => HttpResponse::Ok().json(wire::Forgotten { counters }),
        Err(error) => refuse(&error),
    }
}

async fn ready(desk: web::Data<Desk>, request: HttpRequest) -> HttpResponse {
    let ready = within_time(async {
        desk.admit(&request).await?;
        desk.keyholder.ready().await
    });
    match ready.await {
        Ok(()) => HttpResponse::Ok().json(wire::Readiness {
            key: desk.keyholder.key_id().to_string(),
            retiring: desk.keyholder.retiring_key_id().map(|key| key.to_string()),
        }),
        Err(error) => refuse(&error),
    }
}

/// A request that dawdles is let go; what the journal has of it stays.
async fn within_time<T>(work: impl Future<Output = Result<T, KeyholderError>>) -> Result<T, KeyholderError> {
    tokio::time::timeout(REQUEST_TIME_MAX, work).await.unwrap_or_else(|_| Err(KeyholderError::unavailable()))
}

fn id<Id: FromStr>(request: &HttpRequest, header: &str) -> Result<Id, KeyholderError> {
    let text = request.headers().get(header).and_then(|value| value.to_str().ok());
    text.and_then(|text| text.parse().ok()).ok_or(KeyholderError::Malformed)
}

fn refuse(error: &KeyholderError) -> HttpResponse {
    let problem = wire::Problem::from(error);
    let mut response =
        HttpResponse::build(StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR));
    if let Some(retry_after_s) = problem.retry_after_s {
        response.insert_header((header::RETRY_AFTER, retry_after_s));
    }
    response.insert_header((header::CONTENT_TYPE, "application/problem+json")).json(problem)
}
