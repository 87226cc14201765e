//! Persons: one is found by its exact reference or id, and its consents are looked at and withdrawn.

use actix_web::{
    HttpResponse,
    web::{Data, Path},
};
use askama::Template;
use serde::Deserialize;
use time::OffsetDateTime;

use super::{
    Fault, Officer, Signed,
    asked::{Asked, id, optional, page_after},
    page,
    page::elsewhere,
    requests::{Choice, ERASURE, Kind, Row, document},
    see,
    words::{Moment, State},
};
use crate::{
    domain::{
        consent::{Consent, ConsentState, Method, Reference},
        id::{ConsentId, SubjectId, TenantId},
        restriction::{Ground, Restriction},
    },
    flows::{
        FlowError, Flows, Page, PageRequest, account,
        consents::{self, How},
        erasures, receipts, restriction,
        subjects::{self, Subject},
    },
};

fn path(id: SubjectId) -> String {
    format!("/console/subjects/{id}")
}

/// The person of this id or reference.
pub async fn find(flows: &Flows, tenant: TenantId, who: &str) -> Result<Option<Subject>, Fault> {
    let who = who.trim();
    if let Ok(id) = who.parse::<SubjectId>() {
        match subjects::show(flows, tenant, id).await {
            Err(FlowError::NotFound) => {}
            found => return Ok(Some(found?)),
        }
    }
    Ok(subjects::find(flows, tenant, who).await?.items.pop())
}

#[derive(Template)]
#[template(path = "subjects.html")]
struct Find<'a> {
    officer: &'a Officer,
    who: String,
    mistake: Option<&'static str>,
}

#[derive(Deserialize)]
pub struct Who {
    #[serde(default)]
    who: String,
}

pub async fn show_find(officer: Officer) -> Result<HttpResponse, Fault> {
    page(&officer, Find { officer: &officer, who: String::new(), mistake: None })
}

/// A reference may name somebody: it is sent in a form, and stands in no address.
pub async fn look_up(flows: Data<Flows>, signed: Signed<Who>) -> Result<HttpResponse, Fault> {
    let (officer, who) = (signed.officer, signed.form.who);
    let found = find(&flows, officer.tenant, &who).await?.map(|person| person.id);
    match found.or_else(|| who.trim().parse().ok()) {
        Some(id) => Ok(elsewhere(&path(id))),
        None => {
            let mistake =
                Some("Nobody is registered under this reference. After an erasure only the id leads anywhere.");
            page(&officer, Find { officer: &officer, who, mistake })
        }
    }
}

#[derive(Template)]
#[template(path = "subject.html")]
struct Show<'a> {
    officer: &'a Officer,
    id: SubjectId,
    /// `None`: erased, or about to be.
    person: Option<Person>,
    consents: Vec<ConsentRow>,
    next: Option<String>,
    kind: &'static Kind,
    rows: Vec<Row>,
    /// Whether there is an open request.
    open: bool,
}

struct Person {
    name: String,
    created: Moment,
    enrolments: i64,
    verifications: i64,
    last_used: Option<Moment>,
    restriction: Option<Standing>,
}

/// A restriction, as it stands.
struct Standing {
    because: &'static str,
    since: Moment,
}

fn because(ground: Ground) -> &'static str {
    match ground {
        Ground::AccuracyContested => "the person contests that the data are right",
        Ground::UnlawfulProcessing => "processing was unlawful, and the person wants no erasure",
        Ground::LegalClaims => "the person needs the data for legal claims",
        Ground::Objection => "the person has objected, and it is not decided yet",
        Ground::Other => "another reason",
    }
}

struct ConsentRow {
    id: ConsentId,
    purpose: String,
    state: State,
    notice: String,
    granted: Moment,
    given_by: &'static str,
    method: Option<String>,
    ended: Option<Moment>,
    withdrawable: bool,
}

impl ConsentRow {
    fn of(consent: Consent, now: OffsetDateTime) -> Self {
        let state = consent.state(now);
        let ended = consent.withdrawn.as_ref().map(|statement| statement.at).or(consent.expires_at);
        Self {
            id: consent.id,
            purpose: plain(consent.purpose.as_str()),
            state: state.into(),
            notice: consent.notice.version,
            granted: Moment(consent.granted.at),
            given_by: match consent.given_by.as_str() {
                "self" => "the person",
                other => other,
            },
            method: consent.granted.method.map(|method| plain(method.as_str())),
            ended: ended.map(Moment),
            withdrawable: state != ConsentState::Withdrawn,
        }
    }
}

/// One of our words, as persons write it.
pub fn plain(word: &str) -> String {
    word.replace('_', " ")
}

#[derive(Deserialize)]
pub struct Cursor {
    cursor: Option<String>,
}

pub async fn show(
    officer: Officer,
    flows: Data<Flows>,
    of: Path<String>,
    Asked(Cursor { cursor }): Asked<Cursor>,
) -> Result<HttpResponse, Fault> {
    let (tenant, id) = (officer.tenant, id::<SubjectId>(&of)?);
    let now = flows.now();
    let requests = erasures::list(&flows, tenant, None, Some(id), page_after(None)?).await?.items;
    let (person, consents, next) = match look_at(&flows, tenant, id, page_after(cursor.as_deref())?).await {
        Ok((person, consents)) => {
            let next = consents.next_cursor.map(|cursor| format!("{}?cursor={cursor}", path(id)));
            let rows = consents.items.into_iter().map(|consent| ConsentRow::of(consent, now)).collect();
            (Some(person), rows, next)
        }
        // Whoever still knows the id is told of the requests.
        Err(FlowError::NotFound) if !requests.is_empty() => (None, vec![], None),
        Err(error) => return Err(error.into()),
    };
    let open = requests.iter().any(|request| request.ended_at.is_none());
    let rows = requests.iter().map(|request| Row::of(request, now)).collect();
    page(&officer, Show { officer: &officer, id, person, consents, next, kind: ERASURE, rows, open })
}

