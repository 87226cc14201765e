//! What stands in a pack: read from the databases and the folders of the running system, and changing nothing there.

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

use super::Failure;
use crate::{
    audit::{Action, Checkpoint, stamp},
    auth::{
        evidence::{Document, EvidenceKeys, EvidenceVerifier},
        jwt::{KeyStatus, SigningKeys},
    },
    domain::{
        access::AccessState,
        consent::Purpose,
        erasure::{ErasureState, Regulation},
        notice::Notice,
    },
    flows::{
        audit,
        retention::{Kept, kept_otherwise},
    },
    secrets::{self, Kind},
    settings::{Effective, KeyholderSettings, Origin, Settings},
    store::{AccessTimes, ErasureTimes, KeyStore, PAGE_ROWS_MAX, Store, StoreError, Tenant},
};

/// The system, as one moment finds it.
pub struct System {
    pub settings: Settings,
    pub effective: Vec<Effective>,
    pub store: Store,
    pub keystore: KeyStore,
    pub token_keys: SigningKeys,
    pub evidence_keys: EvidenceKeys,
    /// Whose figures are asked for.
    pub tenants: Vec<Tenant>,
    pub now: OffsetDateTime,
}

impl System {
    /// Every setting as it took effect, secrets redacted.
    pub fn configuration(&self) -> Value {
        let setting = |entry: &Effective| {
            json!({
                "variable": entry.variable,
                "value": (entry.origin != Origin::Unset).then_some(&entry.shown),
                "origin": entry.origin.to_string(),
                "expected": entry.expected,
            })
        };
        json!({
            "settings": self.effective.iter().map(setting).collect::<Vec<_>>(),
            "note": "as this command found them; a process that was started with others works with those",
        })
    }

    /// Names, ages and states; no key.
    pub async fn keys(&self) -> Result<Value, StoreError> {
        let settings = &self.settings.secrets;
        let told = self.keystore.statistics().await?;
        let kept = |kind| secrets::existing(kind, &settings.dir, &settings.fhe_dir).map(|path| self.file(&path));
        let fhe = |name: &str| self.file(&settings.fhe_dir.join(name));
        let templates = self.store.statistics().templates_by_key().await?;
        let templates =
            templates.into_iter().map(|count| json!({ "key": count.fhe_key, "templates": count.templates }));
        Ok(json!({
            "token_keys": self.signing(self.token_keys.status(self.now)),
            "evidence_keys": self.signing(self.evidence_keys.status(self.now)),
            "key_encryption_keys": self.key_encryption_keys(&told.retired_keks).await?,
            "data_keys": {
                "persons_with_a_key": told.data_keys,
                "oldest_made_at": told.oldest_data_key.map(stamp),
                "newest_made_at": told.newest_data_key.map(stamp),
                "destroyed": told.destroyed,
                "being_exchanged": told.exchanging,
            },
            "address_keys": { "keys": told.address_keys, "oldest_begins_at": told.oldest_address_key.map(stamp) },
            "client_secret_pepper": kept(Kind::Pepper),
            "blind_index_key": kept(Kind::BlindIndex),
            "encryption": {
                "key": secrets::read_public_key(&settings.fhe_dir).ok().map(|key| key.key_id().to_string()),
                "public_key": fhe("public.key"),
                "evaluation_key": fhe("evaluation.key"),
                "secret_key_on_this_host": settings.fhe_dir.join("secret.key").exists(),
                "keyholder_in_the_same_process": matches!(self.settings.keyholder, KeyholderSettings::Local),
                "rotation_under_way": settings.fhe_dir.join("rekey.key").exists(),
                "templates_by_key": templates.collect::<Vec<_>>(),
            },
        }))
    }

    fn signing(&self, keys: Vec<KeyStatus>) -> Vec<Value> {
        let told = keys.into_iter().map(|key| {
            let state = match key.signing {
                true => "signs",
                false if key.signs_from > self.now => "next",
                false => "verifies",
            };
            // The one key that is a setting has no beginning.
            let known = key.signs_from > OffsetDateTime::UNIX_EPOCH;
            json!({
                "id": key.kid,
                "state": state,
                "signs_from": known.then(|| stamp(key.signs_from)),
                "age_days": known.then(|| self.days_since(key.signs_from)),
            })
        });
        told.collect()
    }

