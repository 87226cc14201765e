//! The connection: one for each thread that answers requests, so that none waits until another thread has run; requests
//! on a thread share it. It comes back by itself, and while Redis is away nobody waits for it.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use redis::{
    Client, Cmd, ErrorKind, FromRedisValue, IntoConnectionInfo as _, RedisError, ScriptInvocation, TlsCertificates,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use thread_local::ThreadLocal;
use tokio::time::timeout;

use super::{ANSWER_WAIT, CacheError};

/// After a failure, how long nobody asks again.
const PAUSE: Duration = Duration::from_millis(200);

/// What a TLS connection to Redis trusts, beyond the system's authorities.
#[derive(Debug, Clone)]
pub struct RedisTls {
    pub authority: PathBuf,
}

#[derive(Clone)]
pub struct Redis {
    client: Client,
    /// A connection is driven by the runtime of the thread that first asks on it.
    managers: Arc<ThreadLocal<ConnectionManager>>,
    /// Milliseconds since `epoch` until which Redis counts as away.
    away_until: Arc<AtomicU64>,
    epoch: Instant,
}

impl Redis {
    /// `url` is `redis://`, `rediss://` (TLS) or `redis+unix://`. Connects when first asked: a server starts without Redis too.
    pub fn new(url: &str, tls: Option<&RedisTls>) -> Result<Self, CacheError> {
        // The name of the library is told to nobody: the rules of Redis allow each user just its commands.
        let address = url.into_connection_info().map_err(CacheError::Setup)?;
        let settings = address.redis_settings().clone().set_skip_set_lib_name();
        let address = address.set_redis_settings(settings);
        let client = match tls {
            None => Client::open(address),
            Some(tls) => {
                let root_cert = std::fs::read(&tls.authority).map_err(|error| CacheError::Setup(error.into()))?;
                Client::build_with_tls(address, TlsCertificates { client_tls: None, root_cert: Some(root_cert) })
            }
        };
        let client = client.map_err(CacheError::Setup)?;
        Ok(Self { client, managers: Arc::default(), away_until: Arc::default(), epoch: Instant::now() })
    }

    pub async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, CacheError> {
        let mut connection = self.connection()?;
        self.within_time(async move { command.query_async(&mut connection).await }).await
    }

    pub async fn invoke<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, CacheError> {
        let mut connection = self.connection()?;
        self.within_time(async move { script.invoke_async(&mut connection).await }).await
    }

    fn connection(&self) -> Result<ConnectionManager, CacheError> {
        let connect = || {
            let config = ConnectionManagerConfig::new()
                .set_connection_timeout(Some(ANSWER_WAIT * 4))
                .set_response_timeout(Some(ANSWER_WAIT))
                .set_number_of_retries(0);
            ConnectionManager::new_lazy_with_config(self.client.clone(), config)
        };
        self.managers.get_or_try(connect).cloned().map_err(CacheError::Setup)
    }

    async fn within_time<T>(&self, asking: impl Future<Output = Result<T, RedisError>>) -> Result<T, CacheError> {
        if self.now() < self.away_until.load(Ordering::Relaxed) {
            return Err(CacheError::Away(None));
        }
        let failure = match timeout(ANSWER_WAIT, asking).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => Some(error),
            Err(_) => None,
        };
        // One line for each outage, not for each request in it.
        let until = self.now() + PAUSE.as_millis() as u64;
        if self.away_until.swap(until, Ordering::Relaxed) + 10 * (PAUSE.as_millis() as u64) < until {
            let kind = failure.as_ref().map_or(ErrorKind::Io, RedisError::kind);
            tracing::warn!(event = "redis_away", ?kind, "Redis does not answer; each process counts alone");
        }
        Err(CacheError::Away(failure))
    }

    fn now(&self) -> u64 {
        self.epoch.elapsed().as_millis() as u64
    }
}
