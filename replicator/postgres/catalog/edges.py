"""Foreign keys between a table that is closed to the application and one that it goes on writing to.

Such a key fails the application's statements: a table that is kept in step is behind by a moment, so a row there may
still refer to one that the application deletes, or lack one that it refers to. So none stands. Those of the old tables
are set aside in the cutover's transaction and given back in the rollback's; one that leads to an old table is made
anew, to the table that takes its place.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Final

from psycopg import sql

from replicator.core.tables import Name
from replicator.errors import NotReadyError, RowError
from replicator.postgres.control.renamed_tables import read_places
from replicator.postgres.locking.locks import EVERYBODY, lock_more
from replicator.postgres.locking.trees import TREE
from replicator.postgres.session.connect import Connection, comma, identifier, of_a_list, translated
from replicator.postgres.session.server import fetch_plain

ACTIONS: Final = {"a": "NO ACTION", "r": "RESTRICT", "c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"}
"""As in pg_constraint.confdeltype."""

EDGES: Final = f"""{TREE}
    SELECT c.conname AS name, c.conrelid::int8 AS child, c.confrelid::int8 AS parent,
           c.conrelid IN (SELECT oid FROM tree) AS leaves,
           cn.nspname AS child_schema, child.relname AS child_table,
           pn.nspname AS parent_schema, parent.relname AS parent_table,
           child.relkind = 'p' AS partitioned, pg_has_role(child.relowner, 'USAGE') AS owned,
           ARRAY(SELECT a.attname::text FROM unnest(c.conkey) WITH ORDINALITY k(num, place)
                 JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.num ORDER BY k.place) AS columns,
           ARRAY(SELECT a.attname::text FROM unnest(c.confkey) WITH ORDINALITY k(num, place)
                 JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.num ORDER BY k.place)
                 AS parent_columns,
           ARRAY(SELECT a.attname::text FROM jsonb_array_elements_text(
                     coalesce(nullif(to_jsonb(c) -> 'confdelsetcols', 'null'), '[]')) k(num)
                 JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.num::int2) AS set_columns,
           c.confmatchtype AS match, c.confupdtype AS on_update, c.confdeltype AS on_delete,
           c.condeferrable AS deferrable, c.condeferred AS deferred, c.convalidated AS valid,
           coalesce((to_jsonb(c) ->> 'conperiod')::boolean, false)
               OR NOT coalesce((to_jsonb(c) ->> 'conenforced')::boolean, true) AS odd
    FROM pg_constraint c
    JOIN pg_class child ON child.oid = c.conrelid JOIN pg_namespace cn ON cn.oid = child.relnamespace
    JOIN pg_class parent ON parent.oid = c.confrelid JOIN pg_namespace pn ON pn.oid = parent.relnamespace
    WHERE c.contype = 'f' AND c.conparentid = 0
      AND (c.conrelid IN (SELECT oid FROM tree)) <> (c.confrelid IN (SELECT oid FROM tree))
    ORDER BY cn.nspname, child.relname, c.conname
"""

# Where a foreign key can lead: a unique index of exactly these columns that holds for every row at once.
UNIQUE: Final = """
    SELECT EXISTS (
        SELECT FROM pg_index i WHERE i.indrelid = to_regclass(%(table)s) AND i.indisunique AND i.indimmediate
        AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
        AND i.indnkeyatts = cardinality(%(columns)s::text[])
        AND (SELECT array_agg(a.attname::text ORDER BY a.attname) FROM pg_attribute a
             WHERE a.attrelid = i.indrelid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]))
            = (SELECT array_agg(name ORDER BY name) FROM unnest(%(columns)s::text[]) name)
    ) AS found
