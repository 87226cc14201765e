//! `velum keys rotate field`: the current key-encryption key takes over from the others, while servers work.

use std::collections::BTreeMap;

use clap::Args;
use serde_json::json;

use super::{Failure, open_keystore, open_store, progress, record, settings};
use crate::{
    audit::Action,
    domain::clock::{Clock, SystemClock},
    flows::exchange::{Exchange, Progress},
    secrets,
    settings::{Role, Settings},
    store::{KeyStore, Store, StoreError},
};

#[derive(Args)]
pub struct Arguments {
    /// Say how many keys are wrapped by each key-encryption key, and change nothing
    #[arg(long)]
    status: bool,
    /// Also give every person another data key and seal everything anew under it
    #[arg(long, conflicts_with = "status")]
    data_keys: bool,
    /// With --data-keys: leave those alone that are younger, of a run before this one
    #[arg(long, value_name = "HOURS", default_value_t = 24, requires = "data_keys")]
    older_than: u32,
    /// Then put the older key-encryption keys out of use, for ever, and remove their files on this host
    #[arg(long, conflicts_with = "status")]
    retire: bool,
    /// One JSON object a line, for machines
    #[arg(long)]
    json: bool,
}

pub async fn run(arguments: Arguments) -> Result<(), Failure> {
    let settings = settings(Role::Tool)?;
    let keystore = open_keystore(&settings).await?;
    if !arguments.status {
        let store = open_store(&settings).await?;
        rewrap(&keystore, &store, arguments.json).await?;
        if arguments.data_keys {
            exchange(&keystore, &store, &settings, &arguments).await?;
        }
        if arguments.retire {
            retire(&keystore, &store, &settings, arguments.json).await?;
        }
    }
    report(&keystore, arguments.json).await.map_err(failed)
}

/// Step by step; what a killed run has done stays done, and the rows say what is left.
async fn rewrap(keystore: &KeyStore, store: &Store, json: bool) -> Result<(), Failure> {
    let left = others(keystore).await.map_err(failed)?.values().sum::<u64>();
    if left > 0 {
        record(store, Action::FieldKeyTookOver, keystore.current_kek()).await?;
    }
    let bar = progress::counted("re-wrapping", left as usize);
    let (mut done, mut unreadable, mut after) = (0, 0, None);
    loop {
        let step = keystore.rewrap(after).await.map_err(failed)?;
        done += step.rows;
        unreadable += step.unreadable.len();
        bar.set_position(done);
        if json {
            println!("{}", json!({ "rewrapped": done, "left": left.saturating_sub(done) }));
        }
        for subject in &step.unreadable {
            eprintln!(
                "the data key of {subject} does not open: its key-encryption key is missing, or the row was altered"
            );
        }
        match step.next {
            Some(subject) => after = Some(subject),
            None => break,
        }
    }
    keystore.rewrap_address_keys().await.map_err(failed)?;
    keystore.scrub().await.map_err(failed)?;
    bar.finish_and_clear();
    match unreadable {
        0 => Ok(()),
        keys => Err(Failure::plain(format!("{keys} data keys could not be re-wrapped; everything else was")).next(
            "bring back the key-encryption keys that `velum keys rotate field --status` names, and run it again",
        )),
    }
}

/// Waits twice for the requests of before; a run that was killed is taken up by the next one.
async fn exchange(
    keystore: &KeyStore,
    store: &Store,
    settings: &Settings,
    arguments: &Arguments,
) -> Result<(), Failure> {
    record(store, Action::DataKeysExchanged, keystore.current_kek()).await?;
    // A request that has read a key or a row has ended by then, one of another host with a clock of its own as well.
    let patience = 2 * settings.server.request_timeout;
    let exchange = Exchange { store: store.clone(), keystore: keystore.clone(), patience };
    let made_before = SystemClock.now() - time::Duration::hours(arguments.older_than.into());
    let bar = progress::spinner("exchanging data keys");
    let tell = |step: Progress| {
        let line = match step {
            Progress::Begun { persons } => json!({ "begun": persons }),
            Progress::Waiting { seconds } => json!({ "waiting_s": seconds }),
            Progress::Resealed { persons, of } => json!({ "resealed": persons, "of": of }),
            Progress::Finished { persons } => json!({ "exchanged": persons }),
        };
        bar.set_message(format!("exchanging data keys {line}"));
        if arguments.json {
            println!("{line}");
        }
    };
    let unreadable = exchange.run(made_before, tell).await;
    bar.finish_and_clear();
    let unreadable = unreadable.map_err(|error| Failure::because("the data keys", error))?;
    for subject in &unreadable {
        eprintln!("something of {subject} does not open; that person keeps both keys");
    }
    match unreadable.len() {
        0 => Ok(()),
        persons => Err(Failure::plain(format!("the data keys of {persons} persons were not exchanged"))),
    }
}

async fn retire(keystore: &KeyStore, store: &Store, settings: &Settings, json: bool) -> Result<(), Failure> {
    let current = keystore.current_kek();
    // Names sort by age: a key that is younger than the current one may be about to follow it.
    for kek in keystore.known_keks().into_iter().filter(|kek| *kek < current) {
        record(store, Action::FieldKeyRetired, &kek).await?;
        keystore.retire(&kek, SystemClock.now()).await.map_err(|error| match error {
            StoreError::KeyInUse { .. } => failed(error).next("a server wrapped by it meanwhile: run this again"),
            other => failed(other),
        })?;
    }
    for id in keystore.retired_keks().await.map_err(failed)? {
        let removed = secrets::remove_kek(&settings.secrets.dir, &id);
        let removed = removed.map_err(|error| Failure::because("the file of a retired key is still there", error))?;
        if let Some(path) = removed.filter(|_| !json) {
            println!("retired {id}, removed {}; remove it on every other host", path.display());
        }
    }
    Ok(())
}

async fn others(keystore: &KeyStore) -> Result<BTreeMap<String, u64>, StoreError> {
    let mut counts = keystore.keys_by_kek().await?;
    counts.remove(keystore.current_kek().as_str());
    Ok(counts)
}

async fn report(keystore: &KeyStore, json: bool) -> Result<(), StoreError> {
    let (current, counts, retired) =
        (keystore.current_kek(), keystore.keys_by_kek().await?, keystore.retired_keks().await?);
    let retired: Vec<_> = retired.iter().map(|kek| kek.as_str()).collect();
    let left = others(keystore).await?.values().sum::<u64>();
    if json {
        println!("{}", json!({ "current": current.as_str(), "keys": counts, "left": left, "retired": retired }));
        return Ok(());
    }
    for (kek, keys) in &counts {
        println!("{kek:<24} wraps {keys} keys{}", if *kek == current.as_str() { ", current" } else { "" });
    }
    for kek in retired {
        println!("{kek:<24} retired");
    }
    match left {
        0 if keystore.known_keks().len() > 1 => {
            println!(
                "next: velum keys rotate field --retire, as soon as no backup of the key store that you may restore needs the old one"
            );
        }
        0 => println!("nothing to do; for another key: velum keys generate --kind kek"),
        left => println!("next: velum keys rotate field ({left} keys to re-wrap)"),
    }
    Ok(())
}

fn failed(error: StoreError) -> Failure {
    Failure::because("the key store", error)
}
