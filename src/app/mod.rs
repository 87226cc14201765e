//! The whole, built once and run. The only room that knows every other.

mod doors;
mod error;
mod metrics;
mod upkeep;

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use actix_web::{dev::ServerHandle, web::Data};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
    time::sleep,
};

pub use self::error::StartError;
use self::metrics::{Metrics, Shown, shown_by_edge};
use crate::{
    auth::{Scopes, api_key::Environment, client_secret::Pepper, jwt::Tokens},
    cache::{Cache, Redis, RedisTls},
    callbacks::Callbacks,
    domain::clock::Clock,
    face::{FacePipeline, Runtime},
    fhe::{
        keys::{EvaluationKey, PublicKey},
        rekey::Rekey,
    },
    flows::{self, Flows, addresses::AddressKeys, compute::Compute, jobs::Worker, opendsr::OpenDsr, uploads::Uploads},
    http::{listener::Doors, middleware::Draining},
    keyholder::{self, Keyholder, LocalKeyholder, RemoteKeyholder, server::ServerConfig},
    secrets::{self, Secrets},
    settings::{CacheSettings, KeyholderSettings, Mode, OpenDsrSettings, ServerSettings, Settings, WorkerPlace},
    store::{Database, ErasureLedger, KeyStore, KeyholderJournal, Store, StoreError},
    tls::{self, Identity, TlsError, development::DevelopmentTls},
};

/// Between "not ready any more" and "no new connections": time for a proxy to notice.
const NOTICE: Duration = Duration::from_secs(1);
/// How long jobs at work may go on in a process that was told to stop.
const JOBS_PATIENCE: Duration = Duration::from_secs(5);

/// What takes seconds and hundreds of megabytes to load, and never changes: the models and the keys of the encryption.
#[derive(Clone)]
pub struct Engine {
    faces: Arc<FacePipeline>,
    public_key: Arc<PublicKey>,
    evaluation_key: Arc<EvaluationKey>,
    rekey: Option<Arc<Rekey>>,
}

impl Engine {
    pub fn load(settings: &Settings) -> Result<Self, StartError> {
        let face = &settings.face;
        let runtime = Runtime::open(&face.onnxruntime)?;
        let faces = FacePipeline::load(&runtime, &face.models_dir, face.embedder.as_ref(), settings.compute.workers)?;

        let folder = &settings.secrets.fhe_dir;
        let public_key = secrets::read_public_key(folder)?;
        let evaluation_key = secrets::read_evaluation_key(folder)?;
        if public_key.key_id() != evaluation_key.key_id() {
            let (one, other) = ("public.key", "evaluation.key");
            return Err(StartError::KeysOfDifferentSets { folder: folder.clone(), one, other });
        }
        let rekey = secrets::read_rekey(folder)?;
        if rekey.as_ref().is_some_and(|rekey| rekey.to() != public_key.key_id()) {
            let (one, other) = ("public.key", "rekey.key");
            return Err(StartError::KeysOfDifferentSets { folder: folder.clone(), one, other });
        }
        Ok(Self {
            rekey: rekey.map(Arc::new),
            faces: Arc::new(faces),
            public_key: Arc::new(public_key),
            evaluation_key: Arc::new(evaluation_key.expand()),
        })
    }
}

/// A server that has everything it needs and does not listen yet.
pub struct App {
    flows: Data<Flows>,
    draining: Draining,
    server: ServerSettings,
    tls: rustls::ServerConfig,
    /// Signs the server's certificate, where it made itself.
    authority: Option<PathBuf>,
    /// Where the signing keys rotate.
    secrets_dir: PathBuf,
    /// Not where the one token key is a setting.
    token_keys_rotate: bool,
    worker: WorkerPlace,
    shown: Shown,
}

impl App {
    /// In the embedded mode whatever is missing makes itself first: keys, certificates, databases, a client to try with.
    pub async fn build(settings: Settings, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        prepare(&settings, &*clock)?;
        // Before the seconds of loading: whoever brought a wrong key is told at once.
        Secrets::read(&settings.secrets)?;
        let engine = Engine::load(&settings)?;
        Self::build_around(engine, settings, clock).await
    }

