//! The way to the server of this machine, for `velum healthcheck` and `velum smoke`.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use clap::Args;
use reqwest::{Client, ClientBuilder, Url};
use tokio::{
    io::{AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
};

use super::Failure;
use crate::{http::proxy_protocol, settings::Settings, tls};

#[derive(Args)]
pub struct Way {
    /// Unix socket of the server; without it, VELUM_LISTEN is asked
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Name that the server's certificate carries; without it, the host of VELUM_ISSUER
    #[arg(long, value_name = "HOST")]
    name: Option<String>,
    /// Authority that signed the certificate; without it, VELUM_TLS_CA_FILE or the self-made one of the data folder
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

impl Way {
    /// A client that reaches this server alone, and the address that its requests begin with. The name in it is for the
    /// certificate; the connection goes to this machine's own listener, whatever the name resolves to.
    pub async fn client(self, settings: &Settings) -> Result<(ClientBuilder, String), Failure> {
        let unasked = |error| Failure::because("the server was not asked", error);
        let self_made = settings.data_dir.join("tls").join("ca.pem");
        let authority = self.ca.as_ref().or(settings.server.tls_authority.as_ref()).unwrap_or(&self_made);
        let trust = tls::public_client(authority);
        let trust = trust.map_err(|error| Failure::because("the server was not asked", error))?;
        let client = Client::builder().tls_backend_preconfigured(trust).https_only(true).no_proxy();
        let name = name(settings, self.name)?;
        if let Some(socket) = self.socket {
            return Ok((client.unix_socket(socket), format!("https://{name}")));
        }
        let mut address = local_address(settings.server.listen);
        if settings.server.proxy_protocol {
            address = introduced(address).await.map_err(unasked)?;
        }
        Ok((client.resolve(&name, address), format!("https://{name}:{}", address.port())))
    }
}

/// A way to a server that expects the header of the PROXY protocol, which an HTTP client does not send.
async fn introduced(server: SocketAddr) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut ours, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut theirs = TcpStream::connect(server).await?;
                theirs.write_all(proxy_protocol::LOCAL).await?;
                copy_bidirectional(&mut ours, &mut theirs).await
            });
        }
    });
    Ok(address)
}

fn name(settings: &Settings, given: Option<String>) -> Result<String, Failure> {
    let unusable = |error| Failure::because("the server's name cannot be used", error);
    let issuer = Url::parse(&settings.tokens.issuer).map_err(unusable)?;
    let name = given.or_else(|| issuer.host_str().map(str::to_owned)).unwrap_or_default();
    let whole = Url::parse(&format!("https://{name}/")).map_err(unusable)?;
    Ok(whole.host_str().unwrap_or_default().to_owned())
}

/// A server that listens on every address listens on the loopback address too.
pub fn local_address(listen: SocketAddr) -> SocketAddr {
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
        assert_eq!(name(&settings, None).ok().unwrap(), "localhost");
        assert_eq!(name(&settings, Some("velum.internal".to_owned())).ok().unwrap(), "velum.internal");
        assert!(name(&settings, Some("no name".to_owned())).is_err());
    }
}
