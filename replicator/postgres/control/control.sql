-- The engine's own tables, the same in both databases; every statement may run again. It runs in one transaction, in two
-- schemas that belong to the session's role (`trust.py`). What is in them is granted to others by `grants.sql` alone.
--
-- `_replicator` has all the tables, and nobody else has USAGE on it: Postgres locks the tables that a statement names before
-- it looks at privileges, so whoever could name these could lock them, and hang views on them. `replicator` has what the
-- application asks. Those functions name no table when they run: their bodies are stored parsed (BEGIN ATOMIC).
SET LOCAL search_path = pg_catalog, pg_temp;

-- Whoever makes this at the same time waits here, for only the owner gets beyond it.
COMMENT ON SCHEMA _replicator IS 'The control tables of the replicator.';
COMMENT ON SCHEMA replicator IS 'What the replicator tells the application.';

-- The file by which all of this was made last: nothing is made, and locked, when it is still that one.
CREATE TABLE IF NOT EXISTS _replicator.version (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    made_by text NOT NULL
);
COMMENT ON COLUMN _replicator.version.made_by IS 'SHA-256 of control.sql.';

-- What makes our messages in the log, and our writes past the guards, ours. Whoever reads this can forge both.
CREATE TABLE IF NOT EXISTS _replicator.secrets (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    pass text NOT NULL DEFAULT replace(gen_random_uuid()::text, '-', ''),
    message_prefix text NOT NULL DEFAULT 'replicator_' || replace(gen_random_uuid()::text, '-', '')
);
INSERT INTO _replicator.secrets DEFAULT VALUES ON CONFLICT DO NOTHING;
COMMENT ON COLUMN _replicator.secrets.pass IS 'The guards let pass whoever sets replicator.pass to it, and is the owner here.';
COMMENT ON COLUMN _replicator.secrets.message_prefix IS 'Of our messages in this database''s log; others are not looked at.';

-- Who owns the data. Written only by the transaction that cuts over (and once at set-up): never guessed.
CREATE TABLE IF NOT EXISTS _replicator.ownership (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    migration text NOT NULL,
    old_schema text NOT NULL,
    new_schema text NOT NULL,
    owner text NOT NULL DEFAULT 'old' CHECK (owner IN ('old', 'new')),
    epoch integer NOT NULL DEFAULT 0,
    rolling_since timestamptz,
    settling_since timestamptz,
    search_path_role text,
    search_path_before text,
    since timestamptz NOT NULL DEFAULT clock_timestamp()
);

COMMENT ON COLUMN _replicator.ownership.rolling_since IS
    'Both schemas take writes since then, by this server''s clock; null when only the owner does.';

COMMENT ON COLUMN _replicator.ownership.settling_since IS
    'Both did since then, and only the owner does now; what both had written is not decided in all cases yet.';

-- What a cutover has renamed, in its own transaction; a rollback gives the names back, in its own. Empty otherwise.
CREATE TABLE IF NOT EXISTS _replicator.renames (
    ordinal integer PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('table', 'index', 'sequence')),
    from_schema text NOT NULL,
    from_name text NOT NULL,
    to_schema text NOT NULL,
    to_name text NOT NULL,
    relation oid
);
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = '_replicator.renames'::regclass AND attname = 'relation') THEN
        ALTER TABLE _replicator.renames ADD COLUMN relation oid;
    END IF;
END
$$;

-- Triggers of the application's that are switched off on tables which the daemon writes to, as they were before.
CREATE TABLE IF NOT EXISTS _replicator.resting (
    trigger oid PRIMARY KEY,
    relation oid NOT NULL,
    name text NOT NULL,
    was "char" NOT NULL
);
COMMENT ON COLUMN _replicator.resting.was IS 'As in pg_trigger.tgenabled.';

-- Foreign keys that a cutover has set aside, and those that it or a rollback has made: rows are looked at afterwards.
CREATE TABLE IF NOT EXISTS _replicator.edges (
    relation oid NOT NULL,
    name text NOT NULL,
    state text NOT NULL CHECK (state IN ('aside', 'unvalidated')),
    definition jsonb NOT NULL,
    PRIMARY KEY (relation, name, state)
);
COMMENT ON COLUMN _replicator.edges.relation IS 'The table that has the key.';

