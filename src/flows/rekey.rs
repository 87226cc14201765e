//! Every template is brought under another key while verifications go on: load → open from under the person's data key →
//! key switch → seal → put in place, if it still is what it was.
//!
//! Servers that know the new key and the way to it compare older templates too: they switch them in memory, each time. What
//! this does is to make that lasting, so that the old key can go. What is left to do is what the rows say (`fhe_key_id`); a
//! run that was killed is taken up by the next one, and several may run at once.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use futures_util::future::join_all;

use super::{FlowError, compute::Compute};
use crate::{
    domain::id::{EnrolmentId, SubjectId, TenantId},
    fhe::{encrypt::EncryptedTemplate, keys::PublicKey, rekey::Rekey},
    store::{KeyStore, SealedTemplate, Store},
    vault::DataKey,
};

/// Templates of one step: half a second of work, and a short transaction.
const TEMPLATES_AT_ONCE: u32 = 64;

/// What it takes.
pub struct Rekeying {
    store: Store,
    keystore: KeyStore,
    rekey: Arc<Rekey>,
    public_key: Arc<PublicKey>,
    compute: Compute,
}

/// What one step did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rekeyed {
    pub templates: u64,
    /// They do not open: the person's data key is gone, or they were altered. They stay as they are.
    pub unreadable: Vec<EnrolmentId>,
    /// Where the next step goes on; `None` when this was the last.
    pub next: Option<EnrolmentId>,
}

impl Rekeying {
    pub fn new(
        store: Store,
        keystore: KeyStore,
        rekey: Rekey,
        public_key: PublicKey,
        threads: usize,
    ) -> std::io::Result<Self> {
        let compute = Compute::start(threads, TEMPLATES_AT_ONCE as usize)?;
        Ok(Self { store, keystore, rekey: Arc::new(rekey), public_key: Arc::new(public_key), compute })
    }

    /// How many templates lie under the old key still.
    pub async fn left(&self) -> Result<u64, FlowError> {
        Ok(self.store.templates().count_under(&self.rekey.from().to_string()).await?)
    }

    /// Takes what was overwritten out of the database's files, as far as it can.
    pub async fn scrub(&self) -> Result<(), FlowError> {
        Ok(self.store.templates().scrub().await?)
    }

    /// Brings the next templates after `after` under the new key. Call it until there is no `next`.
    pub async fn step(&self, after: Option<EnrolmentId>) -> Result<Rekeyed, FlowError> {
        let (from, to) = (self.rekey.from().to_string(), self.rekey.to().to_string());
        let due = self.store.templates().under_key(&from, after, TEMPLATES_AT_ONCE).await?;
        let is_last = due.len() < TEMPLATES_AT_ONCE as usize;
        let mut done = Rekeyed { next: due.last().filter(|_| !is_last).map(|last| last.id), ..Rekeyed::default() };
        let keys = Arc::new(self.data_keys(&due).await?);
        let renewed = join_all(due.into_iter().map(|template| self.renew(template, Arc::clone(&keys)))).await;
        let mut fresh = Vec::new();
        for (id, outcome) in renewed {
            match outcome {
                Ok(template) => fresh.push(template),
                Err(error) => {
                    tracing::warn!(event = "template_not_rekeyed", enrolment = %id, error = &error as &dyn std::error::Error, "a template stays as it is");
                    done.unreadable.push(id);
                }
            }
        }
        done.templates = self.store.templates().bring_under(&from, &to, fresh).await?;
        Ok(done)
    }

    async fn data_keys(&self, due: &[SealedTemplate]) -> Result<HashMap<SubjectId, DataKey>, FlowError> {
        let mut keys = HashMap::new();
        let tenants: HashSet<TenantId> = due.iter().map(|template| template.tenant).collect();
        for tenant in tenants {
            let own = due.iter().filter(|template| template.tenant == tenant).map(|template| template.subject);
            keys.extend(self.keystore.get_many(tenant, &own.collect::<Vec<_>>()).await?);
        }
        Ok(keys)
    }

    async fn renew(
        &self,
        template: SealedTemplate,
        keys: Arc<HashMap<SubjectId, DataKey>>,
    ) -> (EnrolmentId, Result<SealedTemplate, FlowError>) {
        let id = template.id;
        let (rekey, public_key) = (Arc::clone(&self.rekey), Arc::clone(&self.public_key));
        let work = move || {
            let key = keys.get(&template.subject).ok_or(FlowError::NotFound)?;
            let old = EncryptedTemplate::from_bytes(&template.open(key)?, rekey.from()).map_err(FlowError::internal)?;
            let new = rekey.apply(&old, &public_key).map_err(FlowError::internal)?;
            Ok(template.with(&new.to_bytes(), key)?)
        };
        let outcome = async { self.compute.reserve()?.run(work).await? };
        (id, outcome.await)
    }
}