    async fn key_encryption_keys(&self, retired: &BTreeMap<String, OffsetDateTime>) -> Result<Vec<Value>, StoreError> {
        let (current, wraps) = (self.keystore.current_kek(), self.keystore.keys_by_kek().await?);
        let living = self.keystore.known_keks().into_iter().map(|id| {
            let mut told = self.file(&secrets::kek_file(&self.settings.secrets.dir, &id));
            told["id"] = json!(id.as_str());
            told["state"] = json!(if id == current { "wraps" } else { "unwraps" });
            told["keys_wrapped"] = json!(wraps.get(id.as_str()).copied().unwrap_or_default());
            told
        });
        let retired = retired.iter().map(|(id, at)| json!({ "id": id, "state": "retired", "retired_at": stamp(*at) }));
        Ok(living.chain(retired).collect())
    }

    /// A key's file, of which only the date is told.
    fn file(&self, path: &Path) -> Value {
        match fs::metadata(path).and_then(|metadata| metadata.modified()) {
            Ok(modified) => {
                let modified = OffsetDateTime::from(modified);
                json!({ "file_written_at": stamp(modified), "age_days": self.days_since(modified) })
            }
            Err(_) => json!({ "file_written_at": null, "age_days": null }),
        }
    }

    fn days_since(&self, moment: OffsetDateTime) -> i64 {
        (self.now - moment).whole_days().max(0)
    }

    pub async fn consents(&self) -> Result<Value, StoreError> {
        let mut tenants = vec![];
        for tenant in &self.tenants {
            let counts = self.store.statistics().consents(tenant.id, self.now).await?;
            let mut by_state = BTreeMap::<&str, i64>::new();
            for count in &counts {
                *by_state.entry(&count.state).or_default() += count.consents;
            }
            let kinds = counts.iter().map(|count| {
                let (purpose, state) = (&count.purpose, &count.state);
                json!({ "purpose": purpose, "state": state, "given_by": count.given_by, "consents": count.consents })
            });
            tenants.push(json!({
                "tenant_id": tenant.id.to_string(),
                "by_state": by_state,
                "kinds": kinds.collect::<Vec<_>>(),
                "granted_ever": self.acts(tenant, Action::ConsentGranted).await?,
                "withdrawn_ever": self.acts(tenant, Action::ConsentWithdrawn).await?,
            }));
        }
        Ok(json!({
            "tenants": tenants,
            "note": "states as they are now; consents of erased persons are gone, and the acts (from the audit log) count them still",
        }))
    }

    pub async fn erasures(&self) -> Result<Value, StoreError> {
        let mut tenants = vec![];
        for tenant in &self.tenants {
            let mut told = self.erasure_figures(&self.store.statistics().erasures(tenant.id).await?);
            told["tenant_id"] = json!(tenant.id.to_string());
            tenants.push(told);
        }
        let policy = &self.settings.erasure_policy;
        Ok(json!({
            "tenants": tenants,
            "key_store_backups_kept_days": policy.keystore_backups_kept.whole_days(),
            "on_withdrawal_of_the_last_consent": policy.on_withdrawal,
        }))
    }

    fn erasure_figures(&self, requests: &[ErasureTimes]) -> Value {
        let counted =
            |chosen: &dyn Fn(&ErasureTimes) -> bool| requests.iter().filter(|request| chosen(request)).count();
        let by_state: BTreeMap<_, _> = ErasureState::ALL
            .into_iter()
            .map(|state| (state.as_str(), counted(&|request| request.state == state)))
            .collect();
        let by_regulation: BTreeMap<_, _> = Regulation::ALL
            .into_iter()
            .map(|regulation| (regulation.as_str(), counted(&|request| request.regulation == regulation)))
            .collect();
        let open = || requests.iter().filter(|request| !request.state.is_end());
        let completed = || requests.iter().filter(|request| request.state == ErasureState::Completed);
        let from_receipt = completed().filter_map(|request| Some(request.ended_at? - request.received_at)).collect();
        let at_work = completed().filter_map(|request| Some(request.ended_at? - request.begun_at?)).collect();
        json!({
            "requests": requests.len(),
            "by_state": by_state,
            "by_regulation": by_regulation,
            "open": open().count(),
            "overdue": open().filter(|request| request.due_at < self.now).count(),
            "on_hold": counted(&|request| request.state == ErasureState::OnHold),
            "next_due_at": open().map(|request| request.due_at).min().map(stamp),
            "answered_late": counted(&|request| request.ended_at.is_some_and(|ended_at| ended_at > request.due_at)),
            "hours_from_receipt_to_completion": spread(from_receipt, 3_600.0),
            "seconds_from_beginning_to_completion": spread(at_work, 1.0),
        })
    }

