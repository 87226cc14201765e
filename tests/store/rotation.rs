//! Another key-encryption key takes over while people come and go, also when the program is killed in the middle.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tempfile::TempDir;
use time::OffsetDateTime;
use velum::{
    domain::{
        consent::{Consent, Reference, Statement},
        id::{ConsentId, EnrolmentId, SubjectId, TenantId},
    },
    flows::exchange::Exchange,
    secrets,
    store::{
        AccessFilter, Conflict, KeyStore, NewSubject, NewTemplate, Store, StoreError, TEMPLATES_PER_SUBJECT_MAX,
        TemplateKind,
    },
    vault::{DataKey, KeyEncryptionKeys, Keyring, Place, VaultError, envelope::KeyEncryptionKey},
};
use zeroize::Zeroizing;

use crate::databases::*;

const PLACE: Place<'_> = Place { table: "subjects", row: "sub_1", column: "external_ref" };
const OLD: &str = "2026-11-20";
const NEW: &str = "2026-11-21";

/// A secrets folder with the old key, and later the new one.
struct Folder {
    dir: TempDir,
    /// The main database, in whose audit logs it stands that keys change.
    main: TestDatabase,
}

impl Folder {
    fn new() -> Self {
        let folder = Self { dir: tempfile::tempdir().unwrap(), main: TestDatabase::new(Kind::Sqlite).unwrap() };
        fs::create_dir(folder.path().join("kek")).unwrap();
        folder.add(OLD);
        use secrets::Kind::{BlindIndex, Evidence, Jwt, Pepper};
        for kind in [Jwt, Evidence, Pepper, BlindIndex] {
            secrets::make(kind, folder.path(), &folder.path().join("fhe"), OffsetDateTime::now_utc()).unwrap();
        }
        folder
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn add(&self, id: &str) {
        let path = self.path().join(format!("kek/{id}.key"));
        fs::write(&path, hex::encode(key_bytes(id))).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn has(&self, id: &str) -> bool {
        self.path().join(format!("kek/{id}.key")).exists()
    }

    async fn key_store(&self, database: &TestDatabase) -> KeyStore {
        let keys = Keyring::read(self.path(), None).unwrap();
        let keys = KeyStore::connect(&database.url, POOL_SIZE, keys).await.unwrap();
        keys.migrate().await.unwrap();
        keys
    }

    fn rotate<'a>(&self, database: &TestDatabase, more: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_velum"));
        command.env_clear().current_dir(self.path());
        command.env("VELUM_SECRETS_DIR", self.path()).env("VELUM_KEYSTORE_URL", &database.url);
        command.env("VELUM_DATABASE_URL", &self.main.url);
        command.args(["keys", "rotate", "field", "--json"]).args(more).stderr(Stdio::piped());
        command
    }

    fn report<'a>(&self, database: &TestDatabase, more: impl IntoIterator<Item = &'a str>) -> serde_json::Value {
        let output = self.rotate(database, more).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        serde_json::from_str(text.lines().last().unwrap()).unwrap()
    }
}

fn key_bytes(id: &str) -> [u8; 32] {
    use sha2::{Digest, Sha256};
    Sha256::digest(format!("a test's own key {id}")).into()
}

fn keys_of(id: &str) -> KeyEncryptionKeys {
    let key = KeyEncryptionKey::from_bytes(Zeroizing::new(key_bytes(id)));
    KeyEncryptionKeys::new(id.parse().unwrap(), [(id.parse().unwrap(), key)]).unwrap()
}

/// What this key sealed opens under it alone.
struct Person {
    tenant: TenantId,
    subject: SubjectId,
    sealed: Vec<u8>,
}

impl Person {
    fn of(tenant: TenantId, subject: SubjectId, key: &DataKey) -> Self {
        Self { tenant, subject, sealed: key.seal(&PLACE, subject.to_string().as_bytes()).unwrap() }
    }

