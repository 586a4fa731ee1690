"""What a pipeline must derive again, because both sides wrote the same rows at the same time: noted with the rows."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from replicator.core.lsn import LSN, parse_lsn
from replicator.core.tables import Key, decode_key, encode_key
from replicator.migration import Direction
from replicator.postgres.session.connect import Connection, translated


@dataclass(frozen=True, kw_only=True)
class Rederivation:
    """One thing to derive again."""

    pipeline: Direction
    what: Literal["row", "source"]
    """row: a row of a table that the pipeline reads; source: a key of one of its sources."""
    name: str
    key: Key
    dated: datetime
    """What is derived counts as written then."""
    lost: tuple[str, Key] | None = None
    """The opposite pipeline's source and its key whose change lost against the row."""
    claims: tuple[tuple[str, Key], ...] = ()
    """What the change that lost stands for on its own side: by transform of ``pipeline``, and target key."""
    confirms: bool = False
    """The opposite side has been written from the row that won: now that row must be what that side gives."""
    waits: bool = False
    """Not before the opposite pipeline has applied all that is in its source's log by now."""
    after: LSN | None = None
    """The position that this means. Filled when it is stored."""
    number: int = 0

    @property
    def confirmation(self) -> "Rederivation | None":
        """What the opposite pipeline must do once this is done."""
        if self.lost is None or self.confirms:
            return None
        return Rederivation(
            pipeline="reverse" if self.pipeline == "forward" else "forward",
            what="source",
            name=self.lost[0],
            key=self.lost[1],
            dated=self.dated,
            confirms=True,
        )


async def note_rederivations(connection: Connection, entries: Iterable[Rederivation]) -> None:
    """Store entries in the caller's transaction."""
    with translated():
        async with connection.cursor() as cursor:
            await cursor.executemany(
                "INSERT INTO _replicator.redo "
                "(pipeline, what, name, key, dated, confirms, after_lsn, lost_source, lost_key, "
                "claims) "
                "VALUES (%s, %s, %s, %s, %s, %s, CASE WHEN %s THEN pg_current_wal_insert_lsn() END, %s, %s, %s)",
                [
                    (
                        each.pipeline,
                        each.what,
                        each.name,
                        encode_key(each.key),
                        each.dated,
                        each.confirms,
                        each.waits,
                        each.lost and each.lost[0],
                        each.lost and encode_key(each.lost[1]),
                        json.dumps(each.claims),
                    )
                    for each in entries
                ],
            )


async def read_rederivations(connection: Connection, pipeline: Direction, limit: int = 5_000) -> list[Rederivation]:
    """The oldest entries of a pipeline."""
    with translated():
        cursor = await connection.execute(
            "SELECT id, what, name, key, dated, confirms, after_lsn::text, lost_source, lost_key, claims "
            "FROM _replicator.redo WHERE pipeline = %s ORDER BY id LIMIT %s",
            (pipeline, limit),
        )
        return [
            Rederivation(
                pipeline=pipeline,
                what=what,
                name=name,
                key=decode_key(key),
                dated=dated,
                confirms=confirms,
                lost=(lost_source, decode_key(lost_key)) if lost_source and lost_key else None,
                after=parse_lsn(after) if after else None,
                number=number,
                claims=tuple((transform, tuple(claimed)) for transform, claimed in claims),
            )
            for (
                number,
                what,
                name,
                key,
                dated,
                confirms,
                after,
                lost_source,
                lost_key,
                claims,
            ) in await cursor.fetchall()
        ]


async def strike_rederivations(connection: Connection, entries: Iterable[Rederivation]) -> None:
    """Strike what has been done; doing it twice does no harm."""
    with translated():
        await connection.execute(
            "DELETE FROM _replicator.redo WHERE id = ANY (%s)", ([each.number for each in entries],)
        )


async def clear_rederivations(connection: Connection) -> None:
    """Strike all."""
    with translated():
        await connection.execute("DELETE FROM _replicator.redo")
