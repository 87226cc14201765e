//! The worker: leases jobs that are due and carries them out, a few at a time, in whichever process comes first.
//!
//! A handler may be begun again at any moment after a crash, so each can be repeated. What a worker has to say about a job whose
//! lease it lost counts for nothing (`store::Jobs`), and the handler is let go as soon as that is known.

use std::{str::FromStr, sync::Arc, time::Duration};

use time::{OffsetDateTime, Time};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{interval, sleep, timeout},
};

use super::{FlowError, Flows, access_requests, audit, erasures, opendsr, retention};
use crate::{
    audit::Event,
    domain::{
        id::TenantId,
        job::{ATTEMPTS_MAX, JobKind, delay_after},
        opendsr::SubjectRequestId,
    },
    measure::{self, JobOutcome},
    store::{Conflict, Lease, LeasedJob, NewJob, StoreError},
};

/// A worker has two lanes, so that nobody outside who takes his time keeps an erasure waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lane {
    Own,
    WaitsForOthers,
}

impl Lane {
    /// Jobs at work in one process.
    fn at_once(self) -> usize {
        match self {
            Self::Own => 4,
            Self::WaitsForOthers => 8,
        }
    }

    fn kinds(self) -> Vec<JobKind> {
        JobKind::ALL.into_iter().filter(|kind| kind.waits_for_others() == (self == Self::WaitsForOthers)).collect()
    }
}

/// How soon a job is noticed that another process queued. Of one of its own it is told ([`Flows::wake_worker`]).
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// How long a worker that says nothing is believed to be alive.
const LEASE: time::Duration = time::Duration::seconds(30);
/// Two of these may be missed.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// How often it is made sure that the periodic jobs wait for their time.
const PERIODIC_INTERVAL: Duration = Duration::from_secs(60);
/// How often an audit log that has grown is signed.
const CHECKPOINTS_EVERY: time::Duration = time::Duration::HOUR;
/// When the daily job is due, UTC.
const DAILY_AT: Time = time::macros::time!(02:00);

/// What becomes of a job that went well.
enum Next {
    Done,
    /// It is out of the queue already.
    Finished,
    /// To be done again then.
    Again(OffsetDateTime),
}

async fn handle(flows: &Flows, job: &LeasedJob) -> Result<Next, FlowError> {
    match job.kind {
        JobKind::Callback => {
            let (tenant, request) = request_of(job)?;
            let receiver = job.payload["receiver"].as_i64().ok_or_else(|| FlowError::internal(UnreadableJob))?;
            opendsr::deliver(flows, tenant, request, receiver, &job.lease).await?;
            Ok(Next::Finished)
        }
        JobKind::Checkpoints => {
            audit::sign_all(flows).await?;
            Ok(Next::Again(flows.now() + CHECKPOINTS_EVERY))
        }
        JobKind::Erasure => {
            let (tenant, request) = request_of(job)?;
            erasures::execute(flows, tenant, request).await?;
            Ok(Next::Done)
        }
        JobKind::PackageExpiry => {
            let (tenant, request) = request_of(job)?;
            access_requests::expire(flows, tenant, request).await?;
            Ok(Next::Done)
        }
        JobKind::Retention => {
            retention::run(flows).await?;
            Ok(Next::Again(next_daily(flows.now())))
        }
    }
}

/// Which request, of which tenant, a job is about.
fn request_of<Id: FromStr>(job: &LeasedJob) -> Result<(TenantId, Id), FlowError> {
    let request = job.payload["request"].as_str().and_then(|text| text.parse().ok());
    job.tenant.zip(request).ok_or_else(|| FlowError::internal(UnreadableJob))
}

#[derive(Debug, thiserror::Error)]
#[error("a job does not say what it is about")]
struct UnreadableJob;

/// A periodic job is one row that is put off from time to time: whoever starts first makes it, and two processes have one.
async fn ensure_periodic(flows: &Flows) -> Result<(), StoreError> {
    let now = flows.now();
    for (kind, due_at) in [(JobKind::Checkpoints, now + CHECKPOINTS_EVERY), (JobKind::Retention, next_daily(now))] {
        let job = NewJob {
            kind,
            tenant: None,
            payload: serde_json::json!({}),
            unique_key: Some("periodic".to_owned()),
            due_at,
            created_at: now,
        };
        flows.store.jobs().enqueue(job).await?;
    }
    Ok(())
}

