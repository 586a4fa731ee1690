"""Who wrote a target's rows last, and when; what the application has deleted. For the time when both sides write."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from psycopg import sql

from replicator.core.changes import Image, RelationName
from replicator.core.tables import Key, Name, Table
from replicator.postgres.catalog.operators import all_equal, equal
from replicator.postgres.control.ownership import limit_lock
from replicator.postgres.control.trigger_names import EMPTIED, NOTES
from replicator.postgres.locking.trees import let_make_partitions, oids_of
from replicator.postgres.rows.inserting import same_key
from replicator.postgres.rows.keys import key_of_row, read_key
from replicator.postgres.rows.staging import Stage
from replicator.postgres.rows.texts import read
from replicator.postgres.session.connect import Connection, comma, identifier, of_a_list, translated

NOTE_DELETED = sql.SQL("_replicator.note_deleted()")

# A rewrite gives the table and its indexes new files: their rows of the catalogue are of its transaction too. One that
# has been changed since (GRANT, REINDEX) tells no more: all of them are asked. VACUUM FULL and CLUSTER keep who wrote.
REWRITTEN: Final = """EXISTS (
    SELECT FROM pg_class f WHERE f.xmin = t.xmin AND (f.oid = t.tableoid
    OR f.oid IN (SELECT i.indexrelid FROM pg_index i WHERE i.indrelid = t.tableoid)
    OR f.oid IN (SELECT o.reltoastrelid FROM pg_class o WHERE o.oid = t.tableoid))
)"""

UNNOTED: Final = """
    WITH RECURSIVE tree AS (
        SELECT n.relation AS oid FROM _replicator.noted n
        WHERE EXISTS (SELECT FROM pg_class c WHERE c.oid = n.relation AND c.relkind = 'p')
        UNION SELECT i.inhrelid FROM pg_inherits i JOIN tree ON i.inhparent = tree.oid
    )
    SELECT n.nspname, c.relname FROM tree JOIN pg_class c ON c.oid = tree.oid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r' AND c.relispartition AND NOT EXISTS (
        SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgname = %(trigger)s AND t.tgenabled = 'A'
    )
    ORDER BY 1, 2
"""
"""The partitions of which a TRUNCATE would not be noted."""


@dataclass(frozen=True, kw_only=True)
class Version:
    """A row's last writer."""

    at: datetime | None
    """When its transaction committed; None when that is not known any more, or it is our own that runs now."""
    origin: int
    rewritten: bool = False
    """That transaction wrote the table anew (ALTER TABLE ... TYPE, SET LOGGED): when the row changed is not known."""


async def lock_rows(connection: Connection, table: Table, stage: Stage, keys: Iterable[Key]) -> dict[Key, Version]:
    """Lock the rows with these keys against writers, in the key's order; gives the versions that are there."""
    name = identifier(table.name.schema, table.name.table)
    with translated():
        await stage.load_keys(connection, keys)
        await connection.execute(
            sql.SQL(
                "SELECT count(*) FROM (SELECT FROM {} AS s JOIN {} AS t ON {} ORDER BY {} FOR NO KEY UPDATE OF t) AS l"
            ).format(
                stage.keys,
                name,
                same_key(table),
                comma([sql.SQL("t.{}").format(identifier(each)) for each in table.key]),
            )
        )
    return await _versions(connection, table, stage)  # a statement of its own: it sees what we may have waited for


async def read_versions(connection: Connection, table: Table, stage: Stage, keys: Iterable[Key]) -> dict[Key, Version]:
    """The versions that are there, as they are now."""
    with translated():
        await stage.load_keys(connection, keys)
    return await _versions(connection, table, stage)


async def _versions(connection: Connection, table: Table, stage: Stage) -> dict[Key, Version]:
    name = identifier(table.name.schema, table.name.table)
    with translated():
        cursor = await connection.execute(
            sql.SQL(
                'SELECT {}, c."timestamp", coalesce(c.roident, 0)::int8, {} FROM {} AS s JOIN {} AS t ON {}, '
                "LATERAL pg_xact_commit_timestamp_origin(t.xmin) AS c"
            ).format(key_of_row(table, "s"), sql.SQL(REWRITTEN), stage.keys, name, same_key(table))
        )
        return {
            read_key(table, row[:-3]): Version(at=row[-3], origin=row[-2], rewritten=row[-1])
            for row in await cursor.fetchall()
        }


async def deleted_rows(connection: Connection, table: Table, stage: Stage, keys: Iterable[Key]) -> dict[Key, datetime]:
    """Which of these keys the application has deleted, and when last."""
    same = sql.SQL(" AND ").join([
        equal(
            identifier("s", each.name),
            read(sql.SQL("d.row_key ->> {}").format(sql.Literal(place)), each),
            each.operators,
        )
        for place, each in enumerate(table.key_columns)
    ])  # fmt: skip
    with translated():
        cursor = await connection.execute(
            "SELECT EXISTS (SELECT FROM _replicator.deleted WHERE table_schema = %s AND table_name = %s)",
            (table.name.schema, table.name.table),
        )
        if await cursor.fetchone() == (False,):
            return {}
        await stage.load_keys(connection, keys)
        cursor = await connection.execute(
            sql.SQL(
                "SELECT {}, max(pg_xact_commit_timestamp(d.xmin)) FROM {} AS s JOIN _replicator.deleted AS d "
                "ON d.table_schema = {} AND d.table_name = {} AND (d.row_key IS NULL OR {}) GROUP BY {}"
            ).format(
                key_of_row(table, "s"),
                stage.keys,
                sql.Literal(table.name.schema),
                sql.Literal(table.name.table),
                same,
                comma([sql.SQL("s.{}").format(identifier(each)) for each in table.key]),
            )
        )
        return {read_key(table, row[:-1]): row[-1] for row in await cursor.fetchall() if row[-1] is not None}


