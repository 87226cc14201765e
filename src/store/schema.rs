//! The tables as diesel sees them, one module for each database. Kept by hand, because one definition serves PostgreSQL and
//! SQLite; `tests/store` compares every column with what the migrations made on both.
//!
//! Types are those that both databases share: ids as text, sealed values and hashes as bytes, instants as microseconds
//! since 1970-01-01 UTC.

/// The main database: what the service works with. Backed up.
pub mod main {
    diesel::table! {
        tenants (id) {
            id -> Text,
            name -> Text,
            created_at -> BigInt,
            quota_per_day -> Nullable<BigInt>,
        }
    }
    diesel::table! {
        erasure_requests (id) {
            id -> Text,
            tenant_id -> Text,
            subject_id -> Nullable<Text>,
            subject_digest -> Binary,
            regulation -> Text,
            state -> Text,
            reason -> Nullable<Text>,
            received_at -> BigInt,
            due_at -> BigInt,
            verified_at -> Nullable<BigInt>,
            begun_at -> Nullable<BigInt>,
            ended_at -> Nullable<BigInt>,
            removed -> Nullable<Text>,
            certificate -> Nullable<Text>,
        }
    }
    diesel::table! {
        officers (id) {
            id -> Text,
            tenant_id -> Text,
            name -> Binary,
            name_index -> Binary,
            password_hash -> Binary,
            password_until -> Nullable<BigInt>,
            totp_secret -> Binary,
            totp_step -> BigInt,
            created_at -> BigInt,
            disabled_at -> Nullable<BigInt>,
        }
    }
    diesel::table! {
        officer_sessions (token_hash) {
            token_hash -> Binary,
            tenant_id -> Text,
            officer_id -> Text,
            started_at -> BigInt,
            last_used_at -> BigInt,
        }
    }
    diesel::joinable!(officer_sessions -> officers (officer_id));
    diesel::allow_tables_to_appear_in_same_query!(officers, officer_sessions);
    diesel::table! {
        sign_in_attempts (name_index) {
            name_index -> Binary,
            failures -> BigInt,
            blocked_until -> BigInt,
            counted_at -> BigInt,
        }
    }
    diesel::table! {
        access_requests (id) {
            id -> Text,
            tenant_id -> Text,
            subject_id -> Text,
            regulation -> Text,
            state -> Text,
            reason -> Nullable<Text>,
            received_at -> BigInt,
            due_at -> BigInt,
            ended_at -> Nullable<BigInt>,
            encrypted_for -> Nullable<Text>,
            expires_at -> Nullable<BigInt>,
            downloads -> BigInt,
            link_hash -> Nullable<Binary>,
            package -> Nullable<Binary>,
        }
    }
    diesel::table! {
        opendsr_requests (tenant_id, id) {
            tenant_id -> Text,
            id -> Text,
            erasure_id -> Nullable<Text>,
            fingerprint -> Binary,
            received_at -> BigInt,
            due_at -> BigInt,
            receivers -> BigInt,
            changes -> BigInt,
            key_id -> Nullable<Text>,
            addresses -> Nullable<Binary>,
        }
    }
    diesel::table! {
        opendsr_callbacks (id) {
            id -> Text,
            tenant_id -> Text,
            request_id -> Text,
            receiver -> BigInt,
            change -> BigInt,
            state -> Text,
        }
    }
    diesel::table! {
        ledger_mark (id) {
            id -> BigInt,
            sequence -> BigInt,
            hash -> Binary,
        }
    }
    diesel::table! {
        audit_events (tenant_id, sequence) {
            tenant_id -> Text,
            sequence -> BigInt,
            at -> BigInt,
            action -> Text,
            actor -> Text,
            request_id -> Nullable<Text>,
            subject_digest -> Nullable<Binary>,
            object -> Nullable<Text>,
            reason -> Nullable<Text>,
            hash -> Binary,
        }
    }
    diesel::table! {
        audit_heads (tenant_id) {
            tenant_id -> Text,
            size -> BigInt,
            hash -> Binary,
            peaks -> Binary,
        }
    }
    diesel::table! {
        audit_beginnings (tenant_id) {
            tenant_id -> Text,
            size -> BigInt,
            hash -> Binary,
            peaks -> Binary,
        }
    }
    diesel::table! {
        audit_checkpoints (tenant_id, size) {
            tenant_id -> Text,
            size -> BigInt,
            at -> BigInt,
            jws -> Text,
        }
    }
    diesel::table! {
        clients (id) {
            id -> Text,
            tenant_id -> Text,
            name -> Text,
            secret_hash -> Binary,
            scopes -> Text,
            created_at -> BigInt,
            disabled_at -> Nullable<BigInt>,
            public_key -> Nullable<Text>,
        }
    }
    diesel::table! {
        revocation_head (id) {
            id -> BigInt,
            version -> BigInt,
        }
    }
    diesel::table! {
        revocations (version) {
            version -> BigInt,
            member -> Text,
            expires_at -> BigInt,
        }
    }
    diesel::table! {
        used_assertions (client_id, assertion_id) {
            client_id -> Text,
            assertion_id -> Text,
            expires_at -> BigInt,
        }
    }
    diesel::table! {
        api_keys (id) {
            id -> Text,
            tenant_id -> Text,
            name -> Text,
            prefix -> Text,
            key_hash -> Binary,
            scopes -> Text,
            created_at -> BigInt,
            expires_at -> Nullable<BigInt>,
            revoked_at -> Nullable<BigInt>,
            last_used_at -> Nullable<BigInt>,
            successor_id -> Nullable<Text>,
            allowed_networks -> Nullable<Text>,
        }
    }
    diesel::table! {
        subjects (id) {
            id -> Text,
            tenant_id -> Text,
            external_ref -> Binary,
            external_ref_index -> Binary,
            created_at -> BigInt,
            last_used_at -> Nullable<BigInt>,
            restricted_at -> Nullable<BigInt>,
            restriction -> Nullable<Text>,
        }
    }
    diesel::table! {
        consents (id) {
            id -> Text,
            tenant_id -> Text,
            subject_id -> Text,
            purpose -> Text,
            notice_version -> Text,
            granted_at -> BigInt,
            expires_at -> Nullable<BigInt>,
            withdrawn_at -> Nullable<BigInt>,
            notice_id -> Nullable<Text>,
            notice_generation -> BigInt,
            granted_by -> Nullable<Text>,
            method -> Nullable<Text>,
            evidence -> Nullable<Binary>,
            given_by -> Text,
            guardian -> Nullable<Binary>,
            withdrawn_by -> Nullable<Text>,
            withdrawal_method -> Nullable<Text>,
            withdrawal_evidence -> Nullable<Binary>,
        }
    }
    diesel::table! {
        notices (id) {
            id -> Text,
            tenant_id -> Text,
            purpose -> Text,
            version -> Text,
            language -> Text,
            body -> Text,
            body_sha256 -> Binary,
            controller_name -> Text,
            controller_contact -> Text,
            retention -> Text,
            data_categories -> Text,
            recipients -> Text,
            jurisdiction -> Nullable<Text>,
            policy_url -> Nullable<Text>,
            withdrawal_method -> Nullable<Text>,
            material_change -> BigInt,
            generation -> BigInt,
            published_at -> BigInt,
            published_by -> Text,
        }
    }
    diesel::allow_tables_to_appear_in_same_query!(consents, notices);
    diesel::table! {
        enrolments (id) {
            id -> Text,
            tenant_id -> Text,
            subject_id -> Text,
            model_id -> Text,
            parameter_id -> Text,
            fhe_key_id -> Text,
            template -> Binary,
            created_at -> BigInt,
        }
    }
    diesel::table! {
        usage_days (tenant_id, day) {
            tenant_id -> Text,
            day -> BigInt,
            enrolments -> BigInt,
            verifications -> BigInt,
        }
    }
    diesel::allow_tables_to_appear_in_same_query!(tenants, usage_days);
    diesel::table! {
        verification_attempts (subject_id) {
            subject_id -> Text,
            tenant_id -> Text,
            failures -> BigInt,
            blocked_until -> BigInt,
        }
    }
    diesel::table! {
        idempotency_records (id) {
            id -> Binary,
            tenant_id -> Text,
            subject_id -> Nullable<Text>,
            fingerprint -> Binary,
            claim -> Text,
            claimed_until -> BigInt,
            status -> Nullable<BigInt>,
            location -> Nullable<Text>,
            answer -> Nullable<Binary>,
            created_at -> BigInt,
        }
    }
    diesel::table! {
        jobs (id) {
            id -> Text,
            kind -> Text,
            tenant_id -> Nullable<Text>,
            payload -> Text,
            unique_key -> Nullable<Text>,
            due_at -> BigInt,
            attempts -> BigInt,
            lease -> Nullable<Text>,
            leased_until -> Nullable<BigInt>,
            last_error -> Nullable<Text>,
            created_at -> BigInt,
            dead_at -> Nullable<BigInt>,
        }
    }
    diesel::table! {
        verifications (id) {
            id -> Text,
            tenant_id -> Text,
            subject_id -> Text,
            model_id -> Text,
            false_match_rate -> Text,
            threshold -> Double,
            decision -> Binary,
            created_at -> BigInt,
        }
    }
}

