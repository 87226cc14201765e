-- The ledger of erasures: what must stay erased whatever is restored. Kept and backed up apart from the other databases.
-- Instants are microseconds since 1970-01-01 UTC.

CREATE TABLE ledger_entries (
    sequence INTEGER PRIMARY KEY NOT NULL, -- from 1, without gaps
    at INTEGER NOT NULL,
    kind TEXT NOT NULL, -- 'begun' or 'certified'
    request_id TEXT NOT NULL,
    tenant_id TEXT NOT NULL,
    subject_id TEXT NOT NULL,
    certificate TEXT NOT NULL, -- empty before there is one
    hash BLOB NOT NULL, -- over the entry and all before it
    UNIQUE (request_id, kind)
) STRICT;

-- One row: the end of the chain. Each writer takes it first.
CREATE TABLE ledger_head (
    id INTEGER PRIMARY KEY NOT NULL CHECK (id = 1),
    sequence INTEGER NOT NULL,
    hash BLOB NOT NULL
) STRICT;
INSERT INTO ledger_head (id, sequence, hash) VALUES (1, 0, x'0000000000000000000000000000000000000000000000000000000000000000');

-- Entries are only ever appended.
CREATE TRIGGER ledger_entries_no_update BEFORE UPDATE ON ledger_entries
BEGIN
    SELECT RAISE(ABORT, 'the ledger is append-only');
END;
CREATE TRIGGER ledger_entries_no_delete BEFORE DELETE ON ledger_entries
BEGIN
    SELECT RAISE(ABORT, 'the ledger is append-only');
END;
