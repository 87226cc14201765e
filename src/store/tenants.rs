//! Tenants: the customers of the service.

use diesel::prelude::*;
use time::OffsetDateTime;

use super::{
    audit,
    columns::{instant, micros, parse},
    conn::{Pool, Reach},
    error::{Conflict, StoreError},
    schema::main::tenants,
};
use crate::{
    audit::{Action, Actor, Event},
    domain::id::TenantId,
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    pub id: TenantId,
    pub name: String,
    pub created_at: OffsetDateTime,
}

pub struct Tenants<'a> {
    pub(super) pool: &'a Pool,
}

#[derive(Queryable, Insertable)]
#[diesel(table_name = tenants)]
struct Row {
    id: String,
    name: String,
    created_at: i64,
    quota_per_day: Option<i64>,
}

impl Tenants<'_> {
    /// A tenant, with an audit log that begins with its making.
    pub async fn create(&self, tenant: &Tenant, by: Actor) -> Result<(), StoreError> {
        let row = Row {
            id: tenant.id.to_string(),
            name: tenant.name.clone(),
            created_at: micros(tenant.created_at),
            quota_per_day: None,
        };
        let (id, event) = (tenant.id, Event::of(by, Action::TenantCreated, tenant.id, tenant.created_at));
        let inserted = self.pool.write(Reach::Every, move |connection| {
            diesel::insert_into(tenants::table).values(&row).execute(connection)?;
            audit::begin(connection, id)?;
            audit::append(connection, id, &event).map(drop)
        });
        inserted.await.map_err(|error| error.or_conflict(Conflict::Id))
    }

    pub async fn find(&self, id: TenantId) -> Result<Tenant, StoreError> {
        let row: Row = self
            .pool
            .run(Reach::Every, move |connection| Ok(tenants::table.find(id.to_string()).first(connection)?))
            .await?;
        row.try_into()
    }

    pub async fn list(&self) -> Result<Vec<Tenant>, StoreError> {
        let rows: Vec<Row> =
            self.pool.run(Reach::Every, |connection| Ok(tenants::table.order(tenants::id).load(connection)?)).await?;
        rows.into_iter().map(Tenant::try_from).collect()
    }
}

impl TryFrom<Row> for Tenant {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        Ok(Self {
            id: parse("tenants.id", &row.id)?,
            name: row.name,
            created_at: instant("tenants.created_at", row.created_at)?,
        })
    }
}
