-- What an operator accepted as lost, when a ledger without its end was rebuilt: entries that nobody could write again.

CREATE TABLE ledger_losses (
    at INTEGER PRIMARY KEY NOT NULL,
    ended_at INTEGER NOT NULL, -- the last entry that this ledger had
    remembered INTEGER NOT NULL, -- the last entry that a database remembered
    entries INTEGER NOT NULL, -- how many nobody could write again
    requests INTEGER NOT NULL -- completed requests whose person is not known any more
) STRICT;

CREATE TRIGGER ledger_losses_no_update BEFORE UPDATE ON ledger_losses
BEGIN
    SELECT RAISE(ABORT, 'the ledger is append-only');
END;
CREATE TRIGGER ledger_losses_no_delete BEFORE DELETE ON ledger_losses
BEGIN
    SELECT RAISE(ABORT, 'the ledger is append-only');
END;