    /// Everything behind the door, for a server or for a worker.
    async fn assemble(
        engine: Engine,
        settings: &Settings,
        development: Option<&DevelopmentTls>,
        clock: Arc<dyn Clock>,
    ) -> Result<Flows, StartError> {
        let secrets = Secrets::read(&settings.secrets)?;
        let storage = &settings.storage;
        let store = Store::connect(storage.database.expose_text(), storage.pool_size, secrets.blind_index).await;
        let store = ready("main", settings, store, Store::database).await?;
        let keystore =
            KeyStore::connect(storage.keystore.expose_text(), storage.pool_size, secrets.key_encryption_keys).await;
        let keystore = ready("keystore", settings, keystore, KeyStore::database).await?;
        let refreshed = keystore.refresh_keys().await;
        refreshed.map_err(|source| StartError::Database { name: "keystore", source })?;
        let ledger = ErasureLedger::connect(storage.ledger.expose_text(), storage.pool_size).await;
        let ledger = ready("ledger", settings, ledger, ErasureLedger::database).await?;
        let address_keys = AddressKeys::load(&keystore, settings.server.address_key_period, clock.now()).await;
        let address_keys = address_keys.map_err(|source| StartError::Database { name: "keystore", source })?;
        let keyholder = keyholder(settings, development, &engine, &clock).await?;
        let compute = Compute::start(settings.compute.workers, settings.compute.queue).map_err(StartError::Compute)?;

        Ok(Flows::new(flows::Parts {
            store,
            cache: cache(settings, &secrets.pepper)?,
            keystore,
            ledger,
            keyholder,
            faces: engine.faces,
            public_key: engine.public_key,
            evaluation_key: engine.evaluation_key,
            rekey: engine.rekey,
            tokens: Tokens::new(secrets.signing_keys, settings.tokens.clone(), Arc::clone(&clock)),
            evidence: secrets.evidence_keys,
            pepper: secrets.pepper,
            address_keys,
            environment: match settings.mode {
                Mode::Production => Environment::Live,
                Mode::Embedded => Environment::Test,
            },
            compute,
            uploads: Uploads::new(settings.compute.upload_bytes),
            clock,
            default_false_match_rate: settings.default_false_match_rate,
            quota_per_day: settings.limits.quota_per_day,
            attempt_rule: settings.limits.attempt_rule,
            erasure_policy: settings.erasure_policy,
            access_policy: settings.access_policy,
            retention: settings.retention.clone(),
            opendsr: opendsr(settings)?,
        }))
    }

    /// The same around an engine that is loaded already: several servers of one process share it.
    pub async fn build_around(engine: Engine, settings: Settings, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        let development = prepare(&settings, &*clock)?;
        let flows = Self::assemble(engine, &settings, development.as_ref(), clock).await?;
        if settings.mode == Mode::Embedded {
            ensure_development_client(&flows, &settings.data_dir).await?;
        }
        let identity = settings.server.tls.as_ref().or(development.as_ref().map(|made| &made.server));
        let tls = tls::public_server(identity.ok_or(StartError::NoCertificate)?)?;
        let shown = shown_by_edge(identity, &settings);
        let authority = development.filter(|_| settings.server.tls.is_none()).map(|made| made.authority);
        let (secrets_dir, token_keys_rotate) = (settings.secrets.dir, settings.secrets.jwt_signing_key.is_none());
        let (flows, draining) = (Data::new(flows), Draining::default());
        let worker = settings.worker;
        let server = settings.server;
        Ok(Self { flows, draining, server, tls, authority, secrets_dir, token_keys_rotate, worker, shown })
    }

    pub fn flows(&self) -> &Flows {
        &self.flows
    }

    /// Serves until SIGTERM or SIGINT; requests in progress are finished.
    pub async fn run(self) -> Result<(), StartError> {
        let stop_timeout = self.server.stop_timeout;
        let running = self.spawn()?;
        told_to_stop().await?;
        tracing::info!(event = "stopping", "told to stop; requests in progress are finished");
        running.stop(NOTICE.min(stop_timeout)).await;
        tracing::info!(event = "stopped", "stopped");
        Ok(())
    }

    /// Begins to listen and returns; the server runs beside the caller.
    pub fn spawn(self) -> Result<Running, StartError> {
        let failed = |source| StartError::Listen { address: self.server.listen, source };
        let tcp = doors::listen(&self.server).map_err(failed)?;
        let address = tcp.local_addr().map_err(failed)?;
        let unix = self.server.listen_socket.as_deref().map(doors::listen_on_socket).transpose()?;
        let server =
            doors::serve(Doors { tcp, unix }, &self.server, self.tls, self.flows.clone(), self.draining.clone());
        let server = server.map_err(failed)?;
        let metrics = self.server.metrics_listen;
        let metrics = metrics.map(|listen| Metrics::of_edge(listen, &self.flows, &self.shown)).transpose()?;
        tracing::info!(event = "listening", %address, "the server listens");
        let handle = server.handle();
        let Self { flows, draining, authority, secrets_dir, token_keys_rotate, .. } = self;
        let worker = (self.worker == WorkerPlace::Embedded).then(|| Worker::start(flows.clone().into_inner()));
        let beside = upkeep::of_server(&flows, secrets_dir, token_keys_rotate);
        Ok(Running { address, authority, metrics, flows, draining, handle, task: tokio::spawn(server), beside, worker })
    }
}

