//! What it costs to get through the door, over HTTPS against a server in a process of its own.

use std::{hint::black_box, sync::Arc, time::Instant};

use anyhow::{Context, Result};
use futures_util::{StreamExt as _, stream};
use serde_json::{Map, Value, json};

use super::percentile;
use crate::{
    auth::{
        Principal, Scopes,
        jwt::{SigningKey, SigningKeys, TokenConfig, TokenLifetime, Tokens},
    },
    commands::{api_client::ApiClient, progress, throwaway_server::ThrowawayServer},
    domain::{
        clock::SystemClock,
        id::{ClientId, SubjectId, TenantId},
    },
    settings::FaceSettings,
};

/// Requests of a kind, one after the other.
const REQUESTS: usize = 2_000;
/// Questions about another tenant's id, and as many about none.
const COMPARED: usize = 10_000;
/// Token requests at the same time.
const AT_ONCE: usize = 100;

pub struct Access {
    redis: bool,
    /// Median milliseconds of the signature and claims of one token, in this process.
    signature_ms: f64,
    /// Median milliseconds of a request that nobody is asked about, and of others that pass the door.
    probe_ms: f64,
    admitted_ms: f64,
    absent_ms: f64,
    absent_and_counted_ms: f64,
    /// Welch's t between the times of another tenant's id and of one that does not exist.
    foreign_or_absent_t: f64,
    tokens: usize,
    tokens_failed: usize,
    tokens_per_second: f64,
    token_p50_ms: f64,
    token_p95_ms: f64,
}

impl Access {
    pub async fn measure(face: &FaceSettings, redis: Option<&str>, tokens: usize) -> Result<Self> {
        let spinner = progress::spinner("starting a server");
        let redis_url = redis.map(|url| ("VELUM_REDIS_URL", url));
        let mut server = ThrowawayServer::start(face, redis_url.as_slice())?;
        let client = server.ready().await?;
        let subject = client.create_subject("bench").await?;
        client.erase(&subject).await?;
        let foreign = server.another_tenant().await?.create_subject("bench").await?;
        spinner.finish_and_clear();

        // The first thousand warm up; paths alternate, so that a busy moment hits all of them alike.
        let (gone, face) = (format!("/v1/subjects/{subject}"), format!("/v1/subjects/{subject}/verifications"));
        let mut kinds: [Vec<f64>; 4] = Default::default();
        let bar = progress::counted("at the door", REQUESTS * kinds.len());
        for _ in 0..REQUESTS {
            let [probe, admitted, absent, counted] = &mut kinds;
            probe.push(timed(client.get_status("/livez")).await?);
            admitted.push(timed(client.get_status("/v1/models")).await?);
            absent.push(timed(client.get_status(&gone)).await?);
            counted.push(timed(client.post_status(&face)).await?);
            bar.inc(4);
        }
        bar.finish_and_clear();
        let median = |times: &mut Vec<f64>| {
            let mut warm = times.split_off(times.len() / 4);
            warm.sort_by(f64::total_cmp);
            percentile(&warm, 0.5)
        };
        let [probe_ms, admitted_ms, absent_ms, absent_and_counted_ms] = kinds.each_mut().map(median);

        let foreign_or_absent_t = foreign_or_absent(&client, &foreign).await?;

        let credential = server.credential()?;
        let bar = progress::counted("buying tokens", tokens);
        let start = Instant::now();
        let bought = stream::iter(0..tokens).map(|_| async {
            let took = timed(client.buy_token(&credential)).await;
            bar.inc(1);
            took
        });
        let bought: Vec<Result<f64>> = bought.buffer_unordered(AT_ONCE).collect().await;
        let tokens_per_second = tokens as f64 / start.elapsed().as_secs_f64();
        bar.finish_and_clear();
        let mut latencies: Vec<f64> = bought.iter().filter_map(|took| took.as_ref().ok().copied()).collect();
        latencies.sort_by(f64::total_cmp);
        Ok(Self {
            redis: redis.is_some(),
            signature_ms: signature_ms()?,
            probe_ms,
            admitted_ms,
            absent_ms,
            absent_and_counted_ms,
            foreign_or_absent_t,
            tokens,
            tokens_failed: tokens - latencies.len(),
            tokens_per_second,
            token_p50_ms: percentile(&latencies, 0.5),
            token_p95_ms: percentile(&latencies, 0.95),
        })
    }

