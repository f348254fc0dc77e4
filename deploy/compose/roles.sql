-- Run once, when PostgreSQL's volume is made: a role for each service, which owns its schema and sees no other.
\set ON_ERROR_STOP on
\getenv ingest POSTGRES_PASSWORD_INGEST
\getenv scoring POSTGRES_PASSWORD_SCORING
\getenv ticketing POSTGRES_PASSWORD_TICKETING
\getenv notify POSTGRES_PASSWORD_NOTIFY

SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database()) \gexec
REVOKE ALL ON SCHEMA public FROM PUBLIC;

CREATE ROLE fiilis_ingest LOGIN PASSWORD :'ingest';
CREATE ROLE fiilis_scoring LOGIN PASSWORD :'scoring';
CREATE ROLE fiilis_ticketing LOGIN PASSWORD :'ticketing';
CREATE ROLE fiilis_notify LOGIN PASSWORD :'notify';

SELECT format('GRANT CONNECT, TEMPORARY ON DATABASE %I TO fiilis_ingest, fiilis_scoring, fiilis_ticketing, fiilis_notify',
    current_database()) \gexec
CREATE SCHEMA ingest AUTHORIZATION fiilis_ingest;
CREATE SCHEMA scoring AUTHORIZATION fiilis_scoring;
CREATE SCHEMA ticketing AUTHORIZATION fiilis_ticketing;
CREATE SCHEMA notify AUTHORIZATION fiilis_notify;