"""


@dataclass(frozen=True, kw_only=True)
class Edge:
    """One foreign key, as in pg_constraint.

    ``leaves``: it is a closed table's own; else it is another's, and leads to a closed one. ``odd``: it has a form that
    cannot be made anew here (PERIOD, NOT ENFORCED).
    """

    name: str
    child: int
    parent: int
    leaves: bool
    child_schema: str
    child_table: str
    parent_schema: str
    parent_table: str
    partitioned: bool
    owned: bool
    columns: list[str]
    parent_columns: list[str]
    set_columns: list[str]
    match: str
    on_update: str
    on_delete: str
    deferrable: bool
    deferred: bool
    valid: bool
    odd: bool

    @property
    def child_name(self) -> Name:
        """The table that has it."""
        return Name(schema=self.child_schema, table=self.child_table)

    @property
    def parent_name(self) -> Name:
        """The table that it leads to."""
        return Name(schema=self.parent_schema, table=self.parent_table)

    def __str__(self) -> str:
        return f"{self.name} of {self.child_name} (to {self.parent_name})"

    def dropped(self) -> sql.Composed:
        """The statement that takes it away."""
        return sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(_table(self.child_name), identifier(self.name))

    def made(self, child: Name, parent: Name, *, valid: bool = False) -> sql.Composed:
        """The statement that makes it, between tables as they are called then."""
        text = "ALTER TABLE {} ADD CONSTRAINT {} FOREIGN KEY ({}) REFERENCES {} ({}){}{}"
        return sql.SQL(text).format(
            _table(child), identifier(self.name), _columns(self.columns), _table(parent),
            _columns(self.parent_columns), self._options(), sql.SQL("" if valid else " NOT VALID"),
        )  # fmt: skip

    def _options(self) -> sql.Composable:
        parts = [sql.SQL("MATCH FULL")] if self.match == "f" else []
        parts += [sql.SQL(f"ON UPDATE {ACTIONS[self.on_update]}")] if self.on_update != "a" else []
        if self.on_delete != "a":
            parts.append(sql.SQL(f"ON DELETE {ACTIONS[self.on_delete]}"))
        columns: list[sql.Composable] = [sql.SQL("({})").format(_columns(self.set_columns))] if self.set_columns else []
        waits = [sql.SQL("DEFERRABLE")] if self.deferrable else []
        waits += [sql.SQL("INITIALLY DEFERRED")] if self.deferred else []
        return sql.SQL("").join([sql.SQL(" ") + each for each in (*parts, *columns, *waits)])


@dataclass(frozen=True)
class Plan:
    """What becomes of the keys at the edge of the tables that close."""

    aside: list[Edge] = field(default_factory=list)
    """Those of closed tables: dropped until these are open again."""
    moved: list[tuple[Edge, Name]] = field(default_factory=list)
    """Those that lead to closed tables, and where each leads then."""
    stuck: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Those that cannot be treated so: why, and what to do."""


async def read_edges(connection: Connection, closing: Sequence[int]) -> list[Edge]:
    """The foreign keys between these tables, with all below them, and others."""
    return [Edge(**each) for each in await fetch_plain(connection, EDGES, oids=list(closing))]


async def stored_edges(connection: Connection) -> list[Edge]:
    """Those that a cutover has set aside."""
    rows = await fetch_plain(connection, "SELECT definition FROM _replicator.edges WHERE state = 'aside'")
    return [Edge(**each["definition"]) for each in rows]


async def plan_edges(
    connection: Connection, closing: Sequence[int], places: Mapping[int, int], *, together: bool
) -> Plan:
    """What is to become of the edges of these tables once they are closed.

    :param places: by table, the one that takes its place.
    :param together: both schemas are in this database.
    """
    plan = Plan()
    called = {now: name for name, now in (await read_places(connection)).moved.items()}
    for each in await read_edges(connection, closing):
        place = await name_of(connection, places.get(each.parent, 0))
        why = ""
        if not together:
            why = "the schemas are in two databases"
        elif not each.owned or each.odd:
            why = "its table is another role's" if not each.owned else "it is of a form that is not made anew here"
        elif each.leaves:
            plan.aside.append(each)
        elif place is None or not await _unique(connection, place, each.parent_columns):
            where = ", ".join(each.parent_columns)
            why = f"{place} has no unique index on {where}" if place else "no single new table takes the place"
        else:
            plan.moved.append((each, place))
        if why:
            plan.stuck[f"{each}: {why}"] = _by_hand(connection, each, called, together=together)
    return plan


def _by_hand(connection: Connection, each: Edge, called: Mapping[Name, Name], *, together: bool) -> tuple[str, ...]:
    drop = each.dropped().as_string(connection)
    if not together:
        return (f"Until the migration is over: {drop};",)
    child, parent = (called.get(name, name) for name in (each.child_name, each.parent_name))
    make = each.made(child, parent, valid=_whole(connection, each)).as_string(connection)
    return (f"In sql/cutover: {drop};", f"In sql/rollback: {make};")