async fn look_at(
    flows: &Flows,
    tenant: TenantId,
    id: SubjectId,
    asked: PageRequest,
) -> Result<(Person, Page<Consent>), FlowError> {
    let subject = subjects::show(flows, tenant, id).await?;
    let held = account::held(flows, tenant, id).await?;
    let person = Person {
        name: subject.external_ref,
        created: Moment(subject.created_at),
        enrolments: held.enrolments,
        verifications: held.verifications,
        last_used: held.last_used_at.map(Moment),
        restriction: subject
            .restriction
            .map(|standing| Standing { because: because(standing.ground), since: Moment(standing.since) }),
    };
    Ok((person, consents::list(flows, tenant, id, asked).await?))
}

pub async fn receipt(officer: Officer, flows: Data<Flows>, of: Path<(String, String)>) -> Result<HttpResponse, Fault> {
    let (subject, consent) = (id(&of.0)?, id::<ConsentId>(&of.1)?);
    let receipt = receipts::of_consent(&flows, officer.tenant, subject, consent).await?;
    Ok(document(receipt, &format!("{consent}.jws")))
}

#[derive(Template)]
#[template(path = "restrict.html")]
struct Restrict<'a> {
    officer: &'a Officer,
    id: SubjectId,
    /// Of one that is to be lifted.
    standing: Option<Standing>,
    grounds: Vec<Choice>,
}

pub async fn show_restrict(officer: Officer, flows: Data<Flows>, of: Path<String>) -> Result<HttpResponse, Fault> {
    let id = id(&of)?;
    let restriction = subjects::show(&flows, officer.tenant, id).await?.restriction;
    let standing = restriction.map(|of| Standing { because: because(of.ground), since: Moment(of.since) });
    let choice = |ground: &Ground| Choice { value: ground.as_str(), word: because(*ground), chosen: false };
    let grounds = Ground::ALL.iter().map(choice).collect();
    page(&officer, Restrict { officer: &officer, id, standing, grounds })
}

#[derive(Deserialize)]
pub struct RestrictForm {
    /// Empty to lift what stands.
    #[serde(default)]
    ground: String,
}

pub async fn restrict(
    flows: Data<Flows>,
    of: Path<String>,
    signed: Signed<RestrictForm>,
) -> Result<HttpResponse, Fault> {
    let (tenant, subject) = (signed.officer.tenant, id::<SubjectId>(&of)?);
    Ok(see(match optional::<Ground>("ground", &signed.form.ground)? {
        Some(ground) => {
            let call = signed.call(move |_: &Restriction| path(subject));
            restriction::restrict(&flows, tenant, subject, ground, call).await?
        }
        None => restriction::lift(&flows, tenant, subject, signed.call(move |_: &()| path(subject))).await?,
    }))
}

#[derive(Template)]
#[template(path = "withdraw.html")]
struct Withdraw<'a> {
    officer: &'a Officer,
    id: SubjectId,
    consent: ConsentId,
    methods: Vec<Choice>,
    mistake: Option<&'static str>,
}

pub async fn show_withdraw(
    officer: Officer,
    flows: Data<Flows>,
    of: Path<(String, String)>,
) -> Result<HttpResponse, Fault> {
    let (id, consent) = (id(&of.0)?, id(&of.1)?);
    // A person of that id must be there; whether the consent is, says the step.
    subjects::show(&flows, officer.tenant, id).await?;
    withdraw_page(&officer, id, consent, None)
}

fn withdraw_page(
    officer: &Officer,
    id: SubjectId,
    consent: ConsentId,
    mistake: Option<&'static str>,
) -> Result<HttpResponse, Fault> {
    let word = |method: Method| match method {
        Method::InPerson => "in person",
        Method::Paper => "on paper",
        Method::WebForm => "by a web form",
        Method::App => "in an app",
        Method::Phone => "by phone",
    };
    let choice = |method: &Method| Choice { value: method.as_str(), word: word(*method), chosen: false };
    let methods = Method::ALL.iter().map(choice).collect();
    page(officer, Withdraw { officer, id, consent, methods, mistake })
}

#[derive(Deserialize)]
pub struct WithdrawForm {
    #[serde(default)]
    method: String,
    #[serde(default)]
    evidence: String,
}

pub async fn withdraw(
    flows: Data<Flows>,
    of: Path<(String, String)>,
    signed: Signed<WithdrawForm>,
) -> Result<HttpResponse, Fault> {
    let (subject, consent) = (id(&of.0)?, id(&of.1)?);
    let (officer, evidence) = (signed.officer.clone(), signed.form.evidence.trim().to_owned());
    if evidence.chars().count() > 255 || evidence.chars().any(char::is_control) {
        let mistake = Some("The reference to your evidence is at most 255 characters long, on one line.");
        return withdraw_page(&officer, subject, consent, mistake);
    }
    let evidence = Some(evidence).filter(|text| !text.is_empty()).map(Reference::new);
    let how = How { method: optional("method", &signed.form.method)?, evidence };
    let call = signed.call(move |_: &Consent| path(subject));
    Ok(see(consents::withdraw(&flows, officer.tenant, subject, consent, how, call).await?))
}