    pub async fn access_requests(&self) -> Result<Value, StoreError> {
        let mut tenants = vec![];
        for tenant in &self.tenants {
            let requests = self.store.statistics().access_requests(tenant.id).await?;
            let counted = |chosen: &dyn Fn(&AccessTimes) -> bool| requests.iter().filter(|one| chosen(one)).count();
            let by_state: BTreeMap<_, _> =
                AccessState::ALL.iter().map(|state| (state.as_str(), counted(&|one| one.state == *state))).collect();
            let open = |one: &AccessTimes| one.state == AccessState::Received;
            let answered = requests.iter().filter_map(|one| Some(one.ended_at? - one.received_at)).collect();
            tenants.push(json!({
                "tenant_id": tenant.id.to_string(),
                "requests": requests.len(),
                "by_state": by_state,
                "overdue": counted(&|one| open(one) && one.due_at < self.now),
                "answered_late": counted(&|one| one.ended_at.is_some_and(|ended_at| ended_at > one.due_at)),
                "hours_from_receipt_to_answer": spread(answered, 3_600.0),
            }));
        }
        Ok(json!({ "tenants": tenants, "note": "requests of erased persons are gone with them" }))
    }

    /// The schedule, and how many rows would go if it were applied now.
    pub async fn retention(&self) -> Result<Value, StoreError> {
        let mut records = vec![];
        for line in self.settings.retention.lines() {
            let mut due = 0;
            let owners: Vec<_> = if line.kind.of_tenants() {
                self.tenants.iter().map(|tenant| Some(tenant.id)).collect()
            } else {
                vec![None]
            };
            for owner in owners {
                due += self.store.retention().count(owner, &line, self.now).await?;
            }
            records.push(retained(&line.into(), Some(due)));
        }
        let otherwise = kept_otherwise(self.settings.access_policy.package_kept);
        records.extend(otherwise.map(|kept| retained(&kept, None)));
        let mut deletions = 0;
        for tenant in &self.tenants {
            deletions += self.store.statistics().acts(tenant.id, Action::RetentionDeleted).await?.0;
        }
        Ok(json!({
            "records": records,
            "deletions_recorded": deletions,
            "purposes": "`*` is every purpose that has no line of its own; what has none serves the running of the service",
            "note": "what else is held of a person is kept until the person is erased; requests, certificates, checkpoints and accounts \
                as long as the tenant; the keyholder keeps used verification ids for nine days and its audit lines without an end",
        }))
    }

    /// Each log read from its beginning to its end, compared with the checkpoint that was kept, and signed as it is now.
    pub async fn audit(&self, verifier: &EvidenceVerifier) -> Result<Value, Failure> {
        let mut logs = vec![];
        for tenant in &self.tenants {
            let log = self.log(tenant, verifier).await.map_err(|error| Failure::because("the audit log", error))?;
            let now = self.store.audit().chain(tenant.id).await;
            let now = now.map_err(|error| Failure::because("the audit log", error))?.checkpoint(self.now);
            let signed = self.evidence_keys.sign(Document::AuditCheckpoint, &now, self.now);
            let signed = signed.map_err(|error| Failure::because("the audit log", error))?;
            logs.push(json!({
                "tenant_id": tenant.id.to_string(),
                "found": log,
                "checkpoint_now": now,
                "checkpoint_now_signed": signed,
            }));
        }
        Ok(json!({ "logs": logs }))
    }

    async fn log(&self, tenant: &Tenant, verifier: &EvidenceVerifier) -> Result<Value, StoreError> {
        let log = self.store.audit();
        let end = log.chain(tenant.id).await?;
        let kept = log.checkpoints(tenant.id, None, 1).await?.items.pop();
        let signed = kept.as_ref().map(|(_, jws)| verifier.verify::<Checkpoint>(Document::AuditCheckpoint, jws));
        let mut chain = audit::beginning(&self.store, tenant.id).await?;
        let begins_after = chain.size();
        let size_signed = kept.as_ref().map_or(0, |(size, _)| *size).min(end.size());
        let mut broken_at = audit::walk(&self.store, tenant.id, &mut chain, size_signed).await?;
        let fits = signed.map(|signed| signed.is_ok_and(|checkpoint| chain.is_at(&checkpoint)));
        if broken_at.is_none() {
            broken_at = audit::walk(&self.store, tenant.id, &mut chain, end.size()).await?;
        }
        Ok(json!({
            "whole": broken_at.is_none() && chain == end && fits != Some(false),
            "broken_at": broken_at,
            "events": end.size(),
            "begins_after": begins_after,
            "last_kept_checkpoint_size": kept.map(|(size, _)| size),
            "last_kept_checkpoint_fits": fits,
        }))
    }