-- The tables that only the daemon writes to; written by the transactions that close and open them.
CREATE TABLE IF NOT EXISTS _replicator.closed (
    relation oid PRIMARY KEY,
    side text NOT NULL CHECK (side IN ('old', 'new')),
    old_schema text NOT NULL,
    new_schema text NOT NULL
);

CREATE TABLE IF NOT EXISTS _replicator.lease (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    epoch bigint NOT NULL,
    holder text NOT NULL,
    since timestamptz NOT NULL DEFAULT clock_timestamp(),
    pid integer,
    backend_start timestamptz
);
-- Only where they are missing: it locks out everybody.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = '_replicator.lease'::regclass AND attname = 'pid') THEN
        ALTER TABLE _replicator.lease ADD COLUMN pid integer, ADD COLUMN backend_start timestamptz;
    END IF;
END
$$;
COMMENT ON COLUMN _replicator.lease.pid IS 'Of the session that has the lease, as long as there is one that began then.';

CREATE TABLE IF NOT EXISTS _replicator.state (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    phase text NOT NULL,
    since timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE IF NOT EXISTS _replicator.progress (
    pipeline text PRIMARY KEY,
    slot text NOT NULL,
    plugin text NOT NULL,
    system_id text NOT NULL,
    timeline integer NOT NULL,
    created_lsn pg_lsn NOT NULL,
    applied_lsn pg_lsn NOT NULL,
    start_marker text,
    reconciled boolean NOT NULL DEFAULT true,
    unseen bigint[] NOT NULL DEFAULT '{}',
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON COLUMN _replicator.progress.start_marker IS
    'All before the transaction that carries this message is skipped: it is what the opposite pipeline wrote.';
COMMENT ON COLUMN _replicator.progress.unseen IS
    'Transactions that the stream has delivered and that no snapshot contained when the progress was stored.';
COMMENT ON COLUMN _replicator.progress.reconciled IS
    'False after a rollback, until the new rows are again what the transforms give for the old ones.';

CREATE TABLE IF NOT EXISTS _replicator.definitions (
    pipeline text NOT NULL,
    source_table text NOT NULL,
    definition jsonb NOT NULL,
    accounted text[] NOT NULL,
    PRIMARY KEY (pipeline, source_table)
);
COMMENT ON COLUMN _replicator.definitions.accounted IS
    'The columns that the migration has accounted for: those of the first start, and later ones that it reads or retires.';
COMMENT ON TABLE _replicator.definitions IS
    'The source tables as they were when all rows were last known to have come: what has changed since is compared.';

CREATE TABLE IF NOT EXISTS _replicator.sources (
    pipeline text NOT NULL,
    source text NOT NULL,
    expected_rows bigint NOT NULL,
    planned boolean NOT NULL DEFAULT false,
    PRIMARY KEY (pipeline, source)
);

CREATE TABLE IF NOT EXISTS _replicator.chunks (
    pipeline text NOT NULL,
    source text NOT NULL,
    ordinal integer NOT NULL,
    lower_key jsonb,
    upper_key jsonb,
    read_lsn pg_lsn,
    row_count bigint,
    done_at timestamptz,
    PRIMARY KEY (pipeline, source, ordinal)
);

-- Keys may be longer than an index takes: it holds a hash, which finds few rows, and the text in these decides.
CREATE TABLE IF NOT EXISTS _replicator.produced (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT produced_id PRIMARY KEY,
    pipeline text NOT NULL,
    transform text NOT NULL,
    source_key text NOT NULL,
    target_key text NOT NULL
);
CREATE INDEX IF NOT EXISTS produced_source
    ON _replicator.produced (pipeline, transform, pg_catalog.hashtextextended(source_key, 0));
-- Who else gives a row is asked before it is deleted. An earlier version's table lacks this; it holds up only the daemon.
DO $$
BEGIN
    IF to_regclass('_replicator.produced_target') IS NULL THEN
        CREATE INDEX produced_target
            ON _replicator.produced (pipeline, transform, pg_catalog.hashtextextended(target_key, 0));
    END IF;
END
$$;

-- Columns of new rows that a transform has given once: where they are left out, the default stands.
CREATE TABLE IF NOT EXISTS _replicator.given (
    pipeline text NOT NULL,
    target text NOT NULL,
    column_name text NOT NULL,
    PRIMARY KEY (pipeline, target, column_name)
);

CREATE TABLE IF NOT EXISTS _replicator.quarantine (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT quarantine_id PRIMARY KEY,
    pipeline text NOT NULL,
    transform text NOT NULL,
    source text NOT NULL,
    source_key text NOT NULL,
    error text NOT NULL,
    fingerprint text NOT NULL,
    since timestamptz NOT NULL DEFAULT clock_timestamp(),
    tried_at timestamptz NOT NULL DEFAULT now(),
    attempts integer NOT NULL DEFAULT 1,
    discarded_at timestamptz,
    discarded_by text,
    because text
);
CREATE INDEX IF NOT EXISTS quarantine_source
    ON _replicator.quarantine (pipeline, transform, pg_catalog.hashtextextended(source_key, 0));
COMMENT ON COLUMN _replicator.quarantine.fingerprint IS
    'Of the source row that was refused: an entry stays discarded as long as the row is this one.';

-- What we have made outside this schema. Of a slot, which has no number, before it is made; else in that transaction.
CREATE TABLE IF NOT EXISTS _replicator.made (
    kind text NOT NULL CHECK (kind IN ('publication', 'slot', 'origin')),
    name text NOT NULL,
    number bigint,
    PRIMARY KEY (kind, name)
);

-- What the DDL in sql/new has made, and giving up drops again.
CREATE TABLE IF NOT EXISTS _replicator.created (
    type text NOT NULL,
    identity text NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (type, identity)
);

-- While both schemas take writes: what the application has deleted, each row committed with the deletion. A null key
-- stands for the whole table.
CREATE TABLE IF NOT EXISTS _replicator.deleted (
    table_schema text NOT NULL,
    table_name text NOT NULL,
    row_key jsonb
);
-- Only where it is missing: the application's deletions would wait.
DO $$
BEGIN
    IF to_regclass('_replicator.deleted_table') IS NULL THEN
        CREATE INDEX deleted_table ON _replicator.deleted (table_schema, table_name);
    END IF;
END
$$;

-- What a TRUNCATE of one partition has deleted: of each row what the log tells of one that is deleted, and once for
-- each TRUNCATE null. The log names the partition only.
CREATE TABLE IF NOT EXISTS _replicator.emptied (
    partition_schema text NOT NULL,
    partition_name text NOT NULL,
    image jsonb
);

-- The tables whose deletions are noted so. The trigger looks here, and not at arguments: who makes a trigger gives those.
CREATE TABLE IF NOT EXISTS _replicator.noted (
    relation oid PRIMARY KEY,
    table_schema text NOT NULL,
    table_name text NOT NULL,
    key_columns text[] NOT NULL
);
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = '_replicator.noted'::regclass AND attname = 'image_columns')
    THEN
        ALTER TABLE _replicator.noted ADD COLUMN image_columns text[] NOT NULL DEFAULT '{}',
            ADD COLUMN written boolean NOT NULL DEFAULT true;
    END IF;
END
$$;
COMMENT ON COLUMN _replicator.noted.image_columns IS 'What the log tells of a row that is deleted.';
COMMENT ON COLUMN _replicator.noted.written IS 'The daemon writes there; else only TRUNCATE of a partition is noted.';

-- Likewise: what a pipeline must derive again, because the two sides wrote the same rows at the same time.
CREATE TABLE IF NOT EXISTS _replicator.redo (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    pipeline text NOT NULL,
    what text NOT NULL CHECK (what IN ('row', 'source')),
    name text NOT NULL,
    key text NOT NULL,
    dated timestamptz NOT NULL,
    confirms boolean NOT NULL DEFAULT false,
    after_lsn pg_lsn,
    lost_source text,
    lost_key text,
    claims jsonb NOT NULL DEFAULT '[]'
);
COMMENT ON COLUMN _replicator.redo.claims IS 'What the change that lost stands for on its own side: transform and key.';
COMMENT ON COLUMN _replicator.redo.name IS 'row: a table of the pipeline''s source; source: a source of its transforms.';
COMMENT ON COLUMN _replicator.redo.confirms IS
    'The other side has been written from the row that won: now that row must be what that side gives.';
COMMENT ON COLUMN _replicator.redo.after_lsn IS 'Not before the opposite pipeline has applied all up to here.';
COMMENT ON COLUMN _replicator.redo.lost_source IS 'Whose change lost against that row, in the opposite pipeline.';

-- Rows as they were before a repair overwrote or deleted them.
CREATE TABLE IF NOT EXISTS _replicator.kept (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    why text NOT NULL,
    table_schema text NOT NULL,
    table_name text NOT NULL,
    row_key jsonb NOT NULL,
    row_as_it_was jsonb NOT NULL
);
COMMENT ON COLUMN _replicator.kept.row_as_it_was IS 'Each value as the text that its column''s type reads.';

CREATE TABLE IF NOT EXISTS _replicator.commands (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    command text NOT NULL,
    arguments jsonb NOT NULL DEFAULT '{}',
    requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    requested_by text NOT NULL DEFAULT session_user,
    asker text,
    started_at timestamptz,
    progress jsonb,
    finished_at timestamptz,
    exit_code integer,
    result jsonb
);

CREATE TABLE IF NOT EXISTS _replicator.status (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    document jsonb NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE IF NOT EXISTS _replicator.journal (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    who text NOT NULL DEFAULT session_user,
    event text NOT NULL,
    details jsonb NOT NULL DEFAULT '{}'
);
COMMENT ON TABLE _replicator.journal IS
    'What has happened: phases, requests and commands, starts and stops, cutovers, backups. No row values.';
COMMENT ON COLUMN _replicator.commands.asker IS 'user@host, as the operating system there names them.';

-- For the application: who may connect may ask. The view reads with its owner's rights, and shows no more than this;
-- it is not replaced, for that would wait for whoever has asked, and let all others wait.
DO $$
BEGIN
    IF to_regclass('_replicator.active') IS NULL THEN
        CREATE VIEW _replicator.active WITH (security_barrier) AS
        SELECT CASE WHEN owner = 'new' AND NOT EXISTS (SELECT FROM _replicator.renames) THEN new_schema ELSE old_schema END
                AS active_schema,
            owner = 'new' OR rolling_since IS NOT NULL AS use_new_schema
        FROM _replicator.ownership;
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION replicator.active_schema() RETURNS text
LANGUAGE sql STABLE SECURITY INVOKER
BEGIN ATOMIC
    SELECT a.active_schema FROM _replicator.active AS a;
END;

CREATE OR REPLACE FUNCTION replicator.use_new_schema() RETURNS boolean
LANGUAGE sql STABLE SECURITY INVOKER
BEGIN ATOMIC
    SELECT coalesce((SELECT a.use_new_schema FROM _replicator.active AS a), false);
END;

-- Every write transaction of the daemon begins here: it holds the lease's table shared, so that a new daemon can wait for a
-- dead one's last write, and it fails when the lease has passed on.
CREATE OR REPLACE FUNCTION _replicator.enter(expected bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    LOCK TABLE _replicator.lease IN ROW SHARE MODE;
    -- A daemon that was cut off would go on writing beside its successor (I6).
    -- guard: EPOCH; mutation: lease-epoch
    IF (SELECT epoch FROM _replicator.lease) IS DISTINCT FROM expected THEN
        RAISE EXCEPTION 'another daemon has taken over' USING ERRCODE = 'RP001';
    END IF;
END
$$;

-- The guard is on or off in the catalogue, never by a row that an old snapshot may not see; and the triggers' condition,
-- which stands there too, lets the daemon's own writes pass.
CREATE OR REPLACE FUNCTION _replicator.refuse_write() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'table %.% is not open for writes: the schema in use is %',
            quote_ident(TG_TABLE_SCHEMA), quote_ident(TG_TABLE_NAME),
            CASE WHEN TG_ARGV[0] = 'old' THEN TG_ARGV[2] ELSE TG_ARGV[1] END
        USING ERRCODE = 'RP002',
            HINT = format('The replicator keeps this table in step. Write to the schema %I, or ask replicator.active_schema().',
                CASE WHEN TG_ARGV[0] = 'old' THEN TG_ARGV[2] ELSE TG_ARGV[1] END);
END
$$;

-- Notes what the application deletes while both schemas take writes. It writes where the application may not, so it is
-- SECURITY DEFINER, and PUBLIC may not execute it: nobody else can hang it on a table of his. Values become text by their
-- types' output functions, which only superusers make; a cast would call a function of the type's owner.
CREATE OR REPLACE FUNCTION _replicator.note_deleted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = off SET datestyle = 'ISO'
SET intervalstyle = 'postgres' SET timezone = 'UTC' SET extra_float_digits = 3 SET bytea_output = 'hex' AS $$
DECLARE
    noted _replicator.noted;
    texts pg_catalog.text;
    images pg_catalog.text;
    key pg_catalog.jsonb;
BEGIN
    IF current_setting('replicator.pass', true) = (SELECT pass FROM _replicator.secrets)
        OR NOT EXISTS (SELECT FROM _replicator.ownership WHERE coalesce(rolling_since, settling_since) IS NOT NULL)
    THEN
        RETURN NULL;
    END IF;
    SELECT * INTO noted FROM _replicator.noted WHERE relation = coalesce(pg_partition_root(TG_RELID)::oid, TG_RELID);
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    SELECT string_agg(format('pg_catalog.format(''%%s'', ($1).%I)', name), ', ' ORDER BY place) INTO texts
        FROM unnest(noted.key_columns) WITH ORDINALITY AS k(name, place);
    IF TG_OP <> 'TRUNCATE' THEN
        EXECUTE 'SELECT pg_catalog.jsonb_build_array(' || texts || ')' INTO key USING OLD;
    ELSIF TG_RELID <> noted.relation THEN
        -- Before it is emptied, for the rows of the other partitions stay: as if each row had been deleted. An old
        -- snapshot does not see all rows that go: then it does not say that these are all.
        SELECT string_agg(format('%L, CASE WHEN t.%I IS DISTINCT FROM NULL THEN pg_catalog.format(''%%s'', t.%I) END', name, name,
            name), ', ') INTO images FROM unnest(noted.image_columns) AS i(name);
        EXECUTE format(
            'WITH gone AS MATERIALIZED (SELECT pg_catalog.jsonb_build_array(%s) AS key, '
            'pg_catalog.jsonb_build_object(%s) AS image FROM ONLY %I.%I AS t), '
            'noted AS (INSERT INTO _replicator.deleted (table_schema, table_name, row_key) SELECT $1, $2, key FROM gone) '
            'INSERT INTO _replicator.emptied (partition_schema, partition_name, image) '
            'SELECT $3, $4, image FROM gone UNION ALL SELECT $3, $4, NULL WHERE $5',
            replace(texts, '($1)', 't'), images, TG_TABLE_SCHEMA, TG_TABLE_NAME)
            USING noted.table_schema, noted.table_name, TG_TABLE_SCHEMA::pg_catalog.text, TG_TABLE_NAME::pg_catalog.text,
                current_setting('transaction_isolation') IN ('read committed', 'read uncommitted');
        RETURN NULL;
    END IF;
    INSERT INTO _replicator.deleted (table_schema, table_name, row_key)
        VALUES (noted.table_schema, noted.table_name, key);
    RETURN NULL;
END
$$;

-- Somebody's publication FOR ALL TABLES publishes these too: of one without a key no row could be deleted then.
DO $$
DECLARE
    keyless regclass;
BEGIN
    FOR keyless IN
        SELECT c.oid FROM pg_class c
        WHERE c.relnamespace = '_replicator'::regnamespace AND c.relkind = 'r' AND c.relreplident = 'd'
        AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)
    LOOP
        EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', keyless);
    END LOOP;
END
$$;
