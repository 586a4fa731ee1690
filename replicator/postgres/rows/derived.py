"""``f`` for many rows: each target key in the form that the target's own equality has."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from replicator.core.pace import Pace
from replicator.core.tables import Column, Key, Row
from replicator.errors import TransformError
from replicator.mapping.derive import TargetRow, computed_key, derive, no_key, other_key
from replicator.mapping.plan import PlannedTransform, Source
from replicator.postgres.rows.given import GivenColumns
from replicator.postgres.rows.keys import Asked, ask_keys
from replicator.postgres.session.connect import Connection


@dataclass(slots=True)
class Derived:
    """What one source key gives."""

    rows: list[TargetRow] = field(default_factory=list)
    error: TransformError | None = None
    """Why nothing can be said."""
    gone: Key | None = None
    """The target key that follows from the source key, where there must be no row of it."""


async def derive_all(
    connection: Connection,
    transform: PlannedTransform,
    source: Source,
    rows: Mapping[Key, Row | None],
    given: GivenColumns,
) -> dict[Key, Derived]:
    """Run a transform on rows; None stands for a row that is gone.

    :param connection: leads to the target.
    :param given: the columns that rows of the target are given.
    :raises MigrationError: as ``derive``.
    """
    found: dict[Key, Derived] = {}
    pace = Pace()
    for key, row in rows.items():
        await pace.step()
        found[key] = _derived(transform, source, key, row)
    await _completed(connection, transform, found, given)
    await _in_form(connection, transform, found)
    return found


async def _completed(
    connection: Connection, transform: PlannedTransform, found: Mapping[Key, Derived], given: GivenColumns
) -> None:
    """What a row leaves out and others give is its default, for whoever writes or compares it."""
    table = transform.target
    rows = iter(await given.complete(connection, table, (row for each in found.values() for row in each.rows)))
    for each in found.values():
        completed = [next(rows) for _ in each.rows]
        each.rows = [row for row in completed if not isinstance(row, TransformError)]
        each.error = each.error or next((row for row in completed if isinstance(row, TransformError)), None)
        if each.error is not None:
            each.rows = []


async def computed_keys(
    connection: Connection, transform: PlannedTransform, source: Source, keys: Iterable[Key]
) -> dict[Key, Key]:
    """The target keys that follow from source keys; those for which ``key=`` fails are left out."""
    found: dict[Key, Derived] = {}
    for key in keys:
        try:
            found[key] = Derived(gone=computed_key(transform, source, key))
        except TransformError:
            continue
    await _in_form(connection, transform, found)
    return {key: each.gone for key, each in found.items() if each.gone is not None}


def _derived(transform: PlannedTransform, source: Source, key: Key, row: Row | None) -> Derived:
    try:
        rows = [] if row is None else derive(transform, source, key, row)
    except TransformError as error:
        return Derived(error=error)
    return Derived(rows, gone=None if rows or transform.remembers else _gone(transform, source, key))


def _gone(transform: PlannedTransform, source: Source, key: Key) -> Key | None:
    """None where ``key=`` fails: under that source key no row can have been written, and none is to be deleted.

    Else a bad row would stay in quarantine when it is gone, and a row that gives nothing would go there.
    """
    try:
        return computed_key(transform, source, key)
    except TransformError:
        return None


async def _in_form(connection: Connection, transform: PlannedTransform, found: Mapping[Key, Derived]) -> None:
    """Bring the keys to their form, where Python cannot: the target says which texts are one key."""
    table = transform.target
    columns = [table.by_name[name] for name in table.key]
    if not any(column.form.asked for column in columns):
        return
    rows = [row for each in found.values() for row in each.rows]
    spelt = {row.key for row in rows} | {row.claimed for row in rows if row.claimed is not None}
    asked = await ask_keys(connection, columns, spelt | {each.gone for each in found.values() if each.gone is not None})
    for key, each in found.items():
        each.gone = None if each.gone is None else asked.key_or_none(columns, each.gone)
        try:
            each.rows = [_row_in_form(transform, key, row, columns, asked) for row in each.rows]
        except ValueError:
            each.rows, each.error = [], no_key(transform, key)
        except TransformError as error:
            each.rows, each.error = [], error


def _row_in_form(
    transform: PlannedTransform, source_key: Key, row: TargetRow, columns: Sequence[Column], asked: Asked
) -> TargetRow:
    key = asked.key(columns, row.key)
    if row.claimed is not None and asked.key(columns, row.claimed) != key:
        raise other_key(transform, source_key, transform.target.key)
    return replace(row, key=key, claimed=None)
