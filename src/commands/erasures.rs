//! `velum erasures`: what the ledger knows, and what to do after a restore.

use std::sync::Arc;

use clap::Subcommand;

use super::{Failure, settings};
use crate::{
    app,
    domain::clock::SystemClock,
    flows::ledger::{self, LedgerState},
    settings::Role,
};

#[derive(Subcommand)]
pub enum Command {
    /// After a restore: erase again whom the restored databases brought back
    Replay,
    /// Say whether the databases agree with the ledger
    Status,
}

/// With all that a worker has, for an erasure needs it: databases, keys, keyholder.
pub async fn run(command: Command) -> Result<(), Failure> {
    let settings = settings(Role::Worker)?;
    let flows = app::flows_alone(&settings, Arc::new(SystemClock)).await;
    let flows = flows.map_err(|error| Failure::because("the service could not be set up", error))?;
    let failed = |error| Failure::because("the ledger and the databases could not be compared", error);
    match command {
        Command::Replay => {
            let replayed = ledger::replay(&flows).await.map_err(failed)?;
            println!("{} erasures looked at, {} persons erased again", replayed.seen, replayed.erased_again);
        }
        Command::Status => {}
    }
    match ledger::check(&flows).await.map_err(failed)? {
        LedgerState::Settled => {
            println!("the databases agree with the ledger");
            Ok(())
        }
        LedgerState::ReplayNeeded => {
            Err(Failure::plain("a restored database has erased persons in it").next("run: velum erasures replay"))
        }
        LedgerState::LedgerBehind => Err(Failure::plain("the ledger lacks entries that a database remembers")
            .next("restore the ledger's newest backup; see docs/operations.md, \"After a restore\"")),
    }
}