    async fn is_readable(&self, keys: &KeyStore) -> bool {
        let key = keys.get(self.tenant, self.subject).await.unwrap().unwrap();
        key.open(&PLACE, &self.sealed).is_ok()
    }
}

async fn people(keys: &KeyStore, number: usize) -> Vec<Person> {
    let mut people = Vec::new();
    for _ in 0..number {
        let (tenant, subject) = (TenantId::generate(), SubjectId::generate());
        people.push(Person::of(tenant, subject, &keys.create(tenant, subject, NOW).await.unwrap()));
    }
    people
}

async fn rewrap_all(keys: &KeyStore) -> u64 {
    let (mut rows, mut after) = (0, None);
    loop {
        let step = keys.rewrap(after).await.unwrap();
        assert_eq!(step.unreadable, []);
        rows += step.rows;
        match step.next {
            Some(subject) => after = Some(subject),
            None => return rows,
        }
    }
}

#[test]
fn every_key_is_wrapped_anew_while_people_come_and_go() {
    on_each_database(|database| async move {
        let folder = Folder::new();
        // A server that is at work all the time; it learns of the new key by itself.
        let server = folder.key_store(&database).await;
        let residents = people(&server, 500).await;
        server.address_key(NOW).await.unwrap();
        let stolen = database.bytes("data_keys ORDER BY subject_id LIMIT 1", "wrapped");
        folder.add(NEW);
        let rotating = folder.key_store(&database).await;

        let (coming, going) = (server.clone(), server.clone());
        let leavers = people(&server, 60).await;
        let traffic = tokio::spawn(async move {
            for leaver in &leavers {
                going.destroy(leaver.tenant, leaver.subject, NOW).await.unwrap();
            }
            (people(&coming, 60).await, leavers)
        });
        let mut rows = rewrap_all(&rotating).await;
        let (arrivals, leavers) = traffic.await.unwrap();
        server.refresh_keys().await.unwrap();
        rows += rewrap_all(&rotating).await;
        assert_eq!(rotating.rewrap_address_keys().await.unwrap(), 1);
        assert!(rows >= 500, "{rows}");

        for person in residents.iter().chain(&arrivals) {
            assert!(person.is_readable(&server).await);
        }
        for leaver in &leavers {
            assert!(server.is_destroyed(leaver.tenant, leaver.subject).await.unwrap());
        }
        assert_eq!(rotating.keys_by_kek().await.unwrap(), [(NEW.to_owned(), 561)].into());
        server.address_key(NOW).await.unwrap();

        // The old key is refused from here on: it wraps nothing, and what it once wrapped does not open.
        rotating.retire(&OLD.parse().unwrap(), NOW).await.unwrap();
        let late = KeyStore::connect(&database.url, 1, keys_of(OLD)).await.unwrap();
        let refused = late.create(TenantId::generate(), SubjectId::generate(), NOW).await.err().unwrap();
        assert!(matches!(&refused, StoreError::Sealed(VaultError::RetiredKey(kek)) if kek == OLD), "{refused}");
        assert_eq!(database.count("data_keys WHERE kek_id = '2026-11-20'"), 0);
        let put_back = match database.kind {
            Kind::Sqlite => format!("x'{}'", stolen[0]),
            Kind::Postgres => format!("decode('{}', 'hex')", stolen[0]),
        };
        let victim = "(SELECT min(subject_id) FROM data_keys)";
        let forged = format!("UPDATE data_keys SET kek_id = '{OLD}', wrapped = {put_back} WHERE subject_id = {victim}");
        database.execute(&forged).unwrap();
        let victim = residents.iter().min_by_key(|person| person.subject).unwrap();
        server.refresh_keys().await.unwrap();
        match server.get(victim.tenant, victim.subject).await {
            Err(StoreError::Sealed(VaultError::RetiredKey(kek))) => assert_eq!(kek, OLD),
            other => panic!("opened: {}", other.is_ok()),
        }
    });
}

