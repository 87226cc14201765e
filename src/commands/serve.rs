//! `velum serve`: settings, log, app, and then it runs until it is told to stop.

use std::sync::Arc;

use super::{Failure, settings};
use crate::{app::App, domain::clock::SystemClock, settings::Role, telemetry};

pub async fn run() -> Result<(), Failure> {
    let settings = settings(Role::Serve)?;
    telemetry::start(&settings.log);
    let failed = |error| Failure::because("the server could not run", error);
    let app = App::build(settings, Arc::new(SystemClock)).await.map_err(failed)?;
    app.run().await.map_err(failed)
}
