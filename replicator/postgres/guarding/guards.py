"""Who may write to a side's tables. Closed, they take the daemon's writes only; open, the application's.

A table that the daemon writes to is closed, and the application's triggers on it rest; opening it gives them back.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from psycopg import sql

from replicator.core.tables import Name
from replicator.errors import ConnectionLostError
from replicator.migration import Migration
from replicator.postgres.control.control import Owner
from replicator.postgres.control.ownership import limit_lock
from replicator.postgres.control.trigger_names import GUARD, GUARD_ROWS, NOTES
from replicator.postgres.guarding.resting import awake, give_back, lay_to_rest
from replicator.postgres.locking.locks import EVERYBODY, lock_tables
from replicator.postgres.locking.trees import TREE, let_make_partitions, oids_of, oids_with
from replicator.postgres.rows.versions import NOTE_DELETED
from replicator.postgres.session.connect import Connection, identifier, of_a_list, translated

REFUSE_WRITE: Final = sql.SQL("_replicator.refuse_write()")

MEMBERS: Final = f"""{TREE}
    SELECT n.nspname, c.relname, (c.relkind = 'f')::int, c.relispartition::int, (s.on IS NOT NULL)::int,
           (r.on IS NOT NULL)::int, pg_has_role(c.relowner, 'USAGE')::int
    FROM tree t JOIN pg_class c ON c.oid = t.oid JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN (SELECT tgrelid, tgenabled = 'A' AND tgqual IS NOT NULL AS on FROM pg_trigger WHERE tgname = %(guard)s) s
        ON s.tgrelid = c.oid
    LEFT JOIN (SELECT tgrelid, tgenabled = 'A' AND tgqual IS NOT NULL AS on FROM pg_trigger WHERE tgname = %(rows)s) r
        ON r.tgrelid = c.oid
    WHERE NOT (%(lacking)s AND coalesce(s.on, false) AND coalesce(r.on, false))
    ORDER BY c.relispartition, 1, 2
