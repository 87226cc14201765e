DROP TABLE verifications;
DROP TABLE enrolments;
DROP TABLE consents;
DROP TABLE subjects;
DROP TABLE clients;
DROP TABLE tenants;
