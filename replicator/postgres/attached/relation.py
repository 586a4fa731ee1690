"""What a table has once: owner, storage parameters, row security, replica identity, clustering, partition key."""

from collections.abc import Iterator
from typing import Any, Final

from replicator.postgres.attached.deparsed import alter, options
from replicator.postgres.attached.item import Attached, Own

TABLES: Final = """
    SELECT c.oid::int8 AS oid, c.relname AS name, n.nspname AS schema, c.relkind = 'p' AS partitioned,
           quote_ident(pg_get_userbyid(c.relowner)) AS owner,
           CASE WHEN c.relkind = 'p' THEN pg_get_partkeydef(c.oid) END AS partition_key,
           coalesce(c.reloptions, '{}') AS options, coalesce(toast.reloptions, '{}') AS toast_options,
           c.relrowsecurity AS secured, c.relforcerowsecurity AS forced, c.relreplident::text AS identity,
           quote_ident(s.spcname) AS space,
           (SELECT quote_ident(i.relname) FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
            WHERE x.indrelid = c.oid AND x.indisreplident) AS identity_index,
           (SELECT quote_ident(i.relname) FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
            WHERE x.indrelid = c.oid AND x.indisclustered) AS clustered
    FROM unnest(%(oids)s::oid[]) AS o (oid) JOIN pg_class c ON c.oid = o.oid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_class toast ON toast.oid = c.reltoastrelid
    LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace
"""


def of_table(row: dict[str, Any]) -> Iterator[tuple[int, Attached]]:
    """What one row of ``TABLES`` says, with the table's oid."""
    for each in _of_table(row):
        yield row["oid"], each


def _of_table(row: dict[str, Any]) -> Iterator[Attached]:
    if row["partition_key"]:
        yield Attached(kind="partition key", fragment=(f"PARTITION BY {row['partition_key']}",))
    if row["space"]:
        yield Attached(kind="tablespace", statements=(alter(f"SET TABLESPACE {row['space']}"),))
    parameters = [*options(row["options"]), *options(row["toast_options"], "toast.")]
    if parameters:
        text = f"({', '.join(parameters)})"
        yield Attached(kind="storage parameters", statements=(alter(f"SET {text}"),), fragment=(f"WITH {text}",))
    if row["secured"]:
        yield Attached(kind="row security", name="enabled", statements=(alter("ENABLE ROW LEVEL SECURITY"),))
    if row["forced"]:
        yield Attached(kind="row security", name="forced", statements=(alter("FORCE ROW LEVEL SECURITY"),))
    identity = {"f": "FULL", "n": "NOTHING", "i": f"USING INDEX {row['identity_index']}"}.get(row["identity"])
    if identity and not (row["identity"] == "i" and row["identity_index"] is None):
        yield Attached(kind="replica identity", statements=(alter(f"REPLICA IDENTITY {identity}"),))
    if row["clustered"]:
        yield Attached(kind="clustering", statements=(alter(f"CLUSTER ON {row['clustered']}"),))
    yield Attached(
        kind="owner", name=row["owner"], statements=(("ALTER TABLE ", Own.TABLE, f" OWNER TO {row['owner']}"),)
    )