/// When the next daily run is.
pub fn next_daily(now: OffsetDateTime) -> OffsetDateTime {
    let today = now.replace_time(DAILY_AT);
    if today > now { today } else { today + time::Duration::DAY }
}

/// Carries out jobs beside the caller, until it is stopped or dropped.
pub struct Worker {
    told: watch::Sender<Told>,
    lanes: JoinSet<()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Work,
    /// Begin nothing more.
    Finish,
    /// Give back what is not finished.
    Leave,
}

impl Worker {
    pub fn start(flows: Arc<Flows>) -> Self {
        let (told, listening) = watch::channel(Told::Work);
        let lanes = [Lane::Own, Lane::WaitsForOthers].map(|lane| work(Arc::clone(&flows), lane, listening.clone()));
        Self { told, lanes: lanes.into_iter().collect() }
    }

    /// Begins nothing more, waits `patience` for what is at work, and gives the rest back to whoever comes next.
    pub async fn stop(mut self, patience: Duration) {
        /// For a word to the database. Where it is away the leases run out by themselves.
        const GIVE_BACK: Duration = Duration::from_secs(2);
        self.told.send_replace(Told::Finish);
        if timeout(patience, self.ended()).await.is_err() {
            self.told.send_replace(Told::Leave);
            let _runs_out = timeout(GIVE_BACK, self.ended()).await;
        }
    }

    async fn ended(&mut self) {
        while self.lanes.join_next().await.is_some() {}
    }
}

async fn work(flows: Arc<Flows>, lane: Lane, mut told: watch::Receiver<Told>) {
    let mut at_work = JoinSet::new();
    let mut periodic = interval(PERIODIC_INTERVAL);
    let mut queue = Queue { lane, away: false };
    while *told.borrow() == Told::Work {
        for job in queue.lease(&flows, lane.at_once() - at_work.len()).await {
            at_work.spawn(carry_out(Arc::clone(&flows), job, told.clone()));
        }
        let is_own = lane == Lane::Own;
        tokio::select! {
            _ = told.changed() => {}
            _ = periodic.tick(), if is_own => queue.note(ensure_periodic(&flows).await),
            Some(_) = at_work.join_next(), if !at_work.is_empty() => {}
            () = flows.queued.notified(), if is_own && at_work.len() < lane.at_once() => {}
            () = sleep(LOOK_INTERVAL) => {}
        }
    }
    while at_work.join_next().await.is_some() {}
}

/// Says once that the queue cannot be asked, and once that it can again.
struct Queue {
    lane: Lane,
    away: bool,
}

impl Queue {
    async fn lease(&mut self, flows: &Flows, places: usize) -> Vec<LeasedJob> {
        if places == 0 {
            return Vec::new();
        }
        let now = flows.now();
        let leased = flows.store.jobs().lease_of(self.lane.kinds(), now, now + LEASE, places as u32).await;
        let (jobs, outcome) = leased.map_or_else(|error| (Vec::new(), Err(error)), |jobs| (jobs, Ok(())));
        self.note(outcome);
        jobs
    }

    fn note(&mut self, outcome: Result<(), StoreError>) {
        match &outcome {
            Err(error) if !self.away => {
                tracing::warn!(event = "queue_away", error = error as &dyn std::error::Error, "no jobs can be had");
            }
            Ok(()) if self.away => tracing::info!(event = "queue_back", "jobs can be had again"),
            Ok(()) | Err(_) => {}
        }
        self.away = outcome.is_err();
    }
}

