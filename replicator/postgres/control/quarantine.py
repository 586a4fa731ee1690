"""Rows that a transform or the target refuses: kept on the pipeline's target, until they are resolved or discarded."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from psycopg.rows import dict_row

from replicator.core.tables import Key, decode_key, encode_key
from replicator.errors import RowError
from replicator.migration import Direction
from replicator.postgres.control.control import journal
from replicator.postgres.session.connect import Connection, translated

Place = tuple[str, Key]
"""A transform and a source key."""

PLACE = (
    "pipeline = %(pipeline)s AND transform = %(transform)s AND source_key = %(key)s "
    "AND pg_catalog.hashtextextended(source_key, 0) = pg_catalog.hashtextextended(%(key)s, 0)"
)

Before = tuple[Place, bool, str | None]
"""Whether a place stood, and the fingerprint with which it was discarded, before it was changed."""

State = Literal["standing", "discarded", "any"]

STATES: Mapping[State, str] = {
    "standing": "discarded_at IS NULL",
    "discarded": "discarded_at IS NOT NULL",
    "any": "true",
}


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A source row that a transform or the target refused. ``error`` holds no value of the row."""

    transform: str
    source: str
    source_key: Key
    error: str
    fingerprint: str
    """Of the row that was refused (``tables.fingerprint``)."""

    @property
    def place(self) -> Place:
        """Which entry it is."""
        return self.transform, self.source_key


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One row in quarantine. The last three are None while it stands."""

    id: int
    pipeline: Direction
    transform: str
    source: str
    source_key: Key
    error: str
    since: datetime
    tried_at: datetime
    attempts: int
    discarded_at: datetime | None
    discarded_by: str | None
    because: str | None


class Quarantine:
    """One pipeline's entries: in memory their places, in ``_replicator.quarantine`` all of it.

    An entry *stands* until a later version of its row is good, or until the operator discards it. A discarded entry
    stays as long as its row is the one that was refused; another version of the row that is refused stands again.
    """

    def __init__(self, pipeline: Direction) -> None:
        self._pipeline = pipeline
        self.standing: set[Place] = set()
        self.discarded: dict[Place, str] = {}
        """With the fingerprint of the row."""
        self._before: dict[Connection, list[Before]] = {}
        """By connection with an open transaction, what its changes have changed: so that they can be undone."""

    def __contains__(self, place: Place) -> bool:
        return place in self.standing or place in self.discarded

    def keys_of(self, transforms: Collection[str]) -> set[Key]:
        """The source keys of all entries of these transforms."""
        return {key for places in (self.standing, self.discarded) for name, key in places if name in transforms}

    def heeded(self, failures: Iterable[Failure]) -> list[Failure]:
        """The failures without those of rows that were discarded just as they are."""
        return [each for each in failures if self.discarded.get(each.place) != each.fingerprint]

    # ---- memory goes with the table: what a transaction has changed is undone with it

    def begin(self, connection: Connection) -> None:
        """A transaction begins that may be undone, as a whole or to a savepoint. The caller tells how it ends."""
        self._before[connection] = []

    def mark(self, connection: Connection) -> int:
        """Where it stands now, for ``undo``."""
        return len(self._before.get(connection, ()))

    def undo(self, connection: Connection, mark: int = 0) -> None:
        """It has been rolled back to where it stood then; to its beginning, unless told otherwise."""
        changed = self._before.get(connection, [])
        while len(changed) > mark:
            place, stood, fingerprint = changed.pop()
            self._set(place, stands=stood, discarded=fingerprint)

    def end(self, connection: Connection) -> None:
        """It has been committed."""
        self._before.pop(connection, None)

    def _change(self, connection: Connection, place: Place, *, stands: bool) -> None:
        if connection in self._before:
            self._before[connection].append((place, place in self.standing, self.discarded.get(place)))
        self._set(place, stands=stands, discarded=None)

    def _set(self, place: Place, *, stands: bool, discarded: str | None) -> None:
        (self.standing.add if stands else self.standing.discard)(place)
        if discarded is None:
            self.discarded.pop(place, None)
        else:
            self.discarded[place] = discarded

    async def open(self, connection: Connection, transforms: Collection[str]) -> None:
        """Strike the entries of transforms that the migration has no longer, then ``load``."""
        with translated():
            cursor = await connection.execute(
                "DELETE FROM _replicator.quarantine WHERE pipeline = %s AND transform <> ALL (%s)",
                (self._pipeline, list(transforms)),
            )
        if cursor.rowcount:
            await journal(connection, "transforms gone", {"pipeline": self._pipeline, "entries": cursor.rowcount})
        await self.load(connection)

    async def load(self, connection: Connection) -> None:
        """Read the places."""
        with translated():
            cursor = await connection.execute(
                "SELECT transform, source_key, fingerprint, discarded_at IS NULL FROM _replicator.quarantine "
                "WHERE pipeline = %s",
                (self._pipeline,),
            )
            rows = await cursor.fetchall()
        self.standing = {(transform, decode_key(key)) for transform, key, _, stands in rows if stands}
        self.discarded = {(transform, decode_key(key)): mark for transform, key, mark, stands in rows if not stands}

    async def keep(self, connection: Connection, failures: Iterable[Failure]) -> None:
        """Keep failures, which stand from now on; one that is there already counts another attempt."""
        with translated():
            for each in failures:
                await connection.execute(
                    "WITH tried AS (UPDATE _replicator.quarantine AS q SET error = %(error)s, "
                    "fingerprint = %(fingerprint)s, tried_at = now(), "
                    # a row may be tried several times in one transaction: that is one attempt
                    "attempts = q.attempts + (q.tried_at < now())::integer, "
                    f"discarded_at = NULL, discarded_by = NULL, because = NULL WHERE {PLACE} RETURNING q.id) "
                    "INSERT INTO _replicator.quarantine (pipeline, transform, source, source_key, error, fingerprint) "
                    "SELECT %(pipeline)s, %(transform)s, %(source)s, %(key)s, %(error)s, %(fingerprint)s "
                    "WHERE NOT EXISTS (SELECT FROM tried)".encode(),
                    {**self._place(each.place), "source": each.source, "error": _storable(each.error),
                     "fingerprint": each.fingerprint},
                )  # fmt: skip
                self._change(connection, each.place, stands=True)

    async def release(self, connection: Connection, places: Iterable[Place]) -> None:
        """Strike entries that a later good version of the row has resolved."""
        with translated():
            for place in places:
                await connection.execute(
                    f"DELETE FROM _replicator.quarantine WHERE {PLACE}".encode(), self._place(place)
                )
                self._change(connection, place, stands=False)

    def _place(self, place: Place) -> dict[str, object]:
        return {"pipeline": self._pipeline, "transform": place[0], "key": encode_key(place[1])}

    async def discard(self, connection: Connection, ids: Collection[int], *, by: str, because: str) -> list[Entry]:
        """Discard entries that stand, and enter it into the journal; gives them.

        :param because: the reason, in the operator's words.
        """
        with translated():
            await connection.execute(
                "UPDATE _replicator.quarantine SET discarded_at = clock_timestamp(), discarded_by = %s, because = %s "
                "WHERE pipeline = %s AND id = ANY (%s) AND discarded_at IS NULL",
                (by, because, self._pipeline, list(ids)),
            )
        found = await read_entries(connection, pipeline=self._pipeline, ids=ids)
        for each in found:
            details = {"entry": each.id, "transform": each.transform, "key": each.source_key, "because": because}
            await journal(connection, "discarded", {"pipeline": self._pipeline, **details, "by": by})
        return found


def _storable(error: str) -> str:
    """Without what no text in Postgres can hold: the name of an exception or of a column is the author's choice."""
    return error.replace("\0", "?").encode(errors="backslashreplace").decode()


