//! Templates: encrypted embeddings, each from one enrolment. The TFHE ciphertext is sealed once more under the subject's
//! data key, so that destroying that key also reaches the templates in old backups.

use diesel::prelude::*;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::{
    audit::Act,
    columns::{instant, micros, parse},
    conn::{AnyConnection, Pool, Reach},
    consents::lock_active,
    error::{Conflict, StoreError},
    schema::main::enrolments,
    subjects::{lock, refuse_restricted, used},
};
use crate::{
    domain::{
        consent::Purpose,
        id::{EnrolmentId, SubjectId, TenantId},
        matching::ModelId,
    },
    vault::{DataKey, Place},
};

/// How many templates of one kind a subject may have: a verification compares with all of them, and the keyholder opens at
/// most this many decisions for one answer.
pub const TEMPLATES_PER_SUBJECT_MAX: usize = 5;

/// What a template was made with. Only templates and probes of one kind can be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateKind {
    pub model: ModelId,
    pub parameter_id: String,
    pub fhe_key_id: String,
}

pub struct NewTemplate<'a> {
    pub id: EnrolmentId,
    pub subject: SubjectId,
    /// The use that must be permitted at the moment of writing.
    pub purpose: &'a Purpose,
    pub kind: TemplateKind,
    /// The key that the kind's is about to follow: templates under it count as the same kind.
    pub older_key: Option<String>,
    pub template: &'a [u8],
    pub created_at: OffsetDateTime,
}

/// A template without its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateRow {
    pub id: EnrolmentId,
    pub subject: SubjectId,
    pub kind: TemplateKind,
    pub created_at: OffsetDateTime,
}

/// A template with its bytes opened: the TFHE ciphertext.
pub struct StoredTemplate {
    pub id: EnrolmentId,
    pub fhe_key_id: String,
    pub template: Zeroizing<Vec<u8>>,
}

pub struct Templates<'a> {
    pub(super) pool: &'a Pool,
}

#[derive(Insertable)]
#[diesel(table_name = enrolments)]
struct NewRow {
    id: String,
    tenant_id: String,
    subject_id: String,
    model_id: String,
    parameter_id: String,
    fhe_key_id: String,
    template: Vec<u8>,
    created_at: i64,
}

type DescriptionColumns = (
    enrolments::id,
    enrolments::subject_id,
    enrolments::model_id,
    enrolments::parameter_id,
    enrolments::fhe_key_id,
    enrolments::created_at,
);
type Description = (String, String, String, String, String, i64);

