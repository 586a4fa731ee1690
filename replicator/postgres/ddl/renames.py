"""Gives the new tables the place of the old ones, in the caller's transaction, and back. All of it is stored."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal

from psycopg import sql

from replicator.core.tables import Name
from replicator.errors import CheckError, DatabaseError, LockRoomError, NotReadyError, RetryableError
from replicator.postgres.session.connect import Connection, identifier, translated
from replicator.postgres.session.server import fetch

Kind = Literal["table", "index", "sequence"]

SUFFIX = "_old"
LONGEST = 63
"""Bytes of a name in Postgres."""

# Of each table: itself, its indexes, the sequences that its columns own. They are all in its schema. Its partitions on
# all levels, too, save for those that are in another schema than the table: these keep their place and their name.
RELATIONS = """
    WITH RECURSIVE tree AS (
        SELECT c.oid, c.relnamespace FROM unnest(%(tables)s::text[]) AS t(quoted)
        JOIN pg_class c ON c.oid = to_regclass(t.quoted) WHERE NOT c.relispartition
        UNION SELECT i.inhrelid, t.relnamespace FROM tree t JOIN pg_inherits i ON i.inhparent = t.oid
    ), tables AS (
        SELECT c.oid, c.relispartition FROM tree t
        JOIN pg_class c ON c.oid = t.oid AND c.relnamespace = t.relnamespace
    ), members AS (
        SELECT relispartition::int AS place, 'table' AS kind, relispartition AS partition, oid FROM tables
        UNION SELECT 2, 'index', false, i.indexrelid FROM pg_index i JOIN tables t ON t.oid = i.indrelid
        UNION SELECT 3, 'sequence', false, d.objid FROM pg_depend d JOIN tables t ON t.oid = d.refobjid
        JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
        WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
    )
    SELECT m.kind, m.partition::int, c.oid::int8 AS oid, n.nspname AS schema, c.relname AS name
    FROM members m JOIN pg_class c ON c.oid = m.oid JOIN pg_namespace n ON n.oid = c.relnamespace
    ORDER BY m.place, c.relname
"""

# By their oids, for a partition may have been dropped since, and another one made that bears its name. Those that an
# older version has noted have none.
NOTED = """
    SELECT r.kind, r.from_schema, r.from_name, r.to_schema, n.nspname AS schema, c.relname AS name
    FROM _replicator.renames r
    JOIN pg_class c ON c.oid = coalesce(r.relation, to_regclass(format('%%I.%%I', r.to_schema, r.to_name)))
    JOIN pg_namespace n ON n.oid = c.relnamespace ORDER BY r.ordinal DESC
"""

# The partitions of the new tables that are where the old ones are, and that are not noted.
YOUNG = """
    WITH RECURSIVE tree AS (
        SELECT coalesce(r.relation, to_regclass(format('%%I.%%I', r.to_schema, r.to_name)))::oid AS oid,
               r.from_schema, r.to_schema
        FROM _replicator.renames r WHERE r.kind = 'table' AND r.from_schema <> r.to_schema
        UNION SELECT i.inhrelid, t.from_schema, t.to_schema FROM tree t JOIN pg_inherits i ON i.inhparent = t.oid
    )
    SELECT n.nspname AS schema, c.relname AS name, c.oid::int8 AS oid, t.from_schema
    FROM tree t JOIN pg_class c ON c.oid = t.oid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = t.to_schema AND NOT EXISTS (SELECT FROM _replicator.renames r WHERE r.relation = c.oid)
    AND c.relispartition ORDER BY 1, 2
"""

# What a table's name may clash with: all relations, and types that are no table's own.
TAKEN = """
    SELECT c.relname AS name, 'relation' AS kind FROM pg_class c WHERE c.relnamespace = to_regnamespace(%(schema)s)
    UNION SELECT t.typname, 'type' FROM pg_type t
    WHERE t.typnamespace = to_regnamespace(%(schema)s) AND t.typrelid = 0 AND t.typcategory <> 'A'
