//! API keys. The key itself is never here, only the keyed hash that `auth` made of it.

use diesel::prelude::*;
use time::{Duration, OffsetDateTime};

use super::{
    audit::Act,
    columns::{instant, micros, parse},
    conn::{AnyConnection, Pool, Reach},
    error::{Conflict, StoreError},
    page::{Page, rows_to_load},
    schema::main::api_keys,
};
use crate::domain::{
    id::{ApiKeyId, TenantId},
    network::Networks,
};

/// The last use is noted to this precision: a write for each request would cost more than the knowledge is worth.
const LAST_USED_PRECISION: Duration = Duration::MINUTE;

#[derive(Clone, PartialEq, Eq)]
pub struct ApiKeyRow {
    pub id: ApiKeyId,
    pub tenant: TenantId,
    pub name: String,
    /// The first characters, for people to tell keys apart.
    pub prefix: String,
    pub key_hash: Vec<u8>,
    /// Names of scopes.
    pub scopes: Vec<String>,
    pub created_at: OffsetDateTime,
    pub expires_at: Option<OffsetDateTime>,
    pub revoked_at: Option<OffsetDateTime>,
    /// To the minute.
    pub last_used_at: Option<OffsetDateTime>,
    /// Set once this key was rolled.
    pub successor: Option<ApiKeyId>,
    /// From where it may be used; `None`: from everywhere.
    pub allowed_networks: Option<Networks>,
}

pub struct ApiKeys<'a> {
    pub(super) pool: &'a Pool,
}

#[derive(Queryable, Insertable)]
#[diesel(table_name = api_keys)]
struct Row {
    id: String,
    tenant_id: String,
    name: String,
    prefix: String,
    key_hash: Vec<u8>,
    /// Joined by spaces.
    scopes: String,
    created_at: i64,
    expires_at: Option<i64>,
    revoked_at: Option<i64>,
    last_used_at: Option<i64>,
    successor_id: Option<String>,
    /// Joined by commas.
    allowed_networks: Option<String>,
}

impl ApiKeys<'_> {
    pub async fn create(&self, key: ApiKeyRow, act: Act) -> Result<(), StoreError> {
        let (tenant, row) = (key.tenant, Row::from(key));
        let inserted = self.pool.write(tenant, move |connection| {
            insert(connection, &row)?;
            act.complete(connection, tenant)
        });
        inserted.await.map_err(|error| error.or_conflict(Conflict::Id).or_parent_not_found())
    }

    /// Puts `successor` in place of a key, which ends at `ends_at`, or earlier if it was to. `Conflict` when it has one already.
    pub async fn roll(
        &self,
        tenant: TenantId,
        id: ApiKeyId,
        successor: ApiKeyRow,
        ends_at: OffsetDateTime,
        act: Act,
    ) -> Result<(), StoreError> {
        let successor = Row::from(successor);
        self.pool
            .write(tenant, move |connection| {
                let own = own(tenant, id).filter(api_keys::revoked_at.is_null());
                let expires_at: Option<i64> = own.clone().select(api_keys::expires_at).first(connection)?;
                let ends_at = expires_at.map_or(micros(ends_at), |expires_at| expires_at.min(micros(ends_at)));
                let changes = (api_keys::expires_at.eq(ends_at), api_keys::successor_id.eq(&successor.id));
                // Two at a time: the condition lets the first one win.
                let rolled =
                    diesel::update(own.filter(api_keys::successor_id.is_null())).set(changes).execute(connection)?;
                if rolled == 0 {
                    return Err(StoreError::Conflict(Conflict::ApiKeyRolled));
                }
                insert(connection, &successor)?;
                act.complete(connection, tenant)
            })
            .await
    }

    pub async fn find(&self, tenant: TenantId, id: ApiKeyId) -> Result<ApiKeyRow, StoreError> {
        let row: Row = self.pool.run(tenant, move |connection| Ok(own(tenant, id).first(connection)?)).await?;
        row.try_into()
    }

    /// A query without a tenant: a key is what tells which tenant is calling.
    pub async fn find_by_hash(&self, key_hash: [u8; 32]) -> Result<Option<ApiKeyRow>, StoreError> {
        let query = api_keys::table.filter(api_keys::key_hash.eq(key_hash.to_vec()));
        let row: Option<Row> =
            self.pool.run(Reach::Every, move |connection| Ok(query.first(connection).optional()?)).await?;
        row.map(ApiKeyRow::try_from).transpose()
    }

    /// Newest first; `before` is the `next` of the page before.
    pub async fn list(
        &self,
        tenant: TenantId,
        before: Option<ApiKeyId>,
        limit: u32,
    ) -> Result<Page<ApiKeyRow, ApiKeyId>, StoreError> {
        // '~' sorts after every id.
        let before = before.map_or_else(|| "~".to_owned(), |id| id.to_string());
        let query = api_keys::table
            .filter(api_keys::tenant_id.eq(tenant.to_string()))
            .filter(api_keys::id.lt(before))
            .order(api_keys::id.desc())
            .limit(rows_to_load(limit));
        let rows: Vec<Row> = self.pool.run(tenant, move |connection| Ok(query.load(connection)?)).await?;
        let items = rows.into_iter().map(ApiKeyRow::try_from).collect::<Result<_, _>>()?;
        Ok(Page::from_rows(items, limit, |key| key.id))
    }

    /// Ends a key for good. Safe to repeat; the first time counts.
    pub async fn revoke(
        &self,
        tenant: TenantId,
        id: ApiKeyId,
        now: OffsetDateTime,
        act: Act,
    ) -> Result<(), StoreError> {
        self.pool
            .write(tenant, move |connection| {
                let revoked_at: Option<i64> = own(tenant, id).select(api_keys::revoked_at).first(connection)?;
                if revoked_at.is_some() {
                    return act.complete_unchanged(connection);
                }
                diesel::update(own(tenant, id)).set(api_keys::revoked_at.eq(micros(now))).execute(connection)?;
                act.complete(connection, tenant)
            })
            .await
    }

    /// Notes that a key was used, unless that was noted a moment ago.
    pub async fn note_use(&self, key: &ApiKeyRow, now: OffsetDateTime) -> Result<(), StoreError> {
        if key.last_used_at.is_some_and(|last| now - last < LAST_USED_PRECISION) {
            return Ok(());
        }
        let update = diesel::update(own(key.tenant, key.id)).set(api_keys::last_used_at.eq(micros(now)));
        self.pool.run(key.tenant, move |connection| Ok(update.execute(connection).map(drop)?)).await
    }
}

