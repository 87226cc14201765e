//! `velum keys rotate fhe`: another key of the encryption for the templates that are there, without new photos.
//!
//! Three steps, because the keys are made where the secret lies, and servers must know the new ones before the first template
//! is brought under them: `--begin` at the keyholder; restart; the re-keying itself at an edge; `--finish` at both.

use clap::Args;
use serde_json::json;

use super::{Failure, open_keystore, open_store, progress, record, settings};
use crate::{
    audit::Action,
    fhe::keys::KeyId,
    flows::{FlowError, rekey::Rekeying},
    secrets::{self, SecretsError},
    settings::{Role, Settings},
    store::Store,
};

#[derive(Args)]
pub struct Arguments {
    /// At the keyholder: make the next key set, and the way to it from the present one
    #[arg(long)]
    begin: bool,
    /// Say how many templates are left under the old key, and change nothing
    #[arg(long, conflicts_with = "begin")]
    status: bool,
    /// Destroy the old secret and the way from it; refused as long as a template lies under the old key
    #[arg(long, conflicts_with_all = ["begin", "status"])]
    finish: bool,
    /// On a keyholder's host, which has no database: an edge has told that nothing is left
    #[arg(long, requires = "finish")]
    nothing_left: bool,
    /// One JSON object a line, for machines
    #[arg(long)]
    json: bool,
}

pub async fn run(arguments: Arguments) -> Result<(), Failure> {
    let settings = settings(Role::Tool)?;
    let json = arguments.json;
    if arguments.begin {
        return begin(&settings);
    }
    if arguments.nothing_left {
        return finish(&settings);
    }
    let Some(rotation) = Rotation::prepare(&settings).await? else {
        if json {
            println!("{}", json!({ "left": 0, "under_way": false }));
        } else {
            println!("no rotation is under way; begin one where secret.key lies: velum keys rotate fhe --begin");
        }
        return Ok(());
    };
    if !arguments.status && !arguments.finish {
        rotation.rekey(json).await?;
    }
    let left = rotation.left().await?;
    if arguments.finish {
        return match left {
            0 => {
                record(&rotation.store, Action::FheKeyRetired, rotation.from).await?;
                finish(&settings)
            }
            left => Err(Failure::plain(format!("{left} templates lie under the old key still"))
                .next("velum keys rotate fhe; what does not open belongs to an erasure that is to be repeated")),
        };
    }
    if json {
        println!("{}", json!({ "left": left, "under_way": true }));
    } else {
        println!("{left} templates are left under the old key");
        if left == 0 {
            println!("next: velum keys rotate fhe --finish, here and (with --nothing-left) at the keyholder");
        }
    }
    Ok(())
}

fn begin(settings: &Settings) -> Result<(), Failure> {
    let folder = &settings.secrets.fhe_dir;
    let spinner = progress::spinner("making the next key set");
    let begun = secrets::begin_fhe_rotation(folder);
    spinner.finish_and_clear();
    let rekey = begun.map_err(|error| match error {
        SecretsError::Exists { .. } => {
            not_changed(error).next("a rotation is under way: velum keys rotate fhe --finish ends it")
        }
        other => not_changed(other),
    })?;
    println!("old key {}", rekey.from());
    println!("new key {}", rekey.to());
    println!(
        "next: restart the keyholder; bring public.key, evaluation.key and rekey.key from {} to",
        folder.display()
    );
    println!("      every edge and restart each; then, on one of them: velum keys rotate fhe");
    Ok(())
}

fn finish(settings: &Settings) -> Result<(), Failure> {
    let destroyed = secrets::finish_fhe_rotation(&settings.secrets.fhe_dir).map_err(not_changed)?;
    for path in &destroyed {
        println!("destroyed {}", path.display());
    }
    match destroyed.as_slice() {
        [] => println!("nothing to finish"),
        _ => {
            println!("next: destroy every copy of these files, and restart what runs here, so that it forgets them too")
        }
    }
    Ok(())
}

/// What is under way.
struct Rotation {
    from: KeyId,
    to: KeyId,
    store: Store,
    rekeying: Rekeying,
}

impl Rotation {
    /// `None` when there is no way from another key.
    async fn prepare(settings: &Settings) -> Result<Option<Self>, Failure> {
        let folder = &settings.secrets.fhe_dir;
        let keys = |error| Failure::because("the keys", error);
        let Some(rekey) = secrets::read_rekey(folder).map_err(keys)? else { return Ok(None) };
        let public_key = secrets::read_public_key(folder).map_err(keys)?;
        if rekey.to() != public_key.key_id() {
            return Err(Failure::plain(format!(
                "public.key and rekey.key in {} do not belong together",
                folder.display()
            ))
            .next("bring the files of one rotation from the keyholder"));
        }
        let (store, keystore) = (open_store(settings).await?, open_keystore(settings).await?);
        let (from, to) = (rekey.from(), rekey.to());
        let rekeying = Rekeying::new(store.clone(), keystore, rekey, public_key, settings.compute.workers);
        let rekeying = rekeying.map_err(|error| Failure::because("the threads", error))?;
        Ok(Some(Self { from, to, store, rekeying }))
    }

    async fn left(&self) -> Result<u64, Failure> {
        self.rekeying.left().await.map_err(failed)
    }

    /// Step by step until a walk over all templates finds nothing more to do: servers that were started before the rotation may
    /// enrol under the old key meanwhile.
    async fn rekey(&self, json: bool) -> Result<(), Failure> {
        let left = self.left().await?;
        if left > 0 {
            record(&self.store, Action::FheKeyTookOver, self.to).await?;
        }
        let bar = progress::counted("re-keying", left as usize);
        let (mut done, mut done_in_walk, mut unreadable, mut after) = (0, 0, Vec::new(), None);
        loop {
            let step = self.rekeying.step(after).await.map_err(failed)?;
            (done, done_in_walk, after) = (done + step.templates, done_in_walk + step.templates, step.next);
            unreadable.extend(step.unreadable);
            bar.set_position(done);
            if json {
                println!("{}", json!({ "rekeyed": done, "left": left.saturating_sub(done) }));
            }
            if after.is_none() {
                if done_in_walk == 0 {
                    break;
                }
                (done_in_walk, unreadable) = (0, Vec::new());
            }
        }
        self.rekeying.scrub().await.map_err(failed)?;
        bar.finish_and_clear();
        for enrolment in &unreadable {
            eprintln!("{enrolment} does not open: the person's data key is gone, or the row was altered");
        }
        Ok(())
    }
}

fn not_changed(error: SecretsError) -> Failure {
    Failure::because("the keys were not changed", error)
}

fn failed(error: FlowError) -> Failure {
    Failure::because("the templates", error)
}
