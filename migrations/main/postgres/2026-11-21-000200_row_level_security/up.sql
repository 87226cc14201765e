-- A second wall between tenants: the program says whose rows it works on (`velum.tenant`, see src/store/conn.rs), and the
-- database shows and takes no others, even to the tables' owner. '*' is every tenant: identifying a caller, the operator's
-- commands. Where nothing was said, there are no rows.

ALTER TABLE clients ENABLE ROW LEVEL SECURITY;
ALTER TABLE clients FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON clients
    USING (current_setting('velum.tenant', true) IN (tenant_id, '*'));
ALTER TABLE api_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE api_keys FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON api_keys
    USING (current_setting('velum.tenant', true) IN (tenant_id, '*'));
ALTER TABLE subjects ENABLE ROW LEVEL SECURITY;
ALTER TABLE subjects FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON subjects
    USING (current_setting('velum.tenant', true) IN (tenant_id, '*'));
ALTER TABLE consents ENABLE ROW LEVEL SECURITY;
ALTER TABLE consents FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON consents
    USING (current_setting('velum.tenant', true) IN (tenant_id, '*'));
ALTER TABLE enrolments ENABLE ROW LEVEL SECURITY;
ALTER TABLE enrolments FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON enrolments
    USING (current_setting('velum.tenant', true) IN (tenant_id, '*'));
ALTER TABLE verifications ENABLE ROW LEVEL SECURITY;
ALTER TABLE verifications FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON verifications
    USING (current_setting('velum.tenant', true) IN (tenant_id, '*'));
