//! A client app in a few lines: what `velum demo`, `velum smoke` and `velum bench` know of the service, they know through this.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use reqwest::{Client, Method, RequestBuilder, StatusCode, header};
use serde_json::{Value, json};

/// A tenant's credential, as the server's own file holds it.
#[derive(serde::Deserialize)]
pub struct Credential {
    pub client_id: String,
    pub client_secret: String,
}

pub struct ApiClient {
    http: Client,
    base: String,
    token: String,
}

/// An answer that is no success: the problem's code, as documented.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: StatusCode,
    pub code: String,
}

impl ApiClient {
    /// Fetches an access token by client credentials.
    pub async fn sign_in(http: Client, base: String, credential: &Credential) -> Result<Self> {
        let stranger = Self { http, base, token: String::new() };
        let token = stranger.buy_token(credential).await?;
        Ok(Self { token, ..stranger })
    }

    pub async fn buy_token(&self, credential: &Credential) -> Result<String> {
        let request = self
            .http
            .post(format!("{}/oauth/token", self.base))
            .basic_auth(&credential.client_id, Some(&credential.client_secret))
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body("grant_type=client_credentials");
        let answer: Value = request.send().await?.error_for_status()?.json().await?;
        Ok(answer["access_token"].as_str().context("the token answer holds no access_token")?.to_owned())
    }

    /// Whatever the answer is.
    pub async fn get_status(&self, path: &str) -> Result<StatusCode> {
        self.status(self.request(Method::GET, path)).await
    }

    /// The same for a call without a body.
    pub async fn post_status(&self, path: &str) -> Result<StatusCode> {
        self.status(self.request(Method::POST, path)).await
    }

    async fn status(&self, request: RequestBuilder) -> Result<StatusCode> {
        let answer = request.send().await?;
        let status = answer.status();
        answer.bytes().await?;
        Ok(status)
    }

    pub async fn create_subject(&self, external_ref: &str) -> Result<String> {
        let body = json!({ "external_ref": external_ref });
        self.id_of(self.request(Method::POST, "/v1/subjects").json(&body)).await
    }

    pub async fn grant_consent(&self, subject: &str) -> Result<String> {
        let body = json!({ "purpose": "face_verification", "notice_version": "demo-1" });
        self.id_of(self.request(Method::POST, &format!("/v1/subjects/{subject}/consents")).json(&body)).await
    }

    pub async fn withdraw_consent(&self, subject: &str, consent: &str) -> Result<()> {
        let path = format!("/v1/subjects/{subject}/consents/{consent}/withdraw");
        self.success(self.request(Method::POST, &path)).await.map(drop)
    }

    pub async fn enrol(&self, subject: &str, image: &Photo) -> Result<String> {
        self.id_of(self.with_image(&format!("/v1/subjects/{subject}/enrolments"), image)).await
    }

    /// The decision and how long it took on the wire, or why there is none.
    pub async fn verify(&self, subject: &str, image: &Photo) -> Result<Result<(Value, Duration), Refusal>> {
        let start = Instant::now();
        let answer = self.send(self.with_image(&format!("/v1/subjects/{subject}/verifications"), image)).await?;
        Ok(answer.map(|body| (body, start.elapsed())))
    }

    pub async fn erase(&self, subject: &str) -> Result<()> {
        self.success(self.request(Method::DELETE, &format!("/v1/subjects/{subject}"))).await.map(drop)
    }

    /// Opens an erasure request, which then waits to be verified.
    pub async fn ask_for_erasure(&self, subject: &str) -> Result<String> {
        let body = json!({ "subject_id": subject });
        self.id_of(self.request(Method::POST, "/v1/erasure-requests").json(&body)).await
    }

    pub async fn subject(&self, subject: &str) -> Result<Result<Value, Refusal>> {
        self.send(self.request(Method::GET, &format!("/v1/subjects/{subject}"))).await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base)).bearer_auth(&self.token)
    }

    fn with_image(&self, path: &str, image: &Photo) -> RequestBuilder {
        self.request(Method::POST, path).header(header::CONTENT_TYPE, image.media_type).body(image.bytes.clone())
    }

    async fn id_of(&self, request: RequestBuilder) -> Result<String> {
        let body = self.success(request).await?;
        Ok(body["id"].as_str().context("the answer holds no id")?.to_owned())
    }

    async fn success(&self, request: RequestBuilder) -> Result<Value> {
        match self.send(request).await? {
            Ok(body) => Ok(body),
            Err(Refusal { status, code }) => bail!("the server answered {status} ({code})"),
        }
    }

    async fn send(&self, request: RequestBuilder) -> Result<Result<Value, Refusal>> {
        let answer = request.send().await.context("the server did not answer")?;
        let status = answer.status();
        let body = answer.bytes().await?;
        let body: Value = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body)? };
        if status.is_success() {
            return Ok(Ok(body));
        }
        let code = body["code"].as_str().unwrap_or("no code").to_owned();
        Ok(Err(Refusal { status, code }))
    }
}

/// An encoded image and what it is.
#[derive(Clone)]
pub struct Photo {
    pub bytes: Vec<u8>,
    pub media_type: &'static str,
}
