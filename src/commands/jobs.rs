//! `velum jobs`: what waits to be done, and what was given up.

use clap::Subcommand;
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Failure, open_store, settings};
use crate::{
    audit::{Action, Actor, Event},
    domain::{
        clock::{Clock, SystemClock},
        id::JobId,
    },
    settings::Role,
    store::{Conflict, JobRow, StoreError},
};

/// More than an operator reads.
const ROWS_MAX: u32 = 1_000;

#[derive(Subcommand)]
pub enum Command {
    /// Print the jobs that wait or are at work as JSON lines, the next one first
    List,
    /// Print the jobs that nobody tries any more
    Dead,
    /// Bring such a job back, as if it were new
    Retry {
        /// The job's id
        job: JobId,
    },
}

pub async fn run(command: Command) -> Result<(), Failure> {
    let store = open_store(&settings(Role::Tool)?).await?;
    let failed = |error: StoreError| Failure::because("the queue", error);
    match command {
        Command::List => store.jobs().list(false, ROWS_MAX).await.map_err(failed)?.iter().for_each(print),
        Command::Dead => store.jobs().list(true, ROWS_MAX).await.map_err(failed)?.iter().for_each(print),
        Command::Retry { job } => {
            let event = Event::of(Actor::operator(), Action::JobRetried, job, SystemClock.now());
            store.jobs().retry(job, event).await.map_err(|error| match error {
                StoreError::NotFound => Failure::plain(format!("{job} is no job that was given up")),
                StoreError::Conflict(Conflict::JobQueued) => Failure::plain("the same is queued already"),
                other => failed(other),
            })?;
            println!("{job} is tried again");
        }
    }
    Ok(())
}

fn print(job: &JobRow) {
    let moment = |at: OffsetDateTime| at.format(&Rfc3339).unwrap_or_default();
    let line = json!({
        "id": job.id.to_string(),
        "kind": job.kind,
        "tenant_id": job.tenant.map(|tenant| tenant.to_string()),
        "payload": job.payload,
        "due_at": moment(job.due_at),
        "attempts": job.attempts,
        "leased_until": job.leased_until.map(moment),
        "last_error": job.last_error,
        "created_at": moment(job.created_at),
        "dead_at": job.dead_at.map(moment),
    });
    println!("{line}");
}
