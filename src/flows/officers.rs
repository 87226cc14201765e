//! Officers: how they sign in at the console, and how a session ends.
//!
//! One form asks for name, password and code at once, and one answer refuses it, whichever of the three was wrong. A name that
//! nobody has costs the same work and is slowed down in the same way, so that nobody learns which names there are.

use time::{Duration, OffsetDateTime};

use super::{FlowError, Flows};
use crate::{
    audit::{Action, Actor, Event},
    auth::{
        password::{Password, WeakPassword},
        session_token::{CsrfToken, SessionToken},
        totp::Authenticator,
    },
    domain::{
        attempts::AttemptRule,
        id::{OfficerId, TenantId},
    },
    measure::{self, Outcome},
    store::{NameIndex, NewSession, Officer},
    vault::DataKey,
};

/// An officer who went away from an open page is signed out (OWASP: 15 to 30 minutes for what is sensitive).
pub const IDLE_MAX: Duration = Duration::minutes(15);
/// A working day; whoever holds a stolen cookie has no longer.
pub const SESSION_MAX: Duration = Duration::hours(8);
/// A session's use is written down so often: reading a page is no write.
const USE_NOTED: Duration = Duration::minutes(1);
/// Typing errors cost nothing; each failure after these doubles the wait, from half a minute on.
const ATTEMPTS: AttemptRule = AttemptRule { free: 5 };
/// Not longer, for anybody who knows a name can keep its owner out so long. Guessing gains nothing: about a hundred a day,
/// against password and code together.
const LONGEST_WAIT: Duration = Duration::minutes(15);

/// Who is signed in.
#[derive(Clone, PartialEq, Eq)]
pub struct SignedIn {
    pub officer: OfficerId,
    pub tenant: TenantId,
    pub name: String,
    pub csrf: CsrfToken,
    /// The password was handed out, and opens nothing but the page where it is changed.
    pub must_change_password: bool,
    pub since: OffsetDateTime,
}

