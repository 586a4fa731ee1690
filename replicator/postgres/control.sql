-- The engine's own tables, the same in both databases; every statement may run again.
CREATE SCHEMA IF NOT EXISTS replicator;

-- Who owns the data. Written only by the transaction that cuts over (and once at set-up): never guessed.
CREATE TABLE IF NOT EXISTS replicator.ownership (
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

COMMENT ON COLUMN replicator.ownership.rolling_since IS
    'Both schemas take writes since then, by this server''s clock; null when only the owner does.';

COMMENT ON COLUMN replicator.ownership.settling_since IS
    'Both did since then, and only the owner does now; what both had written is not decided in all cases yet.';

-- What a cutover has renamed, in its own transaction; a rollback gives the names back, in its own. Empty otherwise.
CREATE TABLE IF NOT EXISTS replicator.renames (
    ordinal integer PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('table', 'index', 'sequence')),
    from_schema text NOT NULL,
    from_name text NOT NULL,
    to_schema text NOT NULL,
    to_name text NOT NULL
);

CREATE TABLE IF NOT EXISTS replicator.lease (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    epoch bigint NOT NULL,
    holder text NOT NULL,
    since timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE IF NOT EXISTS replicator.state (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    phase text NOT NULL,
    since timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE IF NOT EXISTS replicator.progress (
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
COMMENT ON COLUMN replicator.progress.start_marker IS
    'All before the transaction that carries this message is skipped: it is what the opposite pipeline wrote.';
COMMENT ON COLUMN replicator.progress.unseen IS
    'Transactions that the stream has delivered and that no snapshot contained when the progress was stored.';
COMMENT ON COLUMN replicator.progress.reconciled IS
    'False after a rollback, until the new rows are again what the transforms give for the old ones.';

CREATE TABLE IF NOT EXISTS replicator.definitions (
    pipeline text NOT NULL,
    source_table text NOT NULL,
    definition jsonb NOT NULL,
    PRIMARY KEY (pipeline, source_table)
);
COMMENT ON TABLE replicator.definitions IS
    'The source tables as they were when all rows were last known to have come: what has changed since is compared.';

CREATE TABLE IF NOT EXISTS replicator.sources (
    pipeline text NOT NULL,
    source text NOT NULL,
    expected_rows bigint NOT NULL,
    planned boolean NOT NULL DEFAULT false,
    PRIMARY KEY (pipeline, source)
);

CREATE TABLE IF NOT EXISTS replicator.chunks (
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

CREATE TABLE IF NOT EXISTS replicator.produced (
    pipeline text NOT NULL,
    transform text NOT NULL,
    source_key text NOT NULL,
    target_key text NOT NULL,
    PRIMARY KEY (pipeline, transform, source_key, target_key)
);

CREATE TABLE IF NOT EXISTS replicator.quarantine (
    id bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
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
    because text,
    PRIMARY KEY (pipeline, transform, source_key)
);
COMMENT ON COLUMN replicator.quarantine.fingerprint IS
    'Of the source row that was refused: an entry stays discarded as long as the row is this one.';

-- What the DDL in sql/new has made, and giving up drops again.
CREATE TABLE IF NOT EXISTS replicator.created (
    type text NOT NULL,
    identity text NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (type, identity)
);

-- While both schemas take writes: what the application has deleted, each row committed with the deletion. A null key
-- stands for the whole table.
CREATE TABLE IF NOT EXISTS replicator.deleted (
    table_schema text NOT NULL,
    table_name text NOT NULL,
    row_key jsonb
);
CREATE INDEX IF NOT EXISTS deleted_table ON replicator.deleted (table_schema, table_name);

-- Likewise: what a pipeline must derive again, because the two sides wrote the same rows at the same time.
CREATE TABLE IF NOT EXISTS replicator.redo (
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
COMMENT ON COLUMN replicator.redo.claims IS 'What the change that lost stands for on its own side: transform and key.';
COMMENT ON COLUMN replicator.redo.name IS 'row: a table of the pipeline''s source; source: a source of its transforms.';
COMMENT ON COLUMN replicator.redo.confirms IS
    'The other side has been written from the row that won: now that row must be what that side gives.';
COMMENT ON COLUMN replicator.redo.after_lsn IS 'Not before the opposite pipeline has applied all up to here.';
COMMENT ON COLUMN replicator.redo.lost_source IS 'Whose change lost against that row, in the opposite pipeline.';

-- Rows as they were before a repair overwrote or deleted them.
CREATE TABLE IF NOT EXISTS replicator.kept (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    why text NOT NULL,
    table_schema text NOT NULL,
    table_name text NOT NULL,
    row_key jsonb NOT NULL,
    row_as_it_was jsonb NOT NULL
);
COMMENT ON COLUMN replicator.kept.row_as_it_was IS 'Each value as the text that its column''s type reads.';

CREATE TABLE IF NOT EXISTS replicator.commands (
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

CREATE TABLE IF NOT EXISTS replicator.status (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    document jsonb NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE IF NOT EXISTS replicator.journal (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    who text NOT NULL DEFAULT session_user,
    event text NOT NULL,
    details jsonb NOT NULL DEFAULT '{}'
);
COMMENT ON TABLE replicator.journal IS
    'What has happened: phases, requests and commands, starts and stops, cutovers, backups. No row values.';
COMMENT ON COLUMN replicator.commands.asker IS 'user@host, as the operating system there names them.';

-- For the application: who may connect may ask.
GRANT USAGE ON SCHEMA replicator TO PUBLIC;

CREATE OR REPLACE FUNCTION replicator.active_schema() RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog AS $$
    SELECT CASE WHEN owner = 'new' AND NOT EXISTS (SELECT FROM replicator.renames) THEN new_schema ELSE old_schema END
    FROM replicator.ownership
$$;

CREATE OR REPLACE FUNCTION replicator.use_new_schema() RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog AS $$
    SELECT coalesce((SELECT owner = 'new' OR rolling_since IS NOT NULL FROM replicator.ownership), false)
$$;

-- Every write transaction of the daemon begins here: it holds the fence shared, so that a new daemon can wait for a
-- dead one's last write, and it fails when the lease has passed on.
CREATE OR REPLACE FUNCTION replicator.enter(expected bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(1919250540, 2);
    IF (SELECT epoch FROM replicator.lease) IS DISTINCT FROM expected THEN
        RAISE EXCEPTION 'another daemon has taken over' USING ERRCODE = 'RP001';
    END IF;
END
$$;

-- The guard is on or off in the catalogue, never by a row that an old snapshot may not see.
CREATE OR REPLACE FUNCTION replicator.refuse_write() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('replicator.writer', true) = 'daemon' THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION 'table %.% is not open for writes: the schema in use is %',
            quote_ident(TG_TABLE_SCHEMA), quote_ident(TG_TABLE_NAME),
            CASE WHEN TG_ARGV[0] = 'old' THEN TG_ARGV[2] ELSE TG_ARGV[1] END
        USING ERRCODE = 'RP002',
            HINT = format('The replicator keeps this table in step. Write to the schema %I, or ask replicator.active_schema().',
                CASE WHEN TG_ARGV[0] = 'old' THEN TG_ARGV[2] ELSE TG_ARGV[1] END);
END
$$;

-- Notes what the application deletes while both schemas take writes; its arguments are the columns of the key.
CREATE OR REPLACE FUNCTION replicator.note_deleted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog SET datestyle = 'ISO' SET intervalstyle = 'postgres'
SET timezone = 'UTC' SET extra_float_digits = 3 SET bytea_output = 'hex' AS $$
DECLARE
    columns text;
    key jsonb;
BEGIN
    IF current_setting('replicator.writer', true) = 'daemon'
        OR NOT EXISTS (SELECT FROM replicator.ownership WHERE coalesce(rolling_since, settling_since) IS NOT NULL)
    THEN
        RETURN NULL;
    END IF;
    IF TG_OP <> 'TRUNCATE' THEN
        SELECT string_agg(format('($1).%I::text', name), ', ' ORDER BY place) INTO columns
            FROM unnest(TG_ARGV[2:]) WITH ORDINALITY AS k(name, place);
        EXECUTE 'SELECT jsonb_build_array(' || columns || ')' INTO key USING OLD;
    END IF;
    INSERT INTO replicator.deleted (table_schema, table_name, row_key) VALUES (TG_ARGV[0], TG_ARGV[1], key);
    RETURN NULL;
END
$$;
