//! An officer's browser in a few lines: signs in at the console, and asks for its pages.

use anyhow::{Context, Result, ensure};
use reqwest::{Client, RequestBuilder, Response, StatusCode, header};
use time::OffsetDateTime;

use crate::auth::totp::Authenticator;

/// What `velum officers add --json` prints.
#[derive(serde::Deserialize)]
pub struct HandedOut {
    name: String,
    password: String,
    /// What the app reads.
    authenticator: String,
}

pub struct ConsoleClient {
    http: Client,
    base: String,
    cookie: String,
}

impl ConsoleClient {
    /// Signs in for the first time, and chooses a password as everybody has to.
    pub async fn sign_in(http: Client, base: String, account: &HandedOut) -> Result<Self> {
        let stranger = Self { http, base, cookie: String::new() };
        let authenticator = Authenticator::from_address(&account.authenticator)?;
        let code = authenticator.code(OffsetDateTime::now_utc());
        let fields = [("name", account.name.as_str()), ("password", &account.password), ("code", &code)];
        let newcomer = stranger.led_on("/console/sign-in", &fields).await?;

        let page = newcomer.get("/console/password").send().await?.error_for_status()?.text().await?;
        let hidden = |name| hidden(&page, name).context("the form has lost a field");
        let fields = [
            ("csrf", hidden("csrf")?),
            ("form", hidden("form")?),
            ("present", account.password.as_str()),
            ("new", "correct horse battery staple"),
            ("again", "correct horse battery staple"),
        ];
        newcomer.led_on("/console/password", &fields).await
    }

    /// Of somebody who is let in.
    pub async fn page(&self, path: &str) -> Result<String> {
        let answer = self.get(path).send().await?;
        ensure!(answer.status() == StatusCode::OK, "{path} was answered {}", answer.status());
        Ok(answer.text().await?)
    }

    fn get(&self, path: &str) -> RequestBuilder {
        self.http.get(format!("{}{path}", self.base)).header(header::COOKIE, &self.cookie)
    }

    /// Sends a form that gives a session.
    async fn led_on(&self, path: &str, fields: &[(&str, &str)]) -> Result<Self> {
        let request = self.http.post(format!("{}{path}", self.base)).header(header::COOKIE, &self.cookie);
        let request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        let answer = request.header("sec-fetch-site", "same-origin").body(urlencoded(fields)).send().await?;
        ensure!(answer.status() == StatusCode::SEE_OTHER, "{path} was answered {}", answer.status());
        Ok(Self { cookie: cookie(&answer)?, http: self.http.clone(), base: self.base.clone() })
    }
}

fn cookie(answer: &Response) -> Result<String> {
    let set = answer.headers().get(header::SET_COOKIE).context("the answer sets no cookie")?.to_str()?;
    Ok(set.split(';').next().unwrap_or_default().to_owned())
}

/// The value of a hidden field of a page of ours.
fn hidden<'a>(page: &'a str, name: &str) -> Option<&'a str> {
    page.split_once(&format!("name=\"{name}\" value=\""))?.1.split('"').next()
}

fn urlencoded(fields: &[(&str, &str)]) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._*".contains(&byte);
    let encode = |text: &str| {
        let one = |byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
        text.bytes().map(one).collect::<String>()
    };
    fields.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect::<Vec<_>>().join("&")
}