#[diesel::dsl::auto_type(no_type_alias)]
fn own(tenant: TenantId, id: ApiKeyId) -> _ {
    let (tenant, id): (String, String) = (tenant.to_string(), id.to_string());
    api_keys::table.filter(api_keys::tenant_id.eq(tenant)).filter(api_keys::id.eq(id))
}

fn insert(connection: &mut AnyConnection, row: &Row) -> Result<(), StoreError> {
    Ok(diesel::insert_into(api_keys::table).values(row).execute(connection).map(drop)?)
}

impl From<ApiKeyRow> for Row {
    fn from(key: ApiKeyRow) -> Self {
        Self {
            id: key.id.to_string(),
            tenant_id: key.tenant.to_string(),
            name: key.name,
            prefix: key.prefix,
            key_hash: key.key_hash,
            scopes: key.scopes.join(" "),
            created_at: micros(key.created_at),
            expires_at: key.expires_at.map(micros),
            revoked_at: key.revoked_at.map(micros),
            last_used_at: key.last_used_at.map(micros),
            successor_id: key.successor.map(|id| id.to_string()),
            allowed_networks: key.allowed_networks.map(|networks| networks.to_string()),
        }
    }
}

impl TryFrom<Row> for ApiKeyRow {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let moment = |column, at: Option<i64>| at.map(|at| instant(column, at)).transpose();
        Ok(Self {
            id: parse("api_keys.id", &row.id)?,
            tenant: parse("api_keys.tenant_id", &row.tenant_id)?,
            name: row.name,
            prefix: row.prefix,
            key_hash: row.key_hash,
            scopes: row.scopes.split_whitespace().map(str::to_owned).collect(),
            created_at: instant("api_keys.created_at", row.created_at)?,
            expires_at: moment("api_keys.expires_at", row.expires_at)?,
            revoked_at: moment("api_keys.revoked_at", row.revoked_at)?,
            last_used_at: moment("api_keys.last_used_at", row.last_used_at)?,
            successor: row.successor_id.map(|id| parse("api_keys.successor_id", &id)).transpose()?,
            allowed_networks: row
                .allowed_networks
                .map(|networks| parse("api_keys.allowed_networks", &networks))
                .transpose()?,
        })
    }
}
