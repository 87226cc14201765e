//! `velum erasures`: what the ledger knows, and what to do after a restore.

use std::sync::Arc;

use clap::Subcommand;
use time::format_description::well_known::Rfc3339;

use super::{Failure, settings};
use crate::{
    app,
    domain::clock::SystemClock,
    flows::{
        FlowError, Flows,
        ledger::{
            self, LedgerState,
            rebuild::{RebuildError, Unknown, rebuild},
        },
    },
    settings::Role,
};

#[derive(Subcommand)]
pub enum Command {
    /// After a restore: erase again whom the restored databases brought back
    Replay,
    /// After a restore of the ledger: write the entries again that it lacks, from what the other databases know, and replay it
    Rebuild {
        /// Go on where entries cannot be written again; that is recorded in the audit log of every tenant and in the ledger
        #[arg(long)]
        accept_loss: bool,
    },
    /// Say whether the databases agree with the ledger, and whether it is what was written
    Status,
}

/// With all that a worker has, for an erasure needs it: databases, keys, keyholder.
pub async fn run(command: Command) -> Result<(), Failure> {
    let settings = settings(Role::Worker)?;
    let flows = app::flows_alone(&settings, Arc::new(SystemClock)).await;
    let flows = flows.map_err(|error| Failure::because("the service could not be set up", error))?;
    match command {
        Command::Replay => {
            let replayed = ledger::replay(&flows).await.map_err(failed)?;
            println!("{} erasures looked at, {} persons erased again", replayed.seen, replayed.erased_again);
        }
        Command::Rebuild { accept_loss } => rebuild_ledger(&flows, accept_loss).await?,
        Command::Status => tell_losses(&flows).await?,
    }
    match ledger::check_whole(&flows).await.map_err(failed)? {
        LedgerState::Settled => {
            println!("the databases agree with the ledger");
            Ok(())
        }
        LedgerState::ReplayNeeded => {
            Err(Failure::plain("a restored database has erased persons in it").next("run: velum erasures replay"))
        }
        LedgerState::LedgerBehind => Err(Failure::plain("the ledger lacks entries that a database remembers").next(
            "restore the ledger's newest backup, then run: velum erasures rebuild (docs/operations.md, A ledger without \
             its end)",
        )),
        LedgerState::LedgerBroken { sequence } => {
            Err(Failure::plain(format!("the ledger is not what was written, at entry {sequence} or just before")).next(
                "somebody changed it, or its disk did: restore its newest backup, then run: velum erasures rebuild \
                 (docs/operations.md, A ledger without its end)",
            ))
        }
    }
}

fn failed(error: FlowError) -> Failure {
    Failure::because("the ledger and the databases could not be compared", error)
}

async fn rebuild_ledger(flows: &Flows, accept_loss: bool) -> Result<(), Failure> {
    let rebuilt = match rebuild(flows, accept_loss).await {
        Err(RebuildError::LossNotAccepted(unknown)) => {
            let refused = Failure::plain(RebuildError::LossNotAccepted(unknown).to_string());
            return Err(refused.next(
                "nothing was changed; what this means, and when to give --accept-loss: docs/operations.md, A ledger without \
                 its end",
            ));
        }
        Err(RebuildError::Flow(error)) => return Err(failed(error)),
        Ok(rebuilt) => rebuilt,
    };
    println!(
        "{} erasures written into the ledger, {} persons erased again",
        rebuilt.written, rebuilt.replayed.erased_again
    );
    if !rebuilt.unknown.is_nothing() {
        let Unknown { entries, requests } = rebuilt.unknown;
        println!("not written: {entries} lost entries, {requests} requests of persons who are not known any more");
    }
    Ok(())
}

async fn tell_losses(flows: &Flows) -> Result<(), Failure> {
    for loss in ledger::losses(flows).await.map_err(failed)? {
        let at = loss.at.format(&Rfc3339).unwrap_or_default();
        println!("{at}: an operator accepted that entries after {} up to {} are lost", loss.ended_at, loss.remembered);
    }
    Ok(())
}
