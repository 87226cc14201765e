//! Notices: what a tenant tells people before they agree. A row is never changed: consents refer to it.

use diesel::prelude::*;

use super::{
    audit::Act,
    columns::{instant, micros, parse},
    conn::{AnyConnection, Pool},
    error::{Conflict, StoreError},
    page::{Page, rows_to_load},
    schema::main::{notices, tenants},
};
use crate::domain::{
    consent::Purpose,
    id::{NoticeId, TenantId},
    notice::{Controller, Generation, Notice},
};

pub struct Notices<'a> {
    pub(super) pool: &'a Pool,
}

/// All but the text.
#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = notices)]
struct Row {
    id: String,
    tenant_id: String,
    purpose: String,
    version: String,
    language: String,
    body_sha256: Vec<u8>,
    controller_name: String,
    controller_contact: String,
    retention: String,
    data_categories: String,
    recipients: String,
    jurisdiction: Option<String>,
    policy_url: Option<String>,
    withdrawal_method: Option<String>,
    material_change: i64,
    generation: i64,
    published_at: i64,
    published_by: String,
}

impl Notices<'_> {
    /// Publishes a version, and says of which generation it is; what `notice` says of that does not count. From the commit on,
    /// consents of earlier generations permit nothing.
    pub async fn publish(
        &self,
        mut notice: Notice,
        text: String,
        act: impl FnOnce(&Notice) -> Act + Send + 'static,
    ) -> Result<Notice, StoreError> {
        let tenant = notice.tenant;
        let published = self.pool.write(tenant, move |connection| {
            lock(connection, tenant)?;
            notice.generation = generation(connection, &notice)?;
            let row = (Row::from(&notice), notices::body.eq(text));
            diesel::insert_into(notices::table).values(row).execute(connection)?;
            act(&notice).complete(connection, tenant)?;
            Ok(notice)
        });
        published.await.map_err(|error| error.or_conflict(Conflict::NoticeVersion))
    }

    pub async fn find(&self, tenant: TenantId, id: NoticeId) -> Result<Notice, StoreError> {
        let own = own(tenant).filter(notices::id.eq(id.to_string())).select(Row::as_select());
        let row: Row = self.pool.run(tenant, move |connection| Ok(own.first(connection)?)).await?;
        row.try_into()
    }

    pub async fn text(&self, tenant: TenantId, id: NoticeId) -> Result<String, StoreError> {
        let own = own(tenant).filter(notices::id.eq(id.to_string())).select(notices::body);
        self.pool.run(tenant, move |connection| Ok(own.first(connection)?)).await
    }

    /// One version in all its languages.
    pub async fn of_version(
        &self,
        tenant: TenantId,
        purpose: &Purpose,
        version: &str,
    ) -> Result<Vec<Notice>, StoreError> {
        let own = own(tenant)
            .filter(notices::purpose.eq(purpose.to_string()))
            .filter(notices::version.eq(version.to_owned()))
            .select(Row::as_select());
        let rows: Vec<Row> = self.pool.run(tenant, move |connection| Ok(own.load(connection)?)).await?;
        rows.into_iter().map(Notice::try_from).collect()
    }

    /// Newest first; `before` is the `next` of the page before. Of one purpose, or of all.
    pub async fn list(
        &self,
        tenant: TenantId,
        purpose: Option<&Purpose>,
        before: Option<NoticeId>,
        limit: u32,
    ) -> Result<Page<Notice, NoticeId>, StoreError> {
        // '~' sorts after every id.
        let before = before.map_or_else(|| "~".to_owned(), |id| id.to_string());
        let purpose = purpose.map(Purpose::to_string);
        let rows: Vec<Row> = self
            .pool
            .run(tenant, move |connection| {
                let mut query = own(tenant)
                    .filter(notices::id.lt(before))
                    .order(notices::id.desc())
                    .limit(rows_to_load(limit))
                    .select(Row::as_select())
                    .into_boxed();
                if let Some(purpose) = purpose {
                    query = query.filter(notices::purpose.eq(purpose));
                }
                Ok(query.load(connection)?)
            })
            .await?;
        let items = rows.into_iter().map(Notice::try_from).collect::<Result<_, _>>()?;
        Ok(Page::from_rows(items, limit, |notice| notice.id))
    }
}

