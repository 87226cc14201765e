//! Erasure requests: the list by deadline, a new one, one request's story, and the steps that an officer takes.

use actix_web::{
    HttpResponse,
    http::header,
    web::{Data, Path},
};
use askama::Template;
use serde::Deserialize;
use time::OffsetDateTime;

use super::{
    Fault, Officer, Signed,
    asked::{Asked, id, optional, page_after},
    page, see, subjects,
    words::{DayEntered, Due, Moment, State, date_field, deed, law, logged},
};
use crate::{
    audit::Entry,
    auth::evidence::EvidenceError,
    domain::{
        erasure::{ErasureState, Regulation},
        id::{ErasureId, SubjectId},
    },
    flows::{
        FlowError, Flows,
        certificate::{self, Destroyed, DestroyedKey, Remains},
        erasures::{self, Decision, ErasureRequest, NewErasure},
        officer_accounts::Account,
        subjects as persons,
    },
};

pub fn path(id: ErasureId) -> String {
    format!("/console/requests/{id}")
}

/// What there are requests for, and where they are looked at.
pub struct Kind {
    pub path: &'static str,
    pub all: &'static str,
    pub open: &'static str,
    /// What opening one does, and does not yet.
    pub lead: &'static str,
}

pub const ERASURE: &Kind = &Kind {
    path: "/console/requests",
    all: "Erasure requests",
    open: "Open an erasure request",
    lead: "Somebody has asked to be erased. Opening the request sets the deadline and destroys nothing yet.",
};

/// A line of a list.
pub struct Row<Id = ErasureId> {
    pub id: Id,
    pub state: State,
    pub due: Due,
    pub received: Moment,
    pub law: &'static str,
}

impl Row {
    pub fn of(request: &ErasureRequest, now: OffsetDateTime) -> Self {
        Self {
            id: request.id,
            state: request.state.into(),
            due: Due::of(request, now),
            received: Moment(request.received_at),
            law: law(request.regulation),
        }
    }
}

/// One of several that a form offers.
pub struct Choice {
    pub value: &'static str,
    pub word: &'static str,
    pub chosen: bool,
}

#[derive(Template)]
#[template(path = "requests.html")]
struct List<'a> {
    officer: &'a Officer,
    kind: &'static Kind,
    open: i64,
    overdue: i64,
    /// Whether those that have ended are looked at.
    ended: bool,
    states: Vec<Choice>,
    rows: Vec<Row>,
    next: Option<String>,
}

#[derive(Deserialize)]
pub struct Which {
    #[serde(default)]
    state: String,
    cursor: Option<String>,
}

pub async fn list(officer: Officer, flows: Data<Flows>, Asked(which): Asked<Which>) -> Result<HttpResponse, Fault> {
    let state: Option<ErasureState> = optional("state", &which.state)?;
    let ended = state.is_some_and(ErasureState::is_end);
    let (tenant, after) = (officer.tenant, page_after(which.cursor.as_deref())?);
    let found = match ended {
        true => erasures::list(&flows, tenant, state, None, after).await?,
        false => erasures::by_deadline(&flows, tenant, state, after).await?,
    };
    let (open, overdue) = erasures::open_and_overdue(&flows, tenant).await?;
    let now = flows.now();
    let choice =
        |of: ErasureState| Choice { value: of.as_str(), word: State::from(of).word, chosen: Some(of) == state };
    let shown = state.map_or("", ErasureState::as_str);
    let next = found.next_cursor.map(|cursor| format!("/console/requests?state={shown}&cursor={cursor}"));
    let rows = found.items.iter().map(|request| Row::of(request, now)).collect();
    let states = ErasureState::ALL.into_iter().map(choice).collect();
    page(&officer, List { officer: &officer, kind: ERASURE, open, overdue, ended, states, rows, next })
}

#[derive(Template)]
#[template(path = "request_new.html")]
struct New<'a> {
    officer: &'a Officer,
    kind: &'static Kind,
    form: NewForm,
    laws: Vec<Choice>,
    /// As the field takes it.
    today: String,
    mistake: Option<&'static str>,
}

