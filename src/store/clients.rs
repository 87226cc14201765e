//! Clients: the credentials of apps. The secret itself is never here, only the keyed hash that `auth` made of it.

use diesel::prelude::*;
use time::OffsetDateTime;

use super::{
    audit,
    columns::{instant, micros, parse},
    conn::{Pool, Reach},
    error::{Conflict, StoreError},
    schema::main::clients,
    tokens,
};
use crate::{
    audit::{Action, Actor, Event},
    domain::{
        id::{ClientId, TenantId},
        revocation::client_member,
    },
};

#[derive(Clone, PartialEq, Eq)]
pub struct Client {
    pub id: ClientId,
    pub tenant: TenantId,
    pub name: String,
    /// Empty for a client with a public key.
    pub secret_hash: Vec<u8>,
    /// RSA, PEM: the client signs what it asks with (RFC 7523) and has no secret.
    pub public_key: Option<String>,
    /// Names of scopes, in the order given.
    pub scopes: Vec<String>,
    pub created_at: OffsetDateTime,
    pub disabled_at: Option<OffsetDateTime>,
}

pub struct NewClient {
    pub id: ClientId,
    pub name: String,
    /// Empty for a client with a public key.
    pub secret_hash: Vec<u8>,
    pub public_key: Option<String>,
    /// None of them may hold a space.
    pub scopes: Vec<String>,
    pub created_at: OffsetDateTime,
}

pub struct Clients<'a> {
    pub(super) pool: &'a Pool,
}

#[derive(Queryable, Insertable)]
#[diesel(table_name = clients)]
struct Row {
    id: String,
    tenant_id: String,
    name: String,
    secret_hash: Vec<u8>,
    /// Joined by spaces, as in RFC 6749 section 3.3.
    scopes: String,
    created_at: i64,
    disabled_at: Option<i64>,
    public_key: Option<String>,
}

impl Clients<'_> {
    pub async fn create(&self, tenant: TenantId, client: NewClient, by: Actor) -> Result<(), StoreError> {
        let row = Row {
            id: client.id.to_string(),
            tenant_id: tenant.to_string(),
            name: client.name,
            secret_hash: client.secret_hash,
            scopes: client.scopes.join(" "),
            created_at: micros(client.created_at),
            disabled_at: None,
            public_key: client.public_key,
        };
        let event = Event::of(by, Action::ClientCreated, client.id, client.created_at);
        let inserted = self.pool.write(tenant, move |connection| {
            diesel::insert_into(clients::table).values(&row).execute(connection)?;
            audit::append(connection, tenant, &event).map(drop)
        });
        inserted.await.map_err(|error| error.or_conflict(Conflict::Id).or_parent_not_found())
    }

    /// A query without a tenant: a credential is what tells which tenant is calling.
    pub async fn find(&self, id: ClientId) -> Result<Client, StoreError> {
        let row: Row = self
            .pool
            .run(Reach::Every, move |connection| Ok(clients::table.find(id.to_string()).first(connection)?))
            .await?;
        row.try_into()
    }

    pub async fn list(&self, tenant: TenantId) -> Result<Vec<Client>, StoreError> {
        let query = clients::table.filter(clients::tenant_id.eq(tenant.to_string())).order(clients::id);
        let rows: Vec<Row> = self.pool.run(tenant, move |connection| Ok(query.load(connection)?)).await?;
        rows.into_iter().map(Client::try_from).collect()
    }

    /// Disables a client and ends its tokens, the last of which expires before `tokens_end`. Disabling it again keeps the first
    /// time.
    pub async fn disable(
        &self,
        tenant: TenantId,
        id: ClientId,
        tokens_end: OffsetDateTime,
        now: OffsetDateTime,
        by: Actor,
    ) -> Result<(), StoreError> {
        let event = Event::of(by, Action::ClientDisabled, id, now);
        let own =
            clients::table.filter(clients::tenant_id.eq(tenant.to_string())).filter(clients::id.eq(id.to_string()));
        self.pool
            .write(tenant, move |connection| {
                let disabled_at: Option<i64> = own.clone().select(clients::disabled_at).first(connection)?;
                if disabled_at.is_none() {
                    let disable = diesel::update(own).set(clients::disabled_at.eq(micros(now)));
                    disable.execute(connection)?;
                    tokens::revoke(connection, &client_member(id), tokens_end, now)?;
                    audit::append(connection, tenant, &event)?;
                }
                Ok(())
            })
            .await
    }
}

impl TryFrom<Row> for Client {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        Ok(Self {
            id: parse("clients.id", &row.id)?,
            tenant: parse("clients.tenant_id", &row.tenant_id)?,
            name: row.name,
            secret_hash: row.secret_hash,
            scopes: row.scopes.split_whitespace().map(str::to_owned).collect(),
            created_at: instant("clients.created_at", row.created_at)?,
            disabled_at: row.disabled_at.map(|at| instant("clients.disabled_at", at)).transpose()?,
            public_key: row.public_key,
        })
    }
}