async fn carry_out(flows: Arc<Flows>, job: LeasedJob, mut told: watch::Receiver<Told>) {
    let id = job.lease.job();
    let said = tokio::select! {
        outcome = handle(&flows, &job) => conclude(&flows, &job, outcome).await,
        lost = keep(&flows, &job.lease) => Err(lost),
        () = must_leave(&mut told) => flows.store.jobs().give_back(&job.lease).await,
    };
    match said {
        Ok(()) => {}
        Err(StoreError::Conflict(Conflict::LeaseLost)) => {
            tracing::warn!(event = "job_lost", job = %id, kind = %job.kind, "another worker has this job by now");
        }
        // What was done is done again when the lease has run out.
        Err(error) => tracing::warn!(
            event = "job_not_concluded", job = %id, kind = %job.kind, error = &error as &dyn std::error::Error,
            "the end of a job could not be written down"
        ),
    }
}

async fn must_leave(told: &mut watch::Receiver<Told>) {
    // Nobody is there to say so any more: the process is at its end.
    let _or_alone = told.wait_for(|told| *told == Told::Leave).await;
}

/// Prolongs a lease for as long as it is waited for; returns when it is lost.
async fn keep(flows: &Flows, lease: &Lease) -> StoreError {
    loop {
        sleep(HEARTBEAT).await;
        // After any other error perhaps the next time; else it runs out.
        if let Err(lost @ StoreError::Conflict(_)) = flows.store.jobs().prolong(lease, flows.now() + LEASE).await {
            return lost;
        }
    }
}

async fn conclude(flows: &Flows, job: &LeasedJob, outcome: Result<Next, FlowError>) -> Result<(), StoreError> {
    let (jobs, now) = (flows.store.jobs(), flows.now());
    let error = match outcome {
        Ok(Next::Done) => {
            measure::job(job.kind.as_str(), JobOutcome::Done);
            return jobs.finish(job.lease.clone()).await;
        }
        Ok(Next::Finished) => {
            measure::job(job.kind.as_str(), JobOutcome::Done);
            return Ok(());
        }
        Ok(Next::Again(due_at)) => {
            measure::job(job.kind.as_str(), JobOutcome::Done);
            return jobs.put_off(&job.lease, due_at).await;
        }
        Err(error) => error,
    };
    let retry_at = (job.attempt < ATTEMPTS_MAX).then(|| now + delay_after(job.attempt, chance()));
    measure::job(job.kind.as_str(), if retry_at.is_some() { JobOutcome::Failed } else { JobOutcome::Dead });
    tracing::error!(
        event = "job_failed", job = %job.lease.job(), kind = %job.kind, attempt = job.attempt, dead = retry_at.is_none(),
        error = &error as &dyn std::error::Error, "a job failed"
    );
    let told = (retry_at.is_none() && job.kind == JobKind::Callback).then(|| given_up(flows, job)).flatten();
    jobs.fail_with(&job.lease, code(&error), retry_at, now, told).await
}

/// What the audit log says when a controller cannot be told.
fn given_up(flows: &Flows, job: &LeasedJob) -> Option<(TenantId, Event)> {
    let (tenant, request) = request_of::<SubjectRequestId>(job).ok()?;
    Some((tenant, opendsr::given_up(flows, tenant, request)))
}

/// What the operator's list says.
fn code(error: &FlowError) -> &'static str {
    match error {
        FlowError::StoreAway(_) => "store_away",
        FlowError::KeyholderAway { .. } => "keyholder_away",
        FlowError::CallbackFailed(_) => "callback_failed",
        _ => "failed",
    }
}

/// From 0 to 1. Where the system has no randomness to give, everything is tried a little later.
fn chance() -> f64 {
    let mut byte = [0];
    getrandom::fill(&mut byte).map_or(0.0, |()| f64::from(byte[0]) / 255.0)
}

impl Flows {
    /// A job was queued: who waits for one in this process looks at once.
    pub fn wake_worker(&self) {
        self.queued.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn the_daily_job_is_due_at_the_next_two_o_clock() {
        for (now, due) in [
            (datetime!(2026-11-20 01:59:59 UTC), datetime!(2026-11-20 02:00 UTC)),
            (datetime!(2026-11-20 02:00 UTC), datetime!(2026-11-21 02:00 UTC)),
            (datetime!(2026-12-31 12:00 UTC), datetime!(2027-01-01 02:00 UTC)),
        ] {
            assert_eq!(next_daily(now), due);
        }
    }
}
