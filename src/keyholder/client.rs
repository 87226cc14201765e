//! The edge's end of the link to `velum keyholder`.

use std::{error::Error, time::Duration};

use reqwest::{Method, RequestBuilder, Response, StatusCode, Url, redirect, retry};

use crate::{
    domain::{
        decision::Decision,
        id::{SubjectId, TenantId},
    },
    fhe::keys::KeyId,
};

use super::{KeyholderError, OpenRequest, wire};

/// TCP and TLS together.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(1);
/// From the question to the last byte of the answer, a second attempt to connect included.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);
/// Before the one further attempt, when no connection could be made: a keyholder that is just being restarted.
const RECONNECT_DELAY: Duration = Duration::from_millis(200);
/// Shorter than the keyholder keeps idle connections, so that a question is never written to one that is closing.
const IDLE_TIME_MAX: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub enum RemoteSetupError {
    #[error("the keyholder's address must be an https:// URL without a path")]
    InvalidUrl,
    #[error("the client of the keyholder could not be set up")]
    Client(#[source] reqwest::Error),
}

/// A keyholder in another process. Cheap to clone; clones share their connections.
#[derive(Clone)]
pub struct RemoteKeyholder {
    client: reqwest::Client,
    address: Url,
    /// The key that this edge encrypts under.
    key: KeyId,
}

impl RemoteKeyholder {
    /// `tls` comes from [`tls::keyholder_client`](crate::tls::keyholder_client). Nothing is connected yet.
    pub fn new(address: &str, tls: rustls::ClientConfig, key: KeyId) -> Result<Self, RemoteSetupError> {
        let address = Url::parse(address).map_err(|_| RemoteSetupError::InvalidUrl)?;
        if address.scheme() != "https" || address.path() != "/" || address.query().is_some() {
            return Err(RemoteSetupError::InvalidUrl);
        }
        // No proxy, no redirect, no retry: a question goes to the keyholder, once, or nowhere.
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .https_only(true)
            .no_proxy()
            .redirect(redirect::Policy::none())
            .retry(retry::never())
            .connect_timeout(CONNECT_TIME_MAX)
            .timeout(ANSWER_TIME_MAX)
            .pool_idle_timeout(IDLE_TIME_MAX)
            .build()
            .map_err(RemoteSetupError::Client)?;
        Ok(Self { client, address, key })
    }

    pub(super) async fn open(&self, request: OpenRequest) -> Result<Decision, KeyholderError> {
        let question = self
            .request(Method::POST, wire::OPEN)
            .header(wire::KEY, self.key.to_string())
            .header(wire::VERIFICATION, request.verification.to_string())
            .header(wire::TENANT, request.tenant.to_string())
            .header(wire::SUBJECT, request.subject.to_string())
            .body(wire::write_decisions(&request.decisions));
        let answer: wire::Answer = ask(question, Response::json).await?;
        answer.decision().ok_or_else(KeyholderError::unavailable)
    }

    pub(super) async fn forget(&self, tenant: TenantId, subject: SubjectId) -> Result<Option<u64>, KeyholderError> {
        let wish = self
            .request(Method::POST, wire::FORGET)
            .header(wire::TENANT, tenant.to_string())
            .header(wire::SUBJECT, subject.to_string());
        ask(wish, forgotten).await
    }

    pub(super) async fn ready(&self) -> Result<(), KeyholderError> {
        let question = self.request(Method::GET, wire::READY);
        let readiness: wire::Readiness = ask(question, Response::json).await?;
        let ours = Some(self.key.to_string());
        if Some(readiness.key) == ours || readiness.retiring == ours { Ok(()) } else { Err(KeyholderError::WrongKey) }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let mut url = self.address.clone();
        url.set_path(path);
        self.client.request(method, url)
    }
}

/// Sends, and reads a good answer with `read`; everything between here and the keyholder that fails is `Unavailable`.
async fn ask<T>(
    question: RequestBuilder,
    read: impl AsyncFnOnce(Response) -> reqwest::Result<T>,
) -> Result<T, KeyholderError> {
    let exchange = async {
        let response = send(question).await?;
        if response.status().is_success() {
            return read(response).await.map(Ok);
        }
        let status = response.status();
        let problem = response.json::<wire::Problem>().await;
        Ok(Err(problem.map_or_else(
            |_| {
                tracing::warn!(event = "keyholder_foreign_answer", %status, "the keyholder's address gives answers that are not the keyholder's");
                KeyholderError::unavailable()
            },
            |problem| problem.meaning(),
        )))
    };
    match tokio::time::timeout(ANSWER_TIME_MAX, exchange).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => {
            tracing::warn!(
                event = "keyholder_unreachable",
                error = &error as &dyn Error,
                "the keyholder could not be asked"
            );
            Err(KeyholderError::unavailable())
        }
        Err(_) => {
            tracing::warn!(event = "keyholder_too_slow", "the keyholder did not answer in time");
            Err(KeyholderError::unavailable())
        }
    }
}

/// A keyholder of before has nothing to say about it.
async fn forgotten(response: Response) -> reqwest::Result<Option<u64>> {
    match response.status() {
        StatusCode::NO_CONTENT => Ok(None),
        _ => Ok(response.json::<wire::Forgotten>().await?.counters),
    }
}

/// A second attempt is made only when there was no connection, so that the question cannot have left this process.
/// Everything later is ambiguous: the keyholder may have used up the verification id.
async fn send(question: RequestBuilder) -> reqwest::Result<Response> {
    let again = question.try_clone();
    match (question.send().await, again) {
        (Err(error), Some(again)) if error.is_connect() => {
            tokio::time::sleep(RECONNECT_DELAY).await;
            again.send().await
        }
        (outcome, _) => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_https_address_is_taken() {
        let directory = tempfile::tempdir().unwrap();
        let made = crate::tls::development::ensure(directory.path(), &[], time::OffsetDateTime::now_utc()).unwrap();
        let key: KeyId = "00112233445566778899aabbccddeeff".parse().unwrap();
        let set_up = |address: &str| {
            let tls = crate::tls::keyholder_client(&made.edge, &made.authority).unwrap();
            RemoteKeyholder::new(address, tls, key)
        };
        assert!(set_up("https://keyholder.internal:8444").is_ok());
        for bad in
            ["http://keyholder.internal", "keyholder.internal:8444", "https://host/path", "https://host/?a=b", ""]
        {
            assert!(matches!(set_up(bad), Err(RemoteSetupError::InvalidUrl)), "{bad}");
        }
    }
}
