//! What Prometheus scrapes, beside what a process is there for.

use std::{
    net::{SocketAddr, TcpListener},
    pin::Pin,
    sync::Arc,
};

use actix_web::{dev::ServerHandle, web::Data};

use super::StartError;
use crate::{
    flows::{self, Flows},
    http,
    keyholder::LocalKeyholder,
    measure,
    settings::{KeyholderSettings, Settings},
    tls::Identity,
};

/// The certificates that a process shows, and for what.
pub type Shown = Vec<(&'static str, Identity)>;

/// What a server shows to its callers, and a server or a worker to the keyholder.
pub fn shown_by_edge(server: Option<&Identity>, settings: &Settings) -> Shown {
    let client = match &settings.keyholder {
        KeyholderSettings::Remote { identity, .. } => identity.as_ref(),
        KeyholderSettings::Local => None,
    };
    let shown = [("server", server), ("keyholder_client", client)];
    shown.into_iter().filter_map(|(name, identity)| Some((name, identity?.clone()))).collect()
}

/// What Prometheus scrapes, beside the API: it answers to the end, so that a stop can be watched.
pub struct Metrics {
    pub address: SocketAddr,
    handle: ServerHandle,
}

impl Metrics {
    pub fn of_edge(listen: SocketAddr, flows: &Data<Flows>, shown: &Shown) -> Result<Self, StartError> {
        let look = look(flows.clone(), |flows| async move { flows::health::measure(&flows).await });
        Self::spawn(listen, shown, look)
    }

    pub fn of_keyholder(
        listen: SocketAddr,
        keyholder: &Arc<LocalKeyholder>,
        shown: &Shown,
    ) -> Result<Self, StartError> {
        let look = look(Arc::clone(keyholder), |keyholder| async move { keyholder.measure().await });
        Self::spawn(listen, shown, look)
    }

    fn spawn(listen: SocketAddr, shown: &Shown, look: http::metrics::Look) -> Result<Self, StartError> {
        let failed = |source| StartError::Listen { address: listen, source };
        let listener = TcpListener::bind(listen).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let server = http::metrics::serve(listener, look).map_err(failed)?;
        tracing::info!(event = "metrics_listening", %address, "metrics are served, without TLS: for the inside only");
        let handle = server.handle();
        tokio::spawn(server);
        for (name, identity) in shown {
            // What serves is not ended for what is only told.
            match identity.expires_at() {
                Ok(at) => measure::certificate(name, at),
                Err(error) => tracing::warn!(
                    event = "certificate_unread",
                    error = &error as &dyn std::error::Error,
                    "a certificate is not measured"
                ),
            }
        }
        Ok(Self { address, handle })
    }

    pub async fn stop(&self) {
        self.handle.stop(true).await;
    }
}

/// What is looked at whenever somebody scrapes.
fn look<T, F>(of: T, measure: fn(T) -> F) -> http::metrics::Look
where
    T: Clone + Send + Sync + 'static,
    F: Future<Output = ()> + 'static,
{
    Arc::new(move || -> Pin<Box<dyn Future<Output = ()>>> { Box::pin(measure(of.clone())) })
}
