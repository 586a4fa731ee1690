"""Whether the catalogue has changed since it was last looked at: one query of milliseconds, however many partitions.

Each change of a catalogue's row makes another version of it, with another ``xmin``; the versions that went make the
count less. So two readings are equal exactly when no row that the looks read has changed between them, whatever has
changed and been changed back. What a server changes in place (statistics of VACUUM and ANALYZE) no look reads.

A look that reads a catalogue or a table which is not listed here would not be made when that changes: a test compares
the plans of all queries of the looks with these lists.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from replicator.postgres.session.connect import Connection, translated

# Temporary tables are left out: applications make and drop them all the time. One that inherits from a table shows in
# pg_inherits.
LASTING: Final = "NOT IN (SELECT oid FROM temporary)"
IN_NAMESPACES: Final = "NOT IN (SELECT oid FROM temporary_namespaces)"


def _of(relations: str, catalogue: str, condition: str) -> str:
    """The rows about each of these, by an index: else the planner may read all of a catalogue for a few of them."""
    return f"{relations} o CROSS JOIN LATERAL (SELECT xmin, ctid FROM {catalogue} WHERE {condition} OFFSET 0) v"


VERSIONED: Final[Mapping[str, str]] = {
    "pg_attrdef": f"pg_attrdef v WHERE v.adrelid {LASTING}",
    "pg_attribute": _of("tables", "pg_attribute", "attrelid = o.oid AND attnum > 0"),
    "pg_auth_members": "pg_auth_members v",
    "pg_cast": "pg_cast v",
    "pg_class": "pg_class v WHERE v.relpersistence <> 't'",
    "pg_collation": "pg_collation v",
    "pg_constraint": f"pg_constraint v WHERE v.conrelid {LASTING}",
    "pg_database": "pg_database v WHERE v.datname = current_database()",
    # Which sequences are whose; what one of our schemas holds; what is an extension's. All of it would be a hundred
    # thousand rows for some thousands of partitions.
    "pg_depend": _of("sequences", "pg_depend", "classid = 'pg_class'::regclass AND objid = o.oid"),
    "pg_depend of extensions": "pg_depend v WHERE v.refclassid = 'pg_extension'::regclass",
    "pg_depend of schemas": "pg_depend v WHERE v.refclassid = 'pg_namespace'::regclass "
    "AND v.refobjid IN (to_regnamespace('_replicator'), to_regnamespace('replicator'))",
    "pg_enum": "pg_enum v",
    "pg_index": f"pg_index v WHERE v.indrelid {LASTING}",
    "pg_inherits": "pg_inherits v",
    "pg_namespace": "pg_namespace v WHERE NOT starts_with(v.nspname::text, 'pg_temp_') "
    "AND NOT starts_with(v.nspname::text, 'pg_toast_temp_')",
    "pg_policy": f"pg_policy v WHERE v.polrelid {LASTING}",
    "pg_proc": f"pg_proc v WHERE v.pronamespace {IN_NAMESPACES}",
    "pg_publication": "pg_publication v",
    "pg_publication_rel": "pg_publication_rel v",
    "pg_range": "pg_range v",
    "pg_rewrite": f"pg_rewrite v WHERE v.ev_class {LASTING}",
    "pg_subscription_rel": "pg_subscription_rel v",
    "pg_trigger": f"pg_trigger v WHERE v.tgrelid {LASTING}",
    "pg_type": f"pg_type v WHERE v.typnamespace {IN_NAMESPACES}",
    "_replicator.closed": "_replicator.closed v",
    "_replicator.made": "_replicator.made v",
    "_replicator.noted": "_replicator.noted v",
    "_replicator.ownership": "_replicator.ownership v",
    "_replicator.renames": "_replicator.renames v",
    "_replicator.resting": "_replicator.resting v",
}
"""What is read by its rows' versions. Of each: what follows FROM, with the rows called ``v``."""

# Only a superuser may read the versions of these rows.
TOLD: Final[Mapping[str, str]] = {
    "pg_authid": "SELECT r.oid, r.rolname, r.rolsuper, r.rolinherit, r.rolbypassrls, r.rolcanlogin FROM pg_roles r",
    "pg_subscription": "SELECT s.oid, s.subdbid, s.subname, s.subowner FROM pg_subscription s",
}
"""What is read by what it says, of each row all that the looks read."""

READ: Final = frozenset(name.split()[0] for name in (*VERSIONED, *TOLD))
"""The tables that the looks may read."""

