//! Requests to erase, and the ledger of what was begun.

use time::Duration;
use velum::{
    audit::SubjectDigest,
    domain::{
        erasure::ErasureState,
        id::{ErasureId, SubjectId, TenantId},
        job::JobKind,
    },
    store::{
        Conflict, ErasureFilter, ErasureLedger, ErasureRequest, LedgerEntry, LedgerKind, LedgerLoss, Mark, NewJob,
        NewLedgerEntry, Step, StoreError,
    },
};

use crate::databases::*;

fn step(to: ErasureState) -> Step {
    Step { from: ErasureState::Verified, to, reason: None, at: NOW + Duration::HOUR }
}

#[test]
fn a_person_has_one_open_request_and_a_step_that_is_not_allowed_changes_nothing() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let (tenant, other) = (tenant(&store).await, tenant(&store).await);
        let (person, _) = subject(&store, tenant, "somebody").await;
        let mut request = erasure_of(tenant, person);
        (request.state, request.begun_at) = (ErasureState::Verified, None);
        let erasures = store.erasures();
        erasures.open(&request, None, act()).await.unwrap();
        let second = erasures.open(&erasure_of(tenant, person), None, act()).await;
        assert!(matches!(second, Err(StoreError::Conflict(Conflict::ErasureOpen))));
        assert_eq!(erasures.find(tenant, request.id).await.unwrap(), request);
        assert!(matches!(erasures.find(other, request.id).await, Err(StoreError::NotFound)));

        let size = store.audit().chain(tenant).await.unwrap().size();
        let completed = erasures.step(tenant, request.id, step(ErasureState::Completed), None, |_| Ok(act())).await;
        assert!(matches!(completed, Err(StoreError::Conflict(Conflict::ErasureState))));
        assert_eq!(erasures.find(tenant, request.id).await.unwrap(), request);
        assert_eq!(store.audit().chain(tenant).await.unwrap().size(), size);

        // Nor does one that was decided on before somebody else took one.
        let late = Step { from: ErasureState::Received, ..step(ErasureState::Cancelled) };
        let late = erasures.step(tenant, request.id, late, None, |_| Ok(act())).await;
        assert!(matches!(late, Err(StoreError::Conflict(Conflict::ErasureState))));
        assert_eq!(erasures.find(tenant, request.id).await.unwrap(), request);

        let (open, due) = erasures.open_and_first_due().await.unwrap();
        assert_eq!((open, due), (1, Some(request.due_at)));
        let cancelled =
            erasures.step(tenant, request.id, step(ErasureState::Cancelled), None, |_| Ok(act())).await.unwrap();
        assert_eq!((cancelled.subject, cancelled.ended_at), (None, Some(NOW + Duration::HOUR)));
        assert_eq!(erasures.open_and_first_due().await.unwrap(), (0, None));
        erasures.open(&erasure_of(tenant, person), None, act()).await.unwrap();

        let all = ErasureFilter { state: None, subject: Some(request.subject_digest) };
        assert_eq!(erasures.list(tenant, all.clone(), None, 9).await.unwrap().items.len(), 2);
        assert!(erasures.list(other, all, None, 9).await.unwrap().items.is_empty());
        let ended = ErasureFilter { state: Some(ErasureState::Cancelled), subject: None };
        assert_eq!(erasures.list(tenant, ended, None, 9).await.unwrap().items, [cancelled]);
    });
}

#[test]
fn open_requests_are_read_by_their_deadlines() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let (tenant, other) = (tenant(&store).await, tenant(&store).await);
        let erasures = store.erasures();
        let mut requests = Vec::new();
        // Two are due at the same moment; the newest request is due first.
        for (number, days) in [9, 5, 5, 1].into_iter().enumerate() {
            let (person, _) = subject(&store, tenant, &number.to_string()).await;
            let due_at = NOW + Duration::days(days);
            let request = ErasureRequest { due_at, state: ErasureState::Verified, ..erasure_of(tenant, person) };
            erasures.open(&request, None, act()).await.unwrap();
            requests.push(request);
        }
        let ids = |found: &[ErasureRequest]| found.iter().map(|request| request.id).collect::<Vec<_>>();
        let first = erasures.by_deadline(tenant, None, None, 2).await.unwrap();
        assert_eq!(ids(&first.items), [requests[3].id, requests[1].id]);
        let after = first.next.unwrap().to_string().parse().unwrap();
        let second = erasures.by_deadline(tenant, None, Some(after), 2).await.unwrap();
        assert_eq!((ids(&second.items), second.next), (vec![requests[2].id, requests[0].id], None));
        let in_two_days = NOW + Duration::days(2);
        assert_eq!(erasures.open_and_overdue(tenant, in_two_days).await.unwrap(), (4, 1));
        assert_eq!(erasures.open_and_overdue(other, in_two_days).await.unwrap(), (0, 0));

        let held =
            erasures.step(tenant, requests[0].id, step(ErasureState::OnHold), None, |_| Ok(act())).await.unwrap();
        let on_hold = erasures.by_deadline(tenant, Some(ErasureState::OnHold), None, 9).await.unwrap();
        assert_eq!(on_hold.items, [held]);
        erasures.step(tenant, requests[3].id, step(ErasureState::Cancelled), None, |_| Ok(act())).await.unwrap();
        assert_eq!(
            erasures.by_deadline(tenant, None, None, 9).await.unwrap().items.len(),
            3,
            "what has ended is not due"
        );
        assert!(erasures.by_deadline(other, None, None, 9).await.unwrap().items.is_empty());
    });
}