def halted(failure: Failure) -> RowError:
    """What stops the daemon where nothing may be quarantined."""
    return RowError(
        f"{failure.transform} for {failure.source} {list(failure.source_key)}: {failure.error}",
        "REPLICATOR_ON_ERROR is halt, so nothing goes on without this row. Mend the transform and start again; or "
        "start with REPLICATOR_ON_ERROR=quarantine, and mend the row while the daemon runs.",
    )


async def read_entries(
    connection: Connection,
    *,
    pipeline: Direction | None = None,
    ids: Collection[int] | None = None,
    transform: str | None = None,
    key: Key | None = None,
    state: State = "any",
    limit: int | None = None,
) -> list[Entry]:
    """The entries that fulfil all that is given, oldest first."""
    where, parameters = _where(pipeline=pipeline, ids=ids, transform=transform, key=key, state=state)
    with translated():
        async with connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(
                "SELECT id, pipeline, transform, source, source_key, error, since, tried_at, attempts, discarded_at, "
                f"discarded_by, because FROM _replicator.quarantine WHERE {where} ORDER BY id LIMIT %(limit)s".encode(),
                {**parameters, "limit": limit},
            )
            return [
                Entry(**{**row, "source_key": decode_key(row["source_key"])}) for row in await cursor.fetchall()
            ]  # fmt: skip


async def count_entries(
    connection: Connection, *, pipeline: Direction | None = None, state: State = "any"
) -> Mapping[str, int]:
    """How many entries there are, by transform."""
    where, parameters = _where(pipeline=pipeline, state=state)
    with translated():
        cursor = await connection.execute(
            f"SELECT transform, count(*) FROM _replicator.quarantine WHERE {where} GROUP BY 1 ORDER BY 1".encode(),
            parameters,
        )
        return {transform: int(count) for transform, count in await cursor.fetchall()}


async def discarded_rows(connection: Connection, pipeline: Direction) -> dict[tuple[str, Key], str]:
    """The fingerprint of each discarded row, by source and source key. ``connection`` gives text."""
    with translated():
        cursor = await connection.execute(
            "SELECT source, source_key, fingerprint FROM _replicator.quarantine "
            "WHERE pipeline = %s AND discarded_at IS NOT NULL",
            (pipeline,),
        )
        return {(source, decode_key(key)): mark for source, key, mark in await cursor.fetchall()}


def _where(
    *,
    pipeline: Direction | None,
    state: State,
    ids: Collection[int] | None = None,
    transform: str | None = None,
    key: Key | None = None,
) -> tuple[str, dict[str, object]]:
    given = {
        "pipeline = %(pipeline)s": pipeline,
        "id = ANY (%(ids)s)": None if ids is None else list(ids),
        "transform = %(transform)s": transform,
        "source_key = %(key)s": None if key is None else encode_key(key),
    }
    conditions = [STATES[state], *(condition for condition, value in given.items() if value is not None)]
    names = ("pipeline", "ids", "transform", "key")
    return " AND ".join(conditions), dict(zip(names, given.values(), strict=True))
