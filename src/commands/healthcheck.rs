//! `velum healthcheck`: one question to a process of this machine, answered by the exit code.

use std::time::Duration;

use clap::Args;

use reqwest::{Client, ClientBuilder};

use super::{
    Failure, settings,
    way::{Way, local_address},
};
use crate::{
    settings::{Role, Settings},
    tls,
};

/// A container's health check gives up after a few seconds itself.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    way: Way,
    /// Ask a worker or a keyholder, at VELUM_METRICS_LISTEN, whether it is alive; without it a server, whether it is ready
    #[arg(long, conflicts_with_all = ["socket", "name", "ca"])]
    alive: bool,
}

pub async fn run(arguments: Arguments) -> Result<(), Failure> {
    let settings = settings(Role::Tool)?;
    if arguments.alive {
        // Without TLS; but a client does not begin without knowing how it would be done.
        let tls = tls::outgoing_client(None).map_err(|error| Failure::because("the process was not asked", error))?;
        let client = Client::builder().tls_backend_preconfigured(tls).no_proxy();
        return ask(client, &alive_at(&settings)?, "alive").await;
    }
    let (client, base) = arguments.way.client(&settings).await?;
    ask(client, &format!("{base}/readyz"), "ready").await
}

fn alive_at(settings: &Settings) -> Result<String, Failure> {
    let unset = || Failure::plain("whether it is alive is told at VELUM_METRICS_LISTEN, which is not set".to_owned());
    let address = settings.server.metrics_listen.ok_or_else(unset)?;
    Ok(format!("http://{}/livez", local_address(address)))
}

async fn ask(client: ClientBuilder, url: &str, wanted: &str) -> Result<(), Failure> {
    let unanswered = |error| Failure::because("the process does not answer", error);
    let client = client.timeout(ANSWER_TIME_MAX).build().map_err(unanswered)?;
    let answer = client.get(url).send().await.map_err(unanswered)?;
    match answer.status() {
        status if status.is_success() => {
            println!("{wanted}");
            Ok(())
        }
        status => Err(Failure::plain(format!("the process is not {wanted}: it answers {status}"))),
    }
}
