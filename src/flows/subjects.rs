//! People: each with a data key of its own, made before the first byte about that person is stored.

use time::OffsetDateTime;

use super::{
    FlowError, Flows, Page, PageRequest, erasures,
    once::{self, Answer, Attempt, Call},
};
use crate::{
    audit::Action,
    domain::{
        id::{SubjectId, TenantId},
        restriction::Restriction,
    },
    store::{self, NewSubject, StoreError},
    vault::DataKey,
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    pub id: SubjectId,
    /// The tenant's own name for this person.
    pub external_ref: String,
    pub created_at: OffsetDateTime,
    /// As long as nothing may be done with what is known of the person.
    pub restriction: Option<Restriction>,
}

pub async fn create(
    flows: &Flows,
    tenant: TenantId,
    external_ref: &str,
    call: Call<Subject>,
) -> Result<Answer, FlowError> {
    once::run(flows, &call, &[], async |attempt| match insert(flows, tenant, external_ref, attempt).await {
        Err(FlowError::ExternalRefTaken) if finish_erasure(flows, tenant, external_ref).await? => {
            insert(flows, tenant, external_ref, attempt).await
        }
        outcome => outcome,
    })
    .await
}

async fn insert(
    flows: &Flows,
    tenant: TenantId,
    external_ref: &str,
    attempt: &Attempt<Subject>,
) -> Result<Subject, FlowError> {
    let (id, created_at) = (SubjectId::generate(), flows.now());
    let key = flows.keystore.create(tenant, id, created_at).await?;
    let subject = Subject { id, external_ref: external_ref.to_owned(), created_at, restriction: None };
    let act = attempt.act_about(Action::SubjectCreated, None, id, Some(&key), &subject)?;
    let new = NewSubject { id, external_ref, created_at };
    let stored = flows.store.subjects().insert(tenant, new, &key, act).await;
    if matches!(stored, Err(StoreError::Conflict(_) | StoreError::NotFound)) {
        // The key of nobody: harmless when it stays behind, so its removal is only tried. After any other error the row
        // may be there all the same (an answer that was lost): then it needs its key.
        let _left_behind = flows.keystore.destroy(tenant, id, flows.now()).await;
    }
    stored?;
    Ok(subject)
}

/// Puts right what is known of a person beside the face: the name (GDPR, Art. 16).
pub async fn rectify(
    flows: &Flows,
    tenant: TenantId,
    subject: SubjectId,
    external_ref: &str,
    call: Call<Subject>,
) -> Result<Answer, FlowError> {
    once::run(flows, &call, &[], async |attempt| match rename(flows, tenant, subject, external_ref, attempt).await {
        Err(FlowError::ExternalRefTaken) if finish_erasure(flows, tenant, external_ref).await? => {
            rename(flows, tenant, subject, external_ref, attempt).await
        }
        outcome => outcome,
    })
    .await
}

async fn rename(
    flows: &Flows,
    tenant: TenantId,
    subject: SubjectId,
    external_ref: &str,
    attempt: &Attempt<Subject>,
) -> Result<Subject, FlowError> {
    let key = data_key(flows, tenant, subject).await?;
    let row = flows.store.subjects().find(tenant, subject).await?;
    let renamed = Subject { external_ref: external_ref.to_owned(), ..opened(&row, &key)? };
    let act = attempt.act_about(Action::SubjectRectified, None, subject, Some(&key), &renamed)?;
    flows.store.subjects().rename(tenant, subject, external_ref, &key, act).await?;
    Ok(renamed)
}

/// A person whose erasure stopped half-way holds a name that nobody can see: that erasure is finished. Whether the name
/// is free now.
async fn finish_erasure(flows: &Flows, tenant: TenantId, external_ref: &str) -> Result<bool, FlowError> {
    let Some(holder) = flows.store.subjects().find_by_external_ref(tenant, external_ref).await? else {
        return Ok(true);
    };
    if !flows.keystore.is_destroyed(tenant, holder.id).await? {
        return Ok(false);
    }
    match erasures::finish(flows, tenant, holder.id).await {
        Ok(()) | Err(FlowError::NotFound) => Ok(true),
        Err(error) => Err(error),
    }
}

pub async fn show(flows: &Flows, tenant: TenantId, subject: SubjectId) -> Result<Subject, FlowError> {
    let key = data_key(flows, tenant, subject).await?;
    opened(&flows.store.subjects().find(tenant, subject).await?, &key)
}

/// The one person of this name, as a page of at most one.
pub async fn find(flows: &Flows, tenant: TenantId, external_ref: &str) -> Result<Page<Subject>, FlowError> {
    let found = flows.store.subjects().find_by_external_ref(tenant, external_ref).await?;
    Ok(Page { items: all_opened(flows, tenant, found.as_slice()).await?, next_cursor: None })
}

/// Newest first. A person whose erasure has begun is left out.
pub async fn list(flows: &Flows, tenant: TenantId, page: PageRequest) -> Result<Page<Subject>, FlowError> {
    let rows = flows.store.subjects().list(tenant, page.after()?, page.limit()).await?;
    let items = all_opened(flows, tenant, &rows.items).await?;
    Ok(Page { items, next_cursor: rows.next.map(Page::<Subject>::cursor) })
}

async fn all_opened(flows: &Flows, tenant: TenantId, rows: &[store::Subject]) -> Result<Vec<Subject>, FlowError> {
    let ids: Vec<SubjectId> = rows.iter().map(|row| row.id).collect();
    let keys = flows.keystore.get_many(tenant, &ids).await?;
    rows.iter().filter_map(|row| keys.get(&row.id).map(|key| opened(row, key))).collect()
}

fn opened(row: &store::Subject, key: &DataKey) -> Result<Subject, FlowError> {
    let external_ref = row.open_external_ref(key)?.to_string();
    Ok(Subject { id: row.id, external_ref, created_at: row.created_at, restriction: row.restriction })
}

/// The person's data key. Whose key is gone is being erased: absent for everybody but for the erasure itself.
pub(super) async fn data_key(flows: &Flows, tenant: TenantId, subject: SubjectId) -> Result<DataKey, FlowError> {
    flows.keystore.get(tenant, subject).await?.ok_or(FlowError::NotFound)
}
