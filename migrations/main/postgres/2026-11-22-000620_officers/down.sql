DROP TABLE sign_in_attempts;
DROP TABLE officer_sessions;
DROP TABLE officers;
