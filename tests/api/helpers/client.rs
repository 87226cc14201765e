//! A client app: HTTPS, a token, and the answers as they came.

use std::{convert::Infallible, path::Path, time::Duration};

use actix_web::web::Bytes;
use futures_util::{Stream, StreamExt as _};
use http_body::Frame;
use http_body_util::StreamBody;
use reqwest::{
    Method, RequestBuilder, StatusCode,
    header::{HeaderMap, HeaderName, HeaderValue},
    multipart::{Form, Part},
};
use serde_json::{Value, json};
use velum::tls;

use super::described::hold_against_document;

#[derive(Clone)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON in {} {:?}", self.status, self.text))
    }

    pub fn header(&self, name: &'static str) -> Option<&str> {
        self.headers.get(HeaderName::from_static(name)).and_then(|value| value.to_str().ok())
    }

    pub fn id(&self) -> String {
        self.json()["id"].as_str().unwrap_or_else(|| panic!("no id in {}", self.text)).to_owned()
    }

    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        self
    }

    /// Whether this is a complete problem of this status and code.
    #[track_caller]
    pub fn expect_problem(self, status: u16, code: &str) -> Self {
        let answer = self.expect(status);
        let problem = answer.json();
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        assert_eq!(problem["status"], status);
        assert_eq!(problem["type"], format!("urn:velum:problem:{code}"));
        assert_eq!(problem["request_id"].as_str(), answer.header("x-request-id"));
        let says_when = answer.header("retry-after").is_some();
        assert_eq!(problem["retryable"], says_when || matches!(status, 408 | 429 | 503));
        for member in ["title", "detail", "instance"] {
            assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{member} in {problem}");
        }
        answer
    }
}

/// `application/x-www-form-urlencoded`, by hand: no other part of the program needs it from its HTTP client.
pub trait WithForm {
    fn with_form(self, fields: &[(&str, &str)]) -> Self;
}

impl WithForm for RequestBuilder {
    fn with_form(self, fields: &[(&str, &str)]) -> Self {
        let encode = |text: &str| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._*".contains(&byte);
            text.bytes()
                .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
                .collect::<String>()
        };
        let pairs: Vec<_> = fields.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
        self.header("content-type", "application/x-www-form-urlencoded").body(pairs.join("&"))
    }
}

/// A body that comes in pieces, its length not announced.
pub fn streamed(pieces: impl Stream<Item = Vec<u8>> + Send + Sync + 'static) -> reqwest::Body {
    let frames = pieces.map(|piece| Ok::<_, Infallible>(Frame::data(Bytes::from(piece))));
    reqwest::Body::wrap(StreamBody::new(frames))
}

#[derive(Clone)]
pub struct Client {
    pub http: reqwest::Client,
    pub base: String,
    pub token: Option<String>,
}

impl Client {
    /// Somebody without a token.
    pub fn stranger(authority: &Path, port: u16) -> Self {
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::public_client(authority).unwrap())
            .https_only(true)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(Duration::from_secs(60))
            // Sooner than the server, or a request meets a connection that is just being closed.
            .pool_idle_timeout(Duration::from_secs(2))
            .build()
            .unwrap();
        Self { http, base: format!("https://localhost:{port}"), token: None }
    }

    /// The client app with this credential; an empty scope means all it may have.
    pub async fn with_token(self, id: &str, secret: &str, scope: &str) -> Self {
        let mut form = vec![("grant_type", "client_credentials"), ("client_id", id), ("client_secret", secret)];
        form.extend((!scope.is_empty()).then_some(("scope", scope)));
        let answer = self.post_token(&form).await.expect(200);
        Self { token: Some(answer.json()["access_token"].as_str().expect("a token").to_owned()), ..self }
    }

    /// The same caller, at another server of the same deployment.
    pub fn at(&self, port: u16) -> Self {
        Self { base: format!("https://localhost:{port}"), ..self.clone() }
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    pub async fn send(&self, request: RequestBuilder) -> Answer {
        let (http, request) = request.build_split();
        let request = request.expect("a request");
        let (method, path) = (request.method().clone(), request.url().path().to_owned());
        let response = http.execute(request).await.expect("an answer");
        let (status, headers) = (response.status(), response.headers().clone());
        let text = response.text().await.expect("a body");
        hold_against_document(&method, &path, status, &headers, &text);
        Answer { status, headers, text }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(self.request(Method::DELETE, path)).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(self.request(Method::POST, path).json(&body)).await
    }

    pub async fn post_empty(&self, path: &str) -> Answer {
        self.send(self.request(Method::POST, path)).await
    }

    pub async fn post_raw(&self, path: &str, content_type: &str, body: impl Into<reqwest::Body>) -> Answer {
        let content_type = HeaderValue::from_str(content_type).unwrap();
        self.send(self.request(Method::POST, path).header("content-type", content_type).body(body)).await
    }

    pub async fn post_token(&self, form: &[(&str, &str)]) -> Answer {
        self.post_oauth("/oauth/token", form).await
    }

    /// To an endpoint of `/oauth`, which knows the client by the form alone.
    pub async fn post_oauth(&self, path: &str, form: &[(&str, &str)]) -> Answer {
        self.send(Self { token: None, ..self.clone() }.request(Method::POST, path).with_form(form)).await
    }

    pub async fn post_form(&self, path: &str, image: Vec<u8>, fields: &[(&'static str, &'static str)]) -> Answer {
        let form = Form::new().part("image", Part::bytes(image).file_name("face"));
        let form = fields.iter().fold(form, |form, (name, value)| form.text(*name, *value));
        self.send(self.request(Method::POST, path).multipart(form)).await
    }

    /// A new person; its id.
    pub async fn subject(&self) -> String {
        let name = format!("person-{}", uuid::Uuid::now_v7());
        self.post("/v1/subjects", json!({ "external_ref": name })).await.expect(201).id()
    }

    /// A new person who agreed to face verification; its id.
    pub async fn consenting_subject(&self) -> String {
        let subject = self.subject().await;
        self.consent(&subject).await;
        subject
    }

    pub async fn consent(&self, subject: &str) -> String {
        let body = json!({ "purpose": "face_verification", "notice_version": "2026-11" });
        self.post(&format!("/v1/subjects/{subject}/consents"), body).await.expect(201).id()
    }

    pub async fn withdraw(&self, subject: &str, consent: &str) -> Answer {
        self.post_empty(&format!("/v1/subjects/{subject}/consents/{consent}/withdraw")).await
    }

    pub async fn enrol(&self, subject: &str, image: Vec<u8>) -> Answer {
        self.post_form(&format!("/v1/subjects/{subject}/enrolments"), image, &[]).await
    }

    pub async fn verify(&self, subject: &str, image: Vec<u8>) -> Answer {
        self.post_form(&format!("/v1/subjects/{subject}/verifications"), image, &[]).await
    }
}
