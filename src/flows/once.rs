//! Calls that carry an `Idempotency-Key`: sent twice they have one effect, and the second gets the answer of the first.
//!
//! The first call claims its key, works, and writes its answer in the transaction of its effect. A call that comes while the
//! first is at work is told so. A claim runs out when the call that holds it must be over; should that call still be alive
//! by then, it finds its claim taken and its transaction is undone. What had no effect leaves no answer: it may be tried
//! again.

use std::{fmt, sync::Arc};

use time::Duration;

use super::{FlowError, Flows, audit::Scribe, usage::QuotaSpent};
use crate::{
    audit::{Action, Actor},
    auth::client_secret::Pepper,
    domain::id::{SubjectId, TenantId},
    store::{Act, Claim, Claimed, Done, Receipt, StoreError},
    vault::DataKey,
};

/// An answer, as it goes out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub location: Option<String>,
    /// JSON; empty for none.
    pub body: Vec<u8>,
    /// Whether this is the answer to an earlier call.
    pub replayed: bool,
}

/// How an answer is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    Whole,
    /// It holds a secret that is shown once.
    WithoutBody,
}

/// A call that changes something, and how its outcome is answered.
pub struct Call<T> {
    pub tenant: TenantId,
    pub actor: Actor,
    pub key: Option<KeyedCall>,
    /// Nothing is left to work on it: all it can get is the answer that was given before.
    pub quota_spent: Option<QuotaSpent>,
    pub keep: Keep,
    pub answer: Render<T>,
}

pub type Render<T> = Arc<dyn Fn(&T) -> Answer + Send + Sync>;

/// What makes a call the same call.
pub struct KeyedCall {
    /// Method and route.
    pub operation: String,
    pub key: String,
    /// What is asked: path and body.
    pub asked: Vec<Vec<u8>>,
    /// Nobody works longer on a call.
    pub time_max: Duration,
}

/// A call that is at work: makes what is written with its effect.
pub struct Attempt<T> {
    scribe: Scribe,
    claim: Option<Claim>,
    answer: Render<T>,
}

impl<T> Attempt<T> {
    /// An effect on nobody in particular. `object`: the id of what is made, changed or removed.
    pub fn act(&self, action: Action, object: impl fmt::Display, outcome: &T) -> Act {
        Act { event: self.scribe.event(action, object), receipt: self.receipt(outcome) }
    }

    /// An effect on a person, after which the answer's body is kept under the person's key, where there is one.
    pub fn act_about(
        &self,
        action: Action,
        object: Option<String>,
        subject: SubjectId,
        key: Option<&DataKey>,
        outcome: &T,
    ) -> Result<Act, StoreError> {
        let receipt = match (self.receipt(outcome), key) {
            (Some(receipt), Some(key)) => Some(receipt.about(subject, key, &(self.answer)(outcome).body)?),
            (Some(receipt), None) => Some(receipt.of(subject)),
            (None, _) => None,
        };
        Ok(Act { event: self.scribe.event_about(action, subject, object), receipt })
    }

    /// Without a body: of what is about nobody, or must outlive whom it is about.
    pub(super) fn receipt(&self, outcome: &T) -> Option<Receipt> {
        let claim = self.claim.clone()?;
        let answer = (self.answer)(outcome);
        Some(Receipt::bare(claim, answer.status, answer.location))
    }
}

/// Does `work` unless it was done. `content`: what is asked besides what the call knows, such as an image.
pub async fn run<T>(
    flows: &Flows,
    call: &Call<T>,
    content: &[&[u8]],
    work: impl AsyncFnOnce(&Arc<Attempt<T>>) -> Result<T, FlowError>,
) -> Result<Answer, FlowError> {
    let claim = match &call.key {
        None => None,
        Some(keyed) => match claim(flows, call.tenant, keyed, content).await? {
            Found::Unclaimed(claim) => Some(claim),
            Found::Answered(done) => return replay(flows, call.tenant, call.keep, done).await,
        },
    };
    let scribe = Scribe::new(flows, call.tenant, call.actor.clone());
    let attempt = Arc::new(Attempt { scribe, claim, answer: Arc::clone(&call.answer) });
    let done = match call.quota_spent {
        Some(spent) => Err(spent.into()),
        None => work(&attempt).await,
    };
    match done {
        Ok(outcome) => Ok((call.answer)(&outcome)),
        Err(error) => {
            if let Some(claim) = attempt.claim.clone() {
                // One that stays behind runs out by itself.
                let _runs_out = flows.store.idempotency().release(claim).await;
            }
            Err(error)
        }
    }
}

enum Found {
    Unclaimed(Claim),
    Answered(Done),
}

async fn claim(flows: &Flows, tenant: TenantId, keyed: &KeyedCall, content: &[&[u8]]) -> Result<Found, FlowError> {
    let record = flows.pepper.idempotency_record(tenant, &keyed.operation, &keyed.key);
    let fingerprint = fingerprint(&flows.pepper, keyed, content);
    let now = flows.now();
    let until = now + keyed.time_max;
    match flows.store.idempotency().claim(tenant, record, fingerprint, now, until).await? {
        Claimed::Yours(claim) => Ok(Found::Unclaimed(claim)),
        Claimed::Running { until } => {
            Err(FlowError::TwinAtWork { retry_after_s: FlowError::seconds_until(now, until) })
        }
        Claimed::Done(done) if done.fingerprint == fingerprint => Ok(Found::Answered(done)),
        Claimed::Done(_) => Err(FlowError::IdempotencyKeyReused),
    }
}

fn fingerprint(pepper: &Pepper, keyed: &KeyedCall, content: &[&[u8]]) -> [u8; 32] {
    let asked = keyed.asked.iter().map(Vec::as_slice).chain(content.iter().copied());
    pepper.idempotency_fingerprint(asked)
}

async fn replay(flows: &Flows, tenant: TenantId, keep: Keep, done: Done) -> Result<Answer, FlowError> {
    if keep == Keep::WithoutBody {
        return Err(FlowError::AnswerNotKept);
    }
    let body = match done.subject {
        None => None,
        // Erased since: the record goes with the person, and this is the moment between.
        Some(subject) => done.open_answer(&super::subjects::data_key(flows, tenant, subject).await?)?,
    };
    Ok(Answer { status: done.status, location: done.location, body: body.unwrap_or_default(), replayed: true })
}