async def settle_edges(
    connection: Connection,
    closing: Sequence[int],
    places: Mapping[int, int],
    seconds: float,
    observer: Connection,
    *,
    together: bool,
) -> Plan:
    """Do so, in the cutover's transaction, which holds the writers of these tables.

    :raises NotReadyError: one cannot be treated so.
    :raises LockedOutError: somebody uses a table that a key is of, or leads to.
    """
    plan = await plan_edges(connection, closing, places, together=together)
    if plan.stuck:
        raise NotReadyError(
            f"Statements of the application would fail at foreign keys: {'; '.join(plan.stuck)}. The writers went on.",
            "\n".join(line for lines in plan.stuck.values() for line in lines),
        )
    edges = [*plan.aside, *(each for each, _ in plan.moved)]
    await _lock(connection, edges, [place for _, place in plan.moved], seconds, observer)
    with of_a_list():
        for each in edges:
            await connection.execute(
                "INSERT INTO _replicator.edges VALUES (%s, %s, 'aside', %s) ON CONFLICT (relation, name, state) "
                "DO UPDATE SET definition = EXCLUDED.definition",
                (each.child, each.name, json.dumps(asdict(each))),
            )
            await connection.execute(each.dropped())
    for each, place in plan.moved:
        await _make(connection, each, each.child_name, place)
    return plan


async def give_edges_back(
    connection: Connection, closing: Sequence[int], seconds: float, observer: Connection
) -> list[str]:
    """In the rollback's transaction: drop what leads to the tables that close, or from there, and make the old ones.

    Gives those that are dropped and that no cutover has made. Raises LockedOutError as ``settle_edges``.
    """
    edges = await read_edges(connection, closing)
    stored = await stored_edges(connection)
    back = [(each, await name_of(connection, each.child), await name_of(connection, each.parent)) for each in stored]
    names = [name for _, child, parent in back for name in (child, parent) if name is not None]
    await _lock(connection, edges, names, seconds, observer)
    with of_a_list():
        for each in edges:
            await connection.execute(each.dropped())
        await connection.execute("DELETE FROM _replicator.edges")
    for each, child, parent in back:
        if child is not None and parent is not None:  # else a table is gone, and its keys with it
            await _make(connection, each, child, parent)
    ours = {(each.child, each.name) for each in stored}
    return [str(each) for each in edges if (each.child, each.name) not in ours]


async def _make(connection: Connection, each: Edge, child: Name, parent: Name) -> None:
    try:
        with translated():
            await connection.execute(each.made(child, parent, valid=_whole(connection, each)))
    except RowError as error:
        raise NotReadyError(
            f"Rows of {child} do not keep the foreign key {each.name} to {parent}. The writers went on.",
            "Correct the rows, or drop the key until the migration is over.",
        ) from error
    with translated():
        if each.valid and not _whole(connection, each):
            await connection.execute(
                "INSERT INTO _replicator.edges VALUES (%s, %s, 'unvalidated', '{}') ON CONFLICT DO NOTHING",
                (each.child, each.name),
            )


def _whole(connection: Connection, each: Edge) -> bool:
    """Of a partitioned table, Postgres before 18 makes none that is not valid: then it looks at the rows at once."""
    return each.partitioned and connection.info.server_version < 18_00_00


async def _lock(
    connection: Connection, edges: Sequence[Edge], more: Iterable[Name], seconds: float, observer: Connection
) -> None:
    names = dict.fromkeys([*(name for each in edges for name in (each.child_name, each.parent_name)), *more])
    await lock_more(connection, list(names), EVERYBODY, seconds, observer)


async def name_of(connection: Connection, oid: int) -> Name | None:
    """What a table is called now; None when it is gone."""
    found = await fetch_plain(
        connection,
        "SELECT n.nspname AS schema, c.relname AS table FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE c.oid = %(oid)s",
        oid=oid,
    )
    return Name(schema=found[0]["schema"], table=found[0]["table"]) if found else None


async def _unique(connection: Connection, table: Name, columns: Sequence[str]) -> bool:
    (row,) = await fetch_plain(connection, UNIQUE, table=_table(table).as_string(connection), columns=list(columns))
    return bool(row["found"])


def _table(name: Name) -> sql.Identifier:
    return identifier(name.schema, name.table)


def _columns(names: Sequence[str]) -> sql.Composable:
    return comma([identifier(each) for each in names])
