//! Calls to addresses that others gave us: over TLS, to hosts of the public Internet alone, and to exactly the address that was
//! looked at.
//!
//! An address that a caller names is a way to make this server speak to what only it can reach (a database, a cloud's metadata
//! service). So every connection is made to a host that [`is_public`], or lies in a network that the operator has named: an
//! address in the URL is looked at as it stands, and a name is resolved here, by the same resolver that the connection takes
//! its addresses from, so that there is no second answer. A redirect is an answer like any other that is not 2xx: a failure.

use std::{error::Error, net::IpAddr, sync::Arc, time::Duration};

use reqwest::{
    Client, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    header::CONTENT_TYPE,
    redirect, retry,
};
use tokio::net::lookup_host;

use crate::domain::network::{ClientAddress, Networks, is_public};

/// TCP and TLS together.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// From the name to the head of the answer; its body is not read.
const CALL_TIME_MAX: Duration = Duration::from_secs(10);
/// Longest address that is taken.
pub const URL_CHARACTERS_MAX: usize = 2_000;

/// Why an address is not called. Never the address itself: it may hold a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("is no URL of at most {URL_CHARACTERS_MAX} characters")]
    NoUrl,
    #[error("does not begin with https://")]
    NoTls,
    #[error("names a user, or a fragment")]
    MoreThanAnAddress,
    #[error("is not on the public Internet")]
    NotPublic,
}

#[derive(Debug, thiserror::Error)]
pub enum CallbackError {
    #[error("the address {0}")]
    Refused(#[from] Refusal),
    #[error("the receiver answered {0}")]
    Answer(u16),
    #[error("the receiver could not be reached")]
    Unreachable(#[source] reqwest::Error),
}

#[derive(Debug, thiserror::Error)]
#[error("the client for callbacks could not be set up")]
pub struct CallbackSetupError(#[source] reqwest::Error);

/// Cheap to clone.
#[derive(Clone)]
pub struct Callbacks {
    client: Client,
    reach: Arc<Reach>,
}

impl Callbacks {
    /// `tls` comes from [`tls::outgoing_client`](crate::tls::outgoing_client). `also`: networks that are not public and may be
    /// called all the same.
    pub fn new(tls: rustls::ClientConfig, also: Networks) -> Result<Self, CallbackSetupError> {
        let reach = Arc::new(Reach { also });
        // No proxy, no redirect, no retry, and no connection kept: each call is looked at anew.
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .https_only(true)
            .no_proxy()
            .dns_resolver(Arc::clone(&reach))
            .redirect(redirect::Policy::none())
            .retry(retry::never())
            .connect_timeout(CONNECT_TIME_MAX)
            .timeout(CALL_TIME_MAX)
            .pool_max_idle_per_host(0)
            .user_agent("velum")
            .build()
            .map_err(CallbackSetupError)?;
        Ok(Self { client, reach })
    }

    /// Whether this is an address that may be called, as far as can be told without asking for its name.
    pub fn check(&self, address: &str) -> Result<(), Refusal> {
        self.reach.read(address).map(drop)
    }

    /// Posts JSON. Any 2xx will do, and the rest of the answer is not looked at.
    pub async fn post(
        &self,
        address: &str,
        headers: &[(&'static str, &str)],
        body: Vec<u8>,
    ) -> Result<(), CallbackError> {
        let call = self.client.post(self.reach.read(address)?).header(CONTENT_TYPE, "application/json");
        let call = headers.iter().fold(call, |call, (name, value)| call.header(*name, *value)).body(body);
        match call.send().await {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => Err(CallbackError::Answer(answer.status().as_u16())),
            Err(error) if was_refused(&error) => Err(Refusal::NotPublic.into()),
            Err(error) => Err(CallbackError::Unreachable(error.without_url())),
        }
    }
}

fn was_refused(error: &reqwest::Error) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.is::<Refusal>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Which hosts may be called.
struct Reach {
    also: Networks,
}

impl Reach {
    fn read(&self, address: &str) -> Result<Url, Refusal> {
        let short = Some(address).filter(|address| address.chars().count() <= URL_CHARACTERS_MAX);
        let url = short.and_then(|address| Url::parse(address).ok()).ok_or(Refusal::NoUrl)?;
        if url.scheme() != "https" {
            return Err(Refusal::NoTls);
        }
        if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
            return Err(Refusal::MoreThanAnAddress);
        }
        // What the parser took for a number in any of its notations stands here as four, and IPv6 between brackets.
        let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        match host.parse::<IpAddr>() {
            Ok(address) if !self.admits(address) => Err(Refusal::NotPublic),
            _ => Ok(url),
        }
    }

    fn admits(&self, address: IpAddr) -> bool {
        is_public(address) || self.also.contains(ClientAddress::new(address))
    }
}

impl Resolve for Reach {
    fn resolve(&self, name: Name) -> Resolving {
        let also = Self { also: self.also.clone() };
        Box::pin(async move {
            let found: Vec<_> = lookup_host((name.as_str(), 0)).await?.collect();
            // One address of the inside spoils the name: nobody with good intentions has both.
            if found.iter().any(|address| !also.admits(address.ip())) {
                return Err(Refusal::NotPublic.into());
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}
