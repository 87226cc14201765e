//! What evidence packs tell of the databases: numbers and times, nothing of which anybody could say who it is about.

use std::collections::BTreeMap;

use diesel::{
    dsl::{count_star, max, min},
    prelude::*,
    sql_query,
    sql_types::{BigInt, Text},
};
use time::OffsetDateTime;

use super::{
    KeyStore,
    columns::{instant, micros, parse},
    conn::{Pool, Reach},
    error::StoreError,
    schema::{
        keystore::{address_keys, data_keys, wrapping_keys},
        main::{access_requests, audit_events, enrolments, erasure_requests},
    },
};
use crate::{
    audit::Action,
    domain::{
        access::AccessState,
        erasure::{ErasureState, Regulation},
        id::TenantId,
    },
};

pub struct Statistics<'a> {
    pub(super) pool: &'a Pool,
}

/// Consents of one kind.
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub struct ConsentCount {
    #[diesel(sql_type = Text)]
    pub purpose: String,
    /// As [`ConsentState`](crate::domain::consent::ConsentState) names it.
    #[diesel(sql_type = Text)]
    pub state: String,
    #[diesel(sql_type = Text)]
    pub given_by: String,
    #[diesel(sql_type = BigInt)]
    pub consents: i64,
}

/// When an erasure was asked for, due, begun and ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErasureTimes {
    pub regulation: Regulation,
    pub state: ErasureState,
    pub received_at: OffsetDateTime,
    pub due_at: OffsetDateTime,
    pub begun_at: Option<OffsetDateTime>,
    pub ended_at: Option<OffsetDateTime>,
}

/// When an access request was made, due and ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccessTimes {
    pub state: AccessState,
    pub received_at: OffsetDateTime,
    pub due_at: OffsetDateTime,
    pub ended_at: Option<OffsetDateTime>,
}

/// Templates under one key of the encryption.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateCount {
    pub fhe_key: String,
    pub templates: i64,
}

type ErasureRow = (String, String, i64, i64, Option<i64>, Option<i64>);

/// In the order of [`Consent::state`](crate::domain::consent::Consent::state): withdrawal wins over all else.
const CONSENTS: &str = "SELECT purpose, state, given_by, count(*) AS consents FROM \
     (SELECT purpose, given_by, CASE WHEN withdrawn_at IS NOT NULL THEN 'withdrawn' \
      WHEN expires_at <= $1 THEN 'expired' \
      WHEN EXISTS (SELECT 1 FROM notices WHERE notices.tenant_id = consents.tenant_id \
        AND notices.purpose = consents.purpose AND notices.generation > consents.notice_generation) THEN 'superseded' \
      ELSE 'granted' END AS state FROM consents WHERE tenant_id = $2) AS consents_now \
     GROUP BY purpose, state, given_by ORDER BY purpose, state, given_by";

