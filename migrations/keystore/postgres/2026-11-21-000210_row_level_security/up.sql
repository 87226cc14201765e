-- A second wall between tenants: the program says whose rows it works on (`velum.tenant`, see src/store/conn.rs), and the
-- database shows and takes no others, even to the tables' owner. '*' is every tenant: identifying a caller, the operator's
-- commands. Where nothing was said, there are no rows.

ALTER TABLE data_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE data_keys FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON data_keys
    USING (current_setting('velum.tenant', true) IN (tenant_id, '*'));
