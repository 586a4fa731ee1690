"""Reads all of it, in one query for each family of objects."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from replicator.core.tables import Name
from replicator.postgres.attached.columns import COLUMNS, SEQUENCES, of_columns
from replicator.postgres.attached.constraints import (
    CONSTRAINTS,
    INDEXES,
    STATISTICS,
    TARGETS,
    of_constraint,
    of_index,
    of_statistics,
    of_target,
)
from replicator.postgres.attached.item import Attached
from replicator.postgres.attached.relation import TABLES, of_table
from replicator.postgres.attached.rights import (
    COMMENTS,
    GRANTS,
    OF_SCHEMAS,
    PUBLICATIONS,
    of_comment,
    of_grant,
    of_publication,
)
from replicator.postgres.attached.triggers import (
    POLICIES,
    RESTING,
    RULES,
    STATE,
    TRIGGERS,
    of_policy,
    of_rule,
    of_trigger,
)
from replicator.postgres.control.owned import noted
from replicator.postgres.locking.trees import oids_by_name
from replicator.postgres.session.connect import Connection
from replicator.postgres.session.server import fetch_plain

FILTERS_SINCE = 15_00_00
"""Publications of some columns, some rows, and of schemas."""

RESTS = """
    SELECT coalesce(has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT'), false) AS rests
    FROM pg_namespace n JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = 'resting'
    WHERE n.nspname = '_replicator'
"""

Parse = Callable[[dict[str, Any]], Iterator[tuple[int, Attached]]]


async def attached(connection: Connection, schema: str, tables: Iterable[str]) -> Mapping[str, Sequence[Attached]]:
    """All that belongs to these tables of a schema, in an order in which it can be made.

    Tables that are not there are left out. The server's deparsers wait for whoever holds ACCESS EXCLUSIVE on one of
    the tables, and keep nobody but such a session waiting.

    :param connection: in the pinned ``search_path``, so that all names come with their schema.
    """
    oids = await oids_by_name(connection, [Name(schema=schema, table=each) for each in tables])
    return await attached_to(connection, {oid: name.table for name, oid in oids.items()})


async def attached_to(connection: Connection, oids: Mapping[int, str]) -> Mapping[str, Sequence[Attached]]:
    """Likewise, of tables by their oids; each is called as the mapping says."""
    found: dict[int, list[Attached]] = {oid: [] for oid in oids}
    given = {"oids": list(oids)}

    async def read(query: str, parse: Parse, **more: Any) -> None:
        for row in await fetch_plain(connection, query, **given, **more):
            for oid, item in parse(row):
                found[oid].append(item)

    columns, sequences = [await fetch_plain(connection, query, **given) for query in (COLUMNS, SEQUENCES)]
    for oid, item in of_columns(columns, sequences):
        found[oid].append(item)
    for query, parse in (
        (CONSTRAINTS, of_constraint), (INDEXES, of_index), (TARGETS, of_target), (STATISTICS, of_statistics),
    ):  # fmt: skip
        await read(query, parse)
    await read(TABLES, of_table)
    await read(TRIGGERS.replace("{state}", await _state(connection)), of_trigger)
    for query, parse in ((RULES, of_rule), (POLICIES, of_policy), (COMMENTS, of_comment), (GRANTS, of_grant)):
        await read(query, parse)
    ours = list(await noted(connection, "publication"))
    for query in _publications(connection):
        await read(query, of_publication, ours=ours)
    return {name: found[oid] for oid, name in oids.items()}


async def _state(connection: Connection) -> str:
    rows = await fetch_plain(connection, RESTS)
    return RESTING if rows and rows[0]["rests"] else STATE


def _publications(connection: Connection) -> Iterator[str]:
    filtered = connection.info.server_version >= FILTERS_SINCE
    condition = "pg_get_expr(r.prqual, r.prrelid)" if filtered else "NULL"
    yield PUBLICATIONS.format(condition=condition, columns="r.prattrs::int2[]" if filtered else "'{}'::int2[]")
    if filtered:
        yield OF_SCHEMAS.format()
