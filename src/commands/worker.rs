//! `velum worker`: the jobs, without a door for anybody.

use std::sync::Arc;

use super::{Failure, settings};
use crate::{app, domain::clock::SystemClock, settings::Role, telemetry};

pub async fn run() -> Result<(), Failure> {
    let settings = settings(Role::Worker)?;
    telemetry::start(&settings.log);
    app::work(settings, Arc::new(SystemClock))
        .await
        .map_err(|error| Failure::because("the worker could not run", error))
}