#[test]
fn a_key_that_rows_need_is_not_retired_even_when_they_are_being_written() {
    on_each_database(|database| async move {
        let folder = Folder::new();
        let server = folder.key_store(&database).await;
        people(&server, 1).await;
        let refused = server.retire(&OLD.parse().unwrap(), NOW).await.err().unwrap();
        assert!(matches!(refused, StoreError::KeyInUse { rows: 1, .. }), "{refused}");
        people(&server, 1).await;

        // Whoever wraps by a key while it is retired either is counted or is refused, and then takes the new one.
        folder.add(NEW);
        let rotating = Arc::new(folder.key_store(&database).await);
        let writers: Vec<_> = (0..6)
            .map(|_| {
                let server = server.clone();
                tokio::spawn(async move { people(&server, 20).await })
            })
            .collect();
        let mut attempts = 0;
        loop {
            rewrap_all(&rotating).await;
            match rotating.retire(&OLD.parse().unwrap(), NOW).await {
                Ok(()) => break,
                Err(StoreError::KeyInUse { .. }) => attempts += 1,
                Err(error) => panic!("{error}"),
            }
            // Who never rests would starve the writers: the lock of SQLite is not fair.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        eprintln!("retired after {attempts} refusals");
        for writer in writers {
            for person in writer.await.unwrap() {
                assert!(person.is_readable(&server).await);
            }
        }
        assert_eq!(rotating.keys_by_kek().await.unwrap(), [(NEW.to_owned(), 122)].into());
    });
}

#[test]
fn a_rotation_that_is_killed_goes_on_where_it_was() {
    on_each_database(|database| async move {
        const PEOPLE: usize = 20_000;
        let folder = Folder::new();
        folder.key_store(&database).await;
        let (tenant, old) = (TenantId::generate(), keys_of(OLD));
        let mut people = Vec::new();
        for _ in 0..PEOPLE / 500 {
            let rows = (0..500).map(|_| {
                let (subject, key) = (SubjectId::generate(), DataKey::generate().unwrap());
                people.push(Person::of(tenant, subject, &key));
                let wrapped = hex::encode(old.wrap(&key, tenant, subject).unwrap().bytes);
                let wrapped = match database.kind {
                    Kind::Sqlite => format!("x'{wrapped}'"),
                    Kind::Postgres => format!("decode('{wrapped}', 'hex')"),
                };
                format!("('{subject}', '{tenant}', '{OLD}', {wrapped}, 0)")
            });
            let rows = rows.collect::<Vec<_>>().join(", ");
            let insert = "INSERT INTO data_keys (subject_id, tenant_id, kek_id, wrapped, created_at) VALUES";
            database.execute(&format!("{insert} {rows}")).unwrap();
        }
        folder.add(NEW);

        let audited = folder.main.store().await;
        let witness = crate::databases::tenant(&audited).await;
        let mut running = folder.rotate(&database, []).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(running.stdout.take().unwrap()).lines();
        for _ in 0..2 {
            lines.next().unwrap().unwrap();
        }
        running.kill().unwrap(); // SIGKILL
        running.wait().unwrap();

        let half_way = folder.report(&database, ["--status"]);
        let left = half_way["left"].as_u64().unwrap();
        eprintln!("killed with {left} of {PEOPLE} left");
        assert!(left > 0 && left < PEOPLE as u64, "{half_way}");
        let server = folder.key_store(&database).await;
        for person in people.iter().step_by(37) {
            assert!(person.is_readable(&server).await);
        }

        let done = folder.report(&database, ["--retire"]);
        assert_eq!(
            done,
            serde_json::json!({
                "current": NEW, "keys": { NEW: PEOPLE }, "left": 0, "retired": [OLD]
            })
        );
        assert!(folder.has(NEW) && !folder.has(OLD));
        let told = audited.audit().after(witness, 1, 10).await.unwrap();
        let told: Vec<_> = told.into_iter().map(|(entry, _)| (entry.action, entry.object.unwrap())).collect();
        let expected = [("took_over", NEW), ("took_over", NEW), ("retired", OLD)];
        assert_eq!(told, expected.map(|(act, key)| (format!("keys.field_{act}"), key.to_owned())));
        for person in people.iter().step_by(37) {
            assert!(person.is_readable(&server).await);
        }
        // A file that is brought back changes nothing.
        folder.add(OLD);
        let again = folder.key_store(&database).await;
        again.refresh_keys().await.unwrap();
        assert_eq!(again.known_keks().len(), 1);
    });
}

#[test]
fn keys_stay_as_they_are_where_it_cannot_be_recorded_that_they_change() {
    on_each_database(|database| async move {
        let folder = Folder::new();
        let server = folder.key_store(&database).await;
        people(&server, 3).await;
        folder.add(NEW);
        tenant(&folder.main.store().await).await;
        folder.main.execute("DROP TABLE audit_events").unwrap();
        let output = folder.rotate(&database, []).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && told.contains("the audit log"), "{told}");
        assert_eq!(folder.report(&database, ["--status"])["keys"], serde_json::json!({ OLD: 3 }));
    });
}

#[test]
fn a_row_that_does_not_open_is_named_and_the_others_are_rewrapped() {
    on_each_database(|database| async move {
        let folder = Folder::new();
        let server = folder.key_store(&database).await;
        let people = people(&server, 3).await;
        folder.add(NEW);
        folder.add("2026-11-19");
        let lost = people[1].subject;
        database.execute(&format!("UPDATE data_keys SET kek_id = '2026-11-19' WHERE subject_id = '{lost}'")).unwrap();
        folder.main.store().await;
        let output = folder.rotate(&database, []).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains(&lost.to_string()) && told.contains("1 data keys could not be re-wrapped"), "{told}");
        let status = folder.report(&database, ["--status"]);
        assert_eq!(status["keys"], serde_json::json!({ "2026-11-19": 1, NEW: 2 }));
    });
}

#[test]
fn templates_are_put_in_place_of_those_under_the_older_key_only_once_and_never_of_others() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        let (id, key) = subject(&store, tenant, "emp-0042").await;
        grant(&store, tenant, id).await;
        for template in [b"one", b"two", b"six"] {
            insert_template(&store, tenant, id, &key, template).await.unwrap();
        }
        let (old, new) = (kind().fhe_key_id, "ff".repeat(16));
        let templates = store.templates();
        assert_eq!(templates.count_under(&old).await.unwrap(), 3);
        let first = templates.under_key(&old, None, 2).await.unwrap();
        let rest = templates.under_key(&old, Some(first[1].id), 2).await.unwrap();
        assert_eq!((first.len(), rest.len()), (2, 1));
        assert_eq!(first[0].open(&key).unwrap().as_slice(), b"one");

        // One of the two is deleted meanwhile.
        templates.delete(tenant, id, first[1].id, act()).await.unwrap();
        let renewed = || first.iter().map(|template| template.with(b"new", &key).unwrap()).collect();
        assert_eq!(templates.bring_under(&old, &new, renewed()).await.unwrap(), 1);
        assert_eq!(templates.bring_under(&old, &new, renewed()).await.unwrap(), 0);
        assert_eq!((templates.count_under(&old).await.unwrap(), templates.count_under(&new).await.unwrap()), (1, 1));

        // A server that knows both keys reads both, one that knows the new key alone reads the new.
        let now = TemplateKind { fhe_key_id: new.clone(), ..kind() };
        let both = templates.load(tenant, id, &now, Some(&old), &key).await.unwrap();
        let read = both.iter().map(|row| (row.fhe_key_id.as_str(), row.template.as_slice())).collect::<Vec<_>>();
        assert_eq!(read, [(old.as_str(), b"six".as_slice()), (new.as_str(), b"new".as_slice())]);
        assert_eq!(templates.load(tenant, id, &now, None, &key).await.unwrap().len(), 1);

        // Templates under both keys count as one kind: an answer opens no more than so many.
        let insert = async |older_key: Option<String>| {
            let (enrolment, purpose) = (EnrolmentId::generate(), purpose());
            let new = NewTemplate {
                id: enrolment,
                subject: id,
                purpose: &purpose,
                kind: now.clone(),
                older_key,
                template: b"more",
                created_at: NOW,
            };
            templates.insert(tenant, new, &key, act()).await
        };
        for _ in 2..TEMPLATES_PER_SUBJECT_MAX {
            insert(Some(old.clone())).await.unwrap();
        }
        let full = insert(Some(old.clone())).await.err().unwrap();
        assert!(matches!(full, StoreError::Conflict(Conflict::TooManyTemplates)), "{full}");
    });
}

/// Persons of one tenant with something in every sealed column, and their keys of before.
async fn residents(store: &Store, keystore: &KeyStore, number: usize) -> (TenantId, Vec<(SubjectId, DataKey)>) {
    let tenant = tenant(store).await;
    let mut residents = Vec::new();
    for index in 0..number {
        let id = SubjectId::generate();
        let key = keystore.create(tenant, id, NOW).await.unwrap();
        let external_ref = format!("emp-{index}");
        let new = NewSubject { id, external_ref: &external_ref, created_at: NOW };
        store.subjects().insert(tenant, new, &key, act()).await.unwrap();
        let reference = || Some(Reference::new("form".to_owned()));
        let yes = Statement { evidence: reference(), ..said(NOW) };
        let no = Some(yes.clone());
        let consent = Consent { granted: yes, guardian: reference(), ..consent_of(id) };
        let withdrawn = Consent { id: ConsentId::generate(), withdrawn: no, ..consent.clone() };
        for consent in [consent, withdrawn] {
            store.consents().insert(tenant, &consent, &key, act()).await.unwrap();
        }
        insert_template(store, tenant, id, &key, b"template").await.unwrap();
        insert_verification(store, tenant, verification_of(id), &key).await.unwrap();
        answered(store, tenant, id, &key).await;
        residents.push((id, key));
    }
    (tenant, residents)
}

/// Everything of a person opens under the person's key of now.
async fn is_whole(store: &Store, keystore: &KeyStore, tenant: TenantId, id: SubjectId) -> bool {
    let key = keystore.get(tenant, id).await.unwrap().unwrap();
    let subject = store.subjects().find(tenant, id).await.unwrap();
    let templates = store.templates().load(tenant, id, &kind(), None, &key).await.unwrap();
    let verifications = store.verifications().list(tenant, id, None, 100, &key).await.unwrap();
    let consents = all_consents(store, tenant, id, &key).await;
    let filter = AccessFilter { state: None, subject: Some(id), now: NOW };
    let request = store.access_requests().list(tenant, filter, None, 1).await.unwrap().items[0].id;
    let package = store.access_requests().fetch(tenant, request, None, act().event).await.unwrap();
    assert_eq!(package.open(&key).unwrap(), b"package");
    consents.iter().all(|consent| consent.guardian == Some(Reference::new("form".to_owned())))
        && subject.open_external_ref(&key).unwrap().starts_with("emp-")
        && templates.iter().all(|row| row.template.as_slice() == b"template")
        && !verifications.items.is_empty()
}

/// A main database and a key store of one kind.
async fn both_stores(main: &TestDatabase, folder: &Folder) -> (Store, TestDatabase, KeyStore) {
    let beside = TestDatabase::new(main.kind).unwrap();
    let keystore = folder.key_store(&beside).await;
    (main.store().await, beside, keystore)
}

fn exchange(store: &Store, keystore: &KeyStore, patience: Duration) -> Exchange {
    Exchange { store: store.clone(), keystore: keystore.clone(), patience }
}

#[test]
fn every_person_gets_another_data_key_while_others_write_and_some_are_erased() {
    on_each_database(|database| async move {
        let folder = Folder::new();
        let (store, beside, keystore) = both_stores(&database, &folder).await;
        let (tenant, residents) = residents(&store, &keystore, 40).await;
        let ids: Vec<_> = residents.iter().map(|(id, _)| *id).collect();
        let done = Arc::new(AtomicBool::new(false));
        let traffic = {
            let (store, keystore, ids, done) = (store.clone(), keystore.clone(), ids.clone(), Arc::clone(&done));
            tokio::spawn(async move {
                let mut written = 0;
                while !done.load(Ordering::Relaxed) {
                    for id in ids[4..].iter().step_by(5) {
                        let key = keystore.get(tenant, *id).await.unwrap().unwrap();
                        insert_verification(&store, tenant, verification_of(*id), &key).await.unwrap();
                        assert!(is_whole(&store, &keystore, tenant, *id).await);
                        written += 1;
                    }
                }
                written
            })
        };
        let erased = {
            let (keystore, ids) = (keystore.clone(), ids.clone());
            tokio::spawn(async move {
                for id in &ids[..4] {
                    keystore.destroy(tenant, *id, NOW).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(250)).await;
                }
            })
        };
        let unreadable = exchange(&store, &keystore, Duration::from_secs(2))
            .run(NOW + time::Duration::SECOND, |_| {})
            .await
            .unwrap();
        assert_eq!(unreadable, []);
        erased.await.unwrap();
        done.store(true, Ordering::Relaxed);
        assert!(traffic.await.unwrap() > 0);

        assert_eq!(beside.count("data_keys WHERE next_wrapped IS NOT NULL OR next_kek_id IS NOT NULL"), 0);
        for (id, old) in &residents[4..] {
            assert!(is_whole(&store, &keystore, tenant, *id).await);
            let subject = store.subjects().find(tenant, *id).await.unwrap();
            assert!(subject.open_external_ref(old).is_err(), "the old key opens nothing");
            assert!(store.templates().load(tenant, *id, &kind(), None, old).await.is_err());
        }
        for (id, _) in &residents[..4] {
            assert!(keystore.get(tenant, *id).await.unwrap().is_none(), "an erased key does not come back");
        }
        // A second run has nothing to do: these keys are younger.
        let state = keystore.exchange_state(NOW + time::Duration::SECOND).await.unwrap();
        assert_eq!((state.older, state.under_way), (0, 0));
    });
}

#[test]
fn an_exchange_that_ends_anywhere_leaves_everybody_readable_and_is_taken_up() {
    on_each_database(|database| async move {
        let folder = Folder::new();
        let (store, beside, keystore) = both_stores(&database, &folder).await;
        let (tenant, residents) = residents(&store, &keystore, 6).await;
        // Begun, waiting, resealed, waiting, finished.
        for ends_at in 0..5 {
            let exchange = exchange(&store, &keystore, Duration::from_millis(20));
            let run = tokio::spawn(async move {
                let mut told = 0;
                let made_before = OffsetDateTime::now_utc();
                exchange
                    .run(made_before, |_| {
                        assert!(told != ends_at, "the run ends here");
                        told += 1;
                    })
                    .await
            });
            assert!(run.await.is_err(), "it ended at {ends_at}");
            for (id, _) in &residents {
                assert!(is_whole(&store, &keystore, tenant, *id).await, "after it ended at {ends_at}");
            }
            // The key-encryption key may follow in the middle of it.
            folder.add(&format!("2026-12-0{}", ends_at + 1));
            keystore.refresh_keys().await.unwrap();
            rewrap_all(&keystore).await;
            assert_eq!(keystore.keys_by_kek().await.unwrap().len(), 1);
            for (id, _) in &residents {
                assert!(is_whole(&store, &keystore, tenant, *id).await, "after {ends_at} and re-wrapping");
            }
        }
        exchange(&store, &keystore, Duration::ZERO).run(OffsetDateTime::now_utc(), |_| {}).await.unwrap();
        assert_eq!(beside.count("data_keys WHERE next_wrapped IS NOT NULL"), 0);
        for (id, old) in &residents {
            assert!(is_whole(&store, &keystore, tenant, *id).await);
            assert!(store.subjects().find(tenant, *id).await.unwrap().open_external_ref(old).is_err());
        }
    });
}
