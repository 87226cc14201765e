//! The accounts of officers, which the operator makes on the host: nobody becomes an officer over the network.

use time::{Duration, OffsetDateTime};

use super::{FlowError, Flows};
use crate::{
    audit::{Action, Actor, Event},
    auth::{password::Password, totp::Authenticator},
    domain::id::{OfficerId, TenantId},
    store::{Credentials, KeyStore, NewOfficer, Officer, Store, StoreError},
};

/// How long a password that was handed out opens the page where it is changed.
const HANDED_OUT: Duration = Duration::days(7);

/// What an officer is given. Shown now or never.
pub struct HandedOut {
    pub officer: OfficerId,
    pub password: Password,
    pub password_until: OffsetDateTime,
    pub authenticator: Authenticator,
}

/// An account, as the operator sees it.
pub struct Account {
    pub id: OfficerId,
    /// `None` where the data key is gone, and the name with it.
    pub name: Option<String>,
    pub created_at: OffsetDateTime,
    pub disabled_at: Option<OffsetDateTime>,
    /// As long as the officer has not chosen a password.
    pub password_until: Option<OffsetDateTime>,
}

/// What the accounts lie in.
pub struct Accounts<'a> {
    pub store: &'a Store,
    pub keystore: &'a KeyStore,
}

impl Flows {
    pub fn officer_accounts(&self) -> Accounts<'_> {
        Accounts { store: &self.store, keystore: &self.keystore }
    }
}

impl Accounts<'_> {
    /// Takes a tenth of a second of computing.
    pub async fn add(&self, tenant: TenantId, name: &str, now: OffsetDateTime) -> Result<HandedOut, FlowError> {
        let id = OfficerId::generate();
        let fresh = Fresh::make(name)?;
        let key = self.keystore.create(tenant, id.key_holder(), now).await?;
        let event = Event::of(Actor::operator(), Action::OfficerAdded, id, now);
        let new = NewOfficer { id, name, credentials: fresh.credentials(now) };
        let added = self.store.officers().add(tenant, new, &key, event).await;
        if matches!(added, Err(StoreError::Conflict(_) | StoreError::NotFound)) {
            // The key of nobody: harmless when it stays behind.
            let _left_behind = self.keystore.destroy(tenant, id.key_holder(), now).await;
        }
        added?;
        Ok(fresh.hand_out(id, now))
    }

    /// Another password and another authenticator, for an officer who lost one, or whose account was disabled.
    pub async fn reset(&self, tenant: TenantId, name: &str, now: OffsetDateTime) -> Result<HandedOut, FlowError> {
        let officer = self.find(tenant, name).await?;
        let fresh = Fresh::make(name)?;
        let key = self.keystore.get(tenant, officer.id.key_holder()).await?.ok_or(FlowError::NotFound)?;
        let event = Event::of(Actor::operator(), Action::OfficerReset, officer.id, now);
        let officers = self.store.officers();
        officers.reset(&officer, officers.name_index(name), fresh.credentials(now), &key, event).await?;
        Ok(fresh.hand_out(officer.id, now))
    }

    /// Lets an officer in no more; sessions end at once.
    pub async fn disable(&self, tenant: TenantId, name: &str, now: OffsetDateTime) -> Result<OfficerId, FlowError> {
        let officer = self.find(tenant, name).await?;
        let event = Event::of(Actor::operator(), Action::OfficerDisabled, officer.id, now);
        self.store.officers().disable(&officer, event).await?;
        Ok(officer.id)
    }

    pub async fn list(&self, tenant: TenantId) -> Result<Vec<Account>, FlowError> {
        let officers = self.store.officers().list(tenant).await?;
        let holders: Vec<_> = officers.iter().map(|officer| officer.id.key_holder()).collect();
        let keys = self.keystore.get_many(tenant, &holders).await?;
        let account = |officer: Officer| {
            let name = keys.get(&officer.id.key_holder()).map(|key| officer.open_name(key)).transpose()?;
            let Officer { id, created_at, disabled_at, password_until, .. } = officer;
            Ok(Account { id, name, created_at, disabled_at, password_until })
        };
        officers.into_iter().map(account).collect()
    }

    async fn find(&self, tenant: TenantId, name: &str) -> Result<Officer, FlowError> {
        let officers = self.store.officers();
        let found = officers.find_by_name(&officers.name_index(name)).await?;
        found.filter(|officer| officer.tenant == tenant).ok_or(FlowError::NotFound)
    }
}

/// Made, and not stored yet.
struct Fresh {
    password: Password,
    hash: zeroize::Zeroizing<String>,
    authenticator: Authenticator,
    secret: zeroize::Zeroizing<Vec<u8>>,
}

impl Fresh {
    fn make(name: &str) -> Result<Self, FlowError> {
        let password = Password::generate();
        let hash = password.hash().map_err(FlowError::internal)?;
        let (authenticator, secret) = Authenticator::generate(name.trim()).map_err(FlowError::internal)?;
        Ok(Self { password, hash, authenticator, secret })
    }

    fn credentials(&self, now: OffsetDateTime) -> Credentials<'_> {
        Credentials { password_hash: &self.hash, password_until: now + HANDED_OUT, totp_secret: &self.secret }
    }

    fn hand_out(self, officer: OfficerId, now: OffsetDateTime) -> HandedOut {
        let (password, authenticator) = (self.password, self.authenticator);
        HandedOut { officer, password, password_until: now + HANDED_OUT, authenticator }
    }
}
