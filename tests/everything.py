"""A table with everything that can belong to one, and what it refers to."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from replicator.postgres.ddl.statements import split
from tests.fix_postgres import Database

AROUND = """
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TYPE pair AS (a integer, b text);
CREATE DOMAIN "Odd Name" AS text CHECK (VALUE <> 'no');
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN new; END $$;
CREATE FUNCTION doubled(integer) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT $1 * 2';
CREATE COLLATION german (locale = 'C');
CREATE TABLE users (id integer PRIMARY KEY, name text, UNIQUE (id, name));
"""
TABLE = """
CREATE TABLE "Weird Name%" (
    id integer GENERATED ALWAYS AS IDENTITY (SEQUENCE NAME odd_ids START WITH 100 INCREMENT BY 10 CACHE 5) PRIMARY KEY,
    serial_no serial,
    small smallserial,
    "select" text DEFAULT 'it''s; "quoted"' NOT NULL COLLATE german,
    "order" integer,
    "Per%cent" numeric(10, 2) DEFAULT 0.5 CONSTRAINT positive CHECK ("Per%cent" >= 0),
    feeling mood DEFAULT 'ok',
    feelings mood[] DEFAULT '{ok}' NOT NULL,
    "both" pair,
    odd "Odd Name",
    at timestamp DEFAULT (now() AT TIME ZONE 'utc'),
    span int4range,
    tags text[],
    doubled integer GENERATED ALWAYS AS (doubled("order")) STORED,
    user_id integer,
    boss integer,
    wide text,
    CONSTRAINT "a: b" CHECK ("select" <> '' OR "order" > 0),
    CONSTRAINT never_meet EXCLUDE USING gist (span WITH &&) WHERE (user_id IS NOT NULL),
    CONSTRAINT unique_no UNIQUE (serial_no, "select") WITH (fillfactor = 80),
    CONSTRAINT unique_late UNIQUE (small) DEFERRABLE INITIALLY DEFERRED,
    CONSTRAINT of_user FOREIGN KEY (user_id) REFERENCES users ON DELETE CASCADE DEFERRABLE,
    CONSTRAINT of_boss FOREIGN KEY (boss) REFERENCES "Weird Name%" ON UPDATE CASCADE ON DELETE SET NULL
) WITH (fillfactor = 70, autovacuum_enabled = false, toast.autovacuum_enabled = false);
ALTER TABLE "Weird Name%" ADD CONSTRAINT unproved CHECK ("order" < 1000) NOT VALID;
ALTER TABLE "Weird Name%" ALTER wide SET STORAGE EXTERNAL, ALTER wide SET COMPRESSION pglz;
ALTER TABLE "Weird Name%" ALTER "order" SET STATISTICS 300, ALTER "order" SET (n_distinct = -0.5);
CREATE UNIQUE INDEX "Partly Unique" ON "Weird Name%" (lower("select") COLLATE "C" DESC NULLS LAST) INCLUDE (at)
    WITH (fillfactor = 90) WHERE "order" > 0;
CREATE INDEX expressed ON "Weird Name%" ((doubled("order") + 1), "select");
ALTER INDEX expressed ALTER COLUMN 1 SET STATISTICS 500;
CREATE INDEX with_arrays ON "Weird Name%" USING gin (tags);
CREATE UNIQUE INDEX identified ON "Weird Name%" (serial_no);
ALTER TABLE "Weird Name%" ALTER serial_no SET NOT NULL, REPLICA IDENTITY USING INDEX identified;
ALTER TABLE "Weird Name%" CLUSTER ON expressed;
CREATE STATISTICS related (dependencies) ON "order", user_id FROM "Weird Name%";
CREATE STATISTICS expressions ON (doubled("order")), user_id FROM "Weird Name%";
ALTER STATISTICS related SET STATISTICS 200;
CREATE TRIGGER "On Change" BEFORE UPDATE OF "order", "select" ON "Weird Name%" FOR EACH ROW
    WHEN (old."order" IS DISTINCT FROM new."order") EXECUTE FUNCTION touch('an argument', 'on public.users');
CREATE TRIGGER off AFTER INSERT ON "Weird Name%" FOR EACH ROW EXECUTE FUNCTION touch();
ALTER TABLE "Weird Name%" DISABLE TRIGGER off;
CREATE TRIGGER always AFTER INSERT ON "Weird Name%" REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION touch();
ALTER TABLE "Weird Name%" ENABLE ALWAYS TRIGGER always;
CREATE CONSTRAINT TRIGGER later AFTER INSERT ON "Weird Name%" DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION touch();
CREATE RULE ignored AS ON DELETE TO "Weird Name%" WHERE old."order" = 7 DO INSTEAD NOTHING;
ALTER TABLE "Weird Name%" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON "Weird Name%" USING (user_id IN (SELECT id FROM users WHERE name = CURRENT_USER));
CREATE POLICY "No Odd" ON "Weird Name%" AS RESTRICTIVE FOR UPDATE TO {role}, CURRENT_USER
    USING ("order" % 2 = 0) WITH CHECK (true);
COMMENT ON TABLE "Weird Name%" IS 'the table''s; own';
COMMENT ON COLUMN "Weird Name%"."select" IS 'a column';
COMMENT ON CONSTRAINT positive ON "Weird Name%" IS 'a check';
COMMENT ON CONSTRAINT of_user ON "Weird Name%" IS 'a key';
COMMENT ON INDEX expressed IS 'an index';
COMMENT ON TRIGGER off ON "Weird Name%" IS 'a trigger';
COMMENT ON RULE ignored ON "Weird Name%" IS 'a rule';
COMMENT ON POLICY own ON "Weird Name%" IS 'a policy';
COMMENT ON STATISTICS related IS 'statistics';
COMMENT ON SEQUENCE odd_ids IS 'a sequence';
GRANT SELECT, INSERT ON "Weird Name%" TO {role} WITH GRANT OPTION;
GRANT REFERENCES ON "Weird Name%" TO PUBLIC;
GRANT UPDATE ("order"), SELECT (wide) ON "Weird Name%" TO {role};
GRANT USAGE ON SEQUENCE odd_ids TO {role};
REVOKE TRUNCATE ON "Weird Name%" FROM CURRENT_USER;
"""
NAME = "Weird Name%"


@contextmanager
def everything(database: Database) -> Iterator[str]:
    """The table in ``public``, and all around it; gives the role that has been granted things."""
    role = f'"role of {database.name}"'
    with psycopg.connect(database.dsn, autocommit=True) as opened:
        opened.execute(f"CREATE ROLE {role}".encode())
        try:
            for statement in split(AROUND + TABLE.replace("{role}", role)):
                opened.execute(statement.encode())
            yield role
        finally:
            opened.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())


def ran(dsn: str, text: str) -> list[tuple[Any, ...]]:
    """Run statements one after the other; gives the rows of the last one."""
    with psycopg.connect(dsn, autocommit=True) as opened:
        for statement in split(text):
            cursor = opened.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []
