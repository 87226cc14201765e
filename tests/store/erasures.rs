//! Requests to erase, and the ledger of what was begun.

use time::Duration;
use velum::{
    domain::{
        erasure::ErasureState,
        id::{ErasureId, SubjectId, TenantId},
    },
    store::{Conflict, ErasureFilter, ErasureRequest, LedgerKind, Mark, NewLedgerEntry, Step, StoreError},
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
        assert_eq!(ledger.after(0, 9).await.unwrap().len(), 3);
        assert_eq!(ledger.after(2, 9).await.unwrap(), std::slice::from_ref(&certified));

        assert!(ledger.has(Mark::start()).await.unwrap());
        assert!(ledger.has(certified.mark.clone()).await.unwrap());
        assert!(!ledger.has(Mark { sequence: 3, hash: vec![7; 32] }).await.unwrap());
        assert!(!ledger.has(Mark { sequence: 4, ..certified.mark }).await.unwrap());
        for change in ["UPDATE ledger_entries SET at = 0", "DELETE FROM ledger_entries"] {
            assert!(database.execute(change).unwrap_err().to_string().contains("append-only"));
        }
    });
}
