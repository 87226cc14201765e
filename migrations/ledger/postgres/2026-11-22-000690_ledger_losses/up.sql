-- What an operator accepted as lost, when a ledger without its end was rebuilt: entries that nobody could write again.

CREATE TABLE ledger_losses (
    at BIGINT PRIMARY KEY NOT NULL,
    ended_at BIGINT NOT NULL, -- the last entry that this ledger had
    remembered BIGINT NOT NULL, -- the last entry that a database remembered
    entries BIGINT NOT NULL, -- how many nobody could write again
    requests BIGINT NOT NULL -- completed requests whose person is not known any more
);

CREATE TRIGGER ledger_losses_append_only BEFORE UPDATE OR DELETE ON ledger_losses
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