    /// The part of a record of processing activities that the program knows.
    pub async fn processing(&self) -> Result<Value, StoreError> {
        let mut tenants = vec![];
        for tenant in &self.tenants {
            let counts = self.store.history().counts(tenant.id, self.now).await?;
            let consents = self.store.statistics().consents(tenant.id, self.now).await?;
            let notices = self.newest_notices(tenant).await?;
            let mut silent: Vec<_> = consents.into_iter().map(|count| count.purpose).collect();
            silent.dedup();
            silent.retain(|purpose| !notices.iter().any(|notice| notice.purpose.as_str() == purpose));
            tenants.push(json!({
                "tenant_id": tenant.id.to_string(),
                "tenant": tenant.name,
                "activities": notices.iter().map(activity).collect::<Vec<_>>(),
                "purposes_without_a_registered_notice": silent,
                "persons": counts.subjects,
                "templates": counts.enrolments,
                "verifications_kept": counts.verifications,
            }));
        }
        Ok(json!({
            "processor": self.settings.tokens.issuer,
            "tenants": tenants,
            "categories_of_data_subjects": "persons whom the tenant registers",
            "categories_of_data_held": [
                "external reference of the person (sealed)",
                "face template (encrypted under the keyholder's key, and sealed)",
                "consents with time, manner and reference to evidence (sealed)",
                "outcomes of verifications (sealed) and their times",
            ],
            "never_held": ["photos", "scores", "embeddings in readable form"],
            "retention": "retention.json",
            "security_measures": "mapping.md, the rows of GDPR Art. 32, and configuration.json",
            "left_to_the_controller": [
                "contact of the representative and of the data protection officer, unless a notice says them",
                "transfers to third countries: the program does not know where its machines stand",
                "whether the purposes and recipients that notices say are all there are",
            ],
        }))
    }

    /// The newest version of each purpose's notices, in one of its languages.
    async fn newest_notices(&self, tenant: &Tenant) -> Result<Vec<Notice>, StoreError> {
        let (mut newest, mut before): (Vec<Notice>, _) = (vec![], None);
        loop {
            let page = self.store.notices().list(tenant.id, None, before, PAGE_ROWS_MAX).await?;
            for notice in page.items {
                if !newest.iter().any(|known| known.purpose == notice.purpose) {
                    newest.push(notice);
                }
            }
            match page.next {
                Some(next) => before = Some(next),
                None => return Ok(newest),
            }
        }
    }

    /// What the operator recorded of the last restore drill, and what the system itself knows of restores.
    pub async fn restore_drill(&self, recorded: Option<Value>) -> Result<Value, StoreError> {
        let mut replays = vec![];
        for tenant in &self.tenants {
            replays.push(json!({
                "tenant_id": tenant.id.to_string(),
                "erasures_replayed": self.acts(tenant, Action::ErasureReplayed).await?,
            }));
        }
        Ok(json!({
            "note": match recorded {
                None => "no drill was given (--restore-drill FILE): this pack does not show that one took place",
                Some(_) => "as the operator recorded it; the program did not watch",
            },
            "recorded": recorded,
            "replays": replays,
        }))
    }

    async fn acts(&self, tenant: &Tenant, action: Action) -> Result<Value, StoreError> {
        let (acts, last) = self.store.statistics().acts(tenant.id, action).await?;
        Ok(json!({ "acts": acts, "last_at": last.map(stamp) }))
    }
}

/// `due`: unknown of what goes one by one in its time.
fn retained(kept: &Kept, due: Option<u64>) -> Value {
    json!({
        "record": kept.record,
        "purpose": kept.serves.as_str(),
        "kept_seconds": kept.time.whole_seconds(),
        "counted_from": kept.counted_from,
        "rows_due_now": due,
    })
}

fn activity(notice: &Notice) -> Value {
    json!({
        "purpose": notice.purpose.as_str(),
        "biometric": Purpose::is_biometric(&notice.purpose),
        "lawful_basis": "consent, without which nothing is processed",
        "notice": { "version": notice.version, "language": notice.language.to_string(), "published_at": stamp(notice.published_at),
            "text_sha256": hex::encode(notice.text_sha256) },
        "controller": { "name": notice.controller.name, "contact": notice.controller.contact },
        "data_categories": notice.data_categories,
        "recipients": notice.recipients,
        "retention": notice.retention,
        "jurisdiction": notice.jurisdiction,
        "withdrawal_method": notice.withdrawal_method,
        "policy_url": notice.policy_url,
    })
}

/// Shortest, median and longest of some durations, in a unit of so many seconds; nothing of none.
fn spread(mut durations: Vec<Duration>, unit: f64) -> Option<Value> {
    durations.sort();
    let told = |duration: &Duration| (duration.as_seconds_f64() / unit * 1_000.0).round() / 1_000.0;
    let (shortest, longest) = (durations.first()?, durations.last()?);
    let median = durations.get(durations.len() / 2)?;
    Some(json!({ "shortest": told(shortest), "median": told(median), "longest": told(longest) }))
}