impl Templates<'_> {
    /// Seals and writes a template if, in the same transaction, a consent for its purpose is active (else `NoConsent`).
    pub async fn insert(
        &self,
        tenant: TenantId,
        new: NewTemplate<'_>,
        key: &DataKey,
        act: Act,
    ) -> Result<(), StoreError> {
        let id = new.id.to_string();
        let row = NewRow {
            template: key.seal(&place(&id), new.template)?,
            id,
            tenant_id: tenant.to_string(),
            subject_id: new.subject.to_string(),
            model_id: new.kind.model.to_string(),
            parameter_id: new.kind.parameter_id,
            fhe_key_id: new.kind.fhe_key_id,
            created_at: micros(new.created_at),
        };
        let (subject, purpose, now) = (new.subject, new.purpose.clone(), new.created_at);
        let older_key = new.older_key;
        let inserted = self.pool.write(tenant, move |connection| {
            lock_active(connection, tenant, subject, &purpose, now)?;
            let same_kind: i64 = enrolments::table
                .filter(enrolments::tenant_id.eq(&row.tenant_id))
                .filter(enrolments::subject_id.eq(&row.subject_id))
                .filter(enrolments::model_id.eq(&row.model_id))
                .filter(enrolments::parameter_id.eq(&row.parameter_id))
                .filter(enrolments::fhe_key_id.eq_any([&row.fhe_key_id, older_key.as_ref().unwrap_or(&row.fhe_key_id)]))
                .count()
                .get_result(connection)?;
            if same_kind >= TEMPLATES_PER_SUBJECT_MAX as i64 {
                return Err(StoreError::Conflict(Conflict::TooManyTemplates));
            }
            used(connection, tenant, subject, now)?;
            diesel::insert_into(enrolments::table).values(&row).execute(connection)?;
            act.complete(connection, tenant)
        });
        inserted.await.map_err(|error| error.or_conflict(Conflict::Id))
    }

    /// Every template of a subject, newest first, of whatever kind.
    pub async fn list(&self, tenant: TenantId, subject: SubjectId) -> Result<Vec<TemplateRow>, StoreError> {
        let query = enrolments::table
            .filter(enrolments::tenant_id.eq(tenant.to_string()))
            .filter(enrolments::subject_id.eq(subject.to_string()))
            .order(enrolments::id.desc())
            .select(DescriptionColumns::default());
        let rows: Vec<Description> = self.pool.run(tenant, move |connection| Ok(query.load(connection)?)).await?;
        rows.into_iter().map(TemplateRow::try_from).collect()
    }

    /// Every template of a subject that a probe of `kind` can be compared with, opened, newest first. Those under `older_key`
    /// can be as well, once they are brought under the kind's key.
    pub async fn load(
        &self,
        tenant: TenantId,
        subject: SubjectId,
        kind: &TemplateKind,
        older_key: Option<&str>,
        key: &DataKey,
    ) -> Result<Vec<StoredTemplate>, StoreError> {
        let keys = [kind.fhe_key_id.as_str(), older_key.unwrap_or(&kind.fhe_key_id)].map(str::to_owned);
        let query = enrolments::table
            .filter(enrolments::tenant_id.eq(tenant.to_string()))
            .filter(enrolments::subject_id.eq(subject.to_string()))
            .filter(enrolments::model_id.eq(kind.model.to_string()))
            .filter(enrolments::parameter_id.eq(kind.parameter_id.clone()))
            .filter(enrolments::fhe_key_id.eq_any(keys))
            .order(enrolments::id.desc())
            .limit(TEMPLATES_PER_SUBJECT_MAX as i64)
            .select((enrolments::id, enrolments::fhe_key_id, enrolments::template));
        let rows: Vec<(String, String, Vec<u8>)> =
            self.pool.run(tenant, move |connection| Ok(query.load(connection)?)).await?;
        let open = |(id, fhe_key_id, sealed): (String, String, Vec<u8>)| {
            let template = key.open(&place(&id), &sealed)?;
            Ok(StoredTemplate { id: parse("enrolments.id", &id)?, fhe_key_id, template })
        };
        rows.into_iter().map(open).collect()
    }

    /// `Restricted` where what is known of the person is to be kept.
    pub async fn delete(
        &self,
        tenant: TenantId,
        subject: SubjectId,
        id: EnrolmentId,
        act: Act,
    ) -> Result<(), StoreError> {
        let own = enrolments::table
            .filter(enrolments::tenant_id.eq(tenant.to_string()))
            .filter(enrolments::subject_id.eq(subject.to_string()))
            .filter(enrolments::id.eq(id.to_string()));
        let delete = move |connection: &mut AnyConnection| {
            lock(connection, tenant, subject)?;
            refuse_restricted(connection, tenant, subject)?;
            match diesel::delete(own).execute(connection)? {
                0 => Err(StoreError::NotFound),
                _ => act.complete(connection, tenant),
            }
        };
        self.pool.write(tenant, delete).await
    }

    /// How many templates of all tenants lie under a key.
    pub async fn count_under(&self, fhe_key_id: &str) -> Result<u64, StoreError> {
        let query = enrolments::table.filter(enrolments::fhe_key_id.eq(fhe_key_id.to_owned())).count();
        let rows: i64 = self.pool.run(Reach::Every, move |connection| Ok(query.get_result(connection)?)).await?;
        Ok(rows.unsigned_abs())
    }

    /// The next templates of all tenants under a key, as they rest.
    pub async fn under_key(
        &self,
        fhe_key_id: &str,
        after: Option<EnrolmentId>,
        limit: u32,
    ) -> Result<Vec<SealedTemplate>, StoreError> {
        let query = enrolments::table
            .filter(enrolments::fhe_key_id.eq(fhe_key_id.to_owned()))
            .filter(enrolments::id.gt(after.map_or_else(String::new, |id| id.to_string())))
            .order(enrolments::id)
            .limit(limit.into())
            .select((enrolments::id, enrolments::tenant_id, enrolments::subject_id, enrolments::template));
        let rows: Vec<(String, String, String, Vec<u8>)> =
            self.pool.run(Reach::Every, move |connection| Ok(query.load(connection)?)).await?;
        let read = |(id, tenant, subject, sealed): (String, String, String, Vec<u8>)| {
            Ok(SealedTemplate {
                id: parse("enrolments.id", &id)?,
                tenant: parse("enrolments.tenant_id", &tenant)?,
                subject: parse("enrolments.subject_id", &subject)?,
                sealed,
            })
        };
        rows.into_iter().map(read).collect()
    }

    /// Puts templates in place of those that lay under the key `from`; how many there still were.
    pub async fn bring_under(&self, from: &str, to: &str, templates: Vec<SealedTemplate>) -> Result<u64, StoreError> {
        let (from, to) = (from.to_owned(), to.to_owned());
        let replace = move |connection: &mut AnyConnection| {
            let mut rows = 0;
            for template in &templates {
                let same = enrolments::table
                    .filter(enrolments::tenant_id.eq(template.tenant.to_string()))
                    .filter(enrolments::id.eq(template.id.to_string()))
                    .filter(enrolments::fhe_key_id.eq(&from));
                let changes = (enrolments::fhe_key_id.eq(&to), enrolments::template.eq(&template.sealed));
                rows += diesel::update(same).set(changes).execute(connection)? as u64;
            }
            Ok(rows)
        };
        self.pool.write(Reach::Every, replace).await
    }

    /// Takes what was overwritten out of the files, as far as the database can.
    pub async fn scrub(&self) -> Result<(), StoreError> {
        self.pool.run(Reach::Every, |connection| Ok(connection.scrub()?)).await
    }
}

/// A template as it rests, with whose it is.
pub struct SealedTemplate {
    pub id: EnrolmentId,
    pub tenant: TenantId,
    pub subject: SubjectId,
    sealed: Vec<u8>,
}

impl SealedTemplate {
    pub fn open(&self, key: &DataKey) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        Ok(key.open(&place(&self.id.to_string()), &self.sealed)?)
    }

    /// The same row with other content.
    pub fn with(&self, template: &[u8], key: &DataKey) -> Result<Self, StoreError> {
        let sealed = key.seal(&place(&self.id.to_string()), template)?;
        Ok(Self { id: self.id, tenant: self.tenant, subject: self.subject, sealed })
    }
}

fn place(id: &str) -> Place<'_> {
    Place { table: "enrolments", row: id, column: "template" }
}

impl TryFrom<Description> for TemplateRow {
    type Error = StoreError;

    fn try_from((id, subject, model, parameter_id, fhe_key_id, created_at): Description) -> Result<Self, StoreError> {
        Ok(Self {
            id: parse("enrolments.id", &id)?,
            subject: parse("enrolments.subject_id", &subject)?,
            kind: TemplateKind { model: parse("enrolments.model_id", &model)?, parameter_id, fhe_key_id },
            created_at: instant("enrolments.created_at", created_at)?,
        })
    }
}