#[derive(Clone, Default, Deserialize)]
pub struct NewForm {
    #[serde(default)]
    pub who: String,
    #[serde(default)]
    received: String,
    #[serde(default)]
    law: String,
}

impl NewForm {
    /// About somebody who came from a person's page.
    pub fn about(subject: &str) -> Result<Self, Fault> {
        let subject: Option<SubjectId> = optional("subject", subject)?;
        Ok(Self { who: subject.map(|subject| subject.to_string()).unwrap_or_default(), ..Self::default() })
    }

    pub fn received_at(&self) -> Result<Option<OffsetDateTime>, Fault> {
        Ok(optional::<DayEntered>("received", &self.received)?.map(|day| day.0))
    }

    pub fn regulation(&self) -> Result<Option<Regulation>, Fault> {
        optional("law", &self.law)
    }
}

#[derive(Deserialize)]
pub struct About {
    #[serde(default)]
    subject: String,
}

pub async fn show_new(officer: Officer, flows: Data<Flows>, Asked(about): Asked<About>) -> Result<HttpResponse, Fault> {
    new_page(&officer, &flows, ERASURE, NewForm::about(&about.subject)?, None)
}

pub fn new_page(
    officer: &Officer,
    flows: &Flows,
    kind: &'static Kind,
    form: NewForm,
    mistake: Option<&'static str>,
) -> Result<HttpResponse, Fault> {
    let choice = |of: Regulation| Choice { value: of.as_str(), word: law(of), chosen: of.as_str() == form.law };
    let laws = Regulation::ALL.into_iter().map(choice).collect();
    let today = date_field(flows.now().date());
    page(officer, New { officer, kind, form, laws, today, mistake })
}

pub async fn open(flows: Data<Flows>, signed: Signed<NewForm>) -> Result<HttpResponse, Fault> {
    let (officer, form) = (signed.officer.clone(), signed.form.clone());
    let (received_at, regulation) = (form.received_at()?, form.regulation()?);
    let again = |mistake| new_page(&officer, &flows, ERASURE, form.clone(), Some(mistake));
    let Some(person) = subjects::find(&flows, officer.tenant, &form.who).await? else {
        return again("Nobody is registered under this reference or id.");
    };
    let new = NewErasure { subject: person.id, regulation, received_at, verified: false };
    let call = signed.call(|request: &ErasureRequest| path(request.id));
    match erasures::open(&flows, officer.tenant, new, call).await {
        Err(FlowError::ErasureOpen) => again("This person has an open request already."),
        Err(FlowError::ReceivedLater) => again("A request cannot have been received later than now."),
        opened => Ok(see(opened?)),
    }
}

/// A step that an officer may take.
struct Step {
    path: &'static str,
    word: &'static str,
    title: &'static str,
    explanation: &'static str,
    button: &'static str,
    /// What the reason is for, where one is needed.
    reason: Option<&'static str>,
    /// There is no way back from it.
    destroys: bool,
    /// What is done in the ordinary case.
    main: bool,
    leads_to: ErasureState,
}

