//! A controller's end: an HTTPS server that takes callbacks and answers as it is told to.

use std::{
    collections::{HashMap, VecDeque},
    net::TcpListener,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, dev::ServerHandle, http::StatusCode, web};
use serde_json::Value;
use tempfile::TempDir;
use time::OffsetDateTime;
use velum::tls::{self, development};

/// A callback as it came.
#[derive(Debug, Clone)]
pub struct Received {
    pub path: String,
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

impl Received {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

#[derive(Default)]
struct State {
    received: Mutex<Vec<Received>>,
    /// Statuses of the next answers; then 202.
    answers: Mutex<VecDeque<u16>>,
    /// Whether nobody is answered.
    silent: Mutex<bool>,
}

pub struct Receiver {
    pub port: u16,
    /// Trusts the receiver.
    pub authority: PathBuf,
    state: Arc<State>,
    handle: ServerHandle,
    _folder: TempDir,
}

impl Receiver {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let made = development::ensure(folder.path(), &[], OffsetDateTime::now_utc()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State::default());
        let shared = web::Data::from(Arc::clone(&state));
        let server = HttpServer::new(move || App::new().app_data(shared.clone()).default_service(web::to(take)))
            .workers(1)
            .disable_signals()
            .shutdown_timeout(0)
            .listen_rustls_0_23(listener, tls::public_server(&made.server).unwrap())
            .unwrap()
            .run();
        let handle = server.handle();
        tokio::spawn(server);
        Self { port, authority: made.authority, state, handle, _folder: folder }
    }

    pub fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.port)
    }

    pub fn answer_next(&self, statuses: &[u16]) {
        self.state.answers.lock().unwrap().extend(statuses);
    }

    pub fn be_silent(&self, silent: bool) {
        *self.state.silent.lock().unwrap() = silent;
    }

    pub fn received(&self) -> Vec<Received> {
        self.state.received.lock().unwrap().clone()
    }

    /// Of one address.
    pub fn received_at(&self, path: &str) -> Vec<Received> {
        self.received().into_iter().filter(|received| received.path == path).collect()
    }

    /// Waits for so many callbacks at an address.
    pub async fn wait_for(&self, path: &str, count: usize) -> Vec<Received> {
        let begun = Instant::now();
        loop {
            let received = self.received_at(path);
            if received.len() >= count {
                return received;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "{path}: {} callbacks, not {count}", received.len());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Settings of a server that may call this receiver.
    pub fn options(&self) -> Vec<(&'static str, String)> {
        vec![("CALLBACK_CA_FILE", shown(&self.authority)), ("CALLBACK_NETWORKS", "127.0.0.0/8,::1".to_owned())]
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let stop = self.handle.stop(false);
        tokio::spawn(stop);
    }
}

async fn take(state: web::Data<State>, request: HttpRequest, body: web::Bytes) -> HttpResponse {
    let text = |value: &actix_web::http::header::HeaderValue| value.to_str().unwrap().to_owned();
    let headers = request.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    let received = Received { path: request.path().to_owned(), headers, body: body.to_vec() };
    state.received.lock().unwrap().push(received);
    let silent = *state.silent.lock().unwrap();
    if silent {
        std::future::pending::<()>().await;
    }
    let status = state.answers.lock().unwrap().pop_front().unwrap_or(202);
    let mut answer = HttpResponse::build(StatusCode::from_u16(status).unwrap());
    if (300..400).contains(&status) {
        answer.insert_header(("Location", "/elsewhere"));
    }
    answer.body("thank you")
}
