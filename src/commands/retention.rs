//! `velum retention`: what has been kept long enough, said or deleted.

use clap::Subcommand;

use super::{Failure, open_store, settings};
use crate::{
    audit::Actor,
    domain::clock::{Clock, SystemClock},
    flows::retention::{self, Counts},
    settings::Role,
    store::StoreError,
};

#[derive(Subcommand)]
pub enum Command {
    /// Say how many rows would go now, and delete none
    Report,
    /// Delete them now, as the daily job would
    Run,
}

pub async fn run(command: Command) -> Result<(), Failure> {
    let settings = settings(Role::Tool)?;
    let store = open_store(&settings).await?;
    let (schedule, now) = (&settings.retention, SystemClock.now());
    let failed = |error: StoreError| Failure::because("retention", error);
    match command {
        Command::Report => print(&retention::report(&store, schedule, now).await.map_err(failed)?),
        Command::Run => {
            let sweep = retention::delete(&store, schedule, Actor::operator(), now).await;
            print(&sweep.gone);
            sweep.failed.map_or(Ok(()), |error| Err(failed(error)))?;
        }
    }
    Ok(())
}

fn print(counts: &Counts) {
    for (kind, rows) in counts {
        println!("{:<26} {rows}", kind.as_str());
    }
}