const STEPS: &[Step] = &[
    Step {
        path: "verify",
        word: "Verify and erase…",
        title: "Verify and erase",
        explanation: "You are satisfied that it was this person who asked, or somebody who may. The person is then erased at \
                      once: the data key is destroyed, and every row that is sealed under it. There is no way back.",
        button: "Erase this person",
        reason: None,
        destroys: true,
        main: true,
        leads_to: ErasureState::Verified,
    },
    Step {
        path: "release",
        word: "Release…",
        title: "Release from hold",
        explanation: "The duty to keep has ended. The request goes on from where it was: if it had been verified, the person \
                      is erased at once.",
        button: "Release the request",
        reason: None,
        destroys: true,
        main: true,
        leads_to: ErasureState::Received,
    },
    Step {
        path: "hold",
        word: "Put on hold…",
        title: "Put on hold",
        explanation: "A duty to keep stands against the erasure. Nobody can erase this person until the hold is released; the \
                      deadline goes on.",
        button: "Put the request on hold",
        reason: Some("Which duty, and until when."),
        destroys: false,
        main: false,
        leads_to: ErasureState::OnHold,
    },
    Step {
        path: "reject",
        word: "Reject…",
        title: "Reject the request",
        explanation: "The request is unfounded and ends here. Tell the person the reason: it is the one that you give them.",
        button: "Reject the request",
        reason: Some("As you give it to the person."),
        destroys: false,
        main: false,
        leads_to: ErasureState::Rejected,
    },
    Step {
        path: "cancel",
        word: "Cancel…",
        title: "Cancel the request",
        explanation: "The person has taken the request back, or it was opened by mistake. It ends here; another one can be \
                      opened at any time.",
        button: "Cancel the request",
        reason: None,
        destroys: false,
        main: false,
        leads_to: ErasureState::Cancelled,
    },
];

impl Step {
    fn named(path: &str) -> Result<&'static Self, Fault> {
        STEPS.iter().find(|step| step.path == path).ok_or_else(Fault::not_found)
    }

    fn begins_at(&self, state: ErasureState) -> bool {
        match self.path {
            "verify" => state == ErasureState::Received,
            _ => state.may_become(self.leads_to),
        }
    }

    fn decision(&self, reason: String) -> Decision {
        match self.leads_to {
            ErasureState::Verified => Decision::Verify,
            ErasureState::OnHold => Decision::Hold { reason },
            ErasureState::Rejected => Decision::Reject { reason },
            ErasureState::Cancelled => Decision::Cancel,
            _ => Decision::Release,
        }
    }
}

#[derive(Template)]
#[template(path = "request.html")]
struct Story<'a> {
    officer: &'a Officer,
    id: ErasureId,
    state: State,
    /// Of an open request.
    due: Option<Due>,
    due_at: Moment,
    /// Somebody, or rather the program, is at it.
    under_way: bool,
    steps: Vec<&'static Step>,
    /// As long as the request is open.
    person: Option<Person>,
    digest: String,
    law: &'static str,
    received: Moment,
    moments: Vec<(&'static str, Moment)>,
    reason: Option<String>,
    story: Vec<Deed>,
    certificate: Option<Certificate>,
}

struct Person {
    id: SubjectId,
    name: String,
}

/// An entry of the audit log about a request.
pub struct Deed {
    pub sequence: u64,
    pub what: String,
    pub when: String,
    pub who: String,
}

impl Deed {
    pub fn of(entry: Entry, officers: &[Account]) -> Self {
        let what = deed(&entry.action).map_or(entry.action, str::to_owned);
        let officer = officers.iter().find(|officer| officer.id.to_string() == entry.actor);
        // Whoever is no officer is a credential, the operator or the service, and is called so.
        let who = officer.and_then(|officer| officer.name.clone()).unwrap_or(entry.actor);
        Self { sequence: entry.sequence, what, when: logged(&entry.at), who }
    }
}

struct Certificate {
    destroyed: Vec<Destroyed>,
    data_keys: Vec<DestroyedKey>,
    remains: Vec<Remains>,
    backups_until: String,
}