#[test]
fn what_people_wrote_on_earlier_requests_goes_with_the_person() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let (tenant, elsewhere) = (tenant(&store).await, tenant(&store).await);
        let erasures = store.erasures();
        let rejected = async |tenant, name, digest| {
            let (person, _) = subject(&store, tenant, name).await;
            let request =
                ErasureRequest { state: ErasureState::Verified, subject_digest: digest, ..erasure_of(tenant, person) };
            erasures.open(&request, None, act()).await.unwrap();
            let reason = Some("Ms Example of 12 High Street did not sign".to_owned());
            let step = Step { reason, ..step(ErasureState::Rejected) };
            erasures.step(tenant, request.id, step, None, |_| Ok(act())).await.unwrap();
            (request.id, person)
        };
        let (early, person) = rejected(tenant, "somebody", SubjectDigest([9; 32])).await;
        // Of another person, and of the other tenant, though the digest is the same there.
        let (other, _) = rejected(tenant, "another", SubjectDigest([8; 32])).await;
        let (foreign, _) = rejected(elsewhere, "somebody", SubjectDigest([9; 32])).await;

        let request = erasure_of(tenant, person);
        erasures.open(&request, None, act()).await.unwrap();
        for _ in 0..2 {
            let done = erasures.remove_rows(tenant, request.id, person, act().event).await.unwrap();
            assert_eq!(done.removed.unwrap().rows.reasons, 1);
        }
        assert_eq!(erasures.find(tenant, early).await.unwrap().reason, None);
        assert!(erasures.find(tenant, other).await.unwrap().reason.is_some());
        assert!(erasures.find(elsewhere, foreign).await.unwrap().reason.is_some());
        let named = "SELECT id AS value FROM erasure_requests WHERE reason LIKE '%Example%' ORDER BY id";
        assert_eq!(database.values(named).len(), 2);
    });
}

#[test]
fn a_certificate_is_written_once() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        let (person, _) = subject(&store, tenant, "somebody").await;
        let request = erasure_of(tenant, person);
        store.erasures().open(&request, None, act()).await.unwrap();
        store.erasures().remove_rows(tenant, request.id, person, act().event).await.unwrap();
        for certificate in ["first", "second"] {
            let certified = store.erasures().certify(tenant, request.id, certificate.to_owned(), act()).await.unwrap();
            assert_eq!((certified.state, certified.subject), (ErasureState::Completed, None));
            assert_eq!(certified.certificate.as_deref(), Some("first"));
        }
        // The tenant, the person, the request, the rows, the end.
        assert_eq!(store.audit().chain(tenant).await.unwrap().size(), 5);
    });
}

#[test]
fn the_ledger_has_each_step_of_a_request_once_and_knows_its_own_places() {
    on_each_database(|database| async move {
        let ledger = database.ledger().await;
        let entry = |kind, request| NewLedgerEntry {
            at: NOW,
            kind,
            request,
            tenant: TenantId::generate(),
            subject: SubjectId::generate(),
        };
        let (one, other) = (ErasureId::generate(), ErasureId::generate());
        let begun = ledger.append(entry(LedgerKind::Begun, one)).await.unwrap();
        assert_eq!(ledger.append(entry(LedgerKind::Begun, one)).await.unwrap(), begun, "the first stands");
        ledger.append(entry(LedgerKind::Begun, other)).await.unwrap();
        let certified = ledger.append(entry(LedgerKind::Certified("jws".to_owned()), one)).await.unwrap();
        let again = ledger.append(entry(LedgerKind::Certified("other".to_owned()), one)).await.unwrap();
        assert_eq!(again, certified);
        let all = entries_after(&ledger, Mark::start()).await.unwrap();
        assert_eq!(all.len(), 3);
        assert_eq!(entries_after(&ledger, all[1].mark.clone()).await.unwrap(), std::slice::from_ref(&certified));
        assert!(entries_after(&ledger, certified.mark.clone()).await.unwrap().is_empty());

        assert!(ledger.has(Mark::start()).await.unwrap());
        assert!(ledger.has(certified.mark.clone()).await.unwrap());
        assert!(!ledger.has(Mark { sequence: 3, hash: vec![7; 32] }).await.unwrap());
        assert!(!ledger.has(Mark { sequence: 4, ..certified.mark }).await.unwrap());
        for change in ["UPDATE ledger_entries SET at = 0", "DELETE FROM ledger_entries"] {
            assert!(database.execute(change).unwrap_err().to_string().contains("append-only"));
        }
    });
}