/// A server at work.
pub struct Running {
    pub address: SocketAddr,
    /// The certificate authority that a client must trust, where the server's certificate made itself.
    pub authority: Option<PathBuf>,
    metrics: Option<Metrics>,
    flows: Data<Flows>,
    draining: Draining,
    handle: ServerHandle,
    task: JoinHandle<io::Result<()>>,
    /// What goes on beside the requests, as long as there are any.
    beside: Vec<JoinHandle<()>>,
    worker: Option<Worker>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.beside.iter().for_each(JoinHandle::abort);
    }
}

impl Running {
    pub fn flows(&self) -> &Flows {
        &self.flows
    }

    /// First says that it is not ready any more, and `notice` later takes no new connection; then finishes what it has.
    pub async fn stop(mut self, notice: Duration) {
        self.draining.begin();
        let worker = self.worker.take();
        let jobs = async {
            if let Some(worker) = worker {
                worker.stop(JOBS_PATIENCE).await;
            }
        };
        let requests = async {
            sleep(notice).await;
            self.handle.stop(true).await;
            let _ended = (&mut self.task).await;
        };
        tokio::join!(jobs, requests);
        if let Some(metrics) = &self.metrics {
            metrics.stop().await;
        }
    }

    /// Where Prometheus scrapes.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics.as_ref().map(|metrics| metrics.address)
    }
}

/// All that a server has, without its door.
pub async fn flows_alone(settings: &Settings, clock: Arc<dyn Clock>) -> Result<Flows, StartError> {
    let development = prepare(settings, &*clock)?;
    Secrets::read(&settings.secrets)?;
    App::assemble(Engine::load(settings)?, settings, development.as_ref(), clock).await
}

/// `velum worker`: carries out jobs until SIGTERM or SIGINT, and serves nobody but Prometheus.
pub async fn work(settings: Settings, clock: Arc<dyn Clock>) -> Result<(), StartError> {
    let flows = Data::new(flows_alone(&settings, clock).await?);
    let shown = shown_by_edge(None, &settings);
    let metrics = settings.server.metrics_listen.map(|listen| Metrics::of_edge(listen, &flows, &shown)).transpose()?;
    let _upkeep = upkeep::of_worker(&flows, settings.secrets.dir);
    let worker = Worker::start(flows.into_inner());
    tracing::info!(event = "working", "the worker waits for jobs");
    told_to_stop().await?;
    tracing::info!(event = "stopping", "told to stop; jobs at work are finished or given back");
    worker.stop(settings.server.stop_timeout).await;
    if let Some(metrics) = &metrics {
        metrics.stop().await;
    }
    tracing::info!(event = "stopped", "stopped");
    Ok(())
}

