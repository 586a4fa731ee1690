-- Two roles, in the database that was just created:
--   app         the application: owns the old schema
--   replicator  the daemon: no superuser, only what a migration needs
-- Their passwords come from APP_PASSWORD and REPLICATOR_PASSWORD.

\getenv app_password APP_PASSWORD
\getenv replicator_password REPLICATOR_PASSWORD
\if :{?app_password}
\else
DO $$ BEGIN RAISE 'Set APP_PASSWORD, the password of the role app.'; END $$;
\endif
\if :{?replicator_password}
\else
DO $$ BEGIN RAISE 'Set REPLICATOR_PASSWORD, the password of the role replicator.'; END $$;
\endif

CREATE ROLE app LOGIN PASSWORD :'app_password';
GRANT USAGE, CREATE ON SCHEMA public TO app;

CREATE ROLE replicator LOGIN REPLICATION PASSWORD :'replicator_password';
-- A publication takes tables only from a member of the role that owns them. The membership also gives what the
-- cutover needs on the old tables (lock them, add the guard triggers) and what the way back needs (write to them).
GRANT app TO replicator;
-- To create the publication and the new schema.
GRANT CREATE ON DATABASE :"DBNAME" TO replicator;
-- To name the transactions that a slot or a lock has to wait for.
GRANT pg_read_all_stats TO replicator;
