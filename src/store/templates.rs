//! Templates: encrypted embeddings, each from one enrolment. The TFHE ciphertext is sealed once more under the subject's
//! data key, so that destroying that key also reaches the templates in old backups.

use diesel::prelude::*;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::{
    audit::Act,
    columns::{instant, micros, parse},
    conn::{AnyConnection, Pool},
    consents::lock_active,
    error::{Conflict, StoreError},
    schema::main::enrolments,
    subjects::used,
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
        let inserted = self.pool.write(tenant, move |connection| {
            lock_active(connection, tenant, subject, &purpose, now)?;
            let same_kind: i64 = enrolments::table
                .filter(enrolments::tenant_id.eq(&row.tenant_id))
                .filter(enrolments::subject_id.eq(&row.subject_id))
                .filter(enrolments::model_id.eq(&row.model_id))
                .filter(enrolments::parameter_id.eq(&row.parameter_id))
                .filter(enrolments::fhe_key_id.eq(&row.fhe_key_id))
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

    /// Every template of a subject that a probe of `kind` can be compared with, opened, newest first.
    pub async fn load(
        &self,
        tenant: TenantId,
        subject: SubjectId,
        kind: &TemplateKind,
        key: &DataKey,
    ) -> Result<Vec<StoredTemplate>, StoreError> {
        let query = enrolments::table
            .filter(enrolments::tenant_id.eq(tenant.to_string()))
            .filter(enrolments::subject_id.eq(subject.to_string()))
            .filter(enrolments::model_id.eq(kind.model.to_string()))
            .filter(enrolments::parameter_id.eq(kind.parameter_id.clone()))
            .filter(enrolments::fhe_key_id.eq(kind.fhe_key_id.clone()))
            .order(enrolments::id.desc())
            .limit(TEMPLATES_PER_SUBJECT_MAX as i64)
            .select((enrolments::id, enrolments::template));
        let rows: Vec<(String, Vec<u8>)> = self.pool.run(tenant, move |connection| Ok(query.load(connection)?)).await?;
        let open = |(id, sealed): (String, Vec<u8>)| {
            let template = key.open(&place(&id), &sealed)?;
            Ok(StoredTemplate { id: parse("enrolments.id", &id)?, template })
        };
        rows.into_iter().map(open).collect()
    }

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
        let delete = move |connection: &mut AnyConnection| match diesel::delete(own).execute(connection)? {
            0 => Err(StoreError::NotFound),
            _ => act.complete(connection, tenant),
        };
        self.pool.write(tenant, delete).await
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