/// Returns at SIGTERM or SIGINT.
async fn told_to_stop() -> Result<(), StartError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(StartError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(StartError::Signals)?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// `velum keyholder`: opens decisions until SIGTERM or SIGINT.
pub async fn keep(settings: &Settings, config: ServerConfig, clock: Arc<dyn Clock>) -> Result<(), StartError> {
    let keyholder = Arc::new(local_keyholder(settings, clock).await?);
    let shown = vec![("keyholder", config.identity.clone())];
    let metrics = settings.server.metrics_listen;
    let metrics = metrics.map(|listen| Metrics::of_keyholder(listen, &keyholder, &shown)).transpose()?;
    keyholder::server::run(config, keyholder).await?;
    if let Some(metrics) = &metrics {
        metrics.stop().await;
    }
    Ok(())
}

/// Makes keys and certificates in the embedded mode; in production nothing makes itself.
fn prepare(settings: &Settings, clock: &dyn Clock) -> Result<Option<DevelopmentTls>, StartError> {
    if settings.mode == Mode::Production {
        return Ok(None);
    }
    for made in secrets::ensure_development(settings, clock.now())? {
        tracing::info!(event = "key_made", kind = %made.kind, "a key was made for development");
    }
    // Certificates live by the machine's clock: a client does not know ours.
    let now = time::OffsetDateTime::now_utc();
    Ok(Some(tls::development::ensure(&settings.data_dir.join("tls"), &[], now)?))
}

/// Migrates in the embedded mode; in production `velum migrate` does, and a schema that is behind stops the start.
async fn ready<T>(
    name: &'static str,
    settings: &Settings,
    connected: Result<T, StoreError>,
    database: impl Fn(&T) -> &Database,
) -> Result<T, StartError> {
    let failed = |source| StartError::Database { name, source };
    let connected = connected.map_err(failed)?;
    let database = database(&connected);
    match settings.mode {
        Mode::Embedded => database.migrate().await.map(drop).map_err(failed)?,
        Mode::Production => {
            database.check_row_security().await.map_err(failed)?;
            database.check_schema().await.map_err(failed)?;
        }
    }
    Ok(connected)
}

fn opendsr(settings: &Settings) -> Result<OpenDsr, StartError> {
    let OpenDsrSettings { certificate, callback_networks, callback_authority } = &settings.opendsr;
    let tls = tls::outgoing_client(callback_authority.as_deref())?;
    let read = |path: &PathBuf| {
        std::fs::read_to_string(path).map_err(|source| TlsError::Unreadable { path: path.clone(), source })
    };
    Ok(OpenDsr {
        // The issuer is the address under which clients reach us: https:// and this.
        domain: settings.tokens.issuer.split(['/', ':']).nth(3).unwrap_or_default().to_owned(),
        certificate: certificate.as_ref().map(read).transpose()?,
        callbacks: Callbacks::new(tls, callback_networks.clone())?,
    })
}

fn cache(settings: &Settings, pepper: &Pepper) -> Result<Cache, StartError> {
    let CacheSettings { redis, authority } = &settings.cache;
    let tls = authority.clone().map(|authority| RedisTls { authority });
    let redis = redis.as_ref().map(|url| Redis::new(url.expose_text(), tls.as_ref())).transpose()?;
    Ok(Cache::new(redis, settings.limits.rates, &pepper.installation()))
}

async fn keyholder(
    settings: &Settings,
    development: Option<&DevelopmentTls>,
    engine: &Engine,
    clock: &Arc<dyn Clock>,
) -> Result<Keyholder, StartError> {
    match &settings.keyholder {
        KeyholderSettings::Local => {
            tracing::warn!(
                event = "keyholder_in_process",
                "the keyholder runs inside this process: whoever takes over this process holds the secret keys as well; \
                 run `velum keyholder` on a host of its own in production"
            );
            let keyholder = local_keyholder(settings, Arc::clone(clock)).await?;
            if !keyholder.holds_the_key_of(&engine.public_key) {
                let (one, other) = ("secret.key", "public.key");
                let folder = settings.secrets.fhe_dir.clone();
                return Err(StartError::KeysOfDifferentSets { folder, one, other });
            }
            Ok(Keyholder::Local(Arc::new(keyholder)))
        }
        KeyholderSettings::Remote { address, identity, authority } => {
            let identity: Option<&Identity> = identity.as_ref().or(development.map(|made| &made.edge));
            let identity = identity.ok_or(StartError::KeyholderLacks { name: "KEYHOLDER_CLIENT_CERTIFICATE" })?;
            let authority: Option<&Path> = authority.as_deref().or(development.map(|made| made.authority.as_path()));
            let authority = authority.ok_or(StartError::KeyholderLacks { name: "KEYHOLDER_CA" })?;
            let tls = tls::keyholder_client(identity, authority)?;
            Ok(Keyholder::Remote(RemoteKeyholder::new(address, tls, engine.public_key.key_id())?))
        }
    }
}

/// The secret keys with their journal: for this process, or for `velum keyholder`.
pub async fn local_keyholder(settings: &Settings, clock: Arc<dyn Clock>) -> Result<LocalKeyholder, StartError> {
    let secret = secrets::read_secret_keys(&settings.secrets.fhe_dir)?;
    let retiring = secrets::read_retiring_secret(&settings.secrets.fhe_dir)?;
    let server = &settings.keyholder_server;
    let journal = KeyholderJournal::connect(server.journal.expose_text(), settings.storage.pool_size).await;
    let journal = ready("keyholder's journal", settings, journal, KeyholderJournal::database).await?;
    Ok(LocalKeyholder::start(secret, journal, server.budgets, clock).await?.also_holding(retiring))
}

/// Where the embedded mode writes down the credential of its first client.
pub fn development_client_path(data_dir: &Path) -> PathBuf {
    data_dir.join("dev_client.json")
}

async fn ensure_development_client(flows: &Flows, data_dir: &Path) -> Result<(), StartError> {
    let path = development_client_path(data_dir);
    if path.exists() {
        return Ok(());
    }
    let made = flows::clients::create_tenant(flows, "development").await;
    let tenant = made.map_err(|error| StartError::DevelopmentClient(error.into()))?;
    let made = flows::clients::create(flows, tenant, "development", Scopes::client_app()).await;
    let credential = made.map_err(|error| StartError::DevelopmentClient(error.into()))?;
    let text = serde_json::json!({
        "tenant_id": tenant.to_string(),
        "client_id": credential.client.to_string(),
        "client_secret": credential.secret.expose_text(),
    });
    secrets::write_private(&path, text.to_string().as_bytes())?;
    tracing::info!(event = "development_client_made", path = %path.display(), "a client to try with was made");
    Ok(())
}