SINCE: Final = "(SELECT age(since) FROM bounds)"


def _query() -> str:
    young = f"age(v.xmin) <= {SINCE}"
    versions = [
        f"SELECT '{name}', count(*), "
        f"sum(hashtextextended(v.xmin::text || v.ctid::text, 0)) FILTER (WHERE {young}) FROM {source}"
        for name, source in VERSIONED.items()
    ]
    told = [
        f"SELECT '{name}', count(*), sum(hashtextextended(q::text, 0)) FROM ({query}) AS q"
        for name, query in TOLD.items()
    ]
    return f"""
        WITH bounds AS MATERIALIZED (
            SELECT coalesce(%(since)s::text::xid, pg_snapshot_xmin(pg_current_snapshot())::xid) AS since
        ), relations AS MATERIALIZED (
            SELECT oid, relnamespace, relpersistence, relkind FROM pg_class
            WHERE relpersistence = 't' OR relkind IN ('r', 'p', 'f', 'v', 'm', 'c', 'S') AND NOT relispartition
        ), temporary AS MATERIALIZED (
            SELECT oid FROM relations WHERE relpersistence = 't'
        ), temporary_namespaces AS MATERIALIZED (
            SELECT oid FROM pg_namespace WHERE starts_with(nspname::text, 'pg_temp_')
        ), tables AS MATERIALIZED (  -- what has columns of its own: a partition's are its root's, and change with them
            SELECT r.oid FROM relations r JOIN pg_namespace n ON n.oid = r.relnamespace
            WHERE r.relpersistence <> 't' AND r.relkind <> 'S' AND n.nspname NOT IN ('pg_catalog', 'information_schema')
        ), sequences AS MATERIALIZED (
            SELECT oid FROM relations WHERE relpersistence <> 't' AND relkind = 'S'
        )
        SELECT (SELECT since::text FROM bounds), string_agg(concat_ws(' ', name, rows, hash), ',')
        FROM ({" UNION ALL ".join(versions + told)}) AS g(name, rows, hash)
    """


GENERATION: Final = _query()
"""Of each catalogue: how many rows it has, and which of them are younger than ``since``.

None of the older ones can have appeared since then: each transaction before ``since`` had ended. So if their number is
the same, they are.
"""

LONGEST: Final = 60.0
"""Seconds after which a reading counts as another one in any case, whatever else a look may depend on."""


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One reading of one database."""

    since: str
    """The oldest transaction that ran then."""
    state: str


async def read_generation(connection: Connection, since: str | None = None) -> Generation:
    """What the catalogue is like; keeps nobody from any table, and waits for nobody.

    :param connection: in autocommit mode.
    :param since: of the reading that this one will be compared with.
    """
    with translated():
        cursor = await connection.execute(GENERATION.encode(), {"since": since})
        row = await cursor.fetchone()
    return Generation(since=str(row[0]), state=str(row[1])) if row else Generation(since="", state="")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Of all databases at once, to be settled when the look that it led to has been made."""

    connections: tuple[Connection, ...]
    generations: tuple[Generation, ...]
    inputs: tuple[object, ...]
    at: float


class Generations:
    """Of the databases that a look reads."""

    def __init__(self) -> None:
        self._known: Reading | None = None

    async def changed(self, connections: Sequence[Connection], inputs: Sequence[object] = ()) -> Reading | None:
        """What must be settled when the look has been made; None when nothing has changed since the last one.

        :param connections: those that are looked through. Another one counts as a change: it may lead to a server that
            was a standby, and has had another history.
        :param inputs: what else the look depends on, compared by identity.
        """
        known, each = self._known, tuple(dict.fromkeys(connections))
        if (
            known is not None
            and time.monotonic() - known.at < LONGEST
            and _same(known.connections, each)
            and _same(known.inputs, inputs)
        ):
            now = [await read_generation(c, g.since) for c, g in zip(each, known.generations, strict=True)]
            if all(a.state == b.state for a, b in zip(now, known.generations, strict=True)):
                return None
        at = time.monotonic()
        generations = tuple([await read_generation(connection) for connection in each])
        return Reading(connections=each, generations=generations, inputs=tuple(inputs), at=at)

    def settle(self, reading: Reading) -> None:
        """All that there was at this reading has been looked at since."""
        self._known = reading


def _same(some: Sequence[object], others: Sequence[object]) -> bool:
    return len(some) == len(others) and all(one is other for one, other in zip(some, others, strict=True))
