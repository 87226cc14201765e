//! Browsers of pages elsewhere: only pages that were named may call, and only the API itself.

use reqwest::Method;

use super::helpers::{Answer, Client, Kind, TestApp};

const PAGE: &str = "https://app.example";

async fn app() -> TestApp {
    TestApp::spawn(Kind::Sqlite, &[("CORS_ORIGINS", "https://app.example, http://localhost:5173")]).await
}

async fn preflight(client: &Client, path: &str, origin: &str, method: &str, headers: &str) -> Answer {
    let request = client.request(Method::OPTIONS, path).header("origin", origin);
    let request = request.header("access-control-request-method", method);
    client.send(request.header("access-control-request-headers", headers)).await
}

async fn call(client: &Client, method: Method, path: &str, origin: &str) -> Answer {
    client.send(client.request(method, path).header("origin", origin)).await
}

/// The names of the headers that speak to browsers about other pages.
fn granted(answer: &Answer) -> Vec<&str> {
    answer.headers.keys().map(|name| name.as_str()).filter(|name| name.starts_with("access-control-")).collect()
}

fn list(answer: &Answer, name: &'static str) -> Vec<String> {
    let mut entries: Vec<_> =
        answer.header(name).unwrap().split(',').map(|entry| entry.trim().to_ascii_lowercase()).collect();
    entries.sort();
    entries
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_is_listed_may_call_the_api() {
    let app = app().await;
    let client = app.client().await;
    let wanted = "authorization, content-type, idempotency-key, traceparent";
    for origin in [PAGE, "http://localhost:5173"] {
        let stranger = app.stranger();
        let answer = preflight(&stranger, "/v1/subjects", origin, "POST", wanted).await.expect(200);
        assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
        assert_eq!(list(&answer, "access-control-allow-methods"), ["delete", "get", "head", "patch", "post"]);
        assert_eq!(
            list(&answer, "access-control-allow-headers"),
            ["authorization", "content-type", "idempotency-key", "traceparent"]
        );
        assert_eq!(answer.header("access-control-max-age"), Some("600"));
        assert_eq!(answer.header("access-control-allow-credentials"), None);
        assert!(list(&answer, "vary").contains(&"origin".to_owned()));
        assert!(answer.header("x-request-id").is_some(), "a preflight is a request like any other");

        let answer = call(&client, Method::GET, "/v1/subjects", origin).await.expect(200);
        assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
        assert_eq!(answer.header("access-control-allow-credentials"), None);
        let exposed = list(&answer, "access-control-expose-headers");
        for name in ["x-request-id", "ratelimit", "ratelimit-policy", "retry-after", "idempotency-replayed", "location"]
        {
            assert!(exposed.contains(&name.to_owned()), "{name}");
        }
        assert!(list(&answer, "vary").contains(&"origin".to_owned()));
        // Otherwise a page could not read why it was refused.
        let refused = call(&stranger, Method::GET, "/v1/subjects", origin).await.expect_problem(401, "token_missing");
        assert_eq!(refused.header("access-control-allow-origin"), Some(origin));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_other_page_is_told_nothing() {
    let app = app().await;
    let client = app.client().await;
    for origin in [
        "https://elsewhere.example",
        "null",
        "*",
        "https://app.example.evil.test",
        "https://evil-app.example",
        "https://app.exampl",
        "http://app.example",
        "https://app.example:443",
        "https://app.example:8443",
        "https://APP.example",
        "https://app.example/",
        "http://localhost",
        "http://localhost:51730",
        "https://app.example, https://elsewhere.example",
    ] {
        let answer = preflight(&app.stranger(), "/v1/subjects", origin, "POST", "authorization").await;
        assert_eq!(granted(&answer), [""; 0], "{origin}");
        answer.expect_problem(400, "bad_request");
        // Reading is what a browser refuses its page; the caller itself may be anybody with a token.
        let answer = call(&client, Method::GET, "/v1/subjects", origin).await.expect(200);
        assert_eq!(answer.header("access-control-allow-origin"), None, "{origin}");
        assert!(list(&answer, "vary").contains(&"origin".to_owned()), "{origin}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_not_bought_by_web_pages() {
    let app = app().await;
    let stranger = app.stranger();
    for path in ["/oauth/token", "/oauth/revoke", "/oauth/introspect", "/%6Fauth/token", "/v1/../oauth/token", "/livez"]
    {
        let answer = preflight(&stranger, path, PAGE, "POST", "content-type").await.expect(400);
        assert_eq!(granted(&answer), [""; 0], "{path}");
    }
    let form = [("grant_type", "client_credentials"), ("client_id", "x"), ("client_secret", "y")];
    let answer = super::helpers::WithForm::with_form(stranger.request(Method::POST, "/oauth/token"), &form);
    let answer = stranger.send(answer.header("origin", PAGE)).await.expect(401);
    assert_eq!(answer.header("access-control-allow-origin"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_offered_is_not_granted() {
    let app = app().await;
    let stranger = app.stranger();
    for (method, headers) in [("PUT", "authorization"), ("TRACE", ""), ("POST", "authorization, x-forwarded-for")] {
        let answer = preflight(&stranger, "/v1/subjects", PAGE, method, headers).await.expect(400);
        assert_eq!(granted(&answer), [""; 0], "{method} {headers}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_list_there_is_no_word_about_other_pages() {
    let app = TestApp::start().await;
    let answer = preflight(&app.stranger(), "/v1/subjects", PAGE, "POST", "authorization").await;
    assert!(answer.status.is_client_error());
    assert_eq!(granted(&answer), [""; 0]);
    let answer = call(&app.client().await, Method::GET, "/v1/subjects", PAGE).await.expect(200);
    assert_eq!((granted(&answer), answer.header("vary")), (vec![], None));
}