/// What the form says.
pub struct SignIn {
    pub name: String,
    pub password: Password,
    pub code: String,
    pub request: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum SignInError {
    #[error("name, password or code is wrong")]
    Refused,
    #[error("too many attempts failed")]
    Blocked { retry_after_s: u64 },
    #[error("the new password {0}")]
    Weak(#[from] WeakPassword),
    #[error(transparent)]
    Flow(#[from] FlowError),
}

/// Whether name, password and code belong together; if they do, a session begins.
pub async fn sign_in(flows: &Flows, asked: SignIn) -> Result<SessionToken, SignInError> {
    let outcome = try_sign_in(flows, asked).await;
    measure::sign_in(match &outcome {
        Ok(_) => Outcome::Granted,
        Err(SignInError::Flow(_)) => Outcome::Failed,
        Err(_) => Outcome::Refused,
    });
    outcome
}

async fn try_sign_in(flows: &Flows, asked: SignIn) -> Result<SessionToken, SignInError> {
    let SignIn { name, password, code, request } = asked;
    let attempt = Attempt::begin(flows, &name, request).await?;
    let Some(known) = attempt.matches(flows, password, Some(&code)).await? else {
        return attempt.refuse(flows).await;
    };
    let (token, event) = (SessionToken::generate(), attempt.event(flows, &known.officer, Action::OfficerSignedIn));
    let session = new_session(&token, event.at);
    let officers = flows.store.officers();
    let signed_in = officers.sign_in(&known.officer, attempt.name.clone(), known.step, session, event).await;
    // Else the code was taken before: by somebody who looked over a shoulder, or by the same form sent twice.
    if signed_in.map_err(FlowError::from)? { Ok(token) } else { attempt.refuse(flows).await }
}

/// Changes the password of whoever is signed in: with the present one, for a page left open is no proof. Another session takes
/// the place of every one there is.
pub async fn change_password(
    flows: &Flows,
    signed_in: &SignedIn,
    present: Password,
    new: Password,
    request: Option<String>,
) -> Result<SessionToken, SignInError> {
    new.check(&signed_in.name)?;
    if present.expose_text() == new.expose_text() {
        return Err(WeakPassword::Unchanged.into());
    }
    let attempt = Attempt::begin(flows, &signed_in.name, request).await?;
    let Some(known) = attempt.matches(flows, present, None).await? else { return attempt.refuse(flows).await };
    let place = flows.compute.reserve().map_err(FlowError::from)?;
    let hash = place.run(move || new.hash()).await.map_err(FlowError::from)?.map_err(FlowError::internal)?;
    let token = SessionToken::generate();
    let event = attempt.event(flows, &known.officer, Action::OfficerPasswordChanged);
    let session = new_session(&token, event.at);
    let (officers, name) = (flows.store.officers(), attempt.name.clone());
    let changed = officers.change_password(&known.officer, name, &hash, &known.key, session, event).await;
    if changed.map_err(FlowError::from)? { Ok(token) } else { attempt.refuse(flows).await }
}

/// Who holds this token; nobody when the session is over.
pub async fn signed_in(flows: &Flows, token: &SessionToken) -> Result<Option<SignedIn>, FlowError> {
    let now = flows.now();
    let Some((session, officer)) = flows.store.officers().session(token.hash()).await? else { return Ok(None) };
    let idle = now - session.last_used_at;
    if idle >= IDLE_MAX || now - session.started_at >= SESSION_MAX || officer.disabled_at.is_some() {
        return Ok(None);
    }
    let Some(key) = data_key(flows, &officer).await? else { return Ok(None) };
    if idle >= USE_NOTED {
        flows.store.officers().touch(officer.tenant, token.hash(), now).await?;
    }
    Ok(Some(SignedIn {
        officer: officer.id,
        tenant: officer.tenant,
        name: officer.open_name(&key)?,
        csrf: token.csrf(),
        must_change_password: officer.password_until.is_some(),
        since: session.started_at,
    }))
}

pub async fn sign_out(
    flows: &Flows,
    who: &SignedIn,
    token: &SessionToken,
    request: Option<String>,
) -> Result<(), FlowError> {
    let actor = Actor { name: who.officer.to_string(), request };
    let event = Event::of(actor, Action::OfficerSignedOut, who.officer, flows.now());
    Ok(flows.store.officers().sign_out(who.tenant, token.hash(), event).await?)
}

/// An attempt, counted as failed until it succeeds.
struct Attempt {
    name: NameIndex,
    officer: Option<Officer>,
    request: Option<String>,
}

/// An officer who proved it.
struct Known {
    officer: Officer,
    key: DataKey,
    step: i64,
}

impl Attempt {
    async fn begin(flows: &Flows, name: &str, request: Option<String>) -> Result<Self, SignInError> {
        // Where there is no place for the work that follows, nothing is counted.
        flows.compute.refuse_if_full().map_err(FlowError::from)?;
        let (officers, now) = (flows.store.officers(), flows.now());
        let name = officers.name_index(name);
        let begun = officers.begin_attempt(&name, ATTEMPTS, LONGEST_WAIT, now).await.map_err(FlowError::from)?;
        if let Err(until) = begun {
            return Err(SignInError::Blocked { retry_after_s: FlowError::seconds_until(now, until) });
        }
        let officer = officers.find_by_name(&name).await.map_err(FlowError::from)?;
        Ok(Self { name, officer, request })
    }

    fn event(&self, flows: &Flows, officer: &Officer, action: Action) -> Event {
        let actor = Actor { name: officer.id.to_string(), request: self.request.clone() };
        Event::of(actor, action, officer.id, flows.now())
    }

    /// Records the failure with whose name it was, where it is anybody's.
    async fn refuse<T>(&self, flows: &Flows) -> Result<T, SignInError> {
        let event = self
            .officer
            .as_ref()
            .map(|officer| (officer.tenant, self.event(flows, officer, Action::OfficerSignInFailed)));
        flows.store.officers().refuse(&self.name, event, flows.now()).await.map_err(FlowError::from)?;
        tracing::warn!(event = "sign_in_failed", "somebody could not sign in at the console");
        Err(SignInError::Refused)
    }

    /// `code`: where one is asked for. Password and code are both looked at, whatever comes of the first.
    async fn matches(&self, flows: &Flows, password: Password, code: Option<&str>) -> Result<Option<Known>, FlowError> {
        let now = flows.now();
        let key = match &self.officer {
            Some(officer) => data_key(flows, officer).await?,
            None => flows.keystore.get(TenantId::generate(), OfficerId::generate().key_holder()).await?,
        };
        let opened = self.officer.as_ref().zip(key).map(|(officer, key)| {
            let secret = officer.open_totp_secret(&key)?;
            let hash = officer.open_password_hash(&key)?;
            Ok::<_, FlowError>((officer.clone(), key, secret, hash))
        });
        let (known, hash) = match opened.transpose()? {
            Some((officer, key, secret, hash)) => (Some((officer, key, secret)), Some(hash)),
            None => (None, None),
        };
        let place = flows.compute.reserve()?;
        let checked = place.run(move || password.is_behind(hash.as_ref().map(|hash| hash.as_str()))).await?;
        let password_is_right = checked.map_err(FlowError::internal)?;
        let Some((officer, key, secret)) = known else { return Ok(None) };
        let step = match code {
            Some(code) => Authenticator::new(&secret, "officer").map_err(FlowError::internal)?.step_of(code, now),
            None => Some(0),
        };
        let open = officer.disabled_at.is_none() && officer.password_until.is_none_or(|until| now < until);
        Ok(step.filter(|_| password_is_right && open).map(|step| Known { officer, key, step }))
    }
}

fn new_session(token: &SessionToken, now: OffsetDateTime) -> NewSession {
    NewSession { token_hash: token.hash(), now, started_after: now - SESSION_MAX, used_after: now - IDLE_MAX }
}

async fn data_key(flows: &Flows, officer: &Officer) -> Result<Option<DataKey>, FlowError> {
    Ok(flows.keystore.get(officer.tenant, officer.id.key_holder()).await?)
}
