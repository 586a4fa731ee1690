"""The partitions of partitioned tables, at any depth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from replicator.core.tables import Name
from replicator.postgres.locking.trees import oids_by_name
from replicator.postgres.session.connect import Connection
from replicator.postgres.session.server import fetch_plain

PARTITIONS: Final = """
    WITH RECURSIVE tree AS (
        SELECT oid AS root, oid, 0 AS level FROM unnest(%(oids)s::oid[]) AS o (oid)
        UNION ALL
        SELECT t.root, i.inhrelid, t.level + 1 FROM tree t JOIN pg_inherits i ON i.inhparent = t.oid
    )
    SELECT t.root::int8 AS root, n.nspname AS schema, c.relname AS name, t.level, p.relname AS parent,
           pg_get_expr(c.relpartbound, c.oid) AS bound,
           CASE WHEN c.relkind = 'p' THEN pg_get_partkeydef(c.oid) END AS key
    FROM tree t JOIN pg_class c ON c.oid = t.oid AND c.relispartition AND c.relkind IN ('r', 'p')
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_inherits i ON i.inhrelid = t.oid JOIN pg_class p ON p.oid = i.inhparent
    WHERE t.level > 0 ORDER BY t.root, t.level, n.nspname, c.relname
"""


@dataclass(frozen=True, kw_only=True)
class Partition:
    """One partition: ``bound`` as in ``PARTITION OF ... bound``, ``key`` how it is itself partitioned, if it is."""

    name: Name
    parent: str
    """The name of the table above it, without its schema."""
    level: int
    """1 for a partition of the table itself."""
    bound: str
    key: str | None

    @property
    def is_default(self) -> bool:
        """Whether it takes the rows that no other one takes."""
        return self.bound == "DEFAULT"


async def read_partitions(
    connection: Connection, schema: str, tables: Sequence[str]
) -> Mapping[str, Sequence[Partition]]:
    """The partitions of each of these tables, parents before their children; empty for a table without any."""
    oids = await oids_by_name(connection, [Name(schema=schema, table=each) for each in tables])
    found: dict[int, list[Partition]] = {oid: [] for oid in oids.values()}
    for row in await fetch_plain(connection, PARTITIONS, oids=list(oids.values())):
        name = Name(schema=row["schema"], table=row["name"])
        found[row["root"]].append(
            Partition(name=name, parent=row["parent"], level=row["level"], bound=row["bound"], key=row["key"])
        )
    return {name.table: found[oid] for name, oid in oids.items()}