impl Statistics<'_> {
    pub async fn consents(&self, tenant: TenantId, now: OffsetDateTime) -> Result<Vec<ConsentCount>, StoreError> {
        let query = sql_query(CONSENTS).bind::<BigInt, _>(micros(now)).bind::<Text, _>(tenant.to_string());
        self.pool.run(tenant, move |connection| Ok(query.load(connection)?)).await
    }

    pub async fn erasures(&self, tenant: TenantId) -> Result<Vec<ErasureTimes>, StoreError> {
        let query = erasure_requests::table.filter(erasure_requests::tenant_id.eq(tenant.to_string())).select((
            erasure_requests::regulation,
            erasure_requests::state,
            erasure_requests::received_at,
            erasure_requests::due_at,
            erasure_requests::begun_at,
            erasure_requests::ended_at,
        ));
        let rows: Vec<ErasureRow> = self.pool.run(tenant, move |connection| Ok(query.load(connection)?)).await?;
        let optional = |column, at: Option<i64>| at.map(|at| instant(column, at)).transpose();
        let read = |(regulation, state, received_at, due_at, begun_at, ended_at): ErasureRow| {
            Ok(ErasureTimes {
                regulation: parse("erasure_requests.regulation", &regulation)?,
                state: parse("erasure_requests.state", &state)?,
                received_at: instant("erasure_requests.received_at", received_at)?,
                due_at: instant("erasure_requests.due_at", due_at)?,
                begun_at: optional("erasure_requests.begun_at", begun_at)?,
                ended_at: optional("erasure_requests.ended_at", ended_at)?,
            })
        };
        rows.into_iter().map(read).collect()
    }

    pub async fn access_requests(&self, tenant: TenantId) -> Result<Vec<AccessTimes>, StoreError> {
        let query = access_requests::table.filter(access_requests::tenant_id.eq(tenant.to_string())).select((
            access_requests::state,
            access_requests::received_at,
            access_requests::due_at,
            access_requests::ended_at,
        ));
        let rows: Vec<(String, i64, i64, Option<i64>)> =
            self.pool.run(tenant, move |connection| Ok(query.load(connection)?)).await?;
        let read = |(state, received_at, due_at, ended_at): (String, i64, i64, Option<i64>)| {
            Ok(AccessTimes {
                state: parse("access_requests.state", &state)?,
                received_at: instant("access_requests.received_at", received_at)?,
                due_at: instant("access_requests.due_at", due_at)?,
                ended_at: ended_at.map(|at| instant("access_requests.ended_at", at)).transpose()?,
            })
        };
        rows.into_iter().map(read).collect()
    }

    /// Of all tenants, as keys are.
    pub async fn templates_by_key(&self) -> Result<Vec<TemplateCount>, StoreError> {
        let query = enrolments::table
            .group_by(enrolments::fhe_key_id)
            .order(enrolments::fhe_key_id)
            .select((enrolments::fhe_key_id, count_star()));
        let rows: Vec<(String, i64)> =
            self.pool.run(Reach::Every, move |connection| Ok(query.load(connection)?)).await?;
        Ok(rows.into_iter().map(|(fhe_key, templates)| TemplateCount { fhe_key, templates }).collect())
    }

    /// How often an act stands in a tenant's audit log, and when it was done last.
    pub async fn acts(&self, tenant: TenantId, action: Action) -> Result<(i64, Option<OffsetDateTime>), StoreError> {
        let query = audit_events::table
            .filter(audit_events::tenant_id.eq(tenant.to_string()))
            .filter(audit_events::action.eq(action.as_str()))
            .select((count_star(), max(audit_events::at)));
        let (acts, last): (i64, Option<i64>) =
            self.pool.run(tenant, move |connection| Ok(query.first(connection)?)).await?;
        Ok((acts, last.map(|at| instant("audit_events.at", at)).transpose()?))
    }
}

/// What lies in the key store, of all tenants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyStatistics {
    /// Persons who have a data key, and when the first and the last of these keys were made.
    pub data_keys: i64,
    pub oldest_data_key: Option<OffsetDateTime>,
    pub newest_data_key: Option<OffsetDateTime>,
    /// Persons whose key was destroyed.
    pub destroyed: i64,
    /// Persons who have two keys, for theirs is being exchanged.
    pub exchanging: i64,
    pub address_keys: i64,
    pub oldest_address_key: Option<OffsetDateTime>,
    /// Key-encryption keys that are out of use for ever, and since when.
    pub retired_keks: BTreeMap<String, OffsetDateTime>,
}

impl KeyStore {
    pub async fn statistics(&self) -> Result<KeyStatistics, StoreError> {
        let living = data_keys::table.filter(data_keys::wrapped.is_not_null());
        let told = self.database.pool.run(Reach::Every, move |connection| {
            let keys: (i64, Option<i64>, Option<i64>) = living
                .select((count_star(), min(data_keys::created_at), max(data_keys::created_at)))
                .first(connection)?;
            let exchanging: i64 =
                data_keys::table.filter(data_keys::next_wrapped.is_not_null()).count().get_result(connection)?;
            let destroyed: i64 =
                data_keys::table.filter(data_keys::destroyed_at.is_not_null()).count().get_result(connection)?;
            let addresses: (i64, Option<i64>) =
                address_keys::table.select((count_star(), min(address_keys::starts_at))).first(connection)?;
            let retired: Vec<(String, i64)> = wrapping_keys::table
                .filter(wrapping_keys::retired_at.is_not_null())
                .select((wrapping_keys::id, wrapping_keys::retired_at.assume_not_null()))
                .load(connection)?;
            Ok((keys, exchanging, destroyed, addresses, retired))
        });
        let ((data_keys, oldest, newest), exchanging, destroyed, (address_keys, oldest_address), retired) =
            told.await?;
        let optional = |column, at: Option<i64>| at.map(|at| instant(column, at)).transpose();
        let retired = retired.into_iter().map(|(id, at)| Ok((id, instant("wrapping_keys.retired_at", at)?)));
        Ok(KeyStatistics {
            data_keys,
            oldest_data_key: optional("data_keys.created_at", oldest)?,
            newest_data_key: optional("data_keys.created_at", newest)?,
            destroyed,
            exchanging,
            address_keys,
            oldest_address_key: optional("address_keys.starts_at", oldest_address)?,
            retired_keks: retired.collect::<Result<_, StoreError>>()?,
        })
    }
}
