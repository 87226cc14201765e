DROP TABLE opendsr_callbacks;
DROP TABLE opendsr_requests;