"""

# A stored view, so that it is the server that says what the query means.
READS = """
    SELECT DISTINCT d.refobjid::int8 AS oid FROM pg_rewrite r
    JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
    WHERE r.ev_class = 'pg_temp.replicator_query'::regclass AND d.refclassid = 'pg_class'::regclass
    AND d.refobjid <> r.ev_class
"""


@dataclass(frozen=True, kw_only=True)
class Relation:
    """A table, or what goes with it."""

    kind: Kind
    partition: bool
    oid: int
    name: Name


@dataclass(frozen=True, kw_only=True)
class Rename:
    """A relation gets another name in its schema, or, a table with all that goes with it, another schema."""

    kind: Kind
    oid: int
    was: Name
    now: Name


async def planned_renames(
    connection: Connection, old: Sequence[Name], new: Sequence[Name], schema: str
) -> list[Rename]:
    """What is to be done so that the new tables, with their partitions, are found in the old ones' schema.

    Raises CheckError when a name is taken, or too long.
    """
    leaving, arriving = await _relations(connection, old), await _relations(connection, new)
    there = await fetch(connection, TAKEN, schema=identifier(schema).as_string(connection))
    _refuse_taken(schema, there, leaving, arriving)
    taken = {row["name"] for row in there} | {each.name.table for each in arriving}
    renames = []
    for each in leaving:
        now = _other_name(each, taken)
        taken.add(now)
        renames.append(Rename(kind=each.kind, oid=each.oid, was=each.name, now=Name(schema=schema, table=now)))
    return renames + [
        Rename(kind="table", oid=each.oid, was=each.name, now=Name(schema=schema, table=each.name.table))
        for each in arriving
        if each.kind == "table"
    ]


async def rename(connection: Connection, renames: Sequence[Rename]) -> None:
    """Do so, and note it. Raises NotReadyError when Postgres refuses it, RetryableError when a lock does not come."""
    await _execute(connection, [_statement(each.kind, each.was, each.now) for each in renames])
    await _note(connection, 0, renames)
    # They were there before. What is there later, and not noted, has come since.
    stay = [Rename(kind="table", oid=int(row["oid"]), was=_named(row), now=_named(row))
            for row in await fetch(connection, YOUNG)]  # fmt: skip
    await _note(connection, len(renames), stay)


async def _note(connection: Connection, first: int, renames: Sequence[Rename]) -> None:
    with translated():
        async with connection.cursor() as cursor:
            await cursor.executemany(
                "INSERT INTO _replicator.renames VALUES (%s, %s, %s, %s, %s, %s, %s)",
                [
                    (number, each.kind, each.was.schema, each.was.table, each.now.schema, each.now.table, each.oid)
                    for number, each in enumerate(renames, first)
                ],
            )


async def rename_back(connection: Connection) -> None:
    """Undo all of it, the last first, and forget it. Raises as ``rename`` does.

    What is gone since, or has been moved to another schema, is let be. The partitions that the new tables have got
    since go with these, or they would be in the way of the old ones' names.
    """
    statements = [
        _statement("table", _named(row), Name(schema=row["from_schema"], table=row["name"]))
        for row in await fetch(connection, YOUNG)
    ]
    for row in await fetch(connection, NOTED):
        was = _named(row)
        # Whoever has renamed a new table's partition since keeps that name for it.
        name = row["name"] if row["from_schema"] != row["to_schema"] else row["from_name"]
        now = Name(schema=row["from_schema"], table=name)
        if was.schema == row["to_schema"] and was != now:
            statements.append(_statement(row["kind"], was, now))
    await _execute(connection, statements)
    with translated():
        await connection.execute("DELETE FROM _replicator.renames")


async def reads(connection: Connection, query: str) -> set[int]:
    """The oids of the relations that a query names. Raises ReplicatorError when Postgres refuses it."""
    with translated():
        async with connection.transaction(force_rollback=True):
            # In a subquery, where two columns may bear one name, as in a lookup of keys with several.
            view = f"CREATE TEMP VIEW replicator_query AS SELECT 1 AS one FROM ({query}\n) AS query"
            await connection.execute(view.encode())
            return {int(row["oid"]) for row in await fetch(connection, READS)}


async def lacking_create(connection: Connection, schemas: Sequence[str]) -> list[str]:
    """What to grant, so that this role may put tables into these schemas and rename them there."""
    rows = await fetch(
        connection,
        "SELECT quote_ident(n.nspname) AS schema, quote_ident(current_user) AS role FROM pg_namespace n "
        "WHERE n.nspname = ANY (%(schemas)s) AND NOT has_schema_privilege(n.oid, 'CREATE') ORDER BY 1",
        schemas=list(schemas),
    )
    return [f"GRANT CREATE ON SCHEMA {row['schema']} TO {row['role']};" for row in rows]


async def _relations(connection: Connection, tables: Collection[Name]) -> list[Relation]:
    quoted = [identifier(each.schema, each.table).as_string(connection) for each in tables]
    rows = await fetch(connection, RELATIONS, tables=quoted)
    return [
        Relation(kind=row["kind"], partition=bool(int(row["partition"])), oid=int(row["oid"]), name=_named(row))
        for row in rows
    ]


def _named(row: Mapping[str, Any]) -> Name:
    return Name(schema=row["schema"], table=row["name"])


def _refuse_taken(
    schema: str, there: Sequence[dict[str, Any]], leaving: Sequence[Relation], arriving: Sequence[Relation]
) -> None:
    relations = {row["name"] for row in there if row["kind"] == "relation"} - {each.name.table for each in leaving}
    types = {row["name"] for row in there if row["kind"] == "type"}
    clashing = [
        each.name.table
        for each in arriving
        if each.name.table in relations or (each.kind == "table" and each.name.table in types)
    ]
    if clashing:
        raise CheckError(
            f"The schema {schema} has something else of these names already: {', '.join(clashing)}.",
            "Rename that, or what is new, or cut over with --strategy schema.",
        )


def _other_name(relation: Relation, taken: set[str]) -> str:
    name = relation.name.table
    if relation.kind == "table" and not relation.partition:
        now = name + SUFFIX
        if len(now.encode()) > LONGEST or now in taken:
            why = "is taken" if now in taken else f"is longer than {LONGEST} bytes"
            raise CheckError(
                f"The table {relation.name} cannot be renamed: {now} {why}.", "Cut over with --strategy schema."
            )
        return now
    for number in count(1):
        suffix = SUFFIX if number == 1 else f"{SUFFIX}{number}"
        now = name.encode()[: LONGEST - len(suffix)].decode(errors="ignore") + suffix
        if now not in taken:
            break
    return now


def _statement(kind: Kind, was: Name, now: Name) -> sql.Composed:
    if was.schema != now.schema:
        return sql.SQL("ALTER TABLE {} SET SCHEMA {}").format(
            identifier(was.schema, was.table), identifier(now.schema)
        )  # fmt: skip
    # What goes with a table may be gone since.
    form = {"table": "ALTER TABLE {} RENAME TO {}", "index": "ALTER INDEX IF EXISTS {} RENAME TO {}",
            "sequence": "ALTER SEQUENCE IF EXISTS {} RENAME TO {}"}[kind]  # fmt: skip
    return sql.SQL(form).format(identifier(was.schema, was.table), identifier(now.table))


async def _execute(connection: Connection, statements: Sequence[sql.Composed]) -> None:
    """All in one message: there may be thousands of partitions, and everybody waits."""
    if not statements:
        return
    try:
        with translated():
            await connection.execute(sql.SQL("; ").join(statements))
    except (RetryableError, LockRoomError):
        raise
    except DatabaseError as error:
        raise NotReadyError(
            f"The tables cannot be renamed: {error.problem} The writers went on.",
            "Rename or drop what has the name, if something has it.",
        ) from error
