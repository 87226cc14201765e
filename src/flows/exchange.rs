//! Every person's data key is exchanged for another, while the service works; see [`crate::store::exchange`] for the walks.
//! What is to be done is what the key store says, so that a run which was killed is taken up by the next one.

use std::time::Duration;

use time::OffsetDateTime;

use super::FlowError;
use crate::{
    domain::id::SubjectId,
    store::{Exchanged, KeyStore, Store, StoreError},
};

pub struct Exchange {
    pub store: Store,
    pub keystore: KeyStore,
    /// Longer than any request lives: for so long somebody may hold a key, or a row, that was read before.
    pub patience: Duration,
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    Begun { persons: u64 },
    Waiting { seconds: u64 },
    Resealed { persons: u64, of: u64 },
    Finished { persons: u64 },
}

impl Exchange {
    /// Exchanges every key that was made before `made_before`, and ends exchanges that others began. The persons whose rows do
    /// not open: they keep both keys.
    pub async fn run(
        &self,
        made_before: OffsetDateTime,
        mut tell: impl FnMut(Progress),
    ) -> Result<Vec<SubjectId>, FlowError> {
        let mut persons = 0;
        loop {
            match self.keystore.begin_exchange(made_before, OffsetDateTime::now_utc()).await? {
                0 => break,
                begun => persons += begun as u64,
            }
            tell(Progress::Begun { persons });
        }
        let begun_before = OffsetDateTime::now_utc();
        let state = self.keystore.exchange_state(made_before).await?;
        if state.under_way == 0 {
            return Ok(Vec::new());
        }
        self.wait(&mut tell).await;
        let (resealed, unreadable) = self.reseal(begun_before, state.under_way, &mut tell).await?;
        self.wait(&mut tell).await;
        let mut finished = 0;
        for persons in resealed.chunks(200) {
            self.keystore.finish_exchange(persons.to_vec()).await?;
            finished += persons.len() as u64;
            tell(Progress::Finished { persons: finished });
        }
        self.keystore.scrub().await?;
        self.store.templates().scrub().await?;
        Ok(unreadable)
    }

    async fn reseal(
        &self,
        begun_before: OffsetDateTime,
        of: u64,
        tell: &mut impl FnMut(Progress),
    ) -> Result<(Vec<Exchanged>, Vec<SubjectId>), FlowError> {
        let (mut resealed, mut unreadable, mut after) = (Vec::new(), Vec::new(), None);
        loop {
            let persons = self.keystore.exchanging(begun_before, after).await?;
            let Some(last) = persons.last() else { return Ok((resealed, unreadable)) };
            after = Some(last.subject);
            for person in persons {
                // Destroyed meanwhile: nothing of that person is to be read any more.
                let Some(key) = self.keystore.get(person.tenant, person.subject).await? else { continue };
                match self.store.reseal(person, key).await {
                    Ok(()) => resealed.push(person),
                    Err(StoreError::Sealed(_)) => unreadable.push(person.subject),
                    Err(error) => return Err(error.into()),
                }
            }
            tell(Progress::Resealed { persons: resealed.len() as u64, of });
        }
    }

    async fn wait(&self, tell: &mut impl FnMut(Progress)) {
        tell(Progress::Waiting { seconds: self.patience.as_secs() });
        tokio::time::sleep(self.patience).await;
    }
}