async def note_deletions(connection: Connection, written: Iterable[Table], read: Iterable[Table]) -> None:
    """Have the application's deletions noted, in the caller's transaction. Takes SHARE ROW EXCLUSIVE on each table.

    :param written: the tables that the daemon writes to on this side.
    :param read: those that it reads there: of others than ``written``, what a TRUNCATE of a partition deletes is noted.
    """
    known = {table.name: table for table in written}
    with translated():
        for table in known.values():
            changed = sql.SQL("NOT ({})").format(all_equal("old", "new", table.key_columns))
            await _register(connection, table, written=True)
            deleted, moved, _ = NOTES
            await _note(connection, table.name, deleted, sql.SQL("AFTER DELETE"), sql.SQL("ROW"))
            await _note(
                connection, table.name, moved, sql.SQL("AFTER UPDATE"), sql.SQL("ROW WHEN ({})").format(changed)
            )
            await _note(connection, table.name, EMPTIED, sql.SQL("AFTER TRUNCATE"), sql.SQL("STATEMENT"))
        for table in read:
            if table.name not in known:
                await _register(connection, table, written=False)
    await note_partitions(connection)


async def note_partitions(connection: Connection, seconds: float | None = None) -> list[Name]:
    """Have a TRUNCATE of a partition noted where it is not yet: on those that were made since. Gives these.

    Rows' triggers are cloned to new partitions, those of statements are not. Takes SHARE ROW EXCLUSIVE on each.

    :param seconds: how long it may wait for a lock; RetryableError after that.
    """
    with translated():
        cursor = await connection.execute(UNNOTED.encode(), {"trigger": EMPTIED}, prepare=False)
        found = [Name(schema=schema, table=table) for schema, table in await cursor.fetchall()]
    if found:
        with of_a_list():
            async with connection.transaction():
                if seconds is not None:
                    await limit_lock(connection, seconds)
                for name in found:
                    await _note(connection, name, EMPTIED, sql.SQL("BEFORE TRUNCATE"), sql.SQL("STATEMENT"))
    return found


async def _register(connection: Connection, table: Table, *, written: bool) -> None:
    """Tell the trigger's function which table it is, by what name, and what its key is."""
    quoted = identifier(table.name.schema, table.name.table).as_string(connection)
    images = list(dict.fromkeys((*table.key, *table.identity_columns)))
    await connection.execute(
        "INSERT INTO _replicator.noted (relation, table_schema, table_name, key_columns, image_columns, written) "
        "VALUES (%s::regclass::oid, %s, %s, %s, %s, %s) ON CONFLICT (relation) DO UPDATE SET table_schema = "
        "EXCLUDED.table_schema, table_name = EXCLUDED.table_name, key_columns = EXCLUDED.key_columns, "
        "image_columns = EXCLUDED.image_columns, written = EXCLUDED.written",
        (quoted, table.name.schema, table.name.table, list(table.key), images, written),
    )
    await let_make_partitions(connection, NOTE_DELETED, await oids_of(connection, [table.name]))


async def _note(
    connection: Connection, table: Name, trigger: str, event: sql.SQL, each: sql.SQL | sql.Composed
) -> None:
    name = identifier(table.schema, table.table)
    await connection.execute(
        sql.SQL("CREATE OR REPLACE TRIGGER {} {} ON {} FOR EACH {} EXECUTE FUNCTION _replicator.note_deleted()").format(
            identifier(trigger), event, name, each
        )
    )
    # ALWAYS: a session in replica mode must not slip by.
    await connection.execute(sql.SQL("ALTER TABLE {} ENABLE ALWAYS TRIGGER {}").format(name, identifier(trigger)))


async def forget_deletions(connection: Connection) -> None:
    """Forget what was noted; the triggers note nothing while only one side writes."""
    with translated():
        await connection.execute("DELETE FROM _replicator.deleted")
        await connection.execute("DELETE FROM _replicator.emptied")


async def foreign_triggers(connection: Connection, tables: Iterable[Name]) -> list[str]:
    """Triggers and rules of others on these tables, also those that rest until the application writes there."""
    quoted = [identifier(name.schema, name.table).as_string(connection) for name in tables]
    if not quoted:
        return []
    with translated():
        cursor = await connection.execute(
            "SELECT t.tgname || ' on ' || t.tgrelid::regclass FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid "
            "WHERE t.tgrelid = ANY (%(tables)s::regclass[]) AND NOT t.tgisinternal AND (t.tgenabled <> 'D' "
            "OR EXISTS (SELECT FROM _replicator.resting r WHERE r.trigger = t.oid AND r.was <> 'D')) "
            "AND p.pronamespace <> '_replicator'::regnamespace UNION ALL "
            "SELECT rulename || ' on ' || ev_class::regclass FROM pg_rewrite "
            "WHERE ev_class = ANY (%(tables)s::regclass[]) AND ev_enabled <> 'D' ORDER BY 1",
            {"tables": quoted},
        )
        return [row[0] for row in await cursor.fetchall()]


async def emptied_rows(connection: Connection, partition: RelationName, at: datetime) -> list[Image] | None:
    """What the log would have told of the rows that a TRUNCATE of a partition has deleted; None if nothing noted it.

    :param at: when that was committed, as the log has it. It must be visible already.
    """
    with translated():
        cursor = await connection.execute(
            "SELECT image::text FROM _replicator.emptied WHERE (partition_schema, partition_name) = (%s, %s) "
            "AND pg_xact_commit_timestamp(xmin) = %s::timestamptz",
            (*partition, at.isoformat()),
        )
        found = await cursor.fetchall()
    complete = (None,) in found
    return [json.loads(text) for (text,) in found if text is not None] if complete else None
