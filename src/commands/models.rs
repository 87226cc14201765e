//! `velum models`: what the manifest says about the face models, and whether the files are those it was written for.

use clap::Subcommand;

use super::{Failure, settings};
use crate::{
    face::{card::ModelCard, manifest::Manifest},
    settings::Role,
};

#[derive(Subcommand)]
pub enum Command {
    /// Show the model cards: licence, metric, thresholds and the data they were measured on
    List,
    /// Check every file against the manifest
    Verify,
}

pub fn run(command: Command) -> Result<(), Failure> {
    let face = settings(Role::Tool)?.face;
    let manifest = Manifest::read(&face.models_dir).map_err(failed)?;
    let used = manifest.embedder(face.embedder.as_ref()).map_err(failed)?;
    match command {
        Command::List => {
            println!("detector {}\n  {}", manifest.detector.id, manifest.detector.summary);
            manifest.embedders.iter().for_each(|card| show(card, card.id == used.id));
        }
        Command::Verify => {
            for (role, file) in manifest.files() {
                let bytes = file.read_verified(&face.models_dir).map_err(failed)?.len();
                println!("{:<32} {role:<20} {bytes:>9} bytes, as the manifest says", file.file);
            }
        }
    }
    Ok(())
}

fn show(card: &ModelCard, used: bool) {
    println!("\nembedder {}{}", card.id, if used { " (in use)" } else { "" });
    println!("  {}", card.summary);
    println!("  named {} in answers and stored templates", card.model_id());
    println!("  licence {}, from {} {}", card.model.licence, card.model.package, card.model.version);
    println!("  {} dimensions, {}", card.output.dimension, card.matching.metric.as_str());
    for stated in &card.matching.thresholds {
        let (rate, threshold) = (stated.false_match_rate, stated.threshold);
        println!("  false-match rate {rate}: threshold {threshold}, measured on {}", stated.data);
    }
}

fn failed(error: impl std::error::Error) -> Failure {
    Failure::because("the models cannot be used", error).next("restore the folder, or set VELUM_MODELS_DIR")
}