/// The generation of a registered notice, which must be of this purpose.
pub(super) fn generation_of(
    connection: &mut AnyConnection,
    tenant: TenantId,
    purpose: &Purpose,
    id: NoticeId,
) -> Result<Generation, StoreError> {
    let named = own(tenant).filter(notices::id.eq(id.to_string())).filter(notices::purpose.eq(purpose.to_string()));
    Ok(Generation(named.select(notices::generation).first(connection)?))
}

/// The newest generation of a purpose's notices; the first is 0 where there is none.
pub(super) fn newest_generation(
    connection: &mut AnyConnection,
    tenant: TenantId,
    purpose: &Purpose,
) -> Result<Generation, StoreError> {
    let of_purpose = own(tenant).filter(notices::purpose.eq(purpose.to_string()));
    let newest: Option<i64> = of_purpose.select(diesel::dsl::max(notices::generation)).first(connection)?;
    Ok(newest.map(Generation).unwrap_or_default())
}

/// A version in another language is of that version's generation, and says the same of what it changes.
fn generation(connection: &mut AnyConnection, notice: &Notice) -> Result<Generation, StoreError> {
    let same_version = own(notice.tenant)
        .filter(notices::purpose.eq(notice.purpose.to_string()))
        .filter(notices::version.eq(notice.version.clone()))
        .select((notices::generation, notices::material_change));
    let same_version: Option<(i64, i64)> = same_version.first(connection).optional()?;
    match same_version {
        Some((_, material)) if (material != 0) != notice.material_change => {
            Err(StoreError::Conflict(Conflict::NoticeMateriality))
        }
        Some((generation, _)) => Ok(Generation(generation)),
        None => {
            let newest = newest_generation(connection, notice.tenant, &notice.purpose)?;
            Ok(Generation::after(Some(newest), notice.material_change))
        }
    }
}

/// One publication of a tenant after the other: two at once would count themselves into one generation.
fn lock(connection: &mut AnyConnection, tenant: TenantId) -> Result<(), StoreError> {
    let own = tenants::table.filter(tenants::id.eq(tenant.to_string()));
    match diesel::update(own).set(tenants::name.eq(tenants::name)).execute(connection)? {
        0 => Err(StoreError::NotFound),
        _ => Ok(()),
    }
}

#[diesel::dsl::auto_type(no_type_alias)]
fn own(tenant: TenantId) -> _ {
    let tenant: String = tenant.to_string();
    notices::table.filter(notices::tenant_id.eq(tenant))
}

/// No entry of such a list has a line end in it.
fn joined(entries: &[String]) -> String {
    entries.join("\n")
}

fn entries(joined: &str) -> Vec<String> {
    joined.lines().map(str::to_owned).collect()
}

impl From<&Notice> for Row {
    fn from(notice: &Notice) -> Self {
        Self {
            id: notice.id.to_string(),
            tenant_id: notice.tenant.to_string(),
            purpose: notice.purpose.to_string(),
            version: notice.version.clone(),
            language: notice.language.to_string(),
            body_sha256: notice.text_sha256.to_vec(),
            controller_name: notice.controller.name.clone(),
            controller_contact: notice.controller.contact.clone(),
            retention: notice.retention.clone(),
            data_categories: joined(&notice.data_categories),
            recipients: joined(&notice.recipients),
            jurisdiction: notice.jurisdiction.clone(),
            policy_url: notice.policy_url.clone(),
            withdrawal_method: notice.withdrawal_method.clone(),
            material_change: notice.material_change.into(),
            generation: notice.generation.0,
            published_at: micros(notice.published_at),
            published_by: notice.published_by.clone(),
        }
    }
}

impl TryFrom<Row> for Notice {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let corrupt = |_| StoreError::Corrupt { column: "notices.body_sha256" };
        Ok(Self {
            id: parse("notices.id", &row.id)?,
            tenant: parse("notices.tenant_id", &row.tenant_id)?,
            purpose: parse("notices.purpose", &row.purpose)?,
            version: row.version,
            language: parse("notices.language", &row.language)?,
            text_sha256: row.body_sha256.try_into().map_err(corrupt)?,
            controller: Controller { name: row.controller_name, contact: row.controller_contact },
            retention: row.retention,
            data_categories: entries(&row.data_categories),
            recipients: entries(&row.recipients),
            jurisdiction: row.jurisdiction,
            policy_url: row.policy_url,
            withdrawal_method: row.withdrawal_method,
            material_change: row.material_change != 0,
            generation: Generation(row.generation),
            published_at: instant("notices.published_at", row.published_at)?,
            published_by: row.published_by,
        })
    }
}
