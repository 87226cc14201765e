//! The second wall between tenants, on PostgreSQL: what the database does with a query that forgot its tenant filter.

use diesel::{RunQueryDsl, connection::SimpleConnection, sql_query, sql_types::BigInt};
use velum::{
    domain::id::{SubjectId, TenantId},
    store::StoreError,
};

use crate::databases::*;

#[derive(diesel::QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    rows: i64,
}

fn rows(session: &mut diesel::PgConnection, query: &str) -> i64 {
    sql_query(query).get_result::<Count>(session).unwrap().rows
}

/// Every table with a tenant, as the database itself lists them.
const TABLES: &str = "SELECT table_name::text AS value FROM information_schema.columns \
     WHERE column_name = 'tenant_id' AND table_schema = 'public' ORDER BY 1";

const WALLED: &str = "SELECT relname::text AS value FROM pg_class JOIN pg_policy ON polrelid = pg_class.oid \
     WHERE relrowsecurity AND relforcerowsecurity ORDER BY 1";

#[test]
fn every_table_with_a_tenant_is_behind_the_wall() {
    on(Kind::Postgres, |database| async move {
        database.store().await;
        assert!(database.values(TABLES).len() >= 6);
        assert_eq!(database.values(TABLES), database.values(WALLED));
    });
    on(Kind::Postgres, |database| async move {
        database.key_store().await;
        assert_eq!(database.values(TABLES), ["data_keys"]);
        assert_eq!(database.values(TABLES), database.values(WALLED));
    });
}

#[test]
fn a_query_that_forgot_its_tenant_sees_and_writes_its_own_rows_only() {
    on(Kind::Postgres, |database| async move {
        let store = database.store().await;
        let (one, other) = (tenant(&store).await, tenant(&store).await);
        subject(&store, one, "first").await;
        subject(&store, one, "second").await;
        subject(&store, other, "third").await;
        only_own_rows(&database, "subjects", one, other);

        let smuggled = format!(
            "SET velum.tenant = '{one}'; INSERT INTO clients (id, tenant_id, name, secret_hash, scopes, created_at) \
             VALUES ('cli_x', '{other}', 'x', '', '', 0)"
        );
        let refused = database.execute(&smuggled).unwrap_err().to_string();
        assert!(refused.contains("row-level security"), "{refused}");
    });
    on(Kind::Postgres, |database| async move {
        let keys = database.key_store().await;
        let (one, other) = (TenantId::generate(), TenantId::generate());
        for tenant in [one, one, other] {
            keys.create(tenant, SubjectId::generate(), NOW).await.unwrap();
        }
        only_own_rows(&database, "data_keys", one, other);
    });
}

/// `table` holds two rows of `one` and one of `other`; afterwards only that one.
fn only_own_rows(database: &TestDatabase, table: &str, one: TenantId, other: TenantId) {
    let everything = format!("SELECT count(*) AS rows FROM {table}");
    for (said, seen) in [
        (format!("SET velum.tenant = '{one}'"), 2),
        (format!("SET velum.tenant = '{other}'"), 1),
        ("SET velum.tenant = '*'".to_owned(), 3),
        ("SET velum.tenant = ''".to_owned(), 0),
        ("RESET velum.tenant".to_owned(), 0),
    ] {
        assert_eq!(rows(&mut database.stranger(&said), &everything), seen, "{table}: {said}");
    }
    let mut session = database.stranger(&format!("SET velum.tenant = '{one}'"));
    session.batch_execute(&format!("UPDATE {table} SET created_at = 0; DELETE FROM {table}")).unwrap();
    assert_eq!(database.count(&format!("{table} WHERE tenant_id = '{other}' AND created_at > 0")), 1);
    assert_eq!(database.count(table), 1);
}

#[test]
fn a_role_that_no_wall_binds_is_named() {
    on(Kind::Postgres, |database| async move {
        let store = database.store().await;
        store.database().check_row_security().await.unwrap();
        let superuser = database.store_at(&database.superuser_url()).await;
        let refused = superuser.database().check_row_security().await;
        assert!(matches!(&refused, Err(StoreError::RowSecurityBypassed { role }) if role == "velum"), "{refused:?}");
    });
}
