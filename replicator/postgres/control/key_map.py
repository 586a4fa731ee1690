"""Which target keys each source key has produced, in the same transactions as the rows."""

from collections.abc import Iterable, Sequence

from replicator.core.tables import Key, decode_key, encode_key
from replicator.migration import Direction
from replicator.postgres.session.connect import Connection, translated

OF_SOURCES = (
    "pipeline = %(pipeline)s AND transform = %(transform)s AND pg_catalog.hashtextextended(source_key, 0) = ANY "
    "(ARRAY(SELECT pg_catalog.hashtextextended(k, 0) FROM pg_catalog.unnest(%(sources)s::text[]) AS k))"
)
"""By the index; another key may have the same hash. Of a join alone, the planner makes a scan of all that there is."""

OF_TARGETS = (
    "pipeline = %(pipeline)s AND transform = ANY (%(transforms)s::text[]) "
    "AND pg_catalog.hashtextextended(target_key, 0) = ANY "
    "(ARRAY(SELECT pg_catalog.hashtextextended(k, 0) FROM pg_catalog.unnest(%(targets)s::text[]) AS k))"
)
"""Likewise."""

Giver = tuple[str, Key]
"""A transform, and the key of the source row that it made a target row of."""


async def remembered(
    connection: Connection, pipeline: Direction, transform: str, source_keys: Iterable[Key] | None
) -> dict[Key, set[Key]]:
    """Which target keys each of these source keys (None: all) has produced."""
    wanted = None if source_keys is None else {encode_key(key): key for key in source_keys}
    condition = "pipeline = %(pipeline)s AND transform = %(transform)s" if wanted is None else OF_SOURCES
    found: dict[Key, set[Key]] = {}
    with translated():
        cursor = await connection.execute(
            f"SELECT source_key, target_key FROM _replicator.produced WHERE {condition}".encode(),
            {"pipeline": pipeline, "transform": transform, "sources": list(wanted or ())},
        )
        for source_key, target_key in await cursor.fetchall():
            key = decode_key(source_key) if wanted is None else wanted.get(source_key)
            if key is not None:
                found.setdefault(key, set()).add(decode_key(target_key))
    return found


async def givers(
    connection: Connection, pipeline: Direction, transforms: Sequence[str], target_keys: Iterable[Key]
) -> dict[Key, set[Giver]]:
    """By target key, what is remembered to have given it.

    :param transforms: those into one target.
    """
    wanted = {encode_key(key): key for key in target_keys}
    found: dict[Key, set[Giver]] = {}
    if not wanted:
        return found
    with translated():
        cursor = await connection.execute(
            f"SELECT target_key, transform, source_key FROM _replicator.produced WHERE {OF_TARGETS}".encode(),
            {"pipeline": pipeline, "transforms": list(transforms), "targets": list(wanted)},
        )
        for target_key, transform, source_key in await cursor.fetchall():
            if target_key in wanted:
                found.setdefault(wanted[target_key], set()).add((transform, decode_key(source_key)))
    return found


async def shared_targets(
    connection: Connection, pipeline: Direction, transforms: Sequence[str], most: int = 10_000
) -> dict[Key, list[tuple[str, Key]]]:
    """The target keys that several source keys have produced, with transform and source key of each.

    Reads all that these transforms have, which are those into one target.
    """
    with translated():
        cursor = await connection.execute(
            "SELECT target_key, array_agg(transform), array_agg(source_key) FROM _replicator.produced "
            "WHERE pipeline = %s AND transform = ANY (%s) GROUP BY target_key HAVING count(*) > 1 LIMIT %s",
            (pipeline, list(transforms), most),
        )
        return {
            decode_key(target_key): list(zip(names, map(decode_key, source_keys), strict=True))
            for target_key, names, source_keys in await cursor.fetchall()
        }


async def remember(
    connection: Connection, pipeline: Direction, transform: str, pairs: Iterable[tuple[Key, Key]]
) -> None:
    """Store that these source keys produced these target keys."""
    await _pairs(
        connection,
        f"WITH known AS MATERIALIZED (SELECT source_key, target_key FROM _replicator.produced WHERE {OF_SOURCES}) "
        "INSERT INTO _replicator.produced (pipeline, transform, source_key, target_key) "
        "SELECT %(pipeline)s, %(transform)s, s, t FROM ("
        "SELECT * FROM unnest(%(sources)s::text[], %(targets)s::text[]) EXCEPT SELECT * FROM known"
        ") AS k(s, t)",
        pipeline,
        transform,
        pairs,
    )


async def forget(connection: Connection, pipeline: Direction, transform: str, pairs: Iterable[tuple[Key, Key]]) -> None:
    """Store that they do so no longer."""
    await _pairs(
        connection,
        f"DELETE FROM _replicator.produced WHERE {OF_SOURCES} "
        "AND (source_key, target_key) IN "
        "(SELECT * FROM unnest(%(sources)s::text[], %(targets)s::text[]))",
        pipeline,
        transform,
        pairs,
    )


async def _pairs(
    connection: Connection, statement: str, pipeline: str, transform: str, pairs: Iterable[tuple[Key, Key]]
) -> None:
    listed = list(pairs)
    if not listed:
        return
    values = {
        "pipeline": pipeline,
        "transform": transform,
        "sources": [encode_key(source) for source, _ in listed],
        "targets": [encode_key(target) for _, target in listed],
    }
    with translated():
        await connection.execute(statement.encode(), values)