pub async fn show(officer: Officer, flows: Data<Flows>, path: Path<String>) -> Result<HttpResponse, Fault> {
    let request = erasures::show(&flows, officer.tenant, id(&path)?).await?;
    let now = flows.now();
    let officers = flows.officer_accounts().list(officer.tenant).await?;
    let deeds = erasures::story(&flows, &request).await?.into_iter();
    let moments = [("Verified", request.verified_at), ("Begun", request.begun_at), ("Ended", request.ended_at)];
    let story = Story {
        id: request.id,
        state: request.state.into(),
        due: request.ended_at.is_none().then(|| Due::of(&request, now)),
        due_at: Moment(request.due_at),
        under_way: matches!(request.state, ErasureState::Verified | ErasureState::InProgress),
        steps: STEPS.iter().filter(|step| step.begins_at(request.state)).collect(),
        person: person(&flows, &officer, request.subject).await?,
        digest: request.subject_digest.to_string(),
        law: law(request.regulation),
        received: Moment(request.received_at),
        moments: moments.into_iter().filter_map(|(name, at)| Some((name, Moment(at?)))).collect(),
        reason: request.reason.clone(),
        story: deeds.map(|entry| Deed::of(entry, &officers)).collect(),
        certificate: request.certificate.as_deref().and_then(|jws| read(&flows, jws).ok()),
        officer: &officer,
    };
    page(&officer, story)
}

/// Whose data key is gone already has no name any more.
async fn person(flows: &Flows, officer: &Officer, subject: Option<SubjectId>) -> Result<Option<Person>, Fault> {
    let Some(id) = subject else { return Ok(None) };
    match persons::show(flows, officer.tenant, id).await {
        Ok(person) => Ok(Some(Person { id, name: person.external_ref })),
        Err(FlowError::NotFound) => Ok(Some(Person { id, name: id.to_string() })),
        Err(error) => Err(error.into()),
    }
}

fn read(flows: &Flows, jws: &str) -> Result<Certificate, EvidenceError> {
    let certificate = certificate::read(flows, jws)?;
    let certificate::Certificate { destroyed, data_keys, remains, key_store_backups_until, .. } = certificate;
    Ok(Certificate { destroyed, data_keys, remains, backups_until: logged(&key_store_backups_until) })
}

pub async fn certificate(officer: Officer, flows: Data<Flows>, path: Path<String>) -> Result<HttpResponse, Fault> {
    let id: ErasureId = id(&path)?;
    let certificate = erasures::certificate(&flows, officer.tenant, id).await?;
    Ok(document(certificate, &format!("{id}.jws")))
}

/// Something to keep.
pub fn document(jws: String, name: &str) -> HttpResponse {
    // Ids and our own letters: nothing that would have to be escaped.
    let kept = (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{name}\""));
    HttpResponse::Ok().content_type("application/jose").insert_header(kept).body(jws)
}

#[derive(Template)]
#[template(path = "step.html")]
struct StepPage<'a> {
    officer: &'a Officer,
    id: ErasureId,
    step: &'static Step,
    reason: String,
    mistake: Option<&'static str>,
}

pub async fn show_step(
    officer: Officer,
    flows: Data<Flows>,
    path: Path<(String, String)>,
) -> Result<HttpResponse, Fault> {
    let (id, step) = (id(&path.0)?, Step::named(&path.1)?);
    let request = erasures::show(&flows, officer.tenant, id).await?;
    if !step.begins_at(request.state) {
        return Err(FlowError::ErasureState.into());
    }
    page(&officer, StepPage { officer: &officer, id, step, reason: String::new(), mistake: None })
}

#[derive(Deserialize)]
pub struct StepForm {
    #[serde(default)]
    reason: String,
}

pub async fn take_step(
    flows: Data<Flows>,
    to: Path<(String, String)>,
    signed: Signed<StepForm>,
) -> Result<HttpResponse, Fault> {
    let (id, step) = (id(&to.0)?, Step::named(&to.1)?);
    let (officer, reason) = (signed.officer.clone(), signed.form.reason.trim().to_owned());
    if step.reason.is_some() && !is_reason(&reason) {
        let mistake = Some("A reason of 1 to 200 characters is needed, on one line.");
        return page(&officer, StepPage { officer: &officer, id, step, reason, mistake });
    }
    let call = signed.call(|request: &ErasureRequest| path(request.id));
    Ok(see(erasures::decide(&flows, officer.tenant, id, step.decision(reason), call).await?))
}

/// What the API takes as one.
pub fn is_reason(text: &str) -> bool {
    (1..=200).contains(&text.chars().count()) && !text.chars().any(char::is_control)
}
