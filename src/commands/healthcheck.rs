//! `velum healthcheck`: one question to the server of this machine, answered by the exit code.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use clap::Args;
use reqwest::Url;
use tokio::{
    io::{AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
};

use super::{Failure, settings};
use crate::{
    http::proxy_protocol,
    settings::{Role, Settings},
    tls,
};

/// A container's health check gives up after a few seconds itself.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);

#[derive(Args)]
pub struct Arguments {
    /// Name that the server's certificate carries; without it, the host of VELUM_ISSUER
    #[arg(long, value_name = "HOST")]
    name: Option<String>,
    /// Authority that signed the certificate; without it, VELUM_TLS_CA_FILE or the self-made one of the data folder
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

pub async fn run(arguments: Arguments) -> Result<(), Failure> {
    let settings = settings(Role::Tool)?;
    let mut address = local_address(settings.server.listen);
    if settings.server.proxy_protocol {
        let introduced = introduced(address).await;
        address = introduced.map_err(|error| Failure::because("the server was not asked", error))?;
    }
    let url = url(&settings, arguments.name, address)?;
    let self_made = settings.data_dir.join("tls").join("ca.pem");
    let authority = arguments.ca.or(settings.server.tls_authority).unwrap_or(self_made);
    let trust = tls::public_client(&authority).map_err(|error| Failure::because("the server was not asked", error))?;
    let answer =
        ask(url, trust, address).await.map_err(|error| Failure::because("the server does not answer", error))?;
    match answer.status() {
        status if status.is_success() => {
            println!("ready");
            Ok(())
        }
        status => Err(Failure::plain(format!("the server is not ready: it answers {status}"))),
    }
}

/// The name is for the certificate; the connection goes to this machine's own listener, whatever the name resolves to.
async fn ask(url: Url, trust: rustls::ClientConfig, address: SocketAddr) -> reqwest::Result<reqwest::Response> {
    let host = url.host_str().unwrap_or_default().to_owned();
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(trust)
        .https_only(true)
        .no_proxy()
        .resolve(&host, address)
        .timeout(ANSWER_TIME_MAX)
        .build()?;
    client.get(url).send().await
}

/// A way to a server that expects the header of the PROXY protocol, which an HTTP client does not send.
async fn introduced(server: SocketAddr) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        let (mut ours, _) = listener.accept().await?;
        let mut theirs = TcpStream::connect(server).await?;
        theirs.write_all(proxy_protocol::LOCAL).await?;
        copy_bidirectional(&mut ours, &mut theirs).await
    });
    Ok(address)
}

fn url(settings: &Settings, name: Option<String>, address: SocketAddr) -> Result<Url, Failure> {
    let unusable = |error| Failure::because("the server's name cannot be used", error);
    let issuer = Url::parse(&settings.tokens.issuer).map_err(unusable)?;
    let name = name.or_else(|| issuer.host_str().map(str::to_owned)).unwrap_or_default();
    Url::parse(&format!("https://{name}:{}/readyz", address.port())).map_err(unusable)
}

/// A server that listens on every address listens on the loopback address too.
fn local_address(listen: SocketAddr) -> SocketAddr {
    let mut address = listen;
    if listen.ip().is_unspecified() {
        address.set_ip(if listen.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() });
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_every_address_is_asked_on_the_loopback() {
        for (listen, asked) in
            [("0.0.0.0:8443", "127.0.0.1:8443"), ("[::]:8443", "[::1]:8443"), ("10.0.0.7:8443", "10.0.0.7:8443")]
        {
            assert_eq!(local_address(listen.parse().unwrap()), asked.parse().unwrap());
        }
    }

    #[test]
    fn the_name_comes_from_the_issuer_or_the_caller() {
        let settings = Settings::embedded(std::path::Path::new("data")).unwrap();
        let address = "127.0.0.1:9443".parse().unwrap();
        let text = |name: Option<&str>| url(&settings, name.map(str::to_owned), address).ok().unwrap().to_string();
        assert_eq!(text(None), "https://localhost:9443/readyz");
        assert_eq!(text(Some("velum.internal")), "https://velum.internal:9443/readyz");
    }
}
