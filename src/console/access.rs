//! Access requests: the list, a new one, one request's story, and the package that answers it.

use std::sync::Arc;

use actix_web::{
    HttpResponse,
    http::header,
    web::{Data, Path},
};
use askama::Template;
use serde::Deserialize;

use super::{
    Fault, NoFields, Officer, Signed,
    asked::{Asked, id, optional, page_after},
    page,
    requests::{Choice, Deed, Kind, NewForm, Row, is_reason, new_page},
    see, subjects,
    words::{Due, Moment, State, law},
};
use crate::{
    domain::{
        access::{AccessState, LockKind},
        id::{AccessId, SubjectId},
    },
    flows::{
        FlowError, Flows,
        access_requests::{self, AccessAnswer, AccessRequest, Ending, Fulfilment, NewAccess},
        once::{Answer, Call, Keep},
        subjects as persons,
    },
};

const ACCESS: &Kind = &Kind {
    path: "/console/access",
    all: "Access requests",
    open: "Open an access request",
    lead: "Somebody has asked what is known of them. Opening the request sets the deadline and puts nothing together yet.",
};

fn path(id: AccessId) -> String {
    format!("/console/access/{id}")
}

#[derive(Template)]
#[template(path = "access.html")]
struct List<'a> {
    officer: &'a Officer,
    kind: &'static Kind,
    /// Of one person.
    subject: Option<SubjectId>,
    states: Vec<Choice>,
    rows: Vec<Row<AccessId>>,
    next: Option<String>,
}

#[derive(Deserialize)]
pub struct Which {
    #[serde(default)]
    state: String,
    #[serde(default)]
    subject: String,
    cursor: Option<String>,
}

pub async fn list(officer: Officer, flows: Data<Flows>, Asked(which): Asked<Which>) -> Result<HttpResponse, Fault> {
    let state: Option<AccessState> = optional("state", &which.state)?;
    let subject: Option<SubjectId> = optional("subject", &which.subject)?;
    let after = page_after(which.cursor.as_deref())?;
    let found = access_requests::list(&flows, officer.tenant, state, subject, after).await?;
    let now = flows.now();
    let row = |request: &AccessRequest| Row {
        id: request.id,
        state: request.state_at(now).into(),
        due: Due::at(request.due_at, request.ended_at, now),
        received: Moment(request.received_at),
        law: law(request.regulation),
    };
    let choice =
        |of: &AccessState| Choice { value: of.as_str(), word: State::from(*of).word, chosen: Some(*of) == state };
    let next = found.next_cursor.as_ref().map(|cursor| {
        let (state, subject) = (state.map_or("", AccessState::as_str), subject.map(|id| id.to_string()));
        format!("/console/access?state={state}&subject={}&cursor={cursor}", subject.unwrap_or_default())
    });
    let (rows, states) = (found.items.iter().map(row).collect(), AccessState::ALL.iter().map(choice).collect());
    page(&officer, List { officer: &officer, kind: ACCESS, subject, states, rows, next })
}

pub async fn show_new(officer: Officer, flows: Data<Flows>, Asked(which): Asked<Which>) -> Result<HttpResponse, Fault> {
    new_page(&officer, &flows, ACCESS, NewForm::about(&which.subject)?, None)
}

pub async fn open(flows: Data<Flows>, signed: Signed<NewForm>) -> Result<HttpResponse, Fault> {
    let (officer, form) = (signed.officer.clone(), signed.form.clone());
    let (received_at, regulation) = (form.received_at()?, form.regulation()?);
    let again = |mistake| new_page(&officer, &flows, ACCESS, form.clone(), Some(mistake));
    let Some(person) = subjects::find(&flows, officer.tenant, &form.who).await? else {
        return again("Nobody is registered under this reference or id.");
    };
    let new = NewAccess { subject: person.id, regulation, received_at, verified: None };
    let call = signed.call(|answer: &AccessAnswer| path(answer.request.id));
    match access_requests::open(&flows, officer.tenant, new, call).await {
        Err(FlowError::ReceivedLater) => again("A request cannot have been received later than now."),
        opened => Ok(see(opened?)),
    }
}

#[derive(Template)]
#[template(path = "access_one.html")]
struct Story<'a> {
    officer: &'a Officer,
    id: AccessId,
    state: State,
    due: Option<Due>,
    due_at: Moment,
    subject: SubjectId,
    /// As the tenant calls the person.
    name: String,
    law: &'static str,
    received: Moment,
    ended: Option<Moment>,
    reason: Option<String>,
    package: Option<Package>,
    story: Vec<Deed>,
    /// It waits for an answer.
    open: bool,
    /// Its package can be fetched.
    there: bool,
    mistake: Option<&'static str>,
}

struct Package {
    opened_by: &'static str,
    until: Moment,
    downloads: u32,
}

pub async fn show(officer: Officer, flows: Data<Flows>, of: Path<String>) -> Result<HttpResponse, Fault> {
    one(&officer, &flows, id(&of)?, None).await
}

