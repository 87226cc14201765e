//! Tenants: the customers of the service.

use diesel::prelude::*;
use time::OffsetDateTime;

use super::{
    columns::{instant, micros, parse},
    conn::{Pool, Reach},
    error::{Conflict, StoreError},
    schema::main::tenants,
};
use crate::domain::id::TenantId;

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
    pub async fn create(&self, tenant: &Tenant) -> Result<(), StoreError> {
        let row = Row {
            id: tenant.id.to_string(),
            name: tenant.name.clone(),
            created_at: micros(tenant.created_at),
            quota_per_day: None,
        };
        let insert =
            move |connection: &mut _| Ok(diesel::insert_into(tenants::table).values(&row).execute(connection)?);
        self.pool.run(Reach::Every, insert).await.map(drop).map_err(|error| error.or_conflict(Conflict::Id))
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