"""


Told = tuple[str, str, str]
"""What the one who is refused is told by: the side of the table, the old schema, and where the new tables are."""


@dataclass(frozen=True)
class Member:
    """A table, a partition or a child; what guards it."""

    name: Name
    foreign: bool
    partition: bool
    """Its row guard is a clone."""
    has_guard: bool
    has_row_guard: bool
    owned: bool
    """The daemon acts for its owner, who alone may make triggers."""

    @property
    def refuses_rows(self) -> bool:
        """It is a partition, and lacks no more than what refuses TRUNCATE."""
        return self.partition and self.has_row_guard

    @property
    def table(self) -> sql.Identifier:
        """Its name for a statement."""
        return identifier(self.name.schema, self.name.table)


async def guard(
    connection: Connection, migration: Migration, side: Owner, tables: Iterable[Name], new: str | None = None
) -> None:
    """Refuse writes to these tables and all below them, save for the daemon's own; let others' triggers rest.

    In one transaction, the caller's if there is one. Takes SHARE ROW EXCLUSIVE on each.

    :param side: the schema that the tables are of; whoever is refused is told to write to the other one.
    :param new: where the new tables will be found, if not in their schema.
    """
    oids = await oids_of(connection, tables)
    told = (side, migration.old, new or migration.new)
    async with connection.transaction():
        with translated():
            await connection.execute(
                "INSERT INTO _replicator.closed (relation, side, old_schema, new_schema) "
                "SELECT oid, %s, %s, %s FROM pg_class WHERE oid = ANY (%s::oid[]) AND NOT relispartition "
                "ON CONFLICT (relation) DO UPDATE SET side = EXCLUDED.side, old_schema = EXCLUDED.old_schema, "
                "new_schema = EXCLUDED.new_schema",
                (*told, oids),
            )
        # In one transaction with the guards: else a trigger acts on the daemon's writes, or misses the application's.
        await lay_to_rest(connection, oids)  # guard: RESTING, RESTING_WITH_GUARDS
        await let_make_partitions(connection, REFUSE_WRITE, oids)
        await _refuse(connection, await _members(connection, oids), told)


async def guard_rest(connection: Connection, seconds: float, noted: Callable[[], None] = lambda: None) -> list[str]:
    """``guard`` what lacks it of all that is closed: partitions made since, a guard or a trigger switched by somebody.

    One cheap look when nothing does. Gives what was found, in words. What is closed cannot be opened meanwhile. Raises
    RetryableError when a lock takes longer.

    :param noted: is called when others may have written, while the lock still keeps them out and nobody else can see
        that all is closed again: after the commit, a cutover could come before it.
    """
    async with connection.transaction():
        await limit_lock(connection, seconds)
        # A table may have got another owner; of one that is open again, partitions get the guards that are off.
        await let_make_partitions(connection, REFUSE_WRITE, await oids_with(connection, GUARD_ROWS))
        await let_make_partitions(connection, NOTE_DELETED, await _noted(connection))
    if not await not_closed(connection):
        return []
    async with connection.transaction():
        await limit_lock(connection, seconds)
        closed = await _closed(connection, "FOR SHARE")
        found = [f"the trigger {each}" for each in await lay_to_rest(connection, [oid for oid, _ in closed])]
        stuck, open_to_others = False, bool(found)
        for told in dict.fromkeys(told for _, told in closed):
            members = await _members(connection, [oid for oid, each in closed if each == told], lacking=True)
            # Where it may not, the gate `ground` is shut (`ownership`): nothing else is to stay open because of that.
            lacking = [each for each in members if each.owned]
            await _refuse(connection, lacking, told)
            stuck = stuck or any(not each.owned for each in members)
            open_to_others = open_to_others or any(not each.refuses_rows for each in lacking)
            found += [f"writes to {each.name}" for each in lacking]
        # What stays open keeps the gate shut; it is no reason to compare all again and again. Nor is a new partition,
        # which has refused rows from the first: that it came, or was truncated, its table's definition tells.
        if open_to_others or not (found or stuck):
            noted()  # all rows are compared; later, a cutover could come first. guard: CLOSED_AGAIN, CLOSED_NOTED
    return found


async def not_closed(connection: Connection) -> list[str]:
    """What of all that is closed is not, in words: a guard that is missing or switched off, a trigger that is on."""
    oids = [oid for oid, _ in await _closed(connection)]
    lacking = [f"writes to {each.name}" for each in await _members(connection, oids, lacking=True)]
    return lacking + [f"the trigger {each}" for each in await awake(connection, oids)]


async def awake_on_both_sides(connection: Connection) -> list[str]:
    """The triggers of others on tables that the application and the daemon both write to now."""
    running = "SELECT FROM _replicator.ownership WHERE rolling_since IS NOT NULL"
    oids = await _noted(connection, f"WHERE written AND EXISTS ({running})")
    return await awake(connection, oids) if oids else []


async def open_to_writers(connection: Connection, tables: Iterable[Name]) -> None:
    """Switch the guards of these tables off, and give their triggers back, in one transaction.

    DROP TRIGGER would lock readers out, this does not.
    """
    oids = await oids_of(connection, tables)
    async with connection.transaction():
        with translated():
            await connection.execute("DELETE FROM _replicator.closed WHERE relation = ANY (%s::oid[])", (oids,))
        members = await _members(connection, oids)
        statements = [_switch(each, GUARD, "DISABLE", only=True) for each in members if each.has_guard]
        statements += [
            _switch(each, GUARD_ROWS, "DISABLE", only=False)
            for each in members
            if each.has_row_guard and not each.partition
        ]
        await _execute(connection, statements)
        await give_back(connection, oids)  # with the opening, or the first write misses them. guard: AWAKE_WITH_OPENING


async def guarded_tables(connection: Connection) -> list[Name]:
    """Every table of this database that carries a trigger of ours, switched on or off."""
    with translated():
        cursor = await connection.execute(
            "SELECT DISTINCT n.nspname, c.relname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid "
            "JOIN pg_namespace n ON n.oid = c.relnamespace WHERE t.tgname = ANY (%s) AND t.tgparentid = 0 "
            "AND t.tgfoid IN (SELECT oid FROM pg_proc WHERE pronamespace = to_regnamespace('_replicator')) "
            # Anybody may hang our function on a table of his own, a temporary one too, and give it our trigger's name.
            "AND c.relpersistence <> 't' AND pg_has_role(c.relowner, 'USAGE') ORDER BY 1, 2",
            ([GUARD, GUARD_ROWS, *NOTES],),
        )
        return [Name(schema=row[0], table=row[1]) for row in await cursor.fetchall()]


async def drop_guard(connection: Connection, table: Name, seconds: float, observer: Connection) -> None:
    """Take our triggers off a table for good. Locks readers out for a moment; raises LockedOutError if it must wait."""
    quoted = identifier(table.schema, table.table)
    with translated():
        async with connection.transaction():
            await lock_tables(connection, [table], EVERYBODY, seconds, observer)
            cursor = await connection.execute(  # a clone goes with what it was cloned from
                "SELECT tgname FROM pg_trigger "
                "WHERE tgrelid = to_regclass(%s) AND tgname = ANY (%s) AND tgparentid = 0 "
                "AND tgfoid IN (SELECT oid FROM pg_proc WHERE pronamespace = to_regnamespace('_replicator'))",
                (quoted.as_string(connection), [GUARD, GUARD_ROWS, *NOTES]),
            )
            for (trigger,) in await cursor.fetchall():
                await connection.execute(
                    sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(identifier(trigger), quoted)
                )  # fmt: skip


async def any_closed(connection: Connection) -> bool:
    """Whether some tables are noted as closed."""
    return bool(await _closed(connection))


async def forget_closed(connection: Connection) -> None:
    """Nothing is to be kept closed any more."""
    with translated():
        await connection.execute("DELETE FROM _replicator.closed")


async def _closed(connection: Connection, lock: str = "") -> list[tuple[int, Told]]:
    with translated():
        cursor = await connection.execute(
            f"SELECT relation::int8, side, old_schema, new_schema FROM _replicator.closed ORDER BY 1 {lock}".encode()
        )
        return [(int(row[0]), (row[1], row[2], row[3])) for row in await cursor.fetchall()]


async def _noted(connection: Connection, where: str = "") -> list[int]:
    with translated():
        cursor = await connection.execute(f"SELECT relation::int8 FROM _replicator.noted {where}".encode())
        return [int(row[0]) for row in await cursor.fetchall()]


async def _members(connection: Connection, oids: Sequence[int], *, lacking: bool = False) -> list[Member]:
    """These tables and all below them, parents first; or those that are not closed."""
    with translated():
        given = {"oids": list(oids), "guard": GUARD, "rows": GUARD_ROWS, "lacking": lacking}
        cursor = await connection.execute(MEMBERS.encode(), given, prepare=False)
        # A connection that returns text would return true for "f".
        return [
            Member(Name(schema=schema, table=table), *(bool(int(each)) for each in facts))
            for schema, table, *facts in await cursor.fetchall()
        ]  # fmt: skip


async def _refuse(connection: Connection, members: Sequence[Member], told: Told) -> None:
    """All statements go in one message: there may be thousands of partitions, and writers wait."""
    strangers = await _strangers(connection)
    function = sql.SQL("EXECUTE FUNCTION _replicator.refuse_write({})").format(
        sql.SQL(", ").join(map(sql.Literal, told))
    )
    statements = []
    for each in members:
        events = sql.SQL("INSERT OR UPDATE OR DELETE" if each.foreign else "INSERT OR UPDATE OR DELETE OR TRUNCATE")
        statements += [
            sql.SQL("CREATE OR REPLACE TRIGGER {} BEFORE {} ON {} FOR EACH STATEMENT WHEN ({}) {}").format(
                identifier(GUARD), events, each.table, strangers, function
            ),
            _switch(each, GUARD, "ENABLE ALWAYS", only=True),
        ]
        if each.partition and each.has_row_guard:
            statements.append(_switch(each, GUARD_ROWS, "ENABLE ALWAYS", only=True))
        elif not each.partition:
            statements += [
                sql.SQL(
                    "CREATE OR REPLACE TRIGGER {} BEFORE INSERT OR UPDATE OR DELETE ON {} FOR EACH ROW WHEN ({}) {}"
                ).format(identifier(GUARD_ROWS), each.table, strangers, function),
                # ALWAYS: a session in replica mode must not slip by, nor a subscription.
                _switch(each, GUARD_ROWS, "ENABLE ALWAYS", only=False),
            ]
    await _execute(connection, statements)


async def _strangers(connection: Connection) -> sql.SQL:
    """The condition under which a session is not the daemon's: its role is no member of ours, or has not the pass.

    It stands in the catalogue, where anybody can read it: so it holds the pass's hash. No row is read: an old snapshot
    might not see it.
    """
    with translated():
        cursor = await connection.execute(
            "SELECT n.nspowner::int8, encode(sha256(convert_to(s.pass, 'UTF8')), 'hex') "
            "FROM pg_namespace n, _replicator.secrets s WHERE n.nspname = '_replicator'"
        )
        row = await cursor.fetchone()
    if row is None:
        raise ConnectionLostError("The control tables are gone.", "Start the migration anew.")
    return sql.SQL(
        sql.SQL(
            "NOT coalesce(pg_has_role(session_user, {owner}::oid, 'MEMBER') AND sha256(convert_to("
            "current_setting('replicator.pass', true), 'UTF8')) = decode({digest}, 'hex'), false)"
        )
        .format(owner=sql.Literal(int(row[0])), digest=sql.Literal(row[1]))
        .as_string(connection)
    )


def _switch(member: Member, trigger: str, how: str, *, only: bool) -> sql.Composed:
    return sql.SQL("ALTER TABLE {}{} {} TRIGGER {}").format(
        sql.SQL("ONLY " if only else ""), member.table, sql.SQL(how), identifier(trigger)
    )


async def _execute(connection: Connection, statements: Sequence[sql.Composed]) -> None:
    if statements:
        with of_a_list():  # partitions may be dropped at any time
            await connection.execute(sql.SQL("; ").join(statements))
