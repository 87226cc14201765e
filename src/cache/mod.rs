//! What may be lost: counters of requests, and a copy of the revocations.
//!
//! Redis holds both, so that every process counts and refuses alike. It is never the truth: where it is away or behind,
//! counting goes on in each process with tighter limits, and the database is asked what it would have known. Nothing here
//! is a secret and nothing names a person: keys are ids of clients and keyed hashes of addresses.

mod limits;
mod redis;
mod revocations;

use std::time::Duration;

use self::limits::{Counting, LocalLimits};
pub use self::{
    limits::{Policy, Rate, Rates, Verdict},
    redis::{Redis, RedisTls},
    revocations::RevocationCopy,
};

/// Where the answer of Redis cannot be had. The caller goes on without it.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    #[error("Redis cannot be used as it is set")]
    Setup(#[source] ::redis::RedisError),
    #[error("Redis is away")]
    Away(#[source] Option<::redis::RedisError>),
}

pub struct Cache {
    rates: Rates,
    shared: Option<Shared>,
    local: LocalLimits,
}

struct Shared {
    redis: Redis,
    revocations: RevocationCopy,
}

impl Cache {
    /// Without Redis this process counts alone, and has the whole of each rate for itself. `installation`: a name that no other
    /// has, for two may share one Redis.
    pub fn new(redis: Option<Redis>, rates: Rates, installation: &str) -> Self {
        let shared = redis.map(|redis| Shared { revocations: RevocationCopy::new(redis.clone(), installation), redis });
        let local = if shared.is_some() { LocalLimits::tighter(rates) } else { LocalLimits::whole(rates) };
        Self { rates, shared, local }
    }

    /// Counts `cost` requests of `key` under a policy, if they are within its rate.
    pub async fn take(&self, policy: Policy, key: &str, cost: u32) -> Verdict {
        match self.take_shared(policy, key, cost, Counting::WithinRate).await {
            Some(verdict) => verdict,
            None => self.local.take(policy, key, cost),
        }
    }

    /// Counts what an address has done already, within its rate or not: until there is room for it nothing more is let through.
    pub async fn owe(&self, address: &str, cost: u32) {
        if self.take_shared(Policy::Address, address, cost, Counting::Afterwards).await.is_none() {
            self.local.owe(address, cost);
        }
    }

    /// `None` where there is no Redis, or it is away.
    async fn take_shared(&self, policy: Policy, key: &str, cost: u32, counting: Counting) -> Option<Verdict> {
        let redis = &self.shared.as_ref()?.redis;
        limits::take(redis, policy, self.rates.of(policy), key, cost, counting).await.ok()
    }

    pub fn rates(&self) -> Rates {
        self.rates
    }

    /// The copy of the revocations, where there is Redis to hold it.
    pub fn revocations(&self) -> Option<&RevocationCopy> {
        self.shared.as_ref().map(|shared| &shared.revocations)
    }

    /// Whether Redis answers; `None` where there is none.
    pub async fn answers(&self) -> Option<bool> {
        let shared = self.shared.as_ref()?;
        Some(shared.redis.query::<String>(&::redis::cmd("PING")).await.is_ok())
    }

    /// Lets go of what this process counted and nobody asks for any more. Call it every minute or so.
    pub fn tidy(&self) {
        self.local.tidy();
    }
}

/// Nobody waits longer for what may be lost.
const ANSWER_WAIT: Duration = Duration::from_millis(250);
