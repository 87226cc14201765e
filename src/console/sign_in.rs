//! In, out, and a password of one's own.

use actix_web::{
    HttpRequest, HttpResponse,
    http::{StatusCode, header},
    web::Data,
};
use askama::Template;
use serde::Deserialize;

use super::{
    Fault, Signed,
    page::{elsewhere, open_page},
    session::{Newcomer, NoFields, Officer, OwnForm, clear_cookie, request_id, set_cookie, token},
};
use crate::{
    auth::password::Password,
    flows::{
        Flows,
        officers::{self, SignIn, SignInError},
    },
    http::access,
};

const HOME: &str = "/console";

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignInPage {
    refusal: Option<String>,
}

#[derive(Deserialize)]
pub struct SignInForm {
    name: String,
    password: String,
    code: String,
}

pub async fn show() -> Result<HttpResponse, Fault> {
    open_page(StatusCode::OK, SignInPage { refusal: None })
}

pub async fn sign_in(
    request: HttpRequest,
    flows: Data<Flows>,
    OwnForm(form): OwnForm<SignInForm>,
) -> Result<HttpResponse, Fault> {
    let SignInForm { name, password, code } = form;
    let asked = SignIn { name, password: Password::new(password), code, request: request_id(&request) };
    match officers::sign_in(&flows, asked).await {
        Ok(token) => {
            let mut response = elsewhere(HOME);
            set_cookie(&mut response, &token)?;
            Ok(response)
        }
        Err(error) => {
            let (status, refusal, wait) = refusal(error)?;
            access::credential_refused(&request).await;
            waiting(open_page(status, SignInPage { refusal: Some(refusal) })?, wait)
        }
    }
}

pub async fn sign_out(
    request: HttpRequest,
    flows: Data<Flows>,
    form: Signed<NoFields, Newcomer>,
) -> Result<HttpResponse, Fault> {
    if let Some(token) = token(&request) {
        officers::sign_out(&flows, form.officer.0.signed_in(), &token, request_id(&request)).await?;
    }
    let mut response = elsewhere(super::session::SIGN_IN);
    clear_cookie(&mut response)?;
    Ok(response)
}

#[derive(Template)]
#[template(path = "password.html")]
struct PasswordPage<'a> {
    officer: &'a Officer,
    refusal: Option<String>,
}

#[derive(Deserialize)]
pub struct PasswordForm {
    present: String,
    new: String,
    again: String,
}

pub async fn show_password(Newcomer(officer): Newcomer) -> Result<HttpResponse, Fault> {
    open_page(StatusCode::OK, PasswordPage { officer: &officer, refusal: None })
}

pub async fn change_password(
    request: HttpRequest,
    flows: Data<Flows>,
    Signed { officer: Newcomer(officer), form, .. }: Signed<PasswordForm, Newcomer>,
) -> Result<HttpResponse, Fault> {
    let refused = |status, refusal| open_page(status, PasswordPage { officer: &officer, refusal: Some(refusal) });
    if form.new != form.again {
        return refused(StatusCode::UNPROCESSABLE_ENTITY, "The new password was not typed the same twice.".to_owned());
    }
    let (present, new) = (Password::new(form.present), Password::new(form.new));
    match officers::change_password(&flows, officer.signed_in(), present, new, request_id(&request)).await {
        Ok(token) => {
            let mut response = elsewhere(HOME);
            set_cookie(&mut response, &token)?;
            Ok(response)
        }
        Err(SignInError::Refused) => refused(StatusCode::FORBIDDEN, "The present password is wrong.".to_owned()),
        Err(error) => {
            let (status, refusal, wait) = self::refusal(error)?;
            waiting(refused(status, refusal)?, wait)
        }
    }
}

/// The status, the sentence, and how long to wait.
fn refusal(error: SignInError) -> Result<(StatusCode, String, Option<u64>), Fault> {
    match error {
        SignInError::Refused => {
            let sentence = "Name, password or code is wrong. A code is good once: wait for the next one.";
            Ok((StatusCode::FORBIDDEN, sentence.to_owned(), None))
        }
        SignInError::Blocked { retry_after_s } => {
            let sentence = format!("Too many attempts failed. Try again in {}.", in_words(retry_after_s));
            Ok((StatusCode::TOO_MANY_REQUESTS, sentence, Some(retry_after_s)))
        }
        SignInError::Weak(weak) => Ok((StatusCode::UNPROCESSABLE_ENTITY, format!("The new password {weak}."), None)),
        SignInError::Flow(error) => Err(error.into()),
    }
}

fn in_words(seconds: u64) -> String {
    match seconds {
        0..=90 => format!("{seconds} seconds"),
        _ => format!("{} minutes", seconds.div_ceil(60)),
    }
}

fn waiting(mut response: HttpResponse, seconds: Option<u64>) -> Result<HttpResponse, Fault> {
    if let Some(seconds) = seconds {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    Ok(response)
}
