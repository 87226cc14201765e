//! Notices: published by the tenant, shown to people by the tenant, named by the consents that follow.

use sha2::{Digest, Sha256};

use super::{
    FlowError, Flows, Page, PageRequest,
    once::{self, Answer, Call},
};
use crate::{
    audit::Action,
    auth::Caller,
    domain::{
        consent::{Purpose, ShownNotice},
        id::{NoticeId, TenantId},
        notice::{Controller, Generation, Language, Notice},
    },
    store::StoreError,
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewNotice {
    pub purpose: Purpose,
    pub version: String,
    pub language: Language,
    pub text: String,
    pub controller: Controller,
    pub retention: String,
    pub data_categories: Vec<String>,
    pub recipients: Vec<String>,
    pub jurisdiction: Option<String>,
    pub policy_url: Option<String>,
    pub withdrawal_method: Option<String>,
    pub material_change: bool,
}

/// A notice with its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoticeInFull {
    pub notice: Notice,
    pub text: String,
}

/// From the answer on, whoever agreed under an earlier generation is asked again: every process looks at it with the consent.
pub async fn publish(
    flows: &Flows,
    caller: &Caller,
    new: NewNotice,
    call: Call<NoticeInFull>,
) -> Result<Answer, FlowError> {
    let answer = once::run(flows, &call, &[], async |attempt| {
        let text = new.text.clone();
        let notice = Notice {
            id: NoticeId::generate(),
            tenant: caller.tenant,
            text_sha256: Sha256::digest(&new.text).into(),
            purpose: new.purpose,
            version: new.version,
            language: new.language,
            controller: new.controller,
            retention: new.retention,
            data_categories: new.data_categories,
            recipients: new.recipients,
            jurisdiction: new.jurisdiction,
            policy_url: new.policy_url,
            withdrawal_method: new.withdrawal_method,
            material_change: new.material_change,
            generation: Generation::default(),
            published_at: flows.now(),
            published_by: caller.identity.to_string(),
        };
        let attempt = std::sync::Arc::clone(attempt);
        let full = |notice: &Notice, text: &str| NoticeInFull { notice: notice.clone(), text: text.to_owned() };
        let kept = text.clone();
        let act = move |notice: &Notice| attempt.act(Action::NoticePublished, notice.id, &full(notice, &kept));
        let notice = flows.store.notices().publish(notice, text.clone(), act).await?;
        Ok(NoticeInFull { notice, text })
    })
    .await?;
    if answer.replayed { answered_again(flows, caller.tenant, &call, answer).await } else { Ok(answer) }
}

/// Only answers about a person are kept whole. This one is made again, from what never changes.
async fn answered_again(
    flows: &Flows,
    tenant: TenantId,
    call: &Call<NoticeInFull>,
    answer: Answer,
) -> Result<Answer, FlowError> {
    let id = answer.location.as_deref().and_then(|location| location.rsplit('/').next()).unwrap_or_default();
    let notice = show(flows, tenant, id.parse().map_err(FlowError::internal)?).await?;
    Ok(Answer { body: (call.answer)(&notice).body, ..answer })
}

pub async fn show(flows: &Flows, tenant: TenantId, id: NoticeId) -> Result<NoticeInFull, FlowError> {
    let notice = flows.store.notices().find(tenant, id).await?;
    let text = flows.store.notices().text(tenant, id).await?;
    Ok(NoticeInFull { notice, text })
}

/// Newest first. Of one purpose, or of all.
pub async fn list(
    flows: &Flows,
    tenant: TenantId,
    purpose: Option<&Purpose>,
    page: PageRequest,
) -> Result<Page<Notice>, FlowError> {
    let rows = flows.store.notices().list(tenant, purpose, page.after()?, page.limit()).await?;
    Ok(rows.into())
}

/// How a grant says what the person was shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamedNotice {
    /// One text in one language.
    Registered(NoticeId),
    Version(String),
}

/// Why a grant cannot name a notice so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoticeMistake {
    #[error("names no notice that you published for this purpose")]
    Unknown,
    #[error("names a notice in several languages; say by `notice_id` which of them was shown")]
    Ambiguous,
}

/// The notice that a grant names. Who has published none for the purpose names versions as they like.
pub(super) async fn shown(
    flows: &Flows,
    tenant: TenantId,
    purpose: &Purpose,
    named: NamedNotice,
) -> Result<ShownNotice, FlowError> {
    let mistake = |field, mistake| Err(FlowError::NoticeMistaken { field, mistake });
    match named {
        NamedNotice::Registered(id) => match flows.store.notices().find(tenant, id).await {
            Ok(notice) if notice.purpose == *purpose => Ok(of(&notice)),
            Ok(_) | Err(StoreError::NotFound) => mistake("notice_id", NoticeMistake::Unknown),
            Err(error) => Err(error.into()),
        },
        NamedNotice::Version(version) => {
            let notices = flows.store.notices().of_version(tenant, purpose, &version).await?;
            match notices.as_slice() {
                [notice] => Ok(of(notice)),
                [_, ..] => mistake("notice_version", NoticeMistake::Ambiguous),
                [] if flows.store.notices().list(tenant, Some(purpose), None, 1).await?.items.is_empty() => {
                    Ok(ShownNotice { version, id: None, generation: Generation::default() })
                }
                [] => mistake("notice_version", NoticeMistake::Unknown),
            }
        }
    }
}

fn of(notice: &Notice) -> ShownNotice {
    ShownNotice { version: notice.version.clone(), id: Some(notice.id), generation: notice.generation }
}
