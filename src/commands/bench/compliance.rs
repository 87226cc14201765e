//! What an officer waits for: erasures while verifications go on, and the check of an exported audit log.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Instant,
};

use anyhow::{Context, Result};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use super::percentile;
use crate::{
    audit::{Action, Actor, Chain, Event, export},
    auth::{
        evidence::{Document, EvidenceKeys, EvidenceVerifier},
        jwt::{SigningKey, SigningKeys},
    },
    commands::{
        api_client::{ApiClient, Photo},
        progress,
        throwaway_server::ThrowawayServer,
    },
    domain::id::{ConsentId, TenantId},
    settings::FaceSettings,
};

/// Erasures at the same time, as many officers would not have.
const AT_ONCE: usize = 4;
/// Events of the log that is checked.
const EVENTS: usize = 200_000;

pub struct Compliance {
    erasures: usize,
    /// Sorted milliseconds of each, from call to answer: key destroyed, rows gone, certificate signed.
    erasure_ms: Vec<f64>,
    erasures_s: f64,
    /// Verifications that were answered meanwhile.
    verifications: usize,
    audit_events_per_second: f64,
}

impl Compliance {
    /// Enrols `erasures` persons, and erases them while somebody else is verified all the time.
    pub async fn measure(face: &FaceSettings, photo: &Photo, erasures: usize) -> Result<Self> {
        let spinner = progress::spinner("starting a server");
        let mut server = ThrowawayServer::start(face, &[])?;
        let client = server.ready().await?;
        let kept = person(&client, "kept").await?;
        client.enrol(&kept, photo).await?;
        spinner.finish_and_clear();

        let bar = progress::counted("persons to be erased", erasures);
        let persons: Vec<String> = stream::iter(0..erasures)
            .map(|number| {
                let (client, bar) = (&client, &bar);
                async move { person(client, &number.to_string()).await.inspect(|_| bar.inc(1)) }
            })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        bar.finish_and_clear();

        let bar = progress::counted("erasing", erasures);
        let (done, verifications, start) = (AtomicBool::new(false), AtomicUsize::new(0), Instant::now());
        let erasing = async {
            let times = stream::iter(&persons).map(|person| erase(&client, person)).buffer_unordered(AT_ONCE);
            let times: Result<Vec<f64>> = times.inspect(|_| bar.inc(1)).try_collect().await;
            done.store(true, Ordering::Relaxed);
            times
        };
        let verifying = async {
            while !done.load(Ordering::Relaxed) {
                client.verify(&kept, photo).await?.ok().context("a verification was refused")?;
                verifications.fetch_add(1, Ordering::Relaxed);
            }
            anyhow::Ok(())
        };
        let (times, verified) = tokio::join!(erasing, verifying);
        verified?;
        let erasures_s = start.elapsed().as_secs_f64();
        bar.finish_and_clear();
        let mut erasure_ms = times?;
        erasure_ms.sort_by(f64::total_cmp);
        let verifications = verifications.into_inner();
        Ok(Self { erasures, erasure_ms, erasures_s, verifications, audit_events_per_second: checked_per_second()? })
    }

    pub fn to_json(&self) -> Map<String, Value> {
        let members = [
            ("erasures", json!(self.erasures)),
            ("erasure_p50_ms", json!(percentile(&self.erasure_ms, 0.5))),
            ("erasure_p95_ms", json!(percentile(&self.erasure_ms, 0.95))),
            ("erasure_max_ms", json!(percentile(&self.erasure_ms, 1.0))),
            ("erasures_s", json!(self.erasures_s)),
            ("verifications_meanwhile", json!(self.verifications)),
            ("audit_events_per_second", json!(self.audit_events_per_second)),
        ];
        members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    pub fn to_text(&self) -> String {
        let Self { erasures, erasures_s, verifications, audit_events_per_second, .. } = self;
        let at = |share| percentile(&self.erasure_ms, share);
        format!(
            "\nerasure of a person, {AT_ONCE} at a time, while another is verified\n  p50 {:>28.1} ms\n  p95 {:>28.1} ms\n  \
             longest {:>24.1} ms\n  all {erasures} {:>20.1} s, and {verifications} verifications\n\ncheck of an audit log\n  \
             events {:>25.0} a second\n",
            at(0.5),
            at(0.95),
            at(1.0),
            erasures_s,
            audit_events_per_second
        )
    }
}

async fn person(client: &ApiClient, name: &str) -> Result<String> {
    let person = client.create_subject(name).await?;
    client.grant_consent(&person).await?;
    Ok(person)
}

async fn erase(client: &ApiClient, person: &str) -> Result<f64> {
    let start = Instant::now();
    client.erase(person).await?;
    Ok(start.elapsed().as_secs_f64() * 1000.0)
}

/// Events a second of `velum audit verify`, of a log in memory.
fn checked_per_second() -> Result<f64> {
    let spinner = progress::spinner("checking an audit log");
    let keys = EvidenceKeys::new(SigningKeys::single(SigningKey::from_pem(&SigningKey::generate_pem())?));
    let verifier = EvidenceVerifier::from_jwks(&serde_json::to_string(&keys.jwks())?)?;
    let (tenant, now) = (TenantId::generate(), OffsetDateTime::now_utc());
    let (mut chain, mut file) = (Chain::empty(tenant), export::first_line(tenant, None));
    for _ in 0..EVENTS {
        let event = Event::of(Actor::operator(), Action::ConsentGranted, ConsentId::generate(), now);
        let entry = event.entry(chain.size() + 1);
        chain.push(&entry);
        file.extend(export::entry_line(entry, chain.hash()));
    }
    file.extend(export::last_line(keys.sign(Document::AuditCheckpoint, &chain.checkpoint(now), now)?));
    let start = Instant::now();
    export::verify(file.as_slice(), |jws| verifier.verify(Document::AuditCheckpoint, jws).ok())?;
    spinner.finish_and_clear();
    Ok(EVENTS as f64 / start.elapsed().as_secs_f64())
}