async fn entries_after(ledger: &ErasureLedger, place: Mark) -> Result<Vec<LedgerEntry>, StoreError> {
    let (mut walk, mut found) = (ledger.walk(place), Vec::new());
    loop {
        let page = walk.next().await?;
        if page.is_empty() {
            return Ok(found);
        }
        found.extend(page);
    }
}

/// Takes the append-only triggers away, as somebody with the database in his hands could.
fn disarm(database: &TestDatabase) {
    let disarm = match database.kind {
        Kind::Sqlite => "DROP TRIGGER ledger_entries_no_update; DROP TRIGGER ledger_entries_no_delete",
        Kind::Postgres => "DROP TRIGGER ledger_entries_append_only ON ledger_entries",
    };
    database.execute(disarm).unwrap();
}

#[test]
fn a_changed_removed_inserted_or_moved_entry_breaks_the_ledger_where_it_stood() {
    let damages = [
        ("UPDATE ledger_entries SET kind = 'certified' WHERE sequence = 5", 5),
        ("UPDATE ledger_entries SET at = at + 1 WHERE sequence = 1", 1),
        (
            "UPDATE ledger_entries SET subject_id = (SELECT subject_id FROM ledger_entries WHERE sequence = 2) WHERE sequence = 7",
            7,
        ),
        ("DELETE FROM ledger_entries WHERE sequence = 4", 4),
        ("DELETE FROM ledger_entries WHERE sequence = 10", 10),
        ("DELETE FROM ledger_entries", 1),
        (
            "INSERT INTO ledger_entries SELECT 11, at, 'certified', request_id, tenant_id, subject_id, certificate, hash \
             FROM ledger_entries WHERE sequence = 10",
            11,
        ),
        (
            "UPDATE ledger_entries SET sequence = 100 WHERE sequence = 2; UPDATE ledger_entries SET sequence = 2 \
             WHERE sequence = 3; UPDATE ledger_entries SET sequence = 3 WHERE sequence = 100",
            2,
        ),
        ("DELETE FROM ledger_entries WHERE sequence = 10; UPDATE ledger_head SET sequence = 9", 10),
        ("UPDATE ledger_head SET sequence = 9", 11),
    ];
    for (damage, broken_at) in damages {
        on_each_database(|database| async move {
            let ledger = database.ledger().await;
            for _ in 0..10 {
                let (tenant, subject) = (TenantId::generate(), SubjectId::generate());
                let (kind, request) = (LedgerKind::Begun, ErasureId::generate());
                ledger.append(NewLedgerEntry { at: NOW, kind, request, tenant, subject }).await.unwrap();
            }
            disarm(&database);
            database.execute(damage).unwrap();
            let read = entries_after(&ledger, Mark::start()).await;
            assert!(
                matches!(read, Err(StoreError::LedgerBroken { sequence }) if sequence == broken_at),
                "{damage}: {read:?}"
            );
        });
    }
}

#[test]
fn a_loss_that_was_accepted_stays_in_the_ledger() {
    on_each_database(|database| async move {
        let ledger = database.ledger().await;
        let loss = LedgerLoss { at: NOW, ended_at: 4, remembered: 8, entries: 2, requests: 1 };
        ledger.accept_loss(loss).await.unwrap();
        assert_eq!(ledger.losses().await.unwrap(), [loss]);
        for change in ["UPDATE ledger_losses SET entries = 0", "DELETE FROM ledger_losses"] {
            assert!(database.execute(change).unwrap_err().to_string().contains("append-only"));
        }
    });
}

#[test]
fn a_request_that_is_put_back_takes_the_rows_with_it_and_leaves_the_rest_to_the_queue() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        let (person, _) = subject(&store, tenant, "somebody").await;
        grant(&store, tenant, person).await;
        let request = erasure_of(tenant, person);
        let job = NewJob {
            kind: JobKind::Erasure,
            tenant: Some(tenant),
            payload: serde_json::json!({ "request": request.id.to_string() }),
            unique_key: None,
            due_at: NOW,
            created_at: NOW,
        };
        let put_back = store.erasures().restore(&request, job.clone(), act().event, act().event).await.unwrap();
        assert!(matches!(store.subjects().find(tenant, person).await, Err(StoreError::NotFound)));
        let removed = put_back.removed.clone().unwrap();
        assert_eq!((removed.rows.subjects, removed.rows.consents), (1, 1));
        let jobs = store.jobs().list(false, 9).await.unwrap();
        assert_eq!(jobs.iter().map(|job| job.kind.as_str()).collect::<Vec<_>>(), ["erasure"]);

        // What the certificate counts is what was removed first.
        assert_eq!(store.erasures().restore(&put_back, job, act().event, act().event).await.unwrap(), put_back);
        let done = store.erasures().remove_rows(tenant, request.id, person, act().event).await.unwrap();
        assert_eq!(done.removed, Some(removed));
    });
}
