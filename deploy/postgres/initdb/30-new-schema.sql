-- The new schema and the replicator's own are the replicator's; the application may use what will be made in the new.
-- Until the cutover, guard triggers keep everyone but the replicator from writing to the new tables.
\getenv new_schema NEW_SCHEMA
\if :{?new_schema}
\else
\set new_schema party
\endif

CREATE SCHEMA :"new_schema" AUTHORIZATION replicator;
GRANT USAGE ON SCHEMA :"new_schema" TO app;
ALTER DEFAULT PRIVILEGES FOR ROLE replicator IN SCHEMA :"new_schema"
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO app;
ALTER DEFAULT PRIVILEGES FOR ROLE replicator IN SCHEMA :"new_schema" GRANT USAGE ON SEQUENCES TO app;

-- The tables are nobody else's, not even by name; the functions that the application may call are for everybody.
CREATE SCHEMA _replicator AUTHORIZATION replicator;
CREATE SCHEMA replicator AUTHORIZATION replicator;
GRANT USAGE ON SCHEMA replicator TO PUBLIC;
