-- The ledger of erasures: what must stay erased whatever is restored. Kept and backed up apart from the other databases.
-- Instants are microseconds since 1970-01-01 UTC.

CREATE TABLE ledger_entries (
    sequence BIGINT PRIMARY KEY NOT NULL, -- from 1, without gaps
    at BIGINT NOT NULL,
    kind TEXT COLLATE "C" NOT NULL, -- 'begun' or 'certified'
    request_id TEXT COLLATE "C" NOT NULL,
    tenant_id TEXT COLLATE "C" NOT NULL,
    subject_id TEXT COLLATE "C" NOT NULL,
    certificate TEXT NOT NULL, -- empty before there is one
    hash BYTEA NOT NULL, -- over the entry and all before it
    UNIQUE (request_id, kind)
);

-- One row: the end of the chain. Each writer takes it first.
CREATE TABLE ledger_head (
    id BIGINT PRIMARY KEY NOT NULL CHECK (id = 1),
    sequence BIGINT NOT NULL,
    hash BYTEA NOT NULL
);
INSERT INTO ledger_head (id, sequence, hash) VALUES (1, 0, '\x0000000000000000000000000000000000000000000000000000000000000000');

-- Entries are only ever appended.
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the ledger is append-only';
END
$$;
CREATE TRIGGER ledger_entries_append_only BEFORE UPDATE OR DELETE ON ledger_entries
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