    /// Address, token, revocation, rate: what a request that needs nothing else takes beyond a probe.
    fn door_ms(&self) -> f64 {
        self.admitted_ms - self.probe_ms
    }

    /// What counting against the quota adds.
    fn count_ms(&self) -> f64 {
        self.absent_and_counted_ms - self.absent_ms
    }

    pub fn to_json(&self) -> Map<String, Value> {
        let members = [
            ("access_redis", json!(self.redis)),
            ("token_verification_p50_ms", json!(self.signature_ms)),
            ("access_p50_ms", json!(self.door_ms())),
            ("access_with_quota_p50_ms", json!(self.door_ms() + self.count_ms())),
            ("foreign_or_absent_t", json!(self.foreign_or_absent_t)),
            ("tokens", json!(self.tokens)),
            ("tokens_failed", json!(self.tokens_failed)),
            ("tokens_per_second", json!(self.tokens_per_second)),
            ("token_p50_ms", json!(self.token_p50_ms)),
            ("token_p95_ms", json!(self.token_p95_ms)),
        ];
        members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    pub fn to_text(&self) -> String {
        format!(
            "\naccess layer, {}, medians\n  signature and claims of a token {:>5.2} ms\n  probe, nobody is asked {:>14.2} ms\n  signature, revocation, rates {:>8.2} ms more\n  \
             count against the quota {:>13.2} ms more\n  another tenant's id or none: t = {:.1} of {COMPARED} pairs (a difference shows from 4.5)\n  {} tokens, {AT_ONCE} at once: {} failed, {:.0} a second, p50 {:.0} ms, p95 \
             {:.0} ms\n",
            if self.redis { "with Redis" } else { "without Redis" },
            self.signature_ms,
            self.probe_ms,
            self.door_ms(),
            self.count_ms(),
            self.foreign_or_absent_t,
            self.tokens,
            self.tokens_failed,
            self.tokens_per_second,
            self.token_p50_ms,
            self.token_p95_ms,
        )
    }
}

/// What [`Tokens::verify`] takes, with an RSA key of the length that `velum keys generate` makes.
fn signature_ms() -> Result<f64> {
    let config = TokenConfig {
        issuer: "https://velum.example".to_owned(),
        audience: "velum".to_owned(),
        lifetime: TokenLifetime::DEFAULT,
        leeway: TokenConfig::LEEWAY_DEFAULT,
    };
    let key = SigningKey::from_pem(&SigningKey::generate_pem())?;
    let tokens = Tokens::new(SigningKeys::single(key), config, Arc::new(SystemClock));
    let principal =
        Principal { tenant: TenantId::generate(), client: ClientId::generate(), scopes: Scopes::client_app() };
    let issued = tokens.issue(&principal)?;
    let mut times = Vec::with_capacity(REQUESTS);
    for _ in 0..REQUESTS {
        let start = Instant::now();
        black_box(tokens.verify(issued.token.expose_text())?);
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(percentile(&times, 0.5))
}

/// Whether the time of an answer tells an id of another tenant from one that does not exist: Welch's t over times taken in
/// turn, those beyond the 90th percentile left out, for they are the machine's own.
async fn foreign_or_absent(client: &ApiClient, foreign: &str) -> Result<f64> {
    let absent = SubjectId::generate().to_string();
    let paths = [foreign, &absent].map(|id| format!("/v1/subjects/{id}"));
    let mut times: [Vec<f64>; 2] = Default::default();
    let bar = progress::counted("another tenant's id, or none", COMPARED);
    for round in 0..COMPARED {
        for which in [round % 2, (round + 1) % 2] {
            times[which].push(timed(client.get_status(&paths[which])).await?);
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let [one, other] = times.each_mut().map(|times| {
        times.sort_by(f64::total_cmp);
        times.truncate(times.len() * 9 / 10);
        let count = times.len() as f64;
        let mean = times.iter().sum::<f64>() / count;
        let variance = times.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / (count - 1.0);
        (mean, variance / count)
    });
    Ok((one.0 - other.0) / (one.1 + other.1).sqrt())
}

/// Milliseconds until the answer.
async fn timed<T>(request: impl Future<Output = Result<T>>) -> Result<f64> {
    let start = Instant::now();
    request.await.context("the server did not answer")?;
    Ok(start.elapsed().as_secs_f64() * 1e3)
}