async fn one(
    officer: &Officer,
    flows: &Flows,
    id: AccessId,
    mistake: Option<&'static str>,
) -> Result<HttpResponse, Fault> {
    let request = access_requests::show(flows, officer.tenant, id).await?;
    let person = persons::show(flows, officer.tenant, request.subject).await?;
    let officers = flows.officer_accounts().list(officer.tenant).await?;
    let deeds = access_requests::story(flows, &request).await?.into_iter();
    let (now, state) = (flows.now(), request.state_at(flows.now()));
    let package = request.package.as_ref().map(|note| Package {
        opened_by: match note.lock {
            LockKind::Recipient => "the person's own key",
            LockKind::Passphrase => "the passphrase that was shown when it was made",
        },
        until: Moment(note.expires_at),
        downloads: note.downloads,
    });
    let story = Story {
        officer,
        id,
        state: state.into(),
        due: request.ended_at.is_none().then(|| Due::at(request.due_at, None, now)),
        due_at: Moment(request.due_at),
        subject: request.subject,
        name: person.external_ref,
        law: law(request.regulation),
        received: Moment(request.received_at),
        ended: request.ended_at.map(Moment),
        reason: request.reason.clone(),
        package,
        story: deeds.map(|entry| Deed::of(entry, &officers)).collect(),
        open: state == AccessState::Received,
        there: state == AccessState::Completed,
        mistake,
    };
    page(officer, story)
}

#[derive(Template)]
#[template(path = "access_handover.html")]
struct HandedOver<'a> {
    officer: &'a Officer,
    id: AccessId,
    link: &'a str,
    passphrase: Option<&'a str>,
}

#[derive(Deserialize)]
pub struct AnswerForm {
    #[serde(default)]
    recipient: String,
}

/// Puts the package together. What opens it is shown now or never.
pub async fn answer(flows: Data<Flows>, of: Path<String>, signed: Signed<AnswerForm>) -> Result<HttpResponse, Fault> {
    let (officer, id) = (signed.officer.clone(), id::<AccessId>(&of)?);
    let recipient = Some(signed.form.recipient.trim().to_owned()).filter(|text| !text.is_empty());
    let shown = officer.clone();
    let answer = move |answer: &AccessAnswer| Answer {
        status: 200,
        location: None,
        body: handed_over(&shown, answer).into_bytes(),
        replayed: false,
    };
    let call = signed.call(|_: &AccessAnswer| String::new());
    let call = Call { keep: Keep::WithoutBody, answer: Arc::new(answer), ..call };
    match access_requests::verify(&flows, officer.tenant, id, Fulfilment { recipient }, call).await {
        Err(FlowError::RecipientInvalid) => {
            one(&officer, &flows, id, Some("That is no public key of age: it begins with age1.")).await
        }
        answered => Ok(HttpResponse::Ok().content_type("text/html; charset=utf-8").body(answered?.body)),
    }
}

fn handed_over(officer: &Officer, answer: &AccessAnswer) -> String {
    let Some(handover) = &answer.handover else { return String::new() };
    let passphrase = handover.passphrase.as_ref().map(|text| text.as_str());
    let shown = HandedOver { officer, id: answer.request.id, link: &handover.link, passphrase };
    shown.render().unwrap_or_default()
}

#[derive(Deserialize)]
pub struct RejectForm {
    #[serde(default)]
    reason: String,
}

pub async fn reject(flows: Data<Flows>, of: Path<String>, signed: Signed<RejectForm>) -> Result<HttpResponse, Fault> {
    let (officer, id) = (signed.officer.clone(), id(&of)?);
    let reason = signed.form.reason.trim().to_owned();
    if !is_reason(&reason) {
        let mistake = "A reason of 1 to 200 characters is needed, on one line.";
        return one(&officer, &flows, id, Some(mistake)).await;
    }
    let call = signed.call(|answer: &AccessAnswer| path(answer.request.id));
    Ok(see(access_requests::end(&flows, officer.tenant, id, Ending::Reject { reason }, call).await?))
}

pub async fn cancel(flows: Data<Flows>, of: Path<String>, signed: Signed<NoFields>) -> Result<HttpResponse, Fault> {
    let (tenant, id) = (signed.officer.tenant, id(&of)?);
    let call = signed.call(|answer: &AccessAnswer| path(answer.request.id));
    Ok(see(access_requests::end(&flows, tenant, id, Ending::Cancel, call).await?))
}

/// The package, which nobody here can open. A form, for each time is on record.
pub async fn package(flows: Data<Flows>, of: Path<String>, signed: Signed<NoFields>) -> Result<HttpResponse, Fault> {
    let (officer, id) = (signed.officer, id::<AccessId>(&of)?);
    let package = access_requests::fetch(&flows, officer.tenant, id, officer.actor()).await?;
    let kept = (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{id}.age\""));
    Ok(HttpResponse::Ok().content_type("application/octet-stream").insert_header(kept).body(package))
}