/// The key store: wrapped keys, apart from the main database and from its backups.
pub mod keystore {
    diesel::table! {
        data_keys (subject_id) {
            subject_id -> Text,
            tenant_id -> Text,
            kek_id -> Nullable<Text>,
            wrapped -> Nullable<Binary>,
            created_at -> BigInt,
            destroyed_at -> Nullable<BigInt>,
            next_kek_id -> Nullable<Text>,
            next_wrapped -> Nullable<Binary>,
            next_since -> Nullable<BigInt>,
            destroyed_keys -> Nullable<Text>,
        }
    }
    diesel::table! {
        wrapping_keys (id) {
            id -> Text,
            retired_at -> Nullable<BigInt>,
        }
    }
    diesel::table! {
        address_keys (starts_at) {
            starts_at -> BigInt,
            kek_id -> Text,
            wrapped -> Binary,
        }
    }
    diesel::table! {
        ledger_mark (id) {
            id -> BigInt,
            sequence -> BigInt,
            hash -> Binary,
        }
    }
}

/// The ledger of erasures: who must stay erased, apart from the other databases and from their backups.
pub mod ledger {
    diesel::table! {
        ledger_entries (sequence) {
            sequence -> BigInt,
            at -> BigInt,
            kind -> Text,
            request_id -> Text,
            tenant_id -> Text,
            subject_id -> Text,
            certificate -> Text,
            hash -> Binary,
        }
    }
    diesel::table! {
        ledger_head (id) {
            id -> BigInt,
            sequence -> BigInt,
            hash -> Binary,
        }
    }
    diesel::table! {
        ledger_losses (at) {
            at -> BigInt,
            ended_at -> BigInt,
            remembered -> BigInt,
            entries -> BigInt,
            requests -> BigInt,
        }
    }
}

/// The keyholder's journal.
pub mod journal {
    diesel::table! {
        opened_verifications (verification_id) {
            verification_id -> Text,
            opened_at -> BigInt,
        }
    }
    diesel::table! {
        budget_counters (day, scope, id) {
            day -> BigInt,
            scope -> Text,
            id -> Text,
            opened -> BigInt,
        }
    }
    diesel::table! {
        forgotten_subjects (subject_digest) {
            subject_digest -> Binary,
            forgotten_at -> BigInt,
            counters -> Nullable<BigInt>,
        }
    }
    diesel::table! {
        audit_lines (sequence) {
            sequence -> BigInt,
            at -> BigInt,
            event -> Text,
            reason -> Text,
            caller -> Text,
            tenant_id -> Text,
            subject_digest -> Binary,
            verification_id -> Text,
            hash -> Binary,
        }
    }
    diesel::table! {
        audit_head (id) {
            id -> Integer,
            sequence -> BigInt,
            hash -> Binary,
        }
    }
}
