//! What a tenant used on a day: enrolments and verifications, counted before they are done, exact to the request across
//! processes and restarts.

use diesel::{
    prelude::*,
    sql_types::{BigInt, Nullable},
};

use super::{
    audit,
    columns::parse,
    conn::{AnyConnection, Pool, Reach},
    error::{Conflict, StoreError},
    schema::main::{tenants, usage_days},
};
use crate::{
    audit::Event,
    domain::{id::TenantId, usage::Operation},
};

/// One day of a tenant, in days since 1970-01-01 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Queryable)]
pub struct UsageDay {
    pub day: i64,
    pub enrolments: i64,
    pub verifications: i64,
}

impl UsageDay {
    pub fn total(&self) -> i64 {
        self.enrolments + self.verifications
    }
}

pub struct Usage<'a> {
    pub(super) pool: &'a Pool,
}

impl Usage<'_> {
    /// Counts one operation, if the day's total is below the tenant's own quota, or else `default_quota`.
    /// `Err(quota)` where it is not, and nothing was counted.
    pub async fn charge(
        &self,
        tenant: TenantId,
        day: i64,
        operation: Operation,
        default_quota: u32,
    ) -> Result<Result<(), u32>, StoreError> {
        // What is then done commits after this, so that no power cut forgets the count and keeps the work.
        let count = move |connection: &mut AnyConnection| count(connection, tenant, day, operation, default_quota);
        // Two first requests of a day at once: the second finds the row of the first.
        loop {
            let counted = self.pool.run(tenant, move |connection| connection.write_behind(count)).await;
            match counted.map_err(|error| error.or_conflict(Conflict::Id)) {
                Err(StoreError::Conflict(_)) => {}
                other => return other,
            }
        }
    }

    /// Takes one back that was counted and not done.
    pub async fn refund(&self, tenant: TenantId, day: i64, operation: Operation) -> Result<(), StoreError> {
        let (enrolments, verifications) = one_of(operation);
        let less = (
            usage_days::enrolments.eq(usage_days::enrolments - enrolments),
            usage_days::verifications.eq(usage_days::verifications - verifications),
        );
        let update = diesel::update(usage_days::table.find((tenant.to_string(), day))).set(less);
        self.pool.run(tenant, move |connection| Ok(update.execute(connection).map(drop)?)).await
    }

    /// The days from `first` on that have something, newest first.
    pub async fn days(&self, tenant: TenantId, first: i64) -> Result<Vec<UsageDay>, StoreError> {
        let query = usage_days::table
            .filter(usage_days::tenant_id.eq(tenant.to_string()))
            .filter(usage_days::day.ge(first))
            .order(usage_days::day.desc())
            .select((usage_days::day, usage_days::enrolments, usage_days::verifications));
        self.pool.run(tenant, move |connection| Ok(query.load(connection)?)).await
    }

    /// The tenant's own quota; `None`: the service's.
    pub async fn quota(&self, tenant: TenantId) -> Result<Option<u32>, StoreError> {
        self.pool.run(tenant, move |connection| own_quota(connection, tenant)).await
    }

    /// Gives a tenant a quota of its own, or takes it away again.
    pub async fn set_quota(&self, tenant: TenantId, quota: Option<u32>, event: Event) -> Result<(), StoreError> {
        let update = diesel::update(tenants::table.find(tenant.to_string()))
            .set(tenants::quota_per_day.eq(quota.map(i64::from)));
        let updated = self.pool.write(Reach::Every, move |connection| match update.execute(connection)? {
            0 => Err(StoreError::NotFound),
            _ => audit::append(connection, tenant, &event).map(drop),
        });
        updated.await
    }
}

define_sql_function! {
    fn coalesce(own: Nullable<BigInt>, default: BigInt) -> BigInt;
}

fn count(
    connection: &mut AnyConnection,
    tenant: TenantId,
    day: i64,
    operation: Operation,
    default_quota: u32,
) -> Result<Result<(), u32>, StoreError> {
    let (enrolments, verifications) = one_of(operation);
    let day_of_tenant = usage_days::table.find((tenant.to_string(), day));
    // One statement where nothing is unusual: every request that costs something waits for this.
    let own = tenants::table.find(tenant.to_string()).select(tenants::quota_per_day).single_value();
    let quota = coalesce(own, i64::from(default_quota));
    let within = day_of_tenant.clone().filter((usage_days::enrolments + usage_days::verifications).lt(quota));
    let more = (
        usage_days::enrolments.eq(usage_days::enrolments + enrolments),
        usage_days::verifications.eq(usage_days::verifications + verifications),
    );
    let add = |connection: &mut AnyConnection| diesel::update(within.clone()).set(more).execute(connection);
    if add(connection)? > 0 {
        return Ok(Ok(()));
    }
    let quota = own_quota(connection, tenant)?.unwrap_or(default_quota);
    let there: i64 = day_of_tenant.count().get_result(connection)?;
    if there > 0 || quota == 0 {
        // The row may be another first request's, which came in between.
        return if there > 0 && add(connection)? > 0 { Ok(Ok(())) } else { Ok(Err(quota)) };
    }
    let row = (
        usage_days::tenant_id.eq(tenant.to_string()),
        usage_days::day.eq(day),
        usage_days::enrolments.eq(enrolments),
        usage_days::verifications.eq(verifications),
    );
    diesel::insert_into(usage_days::table).values(row).execute(connection)?;
    Ok(Ok(()))
}

fn own_quota(connection: &mut AnyConnection, tenant: TenantId) -> Result<Option<u32>, StoreError> {
    let query = tenants::table.find(tenant.to_string()).select(tenants::quota_per_day);
    let quota: Option<i64> = query.first(connection)?;
    quota.map(|quota| parse("tenants.quota_per_day", &quota.to_string())).transpose()
}

/// (enrolments, verifications)
fn one_of(operation: Operation) -> (i64, i64) {
    match operation {
        Operation::Enrolment => (1, 0),
        Operation::Verification => (0, 1),
    }
}
